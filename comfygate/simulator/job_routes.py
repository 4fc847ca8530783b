"""/api/jobs, which ComfyUI has since 2026: the queue and the history as one list."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from aiohttp import web

from comfygate.simulator.jobs import Item, Jobs

STATUSES = ("pending", "in_progress", "completed", "failed", "cancelled")
ENDS = ("execution_success", "execution_error", "execution_interrupted")


class JobRoutes:
    """Lists and cancels jobs."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    def routes(self) -> list[web.RouteDef]:
        """All of them, with the prefix that belongs to their names."""
        return [
            web.get("/api/jobs", self._list),
            web.get("/api/jobs/{job_id}", self._show),
            web.post("/api/jobs/{job_id}/cancel", self._cancel),
            web.post("/api/jobs/cancel", self._cancel_some),
        ]

    def _all(self) -> Iterator[dict[str, Any]]:
        running, pending = self._jobs.listing()
        yield from (_queued(item, "in_progress") for item in running)
        yield from (_queued(item, "pending") for item in pending)
        yield from (_past(prompt_id, entry) for prompt_id, entry in list(self._jobs.history.items()))

    async def _list(self, request: web.Request) -> web.Response:
        query = request.query
        wanted = [name.strip() for name in query.get("status", "").split(",") if name.strip()] or STATUSES
        if any(name not in STATUSES for name in wanted):
            return web.json_response({"error": "Invalid status value(s)"}, status=400)
        jobs = [job for job in self._all() if job["status"] in wanted]
        if query.get("workflow_id"):
            jobs = [job for job in jobs if job.get("workflow_id") == query["workflow_id"]]
        by = _duration if query.get("sort_by") == "execution_duration" else lambda job: job.get("create_time", 0)
        jobs.sort(key=by, reverse=query.get("sort_order", "desc") == "desc")
        limit = int(query["limit"]) if "limit" in query else None
        if limit is not None and limit <= 0:
            return web.json_response({"error": "limit must be a positive integer"}, status=400)
        offset = max(0, int(query.get("offset", "0")))
        page = jobs[offset : None if limit is None else offset + limit]
        more = offset + len(page) < len(jobs)
        pagination = {"offset": offset, "limit": limit, "total": len(jobs), "has_more": more}
        return web.json_response({"jobs": page, "pagination": pagination})

    async def _show(self, request: web.Request) -> web.Response:
        job_id = request.match_info["job_id"]
        entry = self._jobs.history.get(job_id)
        if entry is not None:
            more = {"outputs": entry["outputs"], "execution_status": entry["status"]}
            return web.json_response(_past(job_id, entry) | more | _workflow(entry["prompt"]))
        running, pending = self._jobs.listing()
        for items, status in ((running, "in_progress"), (pending, "pending")):
            for item in items:
                if item[1] == job_id:
                    return web.json_response(_queued(item, status) | _workflow(item))
        return web.json_response({"error": "Job not found"}, status=404)

    async def _cancel(self, request: web.Request) -> web.Response:
        return web.json_response({"cancelled": self._cancel_one(request.match_info["job_id"])})

    async def _cancel_some(self, request: web.Request) -> web.Response:
        wish = await request.json()
        cancelled = [self._cancel_one(job_id) for job_id in wish["job_ids"]]
        return web.json_response({"cancelled": any(cancelled)})

    def _cancel_one(self, job_id: str) -> bool:
        running, pending = self._jobs.listing()
        self._jobs.delete(job_id)
        if any(item[1] == job_id for item in running):
            self._jobs.interrupt(job_id)
            return True
        return any(item[1] == job_id for item in pending)


def _queued(item: Item, status: str) -> dict[str, Any]:
    none = {"outputs_count": 0, "previewable_outputs_count": 0}
    return {"id": item[1], "status": status, "priority": item[0], **none} | _metadata(item[3])


def _past(prompt_id: str, entry: dict[str, Any]) -> dict[str, Any]:
    item, status = entry["prompt"], entry["status"]
    messages = {name: data for name, data in status["messages"]}
    state = "completed"
    if status["status_str"] == "error":
        state = "cancelled" if "execution_interrupted" in messages else "failed"
    files = [
        {**file, "nodeId": node_id, "mediaType": kind}
        for node_id, left in entry["outputs"].items()
        for kind, items in left.items()
        if isinstance(items, list) and kind != "animated"
        for file in items
        if isinstance(file, dict)
    ]
    counts = {"outputs_count": len(files), "previewable_outputs_count": len(files)}
    job = {"id": prompt_id, "status": state, "priority": item[0], **counts} | _metadata(item[3])
    if "execution_start" in messages:
        job["execution_start_time"] = messages["execution_start"]["timestamp"]
    for name in ENDS:
        if name in messages:
            job["execution_end_time"] = messages[name]["timestamp"]
    if "execution_error" in messages:
        job["execution_error"] = messages["execution_error"]
    if files:
        job["preview_output"] = min(files, key=lambda file: file["type"] != "output")
    return job


def _metadata(extra: dict[str, Any]) -> dict[str, Any]:
    workflow = extra.get("extra_pnginfo", {}).get("workflow", {}).get("id")
    found = {"create_time": extra.get("create_time"), "workflow_id": workflow}
    return {name: value for name, value in found.items() if value is not None}


def _workflow(item: Item) -> dict[str, Any]:
    return {"workflow": {"prompt": item[2], "extra_data": item[3]}}


def _duration(job: dict[str, Any]) -> float:
    return float(job.get("execution_end_time", 0) - job.get("execution_start_time", 0))
