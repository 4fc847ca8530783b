"""The watchdog, on a clock that stands still, over a ComfyUI that is none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from comfygate.backend.evidence import STUCK_QUIET, Verdict, interval
from comfygate.backend.procfs import Usage
from comfygate.backend.watchdog import LOOK, SILENT, Watchdog
from comfygate.errors import BackendUnclear, BackendUnreachable, BackendUnusable
from comfygate.model import BackendQueue, QueueItem, RestartCause

ONE = (QueueItem(1, "a"),)


@define
class Patient:
    """Answers, does not, or says that something is wrong."""

    clock: Clock
    fault: Exception | None = None
    silent: bool = False
    answer: BackendQueue = field(factory=BackendQueue)
    listed: Callable[[BackendQueue], None] = lambda queue: None
    checks: list[float] = field(factory=list)
    lists: int = 0
    open: list[Deferred[None]] = field(factory=list)
    most_open: int = 0

    async def check(self, seconds: float) -> None:
        self.checks.append(self.clock.seconds())
        if self.silent:
            await self._never(seconds)
        if self.fault is not None:
            raise self.fault

    async def queue(self) -> BackendQueue:
        self.lists += 1
        if self.silent:
            await self._never(30.0)
        self.listed(self.answer)
        return self.answer

    async def _never(self, seconds: float) -> None:
        waiting: Deferred[None] = Deferred()
        waiting.addTimeout(seconds, self.clock, lambda result, seconds: result)
        self.open.append(waiting)
        self.most_open = max(self.most_open, sum(1 for one in self.open if not one.called))
        try:
            await waiting
        except Exception as error:
            raise BackendUnclear("no answer") from error


class World:
    def __init__(self, hang: float = 90.0, stall: float = 1800.0) -> None:
        self.clock = Clock()
        self.patient = Patient(self.clock)
        self.used: float | None = 5.0
        self.readings = 0
        self.verdicts: list[Verdict] = []
        self.dog = Watchdog(self.clock, self.patient, self.usage, hang, stall, self.verdicts.append)
        self.dog.start()

    def usage(self) -> Usage | None:
        self.readings += 1
        return None if self.used is None else Usage(self.used)

    def pass_time(self, seconds: float, step: float = 0.5) -> None:
        for _ in range(int(seconds / step)):
            self.clock.advance(step)

    @property
    def causes(self) -> list[RestartCause]:
        return [verdict.cause for verdict in self.verdicts]

    def end(self) -> None:
        self.dog.stop()
        assert self.clock.getDelayedCalls() == []
        assert all(one.called for one in self.patient.open)


def test_at_rest_it_asks_now_and_then_and_reads_nothing() -> None:
    world = World()
    world.pass_time(600)
    assert len(world.patient.checks) == 600 / interval(90.0)
    assert world.readings == world.patient.lists == 0
    assert world.verdicts == []
    world.end()


def test_one_that_stands_still() -> None:
    world = World()
    world.pass_time(61)
    world.patient.silent = True
    world.pass_time(89)
    assert world.verdicts == []
    world.pass_time(interval(90.0) + 1)
    assert world.causes == [RestartCause.HUNG]
    assert world.patient.most_open == 1
    assert len(world.patient.open) == 3
    world.pass_time(300)
    assert len(world.verdicts) == 1
    world.end()


def test_nothing_piles_up_on_one_that_computes() -> None:
    world = World()
    world.patient.silent = True
    for _ in range(3000):
        assert world.used is not None
        world.used += 1
        world.pass_time(1)
    assert world.verdicts == []
    assert len(world.patient.open) == 3  # of which the first two were given up
    world.patient.silent = False
    world.patient.open[-1].callback(None)
    world.pass_time(60)
    assert len(world.patient.checks) == 3 + 4
    world.end()


@pytest.mark.parametrize("fault", [BackendUnreachable("refused"), BackendUnclear("broken off")])
def test_refusals_are_no_answers(fault: Exception) -> None:
    world = World()
    world.patient.fault = fault
    world.pass_time(90 + 2 * interval(90.0))
    assert world.causes == [RestartCause.HUNG]
    world.end()


def test_an_error_is_an_answer() -> None:
    world = World()
    world.patient.fault = BackendUnusable("status 500")
    world.pass_time(600)
    assert world.verdicts == []
    world.end()


def test_one_that_is_gone_is_no_case() -> None:
    world = World()
    world.patient.silent = True
    world.used = None
    world.pass_time(600)
    assert world.verdicts == []
    world.end()


def test_never() -> None:
    world = World(hang=0.0, stall=0.0)
    world.patient.silent = True
    world.dog.queue_changed(1)
    world.pass_time(20_000, 10)
    assert world.verdicts == []
    assert world.patient.checks == []
    world.end()


def test_a_lost_worker_is_told_in_a_turn_of_its_own() -> None:
    world = World()
    world.dog.worker_lost("Exception in thread Thread-1 (prompt_worker)")
    world.dog.worker_lost("Exception in thread Thread-1 (prompt_worker)")
    assert world.verdicts == []
    world.clock.advance(0)
    assert world.causes == [RestartCause.STALLED]
    world.end()


def test_nothing_is_told_after_the_end() -> None:
    world = World()
    world.dog.worker_lost("Exception in thread Thread-1 (prompt_worker)")
    world.end()
    world.dog.worker_lost("again")
    world.dog.queue_changed(3)
    world.clock.advance(100)
    assert world.verdicts == []
    world.end()


def test_a_stuck_queue() -> None:
    world = World()
    world.patient.answer = BackendQueue((), ONE)
    world.dog.queue_changed(1)
    world.pass_time(SILENT + LOOK)
    assert world.patient.lists == 1  # nobody else has asked
    world.pass_time(STUCK_QUIET + 2 * LOOK)
    assert world.causes == [RestartCause.STALLED]
    world.end()


def test_what_others_ask_is_seen_too() -> None:
    world = World(hang=0.0)
    world.dog.queue_changed(2)
    for _ in range(100):
        world.dog.worker_moved()
        world.patient.listed(BackendQueue((), ONE))  # between two prompts
        world.patient.listed(BackendQueue(ONE, ONE))
        world.pass_time(2)
    assert world.patient.lists == 0
    world.patient.listed(BackendQueue((), ONE))
    world.patient.answer = BackendQueue((), ONE)
    world.pass_time(STUCK_QUIET + 2 * LOOK)
    assert world.causes == [RestartCause.STALLED]
    world.end()


def test_a_running_prompt_without_a_sign_of_life() -> None:
    world = World()
    world.patient.answer = BackendQueue(ONE, ())
    world.dog.queue_changed(1)
    world.pass_time(1000, 1)
    world.dog.worker_moved()
    world.dog.queue_changed(2)  # one more waits: that is no sign of life
    world.pass_time(1799, 1)
    assert world.verdicts == []
    world.pass_time(3 * 30, 1)
    assert world.causes == [RestartCause.STALLED]
    assert "no event for 18" in world.verdicts[0].reason
    world.end()


def test_an_idle_one_does_not_stall() -> None:
    world = World()
    world.dog.queue_changed(1)
    world.pass_time(100, 1)
    world.dog.queue_changed(0)
    lists, readings = world.patient.lists, world.readings
    world.pass_time(10_000, 10)
    assert (world.patient.lists, world.readings) == (lists, readings)
    assert world.verdicts == []
    world.end()


def test_one_that_does_not_answer_is_not_asked_for_its_queue() -> None:
    world = World(stall=0.0)
    world.dog.queue_changed(1)
    world.patient.silent = True
    world.pass_time(SILENT + LOOK)
    assert world.patient.lists == 1
    for _ in range(1000):
        assert world.used is not None
        world.used += 1
        world.pass_time(1)
    assert world.patient.lists == 1
    assert len(world.patient.open) == 4
    world.end()
