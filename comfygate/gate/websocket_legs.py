"""The two ends of a bridged WebSocket, on Autobahn: a client's and a backend's.

Autobahn does the framing (RFC 6455).  What these classes add is what it lacks:
bounds, a deadline for every close, byte-exact handshakes, and back-pressure.
Neither leg ever negotiates an extension: ComfyUI's server would accept
permessage-deflate and then spend fifty times the CPU on each preview.
"""

# Autobahn chose these names.
# ruff: noqa: N802, N803, N815

from __future__ import annotations

import base64
import os
import struct
from http.client import responses
from typing import Any, Protocol

from attrs import frozen
from autobahn.twisted.websocket import (
    WebSocketClientFactory,
    WebSocketClientProtocol,
    WebSocketServerFactory,
    WebSocketServerProtocol,
)
from autobahn.websocket.types import ConnectionDeny, ConnectionResponse
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.python.failure import Failure
from txaio.tx import make_logger
from zope.interface import implementer

from comfygate.errors import GateError

HEAD_BOUND = 64 * 1024
GOING_AWAY, NO_STATUS, ABNORMAL = 1001, 1005, 1006
_DONE = Failure(ConnectionDone())


@frozen(kw_only=True)
class Limits:
    """Sizes in bytes, times in seconds.

    :ivar client_message: largest message from a client; ComfyUI's own limit.
    :ivar backend_message: largest message from a backend.
    :ivar ping_interval: between pings on each leg; at least 1, because
        Autobahn's timers count whole seconds.
    :ivar client_pong: what a client may take to answer a ping.
    :ivar backend_pong: the same for a backend, where a node that holds the GIL
        delays everything.
    :ivar open: what a backend may take to open its leg.
    :ivar backend_close: what a backend may take to close its leg.
    :ivar client_close: what a client may take to close its leg.
    :ivar outbox: bytes that may wait for a client that reads slowly.
    :ivar results: bytes of binary results that may wait besides.
    :ivar held: bytes from a client that may wait for its backend leg.
    :ivar clients: open client legs of one gate.
    """

    client_message: int = 4 * 1024 * 1024
    backend_message: int = 64 * 1024 * 1024
    ping_interval: float = 20.0
    client_pong: float = 20.0
    backend_pong: float = 120.0
    open: float = 10.0
    backend_close: float = 3.0
    client_close: float = 5.0
    outbox: int = 4 * 1024 * 1024
    results: int = 64 * 1024 * 1024
    held: int = 4 * 1024 * 1024
    clients: int = 1000


@frozen
class Ending:
    """Why a leg ended, as RFC 6455, section 7.4 numbers it.

    :ivar code: as sent by the peer; 1005 for a close frame without a code,
        1006 for a connection that was lost without one.
    :ivar reason: as sent by the peer.
    """

    code: int = NO_STATUS
    reason: str = ""

    @property
    def payload(self) -> tuple[int | None, bytes | None]:
        """Code and reason for a close frame that passes this on."""
        if self.code == NO_STATUS:
            return None, None
        code = GOING_AWAY if self.code == ABNORMAL else self.code
        return code, self.reason.encode()[:123] if self.code != ABNORMAL else b""


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

    def client_gone(self, ending: Ending) -> None:
        """The connection is gone; called once, whatever happened before."""


class BackendSide(Protocol):
    """Who owns a backend leg."""

    def backend_opened(self, subprotocol: str | None) -> None:
        """The handshake is done."""

    def backend_said(self, payload: bytes, binary: bool) -> None:
        """A message came."""

    def backend_full(self, full: bool) -> None:
        """Whether the backend takes no more at present."""

    def backend_gone(self, ending: Ending) -> None:
        """The connection is gone; called once, whatever happened before."""


