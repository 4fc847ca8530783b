"""Field lines of HTTP/1.1 messages (RFC 9110, section 5; RFC 9112, section 5).

No I/O.  Names are re-exported by :mod:`comfygate.http1`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from attrs import frozen

from comfygate.errors import GateError
from comfygate.http1_body import ProtocolError

Headers = tuple[tuple[bytes, bytes], ...]

MAX_HEADERS = 128  #: field lines; ComfyUI's aiohttp takes no more
MAX_LINE = 8190  #: bytes of one line; ComfyUI's aiohttp takes no more

#: Fields for one connection only (RFC 9110, section 7.6.1; RFC 9112, section 6.1).
HOP_BY_HOP = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
# Field lines of a request: RFC 9110, section 5.5, without any control character but HTAB.
_FIELD = rb"(%b++):[ \t]*+([\t\x20-\x7e\x80-\xff]*+)\r\n" % TOKEN
_FIELDS = re.compile(rb"(?:%b)*+" % _FIELD.replace(b"(", b"(?:"))
_EACH_FIELD = re.compile(_FIELD)
# Answers may hold other control characters in a value; CR, LF and NUL never.
_LOOSE_FIELDS = re.compile(rb"\r\n(?:%b++:[^\r\n\0]*+\r\n)*+" % TOKEN)
# What of an answer says where it ends, and what is for one connection (RFC 9112, section 6; RFC 9110, section 7.6.1).
_DECISIVE = re.compile(
    rb"\r\n(%b):[ \t]*+([^\r\n]*+)" % b"|".join(sorted(HOP_BY_HOP | {b"content-length"})), re.IGNORECASE
)
LINE_BREAK = re.compile(rb"\r(?!\n)|(?<!\r)\n")


@frozen(eq=False)
class Index:
    """Field lines by name.

    :ivar lines: in order, names as sent.
    :ivar last: the last value of each name, in lower case.
    :ivar known: whether the same lines, if they come again, give this same object.
    """

    lines: Headers
    last: dict[bytes, bytes]
    known: bool = False

    def all(self, name: bytes) -> list[bytes]:
        """Every value of a field (lower case), in order."""
        if name not in self.last:
            return []
        if len(self.last) == len(self.lines):  # none is there twice
            return [self.last[name]]
        return [value for sent, value in self.lines if sent.lower() == name]

    def first(self, name: bytes) -> bytes | None:
        """The first value of a field (lower case), if it is there."""
        found = self.all(name)
        return found[0] if found else None

    def members(self, name: bytes) -> list[bytes]:
        """The lower-case members of a list field (RFC 9110, section 5.6.1)."""
        found = self.all(name)
        if not found:
            return found
        return [item for value in found for item in (part.strip(b" \t").lower() for part in value.split(b",")) if item]


def index_of(headers: Headers, *, known: bool = False) -> Index:
    """Make it possible to find a field without looking at all."""
    return Index(headers, {name.lower(): value for name, value in headers}, known)


def parse_fields(block: bytes) -> Headers:
    """Take the field lines of a request apart.

    :param block: all of them, each with its CRLF.
    :raises GateError: 400 bad_request or 431 header_too_large; ``details`` says what was wrong.
    """
    if not _FIELDS.fullmatch(block):
        raise _diagnosis(block)
    headers = tuple(_EACH_FIELD.findall(block))
    if b" \r\n" in block or b"\t\r\n" in block:  # RFC 9110, section 5.5: what stands behind a value is no part of it
        headers = tuple([(name, value.rstrip(b" \t")) for name, value in headers])
    if len(headers) > MAX_HEADERS:
        raise too_large(f"there are more than {MAX_HEADERS} headers")
    if len(block) > MAX_LINE and any(len(line) > MAX_LINE for line in block.split(b"\r\n")):
        raise too_large(f"a header line is longer than {MAX_LINE} bytes")
    return headers


def decisive_fields(block: bytes) -> tuple[list[bytes], Headers]:
    """Check the field lines of an answer, and take apart what whoever relays it has to know.

    :param block: all of them, from the CRLF before the first to that of the last.
    :return: each Content-Length, and the fields that are for one connection.
    :raises ProtocolError: if they cannot be relayed safely.
    """
    if not _LOOSE_FIELDS.fullmatch(block):
        raise ProtocolError("the head of the answer is not valid")
    if block.count(b"\r\n") > MAX_HEADERS + 1:
        raise ProtocolError(f"the answer has more than {MAX_HEADERS} headers")
    lengths, others = [], []
    for name, value in _DECISIVE.findall(block):
        if name.lower() == b"content-length":
            lengths.append(value.rstrip(b" \t"))
        else:
            others.append((name, value.rstrip(b" \t")))
    return lengths, tuple(others)


def _diagnosis(block: bytes) -> GateError:
    """Say what is wrong with a block of field lines."""
    if LINE_BREAK.search(block):
        return bad("a line of the head does not end with CRLF")
    for line in block.split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if line[:1] in (b" ", b"\t"):
            return bad("a header is folded over several lines")
        if line and not colon:
            return bad("a header has no colon")
        if name[-1:] in (b" ", b"\t"):
            return bad("there is a space between a header's name and its colon")
        if re.search(rb"[\x00-\x08\x0a-\x1f\x7f]", value):
            return bad("a header's value contains a control character")
    return bad("a header's name is empty or contains a character that is not allowed there")


def hop_by_hop(index: Index) -> frozenset[bytes]:
    """Names (lower case) of fields that are not to be passed on (RFC 9110, section 7.6.1); empty, if none is there.

    Content-Length and Host are passed on, even where Connection names them.
    """
    if HOP_BY_HOP.isdisjoint(index.last):
        return frozenset()
    return HOP_BY_HOP.union(index.members(b"connection")) - {b"content-length", b"host"}


def end_to_end(index: Index) -> Headers:
    """Leave out what belongs to one connection only.

    Order, names as sent and duplicates are kept.
    """
    dropped = hop_by_hop(index)
    if not dropped:
        return index.lines
    return tuple([header for header in index.lines if header[0].lower() not in dropped])


def without(block: bytes, names: frozenset[bytes]) -> bytes:
    """Leave field lines out; the others stay as they are.

    :param block: each line with its CRLF.
    :param names: of fields, in lower case.
    """
    if not names:
        return block
    lines = block.split(b"\r\n")
    return b"\r\n".join([line for line in lines if line.partition(b":")[0].lower() not in names])


def serialise_fields(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Write field lines, and the empty line behind them."""
    return b"".join([b"%b: %b\r\n" % header for header in headers]) + b"\r\n"


def bad(details: str) -> GateError:
    """What is not HTTP/1.1."""
    return GateError(400, "bad_request", "The request is not valid HTTP/1.1.", details)


def too_large(details: str) -> GateError:
    """A head with more in it than is taken."""
    return GateError(431, "header_too_large", "The request's headers are too large.", details)
