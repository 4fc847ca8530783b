"""Where a file lies, for ports over several GPUs: every ComfyUI has a folder for temporary files of its own."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import orjson
from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from comfygate.backend.asking import ask_at_once
from comfygate.backend.fleet import Fleet
from comfygate.files import FileName, files_left
from comfygate.interfaces import IBackend, IBackendListener, IJobListener
from comfygate.model import BackendState, Job, JobState

LOOKING = 2.0
"""Seconds that all GPUs have to say whether they have a file."""

REST = 0.25
"""Seconds that the others have once one has said that it has it."""

KEPT = 30.0
"""Seconds for which it is remembered where a file was found."""

REMEMBERED = 10_000
"""Files whose places are remembered."""


@frozen
class _Place:
    gpu_id: int
    until: float | None = None


@implementer(IJobListener, IBackendListener)
class Places:
    """Finds the GPU whose ComfyUI has a file.

    A prompt that has ended has said which files it left; for others
    all that may have it are asked at once, and what they say is kept for a
    while, so that a page full of previews does not cost N requests each.
    """

    _log = Logger()

    def __init__(self, fleet: Fleet, clock: IReactorTime) -> None:
        self._fleet = fleet
        self._clock = clock
        self._places: OrderedDict[FileName, _Place] = OrderedDict()

    def find(self, name: FileName, backends: Sequence[IBackend]) -> IBackend | Deferred[IBackend | None] | None:
        """Who has a file.

        :param backends: which may be asked; all are READY.
        :return: one of them, also if nobody has it; ``None`` if it is the same
            whom one asks.  A Deferred of that may be cancelled, and does not fail.
        """
        candidates = _candidates(name, backends)
        if len(candidates) < 2:
            return None
        place = self._places.get(name)
        if place is not None and (place.until is None or place.until > self._clock.seconds()):
            for backend in candidates:
                if backend.gpu_id == place.gpu_id or (name.shared and backend.owned and self._is_ours(place.gpu_id)):
                    return backend
        return Deferred.fromCoroutine(self._look(name, candidates))

    def _is_ours(self, gpu_id: int) -> bool:
        return gpu_id in self._fleet and self._fleet[gpu_id].owned

    async def _look(self, name: FileName, candidates: Sequence[IBackend]) -> IBackend | None:
        asked = {
            backend.gpu_id: backend.client.modified(name.target, LOOKING)
            for backend in candidates
            if backend.client is not None
        }
        told = await ask_at_once(self._clock, asked, seconds=LOOKING, rest=REST)
        for gpu_id, error in told.failures.items():
            self._log.debug("GPU {gpu_id} does not say whether it has a file: {error}", gpu_id=gpu_id, error=error)
        found = {gpu_id: modified for gpu_id, modified in told.answers.items() if modified is not None}
        newest = max(found, key=lambda gpu_id: found[gpu_id], default=None)
        if newest is not None:
            self._remember(name, _Place(newest, self._clock.seconds() + KEPT))
        else:  # whoever says so quickly will say so again
            newest = next(iter(told.answers), None)
        return next((backend for backend in candidates if backend.gpu_id == newest), None)

    def _remember(self, name: FileName, place: _Place) -> None:
        self._places[name] = place
        self._places.move_to_end(name)
        while len(self._places) > REMEMBERED:
            self._places.popitem(last=False)

    def job_changed(
        self, job: Job, state: JobState, gpu_id: int | None, reason: str | None, record: bytes | None
    ) -> None:
        """See :class:`comfygate.interfaces.IJobListener`."""
        foreign = any(not backend.owned for backend in self._fleet)
        if gpu_id is None or record is None or not (foreign or b'"temp"' in record):
            return
        try:
            entry = orjson.loads(record)
        except orjson.JSONDecodeError:
            return
        for name in files_left(entry):
            if foreign or not name.shared:
                self._remember(name, _Place(gpu_id))

    def job_refused(self, job: Job) -> None:
        """See :class:`comfygate.interfaces.IJobListener`."""

    def backend_changed(self, backend: IBackend) -> None:
        """See :class:`comfygate.interfaces.IBackendListener`; a ComfyUI that starts empties its folder."""
        if backend.state is not BackendState.READY:
            lost = [name for name, place in self._places.items() if place.gpu_id == backend.gpu_id]
            for name in lost:
                del self._places[name]

    def queue_changed(self, backend: IBackend, remaining: int) -> None:
        """See :class:`comfygate.interfaces.IBackendListener`."""


def _candidates(name: FileName, backends: Sequence[IBackend]) -> list[IBackend]:
    """Those that may have a file when others do not: of those that share a folder, the first."""
    if not name.shared:
        return list(backends)
    ours = [backend for backend in backends if backend.owned]
    return [*ours[:1], *(backend for backend in backends if not backend.owned)]
