"""What the life of one ComfyUI process is made of: what can happen to it, what it does, and what is known of it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from attrs import define, field
from twisted.application.internet import backoffPolicy
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from comfygate.model import BackendState, RestartCause

DEATHS = 5
"""Deaths in a row before it was ready, after which it is given up."""

STABLE = 60.0
"""Seconds of being ready after which the next death counts as the first."""

CHANCE = 1.0
"""Seconds of chance in a delay, at most; never more than the first delay."""


def delays(first: float, largest: float) -> Callable[[int], float]:
    """Seconds before the n-th try in a row, n from 0: `first`, twice that, …, `largest` at most, and some chance.

    Chance keeps all GPUs from loading their models at the same moment after a
    common mishap.
    """
    chance = min(CHANCE, first)
    return backoffPolicy(first, max(first, largest), 2.0, jitter=lambda: random.random() * chance)


DELAYS = delays(1.0, 60.0)


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

    def restart(self) -> None:
        """A new process is wanted in place of this one, or of none."""

    def condemn(self, cause: RestartCause, reason: str) -> None:
        """There is evidence that only a new process will serve again."""

    def ready(self) -> None:
        """The attempt answers requests."""

    def exited(self, reason: str) -> None:
        """Nothing of the attempt is left."""

    def late(self) -> None:
        """The attempt has had all the time to become ready that it may have."""

    def proven(self) -> None:
        """It has been ready for so long that its past is forgotten."""

    def unyielding(self) -> None:
        """It was asked to end, and has had the time for that."""

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
    :ivar cause: why it went down last, or is going down.
    :ivar wanted: whether another process is to follow this one.
    :ivar restarts: how often it was started again, for which cause.
    :ivar waiting_for_end: told when it is at rest.
    :ivar waiting_for_start: told when it has been started again, or is at rest.
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
    wanted: bool = False
    restarts: Counter[RestartCause] = field(factory=Counter)
    attempt: Attempt | None = None
    waiting_for_end: list[Deferred[None]] = field(factory=list)
    waiting_for_start: list[Deferred[None]] = field(factory=list)

    def enter(self, state: BackendState) -> None:
        """Say where it is now."""
        self.state = state
        self.wanted = self.wanted or state is BackendState.STARTING
        self.effects.changed()
        if state is BackendState.STARTING:
            self.tell_of_start()

    def tell_of_start(self) -> None:
        """Tell those who wait for it to be started again."""
        waiting, self.waiting_for_start = self.waiting_for_start, []
        for one in waiting:
            one.callback(None)

    def tell_of_end(self) -> None:
        """Tell those who wait for its end, and those who will wait in vain."""
        waiting, self.waiting_for_end = self.waiting_for_end, []
        for one in waiting:
            one.callback(None)
        self.tell_of_start()

    def forget(self) -> None:
        """Let the next death count as the first."""
        self.early = self.failures = 0

    def terminate(self) -> None:
        """Ask the attempt to end."""
        if self.attempt is not None:
            self.attempt.terminate()

    def kill(self) -> None:
        """End the attempt."""
        if self.attempt is not None:
            self.attempt.kill()
