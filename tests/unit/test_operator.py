"""The operator's routes: who may use them, what they take, and what they answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import orjson
import pytest
from attrs import define, field, frozen
from twisted.internet.defer import Deferred, execute, fail, succeed
from twisted.logger import LogLevel

from comfygate.config.text import ConfigError
from comfygate.control.interrupt import Interrupted
from comfygate.control.logbook import LogBook
from comfygate.control.logs import EVERY, Logs
from comfygate.control.operator import OperatorRoutes
from comfygate.control.replies import Reply, Stream
from comfygate.errors import GateError
from comfygate.model import BackendState, Job, JobState
from tests.unit.fakes import House, new_id
from tests.unit.test_control import now, submit
from tests.unit.test_status import FakeRequest


@frozen
class Step:
    gpu_id: int
    step: str
    detail: str = ""


@define
class FakeOperations:
    """Takes note of what it is told; fails as it is told to."""

    asked: list[Any] = field(factory=list)
    fault: GateError | None = None
    restarting: Deferred[None] | None = None
    tell: Callable[[Any], None] = print

    def drain(self, gpu_ids: Sequence[int]) -> None:
        self._ask("drain", gpu_ids)

    def undrain(self, gpu_ids: Sequence[int]) -> None:
        self._ask("undrain", gpu_ids)

    async def move(self, prompt_id: str, gate: str, *, front: bool = False) -> Job:
        self._ask("move", prompt_id, gate, front)
        return Job(prompt_id=prompt_id, number=-1, sequence=0, gate=gate, targets=frozenset({1}), expected=1)

    async def cancel(self, prompt_id: str) -> Interrupted:
        self._ask("cancel", prompt_id)
        if prompt_id == "gone":
            raise GateError(404, "unknown_prompt", "There is no such prompt", "It neither runs nor waits.")
        return Interrupted(prompt_id, 1, "pending")

    def restart(self, gpu_ids: Sequence[int], *, now: bool = False, tell: Callable[[Any], None]) -> Deferred[None]:
        self._ask("restart", gpu_ids, now)
        self.restarting, self.tell = Deferred(), tell
        tell(Step(gpu_ids[0], "draining"))
        return self.restarting

    def _ask(self, *what: Any) -> None:
        self.asked.append(what)
        if self.fault is not None:
            raise self.fault


class FakeJournal:
    def inspect(self, *, finished: bool, state: str | None, limit: int) -> Deferred[dict[str, Any]]:
        return succeed({"finished": finished, "state": state, "limit": limit})

    def show(self, prompt_id: str) -> Deferred[dict[str, Any] | None]:
        return succeed({"prompt_id": prompt_id} if prompt_id == "known" else None)


class Asked(FakeRequest):
    """A request to one of these routes."""

    def __init__(self, target: str, fields: Any = None, headers: dict[bytes, bytes] | None = None) -> None:
        super().__init__()
        self.args = {k.encode(): [v.encode() for v in vs] for k, vs in parse_qs(urlsplit(target).query).items()}
        self.content = BytesIO(b"" if fields is None else orjson.dumps(fields))
        self._headers = headers or {}

    def getHeader(self, name: bytes) -> bytes | None:
        return self._headers.get(name)

    def lines(self) -> list[Any]:
        """The objects that were written since the last time; blank lines are none."""
        written, self.written = self.written, []
        return [orjson.loads(line) for line in b"".join(written).splitlines() if line]


class Desk:
    """The routes over fakes."""

    def __init__(self, tmp_path: Path) -> None:
        self.house = House()
        self.operations = FakeOperations()
        self.book = LogBook(lambda call, *arguments: call(*arguments))
        self.logs = Logs(self.book, self.house.books.fleet, self.house.clock, execute)
        self.uid: int | None = 1000
        self.changes: Deferred[Sequence[str]] = succeed([])
        self.routes = OperatorRoutes(
            books=self.house.books,
            operations=self.operations,
            reload=lambda: self.changes,
            journal=FakeJournal(),
            logs=self.logs,
            wall_clock=lambda: 1_800_000_000.0,
            peer=lambda request: self.uid,
            uids=frozenset({0, 1000}),
        )
        self.log = tmp_path / "comfyui.log"
        self.house.backends[0].log_path = self.log

    def answer(self, method: str, target: str, fields: Any = None, **headers: Any) -> Reply | Stream:
        request = Asked(target, fields, **headers)
        path = f"/comfygate/operator/{urlsplit(target).path}".encode()
        endpoint = self.routes.endpoint(method.encode(), path)
        assert endpoint is not None
        answer: Reply | Stream = now(endpoint(self.house.hub, request))  # type: ignore[arg-type]
        return answer

    def ask(self, method: str, target: str, fields: Any = None, **headers: Any) -> Any:
        reply = self.answer(method, target, fields, **headers)
        assert isinstance(reply, Reply)
        body = b"".join(reply.pieces)
        if b"ndjson" in dict(reply.headers)[b"Content-Type"]:
            return [orjson.loads(line) for line in body.splitlines()]
        return orjson.loads(body)

    def stream(self, method: str, target: str, fields: Any = None) -> Asked:
        stream = self.answer(method, target, fields)
        assert isinstance(stream, Stream)
        reader = Asked(target)
        stream.begin(reader)  # type: ignore[arg-type]
        return reader

    def refused(self, *request: Any, **headers: Any) -> GateError:
        with pytest.raises(GateError) as caught:
            self.answer(*request, **headers)
        return caught.value


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


# -- who may


def test_through_a_port_there_is_nothing_of_this(desk: Desk) -> None:
    error = desk.refused("GET", "queue", headers={b"X-ComfyGate-Gate": b"hub"})
    assert (error.status, error.type) == (404, "not_found")


@pytest.mark.parametrize("uid", [0, 1000])
def test_the_daemons_own_user_and_root_may(desk: Desk, uid: int) -> None:
    desk.uid = uid
    assert desk.ask("GET", "queue")["jobs"] == []


@pytest.mark.parametrize("uid", [1001, None])
def test_nobody_else_may(desk: Desk, uid: int | None) -> None:
    desk.uid = uid
    error = desk.refused("POST", "restart", {})
    assert (error.status, error.type) == (403, "not_the_operator")
    assert desk.operations.asked == []


def test_routes_have_one_method(desk: Desk) -> None:
    for method, path in ((b"GET", b"restart"), (b"POST", b"queue"), (b"GET", b"nothing")):
        assert desk.routes.endpoint(method, b"/comfygate/operator/" + path) is None
    assert desk.routes.endpoint(b"GET", b"queue") is None


# -- prompts


def test_the_queue_lists_every_prompt_in_the_order_of_its_gpu(desk: Desk) -> None:
    house = desk.house
    ids = [submit(house, house.gates[0], client_id="c" * 300)["prompt_id"] for _ in range(4)]
    house.backends[0].tell()
    house.turn()
    pinned = submit(house, house.hub, pin="1")["prompt_id"]
    found = desk.ask("GET", "queue")
    assert (found["gpus"], found["gates"], found["time"]) == ([0, 1], ["gpu-0", "gpu-1", "hub"], 1_800_000_000.0)
    jobs = found["jobs"]
    assert [job["prompt_id"] for job in jobs] == [*ids, pinned]
    assert [job["place"] for job in jobs] == [0, 1, 2, 3, 0]
    assert [job["state"] for job in jobs] == ["running", "pending", "waiting", "waiting", "running"]
    assert [job["gpu_id"] for job in jobs] == [0, 0, 0, 0, 1]
    assert (jobs[0]["gate"], jobs[4]["gate"], jobs[4]["targets"]) == ("gpu-0", "hub", [1])
    assert jobs[0]["client_id"] == "c" * 200


def test_the_queue_tells_of_prompts_that_came_another_way(desk: Desk) -> None:
    house = desk.house
    house.backends[1].client.items.append([3, new_id(), {}, {}, []])
    house.backends[1].tell()
    house.turn()
    (job,) = desk.ask("GET", "queue")["jobs"]
    assert (job["place"], job["state"], job["gate"], job["gpu_id"], job["number"]) == (0, "foreign", None, 1, 3)


def test_a_prompt_is_moved(desk: Desk) -> None:
    moved = desk.ask("POST", "move", {"prompt_id": "a", "to": "gpu-1", "front": True})
    assert moved == {"prompt_id": "a", "gate": "gpu-1", "gpu_id": 1, "number": -1}
    assert desk.operations.asked == [("move", "a", "gpu-1", True)]
    assert desk.refused("POST", "move", {"prompt_id": "a"}).type == "missing_to"
    assert desk.refused("POST", "move", {"prompt_id": 1, "to": "hub"}).type == "invalid_prompt_id"
    assert desk.refused("POST", "move", {"prompt_id": "a", "to": "hub", "front": "yes"}).type == "invalid_front"
    desk.operations.fault = GateError(409, "prompt_runs", "It runs on GPU 0")
    assert desk.refused("POST", "move", {"prompt_id": "a", "to": "hub"}).status == 409


def test_prompts_are_cancelled_one_after_the_other_and_one_that_is_gone_keeps_none_from_it(desk: Desk) -> None:
    reader = desk.stream("POST", "cancel", {"prompt_ids": ["a", "gone", "b"]})
    first, missed, last, end = reader.lines()
    assert first == {"prompt_id": "a", "gpu_id": 1, "state": "pending", "error": None}
    assert (missed["state"], missed["error"]["type"]) == (None, "unknown_prompt")
    assert last["prompt_id"] == "b"
    assert end == {"done": True}
    assert reader.finished
    assert desk.refused("POST", "cancel", {"prompt_ids": "a"}).type == "invalid_prompt_ids"


def test_many_are_cancelled_without_holding_the_daemon_up(desk: Desk) -> None:
    reader = desk.stream("POST", "cancel", {"prompt_ids": [str(number) for number in range(120)]})
    assert len(reader.lines()) == 50
    desk.house.turn()
    assert len(reader.lines()) == 71
    assert reader.finished


# -- GPUs


def test_gpus_are_drained_and_used_again(desk: Desk) -> None:
    desk.house.books.draining.add(1)
    desk.house.backends[0].become(BackendState.DOWN)
    assert desk.ask("POST", "drain", {"gpu_ids": [1, 1]})["gpus"] == [{"gpu_id": 1, "state": "ready", "draining": True}]
    found = desk.ask("POST", "undrain", {})["gpus"]
    assert [(gpu["gpu_id"], gpu["state"]) for gpu in found] == [(0, "down"), (1, "ready")]
    assert desk.operations.asked == [("drain", (1,)), ("undrain", (0, 1))]


@pytest.mark.parametrize("gpu_ids", ["1", ["1"], [True], [1.0], {"1": 1}])
def test_gpus_are_numbers(desk: Desk, gpu_ids: Any) -> None:
    assert desk.refused("POST", "drain", {"gpu_ids": gpu_ids}).type == "invalid_gpu_ids"
    assert desk.operations.asked == []


def test_a_gpu_that_there_is_not(desk: Desk) -> None:
    error = desk.refused("POST", "restart", {"gpu_ids": [0, 2]})
    assert (error.status, error.message, error.details) == (404, "There is no GPU 2", "There are 2, counted from 0.")
    assert desk.refused("GET", "logs?gpu=7").type == "unknown_gpu"


def test_a_restart_is_told_step_by_step(desk: Desk) -> None:
    reader = desk.stream("POST", "restart", {"gpu_ids": [1, 0], "now": True})
    assert desk.operations.asked == [("restart", (1, 0), True)]
    assert reader.lines() == [{"gpu_id": 1, "step": "draining", "detail": ""}]
    desk.operations.tell(Step(1, "stopping", "its prompt will run again"))
    assert reader.lines() == [{"gpu_id": 1, "step": "stopping", "detail": "its prompt will run again"}]
    assert desk.operations.restarting is not None
    desk.operations.restarting.callback(None)
    assert reader.lines() == [{"done": True}]
    assert reader.finished


def test_a_restart_that_fails_says_so_in_the_end(desk: Desk) -> None:
    reader = desk.stream("POST", "restart", {})
    assert desk.operations.restarting is not None
    desk.operations.restarting.errback(GateError(502, "restart_failed", "GPU 0 failed to start", "why"))
    *_, last = reader.lines()
    assert last["done"] is False
    assert (last["error"]["type"], last["error"]["details"]) == ("restart_failed", "why")


def test_a_restart_that_does_not_begin_is_refused(desk: Desk) -> None:
    desk.operations.fault = GateError(409, "restart_under_way", "Another restart goes on")
    assert desk.refused("POST", "restart", {}).status == 409


def test_a_restart_goes_on_when_its_reader_leaves(desk: Desk) -> None:
    reader = desk.stream("POST", "restart", {})
    reader.leave()
    desk.operations.tell(Step(0, "ready"))
    assert desk.operations.restarting is not None
    desk.operations.restarting.callback(None)
    assert {"done": True} not in reader.lines()


def test_a_restart_need_not_be_waited_for(desk: Desk) -> None:
    reply = desk.answer("POST", "restart", {"gpu_ids": [0], "wait": False})
    assert isinstance(reply, Reply)
    assert (reply.status, orjson.loads(b"".join(reply.pieces))) == (202, {"gpu_ids": [0]})


def test_an_empty_line_shows_that_a_silent_restart_goes_on(desk: Desk) -> None:
    reader = desk.stream("POST", "restart", {})
    reader.lines()
    desk.house.clock.advance(14)
    assert reader.written == []
    desk.house.clock.advance(1)
    assert reader.written == [b"\n"]


# -- the configuration, the journal


def test_what_a_reload_changed(desk: Desk) -> None:
    desk.changes = succeed(["rate of hub: 10 → 20"])
    assert desk.ask("POST", "reload") == {"changes": ["rate of hub: 10 → 20"]}


def test_a_configuration_with_a_mistake_is_refused_with_its_sentence(desk: Desk) -> None:
    desk.changes = fail(ConfigError("gpus.ini", "comfygate", "rate", "must be a number"))
    error = desk.refused("POST", "reload")
    assert (error.status, error.message) == (400, "gpus.ini, [comfygate] rate: must be a number.")


def test_the_journal(desk: Desk) -> None:
    assert desk.ask("GET", "journal") == {"finished": False, "state": None, "limit": 100}
    asked = {"finished": True, "state": "failed", "limit": 5}
    assert desk.ask("GET", "journal?finished=1&state=failed&limit=5") == asked
    assert desk.ask("GET", "journal?prompt_id=known") == {"prompt_id": "known"}
    assert desk.refused("GET", "journal?prompt_id=other").status == 404
    assert desk.refused("GET", "journal?limit=-1").type == "invalid_limit"
    desk.routes.journal = None
    assert desk.refused("GET", "journal").type == "no_journal"


# -- logs


def event(text: str, level: str = "info") -> dict[str, Any]:
    return {
        "log_time": 5.0,
        "log_level": LogLevel.levelWithName(level),
        "log_namespace": "here",
        "log_format": "{text}",
        "text": text,
    }


def test_the_daemons_newest_events(desk: Desk) -> None:
    for text in ("one", "two", "three"):
        desk.book(event(text))
    found = desk.ask("GET", "logs?lines=2")
    assert [entry["text"] for entry in found] == ["two", "three"]
    assert found[0] == {"time": 5.0, "level": "info", "source": "here", "text": "two"}
    assert desk.ask("GET", "logs?lines=0") == []
    assert desk.refused("GET", "logs?lines=10001").type == "invalid_lines"


def test_the_daemons_events_as_they_come(desk: Desk) -> None:
    desk.book(event("before"))
    reader = desk.stream("GET", "logs?follow=1&lines=1")
    desk.book(event("after"))
    assert [line["text"] for line in reader.lines()] == ["before", "after"]
    reader.leave()
    desk.book(event("too late"))
    assert reader.lines() == []


def test_a_follower_that_does_not_read_loses_the_oldest_and_is_told(desk: Desk) -> None:
    reader = desk.stream("GET", "logs?follow=1&lines=0")
    reader.producer.pauseProducing()
    for number in range(1100):
        desk.book(event(str(number)))
    assert reader.lines() == []
    reader.producer.resumeProducing()
    first, *rest = reader.lines()
    assert first == {"lost": 100}
    assert [line["text"] for line in rest] == [str(number) for number in range(100, 1100)]


def test_the_last_lines_of_a_comfyui(desk: Desk) -> None:
    desk.log.write_text("one\n\ntwo\n 10%|\r100%|\nthree\n")
    assert [line["text"] for line in desk.ask("GET", "logs?gpu=0&lines=3")] == ["two", "100%|", "three"]
    assert desk.ask("GET", "logs?gpu=0")[0] == {"gpu_id": 0, "text": "one"}


def test_what_a_comfyui_prints_from_now_on(desk: Desk) -> None:
    desk.log.write_text("one\ntwo\n")
    reader = desk.stream("GET", "logs?gpu=0&follow=1&lines=1")
    assert [line["text"] for line in reader.lines()] == ["two"]
    with desk.log.open("a") as log:
        log.write("three\nfo")
        log.flush()
        desk.house.clock.advance(EVERY)
        assert [line["text"] for line in reader.lines()] == ["three"]
        log.write("ur\n")
    desk.house.clock.advance(EVERY)
    assert [line["text"] for line in reader.lines()] == ["four"]
    reader.leave()
    assert not [call for call in desk.house.clock.getDelayedCalls() if call.getTime() < desk.house.clock.seconds() + 1]


def test_who_does_not_read_leaves_it_in_the_file(desk: Desk) -> None:
    desk.log.write_text("")
    reader = desk.stream("GET", "logs?gpu=0&follow=1")
    reader.producer.pauseProducing()
    desk.log.write_text("".join(f"{number}\n" for number in range(5000)))
    desk.house.clock.pump([EVERY] * 3)
    assert reader.lines() == []
    reader.producer.resumeProducing()
    desk.house.clock.advance(EVERY)
    assert [line["text"] for line in reader.lines()] == [str(number) for number in range(5000)]


def test_someone_elses_comfyui_has_no_log_here(desk: Desk) -> None:
    assert desk.refused("GET", "logs?gpu=1").type == "no_log"


def test_streams_end_when_the_daemon_does(desk: Desk) -> None:
    desk.log.write_text("one\n")
    readers = [desk.stream("GET", "logs?follow=1"), desk.stream("GET", "logs?gpu=0&follow=1")]
    desk.logs.close()
    assert all(reader.finished for reader in readers)


def test_only_so_many_follow(desk: Desk) -> None:
    readers = [desk.stream("GET", "logs?follow=1") for _ in range(50)]
    assert desk.refused("GET", "logs?follow=1").status == 503
    readers[0].leave()
    desk.stream("GET", "logs?follow=1")


def test_a_job_that_ran_and_was_put_back_shows_its_tries(desk: Desk) -> None:
    house = desk.house
    prompt_id = submit(house, house.gates[0])["prompt_id"]
    held = house.ledger.held(prompt_id)
    assert held is not None
    house.ledger.hold(held.job, 0, JobState.RUNNING)
    house.ledger.put_back(prompt_id, attempts=1, deaths=1)
    (job,) = desk.ask("GET", "queue")["jobs"]
    assert (job["state"], job["attempts"], job["deaths"], job["place"]) == ("waiting", 1, 1, 1)
