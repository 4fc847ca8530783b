"""What the file holds, in versions.

Columns of numbers that may have a fraction have no type: SQLite would store some
of them as integers, and they would not be found again by their checksums where
the file has to be read without SQLite.

The version stands in ``PRAGMA user_version`` and, against a flipped bit there,
in the setting ``schema`` too, whose row every version keeps as it is here.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

PAGE_SIZE = 4096

STEPS: tuple[str, ...] = (
    """
    CREATE TABLE jobs (
        sequence INTEGER PRIMARY KEY, prompt_id TEXT NOT NULL, number NOT NULL, gate TEXT NOT NULL,
        targets TEXT NOT NULL, expected INTEGER NOT NULL, client_id TEXT, accepted NOT NULL,
        attempts INTEGER NOT NULL, deaths INTEGER NOT NULL, state TEXT NOT NULL, gpu_id INTEGER, crc INTEGER NOT NULL
    );
    CREATE TABLE bodies (
        sequence INTEGER PRIMARY KEY, outputs TEXT NOT NULL, submission BLOB NOT NULL, crc INTEGER NOT NULL
    );
    CREATE TABLE finished (
        id INTEGER PRIMARY KEY, sequence INTEGER NOT NULL, prompt_id TEXT NOT NULL UNIQUE, gate TEXT NOT NULL,
        gpu_id INTEGER, client_id TEXT, state TEXT NOT NULL, reason TEXT, attempts INTEGER NOT NULL,
        accepted NOT NULL, ended NOT NULL, crc INTEGER NOT NULL
    );
    CREATE TABLE records (id INTEGER PRIMARY KEY, record BLOB NOT NULL, crc INTEGER NOT NULL);
    CREATE TABLE settings (
        id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, value TEXT NOT NULL, changed NOT NULL,
        crc INTEGER NOT NULL
    );
    CREATE TABLE quarantine (
        id INTEGER PRIMARY KEY, found NOT NULL, source TEXT NOT NULL, why TEXT NOT NULL, content BLOB
    );
    """,
)
"""SQL that leads from the n-th version to the next; a new file takes all of them."""


def version(connection: sqlite3.Connection) -> int:
    """The version of a file; 0 for a new one."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def migrate(connection: sqlite3.Connection, steps: Sequence[str] = STEPS) -> int:
    """Bring a file to the newest version, each step as a whole or not at all.

    :return: the version that it had.
    """
    found = version(connection)
    for number, step in enumerate(steps[found:], found + 1):
        try:
            connection.executescript(f"BEGIN IMMEDIATE; {step}; PRAGMA user_version = {number}; COMMIT;")
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
    return found
