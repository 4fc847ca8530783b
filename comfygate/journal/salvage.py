"""Everything readable in a damaged journal: its rows, by their checksums alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from comfygate.journal.pages import Follow, rows
from comfygate.journal.records import TABLES, Row, Table
from comfygate.journal.wal import Frame

Found = tuple[Table, Row]


def salvage(count: int, read: Follow, log: Sequence[Frame]) -> Iterator[Found]:
    """All rows that are what was written, the newest of each first.

    A row may come several times, in older states: whoever takes the first of
    each has the newest that can be read.

    :param count: how many pages the file has.
    :param read: gives its pages; empty for one that cannot be read.
    :param log: what its write-ahead log holds.
    """
    newest = {frame.number: frame.page for frame in log if frame.good}

    def follow(number: int) -> bytes:
        return newest.get(number) or read(number)

    yield from _whole(_damaged_last(log), follow)
    numbers = sorted({*range(2, count + 1), *newest})
    yield from _whole((follow(number) for number in numbers), follow)
    yield from _older(log, newest, read)


def _whole(pages: Iterable[bytes], follow: Follow) -> Iterator[Found]:
    for page in pages:
        for row in rows(page, follow):
            for table in TABLES:
                if table.is_whole(row):
                    yield table, row


def _damaged_last(log: Sequence[Frame]) -> list[bytes]:
    """Pages whose newest frame is damaged: its rows are newer than those of any other."""
    last = {frame.number: frame for frame in log}
    return [frame.page for frame in last.values() if not frame.good]


def _older(log: Sequence[Frame], newest: Mapping[int, bytes], read: Follow) -> Iterator[Found]:
    """Rows as they were before the first damaged frame: some moved to a page that is lost."""
    first = next((index for index, frame in enumerate(log) if not frame.good), None)
    if first is None:
        return
    before = {frame.number: frame.page for frame in log[:first]}

    def follow(number: int) -> bytes:
        return before.get(number) or read(number)

    yield from _whole((follow(number) for number in sorted(newest)), follow)
