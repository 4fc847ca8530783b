"""Every waiting job waits at a gate that asks for it, and is listed under a GPU that may run it."""

from __future__ import annotations

from collections import Counter

from attrs import evolve
from twisted.logger import Logger
from zope.interface import implementer

from comfygate.control.books import Books
from comfygate.interfaces import IJobListener
from comfygate.ledger import NOWHERE
from comfygate.model import BackendView, Job, JobState
from comfygate.routing.assignment import expected_gpu
from comfygate.routing.succession import heir


@implementer(IJobListener)
class Resettlement:
    """Finds new places for waiting jobs when gates or GPUs are gone, or are back.

    It listens to the ledger, since jobs come to wait at gates that are gone by
    then: those that were being checked, or that a backend had held.
    """

    _log = Logger()

    def __init__(self, books: Books) -> None:
        self._books = books
        self._ledger = books.ledger
        self._due = False
        self._stranded: frozenset[str] = frozenset()

    def job_changed(
        self, job: Job, state: JobState, gpu_id: int | None, reason: str | None, record: bytes | None
    ) -> None:
        """See :class:`comfygate.interfaces.IJobListener`."""
        if state is JobState.WAITING and not self._due and not self._is_settled(job):
            self._due = True
            self._books.clock.callLater(0, self.settle)

    def job_refused(self, job: Job) -> None:
        """See :class:`comfygate.interfaces.IJobListener`."""

    def settle(self) -> None:
        """Give every waiting job its place."""
        views = self._books.views()
        moved: Counter[tuple[str, str]] = Counter()
        for job in list(self._ledger.waiting):
            if not self._is_settled(job):
                place = self._place(job, views)
                moved[job.gate, place.gate] += job.gate != place.gate
                self._relocate(job, place, views)
        self._due = False
        for (before, after), number in moved.items():
            if number:
                text = "{number} prompts that waited at {before} go on at {after}"
                self._log.info(text, number=number, before=before, after=after)
        self._tell_stranded()
        self._books.changed()

    def _is_settled(self, job: Job) -> bool:
        gate = self._books.gates.get(job.gate)
        return gate is not None and job.expected in gate.gpu_ids and job.expected in job.targets

    def _place(self, job: Job, views: dict[int, BackendView]) -> Job:
        gates = {gate.name: frozenset(gate.gpu_ids) for gate in self._books.gates.values()}
        if not job.targets & frozenset().union(*gates.values()):
            return evolve(job, expected=NOWHERE)
        gate = self._books.gates[heir(job.gate, job.targets, gates)]
        draft = evolve(job, gate=gate.name, expected=NOWHERE)
        expected = expected_gpu(gate, draft, views, self._books.clock.seconds())
        return evolve(draft, expected=min(job.targets & gates[gate.name]) if expected is None else expected)

    def _relocate(self, job: Job, place: Job, views: dict[int, BackendView]) -> None:
        if place == job:
            return
        self._ledger.relocate(place)
        if place.expected in views:
            views[place.expected] = self._books.view(place.expected)

    def _tell_stranded(self) -> None:
        stranded = {job.prompt_id: job for job in self._ledger.waiting if job.expected == NOWHERE}
        if stranded.keys() - self._stranded:
            gone = sorted(frozenset().union(*(job.targets for job in stranded.values())))
            self._log.warn(
                "{number} prompts wait for GPUs that are gone ({gpus}): put these back into the configuration, "
                "or let the prompts run elsewhere with comfygatectl move",
                number=len(stranded),
                gpus=", ".join(map(str, gone)),
            )
        self._stranded = frozenset(stranded)
