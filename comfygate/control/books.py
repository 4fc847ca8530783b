"""The shared state of the control plane: which gates, backends and jobs there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attrs import evolve
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from comfygate.backend.fleet import Fleet
from comfygate.interfaces import IStatusSource
from comfygate.ledger import Ledger
from comfygate.model import BackendView
from comfygate.routing.assignment import GateRouting


class Books:
    """Fleet, ledger and gates together, and the news that something changed.

    :param prefetch: how many jobs a backend may hold: the running one and the next.
    :ivar removing: ids that a backend is being told to take out of its queue.
    :ivar draining: GPUs that are to get no further jobs.
    """

    _log = Logger()

    def __init__(
        self, fleet: Fleet, ledger: Ledger, gates: Sequence[GateRouting], clock: IReactorTime, prefetch: int
    ) -> None:
        self.fleet = fleet
        self.ledger = ledger
        self.gates = {gate.name: gate for gate in gates}
        self.clock = clock
        self.removing: set[str] = set()
        self.draining: set[int] = set()
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
