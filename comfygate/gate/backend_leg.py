"""The client's end of a WebSocket to a ComfyUI."""

# Autobahn chose these names.
# ruff: noqa: N802, N803

from __future__ import annotations

import base64
import os
from typing import Protocol

from autobahn.websocket.types import ConnectionResponse
from twisted.internet.interfaces import IPushProducer, IReactorTime
from zope.interface import implementer

from comfygate.gate.fast_path.transports import lend
from comfygate.gate.frames import Data, Frame, FrameReader
from comfygate.gate.websocket_leg import Ending, Leg, Limits, common_options, configured, ending_of
from comfygate.websocket import WebSocketClientFactory, WebSocketClientProtocol

_HEAD_BOUND = 64 * 1024


class BackendSide(Protocol):
    """Who owns a backend leg."""

    def backend_opened(self, subprotocol: str | None) -> None:
        """The handshake is done."""

    def backend_said(self, payload: bytes, binary: bool) -> None:
        """A message came."""

    def backend_sent(self, frame: Frame) -> None:
        """A message came, in this frame; what it holds is lent until this returns."""

    def backend_full(self, full: bool) -> None:
        """Whether the backend takes no more at present."""

    def backend_gone(self, ending: Ending) -> None:
        """The connection is gone; called once, whatever happened before."""


@implementer(IPushProducer)
class BackendLeg(Leg, WebSocketClientProtocol):
    """The client's end of a WebSocket to a ComfyUI.

    :param request: the head of the request, without ``Sec-WebSocket-Key`` and
        the empty line.
    """

    refused: int | None = None  #: the status with which the backend refused
    opened = False
    answered = False  #: whether anything came

    def __init__(self, owner: BackendSide, request: bytes, clock: IReactorTime, close_timeout: float) -> None:
        super().__init__()
        self._owner = owner
        self._request = request
        self._frames: FrameReader | None = None
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
        request, self._request = self._request, b""
        self.sendData(b"%sSec-WebSocket-Key: %s\r\n\r\n" % (request, self.websocket_key))

    def dataReceived(self, data: bytes) -> None:
        """Parse what the backend sent."""
        self.answered = True
        if self.state == self.STATE_CONNECTING and len(self.data) > _HEAD_BOUND:
            self.wasNotCleanReason = "the head of the answer is too long"
            self.dropConnection(abort=True)
            return
        self._received(data)

    def _received(self, data: Data) -> int:
        frames = self._frames
        if frames is not None and (frames.missing or self._is_between_messages()):
            data = self._common(frames, data)
        if data:
            self._dataReceived(bytes(data))
        return frames.missing if frames is not None else 0

    def _is_between_messages(self) -> bool:
        """Whether Autobahn has read all that it was given, and it was no part of a message."""
        return self.state == self.STATE_OPEN and self.current_frame is None and not (self.inside_message or self.data)

    def _common(self, frames: FrameReader, data: Data) -> Data:
        """Hand on the messages of the common kind; give back what is left for Autobahn."""
        found, data = frames.feed(data)
        if found and self.autoPingTimeoutCall is not None:  # as Autobahn takes any frame for a sign of life
            self._cancelAutoPingTimeoutCall()
        for frame in found:
            if self.state == self.STATE_OPEN:
                self._owner.backend_sent(frame)
        return data

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
        self.settle()
        self._frames = FrameReader(self.factory.maxMessagePayloadSize)
        lend(self.transport, self._received)
        self.opened = True
        self._owner.backend_opened(self._subprotocol)

    def onMessage(self, payload: bytes, isBinary: bool) -> None:
        """Tell the owner."""
        self._owner.backend_said(payload, isBinary)

    def onClose(self, wasClean: bool, code: int | None, reason: str | None) -> None:
        """Tell the owner."""
        ending = ending_of(wasClean, code, reason)
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


def backend_factory(clock: IReactorTime, limits: Limits) -> WebSocketClientFactory:
    """Settings of all backend legs of a gate."""
    factory = WebSocketClientFactory()  # type: ignore[no-untyped-call]
    factory.setProtocolOptions(  # type: ignore[no-untyped-call]
        openHandshakeTimeout=0,  # the link has a deadline of its own
        serverConnectionDropTimeout=0,
        maxFramePayloadSize=limits.backend_message,
        maxMessagePayloadSize=limits.backend_message,
        autoPingTimeout=limits.backend_pong,
        **common_options(limits),
    )
    factory.protocol = configured(BackendLeg, factory)
    return factory
