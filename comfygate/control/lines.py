"""Answers that go on: JSON objects, a line each, for as long as there is something to tell (NDJSON)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import orjson
from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.web.http import Request
from zope.interface import implementer

NDJSON = ((b"Content-Type", b"application/x-ndjson"), (b"Cache-Control", b"no-store"))

MOST = 1000
"""Lines that are kept for a reader that does not read."""

SILENCE = 15.0
"""Seconds after which an empty line shows that the connection is alive."""


def as_line(fields: dict[str, Any]) -> bytes:
    """One object as a line."""
    return orjson.dumps(fields) + b"\n"


@implementer(IPushProducer)
class Lines:
    """One reader of such an answer.

    While it does not read, :data:`MOST` lines are kept for it; of more, the
    oldest are dropped, and a line ``{"lost": n}`` stands for them.

    :ivar paused: whether it does not read now.
    :ivar over: whether nothing can be told any more.
    """

    def __init__(self, request: Request, clock: IReactorTime) -> None:
        self.paused = False
        self.over = False
        self._request = request
        self._when_gone: list[Callable[[], object]] = []
        self._kept: deque[bytes] = deque()
        self._lost = 0
        self._alive = LoopingCall(self._keep_alive)
        self._alive.clock = clock
        self._alive.start(SILENCE, now=False)
        request.notifyFinish().addBoth(self._finished)
        request.registerProducer(self, True)

    def when_gone(self, call: Callable[[], object]) -> None:
        """Call it once the reader is gone, or the answer has ended."""
        self._when_gone.append(call)

    def tell(self, fields: dict[str, Any]) -> None:
        """Send an object, or keep it until the reader reads."""
        if self.over:
            return
        if not self.paused:
            self._request.write(as_line(fields))
            return
        self._kept.append(as_line(fields))
        if len(self._kept) > MOST:
            self._kept.popleft()
            self._lost += 1

    def end(self) -> None:
        """End the answer in order, after what is kept."""
        if not self.over:
            self.resumeProducing()
            self.over = True
            self._request.unregisterProducer()
            self._request.finish()

    def pauseProducing(self) -> None:
        """What was written piles up."""
        self.paused = True

    def resumeProducing(self) -> None:
        """What was written has gone."""
        self.paused = False
        lost, self._lost = self._lost, 0
        if lost:
            self.tell({"lost": lost})
        while self._kept and not self.paused:
            self._request.write(self._kept.popleft())

    def stopProducing(self) -> None:
        """The connection is gone; notifyFinish tells so, too."""

    def _keep_alive(self) -> None:
        if not self.paused:
            self._request.write(b"\n")

    def _finished(self, result: object) -> None:
        self.over = True
        if self._alive.running:
            self._alive.stop()
        for call in self._when_gone:
            call()
