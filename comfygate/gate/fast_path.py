"""A shorter way through Twisted for sockets: the only module that knows how its transports work inside.

Twisted's own way queues what is written, asks the reactor to say when the
socket takes it, and sends it then: four calls of ``epoll_ctl()`` for each
request that is relayed.  Here, what is written is sent at once where nothing
waits before it, which is nearly always; only what the kernel does not take is
queued, and from there on all is as Twisted does it.  What is read comes in
larger pieces, through one buffer that all share.

With ``fast_path = off`` nothing of this is used, and all must behave the same.
"""

# The names are Twisted's.
# ruff: noqa: N802, N803

from __future__ import annotations

from collections.abc import Iterable
from select import EPOLLIN
from socket import socket
from typing import Any

from twisted.internet import tcp
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.interfaces import IConnector, IListeningPort
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.logger import Logger
from twisted.python.log import callWithLogger

log = Logger()

SMALL = 16 * 1024
"""Bytes that are read at once as long as no more than these come."""

LARGE = 256 * 1024
"""Bytes that are read at once of what is larger: more starves small requests beside large bodies, less costs calls."""

_BUFFER = memoryview(bytearray(LARGE))


def _read_much(connection: socket) -> bytes:
    return _BUFFER[: connection.recv_into(_BUFFER)].tobytes()


class _Direct:
    """Mixed into a TCP transport: reads through the shared buffer, and sends at once."""

    SEND_LIMIT = 1024 * 1024  # Twisted's name for the most bytes of one send()
    _much = False  # whether as much came as was asked for

    def doRead(self: Any) -> Any:
        """Read once; see ``twisted.internet.interfaces.IReadDescriptor``."""
        try:
            data = _read_much(self.socket) if self._much else self.socket.recv(SMALL)
        except BlockingIOError:
            return None
        except OSError:
            return CONNECTION_LOST
        if not data:
            return CONNECTION_DONE
        self._much = len(data) >= SMALL
        self.protocol.dataReceived(data)
        return None

    def write(self: Any, data: bytes) -> None:
        """Send `data`, or queue what cannot be sent now."""
        if self.dataBuffer or self._tempDataLen or self.disconnecting or self._writeDisconnecting:
            super().write(data)  # type: ignore[misc]
        elif self.connected and data:
            try:
                sent = self.socket.send(data)
            except OSError:  # what is wrong with it the reactor finds out, as it does for what was queued
                sent = 0
            if sent < len(data):
                self._queue(data, sent)

    def writeSequence(self: Any, iovec: Iterable[bytes]) -> None:
        """Send several pieces as one."""
        self.write(b"".join(iovec))

    def _queue(self: Any, data: bytes, sent: int) -> None:
        self._tempDataBuffer.append(memoryview(data)[sent:])
        self._tempDataLen += len(data) - sent
        self._maybePauseProducer()
        self.startWriting()


class DirectServer(_Direct, tcp.Server):
    """A connection that a client has made."""


class DirectClient(_Direct, tcp.Client):
    """A connection that was made to a backend."""


class _Connector(tcp.Connector):
    def _makeTransport(self) -> tcp.Client:
        return DirectClient(self.host, self.port, self.bindAddress, self, self.reactor)  # type: ignore[no-untyped-call]


class Dialler:
    """In the place of a reactor for endpoints that connect to an address."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def connectTCP(
        self, host: str, port: int, factory: Any, timeout: float = 30.0, bindAddress: Any = None
    ) -> IConnector:
        """See ``twisted.internet.interfaces.IReactorTCP``."""
        connector = _Connector(host, port, factory, timeout, bindAddress, self._reactor)
        connector.connect()
        return connector


def shorten(port: IListeningPort) -> None:
    """Let the clients of a port that listens now take the shorter way."""
    if isinstance(port, tcp.Port):
        port.transport = DirectServer


def spin(reactor: Any) -> None:
    """Let the reactor call the transports of this module without a log context around each call.

    Nothing of ours writes to the log that has one.  Another reactor than that
    for epoll is left as it is.
    """
    if not isinstance(reactor, EPollReactor):
        return
    poll, selectables = reactor._poller.poll, reactor._selectables
    handle, disconnect = reactor._doReadOrWrite, reactor._disconnectSelectable

    def iterate(timeout: float | None) -> None:
        for number, event in poll(-1 if timeout is None else timeout, len(selectables)):
            found = selectables.get(number)
            if found is None:  # another one's event has closed it
                continue
            if event != EPOLLIN or not isinstance(found, _Direct):
                callWithLogger(found, handle, found, number, event)
                continue
            try:
                why = found.doRead()
            except Exception as error:
                log.failure("a connection failed")
                why = error
            if why:
                disconnect(found, why, True)  # type: ignore[no-untyped-call]

    reactor.doIteration = iterate  # type: ignore[method-assign]
