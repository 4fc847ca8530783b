"""One connection to a backend's WebSocket, from dialling to its end."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IDelayedCall, IProtocol, IReactorTime, IStreamClientEndpoint
from twisted.internet.protocol import Factory
from twisted.python.failure import Failure

from comfygate.errors import GateError
from comfygate.gate.backend_leg import BackendLeg
from comfygate.gate.frames import Frame
from comfygate.gate.handshake import Wanted
from comfygate.gate.sessions import Link, Member
from comfygate.gate.websocket_leg import ABNORMAL, Ending, Limits
from comfygate.websocket import WebSocketClientFactory

RETRY_AFTER = 2.0


class LinkOwner(Member, Protocol):
    """The member of a session that a link is for."""

    def link_opened(self, subprotocol: str | None) -> None:
        """The backend has accepted."""

    def link_said(self, payload: bytes, binary: bool) -> None:
        """The backend sent a message."""

    def link_sent(self, frame: Frame) -> None:
        """The backend sent a message in this frame, whose bytes are lent until this returns."""

    def link_full(self, full: bool) -> None:
        """Whether the backend takes no more at present."""


class BackendLink:
    """A :class:`~comfygate.gate.sessions.Link` over TCP.

    It is closed with a closing handshake even when nobody wants it before it
    is open: only then it is sure that ComfyUI has forgotten its clientId.

    :ivar failure: after it is gone without having been open: what to tell the
        client.
    """

    def __init__(
        self,
        owner: LinkOwner,
        wanted: Wanted,
        address: tuple[str, int],
        gone: Callable[[Link, Ending], None],
        *,
        endpoint: IStreamClientEndpoint,
        factory: WebSocketClientFactory,
        clock: IReactorTime,
        limits: Limits,
    ) -> None:
        self.owner: LinkOwner = owner
        self.dismissed = False
        self.opened = False
        self._ending = Ending()
        self._gone = gone
        self._endpoint = endpoint
        self._clock = clock
        self._limits = limits
        self._dialling: Deferred[IProtocol] | None = None
        self._late: IDelayedCall | None = None
        self._timed_out = False
        kind: Any = factory.protocol
        self._leg: BackendLeg = kind(self, wanted.request(*address), clock, limits.backend_close)
        self._leg.factory = copy.copy(factory) if wanted.subprotocols else factory
        if wanted.subprotocols:
            # Autobahn compares the backend's choice with this list.
            self._leg.factory.protocols = list(wanted.subprotocols)

    def connect(self) -> None:
        """Dial, and shake hands."""
        self._late = self._clock.callLater(self._limits.open, self._give_up)
        dialling = self._endpoint.connect(_Given(self._leg))
        self._dialling = dialling
        dialling.addCallbacks(self._dialled, self._failed)

    def send(self, payload: bytes, binary: bool) -> None:
        """Send a message, if the link is open."""
        self._leg.send(payload, binary)

    def end(self, ending: Ending) -> None:
        """Close it, as soon as that can be done properly."""
        if self.dismissed:
            return
        self.dismissed = True
        self._ending = ending
        if self._dialling is not None:
            self._dialling.cancel()
        elif self.opened:
            self._leg.end(ending)

    @property
    def failure(self) -> GateError:
        """Why the backend didn't accept."""
        status = self._leg.refused
        if self._timed_out:
            return GateError(504, "backend_timeout", "The backend did not accept the WebSocket in time.")
        if not self._leg.answered:
            return GateError(503, "backend_down", "The backend does not answer.", retry_after=RETRY_AFTER)
        if status is not None and 400 <= status < 500:
            return GateError(status, "backend_refused", "The backend refused the WebSocket.")
        return GateError(502, "backend_failed", "The backend did not accept the WebSocket.", f"status {status}")

    def backend_opened(self, subprotocol: str | None) -> None:
        """The leg is open."""
        self._cancel_late()
        self.opened = True
        if self.dismissed:
            self._leg.end(self._ending)
        else:
            self.owner.link_opened(subprotocol)

    def backend_said(self, payload: bytes, binary: bool) -> None:
        """Pass a message on, unless the owner wants no more."""
        if not self.dismissed:
            self.owner.link_said(payload, binary)

    def backend_sent(self, frame: Frame) -> None:
        """Pass a message on in its frame, likewise."""
        if not self.dismissed:
            self.owner.link_sent(frame)

    def backend_full(self, full: bool) -> None:
        """Pass back-pressure on."""
        if not self.dismissed:
            self.owner.link_full(full)

    def backend_gone(self, ending: Ending) -> None:
        """The connection is gone."""
        self._cancel_late()
        self._gone(self, ending)

    def _dialled(self, leg: object) -> None:
        self._dialling = None

    def _failed(self, failure: Failure) -> None:
        self._dialling = None
        self.backend_gone(Ending(ABNORMAL))

    def _give_up(self) -> None:
        self._timed_out = True
        if self._dialling is not None:
            self._dialling.cancel()
        else:
            self._leg.abort()

    def _cancel_late(self) -> None:
        if self._late is not None and self._late.active():
            self._late.cancel()


class _Given(Factory):
    """A factory of one protocol that exists already."""

    noisy = False

    def __init__(self, leg: BackendLeg) -> None:
        self._leg = leg

    def buildProtocol(self, addr: IAddress | None) -> BackendLeg:
        return self._leg
