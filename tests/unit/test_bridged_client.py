"""What a client's WebSocket sees while its backend is away, and afterwards."""

import json
from typing import Any

import pytest
from twisted.internet.task import Clock

from comfygate.errors import GateError
from comfygate.gate.dialling import AT_ONCE, PATIENCE, STEADY
from comfygate.model import BackendState
from tests.unit.bridging import Gate, Wire, frames, status, text

DOWN, STARTING, READY, FAILED = (
    BackendState.DOWN,
    BackendState.STARTING,
    BackendState.READY,
    BackendState.FAILED,
)
FLAGS = '{"type": "feature_flags", "data": {"supports_preview_metadata": true}}'
FEATURES = '{"type": "feature_flags", "data": {"max_upload_size": 1}}'


def texts(wire: Wire) -> list[Any]:
    """What was sent since the last look: JSON, or a close frame's bytes."""
    sent = frames(wire.take())
    return [json.loads(payload) if opcode == 1 else payload for opcode, payload in sent]


def greeting(wire: Wire) -> Any:
    """The one message behind the answer to a handshake."""
    answer, _, rest = wire.take().partition(b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 101 "), answer
    ((_, payload),) = frames(rest)
    return json.loads(payload)


def first_status(remaining: int, sid: str) -> Any:
    return {"type": "status", "data": {**status(remaining)["data"], "sid": sid}}


def test_a_client_stays_and_hears_the_next_process(gate: Gate) -> None:
    client, backend = gate.open()
    backend.protocol.dataReceived(text(first_status(0, "a")))
    client.protocol.dataReceived(text(FLAGS, True))
    backend.protocol.dataReceived(text(FEATURES))
    assert [message["type"] for message in texts(client)] == ["status", "feature_flags"]
    backend.lost()
    gate.become(DOWN)
    gate.status.number = 3
    gate.bridges.status_changed()
    gate.clock.advance(0)
    assert texts(client) == [status(3)]
    client.protocol.dataReceived(text("held", True))
    gate.become(STARTING)
    gate.clock.advance(10)
    assert not gate.backend.dials

    gate.states[0].address = ("127.0.0.1", 9999)
    gate.become(READY)
    assert gate.places[-1] == ("127.0.0.1", 9999)
    second = gate.backend.take()
    request = second.written
    assert request.startswith(b"GET /ws?clientId=a HTTP/1.1\r\nHost: 127.0.0.1:9999\r\n")
    gate.backend.shake(second)
    assert [payload for _, payload in frames(second.take())] == [FLAGS.encode(), b"held"]
    event = {"type": "execution_start", "data": {"prompt_id": "p"}}
    second.protocol.dataReceived(text(first_status(3, "a")) + text(FEATURES) + text(event))
    # Negotiated again, but answered as before.
    assert texts(client) == [first_status(3, "a"), event]
    second.protocol.dataReceived(text(FEATURES.replace("1", "2")))
    assert texts(client) == [{"type": "feature_flags", "data": {"max_upload_size": 2}}]


def test_a_connection_that_is_lost_before_anybody_says_why(gate: Gate) -> None:
    client, backend = gate.open()
    backend.lost()
    assert texts(client) == [first_status(0, "a")]
    gate.clock.advance(0.9)
    assert not gate.backend.dials
    gate.clock.advance(0.2)
    gate.backend.accept(text("on"))
    assert frames(client.take()) == [(1, b"on")]
    assert gate.bridges.clients == 1


def test_a_connection_that_is_lost_just_before_its_backend(gate: Gate) -> None:
    _, backend = gate.open()
    backend.lost()
    gate.become(DOWN)
    gate.clock.advance(5)
    assert not gate.backend.dials
    gate.become(READY)
    assert len(gate.backend.dials) == 1


def test_a_backend_that_is_stopped_is_taken_leave_of(gate: Gate) -> None:
    client, backend = gate.open()
    gate.become(BackendState.STOPPING)
    assert frames(backend.take()) == [(8, b"\x03\xe9")]
    assert texts(client) == [first_status(0, "a")]
    backend.protocol.dataReceived(text("too late"))
    gate.become(READY)
    assert not gate.backend.dials  # the old leg is not gone yet
    backend.lost()
    gate.backend.accept(text("on"))
    assert frames(client.take()) == [(1, b"on")]


@pytest.mark.parametrize("state", [BackendState.STOPPED, STARTING, DOWN, BackendState.STOPPING])
def test_one_that_comes_while_the_backend_is_away_is_greeted(gate: Gate, state: BackendState) -> None:
    gate.become(state)
    gate.status.number = 2
    client = gate.client(rest=text(FLAGS, True) + text("2", True))
    assert greeting(client) == first_status(2, "a")
    assert not gate.backend.dials
    gate.become(READY)
    backend = gate.backend.accept(text("on"))
    assert frames(client.take()) == [(1, b"on")]
    assert [payload for _, payload in frames(backend.take())] == [FLAGS.encode(), b"2"]


def test_one_without_a_client_id_keeps_the_one_that_it_was_given(gate: Gate) -> None:
    gate.become(STARTING)
    client = gate.client(b"/ws")
    sid = greeting(client)["data"]["sid"]
    assert len(sid) == 32
    for _ in range(2):
        gate.become(READY)
        backend = gate.backend.take()
        assert backend.written.startswith(f"GET /ws?clientId={sid} HTTP/1.1\r\n".encode())
        gate.backend.shake(backend)
        gate.become(DOWN)
        backend.lost()


@pytest.mark.parametrize("answered", [False, True])
def test_one_that_comes_while_the_backend_dies_is_greeted(gate: Gate, answered: bool) -> None:
    client = gate.client()
    if answered:
        gate.backend.take().lost()
    else:
        gate.backend.refuse()
    assert greeting(client) == first_status(0, "a")
    gate.clock.advance(1)
    gate.backend.accept(text("on"))
    assert frames(client.take()) == [(1, b"on")]


def test_a_custom_nodes_client_does_not_wait(gate: Gate) -> None:
    client, _ = gate.open(b"/terminal")
    pending = gate.client(b"/terminal?2")
    gate.become(DOWN)
    assert frames(client.take()) == [(8, b"\x03\xf4backend restarting")]
    assert pending.take().startswith(b"HTTP/1.1 503 ")
    with pytest.raises(GateError) as refused:
        gate.client(b"/terminal")
    assert (refused.value.status, refused.value.type) == (503, "backend_down")


def test_one_whose_backend_is_given_up_is_told(gate: Gate) -> None:
    client, _ = gate.open()
    gate.become(DOWN)
    client.take()
    gate.become(FAILED)
    assert frames(client.take()) == [(8, b"\x03\xf4GPU 0 failed to start too often")]
    with pytest.raises(GateError) as refused:
        gate.client()
    assert (refused.value.type, refused.value.retry_after) == ("backend_down", 3.0)


def test_a_backend_that_is_ready_but_refuses(clock: Clock) -> None:
    gate = Gate(clock, ping_interval=1000.0)
    client, backend = gate.open()
    backend.lost()
    client.take()
    dialled = []
    while client.written == b"":
        clock.advance(0.5)
        if gate.backend.dials:
            dialled.append(clock.seconds())
            gate.backend.take().protocol.dataReceived(b"HTTP/1.1 500 Oh\r\n\r\n")
    assert dialled == [n * (n + 1) / 2 for n in range(1, 12)]  # after 1, 2, 3, … seconds
    assert dialled[-1] >= PATIENCE
    assert frames(client.take()) == [(8, b"\x03\xf4the backend does not accept the WebSocket")]
    client.lost()
    assert gate.nothing_left()
    assert not clock.getDelayedCalls()


def test_a_connection_that_was_steady_fails_for_the_first_time(clock: Clock) -> None:
    gate = Gate(clock, ping_interval=1000.0)
    client, backend = gate.open()
    for _ in range(20):
        clock.advance(STEADY)
        backend.lost()
        clock.advance(1)
        backend = gate.backend.accept()
    assert len(frames(client.take())) == 1


def test_a_reconnecting_client_is_the_one_that_is_served(gate: Gate) -> None:
    old, backend = gate.open()
    backend.lost()
    gate.become(DOWN)
    old.take()
    new = gate.client()
    assert greeting(new) == first_status(0, "a")
    old.protocol.dataReceived(text("nobody hears it", True))
    new.protocol.dataReceived(text("held", True))
    gate.become(READY)
    second = gate.backend.accept(text("on"))
    assert not gate.backend.dials
    assert [payload for _, payload in frames(second.take())] == [b"held"]
    assert (frames(new.take()), old.take()) == ([(1, b"on")], b"")


def test_the_older_is_served_if_the_newer_leaves_meanwhile(gate: Gate) -> None:
    old, backend = gate.open()
    backend.lost()
    gate.become(DOWN)
    old.take()
    new = gate.client()
    new.lost()
    old.protocol.dataReceived(text("held", True))
    gate.become(READY)
    second = gate.backend.accept(text("on"))
    assert [payload for _, payload in frames(second.take())] == [b"held"]
    assert frames(old.take()) == [(1, b"on")]


def test_one_that_comes_while_a_failure_is_waited_out_is_tried_at_once(gate: Gate) -> None:
    old, backend = gate.open()
    backend.lost()
    new = gate.client()
    gate.backend.accept(text("on"))
    assert new.take().startswith(b"HTTP/1.1 101 ")
    gate.clock.advance(5)
    assert not gate.backend.dials
    assert old.closed is None


def test_what_is_held_is_bounded(clock: Clock) -> None:
    gate = Gate(clock, held=1000)
    client, _ = gate.open()
    gate.become(DOWN)
    client.take()
    for _ in range(5):
        client.protocol.dataReceived(text("x" * 10, True))
    assert frames(client.take()) == [(8, b"\x03\xf0too much was sent before the backend accepted")]


def test_many_come_back_one_after_the_other(gate: Gate) -> None:
    gate.become(STARTING)
    clients = [gate.client(b"/ws?clientId=%d" % n) for n in range(400)]
    gate.become(READY)
    assert len(gate.backend.dials) == AT_ONCE
    assert gate.sessions.returning(0)
    served = []
    while gate.backend.dials:
        while gate.backend.dials:
            served.append(gate.backend.accept(text("on")))
        assert len(gate.backend.dials) <= AT_ONCE
        gate.clock.advance(0.01)
    assert len(served) == 400
    assert gate.clock.seconds() < 1
    assert all(client.take().endswith(b"\x81\x02on") for client in clients)
    assert not gate.sessions.returning(0)
    assert gate.heard == 1


def test_an_end_while_all_wait(gate: Gate) -> None:
    gate.become(DOWN)
    clients = [gate.client(b"/ws?clientId=%d" % n) for n in range(3)]
    for client in clients:
        client.take()
    gate.bridges.close()
    for client in clients:
        assert frames(client.take()) == [(8, b"\x03\xf4the server is stopping")]
        client.lost()
    assert gate.nothing_left()
    assert not gate.clock.getDelayedCalls()


# Over several GPUs


def test_one_that_loses_its_gpu_goes_to_the_next_that_is_ready(clock: Clock) -> None:
    gate = Gate(clock, gpus=3)
    client, backend = gate.open()
    gate.become(DOWN, 1)
    backend.lost()
    gate.become(DOWN, 0)
    gate.backend.accept(text("from GPU 2"))
    assert gate.places[-1] == ("127.0.0.1", 8190)
    assert frames(client.take())[-1] == (1, b"from GPU 2")
    gate.become(READY, 0)
    assert not gate.backend.dials  # it stays where it is
    gate.become(FAILED, 0)
    gate.become(DOWN, 2)
    gate.backend.wires[-1].lost()
    late = gate.client(b"/ws?clientId=b")
    assert greeting(late) == first_status(0, "b")
    gate.become(READY, 1)
    assert gate.places[-2:] == [("127.0.0.1", 8189)] * 2
    gate.become(FAILED, 1)
    assert client.closed is late.closed is None
    gate.become(FAILED, 2)
    assert frames(client.take())[-1] == (8, b"\x03\xf4GPUs 0, 1, 2 failed to start too often")


def test_one_that_is_not_answered_yet_goes_to_the_next_too(clock: Clock) -> None:
    gate = Gate(clock, gpus=2)
    client = gate.client()
    gate.become(DOWN, 0)
    gate.backend.dials.pop(0)
    assert client.written == b""
    gate.backend.accept(text("from GPU 1"))
    assert client.take().endswith(b"from GPU 1")


def test_a_client_stays_with_a_backend_that_left_the_set_until_that_goes(clock: Clock) -> None:
    gate = Gate(clock, gpus=2)
    client, first = gate.open()
    gate.bridges.serve((1,), gate.status)
    first.protocol.dataReceived(text("what it runs goes on"))
    assert client.take().endswith(b"what it runs goes on")
    assert gate.places == [("127.0.0.1", 8188)]
    gate.become(DOWN, 0)
    first.lost()
    gate.backend.accept(text("from GPU 1"))
    assert gate.places[-1] == ("127.0.0.1", 8189)
    assert client.take().endswith(b"from GPU 1")


# What the gate says itself


def test_an_announcement_goes_to_the_newest(gate: Gate) -> None:
    old, backend = gate.open()
    new = gate.client()
    backend.lost()
    gate.backend.accept()
    other, _ = gate.open(b"/ws?clientId=b")
    for wire in (old, new):
        wire.take()
    gate.bridges.announce("a", b"said")
    assert (old.take(), frames(new.take()), other.take()) == (b"", [(1, b"said")], b"")
    pending = gate.client()
    gate.bridges.announce("a", b"said")
    assert frames(new.take())[-1] == (1, b"said")
    assert pending.take() == b""
    gate.bridges.announce("nobody", b"said")


def test_an_announcement_waits_for_a_slow_reader(gate: Gate) -> None:
    client, backend = gate.open()
    client.full = True
    backend.protocol.dataReceived(text("1") + text("2"))
    gate.bridges.announce("a", b"said")
    client.drain()
    assert frames(client.take()) == [(1, b"1"), (1, b"2"), (1, b"said")]
