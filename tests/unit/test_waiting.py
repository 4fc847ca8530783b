"""Reading ``GET /queue``."""

from __future__ import annotations

import json
import math
from typing import Any

import orjson
import pytest
from twisted.internet.defer import Deferred, ensureDeferred

from comfygate.backend.waiting import read_queue
from comfygate.model import BackendQueue


class Pauses:
    """Counts the pauses that a reader makes; `hold` keeps it in them."""

    def __init__(self, hold: bool = False) -> None:
        self.count = 0
        self._hold = hold
        self.held: list[Deferred[None]] = []

    async def __call__(self) -> None:
        self.count += 1
        if self._hold:
            self.held.append(Deferred())
            await self.held[-1]


def item(number: float, prompt_id: Any, client_id: Any = None, size: int = 10) -> list[Any]:
    extra = {} if client_id is None else {"client_id": client_id}
    return [number, prompt_id, {"1": {"class_type": "X", "inputs": {"text": "é]}," + "x" * size}}}, extra, ["1"]]


def read(body: bytes, pauses: Pauses | None = None, size: int = 0) -> BackendQueue:
    found: list[BackendQueue] = []
    pieces = [body[n : n + size] for n in range(0, len(body), size)] if size else [body]
    done = ensureDeferred(read_queue(pieces, pauses or Pauses()))
    done.addCallback(found.append)
    failures: list[Any] = []
    done.addErrback(failures.append)
    if failures:
        failures[0].raiseException()
    return found[0]


def test_items() -> None:
    running, pending = [item(3, "a", "me")], [item(5, "c"), item(4, "b", ["odd"])]
    body = json.dumps({"queue_running": running, "queue_pending": pending}).encode()
    pauses = Pauses()
    queue = read(body, pauses)
    assert queue.running == ("a",)
    assert queue.pending == ("b", "c")  # in the order in which they will run
    assert queue.running_items[0].client_id == "me"
    assert queue.pending_items[0].client_id is None
    assert orjson.loads(queue.running_items[0].raw) == running[0]
    assert orjson.loads(queue.pending_items[1].raw) == pending[0]
    assert pauses.count == 3


@pytest.mark.parametrize(
    "body",
    [
        b'{"queue_running": [], "queue_pending": []}',
        b' {\n"queue_running":[ ] , "more": {"a": [1, 2]}, "queue_pending": [\t]\r\n}',
        b"{}",
    ],
)
def test_empty(body: bytes) -> None:
    assert read(body) == BackendQueue()


def test_others_have_their_turn() -> None:
    pauses = Pauses(hold=True)
    body = json.dumps({"queue_running": [], "queue_pending": [item(n, str(n)) for n in range(3)]}).encode()
    done = ensureDeferred(read_queue([body], pauses))
    assert pauses.count == 1
    for n in range(3):
        assert not done.called
        pauses.held[n].callback(None)
    assert done.called


def test_what_is_not_json_is_made_json() -> None:
    body = json.dumps({"queue_running": [item(math.nan, "a")], "queue_pending": [item(math.inf, 7)]}).encode()
    queue = read(body)
    assert orjson.loads(queue.running_items[0].raw)[:2] == [None, "a"]
    assert queue.running_items[0].number == math.inf
    assert queue.pending == ("7",)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 50, 1000])
@pytest.mark.parametrize("ascii", [True, False])
def test_pieces(size: int, ascii: bool) -> None:
    pending = [item(n + 0.25, f"id-{n}é", size=n * 40) for n in range(12)]
    content = {"number": 123456, "queue_running": pending[:1], "queue_pending": pending[1:], "last": 98765}
    body = json.dumps(content, ensure_ascii=ascii, indent=1).encode()
    queue = read(body, size=size)
    assert [orjson.loads(found.raw) for found in (*queue.running_items, *queue.pending_items)] == pending


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"<html>",
        b"\xff",
        b'{"queue_running": {}}',
        b'{"queue_running": [[1, "a"]',
        b'{"queue_running": [{"id": 1}]}',
        b'{"queue_running": [["x", "a"]]}',
        b'{"queue_running": [[true, "a"]]}',
        b'{"queue_running": [[1]]}',
        b'{"queue_running": [1,]}',
        b'{"queue_running": ' + b"[" * 200000,
    ],
)
def test_something_else(body: bytes) -> None:
    with pytest.raises(ValueError):
        read(body)
