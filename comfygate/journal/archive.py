"""Finished jobs in the journal: how they ended, and their entries of ComfyUI's /history."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence

from attrs import frozen

from comfygate.journal import statements
from comfygate.journal.keep import Keep
from comfygate.journal.loss import Loss
from comfygate.journal.records import FINISHED, RECORDS, Row
from comfygate.journal.sqlite import transaction

_STEP = 100
"""Records that are dropped in one transaction for being too many; for being too old, see :data:`_AGED`."""

_AGED = 1000
_QUARANTINED = 1000
_PROBE = 256 * 2**10
_SPARE_PAGES = 1024
"""Free pages that the file keeps, for the next prompts, and for ends when the disk is full."""

_RETURNED_PAGES = 512

Lose = Callable[[Loss, Row], None]


@frozen
class Entry:
    """A finished job's entry of /history.

    :ivar id: larger for those that ended later.
    :ivar ended: in seconds since 1970.
    :ivar record: JSON.
    """

    id: int
    prompt_id: str
    ended: float
    record: bytes


@frozen
class Page:
    """Some entries, the newest first.

    :ivar before: the id behind which to go on; ``None`` if there are no more.
    """

    entries: tuple[Entry, ...]
    before: int | None


def last_id(connection: sqlite3.Connection) -> int:
    """The number of the job that ended last."""
    return int(connection.execute("SELECT coalesce(max(id), 0) FROM finished").fetchone()[0])


_COLUMNS = ", ".join([*(f"f.{name}" for name in FINISHED.columns), *(f"r.{name}" for name in RECORDS.columns)])
_JOINED = f"SELECT {_COLUMNS} FROM finished f CROSS JOIN records r ON r.id = f.id"  # noqa: S608


def history(connection: sqlite3.Connection, prompt_id: str, lose: Lose) -> bytes | None:
    """The entry of one job, if it is there and whole."""
    row = connection.execute(f"{_JOINED} WHERE f.prompt_id = ?", (prompt_id,)).fetchone()
    entry = None if row is None else _entry(connection, row, lose)
    return None if entry is None else entry.record


def histories(
    connection: sqlite3.Connection, gpu_ids: Sequence[int], before: int | None, most: int, lose: Lose
) -> Page:
    """See :meth:`comfygate.journal.store.Store.histories`."""
    where = f"WHERE f.gpu_id IN ({statements.marks(gpu_ids)}) AND f.id < ? ORDER BY f.id DESC LIMIT ?"
    limit = 2**63 - 1 if before is None else before
    rows = connection.execute(f"{_JOINED} {where}", (*gpu_ids, limit, most)).fetchall()
    entries = tuple(entry for row in rows if (entry := _entry(connection, row, lose)) is not None)
    return Page(entries, int(rows[-1][0]) if len(rows) == most else None)


def _entry(connection: sqlite3.Connection, row: Row, lose: Lose) -> Entry | None:
    head, record = row[: len(FINISHED.columns)], row[len(FINISHED.columns) :]
    prompt_id, ended, content = head[2], head[10], record[1]
    if FINISHED.is_whole(head) and RECORDS.is_whole(record):
        return Entry(record[0], prompt_id, ended, content)  # type: ignore[arg-type]
    with transaction(connection):
        lose(Loss("records", "the checksum is wrong", str(prompt_id)), record)
        statements.delete(connection, RECORDS, [int(record[0] or 0)])
    return None


def forget(connection: sqlite3.Connection, gpu_ids: Sequence[int], prompt_ids: Sequence[str] | None) -> bool:
    """Drop some entries; say whether there may be more."""
    where = f"gpu_id IN ({statements.marks(gpu_ids)})"
    if prompt_ids is not None:
        where += f" AND prompt_id IN ({statements.marks(prompt_ids)})"
    some = f"SELECT f.id FROM finished f CROSS JOIN records r ON r.id = f.id WHERE {where} LIMIT {_STEP}"  # noqa: S608
    with transaction(connection):
        done = connection.execute(f"DELETE FROM records WHERE id IN ({some})", (*gpu_ids, *(prompt_ids or ())))  # noqa: S608
    return done.rowcount == _STEP


def prune(connection: sqlite3.Connection, keep: Keep, newest: int, remembered: int, now: float | None) -> bool:
    """See :meth:`comfygate.journal.store.Store.prune`."""
    ends = newest - max(keep.finished, remembered)
    with transaction(connection):
        more = [
            _drop(connection, "records", newest - keep.finished),
            _drop(connection, "finished", ends),
            _used(connection) > keep.total and _drop(connection, "records", newest),
            _drop(connection, "quarantine", _newest(connection, "quarantine") - _QUARANTINED),
        ]
        if now is not None:
            _drop_old(connection, now - keep.days * 86_400)
    _shrink(connection)
    return any(more)


def _drop(connection: sqlite3.Connection, table: str, upto: int) -> bool:
    """Drop some of the oldest rows, none of them above `upto`; say whether there are more."""
    condition = f"id <= ? AND id < (SELECT min(id) FROM {table}) + {_STEP}"  # noqa: S608
    return connection.execute(f"DELETE FROM {table} WHERE {condition}", (upto,)).rowcount > 0  # noqa: S608


def _drop_old(connection: sqlite3.Connection, before: float) -> None:
    # Some of the oldest only, so that a clock that is put right by years does not empty everything at once.
    oldest = f"SELECT id FROM records ORDER BY id LIMIT {_AGED}"  # noqa: S608
    old = f"SELECT r.id FROM ({oldest}) r JOIN finished f ON f.id = r.id WHERE f.ended < ?"  # noqa: S608
    connection.execute(f"DELETE FROM records WHERE id IN ({old})", (before,))  # noqa: S608


def _newest(connection: sqlite3.Connection, table: str) -> int:
    return int(connection.execute(f"SELECT coalesce(max(id), 0) FROM {table}").fetchone()[0])  # noqa: S608


def _used(connection: sqlite3.Connection) -> int:
    return (_pragma(connection, "page_count") - _pragma(connection, "freelist_count")) * _pragma(
        connection, "page_size"
    )


def _shrink(connection: sqlite3.Connection) -> None:
    spare = _pragma(connection, "freelist_count") - _SPARE_PAGES
    if spare > 0:
        # It gives a row without columns for each page, at the first of which execute() would stop.
        connection.executescript(f"PRAGMA incremental_vacuum({min(spare, _RETURNED_PAGES)})")


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def probe(connection: sqlite3.Connection) -> None:
    """Write something of the size of a large prompt, and remove it.

    :raises sqlite3.Error: if that fails.
    """
    with transaction(connection):
        connection.execute("INSERT INTO quarantine VALUES (NULL, 0, 'probe', '', zeroblob(?))", (_PROBE,))
    with transaction(connection):
        connection.execute("DELETE FROM quarantine WHERE source = 'probe'")
    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
