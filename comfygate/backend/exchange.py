"""One HTTP exchange with a backend: a bounded answer within a bounded time, or an error that says what to do."""

from __future__ import annotations

from collections import deque

from attrs import frozen
from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError, ConnectingCancelledError, DNSLookupError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.client import ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers
from twisted.web.iweb import IBodyProducer

from comfygate.errors import BackendUnclear, BackendUnreachable, BackendUnusable
from comfygate.model import BackendAnswer

Body = bytes | IBodyProducer | None


@frozen
class Pieces:
    """What a backend answered, with a body that may be long."""

    status: int
    body: deque[bytes]
    content_type: str
    last_modified: str = ""

    def joined(self) -> BackendAnswer:
        """The same in one piece."""
        return BackendAnswer(self.status, b"".join(self.body), self.content_type)


class _Collector(Protocol):
    """Gathers an answer's body, up to a limit."""

    def __init__(self, limit: int) -> None:
        self.finished: Deferred[deque[bytes]] = Deferred(lambda _: self._abort())
        self._limit = limit
        self._pieces: deque[bytes] = deque()
        self._size = 0

    def dataReceived(self, data: bytes) -> None:
        self._size += len(data)
        if self._size <= self._limit:
            self._pieces.append(data)
        elif not self.finished.called:
            self._pieces.clear()
            self.finished.errback(BackendUnusable(f"answered with more than {self._limit} bytes"))
            self._abort()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.finished.called:
            return
        if reason.check(ResponseDone, PotentialDataLoss):
            self.finished.callback(self._pieces)
        else:
            self.finished.errback(reason)

    def _abort(self) -> None:
        abort = getattr(self.transport, "abortConnection", None) or getattr(self.transport, "loseConnection", None)
        if abort is not None:
            abort()


async def exchange(
    http: HTTPClient,
    clock: IReactorTime,
    method: str,
    url: str,
    body: Body = None,
    *,
    seconds: float,
    limit: int,
    content_type: str = "application/json",
) -> Pieces:
    """Send one request and read its answer.

    :param content_type: of `body`.
    :param seconds: for all of it.
    :param limit: bytes that the answer may have.
    :raises BackendUnreachable: nothing was sent.
    :raises BackendUnclear: the request may have been carried out.
    """
    running = Deferred.fromCoroutine(_exchange(http, method, url, body, limit, content_type))
    late = clock.callLater(seconds, running.cancel)
    try:
        return await running
    except (ConnectError, DNSLookupError) as error:
        raise BackendUnreachable(f"{method} {url}: {error or type(error).__name__}") from None
    except BackendUnusable as error:
        raise BackendUnusable(f"{method} {url}: {error}") from None
    except Exception as error:
        if not late.active():
            raise BackendUnclear(f"{method} {url}: no answer within {seconds:g} s") from None
        if _is_cancelled(error):
            raise CancelledError() from None
        raise BackendUnclear(f"{method} {url}: {_reason(error)}") from None
    finally:
        if late.active():
            late.cancel()


async def _exchange(http: HTTPClient, method: str, url: str, body: Body, limit: int, content_type: str) -> Pieces:
    headers = Headers({} if body is None else {b"Content-Type": [content_type.encode("latin-1")]})
    # Unbuffered, since treq would otherwise keep every answer a second time.
    response = await http.request(method, url, data=body, headers=headers, allow_redirects=False, unbuffered=True)
    collector = _Collector(limit)
    response.deliverBody(collector)

    def told(name: bytes) -> str:
        value: bytes = (response.headers.getRawHeaders(name) or [b""])[0]
        return value.decode("latin-1")

    return Pieces(response.code, await collector.finished, told(b"Content-Type"), told(b"Last-Modified"))


def _is_cancelled(error: Exception) -> bool:
    """Whether somebody who no longer wants the answer ended the exchange; the
    Agent wraps that in errors of its own.
    """
    if isinstance(error, CancelledError | ConnectingCancelledError):
        return True
    return any(reason.check(CancelledError) for reason in getattr(error, "reasons", ()))


def _reason(error: Exception) -> str:
    reasons = getattr(error, "reasons", None)
    return "; ".join(reason.getErrorMessage() for reason in reasons) if reasons else str(error) or type(error).__name__
