"""A WebSocket to one port, and its messages as they come."""

# Autobahn chose these names.
# ruff: noqa: N802, N803

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

import orjson
from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import ConnectError, DNSLookupError

from comfygate.smoke.client import no_connection
from comfygate.smoke.outcome import SilentError, UnexpectedError, UnreachableError

Message = dict[str, Any]
_MAX_KEPT = 1000
_MAX_MESSAGE = 64 * 2**20


class _Factory(WebSocketClientFactory):
    socket: Socket


class _Protocol(WebSocketClientProtocol):
    factory: _Factory

    def onOpen(self) -> None:
        self.factory.socket.opened()

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        if not isBinary:
            self.factory.socket.said(payload)

    def failHandshake(self, reason: str) -> None:
        words = str(getattr(self, "http_status_line", "") or "").split()
        status = words[1] if len(words) > 1 and words[1].isdigit() else ""
        self.factory.socket.refused(int(status) if status else None, reason)
        super().failHandshake(reason)  # type: ignore[no-untyped-call]

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        self.factory.socket.closed(code)


class Socket:
    """A WebSocket.

    :param base: as for :class:`comfygate.smoke.client.Client`.
    :ivar status: with which the server answered the handshake; None: it did not.
    """

    def __init__(self, reactor: Any, base: str, path: str, timeout: float) -> None:
        self.status: int | None = None
        self._reactor = reactor
        self._base = base
        self._path = path
        self._timeout = timeout
        self._kept: list[Message] = []
        self._protocol: Any = None
        self._failure: UnexpectedError | None = None
        self._opened: Deferred[None] = Deferred()
        self._wanted: tuple[Callable[[Message], bool], Deferred[Message]] | None = None

    async def open(self) -> None:
        """Connect and shake hands.

        :raises UnexpectedError: it was refused, or took too long.
        """
        parts = urlsplit(self._base)
        factory = _Factory(f"ws{self._base[4:]}{self._path}", reactor=self._reactor)  # type: ignore[no-untyped-call]
        factory.protocol = _Protocol
        factory.socket = self
        factory.setProtocolOptions(  # type: ignore[no-untyped-call]
            maxMessagePayloadSize=_MAX_MESSAGE,
            openHandshakeTimeout=0,  # the wait for it has a deadline of its own
            closeHandshakeTimeout=1,
        )
        endpoint = HostnameEndpoint(self._reactor, parts.hostname or "", parts.port or 80, timeout=self._timeout)
        try:
            self._protocol = await endpoint.connect(factory)
        except (ConnectError, DNSLookupError) as error:
            raise UnreachableError(no_connection(error)) from None
        await self._in_time(self._opened, self._timeout, "no answer to the handshake")

    async def wait_for(self, wanted: Callable[[Message], bool], seconds: float) -> Message:
        """Give the first message, of those that came and those to come, for which `wanted` is true.

        :raises UnexpectedError: none came in time, or the connection was closed before.
        """
        for message in self._kept:
            if wanted(message):
                return message
        if self._failure is not None:
            raise self._failure
        coming: Deferred[Message] = Deferred()
        self._wanted = (wanted, coming)
        found: Message = await self._in_time(coming, seconds, "no such message")
        return found

    def types(self, prompt_id: str) -> list[str]:
        """The kinds of messages that came for a prompt, in their order."""
        return [str(one.get("type")) for one in self._kept if _data(one).get("prompt_id") == prompt_id]

    def close(self) -> None:
        """End it."""
        if self._protocol is None:
            return
        if self._protocol.state == WebSocketClientProtocol.STATE_OPEN:
            self._protocol.sendClose(1000)
        else:
            self._protocol.dropConnection(abort=True)

    # What the protocol tells.

    def opened(self) -> None:
        """The handshake is done."""
        self.status = 101
        self._opened.callback(None)

    def refused(self, status: int | None, reason: str) -> None:
        """The handshake failed."""
        self.status = status
        self._fail(
            UnexpectedError("expected a WebSocket; it was refused" if status else f"expected a WebSocket; {reason}")
        )

    def said(self, payload: bytes) -> None:
        """A text message came."""
        try:
            message = orjson.loads(payload)
        except orjson.JSONDecodeError:
            message = None
        if not isinstance(message, dict):
            self._fail(UnexpectedError("a text message that is no JSON object"))
            return
        del self._kept[:-_MAX_KEPT]
        self._kept.append(message)
        if self._wanted is not None and self._wanted[0](message):
            coming, self._wanted = self._wanted[1], None
            coming.callback(message)

    def closed(self, code: int | None) -> None:
        """The connection is gone."""
        self._fail(UnexpectedError(f"the WebSocket was closed with {code}"))

    def _fail(self, failure: UnexpectedError) -> None:
        self._failure = self._failure or failure
        wanted, self._wanted = self._wanted, None
        for waiting in (self._opened, wanted[1] if wanted else None):
            if waiting is not None and not waiting.called:
                waiting.errback(failure)

    async def _in_time(self, waiting: Deferred[Any], seconds: float, missing: str) -> Any:
        waiting.addTimeout(seconds, self._reactor)
        try:
            return await waiting
        except (TimeoutError, CancelledError):
            self._wanted = None
            raise SilentError(f"{missing} within {seconds:g} s") from None


def is_last_of(prompt_id: str) -> Callable[[Message], bool]:
    """Recognise ComfyUI's last message about a prompt."""

    def wanted(message: Message) -> bool:
        data = _data(message)
        return message.get("type") == "executing" and data.get("node") is None and data.get("prompt_id") == prompt_id

    return wanted


def _data(message: Message) -> Message:
    data = message.get("data")
    return data if isinstance(data, dict) else {}
