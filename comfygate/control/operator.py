"""/comfygate/operator/…: what only the operator of this machine may ask for.

These routes are answered on the control socket alone, and there only to the
daemon's own user and to root.  Through a port they do not exist.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from attrs import define, field
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.web.http import Request

from comfygate.config.text import ConfigError
from comfygate.control.books import Books
from comfygate.control.fields import flag_in, number_in, object_of, query_of, text_in, texts_in
from comfygate.control.interrupt import Interrupted
from comfygate.control.logs import Logs
from comfygate.control.peer import peer_uid
from comfygate.control.replies import Reply, Stream
from comfygate.control.work import Work, shielded
from comfygate.control.worklist import Worklist
from comfygate.errors import GateError
from comfygate.gate.gate import GATE_HEADER
from comfygate.model import Job
from comfygate.routing.assignment import GateRouting

PREFIX = b"/comfygate/operator/"

MOST_LINES = 10_000
MOST_LISTED = 100_000

_AT_ONCE = 50
"""Prompts that are cancelled in one turn of the reactor."""

Endpoint = Callable[[GateRouting, Request], Awaitable[Reply | Stream]]
_Route = Callable[[Request], Awaitable[Reply | Stream]]


class IOperations(Protocol):
    """What an operator does with GPUs and prompts; every method raises :class:`~comfygate.errors.GateError`."""

    def drain(self, gpu_ids: Sequence[int]) -> None:
        """Hand GPUs no further prompts."""

    def undrain(self, gpu_ids: Sequence[int]) -> None:
        """Hand them prompts again."""

    async def move(self, prompt_id: str, gate: str, *, front: bool = False) -> Job:
        """Let a waiting prompt wait as if it had been sent to another port."""

    async def cancel(self, prompt_id: str) -> Interrupted:
        """Stop a prompt."""

    def restart(self, gpu_ids: Sequence[int], *, now: bool = False, tell: Callable[[Any], None]) -> Deferred[None]:
        """Start ComfyUIs again; tells steps, each with `gpu_id`, `step` and `detail`."""


class IJournalFacts(Protocol):
    """What the journal says of itself, in values that are JSON."""

    def inspect(self, *, finished: bool, state: str | None, limit: int) -> Awaitable[dict[str, Any]]:
        """All about it, and its jobs."""

    def show(self, prompt_id: str) -> Awaitable[dict[str, Any] | None]:
        """All about one job."""


@define
class OperatorRoutes:
    """One table of routes.

    :ivar gates: names of all ports.
    :ivar reload: reads the configuration again; fires with what has changed,
        in words, or fails with ConfigError.
    :ivar journal: ``None`` where there is none.
    :ivar wall_clock: seconds since 1970.
    """

    books: Books
    operations: IOperations
    reload: Callable[[], Deferred[Sequence[str]]]
    journal: IJournalFacts | None
    logs: Logs
    wall_clock: Callable[[], float]
    peer: Callable[[Request], int | None] = peer_uid
    uids: frozenset[int] = field(factory=lambda: frozenset({0, os.geteuid()}))

    def endpoint(self, method: bytes, path: bytes) -> Endpoint | None:
        """Who answers, if it is one of these routes."""
        table: dict[tuple[bytes, bytes], _Route] = {
            (b"GET", b"queue"): self.get_queue,
            (b"POST", b"move"): self.post_move,
            (b"POST", b"cancel"): self.post_cancel,
            (b"POST", b"drain"): self.post_drain,
            (b"POST", b"undrain"): self.post_undrain,
            (b"POST", b"restart"): self.post_restart,
            (b"POST", b"reload"): self.post_reload,
            (b"GET", b"logs"): self.get_logs,
            (b"GET", b"journal"): self.get_journal,
        }
        route = table.get((method, path.removeprefix(PREFIX))) if path.startswith(PREFIX) else None
        if route is None:
            return None

        async def answer(gate: GateRouting, request: Request) -> Reply | Stream:
            self._check(request, path)
            return await route(request)

        return answer

    def _check(self, request: Request, path: bytes) -> None:
        if request.getHeader(GATE_HEADER) is not None:
            raise GateError(404, "not_found", f"There is no {path.decode(errors='replace')} here")
        if self.peer(request) not in self.uids:
            details = "The daemon's own user and root may."
            raise GateError(403, "not_the_operator", "This user may not operate this ComfyGate", details)

    async def get_queue(self, request: Request) -> Reply:
        """``{"time", "gpus": [ids], "gates": [names], "jobs": […]}``; see :meth:`.Worklist.jobs`."""
        jobs = list(Worklist(self.books).jobs())
        gpu_ids, gates = self.books.fleet.gpu_ids, list(self.books.gates)
        return Reply.json({"time": self.wall_clock(), "gpus": gpu_ids, "gates": gates, "jobs": jobs})

    async def post_move(self, request: Request) -> Reply:
        """``{"prompt_id", "to": name of a port, "front": false}`` → ``{"prompt_id", "gate", "gpu_id", "number"}``."""
        fields = object_of(request)
        prompt_id, gate = _needed(fields, "prompt_id"), _needed(fields, "to")
        moving = self.operations.move(prompt_id, gate, front=flag_in(fields, "front"))
        job = await shielded(Deferred.fromCoroutine(moving))
        await self.books.noted()
        found = {"prompt_id": job.prompt_id, "gate": job.gate, "gpu_id": job.expected, "number": job.number}
        return Reply.json(found)

    async def post_cancel(self, request: Request) -> Stream:
        """``{"prompt_ids": […]}`` → a line for each: ``{"prompt_id", "gpu_id", "state", "error"}``.

        `state` is where it was: ``running`` or ``pending``; ``null`` if it was
        not stopped, and then `error` says why, as in ComfyUI's errors.
        """
        prompt_ids = texts_in(object_of(request), "prompt_ids")
        work = Work(self.books.clock)
        work.ends_with(Deferred.fromCoroutine(self._cancel(prompt_ids, work)))
        return work.stream()

    async def _cancel(self, prompt_ids: Sequence[str], work: Work) -> None:
        for index, prompt_id in enumerate(prompt_ids, 1):
            try:
                found = await self.operations.cancel(prompt_id)
            except GateError as error:
                facts = {"type": error.type, "message": error.message, "details": error.details}
                work.tell({"prompt_id": prompt_id, "gpu_id": None, "state": None, "error": facts})
            else:
                work.tell({"prompt_id": prompt_id, "gpu_id": found.gpu_id, "state": found.state, "error": None})
            if index % _AT_ONCE == 0:
                await deferLater(self.books.clock, 0)
        await self.books.noted()

    async def post_drain(self, request: Request) -> Reply:
        """``{"gpu_ids": [ids]}``, or ``{}`` for all → ``{"gpus": [{"gpu_id", "state", "draining"}, …]}``."""
        gpu_ids = self._gpu_ids(object_of(request))
        self.operations.drain(gpu_ids)
        return self._gpus(gpu_ids)

    async def post_undrain(self, request: Request) -> Reply:
        """As drain."""
        gpu_ids = self._gpu_ids(object_of(request))
        self.operations.undrain(gpu_ids)
        return self._gpus(gpu_ids)

    def _gpus(self, gpu_ids: Sequence[int]) -> Reply:
        books = self.books
        found = [
            {"gpu_id": one, "state": books.fleet[one].state.value, "draining": one in books.draining} for one in gpu_ids
        ]
        return Reply.json({"gpus": found})

    async def post_restart(self, request: Request) -> Stream | Reply:
        """``{"gpu_ids": [ids], "now": false, "wait": true}`` → a line for each step: ``{"gpu_id", "step", "detail"}``.

        It goes on if the reader leaves; without `wait` the answer is 202
        ``{"gpu_ids"}`` at once.
        """
        fields = {"wait": True, **object_of(request)}
        gpu_ids = self._gpu_ids(fields)
        work = Work(self.books.clock)

        def tell(step: Any) -> None:
            work.tell({"gpu_id": step.gpu_id, "step": step.step, "detail": step.detail})

        work.ends_with(self.operations.restart(gpu_ids, now=flag_in(fields, "now"), tell=tell))
        return work.stream() if flag_in(fields, "wait") else Reply.json({"gpu_ids": gpu_ids}, 202)

    async def post_reload(self, request: Request) -> Reply:
        """``{"changes": [sentences]}``; 400 ``invalid_configuration`` leaves everything as it was."""
        try:
            changes = await shielded(self.reload())
        except ConfigError as error:
            raise GateError(400, "invalid_configuration", str(error), "Nothing was changed.") from None
        return Reply.json({"changes": list(changes)})

    async def get_logs(self, request: Request) -> Reply | Stream:
        """``?gpu=N&lines=100&follow=1``: see :class:`.Logs`; without `gpu`, the daemon's own."""
        query = query_of(request)
        count = number_in(query, "lines", 100, MOST_LINES)
        follow = bool(number_in(query, "follow", 0, 1))
        if "gpu" not in query:
            return self.logs.daemons(count, follow)
        (gpu_id,) = self._gpu_ids({"gpu_ids": [number_in(query, "gpu", 0, 999_999)]})
        return await self.logs.gpus(gpu_id, count, follow)

    async def get_journal(self, request: Request) -> Reply:
        """``?finished=1&state=S&limit=N`` → all about it and its jobs; ``?prompt_id=ID`` → all about that one.

        :raises GateError: 404 if there is no journal, or no such prompt in it.
        """
        query = query_of(request)
        if self.journal is None:
            details = "journal = off in the configuration: nothing is written down."
            raise GateError(404, "no_journal", "There is no journal", details)
        if "prompt_id" in query:
            return Reply.json(await self._shown(self.journal, query["prompt_id"]))
        limit, finished = number_in(query, "limit", 100, MOST_LISTED), bool(number_in(query, "finished", 0, 1))
        return Reply.json(await self.journal.inspect(finished=finished, state=query.get("state"), limit=limit))

    async def _shown(self, journal: IJournalFacts, prompt_id: str) -> dict[str, Any]:
        found = await journal.show(prompt_id)
        if found is None:
            raise GateError(404, "unknown_prompt", f"The journal has no prompt {prompt_id[:100]}")
        return found

    def _gpu_ids(self, fields: dict[str, Any]) -> tuple[int, ...]:
        known = self.books.fleet.gpu_ids
        wanted = fields.get("gpu_ids")
        if wanted is None:
            return known
        if not isinstance(wanted, list) or not all(type(one) is int for one in wanted):
            raise GateError(
                400, "invalid_gpu_ids", "gpu_ids has the wrong type", '"gpu_ids" must be a list of numbers.'
            )
        for one in wanted:
            if one not in known:
                there = f"There are {len(known)}, counted from 0." if len(known) > 1 else "There is only GPU 0."
                raise GateError(404, "unknown_gpu", f"There is no GPU {one}", there)
        return tuple(dict.fromkeys(wanted))


def _needed(fields: dict[str, Any], key: str) -> str:
    text = text_in(fields, key)
    if not text:
        raise GateError(400, f"missing_{key}", f"{key} is missing", f'"{key}" must be a string.')
    return text
