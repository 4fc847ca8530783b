"""Answers of the control plane, and how they are written without holding the reactor up."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any

import orjson
from attrs import field, frozen
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IPullProducer
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import Request
from zope.interface import implementer

from comfygate.errors import GateError

_BATCH = 256 * 1024
"""Bytes written at a time; a queue of 50 MB goes out in some 200 turns of the reactor."""

_JSON = ((b"Content-Type", b"application/json; charset=utf-8"),)

log = Logger()


@frozen
class Reply:
    """An answer: status, body in pieces, headers besides Content-Length."""

    status: int = 200
    pieces: tuple[bytes, ...] = ()
    headers: tuple[tuple[bytes, bytes], ...] = field(default=())

    @classmethod
    def json(cls, value: Any, status: int = 200) -> Reply:
        """An answer with `value` in JSON."""
        return cls.text((orjson.dumps(value),), status)

    @classmethod
    def text(cls, pieces: Iterable[bytes], status: int = 200) -> Reply:
        """An answer whose pieces are JSON already."""
        return cls(status, tuple(pieces), _JSON)

    @classmethod
    def error(cls, error: GateError) -> Reply:
        """An answer that says what went wrong."""
        return cls(error.status, (error.body(),), tuple(error.headers()))


@frozen
class Stream:
    """An answer without an end of its own.

    :ivar headers: all but ``Server``.
    :ivar begin: is handed the request when the head is settled, and finishes it.
    """

    headers: tuple[tuple[bytes, bytes], ...]
    begin: Callable[[Request], None]


def joined(items: Iterable[bytes]) -> Iterator[bytes]:
    """A JSON array of items that are JSON already, in pieces."""
    separator = b"["
    for item in items:
        yield separator
        yield item
        separator = b","
    yield b"[]" if separator == b"[" else b"]"


def respond(request: Request, answer: Awaitable[Reply | Stream]) -> None:
    """Write what `answer` comes to; give up when the client goes."""
    answering: Deferred[Reply | Stream] = Deferred.fromCoroutine(_awaited(answer))
    answering.addErrback(_as_reply, request)
    request.notifyFinish().addErrback(lambda _: answering.cancel())
    answering.addCallback(_write, request)
    answering.addErrback(_gone)


def _gone(failure: Failure) -> None:
    failure.trap(CancelledError)


async def _awaited(answer: Awaitable[Reply | Stream]) -> Reply | Stream:
    return await answer


def _as_reply(failure: Failure, request: Request) -> Reply:
    error = failure.value
    if isinstance(error, CancelledError):
        raise error
    if not isinstance(error, GateError):
        log.failure("{method} {uri}", failure=failure, method=request.method, uri=request.uri)
        error = GateError(500, "internal_error", "The gate failed on this request; its log says where")
    return Reply.error(error)


def _write(reply: Reply | Stream, request: Request) -> None:
    for name, value in reply.headers:
        request.setHeader(name, value)
    request.setHeader(b"Server", b"ComfyGate")
    if isinstance(reply, Reply):
        _write_whole(reply, request)
    elif request.method == b"HEAD":
        request.finish()
    else:
        reply.begin(request)


def _write_whole(reply: Reply, request: Request) -> None:
    request.setResponseCode(reply.status)
    if reply.status != 304:  # where it would have to be that of the 200
        request.setHeader(b"Content-Length", b"%d" % sum(map(len, reply.pieces)))
    if request.method == b"HEAD" or not reply.pieces:
        request.finish()
    else:
        request.registerProducer(_Pieces(reply.pieces, request), False)


@implementer(IPullProducer)
class _Pieces:
    """Writes a body batch by batch, as fast as the client reads."""

    def __init__(self, pieces: tuple[bytes, ...], request: Request) -> None:
        self._pieces = iter(pieces)
        self._request = request

    def resumeProducing(self) -> None:
        batch: list[bytes] = []
        size = 0
        for piece in self._pieces:
            batch.append(piece)
            size += len(piece)
            if size >= _BATCH:
                break
        if batch:
            self._request.write(b"".join(batch))
        else:
            self._request.unregisterProducer()
            self._request.finish()

    def stopProducing(self) -> None:
        self._pieces = iter(())
