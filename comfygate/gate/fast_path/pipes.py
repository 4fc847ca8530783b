"""The pipes through which bodies are spliced: splice(2) moves bytes between a pipe and a socket only."""

from __future__ import annotations

import os
from fcntl import F_SETPIPE_SZ, fcntl

SIZE = 512 * 1024
"""Bytes that a pipe holds, and so the most that a splice moves at once."""

MOST, MOST_IDLE = 64, 8
"""Pipes that may be lent at a time; beyond, bodies are read and sent.  And those that are kept for the next ones."""

Pipe = tuple[int, int]
"""Descriptors: read from the first what was written to the second."""


class Pipes:
    """Empty pipes that lie ready: making one costs as much as moving 100 kB through it.

    :param most: how many may be lent at a time.
    :param most_idle: how many are kept for the next ones.
    :ivar lent: how many are lent.
    :ivar idle: those that are kept.
    """

    def __init__(self, most: int = MOST, most_idle: int = MOST_IDLE) -> None:
        self.lent = 0
        self.idle: list[Pipe] = []
        self._most = most
        self._most_idle = most_idle

    def give_up(self) -> None:
        """Lend none any more."""
        self._most = 0

    def take(self) -> Pipe | None:
        """Lend one, if there may be one more, and it holds as much as a splice moves."""
        if self.lent >= self._most:
            return None
        try:
            found = self.idle.pop() if self.idle else _make()
        except OSError:  # too many descriptors, or too much of the user's share of memory for pipes
            return None
        self.lent += 1
        return found

    def give_back(self, pipe: Pipe, *, empty: bool) -> None:
        """Take one back; what is left in it is thrown away with it."""
        self.lent -= 1
        if empty and len(self.idle) < self._most_idle:
            self.idle.append(pipe)
        else:
            _close(pipe)

    def close(self) -> None:
        """Keep none any more."""
        while self.idle:
            _close(self.idle.pop())


def _make() -> Pipe:
    pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl(pipe[1], F_SETPIPE_SZ, SIZE)
    except OSError:
        _close(pipe)
        raise
    return pipe


def _close(pipe: Pipe) -> None:
    for end in pipe:
        os.close(end)
