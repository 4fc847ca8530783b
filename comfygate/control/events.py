"""GET /comfygate/events: the status, told again whenever it changed.

A stream of server-sent events (WHATWG HTML, section 9.2).  Each holds the whole
status, so that a viewer may miss any of them.
"""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import Request
from zope.interface import implementer

from comfygate.control.replies import Stream
from comfygate.control.status import Status
from comfygate.errors import GateError

EVERY = 0.5
"""Seconds between two looks at the status."""

SILENCE = 15.0
"""Seconds without an event after which a comment keeps the connection alive."""

MOST = 200
"""Viewers at one time, on all ports together: each port has 512 connections to the control plane."""

_COMMENT = b": nothing new\n\n"
_HEADERS = (
    (b"Content-Type", b"text/event-stream; charset=utf-8"),
    (b"Cache-Control", b"no-store"),
    (b"X-Accel-Buffering", b"no"),
)


@implementer(IPushProducer)
class Viewer:
    """One connection; while it does not read, all but the newest event is dropped.

    :ivar gone: called once when the connection is.
    """

    def __init__(self, request: Request, newest: bytes, gone: Callable[[Viewer], None]) -> None:
        self._request = request
        self._newest: bytes | None = None
        self._paused = False
        self._over = False
        self._gone = gone
        request.notifyFinish().addBoth(self._finished)
        request.registerProducer(self, True)
        self.tell(newest)

    def tell(self, event: bytes) -> None:
        """Send `event`, or keep it until the viewer reads."""
        if self._over:
            return
        if self._paused:
            self._newest = event
        else:
            self._request.write(event)

    def keep_alive(self) -> None:
        """Show that the stream goes on, unless something waits to be read anyway."""
        if not (self._paused or self._over):
            self._request.write(_COMMENT)

    def end(self) -> None:
        """End the stream in order."""
        if not self._over:
            self._over = True
            self._request.unregisterProducer()
            self._request.finish()

    def pauseProducing(self) -> None:
        """What was written piles up."""
        self._paused = True

    def resumeProducing(self) -> None:
        """What was written has gone."""
        self._paused = False
        newest, self._newest = self._newest, None
        if newest is not None:
            self.tell(newest)

    def stopProducing(self) -> None:
        """The connection is gone; notifyFinish tells so, too."""

    def _finished(self, result: object) -> None:
        self._over = True
        self._gone(self)


class Events:
    """Looks at the status while somebody watches, and tells them what changed.

    :param watched: called before each look.
    """

    _log = Logger()

    def __init__(
        self, status: Status, clock: IReactorTime, watched: Callable[[], object] = lambda: None, most: int = MOST
    ) -> None:
        self._status = status
        self._clock = clock
        self._watched = watched
        self._most = most
        self._viewers: set[Viewer] = set()
        self._timer = LoopingCall(self._look)
        self._timer.clock = clock
        self._facts = b""  # the last that was told
        self._told_at = 0.0
        self._closed = False

    @property
    def viewers(self) -> int:
        """How many watch."""
        return len(self._viewers)

    def stream(self) -> Stream:
        """An answer that goes on until its reader leaves.

        :raises GateError: 503 if there are too many, or the daemon stops.
        """
        if self._closed:
            raise GateError(503, "stopping", "The server is stopping.", retry_after=5.0)
        if len(self._viewers) >= self._most:
            details = f"{self._most} may; GET /comfygate/status says the same once."
            raise GateError(503, "too_many_viewers", "Too many watch the status.", details, retry_after=30.0)
        if not self._timer.running:
            self._look()
        return Stream(_HEADERS, self._begin)

    def close(self) -> None:
        """End every stream, and begin no more."""
        self._closed = True
        for viewer in list(self._viewers):
            viewer.end()

    def _begin(self, request: Request) -> None:
        if not self._timer.running:
            self._timer.start(EVERY, now=False).addErrback(self._broken)
        self._viewers.add(Viewer(request, self._event(), self._viewer_gone))

    def _look(self) -> None:
        self._watched()
        facts = self._status.encoded()
        now = self._clock.seconds()
        if facts != self._facts:
            self._facts = facts
            self._told_at = now
            event = self._event()
            for viewer in list(self._viewers):
                viewer.tell(event)
        elif now - self._told_at >= SILENCE:
            self._told_at = now
            for viewer in list(self._viewers):
                viewer.keep_alive()

    def _event(self) -> bytes:
        return b"event: status\ndata: %b\n\n" % self._status.dated(self._facts)

    def _viewer_gone(self, viewer: Viewer) -> None:
        self._viewers.discard(viewer)
        if not self._viewers and self._timer.running:
            self._timer.stop()

    def _broken(self, failure: Failure) -> None:
        self._log.failure("the status cannot be told", failure)
        for viewer in list(self._viewers):
            viewer.end()
