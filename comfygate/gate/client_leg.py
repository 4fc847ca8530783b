"""The server's end of a client's WebSocket."""

# Autobahn chose these names.
# ruff: noqa: N802, N803

from __future__ import annotations

import struct
from http.client import responses
from typing import Any, Protocol

from autobahn.websocket.types import ConnectionDeny
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.python.failure import Failure
from zope.interface import implementer

from comfygate.errors import GateError
from comfygate.gate.fast_path.transports import read_little
from comfygate.gate.frames import Data
from comfygate.gate.tally import Tally
from comfygate.gate.websocket_leg import Ending, Leg, Limits, common_options, configured, ending_of
from comfygate.http1 import request_head_end
from comfygate.routes import Kind
from comfygate.websocket import WebSocketServerFactory, WebSocketServerProtocol

_EARLY = 64 * 1024
"""Bytes that a client may send before it is answered."""


class ClientSide(Protocol):
    """Who owns a client leg."""

    def client_asks(self) -> Deferred[str | None]:
        """Fire with the subprotocol to accept, or fail with :class:`GateError`."""

    def client_opened(self) -> None:
        """The handshake is done."""

    def client_said(self, payload: bytes, binary: bool) -> None:
        """A message came."""

    def client_writable(self) -> None:
        """The client has taken all that was sent."""

    def client_ponged(self, payload: bytes) -> None:
        """The client has read what was sent before a ping with this payload, or says so."""

    def client_gone(self, ending: Ending) -> None:
        """The connection is gone; called once, whatever happened before."""


