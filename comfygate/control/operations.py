"""What an operator does with GPUs and prompts, and no prompt is lost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from comfygate.control.books import Books
from comfygate.control.drains import Drains, Remember
from comfygate.control.interrupt import Interrupted, Interrupts
from comfygate.control.moves import Moves, over_or_unknown
from comfygate.control.recall import Recall
from comfygate.control.reconcile import Reconciler
from comfygate.control.retirement import Retirement
from comfygate.control.rolling import RestartStep, Rolling, Tell
from comfygate.errors import GateError
from comfygate.model import Job
from comfygate.routing.assignment import GateRouting

__all__ = ["Operations", "RestartStep"]


def _tell_nobody(step: RestartStep) -> None:
    """For restarts that nobody watches."""


def _forget(gpu_ids: frozenset[int]) -> None:
    """For daemons without a memory."""


class Operations:
    """Drains, moves, cancels and restarts.

    :ivar start_timeout: seconds that a ComfyUI may take to become ready.
    :param remember: see :class:`~comfygate.control.drains.Drains`, as `drained`.
    """

    _log = Logger()

    def __init__(
        self,
        books: Books,
        reconciler: Reconciler,
        interrupts: Interrupts,
        *,
        start_timeout: float = 600.0,
        remember: Remember = _forget,
        drained: Iterable[int] = (),
    ) -> None:
        self._books = books
        self._interrupts = interrupts
        self.start_timeout = start_timeout
        self._recall = Recall(books, reconciler)
        self._moves = Moves(books, self._recall)
        self._drains = Drains(books, self._recall, remember, drained)
        self._roll: Deferred[None] | None = None

    def drain(self, gpu_ids: Iterable[int]) -> None:
        """Hand these GPUs no further prompts; what waits in their own queues comes back to ours.

        :raises GateError: 404 for an unknown GPU, and nothing is changed.
        """
        self._drains.begin(self._known(gpu_ids))

    def undrain(self, gpu_ids: Iterable[int]) -> None:
        """Hand them prompts again; one that is being restarted, when it is back.

        :raises GateError: as :meth:`drain`.
        """
        self._drains.end(self._known(gpu_ids))

    async def recall(self, gpu_id: int) -> list[str]:
        """Take back what waits in a backend's own queue; unless it is drained, it may be handed over again at once.

        :return: ids of the prompts that wait with us again.
        :raises GateError: 404 for an unknown GPU, 503 or 504 if it does not answer.
        """
        return await self._recall.everything(*self._known((gpu_id,)))

    async def move(self, prompt_id: str, gate: str, *, front: bool = False) -> Job:
        """Let a prompt wait as if it had been sent to another port.

        A target that its client had named no longer counts.

        :param gate: ``gpu-1``, ``hub``, or the name in ``[gate:name]``.
        :param front: whether it comes before everything else.
        :return: the job as it waits now.
        :raises GateError: 404 for an unknown prompt or port, 409 for a prompt
            that runs or has ended, 503 or 504 if the GPU that holds it does not answer.
        """
        job = await self._moves.move(prompt_id, self._gate(gate), front=front)
        self._log.info("{prompt_id} was moved to {gate} by the operator", prompt_id=prompt_id, gate=gate)
        return job

    async def cancel(self, prompt_id: str) -> Interrupted:
        """Stop a prompt, wherever it is.

        :raises GateError: 404 for an unknown prompt, 409 for one that has
            ended, 503 or 504 if the GPU that holds it does not answer.
        """
        found = await self._interrupts.prompt(prompt_id)
        if found.state == "unknown":
            raise over_or_unknown(self._books, prompt_id)
        self._log.info("{prompt_id} was cancelled by the operator", prompt_id=prompt_id)
        return found

    def restart(self, gpu_ids: Sequence[int], *, now: bool = False, tell: Tell = _tell_nobody) -> Deferred[None]:
        """Start ComfyUIs again, one after the other, each when its running prompt has ended.

        :param now: cut running prompts off instead; they run again.
        :param tell: is told each step.
        :return: fires when all serve again; fails with GateError 502 or 504 if
            one does not come back, and then those after it were not touched.
            The restart goes on if this is cancelled.
        :raises GateError: 404 for an unknown GPU, 409 while another restart
            goes on, 503 while the daemon is being stopped.
        """
        self._books.check_open()
        known = self._known(gpu_ids)
        if self._roll is not None:
            details = "Wait until it is over; a prompt that holds it up can be cancelled."
            raise GateError(409, "restart_under_way", "Another restart goes on", details, retry_after=5)
        rolling = Rolling(self._books, self._recall, self._drains, self.start_timeout, now=now, tell=tell)
        self._roll = roll = Deferred.fromCoroutine(rolling.run(known))
        roll.addBoth(self._rolled)
        asked: Deferred[None] = Deferred()
        roll.addCallbacks(asked.callback, asked.errback)
        return asked

    def retire(self, gpu_id: int) -> Deferred[None]:
        """End a backend for good, when what it runs has ended; what waits in its own queue comes back to ours.

        :return: fires when nothing of it is left; cancelled, the backend works on.
        """
        return Deferred.fromCoroutine(Retirement(self._books, self._drains).run(gpu_id))

    def close(self) -> None:
        """Ask no backend any more, and end a restart that goes on."""
        self._drains.close()
        if self._roll is not None:
            self._roll.cancel()

    def _rolled(self, result: object) -> object:
        self._roll = None
        if isinstance(result, Failure):
            if isinstance(result.value, GateError):
                self._log.warn("the restart has failed: {error}", error=result.value)
            else:
                self._log.failure("restarting", failure=result)
        return result

    def _gate(self, name: str) -> GateRouting:
        gate = self._books.gates.get(name)
        if gate is None:
            raise GateError(404, "unknown_gate", "There is no such port", f"Known are: {', '.join(self._books.gates)}.")
        return gate

    def _known(self, gpu_ids: Iterable[int]) -> tuple[int, ...]:
        wanted = tuple(dict.fromkeys(gpu_ids))
        known = self._books.fleet.gpu_ids
        for gpu_id in wanted:
            if gpu_id not in known:
                details = f"Known are: {', '.join(map(str, known))}."
                raise GateError(404, "unknown_gpu", f"There is no GPU {gpu_id}", details)
        return wanted
