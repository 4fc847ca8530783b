"""The shared state of the control plane: which gates, backends and jobs there are."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Sequence

from attrs import evolve
from twisted.internet.defer import Deferred, TimeoutError, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from comfygate.aliases import Aliases
from comfygate.backend.fleet import Fleet
from comfygate.control.experience import Experience
from comfygate.control.polled import Polled
from comfygate.errors import GateError, JournalError
from comfygate.history import failed_entry
from comfygate.interfaces import IJobListener, IStatusSource
from comfygate.last_words import LastWords
from comfygate.ledger import Ledger
from comfygate.model import BackendView, Job, JobState
from comfygate.routing.assignment import GateRouting
from comfygate.routing.least_loaded import LeastLoaded

_NOTING = 5.0
"""Seconds that an answer waits for the journal, where the change that it is about holds in any case."""

_START = 10.0
"""Seconds from the end of a daemon until its successor may be expected to answer."""


@implementer(IJobListener)
class Books:
    """Fleet, ledger and gates together, and the news that something changed.

    :ivar gates: by name.
    :ivar prefetch: how many jobs a backend may hold: the running one and the next.
    :ivar retries: how often a job is tried again whose backend died while it ran.
    :ivar queue_when_down: whether jobs are accepted for a GPU that is down and
        will be back.
    :ivar wall_clock: seconds since 1970.
    :ivar aliases: the other names of clients.
    :ivar flush: see :class:`comfygate.interfaces.IJournal`.
    :ivar removing: ids that a backend is being told to take out of its queue.
    :ivar last_words: what clients were told of the ends of prompts.
    :ivar polled: prompts that stay in listings for a moment after their end.
    :ivar recalling: ids that are being taken back into our queue; whoever does that finds out where they are.
    :ivar recalled: ids that a backend was told to give back, and nobody knows whether it did: if they are gone from
        its queue, they wait with us again.
    :ivar unwanted: ids of held jobs that somebody asked to be interrupted: not
        to be tried again, whatever becomes of their backend.
    :ivar draining: GPUs that are to get no further jobs.
    :ivar leaving: those of them whose backend is being ended for good.
    :ivar experience: what jobs cost, and what GPUs hold.
    :ivar closing: when the last running jobs are ended, on the daemon's clock, once that is to be; no job is accepted
        or handed over any more.
    """

    _log = Logger()

    def __init__(
        self,
        fleet: Fleet,
        ledger: Ledger,
        gates: Sequence[GateRouting],
        clock: IReactorTime,
        prefetch: int,
        *,
        retries: int = 1,
        queue_when_down: bool = True,
        wall_clock: Callable[[], float] = time.time,
        aliases: Aliases | None = None,
    ) -> None:
        self.aliases = aliases or Aliases(os.urandom(32))
        self.fleet = fleet
        self.ledger = ledger
        self.gates = {gate.name: gate for gate in gates}
        self.clock = clock
        self.removing: set[str] = set()
        self.unwanted: set[str] = set()
        self.last_words = LastWords()
        self.polled = Polled(clock)
        self.recalling: set[str] = set()
        self.recalled: set[str] = set()
        self.draining: set[int] = set()
        self.leaving: set[int] = set()
        self.closing: float | None = None
        self.prefetch = prefetch
        self.retries = retries
        self.queue_when_down = queue_when_down
        self.wall_clock = wall_clock
        self.flush: Callable[[], Deferred[None]] = lambda: succeed(None)
        self._watchers: list[Callable[[], None]] = []
        self._announcing = False
        self.experience = Experience(fleet, ledger, clock)
        ledger.subscribe(self)
        ledger.subscribe(self.polled)

    def job_changed(
        self, job: Job, state: JobState, gpu_id: int | None, reason: str | None, record: bytes | None
    ) -> None:
        """See :class:`comfygate.interfaces.IJobListener`."""
        if state.ended:
            self.job_refused(job)

    def job_refused(self, job: Job) -> None:
        """See :class:`comfygate.interfaces.IJobListener`."""
        self.unwanted.discard(job.prompt_id)
        self.last_words.forget(job.prompt_id)

    def view(self, gpu_id: int) -> BackendView:
        """What a policy sees of one GPU now."""
        view = self.experience.complete(self.ledger.view(gpu_id, self.fleet[gpu_id].state, self.prefetch))
        draining = gpu_id in self.draining or self.closing is not None
        return evolve(view, draining=True) if draining else view

    def views(self) -> dict[int, BackendView]:
        """What a policy sees of every GPU now."""
        return {backend.gpu_id: self.view(backend.gpu_id) for backend in self.fleet}

    def shown(self, gate: GateRouting, text: bytes) -> bytes:
        """What a port shows of a queue's item or a history's entry: a GPU's own port all that ComfyUI would.

        :param text: JSON, with the client's own id.
        """
        return self.aliases.concealed(text) if gate.merges else text

    @property
    def everything(self) -> GateRouting:
        """All GPUs, as one gate that nobody sends prompts to."""
        return GateRouting("operator", self.fleet.gpu_ids, LeastLoaded())

    def fail(self, prompt_id: str, reason: str, state: JobState = JobState.FAILED) -> None:
        """A held job has ended by our decision; its client finds the reason in the history, as ComfyUI's own errors.

        :param state: FAILED; UNKNOWN where it may have ended well; CANCELLED
            where somebody wanted that.
        """
        held = self.ledger.held(prompt_id)
        if held is not None:
            record = failed_entry(held.job, reason, self.wall_clock())
            self.ledger.end(prompt_id, state, reason, record, told=False)

    def close(self, grace: float) -> None:
        """Begin nothing more.

        :param grace: seconds until what runs is ended.
        """
        self.closing = self.clock.seconds() + grace
        self.changed()

    def check_open(self) -> None:
        """See whether anything new is begun.

        :raises GateError: 503 ``stopping``, with Retry-After, once the daemon is being stopped.
        """
        if self.closing is not None:
            retry_after = max(0.0, self.closing - self.clock.seconds()) + _START
            details = "Nothing was queued; send the request again once it is back."
            raise GateError(503, "stopping", "ComfyGate is being stopped", details, retry_after=retry_after)

    async def until(self, condition: Callable[[], bool], seconds: float | None = None) -> bool:
        """Wait for something that comes with a change of queue or backends.

        :param seconds: how long at most.
        :return: whether it came.
        """
        if condition():
            return True
        waiting: Deferred[bool] = Deferred()

        def look() -> None:
            if not waiting.called and condition():
                waiting.callback(True)

        late = None if seconds is None else self.clock.callLater(seconds, waiting.callback, False)
        self._watchers.append(look)
        try:
            return await waiting
        finally:
            self._watchers.remove(look)
            if late is not None and late.active():
                late.cancel()

    async def noted(self, seconds: float = _NOTING) -> None:
        """Wait until what has changed is written down, so that it holds whatever dies now.

        A disk in trouble delays nobody for longer: it is written as soon as that is possible.
        """
        flushed = self.flush()
        flushed.addTimeout(seconds, self.clock)
        with contextlib.suppress(JournalError, TimeoutError):
            await flushed

    def watch(self, watcher: Callable[[], None]) -> None:
        """Call `watcher`, with no arguments, after every change of queue or backends."""
        self._watchers.append(watcher)

    def changed(self) -> None:
        """Tell the watchers, once for everything that happens in this turn of the reactor."""
        if not self._announcing:
            self._announcing = True
            self.clock.callLater(0, self._announce)

    def _announce(self) -> None:
        self._announcing = False
        for watcher in tuple(self._watchers):
            with self._log.failuresHandled("telling {watcher} of a change", watcher=watcher):
                watcher()


@implementer(IStatusSource)
class RemainingWork:
    """What a gate's clients are told of its queues: what the books say.

    A backend counts only what it holds, and says so on another connection than
    the one on which it acknowledges a job; adding our own count to that would
    tell clients now and then that nothing is left while their job begins.
    """

    def __init__(self, ledger: Ledger, gpu_ids: Sequence[int], last_words: LastWords, polled: Polled) -> None:
        self._ledger = ledger
        self._last_words = last_words
        self._polled = polled
        self._gpu_ids = tuple(gpu_ids)

    def remaining(self) -> int:
        """See :class:`comfygate.interfaces.IStatusSource`."""
        return sum(self._ledger.remaining(gpu_id) for gpu_id in self._gpu_ids)

    def heard(self, kind: bytes, payload: bytes) -> None:
        """See :class:`comfygate.interfaces.IStatusSource`."""
        over = self._last_words.hear(kind, payload)
        if over is not None:
            self._ledger.finish(over)
            self._polled.told(over)
