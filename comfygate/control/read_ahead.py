"""Has the model files of the next jobs read ahead, so that loading them comes from memory."""

from __future__ import annotations

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from comfygate.control.books import Books
from comfygate.errors import BackendError
from comfygate.model import BackendState, Job
from comfygate.routing.assignment import next_choice

PAUSE = 0.5
"""Seconds after a change until somebody looks what is next; jobs come in bursts."""

AGAIN = 60.0
"""Seconds after which a file is asked for again that is still to be loaded."""

MOST = 256
"""Files that are remembered as asked for."""


class ReadAhead:
    """Looks, after changes, which jobs each GPU is about to run, and tells its companion what they will load.

    Those are the jobs that it has been handed and does not run yet, and the one
    that the policies would give it if it became idle: two at most.  All
    ComfyUIs of our own are on this machine, and share what the kernel has read;
    so each file is asked for once.

    :ivar wanted: whether anything is read ahead.
    """

    _log = Logger()

    def __init__(self, books: Books, *, wanted: bool = True) -> None:
        self.wanted = wanted
        self._books = books
        self._due: IDelayedCall | None = None
        self._asked: dict[str, float] = {}
        self._asking: dict[int, Deferred[None]] = {}
        self._unable: set[int] = set()
        books.watch(self._changed)

    def stop(self) -> None:
        """Ask for nothing any more."""
        self.wanted = False
        if self._due is not None and self._due.active():
            self._due.cancel()
        for asking in list(self._asking.values()):
            asking.cancel()

    def next_jobs(self, gpu_id: int) -> list[Job]:
        """The jobs that a GPU is about to run, the first one first: two at most."""
        found = [held.job for held in self._books.ledger.held_by(gpu_id)][1:3]
        if len(found) < 2:
            views = self._books.views()
            others = {other: evolve(view, prefetch=0) for other, view in views.items() if other != gpu_id}
            idle = evolve(views[gpu_id], active=(), backlog=0.0)
            gates = [gate for gate in self._books.gates.values() if gpu_id in gate.gpu_ids]
            waiting = {gate.name: self._books.ledger.waiting.of_gate(gate.name) for gate in gates}
            choice = next_choice(gates, waiting, {**others, gpu_id: idle}, self._books.clock.seconds())
            if choice is not None and choice.gpu_id == gpu_id:
                found.append(choice.job)
        return found

    def _changed(self) -> None:
        if self.wanted and self._due is None:
            self._due = self._books.clock.callLater(PAUSE, self._look)

    def _look(self) -> None:
        self._due = None
        if not self.wanted or self._books.closing is not None:
            return
        for backend in self._books.fleet:
            gpu_id = backend.gpu_id
            if backend.state is not BackendState.READY:
                self._unable.discard(gpu_id)
            elif backend.owned and backend.has_companion and not {gpu_id} & (self._asking.keys() | self._unable):
                models = self._missing(gpu_id)
                if models:
                    self._ask(gpu_id, models)

    def _missing(self, gpu_id: int) -> list[str]:
        """What a GPU will have to load soon, and nobody has asked for."""
        held = self._books.ledger.held_by(gpu_id)
        if not held:
            return []  # whatever it is handed, it loads at once
        now = self._books.clock.seconds()
        loaded = {*self._books.experience.loaded(gpu_id), *held[0].job.models}
        found = []
        for job in self.next_jobs(gpu_id):
            for model in sorted(job.models):
                if model not in loaded and now - self._asked.get(model, -AGAIN) >= AGAIN:
                    self._asked.pop(model, None)
                    self._asked[model] = now
                    found.append(model)
        while len(self._asked) > MOST:
            self._asked.pop(next(iter(self._asked)))
        return found

    def _ask(self, gpu_id: int, models: list[str]) -> None:
        self._log.debug("GPU {gpu} reads {models} ahead", gpu=gpu_id, models=models)
        asking = Deferred.fromCoroutine(self._books.fleet.client(gpu_id).read_ahead(models))
        self._asking[gpu_id] = asking
        asking.addBoth(self._told, gpu_id)

    def _told(self, result: object, gpu_id: int) -> None:
        del self._asking[gpu_id]
        if not isinstance(result, Failure):
            return
        if result.check(BackendError):
            self._unable.add(gpu_id)
            self._log.debug("GPU {gpu} reads nothing ahead: {error}", gpu=gpu_id, error=result.getErrorMessage())
        elif not result.check(CancelledError):
            self._log.failure("having GPU {gpu} read ahead", failure=result, gpu=gpu_id)
