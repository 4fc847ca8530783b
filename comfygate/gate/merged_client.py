"""A WebSocket of a client whose stream is merged from several ComfyUIs'."""

from __future__ import annotations

import struct
from collections.abc import Callable, Hashable, Iterable
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from comfygate.errors import GateError
from comfygate.gate.backend_link import RETRY_AFTER
from comfygate.gate.client_leg import ClientLeg
from comfygate.gate.handshake import handshake_of
from comfygate.gate.status_message import status_message
from comfygate.gate.tally import Tally
from comfygate.gate.websocket_leg import Ending, Limits
from comfygate.http1 import RequestHead
from comfygate.outbox import Message, Outbox, OverflowingError
from comfygate.stream.spoken import Role, read
from comfygate.websocket import WebSocketServerFactory

TOO_SLOW = Ending(1013, "the client reads too slowly")

_DIAL = 2.0
"""Seconds that the client waits for an answer while backends are dialled; one that hangs must not cost it more."""

_REST = 0.05
"""Seconds between a prompt with pictures and another one that was kept behind it."""

_PING = struct.Struct(">4sQ")
_SIGN = b"told"


class Hall(Protocol):
    """What a socket needs of its port."""

    limits: Limits
    clock: IReactorTime
    client_factory: WebSocketServerFactory
    closing: bool
    clients: int
    tally: Tally

    def gone(self, thing: Hashable) -> None:
        """A client leg is gone."""


class Stage(Protocol):
    """Where the client's stream comes from."""

    client_id: str

    @property
    def settled(self) -> bool:
        """Whether it is known of every backend if it can be heard."""

    def enter(self, socket: MergedClient) -> None:
        """A socket wants the stream; once it has left, it may not come back."""

    def exit(self, socket: MergedClient) -> None:
        """A socket is gone."""

    def remaining(self) -> int:
        """How many prompts the client is to be told of."""

    def said(self, socket: MergedClient, payload: bytes, binary: bool) -> None:
        """The client sent a message."""

    def confirmed(self, number: int) -> None:
        """The client has read everything up to where :meth:`MergedClient.ask` was called with this number."""


