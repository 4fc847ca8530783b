"""What is in a journal, for people and tools."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar
from urllib.parse import quote

from attrs import frozen

from comfygate.errors import JournalError
from comfygate.journal import statements
from comfygate.journal.files import Files
from comfygate.journal.records import (
    FINISHED,
    JOBS,
    DamagedRowError,
    Finished,
    Journalled,
    Row,
    read_finished,
    read_job_head,
)
from comfygate.journal.schema import version
from comfygate.journal.sqlite import DamagedFileError, errors_explained

_PATIENCE = 5.0

T = TypeVar("T")


@frozen
class Quarantined:
    """A row, or a whole file, that was damaged.

    :ivar found: when, in seconds since 1970.
    :ivar source: the table that it was in, or ``file``.
    :ivar content: what is left of it, for people.
    """

    found: float
    source: str
    why: str
    content: str | None


@frozen(kw_only=True)
class Inspection:
    """What is in a journal.

    :ivar version: of its schema.
    :ivar size: bytes on disk.
    :ivar counts: jobs by state, finished ones included.
    :ivar records: finished jobs whose history is kept.
    :ivar unfinished: in the order of their acceptance, without their prompts.
    :ivar finished: the newest, the newest first, without their records.
    :ivar quarantine: the newest, the newest first.
    :ivar aside: damaged files that were replaced.
    :ivar settings: what operators have set.
    """

    path: str
    version: int
    size: int
    counts: Mapping[str, int]
    records: int
    unfinished: tuple[Journalled, ...]
    finished: tuple[Finished, ...]
    quarantine: tuple[Quarantined, ...]
    aside: tuple[str, ...]
    settings: Mapping[str, str]


def inspect(path: str, most: int = 100) -> Inspection:
    """Look into a journal, also while a daemon uses it; nothing is changed.

    :param most: how many jobs of each kind are listed.
    :raises JournalError: if it cannot be read.
    """
    try:
        with errors_explained(path), contextlib.closing(_connected(path)) as connection:
            return _inspected(connection, Files(path), most)
    except DamagedFileError as error:
        raise JournalError(f"{path} is damaged ({error}): the daemon mends it when it starts") from error


def _connected(path: str) -> sqlite3.Connection:
    return sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True, timeout=_PATIENCE, isolation_level=None)


def _readable(rows: Iterable[Row], read: Callable[[Row], T]) -> tuple[T, ...]:
    found = []
    for row in rows:
        with contextlib.suppress(DamagedRowError):  # the daemon puts it into quarantine when it comes by
            found.append(read(row))
    return tuple(found)


def _inspected(connection: sqlite3.Connection, files: Files, most: int) -> Inspection:
    connection.execute("BEGIN")  # one moment for all of it
    counts: dict[str, int] = {}
    for table in ("jobs", "finished"):
        counts |= dict(connection.execute(f"SELECT state, count(*) FROM {table} GROUP BY state"))  # noqa: S608
    unfinished = connection.execute(statements.select(JOBS, "ORDER BY sequence LIMIT ?"), (most,))
    finished = connection.execute(statements.select(FINISHED, "ORDER BY id DESC LIMIT ?"), (most,))
    quarantine = connection.execute(
        "SELECT found, source, why, CAST(content AS TEXT) FROM quarantine ORDER BY id DESC LIMIT ?", (most,)
    )
    return Inspection(
        path=files.path,
        version=version(connection),
        size=files.size(),
        counts=counts,
        records=connection.execute("SELECT count(*) FROM records").fetchone()[0],
        unfinished=_readable(unfinished, read_job_head),
        finished=_readable(finished, read_finished),
        quarantine=tuple(Quarantined(*row) for row in quarantine),
        aside=tuple(files.aside()),
        settings=dict(
            connection.execute("SELECT name, value FROM settings WHERE name <> 'schema' AND name NOT LIKE 'secret %'")
        ),
    )
