"""What a client makes of a backend that misbehaves, over real sockets."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred, ensureDeferred
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater

from comfygate.backend.client import ComfyUIClient
from comfygate.backend.exchange import exchange
from comfygate.errors import BackendUnclear, BackendUnreachable
from tests.ports import free_ports
from tests.process.backends import until

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


class Scripted(Protocol):
    """Keeps what it is sent, and answers each request as the test wants."""

    factory: Server

    def connectionMade(self) -> None:
        self.factory.connections.append(self)

    def dataReceived(self, data: bytes) -> None:
        self.factory.received += data
        self.factory.answer(self)

    def connectionLost(self, reason: Any = None) -> None:
        self.factory.connections.remove(self)


class Server(Factory):
    protocol = Scripted
    noisy = False

    def __init__(self) -> None:
        self.received = b""
        self.connections: list[Scripted] = []
        self.answer: Callable[[Any], object] = lambda wire: None
        self.port = reactor.listenTCP(0, self, interface="127.0.0.1")
        self.number = self.port.getHost().port
        self.client = ComfyUIClient.at(reactor, f"http://127.0.0.1:{self.number}/")

    def answers(self, body: bytes, head: bytes = OK) -> None:
        message = head + b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
        self.answer = lambda wire: wire.transport.write(message)

    async def close(self) -> None:
        self.client.close()
        await self.port.stopListening()
        for wire in tuple(self.connections):
            wire.transport.abortConnection()
        await until(reactor, lambda: not self.connections)


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    pytest_twisted.blockon(ensureDeferred(made.close()))


@pytest_twisted.ensureDeferred
async def test_what_is_sent(server: Server) -> None:
    server.answers(b"{}")
    answer = await server.client.submit(b'{"prompt": {}}')
    assert (answer.status, answer.body, answer.content_type) == (200, b"{}", "application/json")
    head, _, body = server.received.partition(b"\r\n\r\n")
    lines = head.split(b"\r\n")
    assert lines[0] == b"POST /prompt HTTP/1.1"
    names = {line.split(b":")[0].lower() for line in lines[1:]}
    assert b"Host: 127.0.0.1:%d" % server.number in lines
    assert not names & {b"origin", b"transfer-encoding"}
    assert body == b'{"prompt": {}}'


@pytest_twisted.ensureDeferred
async def test_connections_are_kept(server: Server) -> None:
    server.answers(b"{}")
    for _ in range(5):
        await server.client.check(5)
    assert len(server.connections) == 1


@pytest_twisted.ensureDeferred
async def test_nobody_listens() -> None:
    client = ComfyUIClient.at(reactor, f"http://127.0.0.1:{free_ports()}")
    with pytest.raises(BackendUnreachable, match="refused"):
        await client.submit(b"{}")
    assert not await client.ready()


@pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200", OK + b"Content-Length: 5\r\n\r\nabc", b"nonsense\r\n\r\n"])
@pytest_twisted.ensureDeferred
async def test_a_connection_that_breaks(server: Server, start: bytes) -> None:
    def cut(wire: Any) -> None:
        wire.transport.write(start)
        wire.transport.loseConnection()

    server.answer = cut
    with pytest.raises(BackendUnclear):
        await server.client.submit(b"{}")
    assert server.received.count(b"POST") == 1


@pytest_twisted.ensureDeferred
async def test_a_kept_connection_that_broke_is_not_tried_twice(server: Server) -> None:
    server.answers(b"{}")
    await server.client.submit(b"{}")
    server.answer = lambda wire: wire.transport.abortConnection()
    with pytest.raises(BackendUnclear):
        await server.client.check(5)
    assert server.received.count(b"GET") == 1


@pytest.mark.parametrize("start", [b"", OK + b"Content-Length: 5\r\n\r\nabc"])
@pytest_twisted.ensureDeferred
async def test_no_answer_in_time(server: Server, start: bytes) -> None:
    server.answer = lambda wire: wire.transport.write(start)
    begun = time.monotonic()
    with pytest.raises(BackendUnclear, match=r"no answer within 0.2 s"):
        await server.client.check(0.2)
    assert time.monotonic() - begun < 2
    await until(reactor, lambda: not server.connections)


@pytest_twisted.ensureDeferred
async def test_an_answer_without_end(server: Server) -> None:
    server.answer = lambda wire: wire.transport.write(OK + b"\r\n" + b"x" * 1_000_000)
    http = server.client._http
    with pytest.raises(BackendUnclear, match="more than 100000 bytes"):
        await exchange(http, reactor, "GET", f"http://127.0.0.1:{server.number}/", seconds=5, limit=100_000)
    await until(reactor, lambda: not server.connections)


@pytest_twisted.ensureDeferred
async def test_somebody_who_no_longer_waits(server: Server) -> None:
    asked = ensureDeferred(server.client.submit(b"{}"))
    await until(reactor, lambda: server.received)
    asked.cancel()
    with pytest.raises(CancelledError):
        await asked
    await until(reactor, lambda: not server.connections)


@pytest.mark.parametrize(("head", "body"), [(b"HTTP/1.1 500 No\r\n", b"{}"), (OK, b"<html>"), (OK, b"[1]")])
@pytest_twisted.ensureDeferred
async def test_answers_that_make_no_sense(server: Server, head: bytes, body: bytes) -> None:
    server.answers(body, head)
    for ask in (server.client.queue, lambda: server.client.history("x")):
        with pytest.raises(BackendUnclear):
            await ask()


@pytest_twisted.ensureDeferred
async def test_history(server: Server) -> None:
    server.answers(b'{"a b/c": {"outputs": {"x": NaN}}}')
    entry = await server.client.history("a b/c")
    assert entry is not None and set(entry) == {"outputs"}
    assert b"GET /history/a%20b%2Fc HTTP/1.1" in server.received
    assert await server.client.history("other") is None


@pytest_twisted.ensureDeferred
async def test_any_question(server: Server) -> None:
    server.answers(b"None", b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\n")
    answer = await server.client.ask("GET", "/api/x%20y?z=1", seconds=5)
    assert (answer.status, answer.body, answer.content_type) == (404, b"None", "text/plain")
    assert b"GET /api/x%20y?z=1 HTTP/1.1" in server.received
    with pytest.raises(BackendUnclear, match="more than 3 bytes"):
        await server.client.ask("POST", "/", b"{}", seconds=5, limit=3)


@pytest.mark.parametrize(
    ("status", "field", "modified"),
    [
        (b"200 OK", b"Last-Modified: Sun, 06 Nov 1994 08:49:37 GMT\r\n", 784111777.0),
        (b"200 OK", b"Last-Modified: yesterday\r\n", 0.0),
        (b"200 OK", b"", 0.0),
        (b"500 No", b"", 0.0),
        (b"404 No", b"", None),
    ],
)
@pytest_twisted.ensureDeferred
async def test_when_a_file_was_changed(server: Server, status: bytes, field: bytes, modified: float | None) -> None:
    message = b"HTTP/1.1 %s\r\n%sContent-Length: 100\r\n\r\n" % (status, field)
    server.answer = lambda wire: wire.transport.write(message)
    for _ in range(2):
        assert await server.client.modified("/view?filename=x", 5) == modified
    assert server.received.startswith(b"HEAD /view?filename=x HTTP/1.1")
    assert len(server.connections) == 1


@pytest_twisted.ensureDeferred
async def test_a_file_goes_as_it_is(server: Server) -> None:
    content = io.BytesIO(b"x" * 1_000_000)
    server.answer = lambda wire: (
        len(server.received) > 1_000_000 and wire.transport.write(OK + b"Content-Length: 0\r\n\r\n")
    )
    answer = await server.client.upload("/upload/mask", "multipart/form-data; boundary=x", content, 5)
    head, _, body = server.received.partition(b"\r\n\r\n")
    assert (answer.status, body, content.closed) == (200, b"x" * 1_000_000, True)
    assert b"Content-Type: multipart/form-data; boundary=x" in head.split(b"\r\n")
    assert b"Content-Length: 1000000" in head.split(b"\r\n")


@pytest.mark.parametrize(
    ("head", "body", "found"),
    [
        (OK, b'{"version": "1", "routes": []}', {"version": "1", "routes": []}),
        (b"HTTP/1.1 404 Not Found\r\n", b"", None),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n", b"<html>", None),
        (OK, b"[]", None),
    ],
)
@pytest_twisted.ensureDeferred
async def test_companion(server: Server, head: bytes, body: bytes, found: Any) -> None:
    server.answers(body, head)
    assert await server.client.companion() == found


@pytest_twisted.ensureDeferred
async def test_a_long_queue_does_not_hold_up_the_reactor(server: Server) -> None:
    """500 prompts of 100 kB."""
    prompt = {str(n): {"class_type": "X", "inputs": {"text": "x" * 950, "n": n}} for n in range(100)}
    pending = [[n, f"id-{n}", prompt, {"client_id": "me"}, ["1"]] for n in range(500)]
    body = json.dumps({"queue_running": [], "queue_pending": pending}).encode()
    assert len(body) > 50_000_000
    pieces = [body[n : n + 65536] for n in range(0, len(body), 65536)]

    def send(wire: Any) -> None:
        wire.transport.write(OK + b"Content-Length: %d\r\n\r\n" % len(body))
        sending = iter(pieces)

        def more() -> None:
            for piece in sending:
                wire.transport.write(piece)
                reactor.callLater(0, more)
                return

        more()

    server.answer = send
    longest = 0.0
    asked: Deferred[Any] = ensureDeferred(server.client.queue())
    # Our own work counts, not that of others on the same processor.
    last = time.thread_time()
    while not asked.called:
        await deferLater(reactor, 0)
        now = time.thread_time()
        longest, last = max(longest, now - last), now
    queue = await asked
    assert len(queue.pending) == 500
    assert json.loads(queue.pending_items[7].raw) == pending[7]
    assert longest < 0.05, f"others waited {longest:.3f} s"