class MergedClient:
    """The client's leg, and what waits for it.

    The stream it takes from a :class:`~comfygate.gate.listener.Listener`, which
    all sockets with one clientId share: the newest gets the events.

    :param stage: finds it, when the client has asked properly.
    :ivar client: the client leg.
    :ivar spoke: whether the client has sent a message.
    :ivar flags: its feature flags for the backends, if its first was about that.
    :ivar several: whether it follows several prompts at once.
    :ivar answered: whether its feature flags have been.
    """

    log = Logger()

    def __init__(self, gate: Hall, head: RequestHead, stage: Callable[[], Stage]) -> None:
        limits = gate.limits
        kind: Any = gate.client_factory.protocol
        self.client: ClientLeg = kind(self, handshake_of(head), gate.clock, limits.client_close, gate.tally)
        self.spoke = False
        self.flags: bytes | None = None
        self.several = False
        self.answered = False
        self._gate = gate
        self._find = stage
        self._stage: Stage | None = None
        self._outbox = Outbox(limits.outbox, limits.results)
        self._asked: Deferred[str | None] | None = None
        self._late: IDelayedCall | None = None
        self._ending: Ending | None = None
        self._open = False
        self._told: tuple[int, int] | None = None
        self._rest: IDelayedCall | None = None
        self._paced = False  # what waits was kept, and may be told slowly
        self._pictured = False  # there was a picture since the last rest
        self._owes_status = False
        self._owes_ping: int | None = None

    # The client leg's owner.

    def client_asks(self) -> Deferred[str | None]:
        """Answer when the backends are heard, so that nothing is lost of what the client does next."""
        asked: Deferred[str | None] = Deferred()
        if self._gate.closing:
            self._asked = asked
            self._refuse(GateError(503, "stopping", "The server is stopping.", retry_after=RETRY_AFTER))
            return asked
        stage = self._stage = self._find()
        stage.enter(self)
        self._asked = asked
        if self._ending is not None:
            self._refuse(GateError(503, "backend_down", "No backend answers.", retry_after=RETRY_AFTER))
        elif stage.settled:
            self.answer()
        else:
            self._late = self._gate.clock.callLater(_DIAL, self.answer)
        return asked

    def client_opened(self) -> None:
        """Send what has been said meanwhile."""
        self._open = True
        self._gate.clients += 1
        self.client_writable()

    def client_said(self, payload: bytes, binary: bool) -> None:
        """Pass a message on."""
        if self._ending is None and self._stage is not None:
            self._stage.said(self, payload, binary)
            self.spoke = True

    def client_ponged(self, payload: bytes) -> None:
        """The client has read what was sent before the ping."""
        if len(payload) == _PING.size:
            sign, number = _PING.unpack(payload)
            if sign == _SIGN and self._stage is not None:
                self._stage.confirmed(number)

    def client_writable(self) -> None:
        """Send what waits, until the client has enough again."""
        while self.client.ready and self._rest is None:
            message = self._outbox.take()
            if message is None:
                self._paced = False
                self._pay()
                break
            self._send(message)
            if self._paced and self._outbox:
                self._rest_behind(message)
        if self._ending is not None and not self._outbox:
            self.client.end(self._ending)

    def client_gone(self, ending: Ending) -> None:
        """Take part no more."""
        self._cancel()
        if self._rest is not None:
            self._rest.cancel()
            self._rest = None
        self._asked = None
        self._outbox.clear()
        if self._open:
            self._open = False
            self._gate.clients -= 1
        self._exit()
        self._gate.gone(self)

    # The stage's.

    def answer(self) -> None:
        """Accept the client."""
        self._cancel()
        asked, self._asked = self._asked, None
        if asked is not None:
            asked.callback(None)

    def deliver(self, messages: Iterable[Message]) -> None:
        """Send messages, as soon as the client takes them."""
        messages = tuple(messages)
        for n, message in enumerate(messages, 1):
            self._deliver(message)
            if n < len(messages) and self._is_free():
                self._rest_behind(message)

    def greet(self, remaining: int, version: int, client_id: str) -> None:
        """Say what ComfyUI says first."""
        self._told = (remaining, version)
        self._deliver(Message(status_message(remaining, client_id)))

    def tell(self, remaining: int, version: int) -> None:
        """Tell how many prompts are left, if anything has changed; to a slow client only the newest."""
        if self._told is None or self._told == (remaining, version) or self._ending is not None:
            return
        self._told = (remaining, version)
        self._owes_status = True
        self._pay()

    def ask(self, number: int) -> None:
        """Find out when the client has read all this: any client answers a ping (RFC 6455, section 5.5.2)."""
        self._owes_ping = number
        self._pay()

    def close(self, ending: Ending) -> None:
        """End the leg behind what waits for it, or in any case in time."""
        self._exit()
        if self._asked is not None:
            self._refuse(GateError(503, "backend_down", "The backends are not there.", retry_after=RETRY_AFTER))
        elif self._ending is None:
            self._ending = ending
            self.client.abort_in_time()
            if not self._outbox:
                self.client.end(ending)

    def _deliver(self, message: Message) -> None:
        if self._ending is not None:
            return
        if self._is_free():
            self._send(message)
            return
        try:
            self._outbox.put(message)
        except OverflowingError as error:
            self.log.info("closing a WebSocket client that reads too slowly: {error}", error=str(error))
            self._outbox.clear()
            self.close(TOO_SLOW)

    def _is_free(self) -> bool:
        """Whether what is sent now comes behind everything else."""
        return self.client.ready and not self._outbox and self._rest is None

    def _send(self, message: Message) -> None:
        self._pictured = self._pictured or message.binary
        self.client.send(message.payload, message.binary)

    def _rest_behind(self, message: Message) -> None:
        """Leave some time between a prompt with pictures and the next, which is told at once.

        Some clients put a picture aside for a moment, and ask themselves then which prompt runs.
        """
        if self._pictured and self._ending is None and not message.binary and read(message).role is Role.IDLE:
            self._pictured, self._paced = False, True
            self._rest = self._gate.clock.callLater(_REST, self._go_on)

    def _go_on(self) -> None:
        self._rest = None
        self.client_writable()

    def _pay(self) -> None:
        if self._ending is not None or not self._is_free():
            return
        if self._owes_status and self._told is not None:
            self._owes_status = False
            self.client.send(status_message(self._told[0]), False)
        if self._owes_ping is not None:
            number, self._owes_ping = self._owes_ping, None
            self.client.sendPing(_PING.pack(_SIGN, number))

    def _exit(self) -> None:
        if self._stage is not None:
            self._stage.exit(self)

    def _refuse(self, error: GateError) -> None:
        self._cancel()
        asked, self._asked = self._asked, None
        if asked is not None:
            asked.errback(error)

    def _cancel(self) -> None:
        late, self._late = self._late, None
        if late is not None and late.active():
            late.cancel()
