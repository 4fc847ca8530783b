from __future__ import annotations

import random
import sqlite3
from pathlib import Path

import pytest

from comfygate.journal.pages import PAGE_SIZE, rows

ROWS = [
    (1, "text", None, 0.5, b"blob"),
    (2, "ü" * 100, 0, -0.25, b""),
    (-3, "", 1, 1e300, bytes(range(256)) * 100),
    (2**60, "x" * 5000, -(2**40), 2.0, b"y" * 4061),
    *((n, f"row {n}", 2 ** (n % 63), float(n), b"z" * n) for n in range(10, 300)),
]


@pytest.fixture
def pages(tmp_path: Path) -> list[bytes]:
    path = tmp_path / "some.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA page_size = {PAGE_SIZE}")
        connection.execute("CREATE TABLE things (id INTEGER PRIMARY KEY, a TEXT, b INTEGER, c, d BLOB)")
        connection.executemany("INSERT INTO things VALUES (?, ?, ?, ?, ?)", ROWS)
        connection.execute("DELETE FROM things WHERE id = 200")
    connection.close()
    content = path.read_bytes()
    return [content[start : start + PAGE_SIZE] for start in range(0, len(content), PAGE_SIZE)]


def read(pages: list[bytes]) -> list[tuple[object, ...]]:
    def follow(number: int) -> bytes:
        return pages[number - 1] if 1 <= number <= len(pages) else b""

    return [row for page in pages[1:] for row in rows(page, follow)]


def test_rows_are_read_as_they_were_written(pages: list[bytes]) -> None:
    found = read(pages)
    assert sorted(found, key=lambda row: str(row[0])) == sorted(
        (row for row in ROWS if row[0] != 200), key=lambda row: str(row[0])
    )


@pytest.mark.parametrize("place", range(8))
@pytest.mark.parametrize("bit", [0, 3, 7])
def test_a_damaged_head_of_a_page_hides_no_row(pages: list[bytes], place: int, bit: int) -> None:
    number = next(n for n, page in enumerate(pages) if page[0] == 0x0D and n > 2)
    page = bytearray(pages[number])
    page[place] ^= 1 << bit
    everything = read(pages)
    pages[number] = bytes(page)
    assert set(everything) <= set(read(pages))


def test_nothing_in_a_page_makes_reading_fail(pages: list[bytes]) -> None:
    chance = random.Random(5)
    for _ in range(80):
        page = bytearray(chance.choice(pages))
        for _ in range(chance.randrange(1, 200)):
            page[chance.randrange(PAGE_SIZE)] = chance.randrange(256)
        page[0] = 0x0D
        list(rows(bytes(page), lambda number: pages[number % len(pages)]))
    assert list(rows(chance.randbytes(PAGE_SIZE - 1), lambda _: b"")) == []


def test_a_chain_of_pages_that_is_broken_hides_its_row_only(pages: list[bytes]) -> None:
    def follow(_: int) -> bytes:
        return b""

    found = [row for page in pages[1:] for row in rows(page, follow)]
    assert {row[0] for row in ROWS} - {row[0] for row in found} == {200, -3, 2**60}


def test_a_chain_that_goes_round_in_circles_ends(pages: list[bytes]) -> None:
    circle = (2).to_bytes(4, "big") + b"x" * (PAGE_SIZE - 4)
    assert [row for page in pages[1:] for row in rows(page, lambda _: circle)]
