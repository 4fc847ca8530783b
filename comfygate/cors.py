"""Which pages of other origins may use the ports, and what their browsers are told (Fetch standard, CORS protocol).

There is no ``Access-Control-Allow-Credentials``: neither ComfyUI nor the gate
has a login, so it could only open one that a proxy in front of them asks for,
to pages that never saw it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from comfygate.errors import GateError
from comfygate.http1 import Headers, RequestHead
from comfygate.origin import host_of

ANY = "*"
OPAQUE = "null"  #: what pages without an origin call it: opened from a file, or sandboxed

VARY: Headers = ((b"Vary", b"Origin"),)
"""For every answer: what a cache took without an Origin must not be shown to a page that has one."""

ANSWER_FIELDS = frozenset(
    {
        b"access-control-allow-credentials",
        b"access-control-allow-headers",
        b"access-control-allow-methods",
        b"access-control-allow-origin",
        b"access-control-allow-private-network",
        b"access-control-expose-headers",
        b"access-control-max-age",
    }
)
"""Names of fields that only the gate may send to a page of another origin."""

# Without credentials, "*" stands for every field, those of custom nodes too.
_EXPOSED = (b"Access-Control-Expose-Headers", b"*")
_METHODS = (b"Access-Control-Allow-Methods", b"DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT")
_MAX_AGE = (b"Access-Control-Max-Age", b"7200")  # no browser but one remembers it for longer
_MAX_NAMES = 64
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}")
_ORIGIN = re.compile(rb"null|[a-z][a-z0-9+.\-]*://[!-~]+", re.IGNORECASE)


class Origins:
    """The origins whose pages may use a port besides its own.

    :param allowed: as browsers write them, such as ``https://tools.example``;
        ``null`` for pages without one, ``*`` for all.
    """

    def __init__(self, allowed: Iterable[str]) -> None:
        self._allowed = frozenset(origin.encode("ascii") for origin in allowed)
        self._any = ANY.encode("ascii") in self._allowed

    def foreign(self, head: RequestHead) -> bytes | None:
        """The origin of the page that asks, if it is allowed and not this port's own.

        The port's own page is known by Host; it needs no permission.
        """
        origin = head.get(b"origin")
        if origin is None or not _ORIGIN.fullmatch(origin):
            return None
        if not self._any and origin.lower() not in self._allowed:
            return None
        host = head.get(b"host")
        return None if host is not None and host_of(origin) == host.lower() else origin


def answer_headers(origin: bytes) -> Headers:
    """The fields that let a page of `origin` read an answer."""
    return ((b"Access-Control-Allow-Origin", origin), _EXPOSED, *VARY)


def is_preflight(head: RequestHead) -> bool:
    """Whether a browser asks if it may send a request."""
    return (
        head.method == b"OPTIONS"
        and head.get(b"origin") is not None
        and head.get(b"access-control-request-method") is not None
    )


def preflight_headers(origin: bytes, head: RequestHead) -> Headers:
    """The fields that let a browser send, for a page of `origin`, what it asks for.

    :raises GateError: 400 if it asks for what cannot be the name of a field.
    """
    found = [(b"Access-Control-Allow-Origin", origin), _METHODS]
    names = _requested(head)
    if names:
        found.append((b"Access-Control-Allow-Headers", b", ".join(names)))
    if (head.get(b"access-control-request-private-network") or b"").lower() == b"true":
        found.append((b"Access-Control-Allow-Private-Network", b"true"))
    return (*found, _MAX_AGE, *VARY)


def _requested(head: RequestHead) -> list[bytes]:
    """The names of fields that a preflight asks for."""
    values = [value for name, value in head.headers if name.lower() == b"access-control-request-headers"]
    names = [name for value in values for name in (part.strip(b" \t") for part in value.split(b",")) if name]
    if len(names) > _MAX_NAMES or not all(map(_TOKEN.fullmatch, names)):
        details = f"Access-Control-Request-Headers must list at most {_MAX_NAMES} names of header fields."
        raise GateError(400, "invalid_preflight", "The browser's question cannot be answered", details)
    return names
