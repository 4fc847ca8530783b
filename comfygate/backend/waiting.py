"""Reads ComfyUI's ``GET /queue`` without holding up the reactor, however long it is."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from attrs import field, frozen

WHITESPACE = re.compile(r"[ \t\n\r]*")


@frozen
class QueueItem:
    """One prompt in ComfyUI's queue.

    :ivar number: its place; the smaller runs earlier.
    :ivar prompt_id: its id, made a string.
    :ivar client_id: whose events they are, if anybody's.
    :ivar raw: the item in JSON, ``[number, prompt_id, prompt, extra_data, outputs]``.
    """

    number: float
    prompt_id: str
    client_id: str | None = None
    raw: bytes = field(default=b"", repr=False)

    @property
    def parsed(self) -> list[Any]:
        """The item as Python values."""
        found: list[Any] = orjson.loads(self.raw)
        return found


@frozen
class Queue:
    """What ``GET /queue`` lists; the pending ones are in the order in which they will run."""

    running_items: tuple[QueueItem, ...] = ()
    pending_items: tuple[QueueItem, ...] = ()

    @property
    def running(self) -> tuple[str, ...]:
        """Ids of what runs."""
        return tuple(item.prompt_id for item in self.running_items)

    @property
    def pending(self) -> tuple[str, ...]:
        """Ids of what waits."""
        return tuple(item.prompt_id for item in self.pending_items)


async def read_queue(body: bytes, pause: Callable[[], Awaitable[None]]) -> Queue:
    """Read the body of an answer to ``GET /queue``, item by item.

    :param pause: awaited after every item; may let others run.
    :raises ValueError: if it is something else.
    """
    lists = await _Reader(body.decode("utf-8"), pause).lists()
    pending = sorted(lists.get("queue_pending", ()), key=lambda item: (item.number, item.prompt_id))
    return Queue(tuple(lists.get("queue_running", ())), tuple(pending))


class _Reader:
    """A place in a JSON text whose values are objects of lists of items."""

    def __init__(self, text: str, pause: Callable[[], Awaitable[None]]) -> None:
        self._text = text
        self._pause = pause
        self._at = 0
        self._odd = False
        self._decoder = json.JSONDecoder(parse_constant=self._constant)

    async def lists(self) -> dict[str, list[QueueItem]]:
        found: dict[str, list[QueueItem]] = {}
        self._expect("{")
        if not self._try("}"):
            while True:
                name = self._value()
                self._expect(":")
                if name in ("queue_running", "queue_pending"):
                    found[name] = await self._items()
                else:
                    self._value()
                if self._try("}"):
                    break
                self._expect(",")
        return found

    async def _items(self) -> list[QueueItem]:
        found: list[QueueItem] = []
        self._expect("[")
        if not self._try("]"):
            while True:
                found.append(self._item())
                await self._pause()
                if self._try("]"):
                    break
                self._expect(",")
        return found

    def _item(self) -> QueueItem:
        self._skip()
        start = self._at
        self._odd = False
        value = self._value()
        if not isinstance(value, list) or len(value) < 2 or isinstance(value[0], bool):
            raise ValueError("an item is not [number, prompt_id, …]")
        if not isinstance(value[0], int | float):
            raise ValueError("an item's number is not a number")
        # ComfyUI accepts and lists NaN, which is not JSON; orjson writes null.
        raw = orjson.dumps(value) if self._odd else self._text[start : self._at].encode()
        extra = value[3] if len(value) > 3 and isinstance(value[3], dict) else {}
        client_id = extra.get("client_id")
        number = math.inf if math.isnan(value[0]) else value[0]
        return QueueItem(number, str(value[1]), client_id if isinstance(client_id, str) else None, raw)

    def _value(self) -> Any:
        self._skip()
        try:
            value, self._at = self._decoder.raw_decode(self._text, self._at)
        except RecursionError:
            raise ValueError("nested too deeply") from None
        return value

    def _constant(self, name: str) -> float:
        self._odd = True
        return float(name)

    def _skip(self) -> None:
        match = WHITESPACE.match(self._text, self._at)
        assert match is not None  # noqa: S101 - it matches the empty string
        self._at = match.end()

    def _try(self, token: str) -> bool:
        self._skip()
        if self._text.startswith(token, self._at):
            self._at += 1
            return True
        return False

    def _expect(self, token: str) -> None:
        if not self._try(token):
            raise ValueError(f"no {token!r} at character {self._at}")
