"""Which requests the control plane must understand, and which cost a token."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum
from functools import lru_cache
from urllib.parse import unquote_to_bytes

from attrs import frozen

DEFAULT_METERED = ("POST *", "PUT *", "PATCH *", "DELETE *", "GET /queue", "GET /history", "GET /prompt")

_CONTROL = {
    b"/prompt": frozenset({b"GET", b"HEAD", b"POST"}),
    b"/queue": frozenset({b"GET", b"HEAD", b"POST"}),
    b"/queue/all": frozenset({b"GET", b"HEAD"}),
    b"/interrupt": frozenset({b"POST"}),
    b"/history": frozenset({b"GET", b"HEAD", b"POST"}),
}
_READ = frozenset({b"GET", b"HEAD"})
_POST = frozenset({b"POST"})
MASK = b"/upload/mask"
LOGS = b"/internal/logs/subscribe"
_MERGED = {
    b"/system_stats": _READ,
    b"/object_info": _READ,
    b"/features": _READ,
    b"/free": _POST,
    MASK: _POST,
    LOGS: frozenset({b"PATCH"}),
}
"""What several GPUs answer together."""
_OURS = b"/comfygate"
_METRICS = b"/metrics"
_HISTORY = re.compile(rb"/history/[^{}/]+", re.DOTALL)  # as aiohttp matches /history/{prompt_id}
_OBJECT_INFO = re.compile(rb"/object_info/[^{}/]+", re.DOTALL)
_JOBS = re.compile(rb"/jobs(/[^{}/]+)?", re.DOTALL)
_CANCEL = re.compile(rb"/jobs/([^{}/]+/)?cancel", re.DOTALL)


class Kind(Enum):
    """What a request is about, as far as it makes a difference; the values are what metrics show."""

    PROMPT = "prompt"
    QUEUE = "queue"
    HISTORY = "history"
    INTERRUPT = "interrupt"
    UPLOAD = "upload"  #: writes into the input folder, which all GPUs share
    VIEW = "view"
    USER = "user"  #: settings, saved workflows: the user folder, which has one writer
    WEBSOCKET = "websocket"
    GATE = "gate"  #: what only ComfyGate has
    OTHER = "other"  #: pages, node definitions, and whatever custom nodes add

    __hash__ = object.__hash__  # that of Enum runs Python code, for each request that is counted


_KINDS = {
    b"prompt": Kind.PROMPT,
    b"queue": Kind.QUEUE,
    b"history": Kind.HISTORY,
    b"interrupt": Kind.INTERRUPT,
    b"upload": Kind.UPLOAD,
    b"view": Kind.VIEW,
    b"view_metadata": Kind.VIEW,
    b"settings": Kind.USER,
    b"users": Kind.USER,
    b"userdata": Kind.USER,
    b"ws": Kind.WEBSOCKET,
    b"comfygate": Kind.GATE,
}


@frozen
class Route:
    """What a request is about.

    :ivar path: percent-decoded once, without the query and the ``/api`` prefix,
        so that the spelling of a path cannot lead around the gate.
    :ivar control: whether the control plane answers it.
    """

    method: bytes
    path: bytes
    kind: Kind
    control: bool


# Paths of 8 kB, as long as they may be, are 2 MiB in all.
@lru_cache(256)
def classify(method: bytes, path: bytes, *, several: bool) -> Route:
    """Tell what a request is about.

    :param method: as received; aiohttp's parser in Python, unlike that in C,
        takes a method in any case for the one in upper case.
    :param path: the request target up to its query, as received.
    :param several: whether the gate's set may hold several backends, so that
        no backend's own metrics are meant.
    """
    method, plain = method.upper(), plain_path(path)
    control = _is_control(method, plain, several) or (several and _is_merged(method, plain, path))
    return Route(method, plain, Kind.GATE if control and plain == _METRICS else _kind(plain), control)


def kind_of(path: bytes) -> Kind:
    """What a request is about.

    :param path: the request target up to its query, as received.
    """
    return _kind(plain_path(path))


def plain_path(path: bytes) -> bytes:
    """A path as ComfyUI's router sees it, without the ``/api`` prefix.

    aiohttp matches routes on the path decoded once, but keeps an encoded slash.
    """
    decoded = path
    if b"%" in path:
        decoded = b"%2F".join(unquote_to_bytes(part) for part in path.replace(b"%2f", b"%2F").split(b"%2F"))
    return decoded[4:] if decoded.startswith(b"/api/") else decoded


def _kind(path: bytes) -> Kind:
    first, _, rest = path[1:].partition(b"/")
    if first == b"v2":  # /v2/userdata
        first = rest.partition(b"/")[0]
    return _KINDS.get(first, Kind.OTHER)


def _is_control(method: bytes, path: bytes, several: bool) -> bool:
    methods = _CONTROL.get(path)
    if methods is not None:
        return method in methods
    if path == _OURS or path.startswith(_OURS + b"/"):
        return True
    return method in _READ and (_HISTORY.fullmatch(path) is not None or (several and path == _METRICS))


def _is_merged(method: bytes, path: bytes, received: bytes) -> bool:
    methods = _MERGED.get(path)
    if methods is not None:
        return method in methods
    if path.startswith(b"/jobs") and received.startswith(b"/api/"):  # without /api they are not there
        return (_JOBS if method in _READ else _CANCEL).fullmatch(path) is not None and method in (*_READ, *_POST)
    return method in _READ and _OBJECT_INFO.fullmatch(path) is not None


class Metering:
    """Tells which requests cost a token.

    :param patterns: each ``METHOD /path``, ``METHOD /path/*`` or ``METHOD *``;
        the method may be ``*`` and GET includes HEAD.
    """

    def __init__(self, patterns: Sequence[str] = DEFAULT_METERED) -> None:
        self._exact: set[tuple[bytes, bytes]] = set()
        self._prefixes: dict[bytes, tuple[bytes, ...]] = {}
        for pattern in patterns:
            method, path = pattern.encode("ascii").split()
            if path.endswith(b"*"):
                self._prefixes[method] = (*self._prefixes.get(method, ()), path[:-1])
            else:
                self._exact.add((method, path))

    def metered(self, route: Route) -> bool:
        """Whether the request costs a token.

        Interrupts and cancellations never do: stopping work must not wait for starting work.
        """
        if route.path == b"/interrupt" or (route.path.startswith(b"/jobs/") and _CANCEL.fullmatch(route.path)):
            return False
        method = b"GET" if route.method == b"HEAD" else route.method
        if (method, route.path) in self._exact or (b"*", route.path) in self._exact:
            return True
        return any(route.path.startswith(self._prefixes.get(wanted, ())) for wanted in (method, b"*"))
