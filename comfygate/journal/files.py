"""The journal's files: which there are, and how a damaged one is replaced without ever being without any.

A mended file is written beside the damaged one, and gets its name once it is
complete; a power cut at any moment leaves one or the other.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time

from comfygate.journal.pages import PAGE_SIZE

MOST_ASIDE = 3
"""Damaged files that are kept for people to look at."""


class Files:
    """Names of what belongs to one journal.

    :ivar path: the file itself.
    :ivar log: SQLite's write-ahead log.
    :ivar mending: a mended file that is not complete.
    :ivar mended: one that is.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.log = f"{path}-wal"
        self.mending = f"{path}.mending"
        self.mended = f"{path}.mended"

    def settle(self) -> None:
        """Bring to an end what a crash has cut off.

        :raises OSError: if the folder cannot be written.
        """
        self.remove_mending()
        if os.path.exists(self.mended):
            if os.path.exists(self.path):  # not even begun to be replaced
                os.unlink(self.mended)
            else:
                self._move_log(self._aside(time.time()))
                os.rename(self.mended, self.path)
                self._sync_folder()

    def remove_mending(self) -> None:
        """Remove a mended file that was not completed."""
        for suffix in ("", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.mending + suffix)

    def replace(self, now: float) -> str:
        """Set the damaged file aside, and put the one in `mending` in its place.

        :param now: seconds since 1970, for the name.
        :return: what the damaged file is called from now on.
        :raises OSError: if the folder cannot be written; there still is a file then.
        """
        aside = self._aside(now)
        os.rename(self.mending, self.mended)
        self._sync_folder()
        with contextlib.suppress(FileNotFoundError):
            os.rename(self.path, aside)
        self._move_log(aside)
        os.rename(self.mended, self.path)
        self._sync_folder()
        self._remove_oldest()
        return aside

    def aside(self) -> list[str]:
        """The damaged files that were set aside, the newest first."""
        folder, name = os.path.split(self.path)
        found = [
            os.path.join(folder, one)
            for one in os.listdir(folder or ".")
            if one.startswith(f"{name}.damaged-") and not one.endswith("-wal")
        ]
        return sorted(found, key=lambda one: os.stat(one).st_ctime_ns, reverse=True)

    def size(self) -> int:
        """Bytes on disk, the log included."""
        return sum(os.path.getsize(one) for one in (self.path, self.log) if os.path.exists(one))

    def identity(self) -> tuple[int, int] | None:
        """Which file has the name, whatever it is called elsewhere; ``None`` if none has.

        :raises OSError: if it is no file, but a folder, a device or a pipe, which would be waited for.
        """
        try:
            found = os.stat(self.path)
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        return found.st_dev, found.st_ino

    def _aside(self, now: float) -> str:
        stem = f"{self.path}.damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime(now))}"
        name, count = stem, 1
        while os.path.exists(name) or os.path.exists(f"{name}-wal"):
            name, count = f"{stem}-{count}", count + 1
        return name

    def _move_log(self, aside: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.rename(self.log, f"{aside}-wal")
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{self.path}-shm")

    def _sync_folder(self) -> None:
        folder = os.open(os.path.dirname(self.path) or ".", os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def _remove_oldest(self) -> None:
        for name in self.aside()[MOST_ASIDE:]:
            for suffix in ("", "-wal"):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(name + suffix)


class Pages:
    """A file, page by page, as far as the disk gives it."""

    def __init__(self, path: str) -> None:
        self._file: int | None = None
        self.count = 0
        with contextlib.suppress(FileNotFoundError):
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self.count = -(-os.fstat(self._file).st_size // PAGE_SIZE)

    def read(self, number: int) -> bytes:
        """A page, filled up with zeros; empty if it cannot be read."""
        if self._file is None or not 1 <= number <= self.count:
            return b""
        try:
            return os.pread(self._file, PAGE_SIZE, (number - 1) * PAGE_SIZE).ljust(PAGE_SIZE, b"\0")
        except OSError:
            return b""

    def close(self) -> None:
        """Let the file go."""
        if self._file is not None:
            os.close(self._file)


def using(path: str) -> contextlib.closing[Pages]:
    """The pages of a file, for a ``with``."""
    return contextlib.closing(Pages(path))


def content(path: str) -> bytes:
    """All of a file, as far as it can be read; empty if there is none."""
    with using(path) as pages:
        return b"".join(map(pages.read, range(1, pages.count + 1)))
