"""What waits for a client that reads slowly, within a bound.

The backend is always read at full speed, since ComfyUI awaits each send and
one slow reader would hold up everybody's events.  What a client cannot take
yet waits here, in order.  When too much waits, what a client can do without is
dropped, the least missed first; what it cannot do without never is.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from enum import Enum

import orjson
from attrs import define, field, frozen

MIB = 1024 * 1024
OVERHEAD = 256
"""Bytes that a waiting message costs besides its payload (CPython 3.11, rounded up)."""

_TYPE = re.compile(rb'\s*\{\s*"type"\s*:\s*"([^"\\]*)"')
_PROMPT = re.compile(rb'\s*,\s*"data"\s*:\s*\{\s*"prompt_id"\s*:\s*"([^"\\]*)"')
_PARSED_AT_MOST = 64 * 1024

Key = tuple[object, ...]


class Kind(Enum):
    """How much a client needs a message."""

    PREVIEW = "preview"  #: a picture of work in progress; only the newest is of interest
    PROGRESS = "progress"  #: replaced by a newer one about the same thing
    MINOR = "minor"  #: progress text of a node, and the server's log
    EVENT = "event"  #: status, executing, executed, execution_*, and whatever else is text
    RESULT = "result"  #: binary output (SaveImageWebsocket) and unknown binary messages


@frozen
class Message:
    """One WebSocket message.

    :ivar payload: UTF-8 if it is text.
    :ivar binary: whether it is a binary message.
    """

    payload: bytes = field(repr=False)
    binary: bool = False

    @property
    def cost(self) -> int:
        """Bytes of memory that it holds while it waits."""
        return len(self.payload) + OVERHEAD


class OverflowingError(Exception):
    """More waits that cannot be dropped than the bound allows."""


def text_type(payload: bytes) -> bytes:
    """The ``type`` of a text message, or ``b""`` if there is none.

    ComfyUI writes ``{"type": …`` first, so a look at the beginning is enough;
    a short message that begins otherwise is parsed.
    """
    found = _TYPE.match(payload)
    if found is not None:
        return found[1]
    name = _parsed(payload).get("type")
    return name.encode() if isinstance(name, str) else b""


def classify(message: Message) -> tuple[Kind, Key | None]:
    """Tell a message's kind and, for progress, what it is about.

    Messages with equal keys are about the same thing: the newest says it all.
    Binary layouts are those of ComfyUI's ``server.py`` (``BinaryEventTypes``).
    """
    if message.binary:
        return _classify_binary(message.payload), None
    name = text_type(message.payload)
    if name == b"progress_state":
        return Kind.PROGRESS, (name, _prompt_id(message.payload))
    if name == b"progress":
        data = _parsed(message.payload).get("data")
        if not isinstance(data, dict):
            return Kind.EVENT, None
        return Kind.PROGRESS, (name, str(data.get("prompt_id")), str(data.get("node")))
    return (Kind.MINOR if name == b"logs" else Kind.EVENT), None


def _classify_binary(payload: bytes) -> Kind:
    kind = payload[:4]
    if kind == b"\0\0\0\1":
        return Kind.PREVIEW if payload[4:8] == b"\0\0\0\1" else Kind.RESULT
    if kind == b"\0\0\0\4":
        # SaveImageWebsocket's output comes like this, too, to a client that has
        # negotiated metadata; it is always PNG, and previews are JPEG.
        image = 8 + int.from_bytes(payload[4:8], "big")
        return Kind.RESULT if payload[image : image + 4] == b"\x89PNG" else Kind.PREVIEW
    return Kind.MINOR if kind == b"\0\0\0\3" else Kind.RESULT


def _prompt_id(payload: bytes) -> object:
    head = _TYPE.match(payload)
    found = _PROMPT.match(payload, head.end()) if head is not None else None
    if found is not None:
        return found[1].decode("utf-8", "replace")
    data = _parsed(payload).get("data")
    return str(data.get("prompt_id")) if isinstance(data, dict) else None


def _parsed(payload: bytes) -> dict[str, object]:
    if len(payload) > _PARSED_AT_MOST:
        return {}
    try:
        value = orjson.loads(payload)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}


@define
class _Waiting:
    """Messages of one kind by sequence number, and what they cost together."""

    messages: OrderedDict[int, Message] = field(factory=OrderedDict)
    cost: int = 0

    def add(self, sequence: int, message: Message) -> None:
        self.messages[sequence] = message
        self.cost += message.cost

    def remove(self, sequence: int) -> Message:
        message = self.messages.pop(sequence)
        self.cost -= message.cost
        return message

    def clear(self) -> None:
        self.messages.clear()
        self.cost = 0


class Outbox:
    """A bounded queue of messages that may drop some of them.

    Every operation takes constant time, averaged over the messages.

    :param bound: bytes that may wait, results not counted.
    :param results_bound: bytes of :attr:`Kind.RESULT` that may wait.  They have
        a bound of their own because a single one may be as large as the
        largest message that a backend may send.
    """

    def __init__(self, bound: int = 4 * MIB, results_bound: int = 64 * MIB) -> None:
        self._bound = bound
        self._results_bound = results_bound
        self._sequence = 0
        self._waiting = {kind: _Waiting() for kind in Kind}
        self._about: dict[int, Key] = {}  # what each waiting progress message is about
        self._newest: dict[Key, int] = {}
        self._outdated: OrderedDict[int, None] = OrderedDict()
        self.dropped = 0  #: messages dropped so far

    def __len__(self) -> int:
        return sum(len(waiting.messages) for waiting in self._waiting.values())

    def __bool__(self) -> bool:
        return any(waiting.messages for waiting in self._waiting.values())

    @property
    def size(self) -> int:
        """Bytes that wait, with what it costs to keep them."""
        return sum(waiting.cost for waiting in self._waiting.values())

    def put(self, message: Message) -> None:
        """Let `message` wait behind the others.

        :raises OverflowingError: if what may not be dropped exceeds its bound; the
            order of events can't be kept for such a client: :meth:`clear` it.
        """
        kind, key = classify(message)
        self._sequence += 1
        self._waiting[kind].add(self._sequence, message)
        if key is not None:
            self._outdate(key)
        self._keep_within_bounds()

    def take(self) -> Message | None:
        """Remove and return the oldest message; ``None`` if none waits."""
        oldest: tuple[int, Kind] | None = None
        for kind, waiting in self._waiting.items():
            if waiting.messages:
                first = next(iter(waiting.messages))
                if oldest is None or first < oldest[0]:
                    oldest = (first, kind)
        if oldest is None:
            return None
        sequence, kind = oldest
        message = self._waiting[kind].remove(sequence)
        if kind is Kind.PROGRESS:
            self._forget(sequence)
        return message

    def clear(self) -> None:
        """Forget everything."""
        for kind in Kind:
            self._drop(kind)

    def _outdate(self, key: Key) -> None:
        older = self._newest.get(key)
        if older is not None:
            self._outdated[older] = None
        self._newest[key] = self._sequence
        self._about[self._sequence] = key

    def _forget(self, sequence: int) -> None:
        key = self._about.pop(sequence)
        self._outdated.pop(sequence, None)
        if self._newest.get(key) == sequence:
            del self._newest[key]

    def _keep_within_bounds(self) -> None:
        drops: tuple[Callable[[], None], ...] = (
            self._drop_old_previews,
            self._drop_outdated_progress,
            lambda: self._drop(Kind.MINOR),
            lambda: self._drop(Kind.PREVIEW),
            lambda: self._drop(Kind.PROGRESS),
        )
        for drop in drops:
            if self.size - self._waiting[Kind.RESULT].cost <= self._bound:
                break
            before = len(self)
            drop()
            self.dropped += before - len(self)
        self._check(Kind.EVENT, self._bound)
        self._check(Kind.RESULT, self._results_bound)

    def _check(self, kind: Kind, bound: int) -> None:
        # One message alone is never too much: its size has a limit of its own.
        waiting = self._waiting[kind]
        if waiting.cost > bound and len(waiting.messages) > 1:
            raise OverflowingError(f"{waiting.cost} bytes of {kind.value}s wait where {bound} may")

    def _drop_old_previews(self) -> None:
        previews = self._waiting[Kind.PREVIEW]
        while len(previews.messages) > 1:
            previews.remove(next(iter(previews.messages)))

    def _drop_outdated_progress(self) -> None:
        while self._outdated:
            sequence = next(iter(self._outdated))
            self._waiting[Kind.PROGRESS].remove(sequence)
            self._forget(sequence)

    def _drop(self, kind: Kind) -> None:
        self._waiting[kind].clear()
        if kind is Kind.PROGRESS:
            self._about.clear()
            self._newest.clear()
            self._outdated.clear()
