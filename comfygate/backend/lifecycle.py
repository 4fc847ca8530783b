"""The life of one ComfyUI process, as a state machine without I/O.

Whoever uses it supplies :class:`Effects`; :mod:`comfygate.backend.managed` is
the real one.  docs/lifecycle.md shows the picture.  The timer that runs in a
state is that state's data, so that it is there exactly as long as the state.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Protocol

from attrs import define, field
from automat import TypeMachineBuilder
from twisted.application.internet import backoffPolicy
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from comfygate.model import BackendState, RestartCause

DEATHS = 5
"""Deaths in a row before it was ready, after which it is given up."""

STABLE = 60.0
"""Seconds of being ready after which the next death counts as the first."""


DELAYS = backoffPolicy(initialDelay=1.0, maxDelay=60.0, factor=2.0)
"""Seconds before the n-th try in a row: 1, 2, 4, …, and up to 1 s of chance."""


class Attempt(Protocol):
    """One try at running the process.

    It tells the machine :meth:`Events.ready` at most once, and
    :meth:`Events.exited` exactly once, when nothing of it is left.
    """

    def terminate(self) -> None:
        """Ask it to end.  Must not raise."""

    def kill(self) -> None:
        """End it now.  Must not raise."""


class Events(Protocol):
    """What can happen to a backend: the inputs of the machine."""

    def start(self) -> None:
        """It is wanted."""

    def stop(self) -> None:
        """It is no longer wanted."""

    def ready(self) -> None:
        """The attempt answers requests."""

    def exited(self, reason: str) -> None:
        """Nothing of the attempt is left."""

    def late(self) -> None:
        """The attempt has had all the time to become ready that it may have."""

    def proven(self) -> None:
        """It has been ready for so long that its past is forgotten."""

    def unyielding(self) -> None:
        """It was asked to end, and has had the time to."""

    def retry(self) -> None:
        """The time to try again has come."""

    def again(self, delay: float) -> None:
        """The verdict over a death: try again after `delay` seconds."""

    def give_up(self) -> None:
        """The verdict over a death: a person has to look at it."""


class Effects(Protocol):
    """What the machine does to the world."""

    def attempt(self, events: Events) -> Attempt:
        """Begin to run the process.  Must not raise."""

    def changed(self) -> None:
        """The state has changed.  Must not raise."""


@define(kw_only=True)
class Record:
    """What is known about a backend in every state.

    :ivar start_timeout: seconds from the start until it has to be ready.
    :ivar stop_grace: seconds between asking it to end and killing it.
    :ivar delays: seconds to wait before the n-th try in a row, n from 0.
    :ivar reason: why it is not READY, or ``None``.
    :ivar starts: attempts so far.
    :ivar failures: deaths since it was last READY for long.
    :ivar early: deaths in a row before it was READY.
    :ivar retry_at: when it will be tried again, while DOWN.
    :ivar cause: why it is to be started again, if it is.
    :ivar restarts: how often it was started again, for which cause.
    """

    clock: IReactorTime
    effects: Effects
    start_timeout: float = 600.0
    stop_grace: float = 5.0
    delays: Callable[[int], float] = DELAYS
    state: BackendState = BackendState.STOPPED
    reason: str | None = None
    starts: int = 0
    failures: int = 0
    early: int = 0
    retry_at: float = 0.0
    cause: RestartCause = RestartCause.REQUESTED
    restarts: Counter[RestartCause] = field(factory=Counter)
    attempt: Attempt | None = None
    waiting_for_end: list[Deferred[None]] = field(factory=list)

    def enter(self, state: BackendState) -> None:
        """Say where it is now."""
        self.state = state
        self.effects.changed()

    def terminate(self) -> None:
        """Ask the attempt to end."""
        if self.attempt is not None:
            self.attempt.terminate()

    def kill(self) -> None:
        """End the attempt."""
        if self.attempt is not None:
            self.attempt.kill()


def _begin(events: Events, record: Record) -> IDelayedCall:
    record.starts += 1
    record.attempt = record.effects.attempt(events)
    return record.clock.callLater(record.start_timeout, events.late)


def _prove(events: Events, record: Record) -> IDelayedCall:
    return record.clock.callLater(STABLE, events.proven)


def _insist(events: Events, record: Record) -> IDelayedCall:
    return record.clock.callLater(record.stop_grace, events.unyielding)


def _wait(events: Events, record: Record, delay: float) -> IDelayedCall:
    record.retry_at = record.clock.seconds() + delay
    return record.clock.callLater(delay, events.retry)


_machine = TypeMachineBuilder(Events, Record)

Stopped = _machine.state("Stopped")
Starting = _machine.state("Starting", _begin)
Overdue = _machine.state("Overdue")
Ready = _machine.state("Ready", _prove)
Settled = _machine.state("Settled")
Judging = _machine.state("Judging")
Down = _machine.state("Down", _wait)
Failed = _machine.state("Failed")
Stopping = _machine.state("Stopping", _insist)
Killing = _machine.state("Killing")


@Stopped.upon(Events.start).to(Starting)
def start(events: Events, record: Record) -> None:
    """Begin."""
    record.enter(BackendState.STARTING)


@Failed.upon(Events.start).to(Starting)
def start_afresh(events: Events, record: Record) -> None:
    """Begin again after a person has looked at it."""
    record.early = record.failures = 0
    record.restarts[RestartCause.REQUESTED] += 1
    record.enter(BackendState.STARTING)


@Down.upon(Events.retry).to(Starting)
def restart(events: Events, record: Record, timer: IDelayedCall) -> None:
    """Begin again."""
    record.restarts[record.cause] += 1
    record.enter(BackendState.STARTING)


@Starting.upon(Events.ready).to(Ready)
def become_ready(events: Events, record: Record, timer: IDelayedCall) -> None:
    """Serve requests."""
    timer.cancel()
    record.early = 0
    record.reason = None
    record.enter(BackendState.READY)


@Starting.upon(Events.late).to(Overdue)
def end_the_late(events: Events, record: Record, timer: IDelayedCall) -> None:
    """Kill what does not become ready."""
    record.kill()


@Ready.upon(Events.proven).to(Settled)
def forget_the_past(events: Events, record: Record, timer: IDelayedCall) -> None:
    """Let the next death count as the first."""
    record.failures = 0


@Starting.upon(Events.exited).to(Judging)
def die_early(events: Events, record: Record, timer: IDelayedCall, reason: str) -> None:
    """Judge a death before it was ready."""
    timer.cancel()
    record.cause = RestartCause.START_FAILED
    _judge_early(events, record, reason)


@Overdue.upon(Events.exited).to(Judging)
def die_late(events: Events, record: Record, reason: str) -> None:
    """Judge one that never became ready."""
    record.cause = RestartCause.START_TIMEOUT
    _judge_early(events, record, f"was not ready after {record.start_timeout:g} s")


@Ready.upon(Events.exited).to(Judging)
def die_ready(events: Events, record: Record, timer: IDelayedCall, reason: str) -> None:
    """Judge a crash."""
    timer.cancel()
    record.cause = RestartCause.EXITED
    _judge(events, record, reason)


@Settled.upon(Events.exited).to(Judging)
def die_settled(events: Events, record: Record, reason: str) -> None:
    """Judge a crash after a long time."""
    record.cause = RestartCause.EXITED
    _judge(events, record, reason)


def _judge_early(events: Events, record: Record, reason: str) -> None:
    record.early += 1
    if record.early < DEATHS:
        _judge(events, record, reason)
    else:
        record.reason = reason
        events.give_up()


def _judge(events: Events, record: Record, reason: str) -> None:
    record.reason = reason
    record.failures += 1
    events.again(record.delays(record.failures - 1))


@Judging.upon(Events.again).to(Down)
def back_off(events: Events, record: Record, delay: float) -> None:
    """Wait before the next try."""
    record.attempt = None
    record.enter(BackendState.DOWN)


@Judging.upon(Events.give_up).to(Failed)
def fail(events: Events, record: Record) -> None:
    """Wait for a person."""
    record.attempt = None
    record.enter(BackendState.FAILED)


@Starting.upon(Events.stop).to(Stopping)
@Ready.upon(Events.stop).to(Stopping)
def end_timed(events: Events, record: Record, timer: IDelayedCall) -> None:
    """Ask the process to end."""
    timer.cancel()
    _end(record)


@Settled.upon(Events.stop).to(Stopping)
def end(events: Events, record: Record) -> None:
    """Ask the process to end."""
    _end(record)


@Overdue.upon(Events.stop).to(Killing)
def await_end(events: Events, record: Record) -> None:
    """Wait for the end of a process that was killed already."""
    record.enter(BackendState.STOPPING)


def _end(record: Record) -> None:
    record.enter(BackendState.STOPPING)
    record.terminate()


@Stopping.upon(Events.unyielding).to(Killing)
def insist(events: Events, record: Record, timer: IDelayedCall) -> None:
    """Kill what did not end when it was asked to."""
    record.kill()


@Stopping.upon(Events.exited).to(Stopped)
def ended(events: Events, record: Record, timer: IDelayedCall, reason: str) -> None:
    """Rest."""
    timer.cancel()
    _rest(record)


@Killing.upon(Events.exited).to(Stopped)
def killed(events: Events, record: Record, reason: str) -> None:
    """Rest."""
    _rest(record)


@Down.upon(Events.stop).to(Stopped)
def cancel_retry(events: Events, record: Record, timer: IDelayedCall) -> None:
    """Do not try again."""
    timer.cancel()
    _rest(record)


@Failed.upon(Events.stop).to(Stopped)
@Stopped.upon(Events.stop).loop()
def rest(events: Events, record: Record) -> None:
    """Rest."""
    _rest(record)


def _rest(record: Record) -> None:
    record.attempt = None
    if record.state is not BackendState.STOPPED:
        record.enter(BackendState.STOPPED)
    waiting, record.waiting_for_end = record.waiting_for_end, []
    for one in waiting:
        one.callback(None)


for _state in (Starting, Overdue, Ready, Settled, Down, Stopping, Killing):
    _state.upon(Events.start).loop().returns(None)  # wanted already, or not before the end
for _state in (Stopping, Killing):
    _state.upon(Events.stop).loop().returns(None)  # under way
for _state in (Overdue, Stopping, Killing):
    _state.upon(Events.ready).loop().returns(None)  # too late

machine = _machine.build()


class Lifecycle:
    """One life: what a backend tells it, and what it knows."""

    def __init__(self, record: Record) -> None:
        self.record = record
        self._events = machine(record)

    def start(self) -> None:
        """Bring the process up and keep it up; without effect while it is being stopped."""
        self._events.start()

    def stop(self) -> Deferred[None]:
        """End the process for good; fires when nothing of it is left."""
        done: Deferred[None] = Deferred()
        self.record.waiting_for_end.append(done)
        self._events.stop()
        return done
