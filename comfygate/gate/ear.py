"""One client's connection to one of the several ComfyUIs that it listens to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from twisted.internet.interfaces import IReactorTime

from comfygate.gate.audience import Sessions
from comfygate.gate.backend_link import BackendLink, LinkOwner
from comfygate.gate.frames import Frame
from comfygate.gate.handshake import Wanted
from comfygate.gate.sessions import Link, Session
from comfygate.gate.websocket_leg import GOING_AWAY, Ending, Limits


class Dialling(Protocol):
    """What dialling takes: a gate's."""

    limits: Limits
    clock: IReactorTime
    sessions: Sessions

    def link(self, owner: LinkOwner, wanted: Wanted, gpu_id: int, gone: Callable[[Link, Ending], None]) -> BackendLink:
        """A leg to a backend, not yet dialled."""


class Owner(Protocol):
    """Who listens."""

    wanted: Wanted
    alias: str
    first: bytes | None

    def ear_said(self, gpu_id: int, payload: bytes, binary: bool) -> None:
        """The backend sent a message."""

    def ear_settled(self, gpu_id: int) -> None:
        """It is known for the first time whether the backend can be heard."""

    def ear_full(self, full: bool) -> None:
        """Whether the backend takes no more at present."""

    def ear_lost(self, gpu_id: int) -> None:
        """The backend does not take the connection; nobody tries any more."""


class Ear:
    """A member of a backend's session.

    :ivar owner: who listens.
    :ivar gpu_id: which backend.
    :ivar born: see :class:`comfygate.gate.sessions.Member`.
    :ivar settled: whether it is known if the backend can be heard.
    :ivar spoke: whether anything has been said on the connection.
    """

    __slots__ = ("_gate", "_link", "_session", "born", "gpu_id", "owner", "settled", "spoke")

    def __init__(self, gate: Dialling, owner: Owner, gpu_id: int) -> None:
        self.gpu_id = gpu_id
        self.owner = owner
        self.born = gate.sessions.birth()
        self.settled = False
        self.spoke = False
        self._gate = gate
        self._link: BackendLink | None = None
        self._session: Session | None = None

    @property
    def hears(self) -> bool:
        """Whether the connection is open."""
        return self._link is not None and self._link.opened

    def join(self) -> None:
        """Begin to listen."""
        self._session = self._gate.sessions.get(self.gpu_id, self.owner.alias)
        self._session.join(self)

    def leave(self) -> None:
        """Listen no more."""
        session, self._session = self._session, None
        if session is not None:
            self._link = None
            session.leave(self, Ending(GOING_AWAY))

    def say(self, payload: bytes, binary: bool = False) -> bool:
        """Send a message, if the connection is open."""
        if self._link is None or not self._link.opened:
            return False
        self.spoke = True
        self._link.send(payload, binary)
        return True

    # The session's member.

    def make_link(self, gone: Callable[[Link, Ending], None]) -> BackendLink:
        """A link to the backend."""

        def link_gone(link: Link, ending: Ending) -> None:
            if self._link is link:
                self._link = None
                self.owner.ear_full(False)
            gone(link, ending)

        built = self._gate.link(self, self.owner.wanted, self.gpu_id, link_gone)
        self._link = built
        return built

    def silence(self) -> None:
        """Somebody else with this id gets the events."""
        self._link = None
        self._settle()

    def wait(self) -> None:
        """The backend is away, or did not accept at once."""
        self._link = None
        self._settle()

    def endures(self, ending: Ending) -> bool:
        """However one backend ended it, the others are still heard; so it is tried again."""
        return True

    def lost_link(self, ending: Ending) -> None:
        """The backend does not accept."""
        self._session = self._link = None
        self._settle()
        self.owner.ear_lost(self.gpu_id)

    def link_opened(self, subprotocol: str | None) -> None:
        """Say first what the client said first."""
        if self._session is not None:
            self._session.link_opened()
        self.spoke = False
        if self.owner.first is not None:
            self.say(self.owner.first)
        self._settle()

    def link_said(self, payload: bytes, binary: bool) -> None:
        """Pass a message on."""
        self.owner.ear_said(self.gpu_id, payload, binary)

    def link_sent(self, frame: Frame) -> None:
        """Pass a message on."""
        self.link_said(frame.payload, frame.binary)

    def link_full(self, full: bool) -> None:
        """Pass back-pressure on."""
        self.owner.ear_full(full)

    def _settle(self) -> None:
        if not self.settled:
            self.settled = True
            self.owner.ear_settled(self.gpu_id)
