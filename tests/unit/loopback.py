"""Real sockets in one thread: a reactor that the test turns, Twisted's transports, and plain sockets opposite."""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

from twisted.internet import tcp
from twisted.internet.epollreactor import EPollReactor
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from comfygate.gate.fast_path.loop import spin
from comfygate.gate.fast_path.splices import Splice, splice
from comfygate.gate.fast_path.transports import DirectServer

PATIENCE = 10.0
MIB = 1024 * 1024

Made = type[tcp.Server]
"""How a transport is made: Twisted's way, or ours."""


class Loop:
    """A reactor of the test's own.

    :param spun: whether it is turned by ``spin()``.
    """

    def __init__(self, *, spun: bool = True) -> None:
        self.reactor: Any = EPollReactor()
        if spun:
            spin(self.reactor)
        self._made: list[Any] = []
        self._ends = contextlib.ExitStack()
        self._ends.callback(self._close)

    def turn(self, times: int = 1) -> None:
        """Do what is to be done now."""
        for _ in range(times):
            self.reactor.iterate(0)

    def until(self, *conditions: Callable[[], Any]) -> None:
        """Turn until all are true; each is asked every time."""
        deadline = time.monotonic() + PATIENCE
        while not all([condition() for condition in conditions]):
            assert time.monotonic() < deadline, "in vain"
            self.reactor.iterate(0.001)

    def connect(self, protocol: Protocol, made_by: type[tcp.Server] = DirectServer) -> tuple[Any, Peer]:
        """Give a transport for `protocol`, and the other end of its connection."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            peer = self.peer(listener.getsockname()[1])
            accepted, address = listener.accept()
        transport = made_by(accepted, protocol, address, None, 0, self.reactor)  # type: ignore[arg-type]
        protocol.makeConnection(transport)
        self._made.append(transport)
        return transport, peer

    def peer(self, port: int) -> Peer:
        """Connect to a port."""
        return self.own(Peer(socket.create_connection(("127.0.0.1", port))))

    def own(self, peer: Peer) -> Peer:
        """Close this in the end."""
        self._ends.callback(peer.socket.close)
        return peer

    def close(self) -> None:
        """Leave nothing open."""
        self._ends.close()

    def _close(self) -> None:
        for one in {*self._made, *self.reactor.removeAll()}:
            if isinstance(one, tcp.Connection):
                one.abortConnection()
            elif isinstance(one, tcp.Port):
                one.stopListening()
        self.turn(2)
        self.reactor.waker.connectionLost(None)
        self.reactor._poller.close()


class Peer:
    """The other end: a socket that never waits."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.socket.setblocking(False)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received = bytearray()
        self.to_send = memoryview(b"")
        self.ended = False
        self.reset = False

    @property
    def gone(self) -> bool:
        """Whether no more can come."""
        return self.ended or self.reset

    def read(self, most: int = 1 << 20) -> int:
        """Take what is there now; give the number of bytes."""
        try:
            data = self.socket.recv(most)
        except BlockingIOError:
            return 0
        except ConnectionError:
            self.reset = True
            return 0
        self.received += data
        self.ended = not data
        return len(data)

    def got(self, count: int) -> Callable[[], bool]:
        """A condition: that so many bytes have been read, or no more can come."""

        def met() -> bool:
            while not self.gone and len(self.received) < count and self.read(count - len(self.received)):
                pass
            return self.gone or len(self.received) >= count

        return met

    def at_end(self) -> bool:
        """A condition: that all has been read up to the end."""
        while not self.gone and self.read():
            pass
        return self.gone

    def take(self) -> bytes:
        """Give what was read, and forget it."""
        data = bytes(self.received)
        self.received.clear()
        return data

    def send(self, data: bytes) -> None:
        """Send these next; :meth:`sent` does it."""
        self.to_send = memoryview(bytes(self.to_send) + data)
        self.sent()

    def sent(self) -> bool:
        """A condition: that all is on its way."""
        while self.to_send:
            try:
                self.to_send = self.to_send[self.socket.send(self.to_send) :]
            except BlockingIOError:
                return False
            except ConnectionError:
                self.reset = True
                self.to_send = memoryview(b"")
        return True

    def finish(self) -> None:
        """Send FIN."""
        self.socket.shutdown(socket.SHUT_WR)

    def abort(self) -> None:
        """Send RST."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


@implementer(IPushProducer)
class Notes(Protocol):
    """Writes down what a transport tells it, as its protocol and as its producer.

    :ivar pieces: what was read, as it came.
    """

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.lost: Failure | None = None
        self.pauses = 0
        self.resumes = 0
        self.paused = False
        self.source: Any = None

    @property
    def data(self) -> bytes:
        return b"".join(self.pieces)

    def dataReceived(self, data: bytes) -> None:
        self.pieces.append(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.lost = reason

    def pauseProducing(self) -> None:
        self.pauses += 1
        self.paused = True
        if self.source is not None:
            self.source.pauseProducing()

    def resumeProducing(self) -> None:
        self.resumes += 1
        self.paused = False
        if self.source is not None:
            self.source.resumeProducing()

    def stopProducing(self) -> None: ...


@implementer(IHalfCloseableProtocol)
class HalfCloseable(Notes):
    """Goes on when the peer sends no more."""

    def __init__(self) -> None:
        super().__init__()
        self.eof = False
        self.finished = False

    def readConnectionLost(self) -> None:
        self.eof = True

    def writeConnectionLost(self) -> None:
        self.finished = True


class Coupled:
    """A source and a sink, each the other's concern as in a relay."""

    def __init__(self, loop: Loop, protocol: Callable[[], Notes] = Notes) -> None:
        self.loop = loop
        self.from_source, self.to_sink = protocol(), protocol()
        self.source, self.feeder = loop.connect(self.from_source)
        self.sink, self.reader = loop.connect(self.to_sink)
        self.sink.registerProducer(self.to_sink, True)
        self.to_sink.source = self.source
        self.moved = 0

    def splice(self, size: int) -> Splice:
        found = splice(self.source, self.sink, size, self._count)
        assert found is not None
        return found

    def _count(self, moved: int) -> None:
        self.moved += moved

    def held(self) -> Splice:
        """Let more come than is read; give the splice that holds some of it."""
        size = 16 * MIB
        spliced = self.splice(size)
        self.feeder.send(pattern(size))
        self.loop.until(lambda: self.feeder.sent() or self.to_sink.paused)
        assert spliced._held
        return spliced


def open_files() -> int:
    """Descriptors of this process."""
    return len(os.listdir("/proc/self/fd"))


def pattern(count: int) -> bytes:
    """Bytes in which none can be missing unseen."""
    block = b"".join(struct.pack(">I", n) for n in range(min(count, 1 << 20) // 4 + 1))
    return (block * (count // len(block) + 1))[:count]
