"""Prompts that fail in a row for the same reason say something about the ComfyUI that ran them."""

from __future__ import annotations

import re
from collections import defaultdict
from enum import Enum

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from comfygate.backend.fleet import Fleet
from comfygate.errors import BackendError
from comfygate.interfaces import IBackend, IBackendListener, IJobListener
from comfygate.model import BackendState, Job, JobState, RestartCause

IN_A_ROW = 2
"""Failures in a row after which something is done."""

_OUT_OF_MEMORY = re.compile(r"OutOfMemoryError|out of memory", re.IGNORECASE)
_BROKEN_CONTEXT = re.compile(r"\b(?:CUDA|HIP) error\b|AcceleratorError|cudaError|hipError", re.IGNORECASE)


class Symptom(Enum):
    """What a failed prompt says about the device; the values are for people."""

    OUT_OF_MEMORY = "out of memory"
    BROKEN_CONTEXT = "a CUDA error"  #: which stays with the process, whatever it is asked


class Remedy(Enum):
    """What is to be done about a GPU."""

    FREE = "free"  #: let it unload its models
    RESTART_BROKEN = "restart_broken"
    RESTART_FULL = "restart_full"


_CAUSES = {
    Remedy.RESTART_BROKEN: RestartCause.CUDA_ERROR,
    Remedy.RESTART_FULL: RestartCause.OUT_OF_MEMORY,
}


def symptom(reason: str | None) -> Symptom | None:
    """What a prompt's failure says.

    :param reason: ``node_type: exception_type: message``, as the ledger has it.
        "CUDA error: out of memory" is a lack of memory: the context survives it.
    """
    if reason is None:
        return None
    if _OUT_OF_MEMORY.search(reason):
        return Symptom.OUT_OF_MEMORY
    return Symptom.BROKEN_CONTEXT if _BROKEN_CONTEXT.search(reason) else None


@define
class Row:
    """Failures in a row on one GPU.

    A prompt that fails of something else says nothing, and one that ends well
    ends the row.

    :ivar reasons: why they failed, at most the last few.
    """

    kind: Symptom | None = None
    reasons: list[str] = field(factory=list)

    def ended_well(self) -> None:
        """A prompt did."""
        self.kind, self.reasons = None, []

    def failed(self, reason: str | None) -> Remedy | None:
        """A prompt did, for this reason; say what is to be done now."""
        found = symptom(reason)
        if found is None or reason is None:
            return None
        if found is not self.kind:
            self.kind, self.reasons = found, []
        self.reasons.append(reason)
        if len(self.reasons) < IN_A_ROW:
            return None
        if found is Symptom.BROKEN_CONTEXT:
            return Remedy.RESTART_BROKEN
        return Remedy.FREE if len(self.reasons) == IN_A_ROW else Remedy.RESTART_FULL


@implementer(IJobListener, IBackendListener)
class Failures:
    """Acts on failures in a row: frees memory, or has a ComfyUI started again that only this will help.

    It acts in a turn of the reactor of its own, since it is told in the middle
    of a change.
    """

    _log = Logger()

    def __init__(self, fleet: Fleet, clock: IReactorTime) -> None:
        self._fleet = fleet
        self._clock = clock
        self._rows: defaultdict[int, Row] = defaultdict(Row)
        self._freeing: dict[int, Deferred[None]] = {}
        self._stopped = False

    def start(self) -> None:
        """Follow every backend from now on."""
        self._fleet.subscribe(self)

    def stop(self) -> None:
        """Do nothing any more."""
        self._stopped = True
        for freeing in list(self._freeing.values()):
            freeing.cancel()

    def job_changed(
        self, job: Job, state: JobState, gpu_id: int | None, reason: str | None, record: bytes | None
    ) -> None:
        """See :class:`comfygate.interfaces.IJobListener`."""
        if gpu_id is None:
            return
        row = self._rows[gpu_id]
        if state is JobState.DONE:
            row.ended_well()
        elif state is JobState.FAILED:
            remedy = row.failed(reason)
            if remedy is not None:
                self._clock.callLater(0, self._act, gpu_id, remedy, tuple(row.reasons))

    def job_refused(self, job: Job) -> None:
        """See :class:`comfygate.interfaces.IJobListener`."""

    def backend_changed(self, backend: IBackend) -> None:
        """See :class:`comfygate.interfaces.IBackendListener`: the next process begins with a clean record."""
        if backend.state is not BackendState.READY:
            self._rows[backend.gpu_id].ended_well()

    def queue_changed(self, backend: IBackend, remaining: int) -> None:
        """See :class:`comfygate.interfaces.IBackendListener`."""

    def _act(self, gpu_id: int, remedy: Remedy, reasons: tuple[str, ...]) -> None:
        if self._stopped or gpu_id not in self._fleet:
            return
        if remedy is Remedy.FREE:
            self._free(gpu_id, reasons)
        else:
            words = Symptom.OUT_OF_MEMORY if remedy is Remedy.RESTART_FULL else Symptom.BROKEN_CONTEXT
            reason = f"{words.value}: {len(reasons)} prompts in a row failed so, the last with: {reasons[-1]}"
            self._fleet[gpu_id].condemn(_CAUSES[remedy], reason, {"failures": reasons})

    def _free(self, gpu_id: int, reasons: tuple[str, ...]) -> None:
        client = self._fleet[gpu_id].client
        if client is None or gpu_id in self._freeing:
            return
        self._log.warn(
            "GPU {gpu} ran out of memory {count} times in a row; it is told to unload its models (the last: {reason})",
            gpu=gpu_id,
            count=len(reasons),
            reason=reasons[-1],
        )
        self._freeing[gpu_id] = freeing = Deferred.fromCoroutine(client.free())
        freeing.addBoth(self._freed, gpu_id)

    def _freed(self, result: object, gpu_id: int) -> None:
        del self._freeing[gpu_id]
        if not isinstance(result, Failure):
            return
        if result.check(BackendError):
            self._log.warn("GPU {gpu} did not unload its models: {error}", gpu=gpu_id, error=result.getErrorMessage())
        elif not result.check(CancelledError):
            self._log.failure("telling GPU {gpu} to unload its models", failure=result, gpu=gpu_id)
