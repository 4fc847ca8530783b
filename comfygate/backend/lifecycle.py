"""The life of one ComfyUI process, as a state machine without I/O.

Whoever uses it supplies :class:`~comfygate.backend.record.Effects`;
:mod:`comfygate.backend.managed` is the real one.  docs/lifecycle.md shows the picture.  The timer that runs in a
state is that state's data, so that it is there exactly as long as the state.
"""

from __future__ import annotations

from automat import TypeMachineBuilder
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall

from comfygate.backend.record import DEATHS, STABLE, Events, Record
from comfygate.model import BackendState, RestartCause

REQUEST = "it is restarted as somebody asked"


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
Restarting = _machine.state("Restarting", _insist)
Condemned = _machine.state("Condemned")
Stopping = _machine.state("Stopping", _insist)
Killing = _machine.state("Killing")


@Stopped.upon(Events.start).to(Starting)
@Stopped.upon(Events.restart).to(Starting)
@Failed.upon(Events.start).to(Starting)
@Failed.upon(Events.restart).to(Starting)
def start_afresh(events: Events, record: Record) -> None:
    """Begin, as somebody asked."""
    record.forget()
    if record.starts > 1:
        record.restarts[RestartCause.REQUESTED] += 1
    record.enter(BackendState.STARTING)


@Down.upon(Events.retry).to(Starting)
def start_again(events: Events, record: Record, timer: IDelayedCall) -> None:
    """Begin again."""
    record.restarts[record.cause] += 1
    record.enter(BackendState.STARTING)


@Down.upon(Events.restart).to(Starting)
def start_now(events: Events, record: Record, timer: IDelayedCall) -> None:
    """Begin again, without further delay."""
    timer.cancel()
    record.forget()
    record.restarts[RestartCause.REQUESTED] += 1
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
    record.forget()


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


@Ready.upon(Events.condemn).to(Condemned)
def condemn_timed(events: Events, record: Record, timer: IDelayedCall, cause: RestartCause, reason: str) -> None:
    """Kill what cannot be helped."""
    timer.cancel()
    _condemn(record, cause, reason)


@Settled.upon(Events.condemn).to(Condemned)
def condemn(events: Events, record: Record, cause: RestartCause, reason: str) -> None:
    """Kill what cannot be helped."""
    _condemn(record, cause, reason)


def _condemn(record: Record, cause: RestartCause, reason: str) -> None:
    record.cause, record.reason = cause, reason
    record.enter(BackendState.STOPPING)
    record.kill()


@Starting.upon(Events.restart).to(Restarting)
@Ready.upon(Events.restart).to(Restarting)
def replace_timed(events: Events, record: Record, timer: IDelayedCall) -> None:
    """Ask the process to make room for the next."""
    timer.cancel()
    _replace(record)


@Settled.upon(Events.restart).to(Restarting)
def replace(events: Events, record: Record) -> None:
    """Ask the process to make room for the next."""
    _replace(record)


def _replace(record: Record) -> None:
    record.reason = REQUEST
    record.forget()
    _end(record)


@Overdue.upon(Events.restart).to(Condemned)
def replace_the_late(events: Events, record: Record) -> None:
    """Wait for the end of a process that was killed already."""
    record.forget()
    _condemn(record, RestartCause.REQUESTED, REQUEST)


@Restarting.upon(Events.unyielding).to(Condemned)
def insist_on_restart(events: Events, record: Record, timer: IDelayedCall) -> None:
    """Kill what did not end when it was asked to."""
    record.kill()


@Condemned.upon(Events.restart).loop()
def hurry(events: Events, record: Record) -> None:
    """It will be started again in any case, for its first cause; soon, since somebody asked."""
    record.forget()


@Restarting.upon(Events.exited).to(Judging)
def die_on_request(events: Events, record: Record, timer: IDelayedCall, reason: str) -> None:
    """Go on to the next process."""
    timer.cancel()
    events.again(0.0)


@Condemned.upon(Events.exited).to(Judging)
def die_condemned(events: Events, record: Record, reason: str) -> None:
    """Judge one that was killed: why is known already."""
    if record.cause is RestartCause.REQUESTED:
        events.again(0.0)
    else:
        _judge(events, record, record.reason or reason)


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


@Restarting.upon(Events.stop).to(Stopping)
def end_for_good(events: Events, record: Record, timer: IDelayedCall) -> None:
    """Let no other process follow."""
    timer.cancel()


@Condemned.upon(Events.stop).to(Killing)
def stay_dead(events: Events, record: Record) -> None:
    """Let no other process follow."""


@Settled.upon(Events.stop).to(Stopping)
def end(events: Events, record: Record) -> None:
    """Ask the process to end."""
    _end(record)


@Overdue.upon(Events.stop).to(Killing)
def await_end(events: Events, record: Record) -> None:
    """Wait for the end of a process that was killed already."""
    record.cause = RestartCause.REQUESTED
    record.enter(BackendState.STOPPING)


def _end(record: Record) -> None:
    record.cause = RestartCause.REQUESTED
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
    record.tell_of_end()


for _state in (Starting, Overdue, Ready, Settled, Down, Restarting, Condemned, Stopping, Killing):
    _state.upon(Events.start).loop().returns(None)  # wanted already, or not before the end
for _state in (Stopping, Killing):
    _state.upon(Events.stop).loop().returns(None)  # under way
for _state in (Restarting, Stopping, Killing):
    _state.upon(Events.restart).loop().returns(None)  # under way; or a stop, which wins
for _state in (Overdue, Down, Failed, Stopped, Restarting, Condemned, Stopping, Killing):
    _state.upon(Events.ready).loop().returns(None)  # too late
for _state in (Starting, Overdue, Down, Failed, Stopped, Restarting, Condemned, Stopping, Killing):
    _state.upon(Events.condemn).loop().returns(None)  # there is no process that serves

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
        self.record.wanted = False
        self._events.stop()
        return done

    def restart(self) -> Deferred[None]:
        """Put a new process in the place of this one, whatever state it is in.

        :return: fires when it has been started, or when somebody has stopped it
            instead: a stop wins, whichever came first.
        """
        done: Deferred[None] = Deferred()
        self.record.waiting_for_start.append(done)
        self._events.restart()
        return done

    def condemn(self, cause: RestartCause, reason: str) -> None:
        """Kill the process, and start another; without effect unless it serves requests."""
        self._events.condemn(cause, reason)
