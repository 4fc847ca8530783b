"""Kept-alive connections to one upstream: a backend, or the control plane."""

from __future__ import annotations

from collections import deque
from typing import Protocol as Shape
from typing import cast

from attrs import define, field
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IProtocol,
    IPushProducer,
    IReactorTime,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from comfygate.errors import GateError
from comfygate.gate.sockets import Wire, tune

log = Logger()


class Borrower(Shape):
    """Whoever uses a connection at the moment."""

    def upstream_received(self, data: bytes) -> None:
        """Bytes came."""

    def upstream_lost(self, reason: Failure) -> None:
        """The connection is gone, and with it the right to use it."""

    def upstream_full(self) -> None:
        """What was written piles up: write no more."""

    def upstream_drained(self) -> None:
        """What was written is on its way: write again."""


@implementer(IPushProducer)
class UpstreamConnection(Protocol):
    """One connection of a pool, idle or lent.

    It is its own transport's producer for good, so lending it costs nothing.

    :ivar reused: whether it carried a message before.
    """

    def __init__(self, pool: UpstreamPool) -> None:
        self.reused = False
        self.idle_since = 0.0
        self._pool = pool
        self._borrower: Borrower | None = None
        self._full = False
        self._paused = False
        self._wire: Wire

    def connectionMade(self) -> None:
        """Set the socket up."""
        self._wire = cast(Wire, self.transport)
        tune(self._wire)
        self._wire.registerProducer(self, True)

    @property
    def wire(self) -> Wire:
        """Its transport."""
        return self._wire

    def lend(self, borrower: Borrower) -> None:
        """Tell `borrower` from now on what happens."""
        self._borrower = borrower

    def begin(self, borrower: Borrower, request: bytes) -> None:
        """Send the beginning of a request, and tell `borrower` from now on what happens."""
        self._borrower = borrower
        self._wire.write(request)

    def write(self, pieces: list[bytes]) -> None:
        """Send `pieces`."""
        self._wire.writeSequence(pieces)

    def pause(self) -> None:
        """Read no more for now."""
        if not self._paused:
            self._paused = True
            self._wire.pauseProducing()

    def resume(self) -> None:
        """Read again."""
        if self._paused:
            self._paused = False
            self._wire.resumeProducing()

    def give_back(self) -> None:
        """The exchange is complete: keep the connection for the next one."""
        self._borrower = None
        if self._full:  # nobody is there to wait until what was written has gone
            self.discard()
            return
        if self._paused:  # a transport left paused would hang whoever gets it next
            self.resume()
        self.reused = True
        self._pool.returned(self)

    def discard(self) -> None:
        """Close the connection at once; the borrower hears no more."""
        self._borrower = None
        self._pool.removed(self)
        self._wire.abortConnection()

    def abort(self) -> None:
        """Close the connection at once; the borrower hears of it."""
        self._wire.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        """Bytes came from the upstream."""
        if self._borrower is not None:
            self._borrower.upstream_received(data)
        else:
            log.debug("{pool} sent {count} bytes that nobody asked for", pool=self._pool.name, count=len(data))
            self.discard()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The connection ended, whoever ended it."""
        borrower, self._borrower = self._borrower, None
        self._pool.removed(self)
        if borrower is not None:
            borrower.upstream_lost(reason)

    # IPushProducer: called by the transport about what is written to it.

    def pauseProducing(self) -> None:
        """What was written piles up."""
        self._full = True
        if self._borrower is not None:
            self._borrower.upstream_full()

    def resumeProducing(self) -> None:
        """What was written has gone."""
        self._full = False
        if self._borrower is not None:
            self._borrower.upstream_drained()

    def stopProducing(self) -> None:
        """The transport is gone; connectionLost follows."""


class _Connections(Factory):
    noisy = False

    def __init__(self, pool: UpstreamPool) -> None:
        self._pool = pool

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        return UpstreamConnection(self._pool)


@define(eq=False)
class _Waiter:
    until: float
    got: Deferred[UpstreamConnection] = field(init=False)


class UpstreamPool:
    """Lends connections to one address.

    :param endpoint: where they lead.
    :param clock: times the waits.
    :param name: what messages call the upstream.
    :param limit: connections at most, lent and idle and being made.
    :param connecting: connections being made at most; ComfyUI's backlog is 128.
    :param idle_time: seconds after which an unused connection is closed.
    :param connect_timeout: seconds to make a connection in.
    :param wait_timeout: seconds to wait for one of `limit` to be free.
    :param max_waiting: requests that may wait.
    """

    def __init__(
        self,
        endpoint: IStreamClientEndpoint,
        clock: IReactorTime,
        *,
        name: str = "the backend",
        limit: int = 512,
        connecting: int = 32,
        idle_time: float = 60.0,
        connect_timeout: float = 5.0,
        wait_timeout: float = 30.0,
        max_waiting: int = 4096,
    ) -> None:
        self.name = name
        self.closed = False
        self._endpoint = endpoint
        self._clock = clock
        self._limit = limit
        self._max_connecting = connecting
        self._idle_time = idle_time
        self._connect_timeout = connect_timeout
        self._wait_timeout = wait_timeout
        self._max_waiting = max_waiting
        self._factory = _Connections(self)
        self._all: set[UpstreamConnection] = set()
        self._idle: dict[UpstreamConnection, None] = {}  # the longest idle first
        self._connecting: set[Deferred[IProtocol]] = set()
        self._waiters: deque[_Waiter] = deque()
        self._timer: IDelayedCall | None = None

    @property
    def busy(self) -> int:
        """Connections that are lent."""
        return len(self._all) - len(self._idle)

    @property
    def idle(self) -> int:
        """Connections that wait for work."""
        return len(self._idle)

    @property
    def waiting(self) -> int:
        """Requests that wait for a connection."""
        return len(self._waiters)

    def take(self) -> UpstreamConnection | None:
        """Borrow a connection that lies idle, if one does; see :meth:`acquire`."""
        if not self._idle:
            return None
        return self._idle.popitem()[0]  # the last used is the least likely to be stale

    def acquire(self, *, fresh: bool = False) -> Deferred[UpstreamConnection]:
        """Borrow a connection; end the loan with ``give_back()`` or ``discard()``.

        :param fresh: none that lies idle, because one of these has just failed.
        :return: fires with a connection, or fails with a GateError: 502 if none
            can be made, 503 if too many requests wait or for too long.  Either
            way nothing was sent.  May be cancelled.
        """
        connection = None if fresh else self.take()
        if connection is not None:
            return succeed(connection)
        if self.closed:
            return fail(self._failed("it has gone away"))
        if len(self._waiters) >= self._max_waiting:
            return fail(self._overloaded())
        waiter = _Waiter(self._clock.seconds() + self._wait_timeout)
        waiter.got = Deferred(lambda _: self._forget(waiter))
        self._waiters.append(waiter)
        self._connect()
        self._watch()
        return waiter.got

    def close(self) -> None:
        """Abort every connection and refuse every request from now on."""
        self.closed = True
        waiters, self._waiters = self._waiters, deque()
        for attempt in list(self._connecting):
            attempt.cancel()
        for connection in list(self._all):
            connection.abort()
        self._idle.clear()
        for waiter in waiters:
            waiter.got.errback(self._failed("it has gone away"))
        self._watch()

    # For UpstreamConnection.

    def returned(self, connection: UpstreamConnection) -> None:
        """An exchange on `connection` is complete."""
        if self.closed:
            connection.discard()
        elif self._waiters:
            self._waiters.popleft().got.callback(connection)
        else:
            connection.idle_since = self._clock.seconds()
            self._idle[connection] = None
            if self._timer is None:
                self._watch()

    def removed(self, connection: UpstreamConnection) -> None:
        """`connection` is of no more use."""
        self._idle.pop(connection, None)
        self._all.discard(connection)
        if self._waiters:
            self._connect()

    def _connect(self) -> None:
        """Make as many connections as are waited for and allowed."""
        while (
            len(self._connecting) < min(self._max_connecting, len(self._waiters))
            and len(self._all) + len(self._connecting) < self._limit
        ):
            attempt = self._endpoint.connect(self._factory)
            self._connecting.add(attempt)
            attempt.addTimeout(self._connect_timeout, self._clock)
            attempt.addBoth(self._attempted, attempt)

    def _attempted(self, result: IProtocol | Failure, attempt: Deferred[IProtocol]) -> None:
        self._connecting.discard(attempt)
        if isinstance(result, UpstreamConnection):
            self._all.add(result)
            if self.closed:
                result.discard()
            else:
                self.returned(result)
                self._connect()
        elif not self.closed and isinstance(result, Failure):
            log.debug("no connection to {pool}: {reason}", pool=self.name, reason=result.getErrorMessage())
            if self._waiters:
                self._waiters.popleft().got.errback(self._failed(result.getErrorMessage() or "no connection in time"))
            self._connect()

    def _forget(self, waiter: _Waiter) -> None:
        if waiter in self._waiters:
            self._waiters.remove(waiter)

    # One timer for both waits; whoever has waited longest comes first in each.

    def _watch(self) -> None:
        times = [waiter.until for waiter in list(self._waiters)[:1]]
        times += [connection.idle_since + self._idle_time for connection in list(self._idle)[:1]]
        if self._timer is not None:
            if times and self._timer.getTime() <= min(times):
                return
            self._timer.cancel()
            self._timer = None
        if times:
            self._timer = self._clock.callLater(max(0.0, min(times) - self._clock.seconds()), self._tick)

    def _tick(self) -> None:
        self._timer = None
        now = self._clock.seconds()
        while self._waiters and self._waiters[0].until <= now:
            self._waiters.popleft().got.errback(self._overloaded())
        while self._idle:
            oldest = next(iter(self._idle))
            if oldest.idle_since + self._idle_time > now:
                break
            oldest.discard()
        self._watch()

    def _failed(self, reason: str) -> GateError:
        return GateError(
            502, "backend_failed", f"There is no connection to {self.name}.", f"{reason}; the request was not sent"
        )

    def _overloaded(self) -> GateError:
        return GateError(
            503,
            "backend_busy",
            f"Too many requests are under way to {self.name}.",
            "no connection became free in time; the request was not sent",
            retry_after=1.0,
        )
