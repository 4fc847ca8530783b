"""What waits in a ComfyUI's own queue comes back to ours, whatever happens in between."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from comfygate.errors import BackendUnclear, BackendUnreachable, BackendUnusable, GateError
from comfygate.model import BackendState, JobState
from tests.unit.fakes import House, raising
from tests.unit.test_control import accept, later, now, submit


def loaded(*, gpus: int = 1, jobs: int = 4, prefetch: int = 4) -> tuple[House, list[str]]:
    """A GPU that runs the first of some prompts; the rest wait in its own queue, and stay away once they came back."""
    house = House(gpus=gpus, prefetch=prefetch)
    ids = [submit(house, house.gates[0])["prompt_id"] for _ in range(jobs)]
    house.backends[0].tell()
    house.turn()
    assert house.backends[0].client.submitted == ids[:prefetch]
    house.books.draining.add(0)
    return house, ids


def finish_all(house: House, gpu_id: int = 0) -> list[str]:
    """Let everything run that is left; say what did, in its order."""
    house.books.draining.clear()
    house.books.changed()
    house.turn()
    ran = []
    while house.backends[gpu_id].client.items:
        ran.append(house.finish(gpu_id))
    return ran


def test_what_waits_comes_back_in_its_order_and_what_runs_stays() -> None:
    house, ids = loaded(jobs=6)
    assert now(house.operations.recall(0)) == ids[1:4]
    assert [item[1] for item in house.backends[0].client.items] == ids[:1]
    assert [job.prompt_id for job in house.ledger.waiting.of_gate("gpu-0")] == ids[1:]
    assert {(job.attempts, job.deaths) for job in house.ledger.waiting} == {(0, 0)}
    assert not house.books.recalling | house.books.recalled
    assert finish_all(house) == ids


def test_one_that_starts_in_the_same_moment_is_left_to_run() -> None:
    house, ids = loaded()
    client = house.backends[0].client
    client.before["delete"] = client.finish  # the first ends, and the second begins
    assert now(house.operations.recall(0)) == ids[2:]
    house.turn()
    held = house.ledger.held(ids[1])
    assert held is not None
    assert held.state is JobState.RUNNING
    assert not house.books.recalling | house.books.recalled
    assert finish_all(house) == ids[1:]


def test_one_that_ran_to_its_end_in_the_same_moment_does_not_run_again() -> None:
    house, ids = loaded()
    client = house.backends[0].client

    def two_end() -> None:
        client.finish()
        client.finish()

    client.before["delete"] = two_end
    assert now(house.operations.recall(0)) == ids[3:]
    house.turn()
    ended = [house.ledger.ended(prompt_id) for prompt_id in ids[:2]]
    assert [one and one.state for one in ended] == [JobState.DONE, JobState.DONE]
    assert finish_all(house) == ids[2:]


def test_one_whose_history_cannot_be_read_has_ended() -> None:
    house, ids = loaded(jobs=2)
    house.backends[0].client.before["history"] = raising(BackendUnusable("status 500"))
    assert now(house.operations.recall(0)) == []
    house.turn()
    assert ids[1] not in house.ledger.waiting


@pytest.mark.parametrize("carried_out", [True, False])
def test_a_removal_that_was_not_acknowledged_loses_nothing(carried_out: bool) -> None:
    house, ids = loaded()
    client = house.backends[0].client
    client.before["delete"] = raising(BackendUnclear("cut"))
    with pytest.raises(GateError) as caught:
        now(house.operations.recall(0))
    assert (caught.value.status, caught.value.type) == (504, "backend_timeout")
    del client.before["delete"]
    if carried_out:
        del client.items[1:]
    house.backends[0].tell()
    house.turn()
    assert house.ledger.remaining(0) == 4
    assert finish_all(house) == ids
    assert not house.books.recalling | house.books.recalled


def test_what_was_not_sent_changes_nothing() -> None:
    house, ids = loaded()
    house.backends[0].client.before["delete"] = raising(BackendUnreachable("refused"))
    with pytest.raises(GateError):
        now(house.operations.recall(0))
    assert finish_all(house) == ids
    assert not house.books.recalling | house.books.recalled


def on_its_way() -> tuple[House, list[str], Deferred[None]]:
    """A GPU that runs a prompt, and is being sent another; what that waits for."""
    house, ids = loaded(jobs=1)
    house.books.draining.clear()
    client = house.backends[0].client
    ids.append(accept(house, house.gates[0])["prompt_id"])
    client.pause = pause = Deferred()
    house.turn()
    house.books.draining.add(0)
    return house, ids, pause


def test_a_job_on_its_way_is_waited_for() -> None:
    house, ids, pause = on_its_way()
    _, results = later(house.operations.recall(0))
    house.backends[0].client.pause = None
    pause.callback(None)
    house.turn()
    assert results == [ids[1:]]
    assert finish_all(house) == ids


def test_a_job_that_does_not_arrive_is_not_waited_for_for_ever() -> None:
    house, ids, pause = on_its_way()
    _, results = later(house.operations.recall(0))
    house.backends[0].client.pause = None
    house.clock.advance(10.1)
    assert results == [[]]
    pause.callback(None)
    house.turn()
    assert finish_all(house) == ids


def test_a_gpu_that_serves_nothing_is_503_if_it_may_hold_something() -> None:
    house, _ = loaded()
    house.backends[0].become(BackendState.DOWN)
    assert now(house.operations.recall(0)) == []  # its queue died with it
    house, _ = loaded()
    house.backends[0].owned = False
    house.backends[0].become(BackendState.DOWN)
    with pytest.raises(GateError) as caught:
        now(house.operations.recall(0))
    assert (caught.value.status, caught.value.type) == (503, "backend_down")


def test_a_backend_that_dies_meanwhile_has_its_jobs_wait_once() -> None:
    house, ids = loaded()
    client = house.backends[0].client
    client.after["delete"] = lambda: house.backends[0].become(BackendState.DOWN)
    now(house.operations.recall(0))
    assert sorted(job.prompt_id for job in house.ledger.waiting) == sorted(ids)
    house.backends[0].become(BackendState.READY)
    assert finish_all(house) == ids


def test_a_prompt_that_is_cancelled_meanwhile_is_cancelled() -> None:
    house, ids = loaded(jobs=2)
    client = house.backends[0].client
    cancelling: list[Any] = []

    def cancel() -> None:
        cancelling.append(later(house.interrupts.prompt(ids[1]))[1])

    client.after["delete"] = cancel
    now(house.operations.recall(0))
    house.clock.pump([0.02] * 5)
    assert cancelling[0][0].state == "pending"
    ended = house.ledger.ended(ids[1])
    assert ended is not None
    assert ended.state is JobState.CANCELLED


def test_whoever_looks_at_the_queue_meanwhile_leaves_it_to_the_recall() -> None:
    house, ids = loaded(jobs=2, prefetch=2)
    house.books.draining.clear()
    client = house.backends[0].client

    def look() -> None:
        del client.before["history"]
        house.backends[0].tell()
        house.turn()

    client.before["history"] = look
    assert now(house.operations.recall(0)) == ids[1:]
    assert client.submitted == ids  # nobody has handed it over again yet
    assert ids[1] in house.ledger.waiting


def test_two_recalls_at_once_take_turns() -> None:
    house, ids = loaded()
    client = house.backends[0].client
    client.pause = pause = Deferred()
    first, second = (later(house.operations.recall(0))[1] for _ in range(2))
    client.pause = None
    pause.callback(None)
    house.turn()
    assert (first, second) == ([ids[1:]], [[]])
    assert client.asked.count("delete") == 1
