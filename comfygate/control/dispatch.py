"""Hands waiting jobs to backends, and puts them back when that fails."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping

from attrs import evolve
from twisted.internet.defer import Deferred, DeferredLock
from twisted.logger import Logger

from comfygate.control.books import Books
from comfygate.control.reconcile import Reconciler
from comfygate.errors import BackendError, BackendUnreachable, JournalError
from comfygate.failpoints import reach
from comfygate.history import refusal
from comfygate.interfaces import IJournal
from comfygate.ledger import Held
from comfygate.line import Line
from comfygate.model import BackendAnswer, BackendState, BackendView, Choice, Job, JobState
from comfygate.offers import is_lacking
from comfygate.routing.assignment import next_choice

_REST = 1.0
"""Seconds without new jobs for a backend that could not be reached; its state is about to change."""


class Dispatcher:
    """Asks the policies after every change, and carries out what they choose.

    :param is_heard: whether the clients that waited for a backend hear it; it
        gets no job before, since nobody would learn of that job's end.
    :param hears: whether a job's client hears a GPU, or is not about to; there
        is a change once it does.
    """

    _log = Logger()

    def __init__(
        self,
        books: Books,
        reconciler: Reconciler,
        journal: IJournal,
        is_heard: Callable[[int], bool] = lambda gpu_id: True,
        hears: Callable[[Job, int], bool] = lambda job, gpu_id: True,
    ) -> None:
        self._books = books
        self._ledger = books.ledger
        self._reconciler = reconciler
        self._journal = journal
        self._is_heard = is_heard
        self._hears = hears
        self._resting: set[int] = set()
        self._lines: defaultdict[int, DeferredLock] = defaultdict(DeferredLock)
        books.watch(self._dispatch)

    def _dispatch(self) -> None:
        gates = tuple(self._books.gates.values())
        views = {view.gpu_id: self._rested(view) for view in self._books.views().values()}
        now = self._books.clock.seconds()
        waiting = _Waiting({gate.name: self._ledger.waiting.of_gate(gate.name) for gate in gates})
        while True:
            choice = next_choice(gates, waiting.lines, views, now)
            if choice is None:
                return
            if not self._hears(choice.job, choice.gpu_id):
                waiting.not_there(choice)
                continue
            view = views[choice.gpu_id]
            seconds = view.estimates.run(choice.job) + view.load_seconds(choice.job.models)
            held = self._ledger.assign(choice.job.prompt_id, choice.gpu_id, seconds)
            waiting.handed_over(choice)
            Deferred.fromCoroutine(self._send(held))
            views[choice.gpu_id] = self._rested(self._books.view(choice.gpu_id))

    async def _send(self, held: Held) -> None:
        with self._log.failuresHandled("sending {job} to GPU {gpu_id}", job=held.job, gpu_id=held.gpu_id):
            await self._in_turn(held)
        if self._ledger.is_current(held):
            self._look_up(held, "was not asked as it should be")

    async def _in_turn(self, held: Held) -> None:
        # Two at once might arrive in any order, and an idle ComfyUI begins with the first.
        line = self._lines[held.gpu_id]
        await line.acquire()
        try:
            if self._ledger.is_current(held):
                await self._submit(held)
        finally:
            line.release()

    async def _submit(self, held: Held) -> None:
        try:
            if not await self._noted(held):
                return
            reach("dispatch.before_send")
            answer = await self._books.fleet.client(held.gpu_id).submit(held.job.submission)
        except BackendUnreachable as error:
            self._put_back(held, f"could not be reached: {error}")
        except JournalError as error:
            self._put_back(held, f"is not asked while the journal cannot be written: {error}")
        except BackendError as error:
            self._look_up(held, f"gave no clear answer: {error!r}")
        else:
            self._answered(held, answer)
        self._books.changed()

    async def _noted(self, held: Held) -> bool:
        """Where a backend outlives us, write down first that it may have the job, so that it is looked for there.

        :return: whether it is still to be sent.
        """
        if not self._books.fleet[held.gpu_id].owned:
            await self._journal.flush()
        return self._ledger.is_current(held)

    def _answered(self, held: Held, answer: BackendAnswer) -> None:
        reach("dispatch.after_send")
        if not self._ledger.is_current(held):
            return
        if answer.status == 200:
            self._ledger.hold(held.job, held.gpu_id, JobState.PENDING)
            self._reconciler.look(held.gpu_id)
        elif answer.status == 400 and self._lacks(held, answer):
            self._send_elsewhere(held, answer)
        elif answer.status == 400:
            self._log.error(
                "GPU {gpu_id} refuses {prompt_id}, which was accepted: {body}",
                gpu_id=held.gpu_id,
                prompt_id=held.job.prompt_id,
                body=answer.body[:1000],
            )
            self._books.fail(held.job.prompt_id, f"GPU {held.gpu_id} refused it: {refusal(answer.body)}")
        else:
            self._look_up(held, f"answered {answer.status}")

    def _lacks(self, held: Held, answer: BackendAnswer) -> bool:
        """Whether another GPU may have what this one lacks."""
        return is_lacking(answer.status, answer.body) and len(self._others(held)) > 0

    def _others(self, held: Held) -> frozenset[int]:
        return frozenset(gpu_id for gpu_id in held.job.targets if gpu_id != held.gpu_id and gpu_id in self._books.fleet)

    def _send_elsewhere(self, held: Held, answer: BackendAnswer) -> None:
        self._log.warn(
            "{prompt_id} waits for another GPU: GPU {gpu_id} refuses it: {reason}",
            prompt_id=held.job.prompt_id,
            gpu_id=held.gpu_id,
            reason=refusal(answer.body),
        )
        others = self._others(held)
        job = self._ledger.put_back(held.job.prompt_id, attempts=held.job.attempts, deaths=held.job.deaths)
        expected = job.expected if job.expected in others else min(others)
        self._ledger.relocate(evolve(job, targets=others, expected=expected))

    def _put_back(self, held: Held, reason: str) -> None:
        if self._ledger.is_current(held):
            self._log.warn(
                "{prompt_id} waits again: GPU {gpu_id} {reason}",
                prompt_id=held.job.prompt_id,
                gpu_id=held.gpu_id,
                reason=reason,
            )
            self._ledger.put_back(held.job.prompt_id, attempts=held.job.attempts, deaths=held.job.deaths)
        self._resting.add(held.gpu_id)
        self._books.clock.callLater(_REST, self._rest_over, held.gpu_id)

    def _rest_over(self, gpu_id: int) -> None:
        self._resting.discard(gpu_id)
        self._books.changed()

    def _rested(self, view: BackendView) -> BackendView:
        rests = view.gpu_id in self._resting or not self._is_heard(view.gpu_id)
        return evolve(view, state=BackendState.DOWN) if rests else view

    def _look_up(self, held: Held, reason: str) -> None:
        # It may be queued there all the same: asked by id, never sent again blindly.
        if self._ledger.is_current(held):
            self._log.warn(
                "looking {prompt_id} up: GPU {gpu_id} {reason}",
                prompt_id=held.job.prompt_id,
                gpu_id=held.gpu_id,
                reason=reason,
            )
            self._ledger.hold(held.job, held.gpu_id, JobState.UNCLEAR)
            self._reconciler.look(held.gpu_id)


class _Waiting:
    """What may be handed over at this moment.

    :param lines: the waiting jobs of each gate, which follow what is handed over.
    :ivar lines: the same, but without the GPUs on which a job's client would not hear it yet.
    """

    def __init__(self, lines: Mapping[str, Line]) -> None:
        self.lines = dict(lines)
        self._copied: set[str] = set()

    def not_there(self, choice: Choice) -> None:
        """The client of a chosen job does not hear that GPU: none of its jobs goes there now."""
        chosen, gpu_id = choice.job, choice.gpu_id
        if chosen.gate not in self._copied:
            self._copied.add(chosen.gate)
            self.lines[chosen.gate] = self.lines[chosen.gate].copy()
        line = self.lines[chosen.gate]
        for job in [job for job in line if job.client_id == chosen.client_id and gpu_id in job.targets]:
            line.replace(evolve(job, targets=job.targets - {gpu_id}))

    def handed_over(self, choice: Choice) -> None:
        """A chosen job waits no longer."""
        if choice.job.gate in self._copied:
            self.lines[choice.job.gate].remove(choice.job)
