"""Messages that wait for their prompt's turn."""

from __future__ import annotations

import json
import random
from typing import Any

from comfygate.outbox import OVERHEAD, Message
from comfygate.stream.shelf import Shelf

JPEG, PNG = b"\0\0\0\1\0\0\0\1", b"\0\0\0\1\0\0\0\2"


def event(**data: Any) -> Message:
    return Message(json.dumps({"type": "executed", "data": data}).encode())


def test_what_is_kept_comes_back_in_order() -> None:
    shelf = Shelf()
    shelf.put("a", event(n=1))
    shelf.put("b", event(n=2))
    shelf.put("a", Message(PNG, True))
    shelf.put("a", event(n=3))
    assert "a" in shelf and len(shelf) == 2
    assert shelf.take("a") == [event(n=1), Message(PNG, True), event(n=3)]
    assert "a" not in shelf and shelf.take("a") == []
    assert shelf.take("b") == [event(n=2)]
    assert shelf.size == shelf.results == 0


def test_of_previews_only_the_newest_is_kept() -> None:
    shelf = Shelf()
    for n in range(5):
        shelf.put("a", Message(JPEG + bytes([n]), True))
        shelf.put("a", event(n=n))
    kept = shelf.take("a")
    assert [one for one in kept if one.binary] == [Message(JPEG + b"\4", True)]
    assert len(kept) == 6


def test_bounds_hold_for_all_prompts_together_and_ends_are_never_dropped() -> None:
    shelf = Shelf(bound=10_000, results_bound=5_000)
    last = [event(last=n) for n in range(10)]
    for n in range(10):
        for _ in range(20):
            shelf.put(str(n), event(text="x" * 100))
            shelf.put(str(n), Message(PNG + bytes(400), True))
        shelf.put(str(n), last[n], precious=True)
        assert shelf.size <= 10_000 and shelf.results <= 5_000
    for n in range(10):
        assert shelf.take(str(n))[-1] == last[n]
    assert shelf.size == shelf.results == 0


def test_counts_are_right_whatever_happens() -> None:
    chance = random.Random(7)
    shelf = Shelf(bound=20_000, results_bound=10_000)
    for _ in range(5_000):
        name = str(chance.randrange(5))
        size = chance.randrange(800)
        what = chance.random()
        if what < 0.05:
            shelf.take(name)
        elif what < 0.3:
            shelf.put(name, Message(JPEG + bytes(size), True))
        elif what < 0.5:
            shelf.put(name, Message(PNG + bytes(size), True))
        else:
            shelf.put(name, event(text="x" * size), precious=what > 0.98)
        assert 0 <= shelf.size <= 20_000 and 0 <= shelf.results <= 10_000
    for name in map(str, range(5)):
        shelf.take(name)
    assert shelf.size == shelf.results == 0


def test_one_message_alone_may_be_larger_than_the_bound() -> None:
    shelf = Shelf(bound=OVERHEAD, results_bound=OVERHEAD)
    shelf.put("a", Message(PNG + bytes(1000), True))
    shelf.put("a", event(text="x" * 1000))
    assert shelf.size <= OVERHEAD and shelf.results <= OVERHEAD
