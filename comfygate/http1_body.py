"""HTTP/1.1 message bodies: how long they are, and taking them apart (RFC 9112, sections 6 and 7).

No I/O: bytes go in, pieces of payload come out.  Names are re-exported by
:mod:`comfygate.http1`.
"""

from __future__ import annotations

import re
from typing import Protocol

from attrs import define, field, frozen

MAX_CHUNK_LINE = 1024  #: bytes of one chunk-size line with its extensions
MAX_CHUNK_EXTENSIONS = 16 * 1024  #: bytes of all chunk extensions of one body
MAX_TRAILERS = 8 * 1024  #: bytes of the trailer section
MAX_SIZE_DIGITS = 16  #: hexadecimal digits of a chunk size
MAX_LENGTH = 2**63 - 1  #: largest Content-Length and chunk size

LAST_CHUNK = b"0\r\n\r\n"

_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,%d})([ \t]*(?:;[\t\x20-\x7e\x80-\xff]*)?)" % MAX_SIZE_DIGITS)


class ProtocolError(Exception):
    """The peer broke HTTP/1.1; the text says how."""


@frozen
class NoBody:
    """Nothing follows the head."""


@frozen
class Length:
    """Exactly `size` bytes follow."""

    size: int


@frozen
class Chunked:
    """The chunked transfer coding (RFC 9112, section 7.1)."""


@frozen
class UntilClose:
    """The body of an answer ends with the connection (RFC 9112, section 6.3, rule 8)."""


Framing = NoBody | Length | Chunked | UntilClose


class BodyDecoder(Protocol):
    """Takes one body apart.

    :ivar finished: whether the body is complete.
    :ivar rest: what was fed behind its end.
    """

    finished: bool
    rest: bytes

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes off the wire; give the payload in them.

        :raises ProtocolError: for broken framing; the decoder is of no more use.
        """

    def eof(self) -> None:
        """The peer will send no more.

        :raises ProtocolError: if the body was cut short.
        """


@define
class NoBodyDecoder:
    """Finished from the start; everything is rest."""

    finished: bool = True
    rest: bytes = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Give nothing."""
        self.rest += data
        return []

    def eof(self) -> None:
        """Nothing is missing."""


NOTHING_LEFT = NoBodyDecoder()
"""For a body that has come, or for none; it is never fed, and so one is enough."""


@define
class LengthDecoder:
    """Counts down a Content-Length."""

    remaining: int
    finished: bool = field(init=False)
    rest: bytes = b""

    def __attrs_post_init__(self) -> None:
        self.finished = self.remaining == 0

    def feed(self, data: bytes) -> list[bytes]:
        """Give what belongs to the body, uncopied in all but the last piece."""
        remaining = self.remaining
        if len(data) < remaining:
            self.remaining = remaining - len(data)
            return [data]
        if self.finished:
            self.rest += data
            return []
        self.remaining = 0
        self.finished = True
        if len(data) == remaining:
            return [data]
        self.rest = data[remaining:]
        return [data[:remaining]]

    def skip(self, count: int) -> None:
        """Count bytes that went by without being fed: fewer than remain."""
        self.remaining -= count

    def eof(self) -> None:
        """Complain if bytes are missing."""
        if not self.finished:
            raise ProtocolError(f"the body was cut short, {self.remaining} bytes are missing")


@define
class UntilCloseDecoder:
    """Everything is body until the connection ends."""

    finished: bool = False
    rest: bytes = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Give everything."""
        return [data]

    def eof(self) -> None:
        """The body is complete now."""
        self.finished = True


@define
class ChunkedDecoder:
    """Takes the chunked coding apart (RFC 9112, section 7.1).

    Stricter than the recipients that request smuggling relies on: only CRLF
    ends a line, sizes have at most 16 digits, extensions and trailers are
    checked, bounded and dropped.
    """

    finished: bool = False
    rest: bytes = b""
    _left: int = 0  # payload bytes missing from the current chunk
    _in_chunk: bool = False  # payload and its CRLF are expected
    _in_trailers: bool = False
    _partial: bytes = b""  # the beginning of a line
    _extensions: int = 0
    _trailers: int = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Give the payload of all chunks in `data`."""
        pieces: list[bytes] = []
        if self._partial:
            data = self._partial + data
            self._partial = b""
        position, end = 0, len(data)
        while position < end and not self.finished:
            if self._left:
                piece = data[position : position + self._left]
                pieces.append(piece)
                position += len(piece)
                self._left -= len(piece)
                continue
            taken = self._after_chunk(data, position) if self._in_chunk else self._line(data, position)
            if taken == position:
                self._partial = data[position:]
                return pieces
            position = taken
        if position < end:
            self.rest += data[position:]
        return pieces

    def eof(self) -> None:
        """Complain if the last chunk is missing."""
        if not self.finished:
            raise ProtocolError("the chunked body was cut short")

    def _after_chunk(self, data: bytes, position: int) -> int:
        if not b"\r\n".startswith(data[position : position + 2]):
            raise ProtocolError("a chunk is not followed by CRLF")
        if len(data) - position < 2:
            return position
        self._in_chunk = False
        return position + 2

    def _line(self, data: bytes, position: int) -> int:
        """Take one line of the framing; give `position` back if it is not complete."""
        stop = data.find(b"\n", position)
        if (len(data) if stop < 0 else stop) - position > MAX_CHUNK_LINE:
            raise ProtocolError(f"a line of the chunked coding is longer than {MAX_CHUNK_LINE} bytes")
        if stop < 0:
            return position
        if stop == position or data[stop - 1] != 0x0D:
            raise ProtocolError("a line of the chunked coding ends with a bare LF")
        line = data[position : stop - 1]
        if self._in_trailers:
            self._trailer(line)
        else:
            self._size(line)
        return stop + 1

    def _size(self, line: bytes) -> None:
        found = _CHUNK_LINE.fullmatch(line)
        if found is None:
            raise ProtocolError("a chunk size is not a hexadecimal number of at most 16 digits")
        size = int(found[1], 16)
        if size > MAX_LENGTH:
            raise ProtocolError("a chunk size is larger than 2**63 - 1")
        self._extensions += len(found[2])
        if self._extensions > MAX_CHUNK_EXTENSIONS:
            raise ProtocolError(f"the chunk extensions are longer than {MAX_CHUNK_EXTENSIONS} bytes")
        self._left = size
        self._in_chunk = size > 0
        self._in_trailers = size == 0

    def _trailer(self, line: bytes) -> None:
        if not line:
            self.finished = True
            return
        if b"\r" in line or b"\0" in line:
            raise ProtocolError("a trailer contains a control character")
        self._trailers += len(line) + 2
        if self._trailers > MAX_TRAILERS:
            raise ProtocolError(f"the trailers are longer than {MAX_TRAILERS} bytes")


def decoder_for(framing: Framing) -> BodyDecoder:
    """Make the decoder that fits `framing`."""
    match framing:
        case Length(size):
            return LengthDecoder(size)
        case Chunked():
            return ChunkedDecoder()
        case UntilClose():
            return UntilCloseDecoder()
        case NoBody():
            return NoBodyDecoder()


def encode_chunk(pieces: list[bytes]) -> list[bytes]:
    """Make one chunk of `pieces`, which must not all be empty (that would end the body)."""
    return [b"%x\r\n" % sum(map(len, pieces)), *pieces, b"\r\n"]
