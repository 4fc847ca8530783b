"""Autobahn's WebSocket protocol (RFC 6455) on Twisted's transports.

``autobahn.twisted`` would do the same, but it brings all of WAMP and OpenSSL
with it: 7 MiB that nothing here needs.  What Autobahn asks of such a layer is
in its ``websocket.protocol``: names with one underscore, which its two layers,
for Twisted and for asyncio, define.
"""

# Autobahn chose these names.
# ruff: noqa: N802, N803

from __future__ import annotations

from contextlib import suppress
from typing import Any

import txaio
from autobahn.websocket import protocol
from twisted.internet.protocol import ClientFactory, Protocol, ServerFactory, connectionDone
from twisted.python.failure import Failure
from txaio.tx import make_logger

txaio.use_twisted()  # type: ignore[no-untyped-call]


class _OnTransport(Protocol):
    """Joins a transport and Autobahn's protocol, into which it is mixed."""

    log = make_logger()  # type: ignore[no-untyped-call]

    factory: Any
    transport: Any

    def connectionMade(self) -> None:
        """Begin; also, a small message must not wait for an acknowledgement of the one before."""
        self.peer = str(self.transport.getPeer())
        set_no_delay = getattr(self.transport, "setTcpNoDelay", None)
        if set_no_delay is not None:
            with suppress(OSError):  # it may be gone already
                set_no_delay(True)
        self._connectionMade()  # type: ignore[attr-defined]

    def dataReceived(self, data: bytes) -> None:
        """Parse what came."""
        self._dataReceived(data)  # type: ignore[attr-defined]

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """End."""
        self._connectionLost(reason)  # type: ignore[attr-defined]

    def unregisterProducer(self) -> None:
        """Let nobody wait for the transport any more; Autobahn does so before it drops a connection."""
        self.transport.unregisterProducer()

    def _closeConnection(self, abort: bool = False) -> None:
        if abort:
            self.transport.abortConnection()
        else:
            self.transport.loseConnection()

    # What Autobahn tells, as those who derive from it hear it.

    def _onOpen(self) -> None:
        self.onOpen()  # type: ignore[attr-defined]

    def _onMessageBegin(self, isBinary: bool) -> None:
        self.onMessageBegin(isBinary)  # type: ignore[attr-defined]

    def _onMessageFrameBegin(self, length: int) -> None:
        self.onMessageFrameBegin(length)  # type: ignore[attr-defined]

    def _onMessageFrameData(self, payload: bytes) -> None:
        self.onMessageFrameData(payload)  # type: ignore[attr-defined]

    def _onMessageFrameEnd(self) -> None:
        self.onMessageFrameEnd()  # type: ignore[attr-defined]

    def _onMessageFrame(self, payload: list[bytes]) -> None:
        self.onMessageFrame(payload)  # type: ignore[attr-defined]

    def _onMessageEnd(self) -> None:
        self.onMessageEnd()  # type: ignore[attr-defined]

    def _onMessage(self, payload: bytes, isBinary: bool) -> None:
        self.onMessage(payload, isBinary)  # type: ignore[attr-defined]

    def _onPing(self, payload: bytes) -> None:
        self.onPing(payload)  # type: ignore[attr-defined]

    def _onPong(self, payload: bytes) -> None:
        self.onPong(payload)  # type: ignore[attr-defined]

    def _onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        self.onClose(wasClean, code, reason)  # type: ignore[attr-defined]


class WebSocketServerProtocol(_OnTransport, protocol.WebSocketServerProtocol):
    """The server's end."""


class WebSocketClientProtocol(_OnTransport, protocol.WebSocketClientProtocol):
    """The client's end."""

    def _onConnect(self, response: Any) -> Any:
        return self.onConnect(response)


class WebSocketServerFactory(protocol.WebSocketServerFactory, ServerFactory):  # type: ignore[misc]
    """Makes servers' ends; see Autobahn for its options."""


class WebSocketClientFactory(protocol.WebSocketClientFactory, ClientFactory):  # type: ignore[misc]
    """Makes clients' ends; see Autobahn for its options."""
