"""A backend's messages, whichever parser takes them off the wire."""

from __future__ import annotations

import re
import struct
from random import Random
from typing import Any

import pytest
from twisted.internet.task import Clock

from comfygate.gate.frames import FrameReader
from tests.unit.bridging import Gate, frames

MOST = 80_000


def frame(first: int, payload: bytes, digits: int | None = None, mask: bytes = b"") -> bytes:
    """One frame, `digits`: bytes of its length, if not the fewest."""
    size = len(payload)
    if digits is None:
        digits = 0 if size < 126 else 2 if size < 65536 else 8
    length = size if not digits else 126 if digits == 2 else 127
    more = b"" if not digits else struct.pack(">H" if digits == 2 else ">Q", size)
    return bytes((first, length | (0x80 if mask else 0))) + more + mask + payload


def usual(random: Random) -> bytes:
    """What a ComfyUI sends."""
    if random.random() < 0.5:
        return frame(0x81, b'{"type": "progress", "data": {"value": %d}}' % random.randrange(10_000))
    return frame(
        0x82,
        b"\0\0\0\1\0\0\0\1"
        + random.randbytes(
            random.choice([*[0, 100, 117, 118, 122, 300] * 9, 5000, 70_000])
        ),  # 122: a length like an opcode
    )


def unusual(random: Random) -> list[bytes]:
    """What it hardly ever does, or must not."""
    payload = random.randbytes(random.choice([0, 1, 125, 200]))
    if random.random() < 0.05:
        begun = [frame(0x02, payload), frame(0x82, b"before that has ended")]
        wrong = [
            frame(0x88, struct.pack(">H", 1000) + b"bye"),
            frame(0xC2, payload),
            frame(0x83, payload),
            frame(0x80, payload),
            frame(0x82, b"short", digits=2),
            frame(0x82, b"short", digits=8),
            frame(0x82, b"masked", mask=b"\0\0\0\0"),
            frame(0x82, bytes(MOST + 1)),
        ]
        return random.choice([begun, [random.choice(wrong)]])
    right = [
        [frame(0x89, payload[:125])],
        [frame(0x8A, payload[:125])],
        [frame(0x02, payload), frame(0x80, payload)],
        [frame(0x01, b'{"type": "a"'), frame(0x89, b"between"), frame(0x00, b","), frame(0x80, b'"b": 1}')],
        [frame(0x81, b"\xff\xfe not UTF-8")],
        [frame(0x81, b"")],
    ]
    return random.choice(right)


class Side:
    """A bridge, and what its two ends see."""

    def __init__(self, clock: Clock, *, known: bool) -> None:
        self.gate = Gate(
            clock, backend_message=MOST, outbox=1 << 30, ping_interval=10.0, backend_pong=8.0, client_pong=1e4
        )
        self.client, self.backend = self.gate.open()
        assert isinstance(self.backend.protocol._frames, FrameReader)
        if not known:
            self.backend.protocol._frames = None

    def seen(self) -> Any:
        # What goes to a backend is masked; in a ping of Autobahn's are random numbers.
        asked = [(opcode, payload if opcode != 9 else b"") for opcode, payload in frames(self.backend.take())]
        told = re.sub(rb"\x89\x0c.{12}", b"a ping", self.client.take(), flags=re.DOTALL)
        return told, asked, [(wire.closed, wire.reading) for wire in (self.client, self.backend)]


@pytest.mark.parametrize("seed", range(40))
def test_nobody_can_tell_who_has_parsed_it(clock: Clock, seed: int) -> None:
    random = Random(seed)
    stream = [one for _ in range(200) for one in (unusual(random) if random.random() < 0.2 else [usual(random)])]
    sides = [Side(clock, known=known) for known in (True, False)]
    while stream and sides[0].backend.closed is None:
        count = random.choice([0, 0, 1, 1, 1, 2, 5])
        piece, stream = b"".join(stream[:count]), stream[count:]
        if stream and (not piece or random.random() < 0.3):  # the last one does not come whole
            cut = random.choice([1, 2, 3, random.randrange(len(stream[0]) + 1)])
            piece, stream[0] = piece + stream[0][:cut], stream[0][cut:]
        for side in sides:
            side.backend.protocol.dataReceived(piece)
        one, other = (side.seen() for side in sides)
        assert one == other
        if random.random() < 0.05:
            stop_or_go_on(sides, stops=random.random() < 0.5)
        if random.random() < 0.1:
            clock.pump([1.0] * random.randrange(6))


def stop_or_go_on(sides: list[Side], *, stops: bool) -> None:
    """The clients do not read for a while, or go on."""
    for client in [side.client for side in sides if side.client.closed is None]:
        client.full = stops
        if not stops:
            client.drain()
