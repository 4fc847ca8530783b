"""Every job that has not ended, as an operator sees it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from attrs import frozen

from comfygate.control.books import Books
from comfygate.control.status import LONGEST_ID
from comfygate.ledger import NOWHERE
from comfygate.model import Job, JobState, Order


@frozen
class _Row:
    """A job in a GPU's queue.

    :ivar key: what the queue is sorted by: what runs comes first.
    """

    key: tuple[bool, Order]
    facts: dict[str, Any]


class Worklist:
    """Lists jobs, in the order in which each GPU will run them."""

    def __init__(self, books: Books) -> None:
        self._fleet = books.fleet
        self._ledger = books.ledger

    def jobs(self) -> Iterator[dict[str, Any]]:
        """Every unfinished job: ``{"prompt_id", "place", "gate", "gpu_id", "targets", "state", "number",
        "attempts", "deaths", "client_id", "accepted"}``.

        ``gpu_id`` is the GPU that holds it, or where it is expected to run,
        ``None`` if all GPUs that may run it are gone;
        ``place`` counts from 0, which runs, in that GPU's queue; ``accepted``
        is in seconds since 1970.  A job that did not come through ComfyGate has
        the state ``"foreign"``, and no gate.
        """
        for gpu_id in (*self._fleet.gpu_ids, NOWHERE):
            rows = sorted(self._rows(gpu_id), key=lambda row: row.key)
            first = 0 if rows and not rows[0].key[0] else 1
            for place, row in enumerate(rows, first):
                yield {**row.facts, "place": place}

    def _rows(self, gpu_id: int) -> Iterator[_Row]:
        for held in self._ledger.held_by(gpu_id):
            waits = held.state is not JobState.RUNNING
            yield _Row((waits, held.job.order), _facts(held.job, gpu_id, held.state))
        for job in self._ledger.expected_on(gpu_id):
            yield _Row((True, job.order), _facts(job, gpu_id, JobState.WAITING))
        for one in self._ledger.strangers(gpu_id):
            facts: dict[str, Any] = {"prompt_id": one.prompt_id, "gate": None, "gpu_id": gpu_id, "targets": [gpu_id]}
            facts |= {"state": "foreign", "number": one.number, "attempts": 0, "deaths": 0}
            yield _Row((not one.running, (one.number, 0)), {**facts, "client_id": None, "accepted": None})


def _facts(job: Job, gpu_id: int, state: JobState) -> dict[str, Any]:
    return {
        "prompt_id": job.prompt_id,
        "gate": job.gate,
        "gpu_id": None if gpu_id == NOWHERE else gpu_id,
        "targets": sorted(job.targets),
        "state": state.value,
        "number": job.number,
        "attempts": job.attempts,
        "deaths": job.deaths,
        "client_id": job.client_id and job.client_id[:LONGEST_ID],
        "accepted": job.accepted or None,
    }
