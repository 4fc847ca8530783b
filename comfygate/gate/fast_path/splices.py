"""Parts of bodies that go from one socket to another within the kernel."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from twisted.internet.main import CONNECTION_DONE, CONNECTION_LOST
from twisted.logger import Logger

from comfygate.gate.fast_path.pipes import SIZE, Pipe, Pipes
from comfygate.gate.fast_path.transports import Direct

log = Logger()

_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK

_UNABLE = frozenset({errno.ENOSYS, errno.EPERM, errno.EINVAL})
"""What a kernel or a sandbox says that has no splice(2), or none for sockets."""

PIPES = Pipes()
"""Those of this process."""

UNDER_WAY: set[int] = set()
"""File descriptors of the sockets between which splices are under way."""


class Splice:
    """Moves a part of a body from one socket to another within the kernel (splice(2)).

    Back-pressure is told as always: the sink's producer is paused when the
    sink takes no more, and has to see to it that the source is not read.

    :param size: bytes; what follows them is read as always.
    :param moved: told how many bytes have gone from the source to the sink.
    """

    def __init__(self, source: Any, sink: Any, size: int, moved: Callable[[int], None], pipe: Pipe) -> None:
        self._source = source
        self._sink = sink
        self._left = size  # to be taken from the source
        self._held = 0  # in the pipe
        self._moved = moved
        self._pipe: Pipe | None = pipe
        self._ends = source.fileno(), sink.fileno()
        UNDER_WAY.update(self._ends)
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
        UNDER_WAY.difference_update(self._ends)
        for transport, name in ((self._source, "doRead"), (self._sink, "doWrite")):
            # Twisted puts something else there for a connection that is aborted.
            if getattr(vars(transport).get(name), "__self__", None) is self:
                delattr(transport, name)
        PIPES.give_back(pipe, empty=not self._held)

    def _read(self) -> Any:
        """In the place of the source's doRead()."""
        if self._pipe is None or self._held:
            return None
        try:
            count = os.splice(self._source.fileno(), self._pipe[1], min(self._left, SIZE), flags=_FLAGS)
        except BlockingIOError:
            # There is something: behind urgent data, which splice(2) never goes past, and recv(2) leaves out.
            self.stop()
            return self._source.doRead()
        except OSError as error:
            if error.errno not in _UNABLE:
                return CONNECTION_LOST
            log.warn("large bodies are read and sent, for splice(2) does not work here: {error}", error=str(error))
            PIPES.give_up()
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
    if not isinstance(source, Direct) or not isinstance(sink, Direct) or not sink.is_clear:
        return None
    pipe = PIPES.take()
    return Splice(source, sink, size, moved, pipe) if pipe is not None else None
