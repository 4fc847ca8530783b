"""Work that takes a while and is told of step by step, whether somebody listens or not."""

from __future__ import annotations

from collections import deque
from typing import Any, TypeVar

import orjson
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.http import Request

from comfygate.control.lines import MOST, NDJSON, Lines
from comfygate.control.replies import Stream
from comfygate.errors import GateError

T = TypeVar("T")


class Work:
    """Steps of something that was begun, for one reader who may come later, stay away or leave.

    The last line is ``{"done": true}``, or ``{"done": false, "error": {"type",
    "message", "details", "extra_info"}}``.
    """

    log = Logger()

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._steps: deque[dict[str, Any]] = deque(maxlen=MOST)
        self._reader: Lines | None = None
        self._over = False

    def tell(self, step: dict[str, Any]) -> None:
        """A step was taken."""
        if self._reader is None:
            self._steps.append(step)
        else:
            self._reader.tell(step)

    def ends_with(self, doing: Deferred[None]) -> None:
        """The work is over when `doing` fires.

        :raises GateError: if it has failed already.
        """
        refused: list[GateError] = []
        began = False

        def failed(failure: Failure) -> None:
            error = failure.value
            if isinstance(error, GateError) and not began and not self._steps:
                refused.append(error)
                return
            if not isinstance(error, GateError):
                self.log.failure("what an operator asked for failed", failure)
                error = GateError(500, "internal_error", "It failed; the daemon's log says where")
            self._end({"done": False, **_error(error)})

        doing.addCallbacks(lambda _: self._end({"done": True}), failed)
        began = True
        if refused:
            raise refused[0]

    def stream(self) -> Stream:
        """An answer with every step, those that were taken already first."""
        return Stream(NDJSON, self._begin)

    def _begin(self, request: Request) -> None:
        self._reader = Lines(request, self._clock)
        while self._steps:
            self._reader.tell(self._steps.popleft())
        if self._over:
            self._reader.end()

    def _end(self, last: dict[str, Any]) -> None:
        self.tell(last)
        self._over = True
        if self._reader is not None:
            self._reader.end()


async def shielded(doing: Deferred[T]) -> T:
    """The result of work that goes on though whoever asked for it leaves."""
    waiting: Deferred[T] = Deferred()

    def over(result: T | Failure) -> None:
        if not waiting.called:
            waiting.callback(result)
        elif isinstance(result, Failure):
            Work.log.failure("what was asked for by somebody who has left failed", result)

    doing.addBoth(over)
    return await waiting


def _error(error: GateError) -> dict[str, Any]:
    return {"error": orjson.loads(error.body())["error"]}
