"""One client connection of a port: its requests, in order, one at a time."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Protocol as Shape
from typing import cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer, IReactorTime, ITransport
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from comfygate.errors import GateError
from comfygate.gate.alarm import Alarm, Due
from comfygate.gate.answers import broken, connection_option, from_error, render
from comfygate.gate.limits import Limits
from comfygate.gate.plans import Plan, Plans
from comfygate.gate.relay import Exchange
from comfygate.gate.repeated import Repeated
from comfygate.gate.site import Answer, Decision, IGateSite, Relay, Upgrade
from comfygate.gate.sockets import Wire, is_dead, peer_ip, tune
from comfygate.gate.tally import Tally
from comfygate.http1 import (
    NOTHING_LEFT,
    BodyDecoder,
    Length,
    ProtocolError,
    RequestHead,
    decoder_for,
    parse_request_head,
    request_head_end,
    serialise_response,
)
from comfygate.routes import Kind, kind_of

log = Logger()


class Port(Shape):
    """What a connection needs of the port that it came in by."""

    site: IGateSite
    clock: IReactorTime
    limits: Limits
    stopping: bool
    tally: Tally
    plans: Plans

    def left(self, connection: GateConnection) -> None:
        """`connection` is closed, or somebody else's now."""


BATCH = 64
"""Requests that are begun before others get their turn: thousands fit into one read, and some are answered at once."""


class State(Enum):
    """What a connection is busy with."""

    HEAD = "waits for a request head"
    DECIDING = "the site decides"
    RELAYING = "an exchange is under way"
    DRAINING = "reads the rest of a body that nobody wants"
    LINGERING = "has said all; reads until the client has understood"
    CLOSING = "writes its last bytes"
    GONE = "closed, or handed over"


# Looking a member up takes Enum longer than all that is done with it here.
_HEAD, _RELAYING = State.HEAD, State.RELAYING


