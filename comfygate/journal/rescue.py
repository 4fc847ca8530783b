"""From a damaged file to a new one that holds everything readable."""

from __future__ import annotations

import sqlite3
import struct
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping

from attrs import frozen

from comfygate.errors import JournalVersionError
from comfygate.journal import statements
from comfygate.journal.files import Files, content, using
from comfygate.journal.pages import PAGE_SIZE
from comfygate.journal.records import BODIES, JOBS, SETTINGS, Journalled, Row, Table, body_row, job_row
from comfygate.journal.salvage import Found, salvage
from comfygate.journal.schema import STEPS, migrate
from comfygate.journal.sqlite import connect, transaction
from comfygate.journal.wal import Frame, frames, is_damaged

_AT_ONCE = 200
"""Rows of one transaction."""

_MAGIC = b"SQLite format 3\0"


@frozen
class Rescue:
    """What has become of a damaged file.

    :ivar why: what was wrong with it, in one line.
    :ivar aside: what it is called now.
    :ivar rows: how many rows of which table were brought over.
    """

    why: str
    aside: str
    rows: Mapping[str, int]


def find_damage(files: Files) -> str | None:
    """What can be seen from outside, before SQLite removes what it does not believe in.

    :return: what is wrong, in one line; ``None`` if nothing is, or there is no file.
    :raises JournalVersionError: if a newer ComfyGate wrote it.
    :raises OSError: if it cannot be read.
    """
    log = content(files.log)
    found = frames(log)
    if files.identity() is None:
        return "the file is gone, and only its log is left" if found else None
    with open(files.path, "rb") as file:
        head = file.read(PAGE_SIZE)
    if not head:
        return "the file is empty, and only its log is left" if found else None
    if not head.startswith(_MAGIC):
        return "it is no SQLite file"
    if not _is_usual(head):
        return "its head is damaged"
    version = _version(head, found)
    if version > len(STEPS):
        if _is_of_version(files, found, version):
            message = (
                f"{files.path} was written by a newer ComfyGate (version {version} of its schema, this one knows "
                f"{len(STEPS)}): start that one, or name another state_dir"
            )
            raise JournalVersionError(message)
        return "its version is damaged"
    return "its log is damaged" if is_damaged(found) else None


def _is_usual(head: bytes) -> bool:
    """Whether page size, format and encoding are ours; SQLite would only read such a file, or none of it."""
    size, *formats = struct.unpack_from(">H6B", head, 16)
    schema, encoding = struct.unpack_from(">I8xI", head, 44)
    return (
        size == PAGE_SIZE
        and formats in ([1, 1, 0, 64, 32, 32], [2, 2, 0, 64, 32, 32])
        and (schema, encoding) in ((4, 1), (0, 0))
    )


def _version(head: bytes, log: Iterable[Frame]) -> int:
    pages = [head, *(frame.page for frame in log if frame.number == 1 and frame.good)]
    return int(struct.unpack_from(">I", pages[-1].ljust(PAGE_SIZE, b"\0"), 60)[0])


def _is_of_version(files: Files, log: list[Frame], version: int) -> bool:
    with using(files.path) as pages:
        settings = [row for table, row in salvage(pages.count, pages.read, log) if table is SETTINGS]
    return any(row[1:3] == ("schema", str(version)) for row in settings)


def rescue(files: Files, why: str, now: float, unfinished: Iterable[Journalled] | None = None) -> Rescue:
    """Replace a damaged file by a new one.

    :param now: seconds since 1970.
    :param unfinished: the jobs that are not over, where they are known better
        than from the file.
    :raises sqlite3.Error: as OSError, if the new file cannot be written; the
        damaged one is still there then.
    """
    files.remove_mending()
    counts: Counter[str] = Counter()
    connection = connect(files.mending)
    try:
        migrate(connection)
        log = frames(content(files.log))
        with using(files.path) as pages:
            found = salvage(pages.count, pages.read, log)
            if unfinished is not None:
                _write(connection, _rows_of(unfinished), counts)
                found = (one for one in found if one[0] not in (JOBS, BODIES))
            _write(connection, found, counts)
        connection.execute("PRAGMA journal_mode = DELETE")
    finally:
        connection.close()
    return Rescue(why, files.replace(now), counts)


def _rows_of(unfinished: Iterable[Journalled]) -> Iterator[Found]:
    for noted in unfinished:
        yield JOBS, job_row(noted)
        yield BODIES, body_row(noted.job)


def _write(connection: sqlite3.Connection, found: Iterator[Found], counts: Counter[str]) -> None:
    batch: defaultdict[Table, list[Row]] = defaultdict(list)
    for number, (table, row) in enumerate(found, 1):
        batch[table].append(row)
        if number % _AT_ONCE == 0:
            _flush(connection, batch, counts)
    _flush(connection, batch, counts)


def _flush(connection: sqlite3.Connection, batch: defaultdict[Table, list[Row]], counts: Counter[str]) -> None:
    with transaction(connection):
        for table, rows in batch.items():
            before = connection.total_changes
            # The first of several states of a row is the newest.
            statements.insert(connection, table, rows, "IGNORE")
            counts[table.name] += connection.total_changes - before
    batch.clear()


def note(connection: sqlite3.Connection, now: float, source: str, why: str, content: object = None) -> None:
    """Write down what was lost, for people to look at."""
    kept = repr(content).encode("utf-8", "replace")[: 2**20] if content is not None else None
    connection.execute(
        "INSERT INTO quarantine (found, source, why, content) VALUES (?, ?, ?, ?)", (now, source, why, kept)
    )
