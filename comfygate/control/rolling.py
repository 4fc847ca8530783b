"""ComfyUIs are started again, one after the other, and no prompt is lost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

from attrs import frozen
from twisted.internet.defer import CancelledError
from twisted.logger import Logger

from comfygate.control.books import Books
from comfygate.control.drains import Drains
from comfygate.control.recall import Recall
from comfygate.errors import GateError
from comfygate.model import BackendState

Step = Literal["draining", "stopping", "starting", "ready", "failed"]

_OVER = (BackendState.READY, BackendState.FAILED)


@frozen
class RestartStep:
    """How far a restart is.

    :ivar detail: one line for people.
    """

    gpu_id: int
    step: Step
    detail: str = ""


Tell = Callable[[RestartStep], None]


class Rolling:
    """One restart of several GPUs.

    :param start_timeout: seconds that a ComfyUI may take to become ready.
    :param now: whether prompts that run are cut off, to run again, instead of
        being waited for.
    :param tell: is told each step.
    """

    _log = Logger()

    def __init__(
        self, books: Books, recall: Recall, drains: Drains, start_timeout: float, *, now: bool, tell: Tell
    ) -> None:
        self._books = books
        self._recall = recall
        self._drains = drains
        self._start_timeout = start_timeout
        self._now = now
        self._tell = tell

    async def run(self, gpu_ids: Sequence[int]) -> None:
        """Restart them in this order; the next only when the one before serves again.

        :raises GateError: 502 or 504, if one does not come back; those after it
            were not touched.
        """
        for index, gpu_id in enumerate(gpu_ids):
            try:
                if not self._is_leaving(gpu_id):
                    with self._drains.held(gpu_id):
                        await self._one(gpu_id)
            except (CancelledError, GateError) as error:
                self._step(gpu_id, "failed", _reason(error))
                raise _failure(gpu_id, gpu_ids[index + 1 :], error) from None

    async def _one(self, gpu_id: int) -> None:
        self._step(gpu_id, "draining", self._what_runs(gpu_id, "runs"))
        await self._take_back(gpu_id)
        if not self._now:
            # However long it takes: a ComfyUI that hangs is ended by who watches it, and its prompt waits again.
            await self._books.until(lambda: self._is_leaving(gpu_id) or self._is_idle(gpu_id))
        if self._is_leaving(gpu_id):
            return
        self._step(gpu_id, "stopping", self._what_runs(gpu_id, "is cut off, and will run again"))
        await self._books.fleet[gpu_id].restart()
        self._step(gpu_id, "starting")
        await self._ready(gpu_id)
        if not self._is_leaving(gpu_id):
            self._step(gpu_id, "ready")

    async def _ready(self, gpu_id: int) -> None:
        backend = self._books.fleet[gpu_id]
        over = await self._books.until(
            lambda: self._is_leaving(gpu_id) or self._books.fleet[gpu_id] is not backend or backend.state in _OVER,
            self._start_timeout,
        )
        if not over:
            message = f"GPU {gpu_id} was not ready within {self._start_timeout:g} s"
            raise GateError(504, "restart_failed", message, backend.last_error or "")
        if backend.state is BackendState.FAILED:
            raise GateError(502, "restart_failed", f"GPU {gpu_id} failed to start", backend.last_error or "")

    def _is_leaving(self, gpu_id: int) -> bool:
        """Whether it is being removed, and needs no restart any more."""
        return gpu_id in self._books.leaving or gpu_id not in self._books.fleet

    async def _take_back(self, gpu_id: int) -> None:
        try:
            await self._recall.everything(gpu_id)
        except GateError as error:
            # That may be why it is restarted; what it holds waits again when it is ended.
            self._log.warn("restarting GPU {gpu_id} all the same: {error}", gpu_id=gpu_id, error=error)

    def _is_idle(self, gpu_id: int) -> bool:
        ledger = self._books.ledger
        down = self._books.fleet[gpu_id].state is not BackendState.READY
        return down or not (ledger.held_by(gpu_id) or ledger.running(gpu_id))

    def _what_runs(self, gpu_id: int, what: str) -> str:
        running = self._books.ledger.running(gpu_id)
        return f"{running.prompt_id} {what}" if running else ""

    def _step(self, gpu_id: int, step: Step, detail: str = "") -> None:
        said = f": {detail}" if detail else ""
        self._log.info("restart of GPU {gpu_id}: {step}{said}", gpu_id=gpu_id, step=step, said=said)
        with self._log.failuresHandled("telling of the restart of GPU {gpu_id}", gpu_id=gpu_id):
            self._tell(RestartStep(gpu_id, step, detail))


def _reason(error: CancelledError | GateError) -> str:
    return error.message if isinstance(error, GateError) else "ComfyGate is being stopped"


def _failure(gpu_id: int, untouched: Sequence[int], error: CancelledError | GateError) -> GateError:
    rest = f"Not restarted: GPU {', '.join(map(str, untouched))}." if untouched else ""
    if not isinstance(error, GateError):
        return GateError(503, "stopping", f"The restart of GPU {gpu_id} was cut off: ComfyGate is being stopped", rest)
    details = " ".join(part for part in (error.details, rest) if part)
    extra = {"gpu_id": gpu_id, "not_restarted": list(untouched)}
    return GateError(error.status, error.type, error.message, details, extra_info=extra)
