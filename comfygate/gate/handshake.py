"""What a client's request for a WebSocket becomes on its way to a backend."""

from __future__ import annotations

from urllib.parse import parse_qsl

from attrs import evolve, frozen

from comfygate.http1 import RequestHead
from comfygate.routes import plain_path

_NOT_PASSED = frozenset(
    b"connection upgrade host origin keep-alive te trailer transfer-encoding content-length expect "
    b"proxy-connection proxy-authorization".split()
)
_SHOWN = frozenset(
    {b"upgrade", b"connection", b"sec-websocket-version", b"sec-websocket-key", b"sec-websocket-protocol"}
)


@frozen
class Wanted:
    """What a client wants of a backend, in the backend's words.

    :ivar target: as it came, but with a clientId.
    :ivar fields: the head behind its Host, without ``Sec-WebSocket-Key`` and
        the empty line.
    :ivar subprotocols: what the client offers.
    """

    target: bytes
    fields: bytes
    subprotocols: tuple[str, ...] = ()

    @classmethod
    def from_head(cls, head: RequestHead, client_id: str | None) -> Wanted:
        """Translate a client's request.

        The target goes as it came, and so do the end-to-end headers (RFC 9110,
        section 7.6.1).  There is no Origin: the gate has checked it.

        :param client_id: what was made up for a client that has none.
        """
        named = {
            token.strip().lower()
            for name, value in head.headers
            if name.lower() == b"connection"
            for token in value.split(b",")
        }
        offered = [value for name, value in head.headers if name.lower() == b"sec-websocket-protocol"]
        passed = [
            (name, value)
            for name, value in head.headers
            if name.lower() not in _NOT_PASSED
            and name.lower() not in named
            and not name.lower().startswith(b"sec-websocket-")
        ]
        lines = [
            b"Upgrade: websocket",
            b"Connection: Upgrade",
            b"Sec-WebSocket-Version: 13",
            *(b"%s: %s" % header for header in passed),
            *(b"Sec-WebSocket-Protocol: %s" % value for value in offered),
            b"",
        ]
        subprotocols = tuple(part.strip().decode("latin-1") for value in offered for part in value.split(b","))
        return cls(_with_client_id(head.target, client_id), b"\r\n".join(lines), subprotocols)

    @classmethod
    def under_alias(cls, head: RequestHead, alias: str) -> Wanted:
        """The same for a backend that knows the client by another id, and has no subprotocols."""
        path, _, query = head.target.partition(b"?")
        rest = [part for part in query.split(b"&") if part and not _names_client(part)]
        target = b"%b?%b" % (path, b"&".join([b"clientId=" + alias.encode("ascii"), *rest]))
        headers = tuple(one for one in head.headers if one[0].lower() != b"sec-websocket-protocol")
        return cls.from_head(evolve(head, target=target, headers=headers), None)

    def request(self, host: str, port: int) -> bytes:
        """The head for the backend at `host`:`port`; its Host is one that ComfyUI takes for its own."""
        shown = f"[{host}]" if ":" in host else host
        return b"GET %b HTTP/1.1\r\nHost: %b:%d\r\n%b" % (self.target, shown.encode(), port, self.fields)


def _with_client_id(target: bytes, client_id: str | None) -> bytes:
    # ComfyUI takes the first, even if a second one is not empty.
    if client_id is None:
        return target
    path, _, query = target.partition(b"?")
    return b"%b?clientId=%b%b" % (path, client_id.encode("ascii"), b"&" + query if query else b"")


def _names_client(part: bytes) -> bool:
    return any(name == "clientId" for name, _ in parse_qsl(part.decode("utf-8", "replace"), keep_blank_values=True))


def is_comfyuis(target: bytes) -> bool:
    """Whether a WebSocket is ComfyUI's own, and not one of a custom node."""
    return plain_path(target.partition(b"?")[0]) == b"/ws"


def client_id_of(target: bytes) -> str | None:
    """The clientId that ComfyUI will take from a request's target.

    Only its own WebSocket has one; what a custom node's may mean by the name
    is its own business.
    """
    query = target.partition(b"?")[2]
    if not is_comfyuis(target):
        return None
    for name, value in parse_qsl(query.decode("utf-8", "replace"), keep_blank_values=True):
        if name == "clientId":
            return value or None
    return None


def handshake_of(head: RequestHead) -> bytes:
    """A request that asks for a WebSocket as `head` does, and nothing else."""
    lines = [b"%s / HTTP/1.1" % head.method, b"Host: localhost"]
    lines += [b"%s: %s" % (name, value) for name, value in head.headers if name.lower() in _SHOWN]
    return b"\r\n".join([*lines, b"", b""])
