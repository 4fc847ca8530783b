"""The daemon's own log, as far as it is remembered: its newest events, for whoever asks or follows."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from twisted.logger import ILogObserver, LogLevel, eventAsText
from zope.interface import implementer

MOST = 1000
"""Events that are remembered."""

LONGEST = 8000
"""Characters of an event that are remembered: a traceback, say."""

Entry = dict[str, Any]

_LEVELS = frozenset({LogLevel.info, LogLevel.warn, LogLevel.error, LogLevel.critical})


@implementer(ILogObserver)
class LogBook:
    """Remembers events in words, so that nothing that they hold is kept alive.

    An entry is ``{"time": seconds since 1970, "level": "info" | "warn" | "error"
    | "critical", "source": "comfygate.daemon…", "text"}``; `text` may have
    several lines.

    :param call: calls a function with arguments soon, in the reactor's thread:
        events come from any thread, and in the middle of anything.
    """

    def __init__(self, call: Callable[..., object], most: int = MOST) -> None:
        self._call = call
        self._entries: deque[Entry] = deque(maxlen=most)
        self._followers: list[Callable[[Entry], None]] = []

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Take note of an event (see ILogObserver)."""
        level = event.get("log_level", LogLevel.info)
        if level not in _LEVELS:
            return
        entry = {
            "time": round(float(event.get("log_time", 0.0)), 3),
            "level": level.name,
            "source": str(event.get("log_namespace", "")),
            "text": eventAsText(event, includeTimestamp=False, includeSystem=False)[:LONGEST],  # type: ignore[arg-type]
        }
        self._entries.append(entry)
        if self._followers:
            # Those that follow now: who comes in between finds it among the newest.
            self._call(_tell, entry, tuple(self._followers))

    def newest(self, count: int) -> list[Entry]:
        """The newest events, `count` at most, the newest last."""
        entries = list(self._entries)
        return entries[max(0, len(entries) - count) :]

    def follow(self, follower: Callable[[Entry], None]) -> Callable[[], None]:
        """Call `follower` with every later event, until what is returned is called."""
        self._followers.append(follower)
        return lambda: self._followers.remove(follower)


def _tell(entry: Entry, followers: Iterable[Callable[[Entry], None]]) -> None:
    for follower in followers:
        follower(entry)
