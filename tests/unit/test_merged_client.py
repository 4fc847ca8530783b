"""A client's WebSocket on a gate over several GPUs, on in-memory wires and a clock."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from twisted.internet.task import Clock

from comfygate.aliases import Aliases
from comfygate.errors import GateError
from comfygate.ledger import Ledger
from comfygate.model import BackendState, Job, JobState
from comfygate.queue import WaitingJobs
from comfygate.stream.roll import Roll
from tests.unit.bridging import Gate, Wire, frame, frames, status, text

ALIASES = Aliases(b"s" * 32)
FLAGS = {"type": "feature_flags", "data": {"supports_preview_metadata": True}}
ANSWER = {"type": "feature_flags", "data": {"max_upload_size": 1}}


class Hub(Gate):
    """A gate over several GPUs, and the ledger behind it."""

    def __init__(self, gpus: int = 2, **limits: Any) -> None:
        clock = Clock()
        self.ledger = Ledger(range(gpus), WaitingJobs(1000, 2**30))
        roll = Roll(self.ledger, ALIASES, clock.seconds, lambda: 1e9)
        self.ledger.subscribe(roll)
        self.sequence = 0
        super().__init__(clock, gpus, roll, **limits)

    def enter(self, target: bytes = b"/ws?clientId=me") -> tuple[Wire, list[Wire]]:
        """A client that all backends accept at once."""
        client = self.client(target)
        backends = [self.backend.accept() for _ in list(self.backend.dials)]
        assert client.written.startswith(b"HTTP/1.1 101 ")
        client.written = client.written.partition(b"\r\n\r\n")[2]
        return client, backends

    def accept(self, prompt_id: str, client_id: str = "me") -> Job:
        self.sequence += 1
        body = orjson.dumps({"prompt": {}, "client_id": ALIASES.inside(client_id)})
        job = Job(
            prompt_id=prompt_id,
            number=self.sequence,
            sequence=self.sequence,
            gate="hub",
            targets=frozenset({0, 1}),
            expected=0,
            client_id=client_id,
            submission=body,
        )
        self.ledger.accept(job)
        return job

    def run(self, prompt_id: str, gpu_id: int = 0, client_id: str = "me") -> None:
        job = self.accept(prompt_id, client_id)
        self.ledger.assign(prompt_id, gpu_id)
        self.ledger.hold(job, gpu_id, JobState.RUNNING)

    def settle(self) -> None:
        self.clock.advance(0)


def said(wire: Wire) -> list[Any]:
    """What came as messages."""
    return [
        payload if opcode == 2 else json.loads(payload) for opcode, payload in frames(wire.take()) if opcode in (1, 2)
    ]


def kinds(wire: Wire) -> list[str]:
    return [one["type"] for one in said(wire)]


def asked(wire: Wire) -> list[bytes]:
    return [payload for opcode, payload in frames(wire.take()) if opcode == 9]


def event(kind: str, **data: Any) -> bytes:
    return text({"type": kind, "data": data})


def hear(wire: Wire, *pieces: bytes) -> None:
    wire.protocol.dataReceived(b"".join(pieces))


def end(prompt_id: str) -> bytes:
    return event("execution_success", prompt_id=prompt_id) + event("executing", node=None, prompt_id=prompt_id)


def test_a_client_is_answered_when_all_backends_hear_it() -> None:
    hub = Hub()
    client = hub.client(b"/api/ws?x=1&clientId=me&clientId=other")
    first = hub.backend.accept(text({**status(7), "sid": "not told"}))
    assert client.take() == b""
    hub.backend.accept()
    assert client.take().startswith(b"HTTP/1.1 101 ")
    assert hub.places == [("127.0.0.1", 8188), ("127.0.0.1", 8189)]
    hub.bridges.close()
    assert first.written  # a close frame


def test_it_is_greeted_under_its_own_name_and_known_to_backends_by_another() -> None:
    hub = Hub()
    hub.status.number = 3
    client = hub.client(b"/ws?clientId=me")
    heads = []
    for _ in range(2):
        wire = hub.backend.take()
        heads.append(wire.written)
        hub.backend.shake(wire, text(status(1)))
    alias = ALIASES.inside("me").encode()
    assert all(b"clientId=" + alias in head and b"clientId=me" not in head for head in heads)
    client.written = client.written.partition(b"\r\n\r\n")[2]
    [greeting] = said(client)
    assert greeting["data"] == {"status": {"exec_info": {"queue_remaining": 3}}, "sid": "me"}


def test_a_client_without_an_id_is_given_one() -> None:
    hub = Hub()
    client, _ = hub.enter(b"/ws?clientId=")
    assert len(said(client)[0]["data"]["sid"]) == 32


def test_a_backend_that_hangs_costs_a_client_two_seconds() -> None:
    hub = Hub()
    client = hub.client()
    hub.backend.accept()
    hub.clock.advance(1.9)
    assert client.take() == b""
    hub.clock.advance(0.2)
    assert client.take().startswith(b"HTTP/1.1 101 ")


def test_a_gpu_that_is_down_is_not_waited_for_and_heard_as_soon_as_it_is_back() -> None:
    hub = Hub()
    hub.become(BackendState.DOWN, 1)
    client, [first] = hub.enter()
    assert not hub.sessions.returning(1)
    hub.become(BackendState.READY, 1)
    assert hub.sessions.returning(1)
    second = hub.backend.accept()
    assert hub.heard == 1
    hub.run("a", 1)
    said(client)
    hear(second, event("execution_start", prompt_id="a"))
    assert kinds(client) == ["execution_start"]
    hear(first, event("progress", prompt_id="b"))
    assert kinds(client) == []


def test_without_any_gpu_that_may_come_back_nobody_is_accepted_or_kept() -> None:
    hub = Hub()
    client, _ = hub.enter()
    hub.become(BackendState.FAILED, 0)
    assert frames(client.take())[-1][0] != 8
    hub.become(BackendState.FAILED, 1)
    assert frames(client.take())[-1] == (8, b"\x03\xf4GPUs 0, 1 failed to start too often")
    with pytest.raises(GateError):
        hub.client()


def test_its_own_prompts_are_told_and_nobody_elses() -> None:
    hub = Hub()
    me, _ = hub.enter()
    you, [backend, _] = hub.enter(b"/ws?clientId=you")
    hub.run("mine", 0)
    hub.run("yours", 1, "you")
    hub.settle()
    said(me), said(you)
    hear(
        backend,
        event("progress", prompt_id="mine"),
        frame(2, b"\0\0\0\1\0\0\0\1x"),
        event("progress", prompt_id="yours"),
    )
    assert kinds(you) == ["progress"]
    assert kinds(me) == []


def test_the_last_event_comes_when_the_history_can_be_read() -> None:
    hub = Hub()
    client, [backend, _] = hub.enter()
    hub.run("a")
    hub.settle()
    said(client)
    hear(backend, event("execution_start", prompt_id="a"), event("execution_success", prompt_id="a"))
    assert kinds(client) == ["execution_start"]
    assert hub.status.over == ["a"]  # which keeps it from being run again
    hear(backend, event("executing", node=None, prompt_id="a"))
    assert kinds(client) == ["execution_success", "status", "executing"]


def test_status_is_told_whenever_a_queue_has_changed_and_never_none_while_a_prompt_is_open() -> None:
    hub = Hub()
    client, [backend, _] = hub.enter()
    said(client)
    hub.run("a")
    hub.bridges.status_changed()
    hub.settle()
    assert [one["data"]["status"]["exec_info"]["queue_remaining"] for one in said(client)] == [1]  # though the sum is 0
    hub.bridges.status_changed()
    hub.settle()
    assert said(client) == []
    hub.status.number = 5
    hub.bridges.status_changed()
    hub.settle()
    assert [one["data"]["status"]["exec_info"]["queue_remaining"] for one in said(client)] == [5]
    hub.status.number = 0
    hear(backend, event("execution_start", prompt_id="a"), end("a"))
    told = said(client)
    assert [one["type"] for one in told] == ["execution_start", "execution_success", "status", "executing"]
    assert told[2]["data"]["status"]["exec_info"]["queue_remaining"] == 0


def test_two_at_once_are_told_one_after_the_other() -> None:
    hub = Hub()
    client, [one, two] = hub.enter()
    hub.run("a", 0)
    hub.run("b", 1)
    hub.settle()
    said(client)
    hear(one, event("execution_start", prompt_id="a"))
    hear(two, event("execution_start", prompt_id="b"), end("b"))
    hear(one, end("a"))
    ids = [each["data"]["prompt_id"] for each in said(client) if each["type"] != "status"]
    assert ids == ["a"] * 3 + ["b"] * 3


def test_between_prompts_with_pictures_is_a_moment() -> None:
    hub = Hub(3)
    client, [one, two, three] = hub.enter()
    for n, prompt_id in enumerate("abc"):
        hub.run(prompt_id, n)
    hub.settle()
    picture = frame(2, b"\0\0\0\1\0\0\0\2png")
    hear(one, event("execution_start", prompt_id="a"), picture)
    hear(two, event("execution_start", prompt_id="b"), picture, picture, end("b"))
    hear(three, event("execution_start", prompt_id="c"), end("c"))

    def told() -> list[str]:
        return ["picture" if isinstance(each, bytes) else each["type"] for each in said(client)]

    told()
    hear(one, end("a"))
    last = ["execution_success", "executing"]
    assert told() == last
    hear(one, event("custom", value=1))  # comes behind
    hub.clock.advance(0.05)
    assert told() == ["execution_start", "picture", "picture", *last]
    hub.clock.advance(0.05)
    assert told() == ["execution_start", *last, "custom", "status"]
    hub.run("d", 0)
    hub.settle()
    hear(one, event("execution_start", prompt_id="d"), picture, end("d"))
    assert [each for each in told() if each != "status"] == ["execution_start", "picture", *last]
    client.lost()
    assert not [call for call in hub.clock.getDelayedCalls() if "_go_on" in str(call)]


def test_features_are_negotiated_with_every_backend_and_answered_once() -> None:
    hub = Hub()
    hub.become(BackendState.DOWN, 1)
    client, [one] = hub.enter()
    said(client)
    hear(client, text(FLAGS, masked=True))
    assert said(one) == [FLAGS]
    hear(one, text(ANSWER))
    assert said(client) == [ANSWER]
    hub.become(BackendState.READY, 1)
    two = hub.backend.accept()
    assert said(two) == [FLAGS]
    hear(two, text(ANSWER))
    assert said(client) == []


def test_a_client_may_ask_for_several_at_once_which_comfyui_does_not_know() -> None:
    hub = Hub()
    client, [one, two] = hub.enter()
    said(client)
    hear(client, text({"type": "feature_flags", "data": {"a": 1, "supports_concurrent_prompts": True}}, masked=True))
    assert said(one) == said(two) == [{"type": "feature_flags", "data": {"a": 1}}]
    hear(two, text(ANSWER))
    assert said(client) == [
        {"type": "feature_flags", "data": {"max_upload_size": 1, "supports_concurrent_prompts": True}}
    ]
    hub.run("a", 0)
    hub.run("b", 1)
    hub.settle()
    said(client)
    hear(one, event("execution_start", prompt_id="a"))
    hear(two, event("execution_start", prompt_id="b"))
    assert [each["data"]["prompt_id"] for each in said(client)] == ["a", "b"]


def test_an_end_that_a_slow_socket_was_closed_over_is_told_to_the_one_before() -> None:
    hub = Hub(outbox=5_000)
    old, [one, _] = hub.enter()
    new, _ = hub.enter()
    hub.run("a")
    hub.settle()
    said(old)
    new.full = True
    hear(one, event("execution_start", prompt_id="a"), event("progress", prompt_id="a"))
    for _ in range(5):
        hear(one, event("custom", text="x" * 900))
    assert len(hub.bridges._listeners) == 1
    hear(one, event("execution_success", prompt_id="a"), event("executing", node=None, prompt_id="a"))
    hear(one, event("custom", text="x" * 900))
    assert [each["type"] for each in said(old) if each["type"] != "status"][:2] == ["execution_success", "executing"]


def test_feature_flags_without_end_are_none() -> None:
    hub = Hub()
    client, [one, two] = hub.enter()
    long = {"type": "feature_flags", "data": {"x": "y" * 65_000}}
    hear(client, text(long, masked=True))
    assert len(said(one)) == 1 and said(two) == []
    [listener] = hub.bridges._listeners.values()
    assert listener.first is None


def test_what_else_a_client_says_one_backend_is_told() -> None:
    hub = Hub()
    client, [one, two] = hub.enter()
    hear(client, text("hello", masked=True), text(FLAGS, masked=True))
    assert [payload for _, payload in frames(one.take())] == [b"hello", json.dumps(FLAGS).encode()]
    assert frames(two.take()) == []
    one.full = True
    for _ in range(3):
        hear(client, text("x" * 100, masked=True))
    assert len(frames(one.take())) == 1  # it takes no more, and nothing is kept
    assert client.reading


def test_a_new_socket_takes_over_without_dialling_and_the_old_one_is_served_again() -> None:
    hub = Hub()
    old, [one, _] = hub.enter()
    hub.run("a")
    hub.settle()
    hear(one, event("execution_start", prompt_id="a"), event("executing", node="3", prompt_id="a"))
    said(old)
    new, dialled = hub.enter()
    assert dialled == []
    assert [each["type"] for each in said(new)] == ["status", "executing"]
    hear(one, event("progress", prompt_id="a"))
    assert kinds(new) == ["progress"] and kinds(old) == []
    new.lost()
    hear(one, event("progress", prompt_id="a"))
    assert kinds(old) == ["executing", "progress"]
    old.lost()
    assert len(hub.bridges._listeners) == 0


def test_other_flags_of_a_new_socket_need_new_connections() -> None:
    hub = Hub()
    old, [one, two] = hub.enter()
    hear(old, text(FLAGS, masked=True))
    hear(one, text(ANSWER))
    said(old)
    new, _ = hub.enter()
    hear(new, text(FLAGS, masked=True))
    assert kinds(new) == ["status", "feature_flags"]  # as it was answered before
    newest, _ = hub.enter()
    other = {"type": "feature_flags", "data": {}}
    hear(newest, text(other, masked=True))
    assert hub.backend.dials == []
    for wire in (one, two):
        assert frames(wire.take())[-1][0] == 8
        hear(wire, frame(8, b"\x03\xe8"))
        wire.lost()
    three, four = hub.backend.accept(), hub.backend.accept()
    assert said(three) == said(four) == [other]
    hear(three, text(ANSWER))
    assert kinds(newest) == ["status", "feature_flags"]
    assert kinds(new) == []


def test_ends_that_a_half_open_socket_got_are_told_to_the_next() -> None:
    hub = Hub()
    old, [one, _] = hub.enter()
    hub.run("a")
    hub.settle()
    old.full = True  # nobody reads any more
    hear(one, event("execution_start", prompt_id="a"), end("a"))
    new, _ = hub.enter()
    told = [each["type"] for each in said(new)]
    assert told == ["status", "execution_success", "executing"]


def test_ends_that_were_read_are_not_told_again() -> None:
    hub = Hub()
    old, [one, _] = hub.enter()
    hub.run("a")
    hub.settle()
    hear(one, event("execution_start", prompt_id="a"), end("a"))
    [ping] = asked(old)
    hear(old, frame(10, b"forged", masked=True), frame(10, ping, masked=True))
    new, _ = hub.enter()
    assert kinds(new) == ["status"]


def test_ends_of_the_time_without_a_socket_are_told_once() -> None:
    hub = Hub()
    client, backends = hub.enter()
    hub.run("a")
    hub.run("b", 1)
    client.lost()
    for wire in backends:
        wire.lost()
    hub.ledger.end("a", JobState.DONE)
    record = orjson.dumps({"status": {"messages": [["execution_error", {"prompt_id": "b", "node_id": "4"}]]}})
    hub.ledger.end("b", JobState.FAILED, "no", record)
    hub.accept("c")
    hub.ledger.end("c", JobState.CANCELLED)  # of what has never run ComfyUI says nothing
    again, _ = hub.enter()
    told = said(again)
    assert [each["type"] for each in told] == [
        "status",
        "execution_success",
        "executing",
        "execution_error",
        "executing",
    ]
    assert told[3]["data"]["node_id"] == "4"
    assert {each["data"]["prompt_id"] for each in told[1:]} == {"a", "b"}
    stranger, _ = hub.enter(b"/ws?clientId=you")
    assert kinds(stranger) == ["status"]
    hub.clock.advance(0)


def test_an_end_that_its_comfyui_did_not_tell_comes_from_the_ledger() -> None:
    hub = Hub()
    client, [one, _] = hub.enter()
    hub.run("a")
    hub.settle()
    hear(one, event("execution_start", prompt_id="a"))
    said(client)
    hub.ledger.end("a", JobState.FAILED, "it died", told=False)
    hub.settle()
    told = [each for each in said(client) if each["type"] != "status"]
    assert [each["type"] for each in told] == ["execution_error", "executing"]
    assert told[0]["data"]["exception_message"] == "it died"


def test_a_prompt_that_runs_again_is_told_again() -> None:
    hub = Hub()
    client, [one, two] = hub.enter()
    hub.run("a")
    hub.settle()
    hear(one, event("execution_start", prompt_id="a"))
    hub.become(BackendState.DOWN, 0)
    hub.ledger.put_back("a", attempts=1)
    hub.settle()
    job = hub.ledger.assign("a", 1).job
    hub.ledger.hold(job, 1, JobState.RUNNING)
    hear(two, event("execution_start", prompt_id="a"), end("a"))
    told = [each["type"] for each in said(client) if each["type"] != "status"]
    assert told == ["execution_start", "execution_start", "execution_success", "executing"]


def test_a_gates_set_may_change_under_its_clients() -> None:
    hub = Hub(3)
    client, [one, two, three] = hub.enter()
    hub.run("a", 1)
    hub.settle()
    hub.bridges.serve([0], hub.status)
    assert frames(three.take())[-1][0] == 8
    assert two.closed is None  # it runs a prompt of the client
    said(client)
    hear(two, event("execution_start", prompt_id="a"), end("a"))
    told = [each["type"] for each in said(client) if each["type"] != "status"]
    assert told == ["execution_start", "execution_success", "executing"]
    hub.ledger.end("a", JobState.DONE)
    hub.settle()
    assert frames(two.take())[-1][0] == 8
    hub.bridges.serve([0, 2], hub.status)
    for wire in (two, three):
        hear(wire, frame(8, b"\x03\xe9"))
        wire.lost()
    hear(hub.backend.accept(), event("custom", value=1))
    assert "custom" in kinds(client)
    assert one.closed is None


def test_a_slow_client_gets_the_newest_status_and_is_closed_when_it_is_too_much() -> None:
    hub = Hub(outbox=10_000)
    client, [one, _] = hub.enter()
    hub.run("a")
    hub.settle()
    client.full = True
    hear(one, event("execution_start", prompt_id="a"))
    client.take()
    for n in range(1, 500):
        hub.status.number = n
        hub.bridges.status_changed()
        hub.settle()
    hear(one, event("executing", node="1", prompt_id="a"))
    client.drain()
    told = said(client)
    assert [each["type"] for each in told] == ["executing", "status"]
    assert told[-1]["data"]["status"]["exec_info"]["queue_remaining"] == 499
    client.full = True
    hear(one, event("executing", node="1", prompt_id="a"))
    for _ in range(20):
        hear(one, event("custom", text="x" * 1_000))
    client.drain()
    assert frames(client.take())[-1] == (8, b"\x03\xf5the client reads too slowly")
    assert hub.bridges._listeners == {}


def test_a_backend_that_never_accepts_is_given_up_and_without_any_other_so_is_the_client() -> None:
    hub = Hub()
    client = hub.client()
    hub.backend.accept()
    hub.backend.refuse()
    assert client.take().startswith(b"HTTP/1.1 101 ")
    for _ in range(40):
        hub.clock.pump([5.0])
        while hub.backend.dials:
            hub.backend.refuse()
    assert client.closed is None
    assert len(next(iter(hub.bridges._listeners.values()))._ears) == 1


def test_a_job_is_not_handed_to_a_gpu_that_its_client_is_about_to_hear() -> None:
    hub = Hub()
    hub.client(b"/ws?clientId=me")
    alias = ALIASES.inside("me")
    assert hub.sessions.dialling(0, alias) and hub.sessions.dialling(1, alias)
    assert not hub.sessions.dialling(0, "me")
    hub.backend.accept()
    assert hub.heard == 1
    assert not hub.sessions.dialling(0, alias) and hub.sessions.dialling(1, alias)
    hub.backend.refuse()
    assert hub.heard == 2
    assert not hub.sessions.dialling(1, alias)  # it is tried again, but not for ever waited for


def test_an_open_connection_keeps_little() -> None:
    hub = Hub()
    client, backends = hub.enter()
    for wire in (client, *backends):
        assert len(vars(wire.protocol)) < 40
        assert wire.protocol.maxMessagePayloadSize and wire.protocol.autoPingTimeout
    another = Hub(client_message=5)
    limited, _ = another.enter()
    assert (limited.protocol.maxMessagePayloadSize, client.protocol.maxMessagePayloadSize) == (5, 4 * 2**20)
    hear(limited, text("too long", masked=True))
    assert frames(limited.take())[-1][1][:2] == b"\x03\xf1"


def test_everything_ends_with_the_daemon() -> None:
    hub = Hub()
    client, backends = hub.enter()
    late = hub.client(b"/ws?clientId=late")
    closed = hub.bridges.close()
    assert frames(client.take())[-1] == (8, b"\x03\xf4the server is stopping")
    assert late.take().startswith(b"HTTP/1.1 503 ")
    hub.clock.advance(20)
    for wire in (client, late, *backends):
        if wire.closed != "gone":
            wire.lost()
    assert closed.called
    assert hub.nothing_left()
    assert hub.clock.getDelayedCalls() == []
