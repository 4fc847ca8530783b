"""Watches one ComfyUI that serves requests, and says when it is beyond help.

As long as it answers and nothing runs, all that this costs is a ``GET /prompt``
now and then; ``/proc`` is read only when there is something to find out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from comfygate.backend.evidence import (
    Silence,
    Standstill,
    Stuck,
    Verdict,
    interval,
    stall_interval,
    worker_lost,
)
from comfygate.backend.procfs import Usage
from comfygate.errors import BackendError, BackendUnusable
from comfygate.model import BackendQueue

LOOK = 2.0
"""Seconds between two looks at one that has something to do."""

SILENT = 5.0
"""Seconds without an event or a list of its queue, after which it is asked for the list."""


class Patient(Protocol):
    """What is asked of the one that is watched; see :class:`comfygate.backend.client.ComfyUIClient`."""

    listed: Callable[[BackendQueue], None]

    async def check(self, seconds: float) -> None:
        """Return if it answers with success."""

    async def queue(self) -> BackendQueue:
        """List what runs and waits there."""


Measure = Callable[[], Usage | None]
Tell = Callable[[Verdict], None]


class Watchdog:
    """All that is watched of one process, from READY until :meth:`stop`.

    :param usage: what it has used so far; ``None`` if it is gone, which others
        will notice.
    :param hang_timeout: see :class:`~comfygate.backend.evidence.Silence`; 0: never.
    :param stall_timeout: see :class:`~comfygate.backend.evidence.Standstill`; 0: never.
    :param condemn: told at most once, in a turn of the reactor of its own.
    """

    def __init__(
        self,
        clock: IReactorTime,
        client: Patient,
        usage: Measure,
        hang_timeout: float,
        stall_timeout: float,
        condemn: Tell,
    ) -> None:
        self._clock = clock
        self._client = client
        self._condemn = condemn
        self._telling: IDelayedCall | None = None
        self._over = False
        self._pulse = Pulse(clock, client, usage, hang_timeout, self._tell) if hang_timeout else None
        self._work = Work(clock, client, usage, stall_timeout, self._tell, self._answers)

    def start(self) -> None:
        """Begin to watch."""
        self._client.listed = self._work.listed
        if self._pulse is not None:
            self._pulse.start()

    def stop(self) -> None:
        """Watch no more, and tell nothing any more."""
        self._over = True
        self._client.listed = lambda queue: None
        if self._telling is not None and self._telling.active():
            self._telling.cancel()
        if self._pulse is not None:
            self._pulse.stop()
        self._work.stop()

    def queue_changed(self, remaining: int) -> None:
        """It said that so many prompts run or wait there."""
        if not self._over:
            self._work.queue_changed(remaining)

    def worker_moved(self) -> None:
        """Its worker sent an event."""
        self._work.moved()

    def worker_lost(self, line: str) -> None:
        """It printed that an exception has ended its worker."""
        self._tell(worker_lost(line))

    def _answers(self) -> bool:
        return self._pulse is None or self._pulse.answers

    def _tell(self, verdict: Verdict) -> None:
        # In a turn of its own: whoever asked for the queue is in the middle of something.
        if not self._over:
            self._over = True
            self._telling = self._clock.callLater(0, self._condemn, verdict)


class Pulse:
    """Asks whether it answers, one question at a time."""

    log = Logger()

    def __init__(self, clock: IReactorTime, client: Patient, usage: Measure, limit: float, tell: Tell) -> None:
        self._clock = clock
        self._client = client
        self._usage = usage
        self._tell = tell
        self._interval = interval(limit)
        self._silence = Silence(limit)
        self._asking: Deferred[None] | None = None
        self._timer = LoopingCall(self._look)
        self._timer.clock = clock

    @property
    def answers(self) -> bool:
        """Whether it answered the last question, as far as is known."""
        return not self._silence.open

    def start(self) -> None:
        """Begin to ask."""
        self._timer.start(self._interval, now=False)

    def stop(self) -> None:
        """Ask no more."""
        if self._timer.running:
            self._timer.stop()
        if self._asking is not None:
            self._asking.cancel()

    def _look(self) -> None:
        if self._silence.open:
            usage = self._usage()
            verdict = self._silence.look(self._clock.seconds(), usage) if usage is not None else None
            if verdict is not None:
                self._tell(verdict)
                return
        if self._asking is None:
            self._silence.asked(self._clock.seconds())
            self._asking = Deferred.fromCoroutine(self._client.check(self._silence.patience))
            self._asking.addBoth(self._asked)

    def _asked(self, result: object) -> None:
        self._asking = None
        if not isinstance(result, Failure) or result.check(BackendUnusable):
            self._silence.answered()
        elif result.check(BackendError):
            self._silence.gave_up()
        elif not result.check(CancelledError):
            self.log.failure("asking whether it answers", failure=result)


class Work:
    """Sees whether its prompts run.

    :param answers: whether it answers, as far as is known; if not, it is not asked.
    """

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        client: Patient,
        usage: Measure,
        limit: float,
        tell: Tell,
        answers: Callable[[], bool],
    ) -> None:
        self._clock = clock
        self._client = client
        self._usage = usage
        self._tell = tell
        self._answers = answers
        self._standstill = Standstill(limit) if limit else None
        self._stuck = Stuck()
        self._remaining = 0
        self._heard_at = self._looked_at = 0.0
        self._asking: Deferred[BackendQueue] | None = None
        self._stall_interval = stall_interval(limit)
        self._timer = LoopingCall(self._look)
        self._timer.clock = clock

    def stop(self) -> None:
        """Look no more."""
        if self._timer.running:
            self._timer.stop()
        if self._asking is not None:
            self._asking.cancel()

    def queue_changed(self, remaining: int) -> None:
        """So many prompts run or wait; one less, or the first, means that the worker moved."""
        if remaining < self._remaining or not self._remaining:
            self.moved()
        self._remaining = remaining
        if remaining and not self._timer.running:
            self._timer.start(min(LOOK, self._stall_interval) if self._standstill else LOOK, now=False)
        elif not remaining and self._timer.running:
            self._timer.stop()
            self._stuck.clear()

    def moved(self) -> None:
        """The worker did something."""
        self._heard_at = self._clock.seconds()
        if self._standstill is not None:
            self._standstill.moved()

    def listed(self, queue: BackendQueue) -> None:
        """It told its queue, whoever asked for it."""
        self._heard_at = self._clock.seconds()
        if queue.running_items or not queue.pending_items:
            self._stuck.clear()
            return
        usage = self._usage()
        if usage is not None:
            self._judge(self._stuck.look(self._clock.seconds(), usage, len(queue.pending_items)))

    def _look(self) -> None:
        now = self._clock.seconds()
        if self._standstill is not None and now - self._looked_at >= self._stall_interval * 0.9:
            self._looked_at = now
            usage = self._usage()
            self._judge(self._standstill.look(now, usage) if usage is not None else None)
        suspicious = self._stuck.looks > 0 or now - self._heard_at >= SILENT
        if suspicious and self._asking is None and self._answers():
            self._asking = Deferred.fromCoroutine(self._client.queue())
            self._asking.addBoth(self._asked)

    def _asked(self, result: object) -> None:
        self._asking = None
        if isinstance(result, Failure) and not result.check(BackendError, CancelledError):
            self.log.failure("asking for a queue", failure=result)

    def _judge(self, verdict: Verdict | None) -> None:
        if verdict is not None:
            self._tell(verdict)
