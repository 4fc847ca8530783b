"""The shared state of the control plane: which gates, backends and jobs there are."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from attrs import evolve
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from comfygate.backend.fleet import Fleet
from comfygate.history import failed_entry
from comfygate.interfaces import IStatusSource
from comfygate.ledger import Ledger
from comfygate.model import BackendView, JobState
from comfygate.routing.assignment import GateRouting


class Books:
    """Fleet, ledger and gates together, and the news that something changed.

    :param prefetch: how many jobs a backend may hold: the running one and the next.
    :ivar retries: how often a job is tried again whose backend died while it ran.
    :ivar queue_when_down: whether jobs are accepted for a GPU that is down and
        will be back.
    :ivar stopping: whether the daemon is, and accepts no more jobs.
    :ivar wall_clock: seconds since 1970.
    :ivar removing: ids that a backend is being told to take out of its queue.
    :ivar unwanted: ids of held jobs that somebody asked to be interrupted: not
        to be tried again, whatever becomes of their backend.
    :ivar draining: GPUs that are to get no further jobs.
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
    ) -> None:
        self.fleet = fleet
        self.ledger = ledger
        self.gates = {gate.name: gate for gate in gates}
        self.clock = clock
        self.removing: set[str] = set()
        self.unwanted: set[str] = set()
        self.draining: set[int] = set()
        self.retries = retries
        self.queue_when_down = queue_when_down
        self.stopping = False
        self.wall_clock = wall_clock
        self._prefetch = prefetch
        self._watchers: list[Callable[[], None]] = []
        self._announcing = False

    def view(self, gpu_id: int) -> BackendView:
        """What a policy sees of one GPU now."""
        view = self.ledger.view(gpu_id, self.fleet[gpu_id].state, self._prefetch)
        return evolve(view, draining=True) if gpu_id in self.draining else view

    def views(self) -> dict[int, BackendView]:
        """What a policy sees of every GPU now."""
        return {backend.gpu_id: self.view(backend.gpu_id) for backend in self.fleet}

    def fail(self, prompt_id: str, reason: str, state: JobState = JobState.FAILED) -> None:
        """A held job has ended by our decision; its client finds the reason in the history, as ComfyUI's own errors.

        :param state: FAILED; UNKNOWN where it may have ended well; CANCELLED
            where somebody wanted that.
        """
        held = self.ledger.held(prompt_id)
        if held is not None:
            record = failed_entry(held.job, reason, self.wall_clock())
            self.ledger.end(prompt_id, state, reason, record, told=False)

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
        for watcher in self._watchers:
            with self._log.failuresHandled("telling {watcher} of a change", watcher=watcher):
                watcher()


@implementer(IStatusSource)
class RemainingWork:
    """What a gate's clients are told of its queues: what the books say.

    A backend counts only what it holds, and says so on another connection than
    the one on which it acknowledges a job; adding our own count to that would
    tell clients now and then that nothing is left while their job begins.
    """

    def __init__(self, ledger: Ledger, gpu_ids: Sequence[int]) -> None:
        self._ledger = ledger
        self._gpu_ids = tuple(gpu_ids)

    def remaining(self) -> int:
        """See :class:`comfygate.interfaces.IStatusSource`."""
        return sum(self._ledger.remaining(gpu_id) for gpu_id in self._gpu_ids)

    def finished(self, prompt_id: str) -> None:
        """See :class:`comfygate.interfaces.IStatusSource`."""
        self._ledger.finish(prompt_id)
