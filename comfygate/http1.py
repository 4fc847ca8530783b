"""HTTP/1.1 message heads (RFC 9110, RFC 9112): strict parsing, framing, serialisation.

No I/O and no state.  A request head that could be understood in two ways is
refused, so that no backend ever sees it; the answer of a backend is held to
the same framing rules, because a wrong one desynchronises its connection.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

from attrs import field, frozen

from comfygate.errors import GateError
from comfygate.http1_body import (
    LAST_CHUNK,
    MAX_LENGTH,
    NOTHING_LEFT,
    BodyDecoder,
    Chunked,
    Framing,
    Length,
    LengthDecoder,
    NoBody,
    ProtocolError,
    UntilClose,
    decoder_for,
    encode_chunk,
)
from comfygate.http1_fields import (
    HOP_BY_HOP,
    LINE_BREAK,
    MAX_HEADERS,
    MAX_LINE,
    TOKEN,
    Headers,
    Index,
    bad,
    decisive_fields,
    end_to_end,
    hop_by_hop,
    index_of,
    parse_fields,
    serialise_fields,
    too_large,
    without,
)

__all__ = [
    "HOP_BY_HOP",
    "LAST_CHUNK",
    "MAX_HEAD",
    "MAX_HEADERS",
    "MAX_LINE",
    "NOTHING_LEFT",
    "BodyDecoder",
    "Chunked",
    "Framing",
    "Headers",
    "Index",
    "Length",
    "LengthDecoder",
    "NoBody",
    "ProtocolError",
    "RequestHead",
    "ResponseHead",
    "UntilClose",
    "decoder_for",
    "encode_chunk",
    "end_to_end",
    "index_of",
    "parse_request_head",
    "parse_response_head",
    "request_head_end",
    "response_head_end",
    "serialise_fields",
    "serialise_response",
    "serialise_status",
    "without",
]

MAX_HEAD = 64 * 1024  #: bytes of a whole head
_REMEMBERED = 256  # blocks of field lines
_WORTH_REMEMBERING = 2048  # bytes of one
MAX_EMPTY_LINES = 2  #: CRLFs skipped before a request line

_REQUEST_LINE = re.compile(rb"(%b++) ([^ ]++) HTTP/([0-9])\.([0-9])" % TOKEN)
_METHOD_START = re.compile(rb"%b|\r" % TOKEN)
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: ([\t\x20-\x7e\x80-\xff]*+))?")
_TARGET = re.compile(rb"/[\x21\x22\x24-\x7e]*+")  # visible ASCII; a "#" never belongs in a target
_ABSOLUTE = re.compile(rb"(?i:http)://([^/?#]*+)(.*+)", re.DOTALL)
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9\-._~!$&'()*+;=%]{1,255})(?::[0-9]{0,5})?")
_NUMBER = re.compile(rb"[0-9]{1,19}")


@frozen(kw_only=True)
class RequestHead:
    """A request's head.

    :ivar target: origin-form (or ``*``), byte for byte as sent.
    :ivar headers: field lines in order, names as sent, duplicates kept.
    :ivar framing: never UntilClose.
    :ivar keep_alive: whether the client means to send more (RFC 9112, section 9.3).
    :ivar upgrade: the protocol asked for, in lower case, such as ``b"websocket"``.
    :ivar expects_continue: whether the client waits for a 100 before its body.
    """

    method: bytes
    target: bytes
    version: tuple[int, int] = (1, 1)
    headers: Headers = ()
    framing: Framing = field(factory=NoBody)
    keep_alive: bool = True
    upgrade: bytes | None = None
    expects_continue: bool = False
    _index: Index | None = field(init=False, default=None, eq=False, repr=False)

    @property
    def path(self) -> bytes:
        """The target up to its query, still percent-encoded."""
        return self.target.partition(b"?")[0]

    @property
    def index(self) -> Index:
        """The headers by name."""
        index = self._index
        if index is None:
            index = index_of(self.headers)
            object.__setattr__(self, "_index", index)
        return index

    def get(self, name: bytes) -> bytes | None:
        """Give the first value of the field `name` (lower case), if it was sent."""
        return self.index.first(name)


@frozen(kw_only=True)
class ResponseHead:
    """An answer's head.

    :ivar hop_by_hop: names (lower case) of fields that are for its connection alone; empty, if none is there.
    :ivar keep_alive: whether its connection outlives it.
    """

    status: int
    reason: bytes = b""
    hop_by_hop: frozenset[bytes] = frozenset()
    framing: Framing = field(factory=NoBody)
    keep_alive: bool = True


def request_head_end(data: bytes | bytearray, scanned: int = 0) -> int:
    """Find where a request head ends.

    :param data: all bytes since the end of the message before.
    :param scanned: how many of them were looked at before, in vain.
    :return: the number of bytes of the head with its empty line, or -1.
    :raises GateError: as soon as it is clear that no acceptable head will come:
        400 for a line that does not end with CRLF, 414 or 431 for one too long.
    """
    start = _empty_lines(data)
    end = data.find(b"\r\n\r\n", max(start, scanned - 3))
    if end >= 0:
        if end + 4 > MAX_HEAD:
            raise too_large(f"the head is longer than {MAX_HEAD} bytes")
        return end + 4
    _check_unfinished(data, start, scanned)
    return -1


def _check_unfinished(data: bytes | bytearray, start: int, scanned: int) -> None:
    # A CR at the end may yet get its LF.
    if LINE_BREAK.search(data, max(start, scanned - 1), len(data) - data.endswith(b"\r")):
        raise bad("a line of the head does not end with CRLF")
    if len(data) > start and not _METHOD_START.match(data, start):
        raise bad("the request line is not METHOD, target and HTTP version with one space between")
    if len(data) > MAX_HEAD:
        raise too_large(f"the head is longer than {MAX_HEAD} bytes")
    first = data.find(b"\r\n", start)
    if (first if first >= 0 else len(data)) - start > MAX_LINE + 1:
        raise _too_long()
    if first >= 0 and len(data) - data.rfind(b"\r\n") - 2 > MAX_LINE + 1:
        raise too_large(f"a header line is longer than {MAX_LINE} bytes")


def parse_request_head(data: bytes) -> RequestHead:
    """Parse a complete head, from the request line to the empty line.

    An absolute-form target is taken apart: its authority replaces Host
    (RFC 9112, section 3.2.2).

    :raises GateError: 400 bad_request, 414 uri_too_long, 431 header_too_large,
        501 not_implemented (a transfer coding other than chunked), 505
        version_not_supported; ``details`` says what was wrong.
    """
    start = _empty_lines(data)
    stop = data.find(b"\r\n", start)
    if len(data) > MAX_HEAD:
        raise too_large(f"the head is longer than {MAX_HEAD} bytes")
    if stop - start > MAX_LINE:
        raise _too_long()
    method, target, version = _request_line(data[start:stop])
    block = data[stop + 2 : -2]
    rest = (_rest if len(block) <= _WORTH_REMEMBERING else _rest.__wrapped__)(block, version)
    authority, target = _target(method, target)
    index = rest.index if authority is None else _with_host(rest.index, authority)
    head = RequestHead(
        method=method,
        target=target,
        version=version,
        headers=index.lines,
        framing=rest.framing,
        keep_alive=rest.keep_alive,
        upgrade=rest.upgrade,
        expects_continue=rest.expects_continue,
    )
    object.__setattr__(head, "_index", index)
    return head


@frozen(eq=False)
class _Rest:
    """What the field lines of a request say."""

    index: Index
    framing: Framing
    keep_alive: bool
    upgrade: bytes | None
    expects_continue: bool


# A client says the same about itself with each request.
@lru_cache(_REMEMBERED)
def _rest(block: bytes, version: tuple[int, int]) -> _Rest:
    index = index_of(parse_fields(block), known=len(block) <= _WORTH_REMEMBERING)
    _check_host(index.all(b"host"), version)
    connection = index.members(b"connection")
    return _Rest(
        index,
        _request_framing(index, version),
        _keep_alive(version, connection),
        _upgrade(index, version, connection),
        version == (1, 1) and (index.first(b"expect") or b"").lower() == b"100-continue",
    )


def _empty_lines(data: bytes | bytearray) -> int:
    """RFC 9112, section 2.2: empty lines before a request line are ignored."""
    start = 0
    while data.startswith(b"\r\n", start):
        start += 2
        if start > 2 * MAX_EMPTY_LINES:
            raise bad("there are empty lines where a request should be")
    return start


def _request_line(line: bytes) -> tuple[bytes, bytes, tuple[int, int]]:
    """RFC 9112, section 3."""
    found = _REQUEST_LINE.fullmatch(line)
    if found is None:
        raise bad("the request line is not METHOD, target and HTTP version with one space between")
    method, target, major, minor = found.groups()
    if major != b"1" or minor not in (b"0", b"1"):
        raise GateError(505, "version_not_supported", "Only HTTP/1.0 and HTTP/1.1 are spoken here.")
    return method, target, (1, int(minor))


def _target(method: bytes, target: bytes) -> tuple[bytes | None, bytes]:
    """RFC 9112, section 3.2: give the authority of an absolute-form, and the origin-form."""
    authority = None
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is not None:
        authority, target = absolute.groups()
        if not target.startswith(b"/"):
            target = b"*" if method == b"OPTIONS" and not target else b"/" + target
    if _TARGET.fullmatch(target) or (target == b"*" and method == b"OPTIONS"):
        return authority, target
    raise bad("the request target is not an absolute path of visible ASCII characters without '#'")


def _check_host(hosts: list[bytes], version: tuple[int, int]) -> None:
    """RFC 9112, section 3.2: exactly one Host, of the right form."""
    if len(hosts) > 1:
        raise bad("there is more than one Host header")
    if not hosts and version == (1, 1):
        raise bad("there is no Host header")
    for host in hosts:
        if not _HOST.fullmatch(host):
            raise bad("the Host is not a name or address with an optional port")


def _with_host(index: Index, authority: bytes) -> Index:
    """RFC 9112, section 3.2.2: the authority of an absolute-form replaces Host."""
    _check_host([authority], (1, 1))
    others = [(name, value) for name, value in index.lines if name.lower() != b"host"]
    return index_of((*others, (b"Host", authority)))


def _request_framing(index: Index, version: tuple[int, int]) -> Framing:
    """RFC 9112, section 6.3, without the leniencies that it allows."""
    codings, lengths = index.all(b"transfer-encoding"), index.all(b"content-length")
    if codings:
        if lengths:
            raise bad("there are both Content-Length and Transfer-Encoding")
        if version == (1, 0):
            raise bad("there is a Transfer-Encoding in HTTP/1.0")
        if len(codings) > 1:
            raise bad("there is more than one Transfer-Encoding")
        if codings[0].lower() != b"chunked":
            raise GateError(501, "not_implemented", "No transfer coding but chunked is understood.")
        return Chunked()
    try:
        return _length(lengths) or NoBody()
    except ProtocolError as error:
        raise bad(str(error)) from None


def _length(lengths: list[bytes]) -> Length | None:
    if not lengths:
        return None
    if len(lengths) > 1:
        raise ProtocolError("there is more than one Content-Length")
    if not _NUMBER.fullmatch(lengths[0]) or int(lengths[0]) > MAX_LENGTH:
        raise ProtocolError("the Content-Length is not a number of at most 2**63 - 1")
    return Length(int(lengths[0]))


def _keep_alive(version: tuple[int, int], connection: list[bytes]) -> bool:
    """RFC 9112, section 9.3."""
    if b"close" in connection:
        return False
    return version == (1, 1) or b"keep-alive" in connection


def _upgrade(index: Index, version: tuple[int, int], connection: list[bytes]) -> bytes | None:
    """RFC 9110, section 7.8: only with the Connection option, and not in HTTP/1.0."""
    if version == (1, 0) or b"upgrade" not in connection:
        return None
    wanted = index.members(b"upgrade")
    return wanted[0] if wanted else None


def response_head_end(data: bytes | bytearray, scanned: int = 0) -> int:
    """Find where an answer's head ends, as :func:`request_head_end` does.

    :raises ProtocolError: if no acceptable head will come.
    """
    if not data.startswith(b"HTTP/1.") and not b"HTTP/1.".startswith(data[:7]):
        raise ProtocolError("the answer does not begin with HTTP/1")
    end = data.find(b"\r\n\r\n", scanned - 3 if scanned > 3 else 0) + 4
    if (end if end >= 4 else len(data)) > MAX_HEAD:
        raise ProtocolError(f"the head of the answer is longer than {MAX_HEAD} bytes")
    return end if end >= 4 else -1


def parse_response_head(data: bytes, request_method: bytes) -> ResponseHead:
    """Parse the complete head of an answer to a request with `request_method`.

    :raises ProtocolError: if it cannot be relayed safely.
    """
    stop = data.find(b"\r\n")
    line = _STATUS_LINE.fullmatch(data, 0, stop)
    if line is None:
        raise ProtocolError("the status line is not valid")
    if len(data) > MAX_HEAD:
        raise ProtocolError("the head of the answer is too long")
    minor, code, reason = line.groups()
    status = int(code)
    lengths, others = decisive_fields(data[stop:-2])
    terms = (_terms if len(data) <= _WORTH_REMEMBERING else _terms.__wrapped__)(minor, others)
    framing = _response_framing(terms, _length(lengths), status, request_method)
    return ResponseHead(
        status=status,
        reason=reason or b"",
        hop_by_hop=terms.hop_by_hop,
        framing=framing,
        keep_alive=terms.keep_alive and not isinstance(framing, UntilClose),
    )


@frozen
class _Terms:
    """What an answer says of its connection: all that decides but the length, which is another each time."""

    hop_by_hop: frozenset[bytes]
    chunked: bool
    keep_alive: bool


# A backend says the same with each answer.
@lru_cache(_REMEMBERED)
def _terms(minor: bytes, headers: Headers) -> _Terms:
    index, version = index_of(headers), (1, int(minor))
    codings = index.all(b"transfer-encoding")
    if codings and version == (1, 0):
        raise ProtocolError("there is a Transfer-Encoding in HTTP/1.0")
    if codings and [coding.lower() for coding in codings] != [b"chunked"]:
        raise ProtocolError("the answer has a transfer coding other than chunked")
    return _Terms(hop_by_hop(index), bool(codings), _keep_alive(version, index.members(b"connection")))


def _response_framing(terms: _Terms, length: Length | None, status: int, method: bytes) -> Framing:
    """RFC 9112, section 6.3."""
    if terms.chunked and length is not None:
        raise ProtocolError("the Transfer-Encoding contradicts the Content-Length")
    if method == b"HEAD" or status < 200 or status in (204, 304):
        return NoBody()
    if terms.chunked:
        return Chunked()
    return length or UntilClose()


def serialise_response(status: int, reason: bytes, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Write the head of an answer in HTTP/1.1."""
    return serialise_status(status, reason) + serialise_fields(headers)


def serialise_status(status: int, reason: bytes) -> bytes:
    """Write a status line."""
    return b"HTTP/1.1 %d %b\r\n" % (status, reason)


def _too_long() -> GateError:
    return GateError(
        414, "uri_too_long", "The request's address is too long.", f"the request line is longer than {MAX_LINE} bytes"
    )
