"""SQL for many rows at once: one statement a table and batch.

Every step of a statement lets another thread have the interpreter, and has to
wait until that thread gives it back; so few and large steps are what counts.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import chain
from typing import TypeVar

from comfygate.journal.records import Row, Table, Value

T = TypeVar("T")

_MOST = 64
"""Rows of one statement; the sizes are powers of two, so that few different ones are prepared."""


def insert(connection: sqlite3.Connection, table: Table, rows: Sequence[Row], conflict: str = "REPLACE") -> None:
    """Write rows.

    :param conflict: what becomes of a row that is there already: ``REPLACE`` or ``IGNORE`` the new one.
    """
    for part in _parts(rows):
        connection.execute(_insertion(table, len(part), conflict), tuple(chain.from_iterable(part)))


def delete(connection: sqlite3.Connection, table: Table, numbers: Sequence[int], column: str | None = None) -> None:
    """Remove rows by their first column, or by another."""
    for part in _parts(numbers):
        connection.execute(_deletion(table, len(part), column or table.columns[0]), part)


def select(table: Table, rest: str = "") -> str:
    """SQL that reads whole rows.

    :param rest: what follows the table's name.
    """
    return f"SELECT {', '.join(table.columns)} FROM {table.name} {rest}"  # noqa: S608


def marks(values: Iterable[Value]) -> str:
    """As many question marks."""
    return ", ".join("?" for _ in values)


def _parts(values: Sequence[T]) -> Iterator[Sequence[T]]:
    start = 0
    while start < len(values):
        size = min(_MOST, 1 << (len(values) - start).bit_length() - 1)
        yield values[start : start + size]
        start += size


@cache
def _insertion(table: Table, count: int, conflict: str) -> str:
    row = f"({marks(table.columns)})"
    return f"INSERT OR {conflict} INTO {table.name} VALUES {', '.join([row] * count)}"  # noqa: S608


@cache
def _deletion(table: Table, count: int, column: str) -> str:
    return f"DELETE FROM {table.name} WHERE {column} IN ({', '.join('?' * count)})"  # noqa: S608
