"""A ComfyUI's log as lines: its end, and what is added to it, however it is rotated.

:mod:`comfygate.backend.guard` writes it: when the file is full, it becomes
``.1``, the one before ``.2``, and so on; a log of one file is cut to nothing.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from comfygate.backend.logtail import cleaned

TAIL = 2**20
"""Bytes that are searched for the last lines."""

PIECE = 2**16
"""Bytes that are read at a time."""

LONGEST = 4000
"""Characters of a line that are told."""

_MOST_FILES = 1000


class FollowedLog:
    """Reads on where it stopped; holds no file open in between.

    :param path: the newest file.
    :ivar more: whether the last read stopped before the end.
    """

    def __init__(self, path: Path) -> None:
        self.more = False
        self._path = path
        self._inode: int | None = None
        self._position = 0
        self._rest = b""

    def tail(self, count: int) -> list[str]:
        """The last lines that say something, `count` at most; reading goes on after them."""
        data, files = b"", self._files()
        for path in files:
            data = self._end_of(path, TAIL - len(data)) + data
            if len(data) >= TAIL or data.count(b"\n") > count:
                break
        if len(data) >= TAIL:
            data = data.partition(b"\n")[2]
        *lines, self._rest = data.split(b"\n")
        return [line for line in map(_shown, lines) if line][-count:] if count else []

    def read(self) -> list[str]:
        """The lines that were added, up to a piece of the log; call again while :attr:`more`.

        Where files were thrown away before they were read, the next line begins with ``…``.
        """
        path = self._current()
        try:
            if path is None:
                raise FileNotFoundError
            with path.open("rb") as file:
                data = self._read_on(file)
        except OSError:
            self.more = False
            return []
        if data is None:
            self.more = True  # it was rotated in this very moment
            return []
        self.more = len(data) == PIECE or path != self._path
        if not data and path != self._path:
            self._inode, self._position = self._successor(path), 0
        return self._lines(data)

    def _read_on(self, file: BinaryIO) -> bytes | None:
        found = os.fstat(file.fileno())
        if found.st_ino != self._inode:
            return None
        if found.st_size < self._position:  # it was cut
            self._position = 0
        file.seek(self._position)
        data = file.read(PIECE)
        self._position += len(data)
        return data

    def _lines(self, data: bytes) -> list[str]:
        *lines, rest = (self._rest + data).split(b"\n")
        if len(rest) > PIECE:
            lines.append(rest)
            rest = b""
        # What a progress bar has overwritten needs no room.
        self._rest = rest if b"\r" not in rest[:-1] else rest[rest.rindex(b"\r", 0, -1) :]
        return [line for line in map(_shown, lines) if line]

    def _current(self) -> Path | None:
        """The file that is read now; if it is gone, the oldest; at first, the newest."""
        files = self._files()
        for path in files:
            if _inode(path) == self._inode:
                return path
        if not files:
            return None
        if self._inode is not None:
            self._rest = "… ".encode()
        path = files[0] if self._inode is None else files[-1]
        self._inode, self._position = _inode(path), 0
        return path

    def _successor(self, path: Path) -> int | None:
        files = self._files()
        newer = files[: files.index(path)] if path in files else []
        return _inode(newer[-1]) if newer else None

    def _files(self) -> list[Path]:
        """All files of the log, the newest first."""
        found = [self._path] if self._path.exists() else []
        for number in range(1, _MOST_FILES):
            older = self._path.with_name(f"{self._path.name}.{number}")
            if not older.exists():
                break
            found.append(older)
        return found

    def _end_of(self, path: Path, count: int) -> bytes:
        try:
            with path.open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                if path == self._path:
                    self._inode, self._position = os.fstat(file.fileno()).st_ino, size
                file.seek(max(0, size - count))
                return file.read(min(size, count))
        except OSError:
            return b""


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None


def _shown(line: bytes) -> str:
    return cleaned(line.decode("utf-8", errors="replace"), LONGEST)
