"""/api/jobs over several GPUs: what clients ask, checked as ComfyUI checks it."""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import orjson
from attrs import define, field
from twisted.web.http import Request
from zope.interface import implementer

from comfygate.control.fields import body_of, query_of
from comfygate.control.interrupt import Interrupts
from comfygate.control.merged.gpus import AskedGpus, silent
from comfygate.control.merged.jobs import JobList, Query
from comfygate.control.replies import Reply, joined
from comfygate.errors import GateError
from comfygate.interfaces import IBackend, IBackendListener
from comfygate.job_summary import STATUSES
from comfygate.model import BackendState
from comfygate.routes import plain_path
from comfygate.routing.assignment import GateRouting

_LOOKING = 10.0
"""Seconds that GPUs have to say whether they have /api/jobs."""

_AT_ONCE = 1_000
"""Ids that one request may cancel."""


@implementer(IBackendListener)
@define(eq=False)
class JobRoutes:
    """Answers if at least one ComfyUI of the set has these routes, and as ComfyUI otherwise: it has none."""

    gpus: AskedGpus
    jobs: JobList
    interrupts: Interrupts
    noted: Callable[[], Awaitable[None]]
    _offered: dict[int, bool] = field(factory=dict)

    async def answer(self, gate: GateRouting, request: Request) -> Reply:
        """Answer GET /api/jobs, GET /api/jobs/{id}, POST /api/jobs/{id}/cancel or POST /api/jobs/cancel.

        :raises GateError: 503 or 504, if no GPU can be asked whether it has them; as what is asked raises.
        """
        refusal = await self._refusal(gate, request)
        if refusal is not None:
            return refusal
        path = plain_path(request.path).removeprefix(b"/jobs").strip(b"/").decode(errors="replace")
        if request.method != b"POST":
            return await (self._one(gate, path) if path else self._list(gate, query_of(request)))
        if path == "cancel":
            return await self._cancel_all(body_of(request))
        return await self._cancel([path.removesuffix("/cancel")])

    def backend_changed(self, backend: IBackend) -> None:
        """See :class:`comfygate.interfaces.IBackendListener`; what starts may be another version."""
        if backend.state is not BackendState.READY:
            self._offered.pop(backend.gpu_id, None)

    def queue_changed(self, backend: IBackend, remaining: int) -> None:
        """See :class:`comfygate.interfaces.IBackendListener`."""

    async def _refusal(self, gate: GateRouting, request: Request) -> Reply | None:
        """What ComfyUI says, where none has these routes."""
        if any(self._offered.get(gpu_id) for gpu_id in gate.gpu_ids):
            return None
        told = await self.gpus.ask(gate.gpu_ids, "GET", "/api/jobs?limit=1", seconds=_LOOKING, rest=1.0)
        if not told.answers:
            raise silent("/api/jobs", told)
        for gpu_id, answer in told.answers.items():
            self._offered[gpu_id] = answer.status == 200
        if any(answer.status == 200 for answer in told.answers.values()):
            return None
        first = next(iter(told.answers))
        target = request.uri.decode("latin-1")
        method = "POST" if request.method == b"POST" else "GET"
        body = body_of(request) if method == "POST" else None
        asked = await self.gpus.ask((first,), method, target, body, seconds=_LOOKING)
        if not asked.answers:
            raise silent("/api/jobs", asked)
        answer = asked.answers[first]
        return Reply(answer.status, (answer.body,), ((b"Content-Type", answer.content_type.encode("latin-1")),))

    async def _list(self, gate: GateRouting, query: dict[str, str]) -> Reply:
        wanted = _wanted(query)
        if isinstance(wanted, str):
            return _refused(wanted)
        page = await self.jobs.page(gate, wanted)
        pagination = {
            "offset": wanted.offset,
            "limit": wanted.most,
            "total": page.total,
            "has_more": wanted.offset + len(page.jobs) < page.total,
        }
        return Reply.text((b'{"jobs":', *joined(page.jobs), b',"pagination":', orjson.dumps(pagination), b"}"))

    async def _one(self, gate: GateRouting, prompt_id: str) -> Reply:
        found = await self.jobs.one(gate, prompt_id)
        return Reply.json({"error": "Job not found"}, 404) if found is None else Reply.text((found,))

    async def _cancel(self, prompt_ids: Sequence[str]) -> Reply:
        """Stop what can be stopped; an error is told only if nothing could."""
        cancelled = False
        failure: GateError | None = None
        for prompt_id in prompt_ids:
            try:
                found = await self.interrupts.prompt(prompt_id)
            except GateError as error:
                failure = error
            else:
                cancelled |= found.state in ("running", "pending")
        await self.noted()
        if failure is not None and not cancelled:
            raise failure
        return Reply.json({"cancelled": cancelled})

    async def _cancel_all(self, body: bytes) -> Reply:
        try:
            fields = orjson.loads(body)
        except orjson.JSONDecodeError:
            return _refused("Request body must be valid JSON")
        ids = fields.get("job_ids") if isinstance(fields, dict) else None
        if not isinstance(ids, list):
            return _refused("job_ids must be a list")
        wrong = [one if isinstance(one, str) else repr(one) for one in ids if not _is_canonical(one)]
        if wrong:
            return Reply.json({"error": "job_ids contains invalid id(s)", "invalid_ids": wrong}, 400)
        if len(ids) > _AT_ONCE:
            return _refused(f"job_ids may hold {_AT_ONCE} ids at most")
        return await self._cancel(tuple(dict.fromkeys(ids)))


def _refused(why: str) -> Reply:
    return Reply.json({"error": why}, 400)


def _wanted(query: dict[str, str]) -> Query | str:
    """What a query asks for, or what is wrong with it, in ComfyUI's words."""
    named = [name.strip().lower() for name in query.get("status", "").split(",") if name.strip()]
    unknown = [name for name in named if name not in STATUSES]
    if unknown:
        return f"Invalid status value(s): {', '.join(unknown)}. Valid values: {', '.join(STATUSES)}"
    by, order = query.get("sort_by", "created_at").lower(), query.get("sort_order", "desc").lower()
    if by not in ("created_at", "execution_duration"):
        return "sort_by must be 'created_at' or 'execution_duration'"
    if order not in ("asc", "desc"):
        return "sort_order must be 'asc' or 'desc'"
    most, offset = (_integer(query[key]) if key in query else None for key in ("limit", "offset"))
    if "limit" in query and most is None:
        return "limit must be an integer"
    if most is not None and most <= 0:
        return "limit must be a positive integer"
    if "offset" in query and offset is None:
        return "offset must be an integer"
    return Query(
        statuses=frozenset(named or STATUSES),
        workflow_id=query.get("workflow_id") or None,
        by_duration=by == "execution_duration",
        ascending=order == "asc",
        offset=max(0, offset or 0),
        most=most,
    )


def _integer(text: str) -> int | None:
    try:
        return int(text) if len(text) < 20 else None
    except ValueError:
        return None


def _is_canonical(value: Any) -> bool:
    try:
        return isinstance(value, str) and str(uuid.UUID(value)) == value
    except ValueError:
        return False
