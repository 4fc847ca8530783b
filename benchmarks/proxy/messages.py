"""The messages of the WebSocket benchmarks, with the time in them at which they were sent.

Both are such as ComfyUI sends while a prompt runs: how far a node is, and a
picture.  The time is that of ``time.monotonic_ns()``, which all processes of
one machine read from the same clock, at a fixed place near the beginning.
"""

from __future__ import annotations

import json
import random
import struct

JSON, PREVIEW = "json", "preview"
KINDS = (JSON, PREVIEW)
SIZES = {JSON: 200, PREVIEW: 100_000}
"""Bytes of a message, without its frame's head."""

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
"""Opcodes (RFC 6455, section 5.2)."""

FINAL, COMPRESSED = 0x80, 0x40
"""Bits of a frame's first byte; the second one is RFC 7692's."""

DEFLATE = b"permessage-deflate"
TAIL = b"\0\0\xff\xff"
"""What is taken from the end of a compressed message, and put back (RFC 7692, section 7.2.1)."""

_BEGIN = b'{"type": "progress", "data": {"sent": "'
_DIGITS = 19
_REST = b'", "value": 17, "max": 20, "node": "3", "prompt_id": "6a1f0a6e-52f7-4a55-9d6f-3d9bb5a0c001", "pad": "'
_END = b'"}}'

# Type 1: a picture without metadata.  Format 2, which no proxy that knows ComfyUI may drop.
_PICTURE = struct.pack(">II", 1, 2)
# A JPEG's beginning, and a comment of eight bytes.
_JPEG = b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0\xff\xfe\0\x0a"

PREFIX = 128
"""Bytes of a message within which its time is, and all of a control frame."""

JSON_AT = slice(len(_BEGIN), len(_BEGIN) + _DIGITS)
PREVIEW_AT = slice(len(_PICTURE) + len(_JPEG), len(_PICTURE) + len(_JPEG) + 8)
PROGRESS = _BEGIN
END = b'{"type": "benchmark.end", "data": {"sent": '
"""How the message begins that says how many came before it."""


def head(opcode: int, size: int, bits: int = FINAL) -> bytes:
    """The head of a server's frame (RFC 6455, section 5.2)."""
    first = bits | opcode
    if size < 126:
        return bytes((first, size))
    if size < 65536:
        return struct.pack(">BBH", first, 126, size)
    return struct.pack(">BBQ", first, 127, size)


def message(kind: str, size: int) -> bytearray:
    """A message of `size` bytes, whose time is still to be set."""
    if kind == JSON:
        begin = _BEGIN + b"0" * _DIGITS + _REST
        return bytearray(begin + b"x" * (size - len(begin) - len(_END)) + _END)
    begin = _PICTURE + _JPEG + bytes(8)
    # Of a JPEG's bytes nothing can be saved by compressing them again.
    return bytearray(begin + random.Random(1).randbytes(size - len(begin) - 2) + b"\xff\xd9")


def stamp(kind: str, time: int) -> bytes:
    """A time, as it stands in a message."""
    return b"%019d" % time if kind == JSON else time.to_bytes(8, "big")


def stamp_at(kind: str) -> slice:
    """Where in a message the time is."""
    return JSON_AT if kind == JSON else PREVIEW_AT


def end(sent: int) -> bytes:
    """The message that says how many came before it."""
    return END + b"%d}}" % sent


def sent_before(message: bytes) -> int:
    """What :func:`end` was given."""
    return int(message[len(END) : -2])


def status(client_id: str) -> bytes:
    """What ComfyUI says first on every WebSocket."""
    data = {"status": {"exec_info": {"queue_remaining": 0}}, "sid": client_id}
    return json.dumps({"type": "status", "data": data}).encode()
