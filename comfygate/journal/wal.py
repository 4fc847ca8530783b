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
    :ivar commits: whether a transaction ends with it.
    :ivar good: whether it is what was written.
    """

    number: int
    commits: bool
    good: bool
    page: bytes


def frames(log: bytes) -> list[Frame]:
    """The frames since the log was begun anew last, in the order in which they were written."""
    count = (len(log) - _HEAD) // _FRAME
    if count < 1:
        return []
    order, salts, sums = _head(log)
    own = _head_sums(log)  # what the sums before a frame should be, where those in the file are wrong
    found: list[Frame] = []
    for place in range(_HEAD, _HEAD + count * _FRAME, _FRAME):
        number, size, *rest = struct.unpack_from(">6I", log, place)
        told = (rest[2], rest[3])
        if not _same(salts, (rest[0], rest[1])):  # mostly left from before the log was begun anew
            sums = own = told
            continue
        data = log[place : place + 8] + log[place + _FRAME_HEAD : place + _FRAME]
        computed = checksum(data, sums, order)
        if computed != told and own != sums and checksum(data, own, order) == told:
            computed = told
            if found:  # only the sums of the frame before were damaged
                found[-1] = evolve(found[-1], good=True)
        found.append(Frame(number, size > 0, computed == told, data[8:]))
        sums, own = told, computed
    return found


def is_damaged(found: Sequence[Frame], log: bytes) -> bool:
    """Whether SQLite would lose some of what the log holds.

    What a killed program was writing is no damage: its last frames are cut
    short, and nobody was told that they are written.
    """
    if not found:
        return False
    stored = struct.unpack_from(">2I", log, 24)
    return stored != _head_sums(log) or not all(frame.good for frame in found) or _foreign_salts(found, log)


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


def _head(log: bytes) -> tuple[str, _Sums, _Sums]:
    """Byte order, salts and sums of a log, from its first frame if its own head is damaged."""
    magic, _, _, _, salt1, salt2, *sums = struct.unpack_from(">8I", log)
    if tuple(sums) == _head_sums(log):
        return _MAGIC.get(magic, _NATIVE), (salt1, salt2), (sums[0], sums[1])
    return _NATIVE, struct.unpack_from(">2I", log, _HEAD + 8), (sums[0], sums[1])


def _head_sums(log: bytes) -> _Sums:
    order = _MAGIC.get(struct.unpack_from(">I", log)[0], _NATIVE)
    return checksum(log[:24], (0, 0), order)


def _same(salts: _Sums, others: _Sums) -> bool:
    """Whether two salts are the same but for a flipped bit; those of another beginning differ in many."""
    return sum((one ^ other).bit_count() for one, other in zip(salts, others, strict=True)) <= 1


def _foreign_salts(found: Sequence[Frame], log: bytes) -> bool:
    _, salts, _ = _head(log)
    places = range(_HEAD + 8, _HEAD + len(found) * _FRAME, _FRAME)
    return any(struct.unpack_from(">2I", log, place) != salts for place in places)
