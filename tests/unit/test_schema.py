from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from comfygate.journal.records import TABLES
from comfygate.journal.schema import STEPS, migrate, version
from comfygate.journal.sqlite import connect


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    made = connect(str(tmp_path / "journal.sqlite"))
    yield made
    made.close()


def test_a_new_file_gets_the_newest_version(connection: sqlite3.Connection) -> None:
    assert migrate(connection) == 0
    assert version(connection) == len(STEPS)
    assert migrate(connection) == len(STEPS)


def test_tables_have_the_columns_that_rows_have(connection: sqlite3.Connection) -> None:
    migrate(connection)
    for table in TABLES:
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table.name})")]
        assert tuple(columns) == table.columns


def test_an_older_file_takes_the_steps_that_it_lacks(connection: sqlite3.Connection) -> None:
    migrate(connection)
    connection.execute("INSERT INTO quarantine VALUES (1, 0, 'jobs', 'why', NULL)")
    later = (*STEPS, "ALTER TABLE quarantine ADD COLUMN more TEXT; UPDATE quarantine SET more = 'yes'")
    assert migrate(connection, later) == len(STEPS)
    assert version(connection) == len(STEPS) + 1
    assert connection.execute("SELECT more FROM quarantine").fetchall() == [("yes",)]


def test_a_step_that_fails_leaves_the_file_as_it_was(connection: sqlite3.Connection) -> None:
    migrate(connection)
    with pytest.raises(sqlite3.OperationalError):
        migrate(connection, (*STEPS, "CREATE TABLE more (id); SELECT nonsense FROM nowhere"))
    assert version(connection) == len(STEPS)
    assert connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'more'").fetchone() == (0,)


def test_the_settings_that_everything_rests_on(connection: sqlite3.Connection) -> None:
    migrate(connection)
    found = {
        name: connection.execute(f"PRAGMA {name}").fetchone()[0]
        for name in ("journal_mode", "synchronous", "auto_vacuum", "secure_delete", "page_size")
    }
    assert found == {"journal_mode": "wal", "synchronous": 2, "auto_vacuum": 2, "secure_delete": 1, "page_size": 4096}
