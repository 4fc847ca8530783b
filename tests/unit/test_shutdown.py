"""Between a SIGTERM and the end: what runs may end, the rest waits for the next daemon."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs, formatEvent

from comfygate.errors import BackendUnclear
from comfygate.model import BackendState, JobState
from comfygate.shutdown import Shutdown, hearing_signals
from tests.unit.fakes import House, raising
from tests.unit.test_control import submit


class End:
    """A shutdown that has begun."""

    def __init__(self, house: House, grace: float = 10.0) -> None:
        self.house = house
        self.shutdown = Shutdown(house.books, house.reconciler, house.operations.recall, grace)
        self.over = False
        Deferred.fromCoroutine(self.shutdown.wind_down()).addCallback(self._over)
        house.turn()

    def _over(self, result: None) -> None:
        self.over = True


@contextmanager
def logged() -> Iterator[list[str]]:
    """What is said about it."""
    said: list[str] = []
    with capturedLogs() as events:
        yield said
    texts = (str(formatEvent(event)) for event in events)
    said.extend(text for text in texts if text.startswith("stopping"))


def loaded(gpus: int = 2, jobs: int = 3) -> tuple[House, list[str]]:
    """Each GPU runs one of its prompts and holds another; the rest wait with us."""
    house = House(gpus)
    ids = [submit(house, gate)["prompt_id"] for gate in house.gates for _ in range(jobs)]
    for backend in house.backends:
        backend.tell()
    house.turn()
    return house, ids


def state(house: House, prompt_id: str) -> Any:
    ended = house.ledger.ended(prompt_id)
    return ended and ended.state


def test_if_nothing_runs_there_is_no_delay() -> None:
    with logged() as said:
        end = End(House())
    assert end.over
    assert said == []
    house = House(gpus=1)
    house.operations.drain([0])
    submit(house, house.gates[0])
    with logged() as said:
        assert End(house).over
    assert said == ["stopping: no prompt runs; prompts that wait: 1"]


def test_what_runs_may_end_and_what_waits_comes_back() -> None:
    with logged() as said:
        house, ids = loaded()
        end = End(house)
        assert [len(backend.client.items) for backend in house.backends] == [1, 1]
        assert not end.over
        house.finish(0)
        house.clock.advance(9.0)
        house.turn()
        assert not end.over
        house.finish(1)
        assert end.over
    assert [state(house, ids[0]), state(house, ids[3])] == [JobState.DONE, JobState.DONE]
    assert [job.prompt_id for job in house.ledger.waiting.of_gate("gpu-0")] == ids[1:3]
    assert [job.prompt_id for job in house.ledger.waiting.of_gate("gpu-1")] == ids[4:]
    assert said == [
        "stopping: prompts that run: 2, that wait: 4; those that run get 10 s",
        "stopping: 2 ended, 0 will run again after the next start",
    ]
    assert {job.attempts for job in house.ledger.waiting} == {0}


def test_what_has_not_ended_in_time_waits_again_and_is_not_to_blame() -> None:
    with logged() as said:
        house, ids = loaded()
        end = End(house)
        house.finish(0)
        house.clock.advance(10.1)
        assert end.over
    assert said[1] == "stopping: 1 ended, 1 will run again after the next start"
    end.shutdown.let_wait()
    assert not house.ledger.held_by(0) + house.ledger.held_by(1)
    runs = house.ledger.waiting.get(ids[3])
    assert (runs.attempts, runs.deaths) == (1, 0)
    assert [job.prompt_id for job in house.ledger.waiting.of_gate("gpu-1")] == ids[3:]
    house.turn()
    assert house.backends[1].client.submitted == ids[3:5]


def test_told_once_more_it_ends_at_once() -> None:
    house, _ = loaded()
    end = End(house)
    end.shutdown.hurry()
    end.shutdown.hurry()
    house.turn()
    assert end.over


def test_told_once_more_before_anyone_waits_it_ends_at_once_too() -> None:
    house, _ = loaded()
    shutdown = Shutdown(house.books, house.reconciler, house.operations.recall, 10.0)
    shutdown.hurry()
    assert Deferred.fromCoroutine(shutdown.wind_down()).called


def test_without_grace_it_ends_at_once() -> None:
    house, ids = loaded(gpus=1)
    end = End(house, grace=0.0)
    assert end.over
    end.shutdown.let_wait()
    assert [job.prompt_id for job in house.ledger.waiting.of_gate("gpu-0")] == ids


def test_a_backend_that_says_nothing_holds_nothing_up() -> None:
    house, ids = loaded(gpus=1)
    client = house.backends[0].client
    client.pause = pause = Deferred()
    end = End(house)
    house.clock.advance(10.1)
    assert end.over
    end.shutdown.let_wait()
    client.pause = None
    pause.callback(None)
    house.turn()
    assert [job.prompt_id for job in house.ledger.waiting.of_gate("gpu-0")] == ids
    assert [job.attempts for job in house.ledger.waiting.of_gate("gpu-0")] == [1, 0, 0]


def test_a_backend_that_gives_nothing_back_runs_what_it_can() -> None:
    house, ids = loaded(gpus=1)
    house.backends[0].client.before["delete"] = raising(BackendUnclear("cut"))
    end = End(house)
    assert house.finish(0) == ids[0]
    assert house.finish(0) == ids[1]
    assert end.over
    assert house.backends[0].client.items == []


def test_one_that_dies_meanwhile_holds_nothing_up() -> None:
    house, ids = loaded(gpus=1)
    end = End(house)
    house.backends[0].become(BackendState.DOWN)
    house.turn()
    assert end.over
    assert [job.prompt_id for job in house.ledger.waiting.of_gate("gpu-0")] == ids


def test_what_a_comfyui_of_somebody_else_runs_goes_on_there() -> None:
    with logged() as said:
        house, ids = loaded(gpus=1)
        house.backends[0].owned = False
        end = End(house)
        house.clock.advance(10.1)
        assert end.over
    assert said[1].endswith("0 ended, 0 will run again after the next start, 1 go on in a ComfyUI that is not ours")
    end.shutdown.let_wait()
    held = house.ledger.held(ids[0])
    assert held is not None
    assert held.state is JobState.RUNNING


def test_one_that_clients_saw_end_does_not_run_again() -> None:
    house, ids = loaded(gpus=1)
    end = End(house)
    house.ledger.finish(ids[0])
    house.clock.advance(10.1)
    end.shutdown.let_wait()
    assert state(house, ids[0]) is JobState.UNKNOWN


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_further_signal_is_heard(number: int) -> None:
    class Reactor:
        def callFromThread(self, told: Any) -> None:
            told()

    heard: list[int] = []
    before = signal.getsignal(number)
    with hearing_signals(Reactor(), lambda: heard.append(number)):
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
    assert heard == [number, number]
    assert signal.getsignal(number) is before
