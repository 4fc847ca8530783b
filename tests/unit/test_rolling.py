"""ComfyUIs are started again one after the other, under work, and nothing is lost."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from comfygate.control.operations import RestartStep
from comfygate.errors import BackendUnclear, GateError
from comfygate.model import BackendState
from tests.unit.fakes import House, new_id, raising
from tests.unit.test_control import submit


class Roll:
    """A restart: the steps that were told, and what came of it."""

    def __init__(self, house: House, *gpu_ids: int, now: bool = False) -> None:
        self.steps: list[RestartStep] = []
        self.results: list[Any] = []
        self.asked = house.operations.restart(gpu_ids, now=now, tell=self.steps.append)
        self.asked.addBoth(self.results.append)
        house.turn()

    @property
    def said(self) -> list[tuple[int, str]]:
        return [(step.gpu_id, step.step) for step in self.steps]

    @property
    def error(self) -> GateError:
        assert isinstance(self.results[0], Failure)
        assert isinstance(self.results[0].value, GateError)
        return self.results[0].value


def loaded(gpus: int = 2) -> tuple[House, list[str]]:
    """Each GPU runs one prompt and holds one; as many wait with us, for any of them."""
    house = House(gpus)
    ids = [submit(house, house.hub)["prompt_id"] for _ in range(3 * gpus)]
    for backend in house.backends:
        backend.tell()
    house.turn()
    return house, ids


def come_back(house: House, gpu_id: int) -> None:
    house.backends[gpu_id].become(BackendState.READY)
    house.turn()


def ran(house: House, *gpu_ids: int) -> list[str]:
    """Let everything end that runs and waits on these; say what ran."""
    done = []
    while any(house.backends[gpu_id].client.items for gpu_id in gpu_ids):
        done += [house.finish(gpu_id) for gpu_id in gpu_ids if house.backends[gpu_id].client.items]
    return done


def test_one_after_the_other_and_only_when_its_prompt_has_ended() -> None:
    house, ids = loaded()
    runs = [backend.client.items[0][1] for backend in house.backends]
    roll = Roll(house, 0, 1)
    assert roll.said == [(0, "draining")]
    assert roll.steps[0].detail == f"{runs[0]} runs"
    assert [item[1] for item in house.backends[0].client.items] == runs[:1]
    done = [house.finish(0)]
    assert roll.said == [(0, "draining"), (0, "stopping"), (0, "starting")]
    assert (house.backends[0].restarts, house.backends[1].restarts) == (1, 0)
    done.append(house.finish(1))
    assert len(roll.said) == 3
    come_back(house, 0)
    assert roll.said[3:] == [(0, "ready"), (1, "draining")]
    assert house.books.draining == {1}
    done.append(house.finish(1))
    come_back(house, 1)
    assert roll.said[5:] == [(1, "stopping"), (1, "starting"), (1, "ready")]
    assert roll.results == [None]
    assert house.books.draining == set()
    done += ran(house, 0, 1)
    assert sorted(done) == sorted(ids)


def test_now_cuts_off_what_runs_and_it_runs_again() -> None:
    house, ids = loaded()
    cut_off = house.backends[0].client.items[0][1]
    roll = Roll(house, 0, now=True)
    assert roll.said == [(0, "draining"), (0, "stopping"), (0, "starting")]
    assert roll.steps[1].detail == f"{cut_off} is cut off, and will run again"
    done = [house.finish(1) for _ in range(2)]
    come_back(house, 0)
    assert roll.results == [None]
    done += ran(house, 0, 1)
    assert sorted(done) == sorted(ids)


def test_one_that_the_operator_has_drained_stays_drained() -> None:
    house = House()
    house.operations.drain([0])
    Roll(house, 0, 1)
    come_back(house, 0)
    come_back(house, 1)
    assert house.books.draining == {0}
    assert house.remembered == [frozenset({0})]


def test_one_that_was_given_up_ends_the_restart_and_the_rest_is_not_touched() -> None:
    house = House(3)
    roll = Roll(house, 0, 1, 2)
    house.backends[0].last_error = "exited with status 1"
    house.backends[0].become(BackendState.FAILED)
    house.turn()
    assert roll.said == [(0, "draining"), (0, "stopping"), (0, "starting"), (0, "failed")]
    error = roll.error
    assert (error.status, error.type, error.message) == (502, "restart_failed", "GPU 0 failed to start")
    assert error.details == "exited with status 1 Not restarted: GPU 1, 2."
    assert error.extra_info == {"gpu_id": 0, "not_restarted": [1, 2]}
    assert [backend.restarts for backend in house.backends] == [1, 0, 0]
    assert house.books.draining == set()


def test_one_that_does_not_become_ready_in_time_ends_the_restart() -> None:
    house = House()
    roll = Roll(house, 1, 0)
    house.backends[1].become(BackendState.DOWN)
    house.backends[1].become(BackendState.STARTING)
    house.clock.advance(59.0)
    house.turn()
    assert not roll.results
    house.clock.advance(1.1)
    assert (roll.error.status, roll.error.type) == (504, "restart_failed")
    assert roll.steps[-1] == RestartStep(1, "failed", "GPU 1 was not ready within 60 s")
    assert house.backends[0].restarts == 0


def test_one_that_is_down_or_was_given_up_is_started() -> None:
    house = House()
    house.backends[0].become(BackendState.DOWN)
    house.backends[1].become(BackendState.FAILED)
    roll = Roll(house, 0, 1)
    come_back(house, 0)
    come_back(house, 1)
    assert roll.results == [None]


def test_one_that_dies_while_its_prompt_is_waited_for_is_started() -> None:
    house, ids = loaded()
    roll = Roll(house, 0)
    house.backends[0].become(BackendState.DOWN)
    house.turn()
    assert roll.said[-1] == (0, "starting")
    come_back(house, 0)
    assert roll.results == [None]
    assert sorted(ran(house, 0, 1)) == sorted(ids)


def test_one_that_does_not_give_back_what_waits_is_restarted_all_the_same() -> None:
    house, ids = loaded()
    house.backends[0].client.before["queue"] = raising(BackendUnclear("no answer"))
    roll = Roll(house, 0, now=True)
    assert roll.said[-1] == (0, "starting")
    come_back(house, 0)
    assert sorted(ran(house, 0, 1)) == sorted(ids)


def test_a_prompt_of_somebody_else_is_waited_for_too() -> None:
    house = House(1)
    house.backends[0].client.items.append([0, new_id(), {}, {}, []])
    house.backends[0].tell()
    house.turn()
    roll = Roll(house, 0)
    assert roll.said == [(0, "draining")]
    house.finish(0)
    assert roll.said[-1] == (0, "starting")


def test_a_second_restart_is_refused_while_the_first_goes_on() -> None:
    house = House()
    Roll(house, 0)
    with pytest.raises(GateError) as caught:
        house.operations.restart([1])
    assert (caught.value.status, caught.value.type) == (409, "restart_under_way")
    come_back(house, 0)
    again = Roll(house, 1)
    come_back(house, 1)
    assert again.results == [None]


def test_it_goes_on_when_whoever_asked_has_left() -> None:
    house = House()
    roll = Roll(house, 0, 1)
    roll.asked.cancel()
    assert isinstance(roll.results[0].value, CancelledError)
    come_back(house, 0)
    come_back(house, 1)
    assert [backend.restarts for backend in house.backends] == [1, 1]
    assert roll.said[-1] == (1, "ready")
    # Also when it fails, nobody is left to be told.
    roll = Roll(house, 0)
    roll.asked.cancel()
    house.backends[0].become(BackendState.FAILED)
    house.turn()
    assert roll.said[-1] == (0, "failed")


def test_a_listener_that_fails_stops_nothing() -> None:
    house = House()

    def fail(step: RestartStep) -> None:
        raise ConnectionError("gone")

    done: list[object] = []
    house.operations.restart([0], tell=fail).addBoth(done.append)
    house.turn()
    come_back(house, 0)
    assert done == [None]


def test_the_end_of_the_daemon_ends_it() -> None:
    house, _ = loaded()
    roll = Roll(house, 0, 1)
    house.books.close(10)
    house.operations.close()
    house.turn()
    assert (roll.error.status, roll.error.type) == (503, "stopping")
    assert house.backends[0].restarts == 0
    with pytest.raises(GateError) as caught:
        house.operations.restart([0])
    assert caught.value.type == "stopping"


def test_an_end_of_the_daemon_starts_no_comfyui_that_was_being_ended() -> None:
    house = House(1)
    ending: Deferred[None] = Deferred()
    started: list[object] = []
    house.backends[0].restart = lambda: ending.addCallback(started.append)  # type: ignore[assignment,method-assign]
    Roll(house, 0)
    house.operations.close()
    ending.callback(None)
    assert started == []


def test_each_gpu_once_and_only_those_there_are() -> None:
    house = House()
    roll = Roll(house, 1, 1)
    come_back(house, 1)
    assert (roll.results, house.backends[1].restarts) == ([None], 1)
    assert Roll(house).results == [None]
    with pytest.raises(GateError) as caught:
        house.operations.restart([0, 5])
    assert (caught.value.status, caught.value.type) == (404, "unknown_gpu")
    assert house.backends[0].restarts == 0
