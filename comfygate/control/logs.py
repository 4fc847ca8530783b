"""What the daemon and its ComfyUIs said: a piece of it, or all that follows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import define, field
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.web.http import Request

from comfygate.backend.fleet import Fleet
from comfygate.backend.logfollow import FollowedLog
from comfygate.control.lines import NDJSON, Lines, as_line
from comfygate.control.logbook import LogBook
from comfygate.control.replies import Reply, Stream
from comfygate.errors import GateError

EVERY = 0.25
"""Seconds between two looks at a ComfyUI's log."""

MOST_READERS = 50
"""Readers that follow at one time."""


@define
class Logs:
    """Answers with logs.

    :ivar call: calls a function where it may wait for a disk.
    """

    book: LogBook
    fleet: Fleet
    clock: IReactorTime
    call: Callable[[Callable[[], Any]], Deferred[Any]]
    _readers: set[Lines] = field(factory=set, init=False)

    def daemons(self, count: int, follow: bool) -> Reply | Stream:
        """The daemon's newest events, and those to come; see :class:`comfygate.control.logbook.LogBook`.

        :raises GateError: 503 if too many follow already.
        """
        if not follow:
            return Reply(200, tuple(map(as_line, self.book.newest(count))), NDJSON)
        self._check_room()
        return Stream(NDJSON, lambda request: self._follow_book(request, count))

    async def gpus(self, gpu_id: int, count: int, follow: bool) -> Reply | Stream:
        """The last lines that a GPU's ComfyUI printed, and those to come: ``{"gpu_id", "text"}``.

        :raises GateError: 404 for a ComfyUI that is not ours; 503 if too many
            follow already.
        """
        log = FollowedLog(self._path(gpu_id))
        if follow:
            self._check_room()
        lines = await self.call(lambda: log.tail(count))
        told = [{"gpu_id": gpu_id, "text": line} for line in lines]
        if not follow:
            return Reply(200, tuple(map(as_line, told)), NDJSON)
        return Stream(NDJSON, lambda request: self._follow_log(request, gpu_id, log, told))

    def close(self) -> None:
        """End every answer that goes on."""
        for reader in list(self._readers):
            reader.end()

    def _path(self, gpu_id: int) -> Path:
        path = getattr(self.fleet[gpu_id], "log_path", None)
        if not isinstance(path, Path):
            details = "ComfyGate did not start it, and does not see what it prints."
            raise GateError(404, "no_log", f"GPU {gpu_id} is someone else's ComfyUI", details)
        return path

    def _check_room(self) -> None:
        if len(self._readers) >= MOST_READERS:
            raise GateError(503, "too_many_readers", "Too many follow the logs", retry_after=30.0)

    def _follow_book(self, request: Request, count: int) -> None:
        lines = self._reader(request)
        for entry in self.book.newest(count):
            lines.tell(entry)
        lines.when_gone(self.book.follow(lines.tell))

    def _follow_log(self, request: Request, gpu_id: int, log: FollowedLog, told: list[dict[str, Any]]) -> None:
        lines = self._reader(request)
        for one in told:
            lines.tell(one)
        following = Deferred.fromCoroutine(self._read_on(lines, gpu_id, log))
        following.addErrback(_ended)
        lines.when_gone(following.cancel)

    async def _read_on(self, lines: Lines, gpu_id: int, log: FollowedLog) -> None:
        while not lines.over:
            if not lines.paused:  # what is not read stays in the file
                for line in await self.call(log.read):
                    lines.tell({"gpu_id": gpu_id, "text": line})
            await deferLater(self.clock, 0 if log.more and not lines.paused else EVERY)

    def _reader(self, request: Request) -> Lines:
        lines = Lines(request, self.clock)
        self._readers.add(lines)
        lines.when_gone(lambda: self._readers.discard(lines))
        return lines


def _ended(failure: Failure) -> None:
    failure.trap(CancelledError)
