"""/api/jobs of several GPUs, where their ComfyUIs have it: what waits with us, what they hold, and what has ended."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

import orjson
from attrs import evolve, frozen
from twisted.internet.task import deferLater
from zope.interface import implementer

from comfygate.control.books import Books
from comfygate.control.histories import Histories
from comfygate.interfaces import IJobListener
from comfygate.job_summary import duration, ended, queued
from comfygate.model import Job, JobState
from comfygate.routing.assignment import GateRouting

KEPT = 10_000
"""Ended jobs that are listed, as many as a ComfyUI keeps in its history."""

KEPT_BYTES = 64 * 1024 * 1024

SLICE = 0.005
"""Seconds of work, after which others have their turn."""


@frozen
class Query:
    """What is to be listed; see ComfyUI's ``GET /api/jobs``.

    :ivar most: how many; ``None`` for all.
    """

    statuses: frozenset[str]
    workflow_id: str | None = None
    by_duration: bool = False
    ascending: bool = False
    offset: int = 0
    most: int | None = None


@frozen
class Page:
    """A part of a list.

    :ivar jobs: in JSON.
    :ivar total: how many there are in all.
    """

    jobs: tuple[bytes, ...]
    total: int


@frozen
class _Row:
    """A job in the list, with what it is chosen and sorted by.

    :ivar created: what stands for when it was accepted, in milliseconds since 1970.
    :ivar accepted: that, if it is known.
    """

    gpu_id: int
    status: str
    workflow_id: str | None
    created: float
    accepted: int | None
    duration: float
    text: bytes


@frozen
class _Going:
    """A job that runs or waits.

    :ivar item: as GET /queue lists it.
    :ivar created: when it was accepted, in milliseconds since 1970; unknown of one that did not come through us.
    """

    gpu_id: int
    prompt_id: str
    number: float
    running: bool
    item: bytes
    created: int | None = None

    def summary(self, *, whole: bool = False) -> dict[str, Any]:
        return queued(orjson.loads(self.item), running=self.running, created=self.created, whole=whole)


@implementer(IJobListener)
class JobList:
    """Lists jobs.

    Those that have ended are summed up once, since clients ask again with every
    change; nothing is done before the first has asked.
    """

    def __init__(self, books: Books, histories: Histories) -> None:
        self._books = books
        self._ledger = books.ledger
        self._histories = histories
        histories.forgotten = self.forget
        self._used = False
        self._ended: OrderedDict[str, _Row] = OrderedDict()
        self._size = 0
        self._workflows: OrderedDict[str, str | None] = OrderedDict()
        self._since = 0.0

    async def page(self, gate: GateRouting, query: Query) -> Page:
        """GET /api/jobs.

        :raises GateError: 502 or 503, if the histories cannot be read now.
        """
        if not self._used:
            self._used = True
            try:
                await self._read_histories()
            except BaseException:
                self._used = False
                raise
        rows = await self._going(gate.gpu_ids)
        rows += [row for row in self._ended.values() if row.gpu_id in gate.gpu_ids]
        rows = [row for row in rows if row.status in query.statuses]
        if query.workflow_id:
            rows = [row for row in rows if row.workflow_id == query.workflow_id]
        rows.sort(
            key=lambda row: row.duration if query.by_duration else row.created, reverse=not query.ascending
        )  # stable also in reverse, as ComfyUI's
        end = None if query.most is None else query.offset + query.most
        return Page(tuple(row.text for row in rows[query.offset : end]), len(rows))

    async def one(self, gate: GateRouting, prompt_id: str) -> bytes | None:
        """GET /api/jobs/{id}: with workflow and outputs, in JSON; ``None`` if it is not known on these GPUs.

        :raises GateError: as :meth:`page`.
        """
        entry = await self._histories.entry(gate, prompt_id)
        if entry is not None:
            row = self._ended.get(prompt_id)
            created = None if row is None else row.accepted
            shown = orjson.loads(self._books.shown(gate, entry))
            return orjson.dumps(ended(prompt_id, shown, created=created, whole=True))
        found = next((one for one in self._listed(gate.gpu_ids) if one.prompt_id == prompt_id), None)
        if found is None:
            return None
        return orjson.dumps(evolve(found, item=self._books.shown(gate, found.item)).summary(whole=True))

    def forget(self, gpu_ids: Iterable[int], prompt_ids: Iterable[str] | None) -> None:
        """POST /history has dropped these, or all, of these GPUs."""
        gpu_ids = frozenset(gpu_ids)
        for prompt_id in list(self._ended) if prompt_ids is None else prompt_ids:
            row = self._ended.get(prompt_id)
            if row is not None and row.gpu_id in gpu_ids:
                self._drop(prompt_id)

    def job_changed(
        self, job: Job, state: JobState, gpu_id: int | None, reason: str | None, record: bytes | None
    ) -> None:
        """See :class:`comfygate.interfaces.IJobListener`."""
        if state.ended:
            self._workflows.pop(job.prompt_id, None)
            if self._used and record is not None and gpu_id is not None:
                self._end(job.prompt_id, gpu_id, record, _milliseconds(job.accepted))

    def job_refused(self, job: Job) -> None:
        """See :class:`comfygate.interfaces.IJobListener`."""
        self._workflows.pop(job.prompt_id, None)

    async def _read_histories(self) -> None:
        for gpu_id in self._books.fleet.gpu_ids:
            gate = GateRouting("jobs", (gpu_id,), self._books.everything.policy)
            for prompt_id, text in await self._histories.entries(gate, KEPT, None):
                if prompt_id not in self._ended:
                    self._end(prompt_id, gpu_id, text, None)
                await self._pause()

    def _end(self, prompt_id: str, gpu_id: int, record: bytes, created: int | None) -> None:
        try:
            summary = ended(prompt_id, orjson.loads(record), created=created)
        except (orjson.JSONDecodeError, AttributeError, TypeError):
            return  # some nodes leave what is no JSON
        self._drop(prompt_id)
        row = _row(gpu_id, summary)
        self._ended[prompt_id] = row
        self._size += len(row.text)
        while len(self._ended) > KEPT or self._size > KEPT_BYTES:
            self._drop(next(iter(self._ended)))

    def _drop(self, prompt_id: str) -> None:
        row = self._ended.pop(prompt_id, None)
        if row is not None:
            self._size -= len(row.text)

    async def _going(self, gpu_ids: Sequence[int]) -> list[_Row]:
        rows = []
        for one in self._listed(gpu_ids):
            if one.prompt_id in self._ended:
                continue
            if one.prompt_id not in self._workflows:
                self._workflows[one.prompt_id] = one.summary().get("workflow_id")
                if len(self._workflows) > 2 * KEPT:
                    self._workflows.popitem(last=False)
                await self._pause()
            workflow_id = self._workflows.get(one.prompt_id)
            summary = queued([one.number, one.prompt_id, None, {}], running=one.running, created=one.created)
            rows.append(_row(one.gpu_id, summary if workflow_id is None else summary | {"workflow_id": workflow_id}))
        return rows

    def _listed(self, gpu_ids: Sequence[int]) -> list[_Going]:
        """What runs or waits; what runs comes first, the rest in running order."""
        rows = []
        for gpu_id in gpu_ids:
            held = self._ledger.held_by(gpu_id)
            rows += [(one.job.order, _of_job(one.job, gpu_id, one.state is JobState.RUNNING)) for one in held]
            rows += [(job.order, _of_job(job, gpu_id, False)) for job in self._ledger.expected_on(gpu_id)]
            strangers = self._ledger.strangers(gpu_id)
            rows += [
                ((one.number, 0), _Going(gpu_id, one.prompt_id, one.number, one.running, one.item)) for one in strangers
            ]
        rows.sort(key=lambda row: (not row[1].running, row[0]))
        return [row[1] for row in rows]

    async def _pause(self) -> None:
        now = self._books.clock.seconds()
        if now - self._since > SLICE:
            await deferLater(self._books.clock, 0)
            self._since = self._books.clock.seconds()


def _of_job(job: Job, gpu_id: int, running: bool) -> _Going:
    return _Going(gpu_id, job.prompt_id, job.number, running, job.item, _milliseconds(job.accepted))


def _row(gpu_id: int, summary: dict[str, Any]) -> _Row:
    times = (summary.get(key) for key in ("create_time", "execution_start_time", "execution_end_time"))
    created = next((time for time in times if isinstance(time, int | float)), 0)
    return _Row(
        gpu_id=gpu_id,
        status=summary["status"],
        workflow_id=summary.get("workflow_id"),
        created=created,
        accepted=summary.get("create_time"),
        duration=duration(summary),
        text=orjson.dumps(summary),
    )


def _milliseconds(seconds: float) -> int | None:
    return round(seconds * 1000) if seconds else None
