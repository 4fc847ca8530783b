"""What a message's head becomes on its way through a port (RFC 9110, section 7.6).  No I/O and no state."""

from __future__ import annotations

from functools import lru_cache

from attrs import frozen

from comfygate.gate.answers import connection_option
from comfygate.gate.site import Relay
from comfygate.http1 import (
    MAX_HEADERS,
    Chunked,
    Headers,
    Index,
    Length,
    NoBody,
    RequestHead,
    ResponseHead,
    UntilClose,
    end_to_end,
    parse_response_head,
    serialise_fields,
    serialise_status,
    without,
)

_REMEMBERED = 256
_UNBOUNDED = (Chunked, UntilClose)


def request_for(head: RequestHead, relay: Relay, peer: str) -> bytes:
    """Write the head that the upstream is sent: end-to-end fields in order, ours last."""
    write = _fields if head.index.known else _fields.__wrapped__
    fields = write(
        head.index,
        head.version == (1, 0),
        isinstance(head.framing, Chunked),
        relay.host,
        relay.drop_headers,
        relay.only_headers,
        relay.extra_headers,
        peer,
    )
    return b"%b %b HTTP/1.1\r\n%b" % (head.method, head.target, fields)


# A client says the same about itself with each request.
@lru_cache(_REMEMBERED)
def _fields(
    index: Index,
    old: bool,
    chunked: bool,
    host: bytes,
    dropped: frozenset[bytes],
    only: frozenset[bytes] | None,
    extra: Headers,
    peer: str,
) -> bytes:
    dropped |= {b"host", b"expect"} if old else {b"host"}  # RFC 9110, section 10.1.1
    headers = [(b"Host", host)]
    for header in end_to_end(index):
        name = header[0].lower()
        if name not in dropped and (only is None or name in only):
            headers.append(header)
    if chunked:
        headers.append((b"Transfer-Encoding", b"chunked"))
    headers += extra
    forwarded = _forwarded(index, peer) if only is None else []
    if len(headers) + len(forwarded) <= MAX_HEADERS:  # never more than the backend takes
        headers += forwarded
    return serialise_fields(headers)


def _forwarded(index: Index, peer: str) -> list[tuple[bytes, bytes]]:
    found = [(b"X-Forwarded-For", peer.encode())] if peer else []
    host = index.first(b"host")
    if host is not None and b"x-forwarded-host" not in index.last:
        found.append((b"X-Forwarded-Host", host))
    if b"x-forwarded-proto" not in index.last:
        found.append((b"X-Forwarded-Proto", b"http"))
    return found


@frozen
class Translation:
    """An answer's head, understood and written anew.

    :ivar raw: as it came.
    :ivar answer: what it says.
    :ivar text: as the client is sent it.
    :ivar is_unchanged: whether that is the same.
    :ivar size: bytes of body that follow; None if only its end will tell.
    :ivar chunked: whether the client is sent the body in chunks.
    :ivar keep_alive: whether the client's connection outlives the answer.
    """

    raw: bytes
    answer: ResponseHead
    text: bytes
    is_unchanged: bool
    size: int | None
    chunked: bool
    keep_alive: bool

    def anew(self, data: bytes) -> bytes:
        """The whole answer `data`, with this head."""
        return self.text + data[len(data) - (self.size or 0) :]


def translate(raw: bytes, asked: RequestHead, relay: Relay, keep_alive: bool) -> Translation:
    """Read the head of an answer, and write what the client is told.

    :param raw: the head with its empty line.
    :param keep_alive: whether the client's connection may outlive the answer.
    :raises ProtocolError: if it cannot be relayed safely.
    """
    answer = parse_response_head(raw, asked.method)
    framing = answer.framing
    unbounded = isinstance(framing, _UNBOUNDED)
    chunked = unbounded and asked.version == (1, 1)
    keep_alive = keep_alive and (chunked or not unbounded)
    dropped = answer.hop_by_hop
    added: Headers = ()
    if answer.status < 200 or answer.status == 204:  # RFC 9110, section 8.6
        dropped |= {b"content-length"}
    if answer.status >= 200:
        dropped, added = dropped | relay.withheld, relay.answer_headers
        if chunked:
            added += ((b"Transfer-Encoding", b"chunked"),)
        option = connection_option(asked.version, keep_alive)
        if option:
            added += ((b"Connection", option),)
    size = framing.size if isinstance(framing, Length) else 0 if isinstance(framing, NoBody) else None
    unchanged = not (dropped or added) and raw.startswith(b"HTTP/1.1")
    text = raw if unchanged else _anew(raw, answer, dropped, added)
    return Translation(raw, answer, text, unchanged, size, chunked, keep_alive)


def _anew(raw: bytes, answer: ResponseHead, dropped: frozenset[bytes], added: Headers) -> bytes:
    lines = without(raw[raw.find(b"\r\n") + 2 : -2], dropped)
    return serialise_status(answer.status, answer.reason) + lines + serialise_fields(added)
