"""TCP transports that send at once, and read through one buffer that all share."""

# The names are Twisted's.
# ruff: noqa: N802, N803

from __future__ import annotations

from collections.abc import Callable, Iterable
from socket import socket
from typing import Any, cast

from twisted.internet import tcp
from twisted.internet.interfaces import IConnector, IListeningPort
from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST

SMALL = 16 * 1024
"""Bytes that are read at once as long as no more than these come."""

LARGE = 256 * 1024
"""Bytes that are read at once of what is larger: more starves small requests beside large bodies, less costs calls."""

GATHERED = 32 * 1024
"""Bytes in several pieces that are cheaper to send from where they are than to copy together first."""

_BUFFER = memoryview(bytearray(LARGE))


def _read_much(connection: socket) -> bytes:
    return _BUFFER[: connection.recv_into(_BUFFER)].tobytes()


class Direct:
    """Mixed into a TCP transport: reads through the shared buffer, and sends at once."""

    SEND_LIMIT = 1024 * 1024  # Twisted's name for the most bytes of one send()
    _much = False  # whether as much came as was asked for
    _may_be_much = True

    _lend: Callable[[memoryview], int] | None = None

    def doRead(self: Any) -> Any:
        """Read once; see ``twisted.internet.interfaces.IReadDescriptor``."""
        if self._lend is not None:
            return self._read_and_lend()
        try:
            data = _read_much(self.socket) if self._much else self.socket.recv(SMALL)
        except BlockingIOError:
            return None
        except OSError:
            return CONNECTION_LOST
        if not data:
            return CONNECTION_DONE
        self._much = self._may_be_much and len(data) >= SMALL
        self.protocol.dataReceived(data)
        return None

    def _read_and_lend(self: Any) -> Any:
        for _ in range(2):  # the rest of what has begun has come meanwhile, or will at once
            try:
                count = self.socket.recv_into(_BUFFER)
            except BlockingIOError:
                return None
            except OSError:
                return CONNECTION_LOST
            if not count:
                return CONNECTION_DONE
            if not self._lend(_BUFFER[:count]):
                return None
        return None

    def write(self: Any, data: bytes | memoryview) -> None:
        """Send `data`, which may be a view of a lent buffer, or queue what cannot be sent now."""
        if self.dataBuffer or self._tempDataLen or self.disconnecting or self._writeDisconnecting or self._aborting:
            super().write(bytes(data))  # type: ignore[misc]
        elif self.connected and data:
            try:
                sent = self.socket.send(data)
            except OSError:  # what is wrong with it the reactor finds out, as it does for what was queued
                sent = 0
            if sent < len(data):
                self._queue(data, sent)

    @property
    def is_clear(self: Any) -> bool:
        """Whether what is written now is sent now."""
        closing = self.disconnecting or self._writeDisconnecting or self._aborting
        return bool(self.connected) and not (self.dataBuffer or self._tempDataLen or closing)

    def writeSequence(self: Any, iovec: Iterable[bytes]) -> None:
        """Send several pieces as one."""
        pieces = list(iovec)
        size = sum(map(len, pieces))
        if size < GATHERED or not self.is_clear:
            self.write(b"".join(pieces))
            return
        try:
            sent = self.socket.sendmsg(pieces)
        except OSError:
            sent = 0
        if sent < size:
            self._queue(b"".join(pieces), sent)

    def _queue(self: Any, data: bytes | memoryview, sent: int) -> None:
        self._tempDataBuffer.append(bytes(memoryview(data)[sent:]))
        self._tempDataLen += len(data) - sent
        self._maybePauseProducer()
        self.startWriting()


class DirectServer(Direct, tcp.Server):
    """A connection that a client has made."""


class DirectClient(Direct, tcp.Client):
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


def lend(transport: object, receive: Callable[[memoryview], int]) -> None:
    """Have what is read given to `receive` instead of a protocol's ``dataReceived()``, where that is possible.

    :param receive: given a view of the shared buffer, which it may use until it returns; says how many bytes are
        missing of something that has begun.
    """
    if isinstance(transport, Direct):
        transport._lend = receive


def read_little(transport: object) -> None:
    """Read no more than a little at once of what may be many small messages, so that others get their turn."""
    if isinstance(transport, Direct):
        transport._may_be_much = transport._much = False


def shorten(port: IListeningPort) -> None:
    """Let the clients of a port that listens now take the shorter way."""
    if isinstance(port, tcp.Port):
        port.transport = cast(Any, DirectServer)
