"""One request and its answer, passed between a client and an upstream connection.

Memory: each direction holds at most what one transport buffers before it
pauses its producer (64 KiB) plus one read (256 KiB), or one splice in the
kernel (512 KiB).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol as Shape

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from comfygate.errors import GateError
from comfygate.gate.alarm import Due
from comfygate.gate.answers import broken
from comfygate.gate.fast_path.splices import Splice, splice
from comfygate.gate.limits import Limits
from comfygate.gate.plans import Plan
from comfygate.gate.pool import UpstreamConnection
from comfygate.gate.rewriting import Translation, request_for, translate
from comfygate.gate.site import Relay
from comfygate.gate.sockets import Wire
from comfygate.http1 import (
    LAST_CHUNK,
    NOTHING_LEFT,
    BodyDecoder,
    Chunked,
    Length,
    LengthDecoder,
    NoBody,
    ProtocolError,
    RequestHead,
    ResponseHead,
    decoder_for,
    encode_chunk,
    response_head_end,
)

log = Logger()

LARGE = 512 * 1024
"""Bytes still to come of a body for which it is worth to let them go by."""

END = 64 * 1024
"""Bytes at the end of such a body that are read all the same: whatever follows from its end does so in one way."""

MAX_INTERIM = 16  #: 1xx answers to one request
RETRIED = frozenset({b"GET", b"HEAD", b"OPTIONS"})


class Client(Shape):
    """The client's end, as an exchange sees it."""

    body: BodyDecoder  #: of the current request
    peer: str

    @property
    def closing(self) -> bool:
        """Whether the connection ends with this exchange in any case."""

    def answer(self, status: int, data: bytes) -> None:
        """Begin the answer, with these bytes."""

    def send(self, pieces: list[bytes]) -> None:
        """Write to the client."""

    @property
    def wire(self) -> Wire:
        """Its transport."""

    def uploaded(self, count: int) -> None:
        """So many bytes of the request went by, from its transport to the upstream's."""

    def downloaded(self, count: int) -> None:
        """So many bytes of the answer went by."""

    def body_wanted(self) -> None:
        """Pass the request body on from now on."""

    def watch(self) -> None:
        """See to it that ``due()`` is asked: it may be nearer than it was."""

    def hold_upload(self, held: bool) -> None:
        """Stop reading the request body, or go on."""

    def finished(self, keep_alive: bool) -> None:
        """The answer is complete."""

    def failed(self, error: GateError) -> None:
        """There is no answer; nothing of one was sent."""

    def cut(self) -> None:
        """The answer was cut short: so must be the connection."""


