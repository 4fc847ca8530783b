"""Hands waiting jobs to backends, and puts them back when that fails."""

from __future__ import annotations

from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
from twisted.logger import Logger

from comfygate.control.books import Books
from comfygate.control.reconcile import Reconciler
from comfygate.errors import BackendError, BackendUnreachable
from comfygate.model import BackendState, BackendView, Job, JobState
from comfygate.routing.assignment import next_choice

_REST = 1.0
"""Seconds without new jobs for a backend that could not be reached; its state is about to change."""


class Dispatcher:
    """Asks the policies after every change, and carries out what they choose."""

    _log = Logger()

    def __init__(self, books: Books, reconciler: Reconciler) -> None:
        self._books = books
        self._ledger = books.ledger
        self._reconciler = reconciler
        self._resting: set[int] = set()
        books.watch(self._dispatch)

    def _dispatch(self) -> None:
        gates = tuple(self._books.gates.values())
        views = {view.gpu_id: self._rested(view) for view in self._books.views().values()}
        now = self._books.clock.seconds()
        while True:
            waiting = {gate.name: self._ledger.waiting.of_gate(gate.name) for gate in gates}
            choice = next_choice(gates, waiting, views, now)
            if choice is None:
                return
            job = self._ledger.assign(choice.job.prompt_id, choice.gpu_id)
            Deferred.fromCoroutine(self._send(job, choice.gpu_id))
            views[choice.gpu_id] = self._rested(self._books.view(choice.gpu_id))

    async def _send(self, job: Job, gpu_id: int) -> None:
        with self._log.failuresHandled("sending {job} to GPU {gpu_id}", job=job, gpu_id=gpu_id):
            await self._submit(job, gpu_id)

    async def _submit(self, job: Job, gpu_id: int) -> None:
        backend: Any = self._books.fleet[gpu_id]
        try:
            answer = await backend.client.submit(job.submission)
        except BackendUnreachable as error:
            self._put_back(job, gpu_id, f"could not be reached: {error}")
            return
        except (BackendError, DeferredTimeoutError) as error:
            self._look_up(job, gpu_id, f"gave no clear answer: {error!r}")
            return
        if not self._still_sent(job, gpu_id):
            return
        if answer.status == 200:
            self._ledger.hold(job, gpu_id, JobState.PENDING)
            self._reconciler.look(gpu_id)
        elif answer.status == 400:
            self._log.error(
                "GPU {gpu_id} refuses {prompt_id}, which was valid when it was accepted: {body}",
                gpu_id=gpu_id,
                prompt_id=job.prompt_id,
                body=answer.body[:1000],
            )
            self._ledger.end(job.prompt_id, JobState.FAILED)
        else:
            self._look_up(job, gpu_id, f"answered {answer.status}")
        self._books.changed()

    def _still_sent(self, job: Job, gpu_id: int) -> bool:
        held = self._ledger.held(job.prompt_id)
        return held is not None and held.gpu_id == gpu_id and held.state is JobState.SENT

    def _put_back(self, job: Job, gpu_id: int, reason: str) -> None:
        self._log.warn(
            "{prompt_id} waits again: GPU {gpu_id} {reason}", prompt_id=job.prompt_id, gpu_id=gpu_id, reason=reason
        )
        if self._still_sent(job, gpu_id):
            self._ledger.put_back(job.prompt_id, attempts=job.attempts)
        self._resting.add(gpu_id)
        self._books.clock.callLater(_REST, self._rest_over, gpu_id)

    def _rest_over(self, gpu_id: int) -> None:
        self._resting.discard(gpu_id)
        self._books.changed()

    def _rested(self, view: BackendView) -> BackendView:
        return evolve(view, state=BackendState.DOWN) if view.gpu_id in self._resting else view

    def _look_up(self, job: Job, gpu_id: int, reason: str) -> None:
        # It may be queued there all the same: asked by id, never sent again blindly.
        self._log.warn(
            "looking {prompt_id} up: GPU {gpu_id} {reason}", prompt_id=job.prompt_id, gpu_id=gpu_id, reason=reason
        )
        if self._still_sent(job, gpu_id):
            self._ledger.hold(job, gpu_id, JobState.UNCLEAR)
            self._reconciler.look(gpu_id)
