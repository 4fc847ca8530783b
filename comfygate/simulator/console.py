"""What the program writes for people: a log on stderr, the last lines of which /internal/logs shows."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Callable
from typing import Any, TextIO

from attrs import define, field


@define
class Console:
    """A log that keeps its last 300 entries and tells listeners of new ones."""

    stream: TextIO = sys.stderr
    entries: deque[dict[str, Any]] = field(factory=lambda: deque(maxlen=300))
    listeners: list[Callable[[list[dict[str, Any]]], None]] = field(factory=list)

    def say(self, message: str) -> None:
        """Write one line."""
        entry = {"t": time.strftime("%Y-%m-%dT%H:%M:%S"), "m": message + "\n"}
        self.entries.append(entry)
        self.stream.write(message + "\n")
        self.stream.flush()
        for listener in self.listeners:
            listener([entry])

    def meter(self, value: int, maximum: int) -> None:
        """Draw a progress bar over itself, without a newline before the end, as ComfyUI's samplers do.

        :raises OSError: nobody reads the log any more; this fails the node, as in ComfyUI.
        """
        bar = "#" * (20 * value // maximum)
        end = "\n" if value == maximum else ""
        self.stream.write(f"\r{100 * value // maximum:3}%|{bar:<20}| {value}/{maximum}{end}")
        self.stream.flush()
