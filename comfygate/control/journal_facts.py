"""What is in the journal, for ``comfygatectl journal``."""

from __future__ import annotations

from typing import Any

import orjson
from attrs import asdict
from twisted.internet.defer import Deferred

from comfygate.errors import GateError, JournalError
from comfygate.journal.inspection import Inspection
from comfygate.journal.journal import Journal
from comfygate.journal.records import Finished, Journalled
from comfygate.ledger import NOWHERE, Ledger
from comfygate.model import JobState

_MOST = 100_000
"""Jobs of each kind that are looked through for one."""


class JournalFacts:
    """Reads the journal's file as it is on disk.

    :param ledger: knows the jobs that can run.
    """

    def __init__(self, journal: Journal, ledger: Ledger) -> None:
        self._journal = journal
        self._ledger = ledger

    def inspect(self, *, finished: bool, state: str | None, limit: int) -> Deferred[dict[str, Any]]:
        """All about the file, and its jobs: those that are not over, the oldest first, then the newest of the others.

        :param finished: whether jobs that are over are listed, too.
        :param state: the only one that is listed.
        :return: ``{"file", "size", "schema_version", "trouble", "counts": {state: n}, "histories", "stranded": [id],
            "quarantine": [{"found", "source", "why", "content"}], "set_aside": [path], "jobs": [job]}``, each job
            ``{"prompt_id", "state", "gate", "gpu_id", "number", "attempts", "deaths", "client_id", "accepted"}`` or,
            if it is over, with ``"ended"`` and ``"reason"``; times in seconds since 1970.
        """
        most = limit if state is None else _MOST
        return Deferred.fromCoroutine(self._inspect(most, finished or state is not None, state, limit))

    def show(self, prompt_id: str) -> Deferred[dict[str, Any] | None]:
        """One job as in :meth:`inspect`, and what it left in the history; ``None`` if the journal has none."""
        return Deferred.fromCoroutine(self._show(prompt_id))

    async def _inspect(self, most: int, finished: bool, state: str | None, limit: int) -> dict[str, Any]:
        found = await self._read(most)
        jobs = [self._unfinished(one) for one in found.unfinished]
        jobs += [_finished(one) for one in found.finished] if finished else []
        return {
            "file": found.path,
            "size": found.size,
            "schema_version": found.version,
            "trouble": self._journal.trouble,
            "counts": dict(found.counts),
            "histories": found.records,
            "stranded": [one.job.prompt_id for one in found.unfinished if self._is_stranded(one)],
            "quarantine": [asdict(one) for one in found.quarantine],
            "set_aside": list(found.aside),
            "jobs": [job for job in jobs if state in (None, job["state"])][:limit],
        }

    async def _show(self, prompt_id: str) -> dict[str, Any] | None:
        found = await self._read(_MOST)
        jobs = [self._unfinished(one) for one in found.unfinished] + [_finished(one) for one in found.finished]
        job = next((one for one in jobs if one["prompt_id"] == prompt_id), None)
        if job is None:
            return None
        record = await self._journal.history(prompt_id)
        return {**job, "history": None if record is None else orjson.loads(record)}

    async def _read(self, most: int) -> Inspection:
        try:
            return await self._journal.inspect(most)
        except JournalError as error:
            raise GateError(
                503, "journal_failed", "The journal cannot be read now", str(error), retry_after=5
            ) from None

    def _is_stranded(self, one: Journalled) -> bool:
        prompt_id = one.job.prompt_id
        if prompt_id in self._ledger.waiting:
            return self._ledger.waiting.get(prompt_id).expected == NOWHERE
        ended = self._ledger.ended(prompt_id)
        return ended is not None and ended.state is JobState.UNKNOWN and one.state is not JobState.WAITING

    def _unfinished(self, one: Journalled) -> dict[str, Any]:
        job = one.job
        return {
            "prompt_id": job.prompt_id,
            "state": "stranded" if self._is_stranded(one) else one.state.value,
            "gate": job.gate,
            "gpu_id": one.gpu_id,
            "gpus": sorted(job.targets),
            "number": job.number,
            "attempts": job.attempts,
            "deaths": job.deaths,
            "client_id": job.client_id,
            "accepted": job.accepted,
        }


def _finished(one: Finished) -> dict[str, Any]:
    return {
        "prompt_id": one.prompt_id,
        "state": one.state.value,
        "gate": one.gate,
        "gpu_id": one.gpu_id,
        "attempts": one.attempts,
        "client_id": one.client_id,
        "accepted": one.accepted,
        "ended": one.ended,
        "reason": one.reason,
    }
