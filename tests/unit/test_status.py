"""The status and its stream: what they say, when they say it, and to how many."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure
from twisted.web.http import Request
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET

from comfygate.control.chronicle import MOST as MOST_MISHAPS
from comfygate.control.events import EVERY, SILENCE, Events
from comfygate.control.replies import Stream, respond
from comfygate.control.site import QuietSite
from comfygate.errors import GateError
from comfygate.model import BackendState, JobState, Progress
from tests.unit.telemetry import BORN, Observed


@pytest.fixture
def observed() -> Observed:
    return Observed()


def gpu(observed: Observed, gpu_id: int = 0) -> Any:
    return observed.status.facts()["gpus"][gpu_id]


def hold(observed: Observed, prompt_id: str, gpu_id: int, state: JobState) -> None:
    held = observed.ledger.held(prompt_id) or observed.ledger.assign(prompt_id, gpu_id)
    observed.ledger.hold(held.job, gpu_id, state)


# -- the status


def test_nothing_to_do(observed: Observed) -> None:
    facts = observed.status.facts()
    assert facts["totals"] == {
        "gpus": 2,
        "ready": 2,
        "idle": 2,
        "busy": 0,
        "full": 0,
        "running": 0,
        "pending": 0,
        "waiting": 0,
        "done": 0,
        "failed": 0,
        "cancelled": 0,
        "unknown": 0,
        "refused": 0,
        "max_pending": 100,
    }
    assert facts["journal"] == {"state": "off", "error": None}
    assert [gate["name"] for gate in facts["gates"]] == ["gpu-0", "gpu-1", "hub"]
    assert facts["gpus"][1] == {
        "gpu_id": 1,
        "name": "GPU 1",
        "device": "cpu",
        "port": 8182,
        "owned": True,
        "state": "ready",
        "draining": False,
        "since": BORN,
        "restarts": 0,
        "last_error": None,
        "retry_after": 3.0,
        "load": "idle",
        "running_count": 0,
        "pending_count": 0,
        "done": 0,
        "failed": 0,
        "cancelled": 0,
        "unknown": 0,
        "refused": 0,
        "job": None,
        "memory": None,
        "utilisation": None,
        "temperature": None,
        "process_memory": None,
    }
    dated = orjson.loads(observed.status.dated(observed.status.encoded()))
    assert dated == orjson.loads(orjson.dumps({"time": BORN, **facts}))


def test_idle_busy_full(observed: Observed) -> None:
    observed.accept("a", "b", "c")
    assert (gpu(observed)["load"], gpu(observed)["pending_count"]) == ("busy", 3)
    observed.clock.advance(5)
    hold(observed, "a", 0, JobState.RUNNING)
    assert gpu(observed)["load"] == "busy"
    assert gpu(observed)["job"]["since"] == BORN + 5
    hold(observed, "b", 0, JobState.PENDING)
    totals = observed.status.facts()["totals"]
    assert gpu(observed)["load"] == "full"
    assert (totals["full"], totals["idle"], totals["running"], totals["pending"], totals["waiting"]) == (1, 1, 1, 2, 1)
    observed.backends[0].become(BackendState.DOWN)
    assert gpu(observed)["load"] is None


def test_one_that_is_drained_says_so_and_how_busy_it_is(observed: Observed) -> None:
    observed.accept("a")
    hold(observed, "a", 0, JobState.RUNNING)
    observed.books.draining.add(0)
    assert (gpu(observed)["draining"], gpu(observed)["load"]) == (True, "busy")
    assert [one["draining"] for one in observed.status.facts()["gpus"]] == [True, False]


def test_progress_is_shown_of_the_job_that_runs_and_of_no_other(observed: Observed) -> None:
    observed.accept("a")
    hold(observed, "a", 0, JobState.RUNNING)
    shown = observed.books.aliases.shown("me")
    nothing = {"node": None, "node_type": None, "value": None, "max": None, "nodes_done": None, "nodes_total": None}
    assert gpu(observed)["job"] == {"prompt_id": "a", "client_id": shown, "since": BORN, **nothing}
    observed.backends[0].progress = Progress(prompt_id="a", node="5", node_type="KSampler", value=4, max=20)
    assert gpu(observed)["job"]["node_type"] == "KSampler"
    observed.backends[0].progress = Progress(prompt_id="b", node="5")
    assert gpu(observed)["job"]["node"] is None


def test_no_client_makes_the_status_long(observed: Observed) -> None:
    (job,) = observed.accept("a", client_id="c" * 1_000_000)
    hold(observed, job.prompt_id, 0, JobState.RUNNING)
    assert len(gpu(observed)["job"]["client_id"]) < 200
    assert len(observed.status.encoded()) < 5000


def test_what_went_wrong_is_remembered_newest_first_and_not_for_ever(observed: Observed) -> None:
    observed.backends[1].last_error = "killed by signal 9"
    observed.clock.advance(7)
    observed.backends[1].become(BackendState.DOWN)
    observed.accept("a")
    hold(observed, "a", 0, JobState.RUNNING)
    observed.ledger.end("a", JobState.FAILED, "no memory")
    failed, down = observed.status.facts()["errors"]
    assert down == {"time": BORN + 7, "gpu_id": 1, "prompt_id": None, "message": "killed by signal 9"}
    assert failed == {"time": BORN + 7, "gpu_id": 0, "prompt_id": "a", "message": "no memory"}
    assert gpu(observed, 1)["since"] == BORN + 7
    for _ in range(50):
        observed.backends[1].become(BackendState.FAILED)
    assert len(observed.status.facts()["errors"]) == MOST_MISHAPS


def test_nothing_is_remembered_of_jobs_that_are_over(observed: Observed) -> None:
    for number in range(300):
        prompt_id = str(number)
        observed.accept(prompt_id)
        if number % 3:
            hold(observed, prompt_id, number % 2, JobState.RUNNING)
        if number % 3 == 2:
            observed.ledger.forget(prompt_id)
        else:
            observed.ledger.end(prompt_id, JobState.DONE if number % 3 else JobState.CANCELLED)
    assert len(observed.outcomes) == 0
    totals = observed.status.facts()["totals"]
    assert (totals["done"], totals["cancelled"], totals["refused"]) == (100, 100, 100)


def test_a_job_that_was_over_before_anyone_looked_began_when_the_one_before_it_ended(observed: Observed) -> None:
    observed.accept("a", "b")
    hold(observed, "a", 0, JobState.PENDING)
    hold(observed, "b", 0, JobState.PENDING)
    observed.clock.advance(4)
    observed.ledger.end("a", JobState.DONE)
    observed.clock.advance(3)
    observed.ledger.end("b", JobState.DONE)
    assert (observed.outcomes.ran[0].total, observed.outcomes.waited[0].total) == (4 + 3, 0 + 4)


def test_a_job_that_was_put_back_begins_again(observed: Observed) -> None:
    observed.accept("a")
    hold(observed, "a", 0, JobState.RUNNING)
    observed.clock.advance(100)
    observed.ledger.put_back("a", attempts=1)
    assert observed.outcomes.running_since("a") is None
    hold(observed, "a", 1, JobState.RUNNING)
    observed.clock.advance(5)
    observed.ledger.end("a", JobState.FAILED)
    assert (observed.outcomes.ran[1].total, observed.outcomes.waited[1].total) == (5, 100)
    assert observed.outcomes.accepted["hub"] == 1


# -- the stream


class FakeRequest:
    """What twisted.web hands to a stream."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.producer: Any = None
        self.finished = False
        self._finish: Deferred[None] = Deferred()

    def notifyFinish(self) -> Deferred[None]:
        return self._finish

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert streaming
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None

    def write(self, data: bytes) -> None:
        assert not self.finished
        self.written.append(data)

    def finish(self) -> None:
        self.finished = True
        self._finish.callback(None)

    def leave(self) -> None:
        self._finish.errback(Failure(ConnectionDone()))

    def told(self) -> list[Any]:
        """The statuses that came since this was asked last."""
        written, self.written = self.written, []
        return list(statuses(b"".join(written)))


