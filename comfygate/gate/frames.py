"""Takes the common kind of WebSocket messages off a stream: one unmasked data frame each (RFC 6455, section 5.2).

No I/O.  That is all that a ComfyUI sends but for pings and the end, and a
parser that knows no more takes a tenth of the time.  Everything else is left
for one that knows all.
"""

from __future__ import annotations

from attrs import frozen

Data = bytes | memoryview
"""Bytes off the wire; a view is of a buffer that is only lent."""

_TEXT, _BINARY = 0x81, 0x82  # with FIN, and no extension
_COMMON = (_TEXT, _BINARY)
_NEVER = (1 << 64, 0)


@frozen(eq=False)
class Frame:
    """A message, in the frame that it came in.

    :ivar wire: the whole frame, which a server may send to a client as it is.
    :ivar binary: whether it is no text.
    """

    wire: Data
    binary: bool
    _start: int

    @property
    def payload(self) -> bytes:
        """The message."""
        return bytes(self.wire[self._start :])


class FrameReader:
    """Gathers the messages of one connection.

    :param most: bytes of a message; what is larger is left for the other parser.
    :ivar missing: bytes of a message that has begun and is not complete.
    """

    __slots__ = ("_binary", "_most", "_pieces", "_start", "missing")

    def __init__(self, most: int) -> None:
        self.missing = 0
        self._most = most
        self._pieces: list[bytes] = []  # of a frame, from its first byte on
        self._binary = False
        self._start = 0

    def feed(self, data: Data) -> tuple[list[Frame], Data]:
        """Take bytes off the wire; the first is the first of a frame, or follows what was fed before.

        :return: the messages that are complete now, and what the other parser
            has to be fed: from the first frame on that is not of the common
            kind, or whose head is not all there.
        """
        found: list[Frame] = []
        at, size = 0, len(data)
        if self.missing:
            at = min(self.missing, size)
            self._gather(data[:at], found)
        while at < size:
            start, length = _payload(data, at)
            end = start + length
            if start > size or length > self._most:
                break
            if end > size:
                self._binary, self._start, self.missing = data[at] == _BINARY, start - at, end - at
                self._gather(data[at:], found)
                return found, b""
            found.append(Frame(data[at:end], data[at] == _BINARY, start - at))
            at = end
        return found, data[at:]

    def _gather(self, piece: Data, found: list[Frame]) -> None:
        self._pieces.append(bytes(piece))
        self.missing -= len(piece)
        if not self.missing:
            found.append(Frame(b"".join(self._pieces), self._binary, self._start))
            self._pieces.clear()


def _payload(data: Data, at: int) -> tuple[int, int]:
    """Where the payload of a frame begins, and how long it is; never, if it is not of the common kind."""
    if len(data) - at < 2 or data[at] not in _COMMON:
        return _NEVER
    length, start = data[at + 1], at + 2
    if length < 126:
        return start, length
    if length > 127:  # masked
        return _NEVER
    digits, least = (2, 126) if length == 126 else (8, 65536)
    length = int.from_bytes(data[start : start + digits], "big")
    # A length that is not in the shortest form is for the other parser to refuse.
    return (start + digits, length) if length >= least else _NEVER