class _Leg:
    """What both legs do: be silent about extensions, and end in time.

    Mixed into an Autobahn protocol.
    """

    # Autobahn has a line for each refusal; what is worth one, the owner says.
    log = make_logger(level="error")  # type: ignore[no-untyped-call]

    # Autobahn reads this before it takes its factory's options over.  Without
    # it a client's first message waits 40 ms for an acknowledgement.
    tcpNoDelay = True

    clock: IReactorTime
    close_timeout: float
    transport: Any
    message_data: Any
    _deadline: IDelayedCall | None = None
    _gone = False

    def end(self, ending: Ending) -> None:
        """Close the leg: politely if it is open, and in any case in time."""
        code, reason = ending.payload
        if self.state == self.STATE_OPEN:  # type: ignore[attr-defined]
            # sendClose() refuses 1001, 1011 and 1012.
            self.sendCloseFrame(code=code, reasonUtf8=reason)
        elif not self._gone:
            self.dropConnection(abort=False)
        self.abort_in_time()

    def abort(self) -> None:
        """Drop the connection and whatever is still to be written."""
        if not self._gone and self.transport is not None:
            self.transport.abortConnection()

    def send(self, payload: bytes, binary: bool) -> None:
        """Send one message if the leg is open.

        Not by ``sendMessage()``, which holds outgoing messages to the limit
        set for incoming ones.
        """
        if self.state == self.STATE_OPEN:  # type: ignore[attr-defined]
            self.sendFrame(opcode=2 if binary else 1, payload=payload)  # type: ignore[attr-defined]

    def onCloseFrame(self, code: int | None, reasonRaw: bytes | None) -> bool | None:
        """Answer the peer's close frame, then see that the connection goes."""
        self.abort_in_time()
        result: bool | None = super().onCloseFrame(code, reasonRaw)  # type: ignore[misc]
        return result

    def sendCloseFrame(self, *args: Any, **kwargs: Any) -> None:
        """Send a close frame, then see that the connection goes."""
        self.abort_in_time()
        super().sendCloseFrame(*args, **kwargs)  # type: ignore[misc]

    def dropConnection(self, abort: bool = False) -> None:
        """Drop the connection once all is written, or in any case in time."""
        self.abort_in_time()
        super().dropConnection(abort)  # type: ignore[misc]

    def connectionLost(self, reason: Failure = _DONE) -> None:
        """Cancel what is pending, then report the end once."""
        if self._gone:
            return
        self._gone = True
        if self._deadline is not None and self._deadline.active():
            self._deadline.cancel()
        self._deadline = None
        super().connectionLost(reason)  # type: ignore[misc]

    def sendData(self, data: bytes, sync: bool = False, chopsize: int | None = None) -> None:
        """Write, without the log line that Autobahn composes each time."""
        self.transport.write(data)

    def onMessageEnd(self) -> None:
        """Hand a whole message on, without Autobahn's signal for each."""
        if not self.failedByMe:  # type: ignore[attr-defined]
            self.onMessage(b"".join(self.message_data), self.message_is_binary)  # type: ignore[attr-defined]
        self.message_data = None

    def abort_in_time(self) -> None:
        """Abort the connection if it is not gone after `close_timeout`."""
        if self._deadline is None and not self._gone:
            self._deadline = self.clock.callLater(self.close_timeout, self.abort)


def _refusal(code: int, reason: str) -> GateError:
    if code == 503:
        return GateError(503, "too_many_connections", "Too many WebSockets are open on this port.", retry_after=1.0)
    return GateError(code, "invalid_upgrade", "This is no WebSocket handshake.", reason)


def _ending(clean: bool, code: int | None, reason: str | None) -> Ending:
    if not clean:
        return Ending(ABNORMAL)
    return Ending(NO_STATUS if code is None else code, reason or "")


@implementer(IPushProducer)
class ClientLeg(_Leg, WebSocketServerProtocol):  # type: ignore[misc]
    """The server's end of a client's WebSocket.

    As a producer it is its own transport's: `writable` says whether the client
    keeps up.

    :ivar writable: whether what was sent has been taken.
    """

    def __init__(self, owner: ClientSide, handshake: bytes, clock: IReactorTime, close_timeout: float) -> None:
        super().__init__()
        self._owner = owner
        self._handshake: bytes | None = handshake
        self._refusal: GateError | None = None
        self._reading = True
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
            data = data[data.find(b"\r\n\r\n") + 4 :]
        if self.state != self.STATE_CONNECTING:
            self._dataReceived(data)
            return
        # Autobahn would parse this as a second request.  It does process it
        # once the handshake is done.
        self.data += data
        if len(self.data) > HEAD_BOUND:
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
        self.transport.writeSequence((head, payload))

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
        self.transport.resumeProducing()
        self._owner.client_opened()

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """Tell the owner."""
        self._owner.client_said(payload, isBinary)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        """Tell the owner."""
        self.writable = False
        self._owner.client_gone(_ending(wasClean, code, reason))

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


