"""What a person would want to know happened: since when a backend is as it is, and what went wrong last."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable

from attrs import frozen
from zope.interface import implementer

from comfygate.interfaces import IBackend, IBackendListener, IJobListener
from comfygate.model import BackendState, Job, JobState, RestartCause

MOST = 20
"""Mishaps that are remembered."""

_BAD_STATES = frozenset({BackendState.DOWN, BackendState.FAILED})
_BAD_ENDS = {JobState.FAILED: "failed", JobState.UNKNOWN: "ended, nobody knows how"}
_LONGEST = 500


@frozen
class Mishap:
    """Something that went wrong.

    :ivar time: seconds since 1970.
    :ivar gpu_id: where, if on one GPU.
    :ivar prompt_id: the prompt that failed; ``None`` for a backend that went down.
    :ivar message: one line.
    """

    time: float
    gpu_id: int | None
    prompt_id: str | None
    message: str


def _is_wanted(backend: IBackend) -> bool:
    """Whether it is down only because somebody asked for its restart."""
    return backend.state is BackendState.DOWN and backend.cause is RestartCause.REQUESTED


@implementer(IBackendListener, IJobListener)
class Chronicle:
    """Listens to backends and to the ledger.

    :param wall_clock: seconds since 1970.
    :ivar started: when the daemon was.
    :ivar mishaps: the newest first.
    """

    def __init__(self, gpu_ids: Iterable[int], wall_clock: Callable[[], float]) -> None:
        self.started = wall_clock()
        self.mishaps: deque[Mishap] = deque(maxlen=MOST)
        self._wall_clock = wall_clock
        self._since = dict.fromkeys(gpu_ids, self.started)

    def since(self, gpu_id: int) -> float:
        """When a backend came into its state."""
        return self._since.get(gpu_id, self.started)

    def backend_changed(self, backend: IBackend) -> None:
        """See :class:`comfygate.interfaces.IBackendListener`."""
        self._since[backend.gpu_id] = self._wall_clock()
        if backend.state in _BAD_STATES and not _is_wanted(backend):
            self._note(backend.gpu_id, None, backend.last_error or f"it is {backend.state.value}")

    def queue_changed(self, backend: IBackend, remaining: int) -> None:
        """See :class:`comfygate.interfaces.IBackendListener`."""

    def job_changed(
        self, job: Job, state: JobState, gpu_id: int | None, reason: str | None, record: bytes | None
    ) -> None:
        """See :class:`comfygate.interfaces.IJobListener`."""
        if state in _BAD_ENDS:
            self._note(gpu_id, job.prompt_id, reason or _BAD_ENDS[state])

    def job_refused(self, job: Job) -> None:
        """See :class:`comfygate.interfaces.IJobListener`."""

    def _note(self, gpu_id: int | None, prompt_id: str | None, message: str) -> None:
        self.mishaps.appendleft(Mishap(self._wall_clock(), gpu_id, prompt_id, message[:_LONGEST]))
