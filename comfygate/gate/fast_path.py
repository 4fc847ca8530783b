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

import errno
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from fcntl import F_SETPIPE_SZ, fcntl
from select import EPOLLIN
from socket import socket
from typing import Any, cast

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

GATHERED = 32 * 1024
"""Bytes in several pieces that are cheaper to send from where they are than to copy together first."""

SPLICED = 512 * 1024
"""Bytes that a splice moves at once at most."""

MOST_PIPES, IDLE_PIPES = 64, 8
"""Splices that may be under way; beyond, bodies are read and sent.  And pipes that are kept for the next ones."""

ROUNDS = 64
"""How often the kernel is asked for events before the reactor tidies up its timers."""

OTHERS = 10
"""Events that take as long as one splice."""

LONGEST = 3600
"""Seconds of waiting for events at most: epoll_wait() takes no more than 24 days."""

_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK

_UNABLE = frozenset({errno.ENOSYS, errno.EPERM, errno.EINVAL})
"""What a kernel or a sandbox says that has no splice(2), or none for sockets."""

_BUFFER = memoryview(bytearray(LARGE))


def _read_much(connection: socket) -> bytes:
    return _BUFFER[: connection.recv_into(_BUFFER)].tobytes()


class _Direct:
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


class DirectServer(_Direct, tcp.Server):
    """A connection that a client has made."""


class DirectClient(_Direct, tcp.Client):
    """A connection that was made to a backend."""


class _Pipes:
    """Empty pipes that lie ready: making one costs as much as moving 100 kB through it."""

    def __init__(self) -> None:
        self._idle: list[tuple[int, int]] = []
        self._lent = 0
        self._useless = False

    def give_up(self) -> None:
        """Lend none any more."""
        self._useless = True

    def take(self) -> tuple[int, int] | None:
        """Lend one, if there may be one more, and it holds as much as a splice moves."""
        if self._useless or self._lent >= MOST_PIPES:
            return None
        try:
            found = self._idle.pop() if self._idle else _make_pipe()
        except OSError:  # too many descriptors, or too much of the user's share of memory for pipes
            return None
        self._lent += 1
        return found

    def give_back(self, pipe: tuple[int, int], *, empty: bool) -> None:
        """Take one back; what is left in it is thrown away with it."""
        self._lent -= 1
        if empty and len(self._idle) < IDLE_PIPES:
            self._idle.append(pipe)
        else:
            _close(pipe)


def _make_pipe() -> tuple[int, int]:
    pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl(pipe[1], F_SETPIPE_SZ, SPLICED)
    except OSError:
        _close(pipe)
        raise
    return pipe


def _close(pipe: tuple[int, int]) -> None:
    for end in pipe:
        os.close(end)


_PIPES = _Pipes()

_SPLICED: set[int] = set()
"""File descriptors of the sockets between which splices are under way."""


class Splice:
    """Moves a part of a body from one socket to another within the kernel (splice(2)).

    Back-pressure is told as always: the sink's producer is paused when the
    sink takes no more, and has to see to it that the source is not read.

    :param size: bytes; what follows them is read as always.
    :param moved: told how many bytes have gone from the source to the sink.
    """

    def __init__(self, source: Any, sink: Any, size: int, moved: Callable[[int], None], pipe: tuple[int, int]) -> None:
        self._source = source
        self._sink = sink
        self._left = size  # to be taken from the source
        self._held = 0  # in the pipe
        self._moved = moved
        self._pipe: tuple[int, int] | None = pipe
        self._ends = source.fileno(), sink.fileno()
        _SPLICED.update(self._ends)
        self._source.doRead = self._read

    @property
    def over(self) -> bool:
        """Whether all has been moved, or it was stopped."""
        return self._pipe is None

    def stop(self) -> None:
        """Move no more; what is held is lost, and so is the connection that it is for."""
        pipe, self._pipe = self._pipe, None
        if pipe is None:
            return
        _SPLICED.difference_update(self._ends)
        for transport, name in ((self._source, "doRead"), (self._sink, "doWrite")):
            # Twisted puts something else there for a connection that is aborted.
            if getattr(vars(transport).get(name), "__self__", None) is self:
                delattr(transport, name)
        _PIPES.give_back(pipe, empty=not self._held)

    def _read(self) -> Any:
        """In the place of the source's doRead()."""
        if self._pipe is None or self._held:
            return None
        try:
            count = os.splice(self._source.fileno(), self._pipe[1], min(self._left, SPLICED), flags=_FLAGS)
        except BlockingIOError:
            # There is something: behind urgent data, which splice(2) never goes past, and recv(2) leaves out.
            self.stop()
            return self._source.doRead()
        except OSError as error:
            if error.errno not in _UNABLE:
                return CONNECTION_LOST
            log.warn("large bodies are read and sent, for splice(2) does not work here: {error}", error=str(error))
            _PIPES.give_up()
            self.stop()  # nothing was taken
            return None
        if not count:
            return CONNECTION_DONE
        self._left -= count
        self._held = count
        with suppress(OSError):  # what is wrong with the sink, it finds out itself
            self._move()
        if self._held:
            self._sink.doWrite = self._write
            self._sink.startWriting()
            self._sink.producer.pauseProducing()
        return None

    def _write(self) -> Any:
        """In the place of the sink's doWrite()."""
        try:
            self._move()
        except OSError:
            return CONNECTION_LOST
        if not self._held:
            sink = self._sink
            if not self.over:
                del sink.doWrite
            sink.stopWriting()
            sink.producer.resumeProducing()
        return None

    def _move(self) -> None:
        if self._pipe is None:
            return
        try:
            count = os.splice(self._pipe[0], self._sink.fileno(), self._held, flags=_FLAGS)
        except BlockingIOError:
            return
        self._held -= count
        if not self._held and not self._left:
            self.stop()
        self._moved(count)


