"""``top``: the status, live, until q or Ctrl-C."""

from __future__ import annotations

import os
import select
import signal
import sys
import termios
import threading
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from comfygate.ctl.client import Client
from comfygate.ctl.errors import CtlError
from comfygate.ctl.fleet import picture
from comfygate.ctl.screen import Screen
from comfygate.ctl.words import moment

AGAIN = 1.0
"""Seconds after which a daemon that has gone is looked for again."""

_LEAVE = frozenset(b"qQ\x03\x04")


class Watch:
    """Follows the status in a thread of its own; only the newest is kept.

    :param wake: a file descriptor that gets a byte whenever there is news.
    """

    def __init__(self, client: Client, wake: int) -> None:
        self._client = client
        self._wake = wake
        self._first = threading.Event()
        self.status: dict[str, Any] | None = None
        self.error: CtlError | None = None

    def start(self) -> None:
        """Begin to follow, and wait for the first status.

        :raises CtlError: if there is none.
        """
        threading.Thread(target=self._follow, daemon=True).start()
        self._first.wait()
        if self.status is None and self.error is not None:
            raise self.error

    def _follow(self) -> None:
        while True:
            try:
                for status in self._client.statuses():
                    self.status, self.error = status, None
                    self._tell()
                self.error = CtlError("the daemon has ended")
            except CtlError as error:
                self.error = error
            self._tell()
            time.sleep(AGAIN)

    def _tell(self) -> None:
        self._first.set()
        with suppress(OSError):
            os.write(self._wake, b".")


def watch(client: Client, screen: Screen) -> None:
    """Show the status until somebody has seen enough.

    :raises CtlError: if there is no daemon to begin with.
    """
    with _waking() as (news, wake):
        following = Watch(client, wake)
        following.start()
        live = Live(console=screen, screen=True, auto_refresh=False)
        with suppress(KeyboardInterrupt), _keys() as keys, live:
            while True:
                live.update(_shown(following, screen.width), refresh=True)
                if _leaves(keys, news):
                    return


def _shown(following: Watch, width: int) -> RenderableType:
    heading = Text("comfygatectl top", style="bold")
    heading.append(f"   {moment(time.time())}   q ends", style="dim")
    parts: list[RenderableType] = [heading, Text()]
    if following.error is not None:
        parts.append(Text(f"{following.error}; this is the last that it said", style="bold red"))
    if following.status is not None:
        age = {} if following.error else {"time": max(time.time(), following.status["time"])}
        parts.append(picture({**following.status, **age}, width))
    return Group(*parts)


def _leaves(keys: int, news: int) -> bool:
    """Wait for a key, for news, or for a second to pass; whether it was a key to leave."""
    ready, _, _ = select.select([keys, news], [], [], 1.0)
    if news in ready:
        os.read(news, 4096)
    if keys not in ready:
        return False
    pressed = os.read(keys, 64)
    return not pressed or bool(_LEAVE & set(pressed))


@contextmanager
def _waking() -> Iterator[tuple[int, int]]:
    """A pipe that also wakes whoever waits when the terminal changes its size."""
    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    previous = signal.signal(signal.SIGWINCH, lambda number, frame: None)
    fd = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    try:
        yield reading, writing
    finally:
        signal.set_wakeup_fd(fd)
        signal.signal(signal.SIGWINCH, previous)
        # Left open: the thread may still write into it, and the program ends.


@contextmanager
def _keys() -> Iterator[int]:
    """Keys as they are pressed."""
    fd = sys.stdin.fileno()
    before = termios.tcgetattr(fd)
    try:
        tty.setcbreak(fd)
        yield fd
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)
