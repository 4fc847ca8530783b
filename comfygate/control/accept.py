"""POST /prompt: from a request body to a job in our queue."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import orjson
from attrs import evolve, frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from comfygate.control.books import Books
from comfygate.control.reconcile import MOST_DEATHS, Reconciler
from comfygate.errors import BackendError, BackendUnreachable, GateError, JournalError
from comfygate.failpoints import reach
from comfygate.interfaces import IBackend, IJournal
from comfygate.ledger import Held
from comfygate.model import BackendAnswer, BackendState, Job, JobState
from comfygate.prompts import Submission, parse_submission
from comfygate.queue import QueueFullError
from comfygate.routing.assignment import GateRouting, expected_gpu

# What a backend is to prompts that may wait for it; one that was given up will not come back by itself.
_BACK = {
    BackendState.STARTING: BackendState.READY,
    BackendState.DOWN: BackendState.READY,
    BackendState.STOPPING: BackendState.READY,
    BackendState.STOPPED: BackendState.READY,
}

_WRITING = 60.0
"""Seconds that the disk may take to write a prompt down, before its client is told that it was not."""


@frozen
class Answer:
    """What a client is told: a status and a JSON body."""

    status: int
    body: bytes


class Acceptance:
    """Checks prompts, has a ComfyUI validate them, and lets them wait."""

    _log = Logger()

    def __init__(self, books: Books, reconciler: Reconciler, journal: IJournal) -> None:
        self._books = books
        self._reconciler = reconciler
        self._journal = journal
        self._ledger = books.ledger
        self._reserved: set[str] = set()
        self._entering: dict[str, int] = {}  # ids, and sizes in bytes
        self._number = 0
        self._sequence = 0

    def begin_after(self, sequence: int) -> None:
        """Count on from what an earlier daemon gave out: it had accepted so many prompts."""
        self._number = self._sequence = sequence

    async def submit(self, gate: GateRouting, body: bytes, pin: str | None) -> Answer:
        """Accept a prompt.

        :param body: the body of POST /prompt.
        :param pin: the header X-Target-GPU, if there is one.
        :return: 200 ``{"prompt_id", "number", "node_errors", "gpu_id"}`` once the
            prompt is in the queue and in the journal, or ComfyUI's own refusal (400).
        :raises GateError: 400, 503 or 504, with nothing queued.
        """
        self._books.check_open()
        submission = parse_submission(body)
        targets = self._targets(gate, pin)
        self._check_room(len(body))
        self._reserve(submission.prompt_id)
        try:
            return await self._validated(gate, submission, targets)
        finally:
            self._reserved.discard(submission.prompt_id)

    async def _validated(self, gate: GateRouting, submission: Submission, targets: tuple[int, ...]) -> Answer:
        expected = self._expected(gate, submission, targets)
        validators = self._validators(expected, targets)
        if not validators and self._books.fleet.ready((expected,)):
            return await self._submit_at_once(gate, submission, targets, expected)
        checked = await self._validate(validators, submission, targets)
        if checked is not None and checked.status != 200:
            return checked
        # Without anyone to validate it, ComfyUI judges it when it is handed over.
        found = {"outputs": [], "node_errors": {}} if checked is None else orjson.loads(checked.body)
        # Others were accepted meanwhile, and backends came and went.
        self._books.check_open()
        with contextlib.suppress(GateError):
            expected = self._expected(gate, submission, targets)
        job = self._job(gate, submission, targets, expected, found["outputs"])
        self._check_room(job.size)
        await self._enter(job)
        return _accepted(job, found["node_errors"])

    def _enter(self, job: Job) -> Deferred[None]:
        """Write a job down and let it wait, also if its client leaves meanwhile: it may be on the disk already.

        :raises GateError: 503, if it could not be written down.
        """
        entered: Deferred[None] = Deferred(lambda _: None)
        self._entering[job.prompt_id] = job.size

        def written(_: None) -> None:
            self._ledger.accept(job)
            self._books.changed()

        def tell(result: object) -> None:
            del self._entering[job.prompt_id]
            if late.active():
                late.cancel()
            if entered.called:  # its client has left
                return
            if isinstance(result, Failure):
                entered.errback(_not_written(result) if result.check(JournalError, CancelledError) else result)
            else:
                entered.callback(None)
                reach("accept.answered")

        writing = self._journal.accept(job)
        late = self._books.clock.callLater(_WRITING, writing.cancel)  # then nothing of it is kept
        writing.addCallback(written).addBoth(tell)
        return entered

    async def _validate(
        self, backends: Sequence[IBackend], submission: Submission, targets: Sequence[int]
    ) -> Answer | None:
        """What a ComfyUI says to the prompt; ``None`` if none can be asked now, and the prompt may wait for one."""
        for backend in backends:
            with contextlib.suppress(BackendUnreachable):
                return await self._validate_on(backend, submission)
        if not self._books.queue_when_down:
            raise self._books.fleet.unavailable(targets)
        return None

    async def _validate_on(self, backend: IBackend, submission: Submission) -> Answer:
        try:
            answer = await self._books.fleet.client(backend.gpu_id).validate(submission.validation())
        except BackendUnreachable:
            raise
        except BackendError:
            details = "Nothing was queued; the prompt may be sent again."
            message = f"GPU {backend.gpu_id} did not say whether the prompt is valid"
            raise GateError(504, "backend_timeout", message, details, retry_after=backend.retry_after) from None
        if answer.status in (200, 400):
            return Answer(answer.status, answer.body)
        self._log.warn(
            "validation of {prompt_id} ended with {status}: {body}",
            prompt_id=submission.prompt_id,
            status=answer.status,
            body=answer.body[:500],
        )
        details = f"Validation ended with status {answer.status}; see the log of GPU {backend.gpu_id}."
        raise GateError(400, "invalid_prompt", "ComfyUI fails while it validates this prompt", details)

    async def _submit_at_once(
        self, gate: GateRouting, submission: Submission, targets: tuple[int, ...], expected: int
    ) -> Answer:
        # Without the companion a prompt can only be validated by queueing it.
        if self._books.view(expected).draining:
            details = "Nothing was queued; send the prompt again when it takes prompts again, or to another port."
            raise GateError(503, "draining", f"GPU {expected} takes no prompts now", details, retry_after=10)
        job = self._job(gate, submission, targets, expected, [])
        self._check_room(job.size, beside=len(self._ledger.held_by(expected)))
        await self._enter(job)
        held = self._ledger.assign(job.prompt_id, expected)
        try:
            answer = await self._answer(held)
        except (BackendUnreachable, JournalError) as error:
            answer = None
            if self._ledger.is_current(held):
                self._ledger.forget(job.prompt_id)
                raise _not_sent(error, self._books.fleet.unavailable(targets)) from None
        if answer is not None and answer.status == 200:
            if self._ledger.is_current(held):
                self._ledger.hold(job, expected, JobState.PENDING)
                self._books.changed()
            return _accepted(job, orjson.loads(answer.body).get("node_errors", {}))
        if answer is not None and answer.status == 400 and self._ledger.is_current(held):
            self._ledger.forget(job.prompt_id)
            return Answer(400, answer.body)
        self._doubt(held)
        details = f"Look {job.prompt_id} up in /queue and /history before sending the prompt again."
        raise GateError(
            502,
            "backend_failed",
            f"GPU {expected} did not say whether it accepted the prompt",
            details,
            extra_info={"prompt_id": job.prompt_id, "gpu_id": expected},
        )

    async def _answer(self, held: Held) -> BackendAnswer | None:
        """What ComfyUI says to a prompt; ``None`` if that is unclear."""
        try:
            await self._journal.flush()  # it may be there from now on
            return await self._books.fleet.client(held.gpu_id).submit(held.job.submission)
        except BackendUnreachable:
            raise
        except BackendError:
            return None
        except CancelledError:  # the client has left
            self._doubt(held)
            raise

    def _doubt(self, held: Held) -> None:
        # It may be queued all the same; the reconciler finds out by its id, and does not try again.
        if self._ledger.is_current(held):
            self._ledger.hold(evolve(held.job, deaths=MOST_DEATHS), held.gpu_id, JobState.UNCLEAR)
            self._reconciler.look(held.gpu_id)
            self._books.changed()

    def _targets(self, gate: GateRouting, pin: str | None) -> tuple[int, ...]:
        if pin is None:
            return gate.gpu_ids
        if pin.strip() not in map(str, gate.gpu_ids):
            known = ", ".join(map(str, gate.gpu_ids))
            raise GateError(400, "invalid_target", "X-Target-GPU names no GPU of this port", f"It may be: {known}.")
        return (int(pin),)

    def _check_room(self, size: int, beside: int = 0) -> None:
        try:
            self._ledger.waiting.check_room(size + sum(self._entering.values()), beside + len(self._entering))
        except QueueFullError as error:
            raise GateError(503, "queue_full", "The queue is full", str(error), retry_after=5) from None

    def _reserve(self, prompt_id: str) -> None:
        if prompt_id in self._reserved or prompt_id in self._entering or self._ledger.knows(prompt_id):
            details = f"{prompt_id} was accepted before; give each prompt an id of its own, or none."
            raise GateError(400, "duplicate_prompt_id", "prompt_id is in use", details)
        self._reserved.add(prompt_id)

    def _expected(self, gate: GateRouting, submission: Submission, targets: tuple[int, ...]) -> int:
        """Where the prompt would go now, or as soon as a GPU that is down is back.

        :raises GateError: 503, if no GPU that may run it is there, nor will be.
        """
        draft = Job(
            prompt_id=submission.prompt_id,
            number=0,
            sequence=self._sequence,
            gate=gate.name,
            targets=frozenset(targets),
            expected=-1,
            client_id=submission.client_id,
        )
        views, now = self._books.views(), self._books.clock.seconds()
        expected = expected_gpu(gate, draft, views, now)
        if expected is None and self._books.queue_when_down:
            back = {n: evolve(view, state=_BACK.get(view.state, view.state)) for n, view in views.items()}
            expected = expected_gpu(gate, draft, back, now)
        if expected is None:
            raise self._books.fleet.unavailable(targets)
        return expected

    def _validators(self, expected: int, targets: Sequence[int]) -> list[IBackend]:
        """Who can be asked to validate a prompt, the best first; backends of our own all run the same ComfyUI."""
        fleet = self._books.fleet
        others = [gpu_id for gpu_id in targets if gpu_id != expected]
        if fleet[expected].owned:
            others += [backend.gpu_id for backend in fleet if backend.owned and backend.gpu_id not in targets]
        return [backend for backend in fleet.ready((expected, *others)) if backend.has_companion]

    def _job(
        self, gate: GateRouting, submission: Submission, targets: tuple[int, ...], expected: int, outputs: list[str]
    ) -> Job:
        number: float = self._number
        if submission.number is not None:
            number = submission.number
        elif submission.front:
            number = -number
        self._number += 1
        self._sequence += 1
        alias = None
        if gate.merges and submission.client_id:
            alias = self._books.aliases.inside(submission.client_id)
        return Job(
            prompt_id=submission.prompt_id,
            number=number,
            sequence=self._sequence,
            gate=gate.name,
            targets=frozenset(targets),
            expected=expected,
            client_id=submission.client_id,
            submission=submission.submission(number, alias),
            item=submission.item(number, outputs),
            outputs=tuple(outputs),
            accepted=self._books.wall_clock(),
        )


def _accepted(job: Job, node_errors: object) -> Answer:
    told = {
        "prompt_id": job.prompt_id,
        "number": job.number,
        "node_errors": node_errors,
        "gpu_id": job.expected,
    }
    return Answer(200, orjson.dumps(told))


def _not_written(failure: Failure) -> GateError:
    if failure.check(CancelledError):
        return _journal_failed(f"The disk did not answer within {_WRITING:g} s.")
    return _journal_failed(failure.getErrorMessage())


def _not_sent(error: Exception, unavailable: GateError) -> GateError:
    return _journal_failed(str(error)) if isinstance(error, JournalError) else unavailable


def _journal_failed(reason: str) -> GateError:
    return GateError(503, "journal_failed", "The prompt cannot be written to the journal", reason, retry_after=5)
