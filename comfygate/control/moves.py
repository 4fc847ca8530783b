"""A prompt that waits is sent to another port than its client sent it to."""

from __future__ import annotations

import math
import sys

from attrs import evolve

from comfygate.control.books import Books
from comfygate.control.recall import Recall
from comfygate.errors import GateError
from comfygate.model import Job, JobState
from comfygate.prompts import renumbered
from comfygate.routing.assignment import GateRouting, expected_gpu

_CERTAINTY = 1.0
"""Seconds to find out what became of a prompt that could not be taken back; it has most likely started."""


class Moves:
    """Takes prompts back from where they wait, and lets them wait elsewhere."""

    def __init__(self, books: Books, recall: Recall) -> None:
        self._books = books
        self._ledger = books.ledger
        self._recall = recall

    async def move(self, prompt_id: str, gate: GateRouting, *, front: bool) -> Job:
        """Let a prompt wait as if it had been sent to `gate`.

        :param front: whether it comes before everything else.
        :raises GateError: 404 for an unknown prompt, 409 for one that runs or
            has ended, 503 or 504 if the GPU that holds it does not answer.
        """
        await self._take_back(prompt_id)
        self._check_waiting(prompt_id)
        job = self._moved(self._ledger.waiting.get(prompt_id), gate, front=front)
        self._ledger.relocate(job)
        self._books.changed()
        return job

    async def _take_back(self, prompt_id: str) -> None:
        held = self._ledger.held(prompt_id)
        if held is not None and held.state is not JobState.RUNNING:
            await self._recall.some(held.gpu_id, (prompt_id,))
            await self._books.until(lambda: self._is_certain(prompt_id), _CERTAINTY)

    def _is_certain(self, prompt_id: str) -> bool:
        held = self._ledger.held(prompt_id)
        return held is None or held.state is JobState.RUNNING

    def _check_waiting(self, prompt_id: str) -> None:
        if prompt_id in self._ledger.waiting:
            return
        held = self._ledger.held(prompt_id)
        if held is None:
            raise over_or_unknown(self._books, prompt_id)
        if held.state is not JobState.RUNNING:
            details = f"GPU {held.gpu_id} does not say whether it has begun with it; try again."
            raise GateError(503, "prompt_on_its_way", "The prompt is on its way", details, retry_after=1)
        details = "Only a prompt that waits can be moved; this one can be cancelled."
        extra = {"gpu_id": held.gpu_id}
        raise GateError(409, "prompt_runs", f"It runs on GPU {held.gpu_id}", details, extra_info=extra)

    def _moved(self, job: Job, gate: GateRouting, *, front: bool) -> Job:
        draft = evolve(job, gate=gate.name, targets=frozenset(gate.gpu_ids), expected=-1)
        expected = expected_gpu(gate, draft, self._books.views(), self._books.clock.seconds())
        if expected is None:
            expected = job.expected if job.expected in gate.gpu_ids else min(gate.gpu_ids)
        moved = evolve(draft, expected=expected)
        if not front:
            return moved
        number = before(self._ledger.first_number)
        submission, item = renumbered(job.submission, job.item, number)
        return evolve(moved, number=number, submission=submission, item=item)


def over_or_unknown(books: Books, prompt_id: str) -> GateError:
    """Why nothing can be done with a prompt that neither waits nor is held."""
    ended = books.ledger.ended(prompt_id)
    if ended is None:
        return GateError(404, "unknown_prompt", "There is no such prompt", f"{prompt_id} neither runs nor waits.")
    extra = {"state": ended.state.value, "gpu_id": ended.gpu_id}
    return GateError(409, "prompt_ended", f"It has ended: {ended.state.value}", ended.reason or "", extra_info=extra)


def before(number: float) -> float:
    """A finite number that is smaller, if there is one."""
    return max(min(number - 1, math.nextafter(number, -math.inf)), -sys.float_info.max)
