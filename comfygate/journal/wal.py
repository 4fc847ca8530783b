"""What an SQLite write-ahead log holds, also behind a damaged place (https://www.sqlite.org/fileformat2.html#walformat).

SQLite stops reading at the first frame whose checksum is wrong, and drops
everything that was committed after it.  Each checksum continues the one before,
but that one stands in the file as well: so each frame can be judged by itself.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Sequence

from attrs import evolve, frozen

from comfygate.journal.pages import PAGE_SIZE

_HEAD = 32
_FRAME_HEAD = 24
_FRAME = _FRAME_HEAD + PAGE_SIZE
_MAGIC = {0x377F0682: "<", 0x377F0683: ">"}
_NATIVE = "<" if sys.byteorder == "little" else ">"

_Sums = tuple[int, int]


@frozen
class Frame:
    """A page, as it was written.

    :ivar number: the page's.
    :ivar good: whether it is what was written.
    :ivar believed: whether SQLite takes it, if it takes all before it.
    """

    number: int
    good: bool
    believed: bool
    page: bytes


def frames(log: bytes) -> list[Frame]:
    """The frames since the log was begun anew last, in the order in which they were written."""
    order, salts, sums, own = _head(log)
    found: list[Frame] = []
    gap = sums != own
    for place in range(_HEAD, len(log) - _FRAME + 1, _FRAME):
        number, _, *rest = struct.unpack_from(">6I", log, place)
        told = (rest[2], rest[3])
        if not _same(salts, (rest[0], rest[1])):  # mostly left from before the log was begun anew
            sums, own, gap = told, told, True
            continue
        data = log[place : place + 8] + log[place + _FRAME_HEAD : place + _FRAME]
        good = believed = checksum(data, sums, order) == told
        if not good and own != sums and checksum(data, own, order) == told:
            good = True
            found[-1:] = [evolve(one, good=True) for one in found[-1:]]  # only its sums were damaged
        believed = believed and not gap and (rest[0], rest[1]) == salts
        found.append(Frame(number, good, believed, data[8:]))
        sums, own = told, told if good else checksum(data, sums, order)
    return found


def is_damaged(found: Sequence[Frame]) -> bool:
    """Whether SQLite would lose some of what a log holds.

    What a killed program was writing is no damage: its last frames are cut
    short, and nobody was told that they are written.
    """
    return not all(frame.believed for frame in found)


def checksum(data: bytes, start: _Sums, order: str) -> _Sums:
    """The log's checksum over `data`, continued from `start`.

    :param order: ``<`` or ``>``, as the log's magic number says.
    """
    first, second = start
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first = first + even + second & 0xFFFFFFFF
        second = second + odd + first & 0xFFFFFFFF
    return first, second


def _head(log: bytes) -> tuple[str, _Sums, _Sums, _Sums]:
    """Byte order, salts and sums of a log, and what the sums should be; the salts of its first frame if they differ."""
    if len(log) < _HEAD + _FRAME:
        return _NATIVE, (0, 0), (0, 0), (0, 0)
    magic, _, _, _, salt1, salt2, *sums = struct.unpack_from(">8I", log)
    order = _MAGIC.get(magic, _NATIVE)
    told, own = (sums[0], sums[1]), checksum(log[:24], (0, 0), order)
    if told == own:
        return order, (salt1, salt2), told, own
    return _NATIVE, struct.unpack_from(">2I", log, _HEAD + 8), told, own


def _same(salts: _Sums, others: _Sums) -> bool:
    """Whether two salts are the same but for a flipped bit; those of another beginning differ in many."""
    return sum((one ^ other).bit_count() for one, other in zip(salts, others, strict=True)) <= 1
