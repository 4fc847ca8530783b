"""Routes that several GPUs answer as one; through a GPU's own port they are its ComfyUI's."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import orjson
from attrs import frozen
from twisted.web.http import Request

from comfygate.control.fields import body_of
from comfygate.control.merged.facts import merged_features, merged_stats
from comfygate.control.merged.gpus import MIB, AskedGpus, silent
from comfygate.control.merged.job_routes import JobRoutes
from comfygate.control.merged.masks import Masks
from comfygate.control.merged.object_info import ObjectInfo
from comfygate.control.replies import Reply
from comfygate.errors import GateError
from comfygate.gate.gate import CONTENT_TYPE_HEADER
from comfygate.model import BackendAnswer
from comfygate.routes import LOGS, MASK
from comfygate.routing.assignment import GateRouting

Endpoint = Callable[[GateRouting, Request], Awaitable[Reply]]

STATS = 2.0
"""Seconds that GPUs have to tell how they are; those that hang are left out."""

SUBSCRIBE = 10.0
"""Seconds that GPUs have to note who wants their logs."""

FREE = 30.0
"""Seconds that GPUs have to note that they are to free memory: they do it when they are idle."""

_SEVERAL = 8 * MIB


@frozen
class MergedRoutes:
    """One table of routes.

    :ivar alias: what GPUs know a client by.
    """

    gpus: AskedGpus
    object_info: ObjectInfo
    jobs: JobRoutes
    masks: Masks
    alias: Callable[[str], str]

    def endpoint(self, method: bytes, path: bytes) -> Endpoint | None:
        """Who answers, if it is one of these routes."""
        table: dict[tuple[bytes, bytes], Endpoint] = {
            (b"GET", b"/system_stats"): self.get_system_stats,
            (b"GET", b"/features"): self.get_features,
            (b"GET", b"/object_info"): self.get_object_info,
            (b"POST", b"/free"): self.post_free,
            (b"POST", MASK): self.post_mask,
            (b"PATCH", LOGS): self.patch_logs,
        }
        method = b"GET" if method == b"HEAD" else method
        found = table.get((method, path))
        if found is None and method == b"GET" and path.startswith(b"/object_info/"):
            return self.get_one_object_info
        if found is None and method in (b"GET", b"POST") and (path == b"/jobs" or path.startswith(b"/jobs/")):
            return self.jobs.answer
        return found

    async def get_system_stats(self, gate: GateRouting, request: Request) -> Reply:
        """GET /system_stats: the devices of all."""
        return Reply.json(merged_stats(await self._objects(gate, "/system_stats")))

    async def get_features(self, gate: GateRouting, request: Request) -> Reply:
        """GET /features: what all can."""
        return Reply.json(merged_features(list((await self._objects(gate, "/features")).values())))

    async def get_object_info(self, gate: GateRouting, request: Request) -> Reply:
        """GET /object_info: every class that any of them has."""
        return Reply.text((await self.object_info.all(gate.gpu_ids),))

    async def get_one_object_info(self, gate: GateRouting, request: Request) -> Reply:
        """GET /object_info/{class}."""
        target = request.path.decode("latin-1")
        return _passed_on(await self.object_info.one(gate.gpu_ids, target))

    async def post_free(self, gate: GateRouting, request: Request) -> Reply:
        """POST /free: all free their memory.

        :raises GateError: 502, naming those that have not heard of it, if others have.
        """
        told = await self.gpus.ask(gate.gpu_ids, "POST", "/free", body_of(request), seconds=FREE)
        answers = list(told.answers.values())
        if not told.failures and all(answer.status == answers[0].status for answer in answers):
            return _passed_on(answers[0])  # what one says of a body that makes no sense, all say
        reasons = {gpu_id: str(error) for gpu_id, error in told.failures.items()}
        reasons |= {n: f"answered {answer.status}" for n, answer in told.answers.items() if answer.status != 200}
        names = ", ".join(map(str, sorted(reasons)))
        details = "; ".join(f"GPU {gpu_id}: {reason}" for gpu_id, reason in sorted(reasons.items()))
        raise GateError(
            502,
            "backend_failed",
            f"GPU {names} did not take it; the others did",
            details,
            retry_after=1,
            extra_info={"gpu_ids": sorted(reasons)},
        )

    async def post_mask(self, gate: GateRouting, request: Request) -> Reply:
        """POST /upload/mask: to whoever has the picture."""
        if request.content is None:
            raise GateError(400, "no_body", "There is no upload")
        content_type = (request.getHeader(CONTENT_TYPE_HEADER) or b"").decode("latin-1")
        target = request.uri.decode("latin-1")
        return _passed_on(await self.masks.send(gate.gpu_ids, target, content_type, request.content))

    async def patch_logs(self, gate: GateRouting, request: Request) -> Reply:
        """PATCH /internal/logs/subscribe ``{"clientId", "enabled"}``: a client hears the logs of all, or no longer."""
        body = body_of(request)
        wanted = _read(body) or {}
        client_id = wanted.get("clientId")
        if isinstance(client_id, str):
            body = orjson.dumps(wanted | {"clientId": self.alias(client_id)})
        told = await self.gpus.ask(gate.gpu_ids, "PATCH", LOGS.decode(), body, seconds=SUBSCRIBE)
        if not told.answers:
            raise silent(LOGS.decode(), told)
        return _passed_on(next(iter(told.answers.values())))

    async def _objects(self, gate: GateRouting, target: str) -> dict[int, dict[str, object]]:
        told = await self.gpus.ask(gate.gpu_ids, "GET", target, seconds=STATS, limit=_SEVERAL)
        found = {gpu_id: _object(answer) for gpu_id, answer in told.answers.items()}
        answers = {gpu_id: value for gpu_id, value in found.items() if value is not None}
        if not answers:
            raise silent(target, told)
        return answers


def _object(answer: BackendAnswer) -> dict[str, object] | None:
    return _read(answer.body) if answer.status == 200 else None


def _read(body: bytes) -> dict[str, object] | None:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    return found if isinstance(found, dict) else None


def _passed_on(answer: BackendAnswer) -> Reply:
    headers = ((b"Content-Type", answer.content_type.encode("latin-1")),) if answer.content_type else ()
    return Reply(answer.status, (answer.body,) if answer.body else (), headers)