@implementer(IHalfCloseableProtocol, IPushProducer)
class GateConnection(Protocol):
    """Reads requests, asks the site, and relays or answers each.

    It is its own transport's producer: when what it writes piles up, the
    upstream is not read and no further request is begun.

    :ivar peer: the client's IP address, or ``""``.
    :ivar body: decoder of the current request's body.
    """

    # Few connections ever change these.
    _deciding: Deferred[Decision] | None = None
    _full_since = 0.0
    _discarded = 0
    _probed = False
    _probe_at = 0.0
    _resting = False  # between two batches of requests

    def __init__(self, port: Port, refusal: GateError | None = None) -> None:
        self.peer = ""
        self.body: BodyDecoder = NOTHING_LEFT
        self._port = port
        self._limits = port.limits
        self._refusal = refusal
        self._tally = port.tally
        self._kind = Kind.OTHER
        self._wire: Wire
        self._state = State.HEAD
        self._head: RequestHead | None = None
        self._exchange: Exchange | Repeated | None = None
        self._repeated = Repeated(self, port.plans, port.clock, port.limits)
        self._buffer = bytearray()  # came before its turn
        self._begun = False  # whether a whole head has come
        self._scanned = 0  # bytes of it in which no head ended
        self._pumping = False
        self._full = False  # what was written piles up
        self._eof = False
        self._upload_held = False
        self._paused = False
        self._until = 0.0
        self._late: Callable[[], None] = self.abort
        self._alarm = Alarm(port.clock, self._due)

    @property
    def closing(self) -> bool:
        """Whether the port is being closed."""
        return self._port.stopping

    # What the transport tells.

    def connectionMade(self) -> None:
        """A client is there."""
        self._wire = cast(Wire, self.transport)
        self._wire.registerProducer(self, True)
        tune(self._wire)
        self.peer = peer_ip(self._wire)
        self._expect(self._limits.head, self._head_late)
        if self._refusal is not None:
            self._refuse(self._refusal)

    def dataReceived(self, data: bytes) -> None:
        """Bytes came from the client."""
        self._tally.received += len(data)
        if self._state is _HEAD and not self._buffer and not self._full and self._repeated.take(data):
            return
        if self._takes_body():
            self._feed(data)
        elif self._state is State.LINGERING:
            self._throw_away(len(data))
        elif self._state not in (State.CLOSING, State.GONE):
            self._buffer += data
        self._pump()

    def readConnectionLost(self) -> None:
        """The client will send no more; it may still wait for the answer."""
        self._eof = True
        self._probe_at = self._port.clock.seconds() + self._limits.half_closed
        if self._state is State.HEAD:
            self._pump()
        elif self._takes_body() and self._state is State.RELAYING:
            self._check_upload()
            self._alarm.watch()
        elif self._state is State.RELAYING:
            self._alarm.watch()
        elif self._state in (State.DRAINING, State.LINGERING):
            self._close()

    def writeConnectionLost(self) -> None:
        """All has been sent, and the client knows that no more comes."""
        if self._state is State.LINGERING:
            self._expect(self._limits.linger, self.abort)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection is gone."""
        if self._state is State.GONE:
            return
        self._state = State.GONE
        self._alarm.stop()
        if self._exchange is not None:
            log.debug("{peer} left before its answer was complete", peer=self.peer)
            self._exchange.client_lost()
            self._exchange = None
        if self._deciding is not None:
            self._deciding.cancel()
        self._buffer.clear()
        self._port.left(self)

    def pauseProducing(self) -> None:
        """What was written piles up."""
        self._full = True
        self._full_since = self._port.clock.seconds()
        if self._exchange is not None:
            self._exchange.client_full()
        self._alarm.watch()

    def resumeProducing(self) -> None:
        """What was written has gone."""
        self._full = False
        if self._exchange is not None:
            self._exchange.client_drained()
            self._alarm.watch()
        else:
            if self._state is State.HEAD:
                self._expect(self._limits.idle, self._head_late)
            self._pump()

    def stopProducing(self) -> None:
        """The transport is gone; connectionLost follows."""

    # Requests.

    def _pump(self) -> None:
        """Begin requests until one is under way.  Not re-entrant: pipelined ones are taken in a loop."""
        if self._pumping:
            return
        self._pumping = True
        try:
            begun = 0
            while self._may_begin() and self._take_head():
                begun += 1
                if begun == BATCH:
                    self._rest()
        finally:
            self._pumping = False
        if self._state is State.HEAD and self._eof and not (self._full or self._resting):
            self._close()
        self._pause_or_resume()
        self._alarm.watch()

    def _may_begin(self) -> bool:
        return bool(self._state is State.HEAD and self._buffer and not (self._full or self._resting))

    def _rest(self) -> None:
        self._resting = True
        self._port.clock.callLater(0, self._go_on)

    def _go_on(self) -> None:
        self._resting = False
        self._pump()

    def _take_head(self) -> bool:
        self._head = None
        try:
            end = request_head_end(self._buffer, self._scanned)
            if end < 0:
                if self._begun and not self._scanned:  # the first has less: its time began with the connection
                    self._expect(self._limits.head, self._head_late)
                self._scanned = len(self._buffer)
                return False
            raw = bytes(self._buffer[:end])
            del self._buffer[:end]
            self._scanned = 0
            self._begun = True
            self._head = parse_request_head(raw)
        except GateError as error:
            self._refuse(error)
            return False
        self.body = decoder_for(self._head.framing)
        self._ask(self._head, raw)
        return True

    def _ask(self, head: RequestHead, raw: bytes) -> None:
        self._state = State.DECIDING
        try:
            decision = self._port.site.admit(head, self.peer)
        except GateError as error:
            self._refuse(error)
        except Exception:
            log.failure("the gate could not decide about {method} {target}", method=head.method, target=head.target)
            self._refuse(broken())
        else:
            if isinstance(decision, Deferred):
                self._wait_for(decision, head, raw)
            else:
                self._act(decision, head, raw)

    def _wait_for(self, decision: Deferred[Decision], head: RequestHead, raw: bytes) -> None:
        def decided(result: Decision) -> None:
            self._deciding = None
            self._act(result, head, raw)
            self._pump()

        def failed(failure: Failure) -> None:
            self._deciding = None
            if self._state is not State.DECIDING:
                return
            if isinstance(failure.value, GateError):
                self._refuse(failure.value)
            elif failure.check(CancelledError):
                self._refuse(GateError(503, "not_decided", "The request could not be begun in time.", retry_after=1.0))
            else:
                log.failure("the gate could not decide", failure)
                self._refuse(broken())
            self._pump()

        self._deciding = decision
        self._expect(self._port.limits.admit, decision.cancel)  # may have changed since the client came
        decision.addCallback(decided)
        decision.addErrback(failed)

    def _act(self, decision: Decision, head: RequestHead, raw: bytes) -> None:
        match decision:
            case Relay():
                self._state = State.RELAYING
                self._kind = decision.kind
                exchange = self._exchange = Exchange(self, head, decision, self._port.clock, self._limits)
                exchange.start()
                self._port.plans.keep(self.peer, raw, head, decision, exchange.request)
            case Answer():
                self._answer(decision)
            case Upgrade():
                self._hand_over(decision, raw)

    def _hand_over(self, upgrade: Upgrade, raw: bytes) -> None:
        """Make the connection somebody else's, with all that was received."""
        wire = self._wire
        raw += self._buffer
        if not self.body.finished:
            self._refuse(GateError(400, "bad_request", "A request to switch protocols must have no body."))
            return
        if self._eof:
            self._close()  # the successor would never hear of it
            return
        try:
            successor = upgrade.accept(cast(ITransport, wire), raw)
        except GateError as error:
            self._refuse(error)
            return
        self._state = State.GONE
        self._alarm.stop()
        self._buffer.clear()
        wire.unregisterProducer()
        if self._paused and not self._eof:
            wire.resumeProducing()
        self._port.left(self)
        wire.protocol = successor
        successor.makeConnection(cast(ITransport, wire))
        successor.dataReceived(raw)

    # The request's body.

    def _takes_body(self) -> bool:
        """Whether what comes belongs to the current request's body and can be dealt with now."""
        if self.body.finished:
            return False
        return self._state is State.DRAINING or (self._exchange is not None and self._exchange.ready)

    def _feed(self, data: bytes) -> None:
        body = self.body
        try:
            pieces = body.feed(data)
        except ProtocolError as error:
            if self._exchange is not None:
                self._exchange.body_broken(str(error))
            else:
                self.abort()
            return
        if body.finished and body.rest:
            self._buffer += body.rest
            body.rest = b""
        if self._exchange is not None:
            self._exchange.request_body(pieces, body.finished)
        elif body.finished:
            self._next()

    def _check_upload(self) -> None:
        if self._eof and not self.body.finished:
            log.debug("{peer} left before its request was complete", peer=self.peer)
            self.abort()

    # What the exchange tells (Client).

    @property
    def wire(self) -> Wire:
        """The client's transport."""
        return self._wire

    def uploaded(self, count: int) -> None:
        """So many bytes of the request went by without being seen here."""
        self._tally.received += count

    def downloaded(self, count: int) -> None:
        """So many bytes of the answer went by."""
        self._tally.sent += count

    def answer(self, status: int, data: bytes) -> None:
        """Begin the answer, with these bytes."""
        tally = self._tally
        tally.requests[self._kind, status] += 1
        tally.sent += len(data)
        self._wire.write(data)

    def send(self, pieces: list[bytes]) -> None:
        """Write to the client."""
        self._tally.sent += sum(map(len, pieces))
        self._wire.writeSequence(pieces)

    def body_wanted(self) -> None:
        """The upstream is ready for the request body."""
        if not self.body.finished:
            if self._buffer:
                data = bytes(self._buffer)
                self._buffer.clear()
                self._feed(data)
            if self._state is State.RELAYING:
                self._check_upload()
        self._pause_or_resume()
        self._alarm.watch()

    def hold_upload(self, held: bool) -> None:
        """Read the request body no faster than the upstream does."""
        self._upload_held = held
        self._pause_or_resume()
        self._alarm.watch()

    def repeats(self, plan: Plan) -> None:
        """A request like that of `plan` is under way."""
        self._begun = True
        self._head = plan.head
        self.body = NOTHING_LEFT
        self._state = _RELAYING
        self._kind = plan.relay.kind
        self._exchange = self._repeated

    def exchanges(self, exchange: Exchange) -> None:
        """It is under way like any other from now on."""
        self._exchange = exchange

    def answer_again(self, status: int, data: bytes) -> None:
        """Send a whole answer, and be ready for the next request."""
        self._exchange = None
        if self._buffer or self._eof or self._paused or self._full:
            self.answer(status, data)
            self.finished(True)
            return
        self._head = None
        self._state = _HEAD
        # `_late` is what it was before this request.
        self._until = self._port.clock.seconds() + self._limits.idle
        if self._alarm.at > self._until:
            self._alarm.watch()
        tally = self._tally  # as answer() does, without the call
        tally.requests[self._kind, status] += 1
        tally.sent += len(data)
        self._wire.write(data)

    def watch(self) -> None:
        """What the exchange waits for may be overdue sooner than was thought."""
        self._alarm.watch()

    def finished(self, keep_alive: bool) -> None:
        """The answer is complete."""
        self._exchange = None
        self._upload_held = False
        if keep_alive:
            self._next()
        elif self.body.finished and not self._buffer:
            self._close()
        else:
            self._linger()
        self._pump()

    def failed(self, error: GateError) -> None:
        """There is no answer but this one."""
        self._exchange = None
        self._upload_held = False
        self._refuse(error, close=error.status == 408)
        self._pump()

    def cut(self) -> None:
        """The answer was cut short; the client must not take it for complete."""
        self._exchange = None
        self.abort()

    # Our own answers.

    def _refuse(self, error: GateError, *, close: bool = False) -> None:
        extra = self._port.site.error_headers(self._head) if self._head is not None else ()
        self._answer(from_error(error, extra), close=close)

    def _answer(self, answer: Answer, *, close: bool = False) -> None:
        head = self._head
        keep_alive = (
            head is not None and head.keep_alive and not close and not self._port.stopping and self._drainable(head)
        )
        option = connection_option((1, 1) if head is None else head.version, keep_alive)
        self._kind = Kind.OTHER if head is None else kind_of(head.path)
        self.answer(answer.status, render(answer, option, with_body=head is None or head.method != b"HEAD"))
        if not keep_alive:
            if head is not None and self.body.finished and not self._buffer:
                self._close()
            else:
                self._linger()
        elif self.body.finished:
            self._next()
        else:
            self._drain()

    def _drainable(self, head: RequestHead) -> bool:
        """Whether the rest of the body is worth reading, to keep the connection."""
        if self.body.finished:
            return True
        small = isinstance(head.framing, Length) and head.framing.size <= self._limits.drain_size
        return small and not head.expects_continue

    def _drain(self) -> None:
        self._state = State.DRAINING
        self._expect(self._limits.drain, self.abort)
        data = bytes(self._buffer)
        self._buffer.clear()
        self._feed(data)

    def _next(self) -> None:
        """Wait for the next request, if there may be one; whoever calls this pumps, which sets the alarm."""
        self._head = None
        if self._port.stopping:
            self._close()
            return
        self._state = State.HEAD
        self._until = self._port.clock.seconds() + self._limits.idle
        self._late = self._head_late

    def _probe(self) -> None:
        """Find out whether a client that sends no more still waits for its answer.

        One that has left looks the same until something is sent to it.  A 100
        may be sent to any client of HTTP/1.1, which ignores it (RFC 9110,
        section 15.2.1).
        """
        if is_dead(self._wire):
            self.abort()
            return
        waits = self._exchange is not None and not self._exchange.answering
        if waits and not self._probed and self._head is not None and self._head.version == (1, 1):
            self._probed = True
            self.send([serialise_response(100, b"Continue", ())])
        self._probe_at = self._port.clock.seconds() + self._limits.half_closed

    # Ends.

    def close_if_idle(self) -> None:
        """Close unless a request is under way."""
        if self._state is State.HEAD:
            self._close()

    def _close(self) -> None:
        """Close when all is written."""
        self._state = State.CLOSING
        self._buffer.clear()
        self._wire.unregisterProducer()
        self._wire.loseConnection()
        self._expect(self._limits.stalled, self.abort)

    def _linger(self) -> None:
        """Say that no more comes, and read on for a while."""
        if self._eof:
            self._close()
            return
        self._state = State.LINGERING
        self._expect(self._limits.stalled, self.abort)
        received = len(self._buffer)
        self._buffer.clear()
        self._wire.unregisterProducer()
        self._wire.loseWriteConnection()
        self._throw_away(received)

    def _throw_away(self, count: int) -> None:
        self._discarded += count
        if self._discarded > self._limits.linger_size:
            self._pause_or_resume()

    def abort(self) -> None:
        """Close at once, by a reset, which no client takes for a clean end."""
        if self._exchange is not None:
            self._exchange.client_lost()
            self._exchange = None
        self._state = State.CLOSING
        self._wire.abortConnection()

    # Reading and time.

    def _pause_or_resume(self) -> None:
        if self._state is State.GONE or self._state is State.CLOSING or self._eof:
            return
        if self._state is State.LINGERING:
            paused = self._discarded > self._limits.linger_size
        else:
            paused = self._upload_held or len(self._buffer) > self._limits.pipelined
        if paused is not self._paused:
            self._paused = paused
            if paused:
                self._wire.pauseProducing()
            else:
                self._wire.resumeProducing()

    def _expect(self, seconds: float, late: Callable[[], None]) -> None:
        self._until = self._port.clock.seconds() + seconds
        self._late = late
        self._alarm.watch()

    def _due(self) -> Due | None:
        if self._state is State.GONE:
            return None
        if self._exchange is not None:
            due = self._exchange.due()
            if self._eof and (due is None or self._probe_at < due[0]):
                return self._probe_at, self._probe
            return due
        if self._full and self._state is State.HEAD:
            return self._full_since + self._limits.stalled, self.abort
        return self._until, self._late

    def _head_late(self) -> None:
        if self._buffer:
            self._refuse(GateError(408, "request_timeout", "The request's head did not come in time."))
        else:
            self._close()
