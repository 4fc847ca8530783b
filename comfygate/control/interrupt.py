"""Stopping work: prompts that run are interrupted, prompts that wait are taken out."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import partial

from attrs import frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from comfygate.control.books import Books
from comfygate.errors import BackendError, GateError
from comfygate.interfaces import IBackend, IComfyUI, IInterruptPolicy
from comfygate.ledger import NOWHERE
from comfygate.model import BackendQueue, JobState
from comfygate.routing.assignment import GateRouting

_SENDING_PATIENCE = 10.0
"""Seconds that a job may take from our hands into a backend's queue before we look there."""


@frozen
class Interrupted:
    """Where an interrupt found its prompt.

    :ivar state: ``running``, ``pending`` or ``unknown``.
    """

    prompt_id: str
    gpu_id: int | None
    state: str


class Interrupts:
    """Finds prompts and stops them, and never touches another one.

    :ivar policy: where they are looked for.
    """

    _log = Logger()

    def __init__(self, books: Books, policy: IInterruptPolicy) -> None:
        self._books = books
        self._ledger = books.ledger
        self.policy = policy

    async def prompt(self, prompt_id: str) -> Interrupted:
        """Stop one prompt, wherever it is.

        :raises GateError: 503 or 504, if a GPU holds it that cannot be asked now.
        """
        await self._settled((prompt_id,))
        if prompt_id in self._ledger.waiting:
            return self._cancel_waiting(prompt_id)
        held = self._ledger.held(prompt_id)
        job, gpu_id = (held.job, held.gpu_id) if held else (None, None)
        if held is None and self._ledger.ended(prompt_id) is not None:
            return Interrupted(prompt_id, None, "unknown")
        views = tuple(self._books.views().values())
        for candidate in self.policy.candidates(prompt_id, job, gpu_id, views):
            state = await self._asked_to_stop(candidate, prompt_id)
            if state is not None:
                return Interrupted(prompt_id, candidate, state)
        if prompt_id in self._ledger.waiting:  # again: its backend went down when it was asked
            return self._cancel_waiting(prompt_id)
        held = self._ledger.held(prompt_id)
        if held is not None and self._on_its_way(prompt_id):
            details = f"It is being sent to GPU {held.gpu_id}, and will run; try again."
            raise GateError(503, "prompt_on_its_way", "The prompt is on its way", details, retry_after=1)
        return Interrupted(prompt_id, None, "unknown")

    async def _asked_to_stop(self, gpu_id: int, prompt_id: str) -> str | None:
        try:
            return await self._stop_on(gpu_id, prompt_id)
        except BackendError as error:
            self._log.warn("GPU {gpu_id} does not stop {id}: {error}", gpu_id=gpu_id, id=prompt_id, error=error)
        held = self._ledger.held(prompt_id)
        if held is not None and held.gpu_id == gpu_id:
            self._books.fleet.first_ready((gpu_id,))
            message = f"GPU {gpu_id} did not say whether it stopped the prompt"
            raise GateError(504, "backend_timeout", message, "The prompt may still run.", retry_after=1)
        return None

    async def running(self, gate: GateRouting) -> None:
        """Stop whatever runs on a gate's GPUs, as a single ComfyUI would.

        :raises GateError: 503 if none of them serves requests now.
        """
        self._books.fleet.first_ready(gate.gpu_ids)
        await self._on_all(gate, self._interrupt)

    async def client(self, gate: GateRouting, client_id: str) -> None:
        """Stop what runs for one client on a gate's GPUs."""
        await self._on_all(gate, partial(self._interrupt_client, client_id=client_id))

    async def remove_pending(self, gate: GateRouting, prompt_ids: Iterable[str] | None) -> None:
        """Take waiting prompts out of a gate's queues; running ones are left alone.

        :param prompt_ids: which; ``None`` for all of them.  Unknown ids are
            ignored, as ComfyUI does.
        """
        wanted = None if prompt_ids is None else frozenset(prompt_ids)
        for job in list(self._ledger.waiting):
            if job.expected in gate.gpu_ids and (wanted is None or job.prompt_id in wanted):
                self._cancel_waiting(job.prompt_id)
        await self._on_all(gate, partial(self._remove_held, wanted=wanted))

    async def _on_all(self, gate: GateRouting, do: Callable[[IBackend], Awaitable[None]]) -> None:
        """Do something on every GPU that serves requests, at the same time: one that hangs delays no other."""
        doing = [Deferred.fromCoroutine(self._on(one, do)) for one in self._books.fleet.ready(gate.gpu_ids)]
        for one in doing:
            await one

    async def _on(self, backend: IBackend, do: Callable[[IBackend], Awaitable[None]]) -> None:
        try:
            await do(backend)
        except (BackendError, GateError) as error:
            self._log.warn("GPU {gpu_id} cannot be told to stop: {error}", gpu_id=backend.gpu_id, error=error)

    async def _interrupt(self, backend: IBackend) -> None:
        await self._books.fleet.client(backend.gpu_id).interrupt(None)

    async def _interrupt_client(self, backend: IBackend, client_id: str) -> None:
        for held in self._ledger.held_by(backend.gpu_id):
            if held.state is JobState.RUNNING and held.job.client_id == client_id:
                await self.prompt(held.job.prompt_id)

    def _cancel_waiting(self, prompt_id: str) -> Interrupted:
        job = self._ledger.waiting.get(prompt_id)
        self._ledger.end(prompt_id, JobState.CANCELLED)
        self._books.changed()
        return Interrupted(prompt_id, None if job.expected == NOWHERE else job.expected, "pending")

    async def _settled(self, prompt_ids: Iterable[str]) -> None:
        # A job on its way, to a backend or back from there, is in neither queue; it arrives within milliseconds.
        deadline = self._books.clock.seconds() + _SENDING_PATIENCE
        while any(map(self._on_its_way, prompt_ids)) and self._books.clock.seconds() < deadline:
            await self._pause()

    def _on_its_way(self, prompt_id: str) -> bool:
        held = self._ledger.held(prompt_id)
        if held is None:
            return False
        return held.state in (JobState.SENT, JobState.UNCLEAR) or prompt_id in self._books.recalling

    def _pause(self) -> Deferred[None]:
        clock: IReactorTime = self._books.clock
        return deferLater(clock, 0.02)

    async def _stop_on(self, gpu_id: int, prompt_id: str) -> str | None:
        client = self._books.fleet.client(gpu_id)
        queue = await client.queue()
        if prompt_id in queue.pending:
            queue = await self._delete(client, [prompt_id])
            if prompt_id not in queue.running:
                return "pending"
        if prompt_id in queue.running:
            if self._ledger.held(prompt_id) is not None:
                self._books.unwanted.add(prompt_id)
            await client.interrupt(prompt_id)
            return "running"
        return None

    async def _delete(self, client: IComfyUI, prompt_ids: list[str]) -> BackendQueue:
        """Take prompts out of a backend's queue, and say what is in it afterwards: some may have started before."""
        new = frozenset(prompt_ids) - self._books.removing
        self._books.removing.update(new)
        try:
            await client.delete(prompt_ids)
            queue = await client.queue()
            for prompt_id in prompt_ids:
                if prompt_id not in queue.running:
                    await self._note_removed(client, prompt_id)
            return queue
        finally:
            self._books.removing -= new

    async def _note_removed(self, client: IComfyUI, prompt_id: str) -> None:
        if self._ledger.held(prompt_id) is None or await client.history(prompt_id) is not None:
            return
        if self._ledger.held(prompt_id) is not None:
            self._ledger.end(prompt_id, JobState.CANCELLED)
            self._books.changed()

    async def _remove_held(self, backend: IBackend, wanted: frozenset[str] | None) -> None:
        ours = [
            held.job.prompt_id
            for held in self._ledger.held_by(backend.gpu_id)
            if held.state is not JobState.RUNNING and (wanted is None or held.job.prompt_id in wanted)
        ]
        await self._settled(ours)
        try:
            await self._remove_pending_of(backend, wanted)
        finally:
            for prompt_id in ours:
                if prompt_id in self._ledger.waiting:  # again: the backend went down
                    self._cancel_waiting(prompt_id)

    async def _remove_pending_of(self, backend: IBackend, wanted: frozenset[str] | None) -> None:
        client = self._books.fleet.client(backend.gpu_id)
        queue = await client.queue()
        doomed = [prompt_id for prompt_id in queue.pending if wanted is None or prompt_id in wanted]
        if not doomed:
            return
        await self._delete(client, doomed)
