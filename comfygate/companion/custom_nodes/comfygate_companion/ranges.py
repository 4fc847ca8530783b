"""Which output numbers are spoken for, shared by the ComfyUIs of one machine through a folder.

Everything is in the names of empty files, so that no crash can leave a half-written one:

- ``<bucket>/<key>.<start>.<end>.<seen>.<time>.<owner>`` is a range of numbers
  that one process may use.  The folder `bucket`, of which there is a fixed
  number, is also what is locked, for as long as it takes to choose a number;
- ``owners/<owner>`` is locked by a process for as long as it lives, so that
  what a killed one left behind is known to be void.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

BUCKETS = 64
PATIENCE = 5.0
"""Seconds to wait for a lock that is held for milliseconds, unless its holder was stopped."""


class Unavailable(Exception):  # noqa: N818
    """The folder cannot be used now; the message says why."""


@dataclass(frozen=True)
class Range:
    """Numbers from `start` to below `end`.

    :ivar seen: the highest number of any file when the range was made, where its owner
        may go by what it finds in the folder; -1 where it goes by `start`.
    :ivar made: by the system's monotonic clock, which all processes share.
    """

    key: str
    start: int
    end: int
    seen: int
    made: float
    owner: str

    @property
    def name(self) -> str:
        """The name of its file."""
        return f"{self.key}.{self.start}.{self.end}.{self.seen}.{round(self.made * 1000)}.{self.owner}"

    def shows(self, number: int) -> bool:
        """Whether a file with this number is the owner's, or may be."""
        return number > self.seen if self.seen >= 0 else self.start <= number < self.end

    @classmethod
    def parse(cls, name: str) -> Range | None:
        """The range that a file stands for; None if it stands for none."""
        try:
            key, start, end, seen, made, owner = name.split(".")
            return cls(key, int(start), int(end), int(seen), int(made) / 1000, owner)
        except ValueError:
            return None


def key_of(folder: str, filename: str) -> str:
    """The same for two saves exactly if they could choose the same name."""
    place = os.path.join(os.path.realpath(folder), os.path.normcase(filename))
    return hashlib.sha256(place.encode("utf-8", "surrogatepass")).hexdigest()[:32]


class Registry:
    """One process's access to the folder; any thread may use it.

    :raises OSError: the folder cannot be made or written to.
    """

    def __init__(self, folder: str) -> None:
        self._buckets = [os.path.join(folder, f"{number:02x}") for number in range(BUCKETS)]
        self._owners = os.path.join(folder, "owners")
        self._fd = -1
        self.owner = ""
        self._sign_in()
        self._sweep()

    def _sign_in(self) -> None:
        """Make the file whose lock says that we live."""
        for path in (*self._buckets, self._owners):
            os.makedirs(path, exist_ok=True)
        name = f"{os.getpid()}-{uuid.uuid4().hex[:12]}"
        hidden = os.path.join(self._owners, f".{name}")
        fd = os.open(hidden, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        # Locked before it can be seen: an unlocked one is a dead one.
        fcntl.flock(fd, fcntl.LOCK_EX)
        os.rename(hidden, os.path.join(self._owners, name))
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self.owner = fd, name

    def _sweep(self) -> None:
        """Remove what processes that ended left behind."""
        alive = {name for name in os.listdir(self._owners) if self._is_alive(name)}
        for bucket in self._buckets:
            for name in os.listdir(bucket):
                found = Range.parse(name)
                # It may also have signed in since `alive` was listed.
                if found is None or not (found.owner in alive or self._is_alive(found.owner)):
                    _remove(os.path.join(bucket, name))
        for name in os.listdir(self._owners):
            if not name.startswith(".") and name not in alive and not self._is_alive(name):
                _remove(os.path.join(self._owners, name))

    def _is_alive(self, owner: str) -> bool:
        if owner == self.owner:
            return True
        try:
            fd = os.open(os.path.join(self._owners, owner), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            return False
        except BlockingIOError:
            return True
        finally:
            os.close(fd)

    @contextmanager
    def locked(self, key: str) -> Iterator[None]:
        """Keep others from choosing a number under `key`.

        :raises Unavailable: the lock cannot be had within ``PATIENCE``.
        """
        with _unavailable():
            if not os.path.exists(os.path.join(self._owners, self.owner)):
                self._sign_in()
            # What cleans folders up may have found it empty.
            os.makedirs(self._bucket(key), exist_ok=True)
            fd = os.open(self._bucket(key), os.O_RDONLY | os.O_CLOEXEC)
        try:
            with _unavailable():
                _lock(fd)
            yield
        finally:
            # A child that another thread has just forked holds the same lock, and would keep it.
            fcntl.flock(fd, fcntl.LOCK_UN)
            os.close(fd)

    def live(self, key: str) -> list[Range]:
        """The ranges under `key` whose owners live; to be asked under its lock.

        :raises Unavailable: the folder cannot be read.
        """
        bucket = self._bucket(key)
        ranges = []
        with _unavailable():
            for name in os.listdir(bucket):
                found = Range.parse(name) if name.startswith(key) else None
                if found is not None and self._is_alive(found.owner):
                    ranges.append(found)
                elif found is not None:
                    _remove(os.path.join(bucket, name))
        return ranges

    def reserve(self, key: str, start: int, extent: int, seen: int) -> Range:
        """Enter a range; to be done under the lock of `key`.

        :raises Unavailable: the folder cannot be written to.
        """
        made = Range(key, start, start + extent, seen, time.monotonic(), self.owner)
        with _unavailable():
            fd = os.open(self._path(made), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.close(fd)
        return made

    def release(self, reserved: Range) -> None:
        """Give a range up; its files are there for all to see, or never will be."""
        _remove(self._path(reserved))

    def _path(self, reserved: Range) -> str:
        return os.path.join(self._bucket(reserved.key), reserved.name)

    def _bucket(self, key: str) -> str:
        return self._buckets[int(key[:8], 16) % BUCKETS]


@contextmanager
def _unavailable() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(f"the list of output names cannot be used: {error}") from error


def _lock(fd: int) -> None:
    """Lock `fd`.

    :raises OSError: not within ``PATIENCE``.
    """
    deadline = time.monotonic() + PATIENCE
    pause = 0.0002
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
        time.sleep(pause)
        pause = min(pause * 2, 0.005)


def _remove(path: str) -> None:
    # If someone else has done it, or nobody can: the next sweep will.
    with suppress(OSError):
        os.unlink(path)