def statuses(stream: bytes) -> Iterator[Any]:
    for event in stream.split(b"\n\n")[:-1]:
        if not event.startswith(b":"):
            assert event.startswith(b"event: status\ndata: ")
            yield orjson.loads(event.removeprefix(b"event: status\ndata: "))


class Watched(Observed):
    def __init__(self, most: int = 3) -> None:
        super().__init__()
        self.encodings = 0
        self.events = Events(self.status, self.clock, most=most)
        encoded = self.status.encoded

        def counted() -> bytes:
            self.encodings += 1
            return encoded()

        self.status.encoded = counted  # type: ignore[method-assign]

    def watch(self) -> FakeRequest:
        request: Any = FakeRequest()
        self.events.stream().begin(request)
        return request  # type: ignore[no-any-return]


def test_at_once_and_then_what_changed_twice_a_second_at_most() -> None:
    watched = Watched()
    viewer = watched.watch()
    assert len(viewer.told()) == 1
    watched.clock.advance(EVERY)
    assert viewer.written == []
    for number in range(10):
        watched.accept(str(number))
        watched.clock.advance(EVERY / 10)
    told = viewer.told()
    assert [status["totals"]["waiting"] for status in told] == [10]
    assert watched.encodings == 3


def test_one_encoding_for_all_and_none_for_nobody() -> None:
    watched = Watched()
    assert not watched.clock.getDelayedCalls()
    viewers = [watched.watch() for _ in range(3)]
    assert watched.encodings == 1
    watched.accept("a")
    watched.clock.advance(EVERY)
    assert watched.encodings == 2
    assert len({viewer.written[-1] for viewer in viewers}) == 1
    for viewer in viewers:
        viewer.leave()
    assert watched.events.viewers == 0
    assert not watched.clock.getDelayedCalls()
    watched.accept("b")
    assert watched.watch().told()[0]["totals"]["waiting"] == 2


