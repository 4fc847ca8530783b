"""POST /prompt: from a request body to a job in our queue."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import orjson
from attrs import evolve, frozen
from twisted.internet.defer import CancelledError
from twisted.logger import Logger

from comfygate.control.books import Books
from comfygate.control.reconcile import MOST_ATTEMPTS, Reconciler
from comfygate.errors import BackendError, BackendUnreachable, GateError
from comfygate.interfaces import IBackend
from comfygate.ledger import Held
from comfygate.model import BackendAnswer, Job, JobState
from comfygate.prompts import Submission, parse_submission
from comfygate.queue import QueueFullError
from comfygate.routing.assignment import GateRouting, expected_gpu


@frozen
class Answer:
    """What a client is told: a status and a JSON body."""

    status: int
    body: bytes


class Acceptance:
    """Checks prompts, has a ComfyUI validate them, and lets them wait."""

    _log = Logger()

    def __init__(self, books: Books, reconciler: Reconciler) -> None:
        self._books = books
        self._reconciler = reconciler
        self._ledger = books.ledger
        self._reserved: set[str] = set()
        self._number = 0
        self._sequence = 0

    async def submit(self, gate: GateRouting, body: bytes, pin: str | None) -> Answer:
        """Accept a prompt.

        :param body: the body of POST /prompt.
        :param pin: the header X-Target-GPU, if there is one.
        :return: 200 ``{"prompt_id", "number", "node_errors", "gpu_id"}`` once the
            prompt is in the queue, or ComfyUI's own refusal (400).
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
        if expected is None:
            raise self._books.fleet.unavailable(targets)
        validators = self._validators(expected, targets)
        if not validators:
            return await self._submit_at_once(gate, submission, targets, expected)
        checked = await self._validate(validators, submission, targets)
        if checked.status != 200:
            return checked
        found = orjson.loads(checked.body)
        # Others were accepted meanwhile, and backends came and went.
        now_expected = self._expected(gate, submission, targets)
        job = self._job(gate, submission, targets, expected if now_expected is None else now_expected, found["outputs"])
        self._books.check_open()
        self._check_room(job.size)
        self._ledger.accept(job)
        self._books.changed()
        return _accepted(job, found["node_errors"])

    async def _validate(self, backends: Sequence[IBackend], submission: Submission, targets: Sequence[int]) -> Answer:
        for backend in backends:
            with contextlib.suppress(BackendUnreachable):
                return await self._validate_on(backend, submission)
        raise self._books.fleet.unavailable(targets)

    async def _validate_on(self, backend: IBackend, submission: Submission) -> Answer:
        try:
            answer = await self._books.fleet.client(backend.gpu_id).validate(submission.validation())
        except BackendUnreachable:
            raise
        except BackendError:
            details = "Nothing was queued; the prompt may be sent again."
            message = f"GPU {backend.gpu_id} did not validate the prompt in time"
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
        self._ledger.accept(job)
        held = self._ledger.assign(job.prompt_id, expected)
        try:
            answer = await self._answer(held)
        except BackendUnreachable:
            answer = None
            if self._ledger.is_current(held):
                self._ledger.forget(job.prompt_id)
                raise self._books.fleet.unavailable(targets) from None
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
            self._ledger.hold(evolve(held.job, attempts=MOST_ATTEMPTS), held.gpu_id, JobState.UNCLEAR)
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
            self._ledger.waiting.check_room(size, beside)
        except QueueFullError as error:
            raise GateError(503, "queue_full", "The queue is full", str(error), retry_after=5) from None

    def _reserve(self, prompt_id: str) -> None:
        if prompt_id in self._reserved or self._ledger.knows(prompt_id):
            details = f"{prompt_id} was accepted before; give each prompt an id of its own, or none."
            raise GateError(400, "duplicate_prompt_id", "prompt_id is in use", details)
        self._reserved.add(prompt_id)

    def _expected(self, gate: GateRouting, submission: Submission, targets: tuple[int, ...]) -> int | None:
        draft = Job(
            prompt_id=submission.prompt_id,
            number=0,
            sequence=self._sequence,
            gate=gate.name,
            targets=frozenset(targets),
            expected=-1,
            client_id=submission.client_id,
        )
        return expected_gpu(gate, draft, self._books.views(), self._books.clock.seconds())

    def _validators(self, expected: int, targets: Sequence[int]) -> list[IBackend]:
        others = (gpu_id for gpu_id in targets if gpu_id != expected)
        return [backend for backend in self._books.fleet.ready((expected, *others)) if backend.has_companion]

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
        return Job(
            prompt_id=submission.prompt_id,
            number=number,
            sequence=self._sequence,
            gate=gate.name,
            targets=frozenset(targets),
            expected=expected,
            client_id=submission.client_id,
            submission=submission.submission(number),
            item=submission.item(number, outputs),
        )


def _accepted(job: Job, node_errors: object) -> Answer:
    told = {
        "prompt_id": job.prompt_id,
        "number": job.number,
        "node_errors": node_errors,
        "gpu_id": job.expected,
    }
    return Answer(200, orjson.dumps(told))
