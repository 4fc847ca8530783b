"""Opening an SQLite file as the journal needs it, and what its errors mean for us."""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
from collections.abc import Iterator
from functools import partial

from comfygate.errors import JournalError
from comfygate.journal.schema import PAGE_SIZE

_MIB = 2**20

# Freed pages are overwritten at once (secure_delete): they may have held credentials, and a
# damaged file is read page by page, where nothing that was deleted may turn up again.  Most of
# them are used for the next record in the same transaction, so this costs little.
_PRAGMAS = (
    f"page_size = {PAGE_SIZE}",
    "auto_vacuum = INCREMENTAL",
    "journal_mode = WAL",
    "synchronous = FULL",
    "secure_delete = ON",
    "wal_autocheckpoint = 1000",
    f"journal_size_limit = {4 * _MIB}",
    "cell_size_check = ON",
    "trusted_schema = OFF",
)
_PATIENCE = 5.0
"""Seconds to wait for another program that has locked the file."""

_CANNOT = {
    sqlite3.SQLITE_FULL: "No space is left on the disk that holds {path}: make room there",
    sqlite3.SQLITE_READONLY: "{path} cannot be written: let this user write there, on a disk that is not read-only",
    sqlite3.SQLITE_CANTOPEN: "{path} cannot be opened: let this user read and write it and its folder",
    sqlite3.SQLITE_PERM: "{path} cannot be opened: let this user read and write it and its folder",
    sqlite3.SQLITE_IOERR: "The disk that holds {path} reports an error ({error}): look at the kernel's log",
    sqlite3.SQLITE_BUSY: "{path} is locked by another program: end that one",
    sqlite3.SQLITE_LOCKED: "{path} is locked by another program: end that one",
    sqlite3.SQLITE_NOMEM: "There is no memory left to write {path}",
}
_READ_ERRORS = frozenset({sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ, sqlite3.SQLITE_IOERR_CORRUPTFS})


class DamagedFileError(Exception):
    """The file is not what was written; what is readable has to be brought into a new one."""


def connect(path: str) -> sqlite3.Connection:
    """Open the file for reading and writing; it is made if there is none, for its owner only.

    :raises sqlite3.Error: if it cannot be opened or is no SQLite file.
    :raises OSError: if it cannot be made.
    """
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    os.chmod(path, 0o600)
    connection = sqlite3.connect(
        path, timeout=_PATIENCE, isolation_level=None, check_same_thread=False, cached_statements=256
    )
    try:
        for pragma in _PRAGMAS:
            connection.execute(f"PRAGMA {pragma}")
    except BaseException:
        connection.close()
        raise
    # A damaged text must not keep the rows around it from being read.
    connection.text_factory = partial(str, encoding="utf-8", errors="surrogateescape")
    return connection


@contextlib.contextmanager
def errors_explained(path: str) -> Iterator[None]:
    """Turn errors of SQLite and the file system into ours.

    :raises JournalError: if the file cannot be read or written now, saying why in plain words.
    :raises DamagedFileError: if it is damaged.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise explained(error, path) from error
    except OSError as error:
        raise JournalError(f"{path} cannot be read and written ({error.strerror}){_remedy(error)}") from error


def _remedy(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return ": give it to the user that ComfyGate runs as"
    return ": move it away" if error.errno == errno.EINVAL else ""


def explained(error: sqlite3.Error, path: str) -> JournalError | DamagedFileError:
    """What an error of SQLite means."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    words = _CANNOT.get(code & 0xFF)
    if words is None or code in _READ_ERRORS:
        return DamagedFileError(str(error))
    return JournalError(words.format(path=path, error=getattr(error, "sqlite_errorname", error)))


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Everything within, or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
        raise
