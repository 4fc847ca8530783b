"""A backend is ended for good when what it runs has ended."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import CancelledError, Deferred

from comfygate.model import BackendState, JobState
from tests.unit.fakes import House
from tests.unit.test_control import submit


def retire(house: House, gpu_id: int) -> tuple[Deferred[None], list[Any]]:
    done: list[Any] = []
    retiring = house.operations.retire(gpu_id)
    retiring.addBoth(done.append)
    house.turn()
    return retiring, done


def test_what_runs_ends_and_what_waits_there_comes_back() -> None:
    house = House()
    runs, waits = (submit(house, house.gates[1])["prompt_id"] for _ in range(2))
    house.backends[1].tell()
    house.turn()
    _, done = retire(house, 1)
    assert waits in house.ledger.waiting
    assert done == []
    assert house.backends[1].state is BackendState.READY
    assert house.finish(1) == runs
    assert done == [None]
    assert house.backends[1].state is BackendState.STOPPED
    ended = house.ledger.ended(runs)
    assert ended is not None
    assert ended.state is JobState.DONE
    assert waits in house.ledger.waiting


def test_one_that_is_down_is_ended_at_once() -> None:
    for state in (BackendState.DOWN, BackendState.FAILED, BackendState.STARTING):
        house = House()
        prompt_id = submit(house, house.gates[1])["prompt_id"]
        house.backends[1].become(state)
        _, done = retire(house, 1)
        assert done == [None]
        assert prompt_id in house.ledger.waiting


def test_someone_elses_that_does_not_answer_is_waited_for_since_it_may_run_on() -> None:
    house = House()
    house.backends[1].owned = False
    runs = submit(house, house.gates[1])["prompt_id"]
    house.backends[1].tell()
    house.turn()
    client = house.backends[1].client
    house.backends[1].become(BackendState.DOWN)
    _, done = retire(house, 1)
    assert done == []
    assert house.ledger.held(runs) is not None
    house.backends[1].client = client
    house.backends[1].become(BackendState.READY)
    house.turn()
    assert house.finish(1) == runs
    assert done == [None]


def test_it_works_on_if_it_is_wanted_after_all() -> None:
    house = House()
    submit(house, house.gates[1])
    house.backends[1].tell()
    house.turn()
    retiring, done = retire(house, 1)
    assert house.books.draining == {1}
    retiring.cancel()
    assert done[0].check(CancelledError)
    assert house.books.draining == set()
    assert house.backends[1].state is BackendState.READY


def test_the_next_one_with_its_number_is_not_drained() -> None:
    house = House()
    house.operations.drain([1])
    retire(house, 1)
    assert house.books.draining == set()
    assert house.remembered[-1] == frozenset()


def test_a_restart_passes_over_what_leaves_meanwhile_and_goes_on() -> None:
    house = House(3)
    for gate in house.gates[:2]:
        submit(house, gate)
    for backend in house.backends:
        backend.tell()
    house.turn()
    steps: list[tuple[int, str]] = []
    house.operations.restart([0, 1, 2], tell=lambda step: steps.append((step.gpu_id, step.step)))
    house.turn()
    _, done = retire(house, 0)
    assert steps == [(0, "draining"), (1, "draining")]
    house.finish(0)
    assert done == [None]
    house.books.fleet.remove(0)
    house.finish(1)
    house.backends[1].become(BackendState.READY)
    house.turn()
    house.backends[2].become(BackendState.READY)
    house.turn()
    assert steps[-2:] == [(2, "starting"), (2, "ready")]
    assert house.backends[0].state is BackendState.STOPPED


def test_it_stays_drained_when_a_restart_of_it_is_over() -> None:
    house = House()
    submit(house, house.gates[1])
    house.backends[1].tell()
    house.turn()
    restarting = house.operations.restart([1])
    _, done = retire(house, 1)
    assert restarting.called
    assert house.books.draining == {1}
    house.finish(1)
    assert done == [None]