@implementer(IPushProducer)
class BackendLeg(_Leg, WebSocketClientProtocol):  # type: ignore[misc]
    """The client's end of a WebSocket to a ComfyUI.

    :param request: the head of the request, without ``Sec-WebSocket-Key`` and
        the empty line.
    """

    refused: int | None = None  #: the status with which the backend refused
    opened = False

    def __init__(self, owner: BackendSide, request: bytes, clock: IReactorTime, close_timeout: float) -> None:
        super().__init__()
        self._owner = owner
        self._request = request
        self.clock = clock
        self.close_timeout = close_timeout

    def connectionMade(self) -> None:
        """Begin the handshake."""
        self.transport.registerProducer(self, True)
        super().connectionMade()

    def startHandshake(self) -> None:
        """Send the request as it is.

        Autobahn would take headers apart into text, and a repeated one would
        get lost.
        """
        self.websocket_key = base64.b64encode(os.urandom(16))
        self.sendData(b"%sSec-WebSocket-Key: %s\r\n\r\n" % (self._request, self.websocket_key))

    def dataReceived(self, data: bytes) -> None:
        """Parse what the backend sent."""
        if self.state == self.STATE_CONNECTING and len(self.data) > HEAD_BOUND:
            self.wasNotCleanReason = "the head of the answer is too long"
            self.dropConnection(abort=True)
            return
        self._dataReceived(data)

    def failHandshake(self, reason: str) -> None:
        """Note with which status the backend refused."""
        status = self.http_status_line.split()[1:2]
        if status and status[0].isascii() and status[0].isdigit():
            self.refused = int(status[0])
        super().failHandshake(reason)  # type: ignore[no-untyped-call]

    def onConnect(self, response: ConnectionResponse) -> None:
        """Note what the backend accepted."""
        self._subprotocol: str | None = response.protocol

    def onOpen(self) -> None:
        """Tell the owner."""
        self.opened = True
        self._owner.backend_opened(self._subprotocol)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """Tell the owner."""
        self._owner.backend_said(payload, isBinary)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        """Tell the owner."""
        ending = _ending(wasClean, code, reason)
        if self.wasMaxMessagePayloadSizeExceeded or self.wasMaxFramePayloadSizeExceeded:
            ending = Ending(1011, "the server's message was too big")
        self._owner.backend_gone(ending)

    def pauseProducing(self) -> None:
        """The transport holds enough."""
        self._owner.backend_full(True)

    def resumeProducing(self) -> None:
        """The transport holds nothing."""
        self._owner.backend_full(False)

    def stopProducing(self) -> None:
        """The transport is gone; onClose says so, too."""


def client_factory(clock: IReactorTime, limits: Limits) -> WebSocketServerFactory:
    """Settings of all client legs of a gate: where Autobahn has no limit, one."""
    factory = WebSocketServerFactory(reactor=clock, server="")  # type: ignore[no-untyped-call]
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
        **_common_options(limits),
    )
    return factory


def backend_factory(clock: IReactorTime, limits: Limits) -> WebSocketClientFactory:
    """Settings of all backend legs of a gate."""
    factory = WebSocketClientFactory(reactor=clock)  # type: ignore[no-untyped-call]
    factory.setProtocolOptions(  # type: ignore[no-untyped-call]
        openHandshakeTimeout=0,  # the link has a deadline of its own
        serverConnectionDropTimeout=0,
        maxFramePayloadSize=limits.backend_message,
        maxMessagePayloadSize=limits.backend_message,
        autoPingTimeout=limits.backend_pong,
        **_common_options(limits),
    )
    return factory


def _common_options(limits: Limits) -> dict[str, Any]:
    return {
        "failByDrop": False,
        "closeHandshakeTimeout": 0,  # the legs have a deadline of their own
        "autoPingInterval": limits.ping_interval,
        # Text is passed on as it came; whoever it is for finds it invalid.
        "utf8validateIncoming": False,
    }
