"""The parser for common frames, against a model that knows all of RFC 6455, section 5.2 that matters here."""

from __future__ import annotations

import random
import struct

import pytest

from comfygate.gate.frames import FrameReader

PREVIEW = bytes(range(256)) * 400


def frame(payload: bytes, first: int = 0x82, *, digits: int | None = None) -> bytes:
    """An unmasked frame; `digits`: bytes of its length, if not the fewest."""
    size = len(payload)
    if digits is None:
        digits = 0 if size < 126 else 2 if size < 65536 else 8
    if digits == 0:
        return bytes((first, size)) + payload
    return bytes((first, 126 if digits == 2 else 127)) + struct.pack(">H" if digits == 2 else ">Q", size) + payload


def fed(reader: FrameReader, data: bytes) -> tuple[list[tuple[bytes, bool]], bytes]:
    """What comes out: the messages, and what is left.  Every frame must be as it came."""
    found, rest = reader.feed(memoryview(data))
    for one in found:
        assert bytes(one.wire) == frame(one.payload, 0x82 if one.binary else 0x81)
    return [(one.payload, one.binary) for one in found], bytes(rest)


PING = b"\x89\x02hi"
CLOSE = b"\x88\x02\x03\xe8"


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 65535, 65536, 102_400])
def test_a_message_of_any_size_comes_whole(size: int) -> None:
    payload = (PREVIEW * 2)[:size]
    assert fed(FrameReader(1 << 20), frame(payload)) == ([(payload, True)], b"")
    assert fed(FrameReader(1 << 20), frame(payload, 0x81)) == ([(payload, False)], b"")


@pytest.mark.parametrize(
    "other",
    [
        PING,
        CLOSE,
        frame(b"first part", 0x01),  # not the last fragment
        frame(b"last part", 0x80),
        frame(b"compressed", 0xC1),
        bytes((0x82, 0x80 | 2)) + b"maskhi",
        frame(b"x" * 125, digits=2),
        frame(b"x" * 126, digits=8),
        frame(PREVIEW, digits=8),  # more than may come
        b"\x82",
        b"\x82\x7e\x00",
    ],
)
def test_what_is_not_common_is_left_from_its_first_byte_on(other: bytes) -> None:
    reader = FrameReader(100_000)
    assert fed(reader, frame(b"one") + other) == ([(b"one", True)], other)
    assert not reader.missing


def test_a_message_that_comes_in_pieces_is_the_same() -> None:
    chance = random.Random(7)
    for _ in range(300):
        messages = [
            (chance.randbytes(chance.choice((0, 3, 125, 126, 70_000))), chance.random() < 0.5) for _ in range(4)
        ]
        stream = b"".join(frame(payload, 0x82 if binary else 0x81) for payload, binary in messages)
        reader, found, left = FrameReader(1 << 20), [], b""
        while stream:
            count = chance.choice((1, 2, 7, 64, 4096, 1 << 18))
            piece, stream = left + stream[:count], stream[count:]
            some, left = fed(reader, piece)
            found += some
        assert (found, left, reader.missing) == (messages, b"", 0)