def test_a_comment_where_nothing_happens() -> None:
    watched = Watched()
    viewer = watched.watch()
    viewer.told()
    for _ in range(int(3 * SILENCE / EVERY)):
        watched.clock.advance(EVERY)
    assert viewer.written == [b": nothing new\n\n"] * 3


def test_who_does_not_read_gets_the_newest_only() -> None:
    watched = Watched()
    viewer = watched.watch()
    viewer.told()
    viewer.producer.pauseProducing()
    for number in range(100):
        watched.accept(str(number))
        watched.clock.advance(EVERY)
    assert viewer.written == []
    viewer.producer.resumeProducing()
    assert [status["totals"]["waiting"] for status in viewer.told()] == [100]
    viewer.producer.pauseProducing()
    viewer.producer.resumeProducing()
    assert viewer.written == []


def test_no_more_than_may_watch() -> None:
    watched = Watched(most=2)
    viewers = [watched.watch(), watched.watch()]
    with pytest.raises(GateError) as caught:
        watched.watch()
    assert (caught.value.status, caught.value.type) == (503, "too_many_viewers")
    assert caught.value.retry_after
    viewers[0].leave()
    watched.watch()


def test_streams_end_and_none_begins_when_the_daemon_stops() -> None:
    watched = Watched()
    viewers = [watched.watch(), watched.watch()]
    viewers[1].producer.pauseProducing()
    watched.events.close()
    assert all(viewer.finished and viewer.producer is None for viewer in viewers)
    assert not watched.clock.getDelayedCalls()
    with pytest.raises(GateError, match="stopping"):
        watched.watch()


def test_a_status_that_cannot_be_told_is_an_error_and_not_a_stream() -> None:
    watched = Watched()
    watched.books.fleet[0].name = object()  # type: ignore[assignment]
    with pytest.raises(TypeError):
        watched.watch()


class Streaming(Resource):
    """The stream as twisted.web carries it."""

    isLeaf = True

    def __init__(self, watched: Watched) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._watched = watched

    def render(self, request: Request) -> int:
        async def answer() -> Stream:
            return self._watched.events.stream()

        respond(request, answer())
        return NOT_DONE_YET


def test_a_connection_that_is_full_is_not_written_to() -> None:
    watched = Watched()
    channel = QuietSite(Streaming(watched), timeout=None).buildProtocol(None)  # type: ignore[no-untyped-call]
    wire = StringTransport()
    channel.makeConnection(wire)
    channel.dataReceived(b"GET /comfygate/events HTTP/1.1\r\nHost: h\r\n\r\n")
    head, _, first = wire.value().partition(b"\r\n\r\n")
    assert b"\r\nContent-Type: text/event-stream; charset=utf-8\r\n" in head
    assert b"\r\nTransfer-Encoding: chunked" in head
    assert b"event: status" in first
    wire.clear()
    producer: Any = wire.producer
    producer.pauseProducing()
    for number in range(1000):
        watched.accept(str(number))
        watched.clock.advance(EVERY)
    assert wire.value() == b""
    producer.resumeProducing()
    assert wire.value().count(b"event: status") == 1
    assert b'"waiting":1000,' in wire.value()
    channel.connectionLost(Failure(ConnectionDone()))
    assert watched.events.viewers == 0
    assert not watched.clock.getDelayedCalls()
