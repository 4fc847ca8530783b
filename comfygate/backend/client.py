"""What can be asked of one ComfyUI, each with a time-out and a bound on the answer.

Every method raises :class:`~comfygate.errors.BackendUnreachable` if nothing was
sent, and :class:`~comfygate.errors.BackendUnclear` if the request may have been
carried out; nothing is ever sent twice.  ComfyUI gets the Host that it listens
on and no Origin.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from email.utils import parsedate_to_datetime
from typing import Any, BinaryIO, TypeVar
from urllib.parse import quote

import orjson
from treq.client import HTTPClient
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.web.client import Agent, FileBodyProducer, HTTPConnectionPool
from twisted.web.iweb import IAgent
from zope.interface import implementer

from comfygate.backend.exchange import Body, Pieces, exchange
from comfygate.backend.waiting import read_queue
from comfygate.errors import BackendError, BackendUnusable
from comfygate.interfaces import IComfyUI
from comfygate.model import BackendAnswer, BackendQueue

MIB = 1024 * 1024
CONNECT_TIME = 5.0
CONNECTIONS = 8
SLICE = 0.005
"""Seconds of work on a long answer, after which others have their turn."""


_Answered = TypeVar("_Answered", BackendAnswer, Pieces)


class _QuietFactory(HTTPConnectionPool._factory):  # type: ignore[misc, valid-type]
    noisy = False


@implementer(IComfyUI)
class ComfyUIClient:
    """A ComfyUI that answers at `url`.

    :param url: such as ``http://127.0.0.1:8188``, without a path.
    :ivar listed: called with every queue that it told, whoever asked.
    """

    def __init__(self, url: str, agent: IAgent, clock: IReactorTime, pool: HTTPConnectionPool | None = None) -> None:
        self.url = url.rstrip("/")
        self._http = HTTPClient(agent)
        self._clock = clock
        self._pool = pool
        self.listed: Callable[[BackendQueue], None] = lambda queue: None

    @classmethod
    def at(cls, reactor: IReactorTime, url: str) -> ComfyUIClient:
        """Make a client with a pool of kept-alive connections; :meth:`close` it in the end.

        :param reactor: provides IReactorTime and IReactorTCP.
        """
        pool = HTTPConnectionPool(reactor, persistent=True)
        pool.maxPersistentPerHost = CONNECTIONS
        pool.retryAutomatically = False
        pool._factory = _QuietFactory
        return cls(url, Agent(reactor, connectTimeout=CONNECT_TIME, pool=pool), reactor, pool)

    def close(self) -> None:
        """Let the idle connections go."""
        if self._pool is not None:
            self._pool.closeCachedConnections()

    async def ready(self, seconds: float = 5.0) -> bool:
        """Whether ``GET /prompt`` answers 200 in time; raises nothing but a cancellation."""
        try:
            await self.check(seconds)
        except BackendError:
            return False
        return True

    async def check(self, seconds: float) -> None:
        """Return if ``GET /prompt`` answers 200 in time."""
        self._expect_ok("GET /prompt", await self._send("GET", "/prompt", seconds=seconds))

    async def companion(self) -> dict[str, Any] | None:
        """What the companion says of itself, or ``None`` if there is none."""
        answer = await self._send("GET", "/comfygate/companion", seconds=10.0)
        found = _loads(answer) if answer.status == 200 and answer.content_type.startswith("application/json") else None
        return found if isinstance(found, dict) else None

    async def validate(self, body: bytes) -> BackendAnswer:
        """Ask the companion what ``POST /prompt`` would say to `body`, without queueing it."""
        return await self._send("POST", "/comfygate/validate", body, seconds=60.0)

    async def submit(self, body: bytes) -> BackendAnswer:
        """Queue the prompt in `body` (``POST /prompt``)."""
        return await self._send("POST", "/prompt", body, seconds=60.0)

    async def queue(self) -> BackendQueue:
        """What runs and waits there (``GET /queue``)."""
        answer = await self._receive("GET", "/queue", None, 30.0, 64 * MIB)
        self._expect_ok("GET /queue", answer)
        since = self._clock.seconds()

        async def pause() -> None:
            nonlocal since
            if self._clock.seconds() - since > SLICE:
                await deferLater(self._clock, 0)
                since = self._clock.seconds()

        try:
            found = await read_queue(_consumed(answer.body), pause)
        except ValueError as error:
            raise BackendUnusable(f"{self.url}/queue answered with something else: {error}") from None
        self.listed(found)
        return found

    async def history(self, prompt_id: str) -> dict[str, Any] | None:
        """How a prompt ended (``GET /history/{id}``), or ``None`` if it has not, or is not known."""
        path = f"/history/{quote(prompt_id, safe='')}"
        answer = self._expect_ok(f"GET {path}", await self._send("GET", path, seconds=30.0, limit=64 * MIB))
        found = _object(answer).get(prompt_id)
        return found if isinstance(found, dict) else None

    async def histories(self, newest: int | None = None) -> dict[str, dict[str, Any]]:
        """How prompts ended (``GET /history``), the newest last, and no more than `newest` of them."""
        path = "/history" if newest is None else f"/history?max_items={newest}"
        found = _object(self._expect_ok(f"GET {path}", await self._send("GET", path, seconds=30.0, limit=64 * MIB)))
        return {prompt_id: entry for prompt_id, entry in found.items() if isinstance(entry, dict)}

    async def forget(self, prompt_ids: Iterable[str] | None) -> None:
        """Drop entries of its history (``POST /history``); ``None`` for all."""
        await self._command("/history", {"clear": True} if prompt_ids is None else {"delete": list(prompt_ids)})

    async def interrupt(self, prompt_id: str | None = None) -> None:
        """Stop what runs (``POST /interrupt``), if it is `prompt_id` or that is not given."""
        await self._command("/interrupt", {} if prompt_id is None else {"prompt_id": prompt_id})

    async def delete(self, prompt_ids: Iterable[str]) -> None:
        """Remove waiting prompts (``POST /queue``); those that run or are unknown are left alone."""
        await self._command("/queue", {"delete": list(prompt_ids)})

    async def free(self) -> None:
        """Let its worker unload all models and forget what it cached, as soon as it is idle (``POST /free``)."""
        await self._command("/free", {"unload_models": True, "free_memory": True})

    async def ask(
        self, method: str, target: str, body: bytes | None = None, *, seconds: float, limit: int = 16 * MIB
    ) -> BackendAnswer:
        """Put any question; see :meth:`comfygate.interfaces.IComfyUI.ask`."""
        return await self._send(method, target, body, seconds=seconds, limit=limit)

    async def modified(self, target: str, seconds: float) -> float | None:
        """When a file was changed last; see :meth:`comfygate.interfaces.IComfyUI.modified`."""
        answer = await self._receive("HEAD", target, None, seconds, MIB)
        if answer.status == 404:
            return None
        try:
            return parsedate_to_datetime(answer.last_modified).timestamp()
        except ValueError:
            return 0.0

    async def upload(self, target: str, content_type: str, content: BinaryIO, seconds: float) -> BackendAnswer:
        """Send a file's bytes as they are; see :meth:`comfygate.interfaces.IComfyUI.upload`."""
        body = FileBodyProducer(content)
        return (await self._receive("POST", target, body, seconds, MIB, content_type)).joined()

    async def read_ahead(self, models: Iterable[str]) -> None:
        """Have the companion read these model files ahead, and nothing else (``POST /comfygate/read_ahead``)."""
        await self._command("/comfygate/read_ahead", {"models": list(models)})

    async def _command(self, path: str, content: dict[str, Any]) -> None:
        self._expect_ok(f"POST {path}", await self._send("POST", path, orjson.dumps(content), seconds=30.0))

    async def _send(
        self, method: str, path: str, body: bytes | None = None, *, seconds: float, limit: int = 16 * MIB
    ) -> BackendAnswer:
        return (await self._receive(method, path, body, seconds, limit)).joined()

    def _receive(
        self,
        method: str,
        path: str,
        body: Body,
        seconds: float,
        limit: int,
        content_type: str = "application/json",
    ) -> Deferred[Pieces]:
        url = self.url + path
        sent = exchange(
            self._http, self._clock, method, url, body, seconds=seconds, limit=limit, content_type=content_type
        )
        return Deferred.fromCoroutine(sent)

    def _expect_ok(self, what: str, answer: _Answered) -> _Answered:
        if answer.status != 200:
            raise BackendUnusable(f"{what} to {self.url} was answered with status {answer.status}")
        return answer


def _consumed(pieces: deque[bytes]) -> Iterator[bytes]:
    """Give each piece away, so that its memory is free again."""
    while pieces:
        yield pieces.popleft()


def _loads(answer: BackendAnswer) -> Any:
    """Read JSON, also with the NaN that ComfyUI may write.

    :raises BackendUnusable: if it is something else.
    """
    try:
        return orjson.loads(answer.body)
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(answer.body)
    except (ValueError, RecursionError):
        raise BackendUnusable("the answer is not JSON") from None


def _object(answer: BackendAnswer) -> dict[str, Any]:
    found = _loads(answer)
    if not isinstance(found, dict):
        raise BackendUnusable("the answer is not a JSON object")
    return found
