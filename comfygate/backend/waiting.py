"""Reads ComfyUI's ``GET /queue`` without holding up the reactor, however long it is."""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import orjson

from comfygate.model import BackendQueue, QueueItem

WHITESPACE = re.compile(r"[ \t\n\r]*")


async def read_queue(pieces: Iterable[bytes], pause: Callable[[], Awaitable[None]]) -> BackendQueue:
    """Read the body of an answer to ``GET /queue``, item by item.

    It is never in one piece: with 500 prompts of 100 kB, joining and decoding
    it would take 100 ms.

    :param pieces: the body.
    :param pause: awaited after every item; may let others run.
    :raises ValueError: if it is something else.
    """
    lists = await _Reader(pieces, pause).lists()
    pending = sorted(lists.get("queue_pending", ()), key=lambda item: (item.number, item.prompt_id))
    return BackendQueue(tuple(lists.get("queue_running", ())), tuple(pending))


class _Text:
    """JSON text that arrives in pieces, and a place in it."""

    def __init__(self, pieces: Iterable[bytes], constant: Callable[[str], float]) -> None:
        self._pieces = iter(pieces)
        self._utf8 = codecs.getincrementaldecoder("utf-8")()
        self._decoder = json.JSONDecoder(parse_constant=constant)
        self._text = ""
        self._at = 0
        self._ended = False

    def value(self) -> tuple[Any, str]:
        """Read the next value; return it and how it is written."""
        self._skip()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except RecursionError:
                raise ValueError("nested too deeply") from None
            except json.JSONDecodeError:
                if not self._grow():
                    raise
                continue
            # A number that ends with the text may go on in the next piece.
            if end < len(self._text) or not self._grow():
                written = self._text[self._at : end]
                self._at = end
                return value, written

    def take(self, token: str) -> bool:
        """Go past `token` if it is what comes next."""
        self._skip()
        if self._text.startswith(token, self._at):
            self._at += 1
            return True
        return False

    def expect(self, token: str) -> None:
        """Go past `token`."""
        if not self.take(token):
            raise ValueError(f"no {token!r} where it should be")

    def _skip(self) -> None:
        while True:
            match = WHITESPACE.match(self._text, self._at)
            self._at = match.end() if match else self._at
            if self._at < len(self._text) or not self._grow():
                return

    def _grow(self) -> bool:
        """Take in as much again as there is; false if nothing is left."""
        if self._ended:
            return False
        kept = self._text[self._at :]
        new: list[str] = []
        wanted = max(1, len(kept))
        while wanted > 0 and not self._ended:
            piece = next(self._pieces, None)
            self._ended = piece is None
            new.append(self._utf8.decode(piece or b"", final=self._ended))
            wanted -= len(new[-1])
        self._text, self._at = "".join((kept, *new)), 0
        return True


class _Reader:
    """Reads an object of lists of items."""

    def __init__(self, pieces: Iterable[bytes], pause: Callable[[], Awaitable[None]]) -> None:
        self._text = _Text(pieces, self._constant)
        self._pause = pause
        self._odd = False

    async def lists(self) -> dict[str, list[QueueItem]]:
        found: dict[str, list[QueueItem]] = {}
        self._text.expect("{")
        if not self._text.take("}"):
            while True:
                name, _ = self._text.value()
                self._text.expect(":")
                if name in ("queue_running", "queue_pending"):
                    found[name] = await self._items()
                else:
                    self._text.value()
                if self._text.take("}"):
                    break
                self._text.expect(",")
        return found

    async def _items(self) -> list[QueueItem]:
        found: list[QueueItem] = []
        self._text.expect("[")
        if not self._text.take("]"):
            while True:
                found.append(self._item())
                await self._pause()
                if self._text.take("]"):
                    break
                self._text.expect(",")
        return found

    def _item(self) -> QueueItem:
        self._odd = False
        value, written = self._text.value()
        if not isinstance(value, list) or len(value) < 2 or isinstance(value[0], bool):
            raise ValueError("an item is not [number, prompt_id, …]")
        if not isinstance(value[0], int | float):
            raise ValueError("an item's number is not a number")
        # ComfyUI accepts and lists NaN, which is not JSON; orjson writes null.
        raw = orjson.dumps(value) if self._odd else written.encode()
        extra = value[3] if len(value) > 3 and isinstance(value[3], dict) else {}
        client_id = extra.get("client_id")
        number = math.inf if math.isnan(value[0]) else value[0]
        return QueueItem(number, str(value[1]), client_id if isinstance(client_id, str) else None, raw)

    def _constant(self, name: str) -> float:
        self._odd = True
        return float(name)
