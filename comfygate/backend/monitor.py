"""Our own WebSocket to a backend: what it says about its queue, as it says it."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import orjson
from autobahn.twisted.websocket import WebSocketClientFactory, WebSocketClientProtocol
from twisted.application.internet import ClientService, backoffPolicy
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.logger import Logger

LARGEST = 64 * 1024 * 1024
STATUS_LARGEST = 64 * 1024

DELAYS = backoffPolicy(initialDelay=0.5, maxDelay=15.0, factor=2.0)

OPTIONS: dict[str, Any] = {
    "maxFramePayloadSize": LARGEST,
    "maxMessagePayloadSize": LARGEST,
    "openHandshakeTimeout": 30,
    "closeHandshakeTimeout": 2,
    "tcpNoDelay": True,
    # A node may hold the GIL, and with it ComfyUI's answers, for long.
    "autoPingInterval": 30,
    "autoPingTimeout": 120,
    "perMessageCompressionOffers": [],
}


class _Factory(WebSocketClientFactory):
    """Knows whom to tell."""

    noisy = False
    told: Callable[[int], None]
    lost: Callable[[], None]


class _Listening(WebSocketClientProtocol):
    """Reads everything, and keeps what it says about the queue."""

    def onMessage(self, payload: bytes, isBinary: bool) -> None:  # noqa: N803
        if isBinary or len(payload) > STATUS_LARGEST or b'"status"' not in payload[:64]:
            return
        remaining = queue_remaining(payload)
        if remaining is not None:
            self.factory.told(remaining)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:  # noqa: N803
        self.factory.lost()


class Monitor:
    """Keeps a WebSocket to a backend until it is stopped.

    :param reactor: provides IReactorTCP and IReactorTime.
    :param address: where the backend listens.
    :param told: called with every number of prompts that wait or run there.
    :param lost: called whenever the connection is lost.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        address: tuple[str, int],
        told: Callable[[int], None],
        lost: Callable[[], None] = lambda: None,
    ) -> None:
        self._told = told
        self._lost = lost
        host, port = address
        url = f"ws://{f'[{host}]' if ':' in host else host}:{port}/ws?clientId=comfygate-{uuid.uuid4().hex}"
        factory = _Factory(url, reactor=reactor)  # type: ignore[no-untyped-call]
        factory.protocol = _Listening
        factory.setProtocolOptions(**OPTIONS)  # type: ignore[no-untyped-call]
        factory.told = self._tell
        factory.lost = self._tell_lost
        endpoint = HostnameEndpoint(reactor, host, port, timeout=5)
        self._service = ClientService(endpoint, factory, retryPolicy=DELAYS, clock=reactor)

    def start(self) -> None:
        """Connect, and connect again whenever the connection is lost."""
        self._service.startService()

    def stop(self) -> Deferred[None]:
        """Disconnect; nothing is told any more."""
        self._told, self._lost = lambda remaining: None, lambda: None
        stopped: Deferred[None] = self._service.stopService()
        return stopped

    def _tell(self, remaining: int) -> None:
        with self.log.failuresHandled("while telling of a backend's queue"):
            self._told(remaining)

    def _tell_lost(self) -> None:
        with self.log.failuresHandled("while telling of a lost connection"):
            self._lost()


def queue_remaining(message: bytes) -> int | None:
    """Read the number in a ``status`` message; ``None`` if it is another message."""
    try:
        found = orjson.loads(message)
        remaining = found["data"]["status"]["exec_info"]["queue_remaining"] if found["type"] == "status" else None
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return None
    return remaining if isinstance(remaining, int) else None
