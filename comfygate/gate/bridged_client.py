"""One client's WebSocket, bridged message by message to one ComfyUI."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Hashable
from typing import Any
from typing import Protocol as Shape

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from comfygate.errors import GateError
from comfygate.gate.audience import Sessions
from comfygate.gate.backend_link import RETRY_AFTER, BackendLink, LinkOwner
from comfygate.gate.client_leg import ClientLeg
from comfygate.gate.features import FEATURE_FLAGS, Features
from comfygate.gate.frames import Frame
from comfygate.gate.handshake import Wanted, client_id_of, handshake_of, is_comfyuis
from comfygate.gate.sessions import Link, Session
from comfygate.gate.status_message import status_message, with_remaining
from comfygate.gate.tally import Tally
from comfygate.gate.websocket_leg import ABNORMAL, GOING_AWAY, SERVICE_RESTART, Ending, Limits
from comfygate.http1 import RequestHead
from comfygate.interfaces import IStatusSource
from comfygate.last_words import EVENTS
from comfygate.outbox import Message, Outbox, OverflowingError, text_type
from comfygate.websocket import WebSocketServerFactory

RESTARTING = Ending(SERVICE_RESTART, "backend restarting")
TOO_SLOW = Ending(1013, "the client reads too slowly")
TOO_MUCH = Ending(1008, "too much was sent before the backend accepted")


class Port(Shape):
    """What a client's WebSocket needs of the port that it came in by."""

    limits: Limits
    clock: IReactorTime
    status: IStatusSource
    sessions: Sessions
    client_factory: WebSocketServerFactory
    closing: bool
    clients: int
    tally: Tally

    def link(self, owner: LinkOwner, wanted: Wanted, gpu_id: int, gone: Callable[[Link, Ending], None]) -> BackendLink:
        """A leg to a backend, not yet dialled."""

    def gone(self, thing: Hashable) -> None:
        """A client is gone."""


