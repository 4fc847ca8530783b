"""A prompt waits as if it had been sent to another port."""

from __future__ import annotations

import math
import sys
from typing import Any

import orjson
import pytest
from twisted.internet.defer import Deferred

from comfygate.control.moves import before
from comfygate.errors import BackendUnclear, GateError
from comfygate.model import BackendState, Job
from tests.unit.fakes import House, new_id, raising
from tests.unit.test_control import accept, later, now, queue_of, submit
from tests.unit.test_recall import finish_all, loaded


def move(house: House, prompt_id: str, gate: str, *, front: bool = False) -> Job:
    job: Job = now(house.operations.move(prompt_id, gate, front=front))
    house.turn()
    return job


def not_moved(house: House, prompt_id: str, gate: str = "gpu-1") -> tuple[int, str]:
    with pytest.raises(GateError) as caught:
        now(house.operations.move(prompt_id, gate))
    return caught.value.status, caught.value.type


def busy_house() -> tuple[House, list[str]]:
    """Two GPUs; the first has five prompts, of which it holds two and runs one."""
    house = House()
    ids = [submit(house, house.gates[0], client_id="c")["prompt_id"] for _ in range(5)]
    house.backends[0].tell()
    house.turn()
    return house, ids


def test_one_that_waits_with_us_goes_to_another_gpu() -> None:
    house, ids = busy_house()
    job = move(house, ids[4], "gpu-1")
    assert (job.gate, job.targets, job.expected, job.client_id) == ("gpu-1", frozenset({1}), 1, "c")
    assert house.backends[1].client.submitted == [ids[4]]
    assert queue_of(house, house.gates[0])[1] == ids[1:4]
    assert house.finish(1) == ids[4]
    assert finish_all(house) == ids[:4]


def test_one_that_waits_in_a_backend_is_taken_back_first() -> None:
    house, ids = busy_house()
    move(house, ids[1], "gpu-1")
    assert ids[1] not in [item[1] for item in house.backends[0].client.items]
    assert house.finish(1) == ids[1]
    assert finish_all(house) == [ids[0], *ids[2:]]


def test_to_the_hub_it_goes_where_there_is_room() -> None:
    house, ids = busy_house()
    job = move(house, ids[3], "hub")
    assert (job.gate, job.targets, job.expected) == ("hub", frozenset({0, 1}), 1)
    assert house.finish(1) == ids[3]


def test_a_target_that_the_client_had_named_counts_no_more() -> None:
    house = House()
    busy = [submit(house, house.gates[0])["prompt_id"] for _ in range(2)]
    pinned = submit(house, house.hub, pin="0")["prompt_id"]
    assert move(house, pinned, "hub").targets == frozenset({0, 1})
    assert house.finish(1) == pinned
    assert finish_all(house) == busy


def test_in_front_it_runs_next_under_a_number_of_its_own() -> None:
    house, ids = busy_house()
    early = submit(house, house.hub, pin="1", number=-7)["prompt_id"]
    job = move(house, ids[4], "gpu-0", front=True)
    assert job.number == -8
    assert orjson.loads(job.submission)["number"] == -8
    assert orjson.loads(job.item)[:2] == [-8, ids[4]]
    assert finish_all(house) == [ids[0], ids[4], *ids[1:4]]
    assert house.finish(1) == early


def test_one_that_a_backend_holds_already_comes_to_the_front_of_its_queue() -> None:
    house, ids = loaded(jobs=4)
    house.books.draining.clear()
    move(house, ids[3], "gpu-0", front=True)
    assert finish_all(house) == [ids[0], ids[3], ids[1], ids[2]]


@pytest.mark.parametrize("number", [0.0, 3, -2.5, 1e300, -1e300, -sys.float_info.max / 2, 2.0**53])
def test_a_number_before_another_is_smaller_and_finite(number: float) -> None:
    assert before(number) < number
    assert math.isfinite(before(number))
    assert before(-sys.float_info.max) == -sys.float_info.max


def test_what_runs_has_ended_or_was_never_heard_of_is_not_moved() -> None:
    house, ids = busy_house()
    assert not_moved(house, ids[0]) == (409, "prompt_runs")
    house.finish(0)
    assert not_moved(house, ids[0]) == (409, "prompt_ended")
    assert not_moved(house, new_id()) == (404, "unknown_prompt")
    assert not_moved(house, ids[4], "gpu-9") == (404, "unknown_gate")
    assert finish_all(house) == ids[1:]


def test_one_that_starts_in_the_same_moment_runs_where_it_is() -> None:
    house, ids = busy_house()
    client = house.backends[0].client
    client.before["delete"] = client.finish
    assert not_moved(house, ids[1]) == (409, "prompt_runs")
    house.turn()
    assert finish_all(house) == ids[1:]


def test_one_that_starts_before_anyone_has_said_so_runs_where_it_is() -> None:
    house, ids = busy_house()
    house.backends[0].client.finish()  # the next begins, and no status message has told us yet
    assert not_moved(house, ids[1]) == (409, "prompt_runs")


def test_a_gpu_that_does_not_answer_keeps_its_prompts() -> None:
    house, ids = busy_house()
    house.backends[0].client.before["queue"] = raising(BackendUnclear("no answer"))
    assert not_moved(house, ids[1]) == (504, "backend_timeout")
    del house.backends[0].client.before["queue"]
    assert finish_all(house) == ids


def test_one_whose_fate_is_unclear_can_be_moved_later() -> None:
    house = House()
    first = submit(house, house.gates[0])["prompt_id"]
    house.backends[0].tell()
    house.turn()
    client = house.backends[0].client
    second = accept(house, house.gates[0])["prompt_id"]
    client.pause = pause = Deferred()
    house.turn()
    _, results = later(house.operations.move(second, "gpu-1"))
    client.pause = None
    house.clock.advance(10.1)
    house.clock.advance(1.1)
    assert (results[0].value.status, results[0].value.type) == (503, "prompt_on_its_way")
    pause.callback(None)
    house.turn()
    assert move(house, second, "gpu-1").targets == frozenset({1})
    assert (house.finish(0), house.finish(1)) == (first, second)


def test_to_a_gpu_that_is_down_it_waits_there() -> None:
    house, ids = busy_house()
    house.backends[1].become(BackendState.DOWN)
    assert move(house, ids[4], "gpu-1").expected == 1
    assert move(house, ids[3], "gpu-1", front=True).expected == 1
    house.backends[0].become(BackendState.DOWN)
    assert move(house, ids[2], "hub").expected == 0
    house.turn()
    house.backends[1].become(BackendState.READY)
    house.turn()
    assert house.backends[1].client.submitted[:2] == [ids[3], ids[2]]


def test_listeners_are_told_where_it_waits_now() -> None:
    house, ids = busy_house()
    told: list[Any] = []

    class Listener:
        def job_changed(self, job: Job, state: Any, gpu_id: Any, reason: Any, record: Any) -> None:
            told.append((job.prompt_id, job.gate, state.value, gpu_id))

        def job_refused(self, job: Job) -> None: ...

    house.ledger.subscribe(Listener())  # type: ignore[arg-type]
    now(house.operations.move(ids[4], "hub"))
    assert told == [(ids[4], "hub", "waiting", None)]


def test_what_was_moved_counts_once() -> None:
    house, ids = busy_house()
    before_ = house.ledger.remaining(0)
    move(house, ids[4], "gpu-1")
    assert (house.ledger.remaining(0), house.ledger.remaining(1)) == (before_ - 1, 1)
