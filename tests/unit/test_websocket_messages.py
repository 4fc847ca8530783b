"""What sends and receives the WebSocket messages of benchmarks/proxy."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from benchmarks.proxy import messages
from benchmarks.proxy.emitter import Connection, Run, deflating
from benchmarks.proxy.listeners import Listeners, LostError
from comfygate.outbox import Kind, Message, classify, text_type


def test_json_is_as_comfyuis() -> None:
    text = messages.message(messages.JSON, 200)
    text[messages.JSON_AT] = messages.stamp(messages.JSON, 123)
    assert len(text) == 200
    assert orjson.loads(text)["type"] == "progress"
    assert text_type(bytes(text)) == b"progress"
    assert int(text[messages.JSON_AT]) == 123


def test_no_picture_may_be_dropped() -> None:
    picture = messages.message(messages.PREVIEW, 100_000)
    picture[messages.PREVIEW_AT] = messages.stamp(messages.PREVIEW, 123)
    assert len(picture) == 100_000
    assert int.from_bytes(picture[messages.PREVIEW_AT], "big") == 123
    assert classify(Message(bytes(picture), binary=True))[0] is Kind.RESULT


class Pair:
    """An emitter's connection and its client, both in this process."""

    def __init__(self, compressed: bool = False) -> None:
        self.said: list[dict[str, Any]] = []
        self.watched: list[int] = []
        self.listeners = Listeners(self.said.append)
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        self.connection = Connection(ours, lambda fd, events: self.watched.append(events))
        if compressed:
            self.connection.deflate = deflating()
        self.client = theirs
        self.listeners.add(theirs, b"", compressed)

    def run(self, kind: str, count: int, size: int = 0, batch: int = 1) -> dict[str, Any]:
        """Send messages as fast as they are taken; what the listeners say of it."""
        run = Run([self.connection], kind, 0, count, size, batch)
        done = False
        while not self.said:
            done = done or run.go_on()
            self.connection.flush()
            self.listeners.read(self.client.fileno())
        assert done
        return self.said.pop()

    def close(self) -> None:
        self.connection.sock.close()
        self.client.close()


@pytest.fixture(params=[False, True], ids=["plain", "compressed"])
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    pair = Pair(request.param)
    yield pair
    pair.close()


@pytest.mark.parametrize(("kind", "size"), [(messages.JSON, 200), (messages.JSON, 300), (messages.PREVIEW, 100_000)])
@pytest.mark.parametrize("batch", [1, 7])
def test_all_that_is_sent_is_received(pair: Pair, kind: str, size: int, batch: int) -> None:
    pair.connection.say(messages.TEXT, messages.status("me"))
    for _ in range(2):
        found = pair.run(kind, 50, size, batch)
        assert (found["messages"], found["lost"]) == (50, 0)
        assert 0 < found["p50_us"] <= found["p99_us"] <= found["max_us"]


@pytest.mark.parametrize("step", [1, 3, 9, 130, 4096])
def test_frames_may_come_in_any_pieces(step: int) -> None:
    frames = bytearray()
    for kind, size in ((messages.JSON, 200), (messages.PREVIEW, 70_000 if step > 100 else 500)):
        payload = messages.message(kind, size)
        payload[messages.stamp_at(kind)] = messages.stamp(kind, 1)
        frames += messages.head(messages.TEXT if kind == messages.JSON else messages.BINARY, size) + payload
    frames += messages.head(messages.PING, 4) + b"ping"
    frames += messages.head(messages.TEXT, len(messages.end(3))) + messages.end(3)
    pair = Pair()
    for at in range(0, len(frames), step):
        pair.connection.send(frames[at : at + step])
        pair.listeners.read(pair.client.fileno())
    assert pair.connection.sock.recv(100) == b"\x8a\x84\0\0\0\0ping"
    assert [(said["messages"], said["lost"]) for said in pair.said] == [(2, 1)]
    pair.close()


def test_what_is_not_taken_waits() -> None:
    pair = Pair()
    payload = bytes(messages.message(messages.PREVIEW, 100_000))
    while not pair.connection.pending:
        pair.connection.say(messages.BINARY, payload)
    assert len(pair.watched) == 1
    run = Run([pair.connection], messages.JSON, 0, 5)
    assert run.waits is None
    assert not run.go_on()  # as fast as it is taken, and now it is not
    pair.close()


def test_a_lost_connection_is_an_error() -> None:
    pair = Pair()
    pair.connection.sock.close()
    with pytest.raises(LostError):
        pair.listeners.read(pair.client.fileno())
    pair.client.close()


def test_nothing_is_compressed_that_was_not_agreed_on() -> None:
    pair = Pair()
    pair.connection.deflate = deflating()
    pair.connection.say(messages.TEXT, messages.status("me"))
    with pytest.raises(LostError):
        pair.listeners.read(pair.client.fileno())
    pair.close()
