"""Rows read from pages of an SQLite file without SQLite (https://www.sqlite.org/fileformat2.html).

For files that SQLite refuses: each leaf of a table is read by itself, whatever
has become of the tree above it.  Nothing here tells a damaged row from a good
one; checksums in the rows do.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

from attrs import frozen

PAGE_SIZE = 4096

_LEAF = 0x0D
_CELLS = 8  # behind the page's own head stand the cells' places
_MOST_INLINE = PAGE_SIZE - 35
_LEAST_INLINE = (PAGE_SIZE - 12) * 32 // 255 - 23
_INTEGERS = {1: 1, 2: 2, 3: 3, 4: 4, 5: 6, 6: 8}
_LARGEST = 2**30  # SQLite's own limit, of a row
_FEWEST, _MOST = 3, 20  # columns of a table

Values = tuple[int | float | str | bytes | None, ...]
Follow = Callable[[int], bytes]
"""A page by its number, counted from 1; empty if there is none."""


class _NotACellError(ValueError):
    pass


_BROKEN = (_NotACellError, IndexError, struct.error)


@frozen
class Cell:
    """A row as it stands in a page.

    :ivar values: its columns; where the row's number stands in its place, that.
    :ivar extent: bytes that it takes in the page.
    """

    values: Values
    extent: int


def rows(page: bytes, follow: Follow) -> Iterator[Values]:
    """Every row in a page that may be a leaf of a table.

    If the page does not add up, every byte of it is tried as the beginning of
    a row, which brings some that are none.
    """
    if len(page) < PAGE_SIZE or (page[0] ^ _LEAF).bit_count() > 1:
        return
    cells = [cell_at(page, place, follow) for place in _places(page)]
    found = [cell for cell in cells if cell is not None]
    yield from (cell.values for cell in found)
    if page[0] != _LEAF or len(found) < len(cells) or not _adds_up(page, found):
        for place in range(_CELLS, PAGE_SIZE - 4):
            cell = cell_at(page, place, follow)
            if cell is not None:
                yield cell.values


def cell_at(page: bytes, place: int, follow: Follow) -> Cell | None:
    """The row that begins at `place`; ``None`` if none does."""
    try:
        size, start = _varint(page, place)
        number, start = _varint(page, start)
        if not _looks_like_a_row(page, start):
            return None
        inline = _inline(size)
        payload = page[start : start + inline]
        extent = start + inline - place
        if size > inline:
            payload += _overflow(struct.unpack_from(">I", page, start + inline)[0], size - inline, follow)
            extent += 4
        return Cell(_values(payload, size, number), extent)
    except _BROKEN:
        return None


def _places(page: bytes) -> list[int]:
    (count,) = struct.unpack_from(">H", page, 3)
    count = min(count, (PAGE_SIZE - _CELLS) // 2)
    return list(struct.unpack_from(f">{count}H", page, _CELLS))


def _adds_up(page: bytes, cells: list[Cell]) -> bool:
    """Whether cells, free blocks and fragments fill the page from where its content begins."""
    free, _, content = struct.unpack_from(">HHH", page, 1)
    taken = sum(max(cell.extent, 4) for cell in cells) + page[7]
    for _ in range(PAGE_SIZE // 4):
        if not free:
            return bool(taken == PAGE_SIZE - (content or 65536))
        if free > PAGE_SIZE - 4:
            return False
        free, size = struct.unpack_from(">HH", page, free)
        taken += size
    return False


def _looks_like_a_row(page: bytes, start: int) -> bool:
    # The row's number stands in front, so that the first column's place is kept by a NULL.
    return _FEWEST < page[start] < 128 and page[start + 1] == 0


def _inline(size: int) -> int:
    if size > _LARGEST:
        raise _NotACellError(size)
    if size <= _MOST_INLINE:
        return size
    inline = _LEAST_INLINE + (size - _LEAST_INLINE) % (PAGE_SIZE - 4)
    return inline if inline <= _MOST_INLINE else _LEAST_INLINE


def _overflow(number: int, size: int, follow: Follow) -> bytes:
    parts = []
    while size > 0:
        page = follow(number)
        if len(page) < PAGE_SIZE:
            raise _NotACellError(number)
        (number,) = struct.unpack_from(">I", page)
        parts.append(page[4 : 4 + size])
        size -= PAGE_SIZE - 4
    return b"".join(parts)


def _varint(data: bytes, place: int) -> tuple[int, int]:
    """A number and the place behind it."""
    value = 0
    for index in range(8):
        byte = data[place + index]
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            return value, place + index + 1
    value = value << 8 | data[place + 8]
    return value - (value >> 63 << 64), place + 9


def _values(payload: bytes, size: int, number: int) -> Values:
    end, place = _varint(payload, 0)
    serials = []
    while place < end:
        serial, place = _varint(payload, place)
        serials.append(serial)
    if place != end or len(payload) != size or not _FEWEST <= len(serials) <= _MOST:
        raise _NotACellError(end)
    values: list[int | float | str | bytes | None] = []
    for serial in serials:
        value, place = _value(payload, place, serial)
        values.append(value)
    if place != size:
        raise _NotACellError(size)
    return (number, *values[1:])


def _value(payload: bytes, place: int, serial: int) -> tuple[int | float | str | bytes | None, int]:
    if serial in _INTEGERS:
        end = place + _INTEGERS[serial]
        return int.from_bytes(payload[place:end], "big", signed=True), end
    if serial == 7:
        return struct.unpack_from(">d", payload, place)[0], place + 8
    if serial >= 12:
        end = place + (serial - 12) // 2
        raw = payload[place:end]
        return (raw.decode("utf-8", "surrogateescape") if serial % 2 else raw), end
    if serial in (0, 8, 9):
        return {0: None, 8: 0, 9: 1}[serial], place
    raise _NotACellError(serial)