class BridgedClient:
    """One client's WebSocket: the owner of its two legs.

    Without a backend leg it is silent, if a newer socket with the same clientId
    gets the events, or waits for its backend to come back.  ComfyUI's own
    WebSocket can wait, since nothing is lost with its process that the next one
    does not tell again; what a custom node's client would miss, nobody knows.

    :ivar gpu_id: which backend.
    :ivar client: the client leg.
    :ivar client_id: whose events it gets; ``None`` for a custom node's WebSocket.
    :ivar born: see :class:`comfygate.gate.sessions.Member`.
    """

    log = Logger()

    def __init__(self, gate: Port, head: RequestHead, gpu_id: int) -> None:
        limits = gate.limits
        self.gpu_id = gpu_id
        kind: Any = gate.client_factory.protocol
        self.client: ClientLeg = kind(self, handshake_of(head), gate.clock, limits.client_close, gate.tally)
        self.born = gate.sessions.birth()
        self._gate = gate
        self._patient = is_comfyuis(head.target)
        given = client_id_of(head.target)
        made_up = uuid.uuid4().hex if self._patient and given is None else None  # as ComfyUI does
        self.client_id = made_up or given
        self._wanted = Wanted.from_head(head, made_up)
        self._session: Session | None = None
        self._link: BackendLink | None = None
        self._silent = False
        self._asked: Deferred[str | None] | None = None
        self._failure: GateError | None = None
        self._outbox = Outbox(limits.outbox, limits.results)
        self._ending: Ending | None = None
        self._open = False
        self._features = Features()
        self._held: list[Message] = []
        self._held_size = 0
        self._told: int | None = None  # the number in the last status message

    # The client leg's owner.

    def client_asks(self) -> Deferred[str | None]:
        """Answer the client when a backend leg is open, or when there can be none now."""
        asked: Deferred[str | None] = Deferred()
        self._asked = asked
        if self._gate.closing:
            self._refuse(GateError(503, "stopping", "The server is stopping.", retry_after=RETRY_AFTER))
        else:
            self._join()
        return asked

    def client_opened(self) -> None:
        """Send what the backend has said meanwhile."""
        self._open = True
        self._gate.clients += 1
        if self._session is not None and (self._link is None or not self._link.opened):
            self._greet()
        self.client_writable()

    def client_said(self, payload: bytes, binary: bool) -> None:
        """Pass a message on, or hold it while there's a backend leg to come."""
        opened = self._link is not None and self._link.opened
        if self._features.client_said(payload, binary) and not opened:
            return  # every leg begins with it
        if self._link is not None and opened:
            self._link.send(payload, binary)
        elif self._session is not None and not self._silent:
            self._hold(Message(payload, binary))

    def client_writable(self) -> None:
        """Send what waits, until the client has enough again."""
        while self.client.ready:
            message = self._outbox.take()
            if message is None:
                break
            self.client.send(message.payload, message.binary)
        if self._ending is not None and not self._outbox:
            self.client.end(self._ending)

    def client_ponged(self, payload: bytes) -> None:
        """Nobody has asked for that."""

    def client_gone(self, ending: Ending) -> None:
        """Close the backend leg as the client closed its own."""
        self._asked = None  # answering would bring the dead leg to life
        self._outbox.clear()
        self._held.clear()
        if self._open:
            self._open = False
            self._gate.clients -= 1
        self._leave(ending)
        self._gate.gone(self)

    # The session's member.

    def make_link(self, gone: Callable[[Link, Ending], None]) -> BackendLink:
        """A link to the backend for this client."""

        def link_gone(link: Link, ending: Ending) -> None:
            if self._link is link:
                self._link = None
                self._failure = built.failure
                self._read_on()
            gone(link, ending)

        built = self._gate.link(self, self._wanted, self.gpu_id, link_gone)
        self._link = built
        self._silent = False
        return built

    def silence(self) -> None:
        """A newer socket with this clientId gets the events from now on."""
        self._silent = True
        self._hear_nothing()
        self._unhold()

    def wait(self) -> None:
        """The backend is away: be patient, or go."""
        self._silent = False
        if self._patient:
            self._hear_nothing()
        else:
            self.close(RESTARTING)

    def endures(self, ending: Ending) -> bool:
        """A backend that closes the link means it; one whose connection is lost comes back."""
        if ending.code != ABNORMAL or not self._patient:
            return False
        return self._asked is None or (self._failure is not None and self._failure.status == 503)

    def lost_link(self, ending: Ending) -> None:
        """The backend ended the link, or never accepted it."""
        if self._asked is not None:
            self._refuse(self._failure or GateError(502, "backend_failed", "The backend closed the connection."))
        else:
            self._end_client(RESTARTING if ending.code == ABNORMAL else ending)

    def link_opened(self, subprotocol: str | None) -> None:
        """Answer the client, or let its messages flow again."""
        if self._session is not None:
            self._session.link_opened()
        if self._asked is not None:
            self._answer(subprotocol)
            return
        link, held = self._link, self._held
        if link is None:
            return
        if self._features.flags is not None:
            link.send(self._features.flags, False)
        for message in held:
            link.send(message.payload, message.binary)
        self._unhold()

    def link_said(self, payload: bytes, binary: bool) -> None:
        """Pass a message on to the client."""
        kind = None if binary else text_type(payload)
        if kind in EVENTS:
            self._gate.status.heard(kind, payload)
        elif kind == b"status":
            remaining = self._gate.status.remaining()
            told = with_remaining(payload, remaining)
            if told is not None:
                payload, self._told = told, remaining
        elif kind == FEATURE_FLAGS and not self._features.is_new(payload):
            return  # negotiated again, for another leg
        self._deliver(Message(payload, binary))

    def link_sent(self, frame: Frame) -> None:
        """Pass a message on as it came: a picture to a client that keeps up is not touched."""
        if frame.binary and self.client.ready and self._ending is None and not self._outbox:
            self.client.forward(frame.wire)
        else:
            self.link_said(frame.payload, frame.binary)

    def link_full(self, full: bool) -> None:
        """Read from the client only what the backend takes."""
        if self._open:
            self.client.read(not full)

    # The gate's.

    def tell(self, remaining: int) -> None:
        """Tell the client how many prompts are left, if it doesn't know."""
        if self._told is not None and remaining != self._told:
            self._told = remaining
            self._deliver(Message(status_message(remaining)))

    def announce(self, message: bytes) -> bool:
        """Send a text message of our own, if the client is there."""
        if self._open and self._ending is None:
            self._deliver(Message(message))
            return True
        return False

    def move(self, gpu_id: int) -> None:
        """Listen to another backend, if that is possible."""
        if self._session is not None and self._patient:
            self._leave(Ending(GOING_AWAY))
            self.gpu_id = gpu_id
            self._join()

    def close(self, ending: Ending) -> None:
        """End both legs."""
        self._leave(Ending(GOING_AWAY))
        if self._asked is not None:
            self._refuse(GateError(503, "backend_down", "The backend is not there.", retry_after=RETRY_AFTER))
        else:
            self._end_client(ending)

    def _join(self) -> None:
        self._session = self._gate.sessions.get(self.gpu_id, self.client_id)
        self._session.join(self)

    def _hear_nothing(self) -> None:
        self._link = None
        if self._asked is not None:
            self._answer(None)
        elif self._open:
            self._read_on()
            self._greet()

    def _greet(self) -> None:
        """Say what the backend says first, which a client counts on, where the backend has not."""
        if self._told is None:
            self._told = self._gate.status.remaining()
            self._deliver(Message(status_message(self._told, self.client_id)))

    def _deliver(self, message: Message) -> None:
        if self._ending is not None:
            return
        if self.client.ready and not self._outbox:
            self.client.send(message.payload, message.binary)
            return
        try:
            self._outbox.put(message)
        except OverflowingError as error:
            self.log.info("closing a WebSocket client that reads too slowly: {error}", error=str(error))
            self._outbox.clear()
            self.close(TOO_SLOW)

    def _end_client(self, ending: Ending) -> None:
        """Close the client leg behind what waits for it, or in any case in time."""
        self._leave(ending)
        if self._ending is None:
            self._ending = ending
            self.client.abort_in_time()
            if not self._outbox:
                self.client.end(ending)

    def _leave(self, ending: Ending) -> None:
        session, self._session = self._session, None
        if session is not None:
            self._link = None
            session.leave(self, ending)

    def _answer(self, subprotocol: str | None) -> None:
        asked, self._asked = self._asked, None
        if asked is not None:
            asked.callback(subprotocol)

    def _refuse(self, error: GateError) -> None:
        asked, self._asked = self._asked, None
        if asked is not None:
            asked.errback(error)

    def _hold(self, message: Message) -> None:
        self._held.append(message)
        self._held_size += message.cost
        if self._held_size > self._gate.limits.held:
            self.close(TOO_MUCH)

    def _unhold(self) -> None:
        self._held = []
        self._held_size = 0
        self._read_on()

    def _read_on(self) -> None:
        if self._open:
            self.client.read(True)