def splice(source: object, sink: object, size: int, moved: Callable[[int], None]) -> Splice | None:
    """Let bytes of a body go from one transport to another without passing through this process.

    :param size: how many; see :class:`Splice` for the rest.
    :return: None, if that cannot be done now.
    """
    if not isinstance(source, _Direct) or not isinstance(sink, _Direct) or not sink.is_clear:
        return None
    pipe = _PIPES.take()
    return Splice(source, sink, size, moved, pipe) if pipe is not None else None


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
    if isinstance(transport, _Direct):
        transport._lend = receive


def read_little(transport: object) -> None:
    """Read no more than a little at once of what may be many small messages, so that others get their turn."""
    if isinstance(transport, _Direct):
        transport._may_be_much = transport._much = False


def shorten(port: IListeningPort) -> None:
    """Let the clients of a port that listens now take the shorter way."""
    if isinstance(port, tcp.Port):
        port.transport = cast(Any, DirectServer)


def spin(reactor: Any) -> None:
    """Let the reactor lose no time between one event and the next, and nobody wait for many splices.

    Another reactor than that for epoll is left as it is.
    """
    if isinstance(reactor, EPollReactor):
        reactor.doIteration = _Loop(reactor).iterate  # type: ignore[method-assign]


class _Loop:
    """Waits for events and has them served; in the place of the reactor's ``doIteration()``.

    It waits again without looking at the timers, as long as none is due and no
    call is new; and it calls the transports of this module without a log
    context around each call, for nothing of ours writes to the log that has
    one.  Splices wait until all else that is there has been served; then it is
    the turn of one, or of one for each ten others, which take as long.
    """

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._poll = reactor._poller.poll
        self._selectables = reactor._selectables
        self._waiting: dict[int, tuple[Any, int]] = {}  # splices, by descriptor; the longest waiting first

    def iterate(self, timeout: float | None) -> None:
        """Serve what comes, for at most `timeout` seconds without anything."""
        for _ in range(ROUNDS):
            others = self._look(0 if self._waiting else -1 if timeout is None else timeout)
            if self._waiting:
                self._splice(1 + others // OTHERS)
            timeout = self._patience(timeout)
            if timeout == 0:
                return

    def _look(self, timeout: float) -> int:
        """Serve all that there is but splices; say how many events that were."""
        selectables = self._selectables
        events = self._poll(timeout, len(selectables))
        others = len(events)
        for number, event in events:
            found = selectables.get(number)
            if number in _SPLICED:
                self._waiting[number] = found, event
                others -= 1
            elif event == EPOLLIN and isinstance(found, _Direct):
                try:
                    why = found.doRead()
                except Exception as error:
                    log.failure("a connection failed")
                    why = error
                if why:
                    self._reactor._disconnectSelectable(found, why, True)
            elif found is not None:  # else another one's event has closed it
                self._serve(found, number, event)
        return others

    def _splice(self, most: int) -> None:
        """Serve those that have waited longest."""
        for number in list(self._waiting)[:most]:
            found, event = self._waiting.pop(number)
            # If its splice has ended meanwhile, epoll tells again what there is.
            if number in _SPLICED and found is not None and self._selectables.get(number) is found:
                self._serve(found, number, event)

    def _serve(self, found: Any, number: int, event: int) -> None:
        """As Twisted does."""
        callWithLogger(found, self._reactor._doReadOrWrite, found, number, event)

    def _patience(self, timeout: float | None) -> float | None:
        """How long to wait for events now; 0: something else is to be done.  See ``reactor.timeout()``."""
        reactor = self._reactor
        if reactor.threadCallQueue or reactor._justStopped or not reactor.running:
            return 0
        if reactor._newTimedCalls:
            timeout = reactor.timeout()
        elif reactor._pendingTimedCalls:  # the next comes first
            timeout = min(max(0, reactor._pendingTimedCalls[0].time - reactor.seconds()), LONGEST)
        return timeout