@implementer(IPushProducer)
class ClientLeg(Leg, WebSocketServerProtocol):
    """The server's end of a client's WebSocket.

    As a producer it is its own transport's: `writable` says whether the client
    keeps up.

    :ivar writable: whether what was sent has been taken.
    """

    def __init__(
        self, owner: ClientSide, handshake: bytes, clock: IReactorTime, close_timeout: float, tally: Tally
    ) -> None:
        super().__init__()
        self._tally = tally
        self._owner = owner
        self._handshake: bytes | None = handshake
        self._refusal: GateError | None = None
        self._reading = True
        self._owed: bytes | None = None  # the ping that a client that reads slowly has yet to be answered
        self.clock = clock
        self.close_timeout = close_timeout
        self.writable = True

    @property
    def ready(self) -> bool:
        """Whether a message may be sent and will not have to wait here."""
        return bool(self.state == self.STATE_OPEN) and self.writable

    def connectionMade(self) -> None:
        """Take the transport over from whoever had it."""
        # Whoever had it may have registered itself, or have paused it.
        self.transport.unregisterProducer()
        self.transport.resumeProducing()
        self.transport.registerProducer(self, True)
        read_little(self.transport)
        super().connectionMade()

    def dataReceived(self, data: bytes) -> None:
        """Parse what the client sent; the first time it is the request.

        Autobahn is shown a handshake made of the headers that it needs: its
        own header parser sees line ends where there are none, and may not see
        what the client offers.
        """
        if self._handshake is not None:
            handshake, self._handshake = self._handshake, None
            self._dataReceived(handshake)
            data = data[request_head_end(data) :]
        else:  # whoever had the connection before has counted what came with the request
            self._tally.received += len(data)
        if self.state != self.STATE_CONNECTING:
            self._dataReceived(data)
            return
        # Autobahn would parse this as a second request.  It does process it
        # once the handshake is done.
        self.data += data
        if len(self.data) > _EARLY:
            self.transport.pauseProducing()

    def send(self, payload: bytes, binary: bool) -> None:
        """Send one message, in one frame (RFC 6455, section 5.2), if the leg is open."""
        if self.state != self.STATE_OPEN:
            return
        first, size = 0x82 if binary else 0x81, len(payload)
        if size < 126:
            head = bytes((first, size))
        elif size < 65536:
            head = struct.pack(">BBH", first, 126, size)
        else:
            head = struct.pack(">BBQ", first, 127, size)
        self._tally.sent += len(head) + size
        self.transport.writeSequence((head, payload))

    def forward(self, frame: Data) -> None:
        """Send a frame of a server as it is, if the leg is open: it is one that a server sends, too."""
        if self.state == self.STATE_OPEN:
            self._tally.sent += len(frame)
            self.transport.write(frame)

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        """Write what Autobahn has made: handshakes and control frames."""
        self._tally.sent += len(data)
        super().sendData(data, sync, chopsize)

    def read(self, reading: bool) -> None:
        """Go on, or stop, reading from the client."""
        self._reading = reading
        if reading:
            self.transport.resumeProducing()
        else:
            self.transport.pauseProducing()

    def onConnect(self, request: object) -> Deferred[str | None]:  # type: ignore[override]
        """Let the owner decide, in its own time."""
        return self._owner.client_asks().addErrback(self._deny)

    def onOpen(self) -> None:
        """Tell the owner."""
        self.settle()
        self._tally.requests[Kind.WEBSOCKET, 101] += 1
        self.transport.resumeProducing()
        self._owner.client_opened()

    def onMessageBegin(self, isBinary: bool) -> None:
        """Gather a message in one buffer: of tiny or empty fragments a list would cost far more than their bytes."""
        super().onMessageBegin(isBinary)
        self.message_data.append(bytearray())

    def onMessageFrameData(self, payload: bytes) -> None:
        """Add a piece of a frame to its message."""
        if not self.failedByMe:
            self.message_data[0] += payload

    def onPing(self, payload: bytes) -> None:
        """Answer a client that reads; to another, only the newest ping matters (RFC 6455, section 5.5.3)."""
        if self.writable:
            self.sendPong(payload)  # type: ignore[no-untyped-call]
        else:
            self._owed = payload

    def onPong(self, payload: bytes) -> None:
        """Tell the owner."""
        self._owner.client_ponged(payload)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """Tell the owner."""
        self._owner.client_said(payload, isBinary)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        """Tell the owner."""
        self.writable = False
        self._owner.client_gone(ending_of(wasClean, code, reason))

    def onAutoPingTimeout(self) -> None:
        """Drop a client that is gone, but not one that we don't listen to."""
        self.autoPingTimeoutCall = None
        if self._reading:
            super().onAutoPingTimeout()
        else:
            self.autoPingPendingCall = self.factory._batched_timer.call_later(
                self.factory.autoPingInterval, self._sendAutoPing
            )

    def sendHttpErrorResponse(self, code: int, reason: str, responseHeaders: Any = None) -> None:
        """Refuse the handshake in the shape of all other refusals."""
        refusal = self._refusal or _refusal(code, reason)
        body = refusal.body()
        self._tally.requests[Kind.WEBSOCKET, refusal.status] += 1
        lines = [b"HTTP/1.1 %d %s" % (refusal.status, responses.get(refusal.status, "Refused").encode())]
        lines += [b"%s: %s" % header for header in refusal.headers()]
        lines += [f"{name}: {value}".encode() for name, value in responseHeaders or ()]
        lines += [b"Content-Length: %d" % len(body), b"Connection: close", b"", body]
        self.sendData(b"\r\n".join(lines))

    def pauseProducing(self) -> None:
        """The transport holds enough."""
        self.writable = False

    def resumeProducing(self) -> None:
        """The transport holds nothing."""
        self.writable = True
        owed, self._owed = self._owed, None
        if owed is not None:
            self.sendPong(owed)  # type: ignore[no-untyped-call]
        self._owner.client_writable()

    def stopProducing(self) -> None:
        """The transport is gone; onClose says so, too."""
        self.writable = False

    def _deny(self, failure: Failure) -> None:
        error = failure.value
        if not isinstance(error, GateError):
            error = GateError(502, "backend_failed", "The WebSocket could not be bridged.", repr(error))
        self._refusal = error
        raise ConnectionDeny(error.status, error.message)  # type: ignore[no-untyped-call]


def client_factory(clock: IReactorTime, limits: Limits) -> WebSocketServerFactory:
    """Settings of all client legs of a gate: where Autobahn has no limit, one."""
    factory = WebSocketServerFactory(server="")  # type: ignore[no-untyped-call]
    factory.setProtocolOptions(  # type: ignore[no-untyped-call]
        versions=[13],
        webStatus=False,
        allowedOrigins=["*"],  # the gate has checked it
        allowNullOrigin=True,
        maxConnections=limits.clients,
        # A backend leg that has to be closed comes before the one that is opened.
        openHandshakeTimeout=2 * (limits.open + limits.backend_close),
        maxFramePayloadSize=limits.client_message,
        maxMessagePayloadSize=limits.client_message,
        autoPingTimeout=limits.client_pong,
        **common_options(limits),
    )
    factory.protocol = configured(ClientLeg, factory)
    return factory


def _refusal(code: int, reason: str) -> GateError:
    if code == 503:
        return GateError(503, "too_many_connections", "Too many WebSockets are open on this port.", retry_after=1.0)
    return GateError(code, "invalid_upgrade", "This is no WebSocket handshake.", reason)