class Exchange:
    """Relays one request and its answer.

    The owner passes on what happens to the client (``request_body``,
    ``client_*``) and asks ``due()`` for the deadline.

    :ivar ready: whether it takes the request body.
    :ivar request: what the upstream is sent first: the head, and a body that
        was there with it.
    """

    # One is made for each request, and most of these never change.
    ready = False
    request = b""
    _acquiring: Deferred[UpstreamConnection] | None = None
    _upstream: UpstreamConnection | None = None
    _over = False
    _retried = False
    _heard = False  # whether the upstream sent anything
    _uploading = False
    _uploaded = 0
    _upload_held = False
    _download_held = False
    _plan: Plan | None = None
    _splice: Splice | None = None
    _pending = b""  # the beginning of a head
    _interim = 0
    _answer: ResponseHead | None = None
    _decoder: BodyDecoder = NOTHING_LEFT
    _chunks_out = False
    _keep_alive = False

    def __init__(self, client: Client, head: RequestHead, relay: Relay, clock: IReactorTime, limits: Limits) -> None:
        self._client = client
        self._head = head
        self._relay = relay
        self._turn = relay.turn
        self._clock = clock
        self._limits = limits
        self._moved = clock.seconds()  # when the side that is waited for last did something

    @property
    def answering(self) -> bool:
        """Whether the final answer has begun."""
        return self._answer is not None

    def go_on(self, plan: Plan, upstream: UpstreamConnection, request: bytes, began: float) -> None:
        """Go on with a request that has been sent.

        :param began: when that was.
        """
        self._plan = plan
        self._upstream = upstream
        self._moved = began
        self.request = request
        self.ready = True
        upstream.lend(self)

    def start(self) -> None:
        """Get a connection and send the request."""
        framing, limit = self._head.framing, self._relay.max_body
        if limit is not None and isinstance(framing, Length) and framing.size > limit:
            self._fail(_too_large(limit))
            return
        self.request = request_for(self._head, self._relay, self._client.peer)
        upstream = self._relay.pool.take()
        if upstream is None:
            self._acquire(fresh=False)
        else:
            self._send(upstream)

    def due(self) -> Due | None:
        """Say when whoever is waited for is overdue, and what to do then."""
        if self._upstream is None:
            return None  # the pool limits this wait
        if self._turn is not None and self._turn.waiting:
            return self._turn.due()
        if self._download_held:
            return self._moved + self._limits.stalled, self._client_stalled
        if self._awaits_body():
            return self._moved + self._limits.body_idle, self._upload_idle
        return self._moved + self._relay.backend_timeout, self._backend_silent

    def _awaits_body(self) -> bool:
        """Whether it is the client's turn; one that waits for a 100 has not got it yet."""
        if self._client.body.finished or self._upload_held or self._answer is not None:
            return False
        return self._uploading or self._interim > 0 or not self._head.expects_continue

    # What the client does.

    def request_body(self, pieces: list[bytes], finished: bool) -> None:
        """Pass a part of the request body on.

        :param finished: whether it is the last.
        """
        upstream, limit = self._upstream, self._relay.max_body
        if upstream is None:
            return
        self._moved = self._clock.seconds()
        self._uploading = True
        chunked = isinstance(self._head.framing, Chunked)
        if chunked and limit is not None:
            self._uploaded += sum(map(len, pieces))
            if self._uploaded > limit:
                self._fail(_too_large(limit))
                return
        if chunked:
            pieces = [*(encode_chunk(pieces) if pieces else []), *([LAST_CHUNK] if finished else [])]
        if finished and self._turn is not None:
            self._turn.ask(lambda: self._send_end(upstream, pieces))
        elif pieces:
            upstream.write(pieces)
            self._hurry(self._client.body, self._client.wire, upstream.wire, self._client.uploaded)

    def body_broken(self, details: str) -> None:
        """The request body is not what it says it is: no more of it can be understood."""
        self._fail(GateError(400, "bad_request", "The request's body is not valid HTTP/1.1.", details))

    def client_full(self) -> None:
        """The client reads slower than the answer comes."""
        self._moved = self._clock.seconds()
        self._download_held = True
        if self._upstream is not None:
            self._upstream.pause()

    def client_drained(self) -> None:
        """The client has read."""
        self._moved = self._clock.seconds()
        self._download_held = False
        if self._upstream is not None:
            self._upstream.resume()

    def client_lost(self) -> None:
        """The client is gone: nobody needs the answer, and the upstream is not to blame."""
        self._end()

    # What the upstream does (Borrower).

    def upstream_received(self, data: bytes) -> None:
        """Relay a part of the answer."""
        self._heard = True
        self._moved = self._clock.seconds()
        try:
            if self._answer is None:
                self._answer_head(data)
            else:
                self._answer_body(data)
        except ProtocolError as error:
            log.info("{upstream} broke HTTP: {reason}", upstream=self._relay.pool.name, reason=str(error))
            self._fail(self._backend_failed(str(error)))

    def upstream_lost(self, reason: Failure) -> None:
        """See whether the answer was complete, or the request may be sent again."""
        reused = self._upstream is not None and self._upstream.reused
        self._upstream = None
        if self._splice is not None:
            self._splice.stop()
        self.ready = False
        if self._answer is None:
            if reused and not (self._heard or self._retried) and self._repeatable():
                self._retried = True
                self._acquire(fresh=True)
            else:
                self._fail(self._backend_failed("it closed the connection; the request may have been carried out"))
            return
        try:
            if reason.check(ConnectionDone) is None:
                raise ProtocolError("the connection was reset")
            self._decoder.eof()
        except ProtocolError as error:
            log.info("{upstream} cut an answer short: {reason}", upstream=self._relay.pool.name, reason=str(error))
            self._fail(self._backend_failed(str(error)))
        else:
            self._complete()

    def upstream_full(self) -> None:
        """The upstream reads slower than the request body comes."""
        self._moved = self._clock.seconds()
        self._upload_held = True
        self._client.hold_upload(True)

    def upstream_drained(self) -> None:
        """The upstream has read."""
        self._moved = self._clock.seconds()
        self._upload_held = False
        self._client.hold_upload(False)

    # The request.

    def _acquire(self, *, fresh: bool) -> None:
        acquiring = self._acquiring = self._relay.pool.acquire(fresh=fresh)
        acquiring.addCallbacks(self._acquired, self._not_acquired)
        acquiring.addErrback(self._broken)

    def _send_end(self, upstream: UpstreamConnection, pieces: list[bytes]) -> None:
        """It is this upload's turn."""
        self._moved = self._clock.seconds()
        upstream.write(pieces)
        self._client.hold_upload(self._upload_held)  # which makes the new deadline known

    def _acquired(self, upstream: UpstreamConnection) -> None:
        self._acquiring = None
        self._moved = self._clock.seconds()
        self._send(upstream)
        self._client.watch()

    def _send(self, upstream: UpstreamConnection) -> None:
        self._upstream = upstream
        self.ready = True
        upstream.begin(self, self.request)
        if not self._client.body.finished:
            self._client.body_wanted()

    def _not_acquired(self, failure: Failure) -> None:
        self._acquiring = None
        if isinstance(failure.value, GateError):
            self._fail(failure.value)
        elif failure.check(CancelledError) is None:
            self._broken(failure)

    def _broken(self, failure: Failure) -> None:
        log.failure("relaying failed", failure)
        self._fail(broken())

    def _repeatable(self) -> bool:
        return self._head.method in RETRIED and self._head.framing in (NoBody(), Length(0))

    # The answer.

    def _answer_head(self, data: bytes) -> None:
        scanned = len(self._pending)
        if scanned:
            data = self._pending + data
        while (end := response_head_end(data, scanned)) >= 0:
            told = self._translate(data[:end])
            data, scanned = data[end:], 0
            if told.answer.status >= 200:
                self._pending = b""
                self._begin(told, data)
                return
            self._relay_interim(told)
        self._pending = data

    def _translate(self, raw: bytes) -> Translation:
        client, head = self._client, self._head
        goes_on = head.keep_alive and client.body.finished and not client.closing
        told = translate(raw, head, self._relay, goes_on)
        if goes_on and self._plan is not None:
            self._plan.learn(told)
        return told

    def _relay_interim(self, told: Translation) -> None:
        """RFC 9110, section 15.2: pass 1xx on, but never to an HTTP/1.0 client."""
        self._interim += 1
        if told.answer.status == 101 or self._interim > MAX_INTERIM:
            raise ProtocolError(f"interim answer {told.answer.status} that nobody asked for")
        if self._head.version == (1, 1):
            self._client.send([told.text])

    def _begin(self, told: Translation, data: bytes) -> None:
        """Send the head, together with what has come of the body."""
        self._answer = told.answer
        self._chunks_out = told.chunked
        self._keep_alive = told.keep_alive
        if not self._client.body.finished:  # it is no longer the client that is waited for
            self._client.watch()
        if told.size == len(data):
            self._client.answer(told.answer.status, told.text + data)
            self._complete()
            return
        self._decoder = decoder_for(told.answer.framing)
        self._client.answer(told.answer.status, told.text)
        if data:
            self._answer_body(data)

    def _answer_body(self, data: bytes) -> None:
        pieces = self._decoder.feed(data)
        if pieces:
            self._client.send(encode_chunk(pieces) if self._chunks_out else pieces)
        if self._decoder.finished:
            self._complete()
        elif self._upstream is not None:
            self._hurry(self._decoder, self._upstream.wire, self._client.wire, self._client.downloaded)

    # Large bodies.

    def _hurry(self, body: BodyDecoder, source: Wire, sink: Wire, count: Callable[[int], None]) -> None:
        """Let most of what remains of a large body go by; its end is seen."""
        if not isinstance(body, LengthDecoder) or body.remaining < LARGE:
            return
        if self._splice is None or self._splice.over:
            self._splice = splice(source, sink, body.remaining - END, partial(self._went_by, body, count))

    def _went_by(self, body: LengthDecoder, count: Callable[[int], None], size: int) -> None:
        self._moved = self._clock.seconds()
        body.skip(size)
        count(size)

    def _complete(self) -> None:
        if self._over:
            return
        self._over = True
        self.ready = False
        client, turn, answer = self._client, self._turn, self._answer
        if self._splice is not None:  # an answer may be complete before the upload is
            self._splice.stop()
        if self._chunks_out:
            client.send([LAST_CHUNK])
        uploaded = client.body.finished
        upstream, self._upstream = self._upstream, None
        held_back = turn is not None and turn.waiting
        if upstream is not None:
            reusable = answer is not None and answer.keep_alive and not held_back
            if uploaded and reusable and not self._decoder.rest:
                upstream.give_back()
            else:
                upstream.discard()
        if turn is not None:
            turn.leave()
        client.finished(self._keep_alive and uploaded)

    # The ends that nobody wants.

    def _client_stalled(self) -> None:
        log.debug("{peer} does not read its answer", peer=self._client.peer)
        self._end()
        self._client.cut()

    def _upload_idle(self) -> None:
        self._fail(GateError(408, "request_timeout", "The request's body did not come in time."))

    def _backend_silent(self) -> None:
        seconds = self._relay.backend_timeout
        log.info("{upstream} was silent for {seconds} s", upstream=self._relay.pool.name, seconds=seconds)
        self._fail(
            GateError(
                504,
                "backend_timeout",
                f"There was no answer from {self._relay.pool.name}.",
                f"it was silent for {seconds:g} s; the request may have been carried out",
            )
        )

    def _backend_failed(self, details: str) -> GateError:
        return GateError(502, "backend_failed", f"There was no valid answer from {self._relay.pool.name}.", details)

    def _fail(self, error: GateError) -> None:
        """Tell the client, in words if the answer has not begun, else by cutting it off."""
        if self._over:
            return
        begun = self._answer is not None
        self._end()
        if begun:
            self._client.cut()
        else:
            self._client.failed(error)

    def _end(self) -> None:
        self._over = True
        self.ready = False
        if self._acquiring is not None:
            self._acquiring.cancel()
        if self._splice is not None:
            self._splice.stop()
        upstream, self._upstream = self._upstream, None
        if self._turn is not None:
            self._turn.abandon(upstream)
        elif upstream is not None:
            upstream.discard()


def _too_large(limit: int) -> GateError:
    return GateError(413, "body_too_large", "The request's body is too large.", f"at most {limit} bytes are taken")
