"""WebSockets through a bridge: real processes, real sockets."""

import asyncio
import contextlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import WSMsgType

from tests.gateway import FAST_PATH

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(__file__).parent / "programs"
MIB = 1024 * 1024
PREVIEW = "0000000100000001"
RESULT = "0000000100000002"

both_ways = pytest.mark.parametrize("world", [{"way": "fast"}, {"way": "plain"}], indirect=True, ids=["fast", "plain"])
"""For what depends on how the sockets are read and written."""


def _start(program: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(PROGRAMS / program), *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def _line(process: subprocess.Popen[str], seconds: float = 15) -> str:
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], seconds)
    assert ready, "no answer in time"
    return process.stdout.readline()


def _end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait(10)
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):
                pipe.close()


class World:
    """A backend, and two ports that bridge to it.

    :param way: "fast" or "plain"; see tests/gateway.py.
    """

    def __init__(self, way: str = "fast" if FAST_PATH == "on" else "plain", **limits: float) -> None:
        self._processes = contextlib.ExitStack()
        try:
            self.backend = self._start("websocket_backend.py")
            self.backend_port = int(_line(self.backend))
            self.bridge = self._start("bridge_port.py", str(self.backend_port), way, json.dumps(limits))
            self.ports: list[int] = json.loads(_line(self.bridge))
        except BaseException:
            self.end()
            raise

    def _start(self, *arguments: str) -> subprocess.Popen[str]:
        process = _start(*arguments)
        self._processes.callback(_end, process)
        return process

    def end(self) -> None:
        self._processes.close()

    def backend_dies(self) -> None:
        self.backend.kill()
        self.backend.wait(10)

    def backend_returns(self) -> None:
        """Another process takes the dead one's place, on another port."""
        self.backend = self._start("websocket_backend.py")
        self.backend_port = int(_line(self.backend))
        self.order("become", "ready", self.backend_port)

    def order(self, *words: Any) -> Any:
        assert self.bridge.stdin is not None
        self.bridge.stdin.write(json.dumps(words) + "\n")
        self.bridge.stdin.flush()
        return json.loads(_line(self.bridge))

    def counts(self) -> Any:
        return self.order("counts")

    def url(self, target: str = "/ws", port: int = 0) -> str:
        return f"http://127.0.0.1:{self.ports[port]}{target}"

    async def do(self, sid: str, *steps: list[Any]) -> None:
        async with (
            aiohttp.ClientSession() as http,
            http.post(f"http://127.0.0.1:{self.backend_port}/do", json={"sid": sid, "steps": steps}) as answer,
        ):
            assert answer.status == 200, await answer.text()

    async def ask(self, path: str) -> Any:
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"http://127.0.0.1:{self.backend_port}/{path}") as answer,
        ):
            return await answer.json()


@pytest.fixture
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    marker = getattr(request, "param", {})
    world = World(**marker)
    try:
        yield world
        assert world.bridge.poll() is None
    finally:
        world.end()


async def until(condition: Callable[[], Awaitable[Any] | Any], seconds: float = 10) -> Any:
    """Wait for what `condition` returns to be true."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if isinstance(value, Awaitable):
            value = await value
        if value:
            return value
        assert time.monotonic() < deadline, f"not in {seconds} s"
        await asyncio.sleep(0.01)


def run(scenario: Callable[[aiohttp.ClientSession], Coroutine[Any, Any, None]], seconds: float = 60) -> None:
    async def main() -> None:
        async with aiohttp.ClientSession() as http:
            await asyncio.wait_for(scenario(http), seconds)

    asyncio.run(main())


async def connect(http: aiohttp.ClientSession, url: str, **options: Any) -> Any:
    options.setdefault("max_msg_size", 0)
    return await http.ws_connect(url, **options)


@both_ways
def test_messages_pass_both_ways(world: World) -> None:
    async def scenario(http: aiohttp.ClientSession) -> None:
        ws = await connect(http, world.url("/ws?clientId=a"))
        assert (await ws.receive_json(timeout=5))["data"]["sid"] == "a"
        await ws.send_str("echo")
        assert await ws.receive_str(timeout=5) == "echoed"
        for size in (4, 125, 126, 65535, 65536, 4 * MIB):
            payload = b"echo" + os.urandom(size - 4)
            await ws.send_bytes(payload)
            assert await ws.receive_bytes(timeout=10) == payload
        await world.do("a", ["text", "grüße " * 30_000])
        assert await ws.receive_str(timeout=10) == "grüße " * 30_000
        await ws.close()
        await until(lambda: world.counts()["links"] == [0, 0])
        counts = world.counts()
        assert (counts["clients"], counts["bridges"], counts["sessions"]) == ([0, 0], [0, 0], 0)

    run(scenario)


def test_the_handshake_goes_as_it_came(world: World) -> None:
    target = "/api/ws?clientId=a%2Fb%20c&x=%00&&y=;=%C3%A9&z"
    head = (
        f"GET {target} HTTP/1.1\r\nHost: example.org:8181\r\nOrigin: http://example.org:8181\r\n"
        "Connection: keep-alive, Upgrade, x-hop\r\nUpgrade: websocket\r\nX-Hop: 1\r\nUser-Agent: me\r\n"
        "Cookie: a=b\r\nCookie: c=d; e=\u00c5\r\ncomfy-user: someone\r\nAuthorization: Basic eA==\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        "Sec-WebSocket-Protocol: zero, two\r\n"
        "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n"
    )

    async def scenario(http: aiohttp.ClientSession) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.ports[0])
        # A client may send at once.
        writer.write(head.encode() + _frame(1, b"echo\r\n\r\n") + _frame(1, b"echo"))
        answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        fields = dict(line.lower().split(b": ") for line in answer.split(b"\r\n")[1:-2])
        assert answer.startswith(b"HTTP/1.1 101 ")
        assert fields[b"sec-websocket-protocol"] == b"two"
        assert b"sec-websocket-extensions" not in fields
        received = await asyncio.wait_for(reader.readuntil(b"echoed"), 5)
        assert b'"sid"' in received
        assert (await world.ask("state"))["received"]["a/b c"] == ["echo\r\n\r\n", "echo"]
        writer.close()
        (seen,) = await world.ask("seen")
        assert seen["target"] == target
        headers = [(name.lower(), value) for name, value in seen["headers"]]
        names = [name for name, _ in headers]
        assert ("host", f"127.0.0.1:{world.backend_port}") in headers
        assert ("cookie", "c=d; e=\u00c5".encode().decode("latin-1")) in headers
        assert names.count("cookie") == 2
        assert {("user-agent", "me"), ("comfy-user", "someone"), ("authorization", "Basic eA==")} <= set(headers)
        assert not {"origin", "x-hop", "sec-websocket-extensions"} & set(names)

    run(scenario)


def _frame(opcode: int, payload: bytes) -> bytes:
    length = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + struct.pack(">H", len(payload))
    return bytes([0x80 | opcode]) + length + b"\0\0\0\0" + payload


@both_ways
def test_sizes(world: World) -> None:
    async def scenario(http: aiohttp.ClientSession) -> None:
        ws = await connect(http, world.url("/ws?clientId=a"))
        await ws.receive_str(timeout=5)
        await world.do("a", ["binary", RESULT, 60 * MIB])
        message = await ws.receive_bytes(timeout=30)
        assert len(message) == 60 * MIB
        assert message[:8] == bytes.fromhex(RESULT)
        assert message[8:].strip(b"\x5a") == b""
        del message
        with contextlib.suppress(AssertionError, aiohttp.ClientError):
            await world.do("a", ["binary", RESULT, 65 * MIB])
        closed = await ws.receive(timeout=10)
        assert (closed.type, closed.data) == (WSMsgType.CLOSE, 1011)

        ws = await connect(http, world.url("/ws?clientId=b"))
        await ws.receive_str(timeout=5)
        await ws.send_bytes(bytes(4 * MIB + 1))
        closed = await ws.receive(timeout=10)
        assert (closed.type, closed.data) == (WSMsgType.CLOSE, 1009)
        await until(lambda: world.counts()["links"] == [0, 0])
        assert (await world.ask("state"))["received"]["b"] == []

    run(scenario)


def test_a_backends_close_passes(world: World) -> None:
    async def scenario(http: aiohttp.ClientSession) -> None:
        for code in (1000, 1001, 1008, 1011, 1012, 1013, 3000, 4999):
            ws = await connect(http, world.url("/ws?clientId=a"))
            await ws.receive_str(timeout=5)
            await world.do("a", ["text", "last"], ["close", code, "because"])
            assert await ws.receive_str(timeout=5) == "last"
            closed = await ws.receive(timeout=5)
            assert (closed.type, closed.data, closed.extra) == (WSMsgType.CLOSE, code, "because")
            await until(lambda: world.counts()["bridges"] == [0, 0])

    run(scenario)


@both_ways
def test_a_clients_close_passes(world: World) -> None:
    async def scenario(http: aiohttp.ClientSession) -> None:
        for code in (1000, 1001, 1011, 1012, 3000, 4999):
            ws = await connect(http, world.url(f"/ws?clientId=c{code}"))
            await ws.receive_str(timeout=5)
            await ws.close(code=code, message=b"why")
            await until(partial(_closed, world, f"c{code}"))
            assert (await world.ask("state"))["closed"][f"c{code}"] == [[code]]
        reader, writer = await _raw(world, "/ws?clientId=plain")
        writer.write(_frame(8, b""))  # no code
        assert await asyncio.wait_for(reader.read(), 5)
        writer.close()
        reader, writer = await _raw(world, "/ws?clientId=lost")
        writer.transport.abort()
        await until(lambda: _closed(world, "lost"))
        state = await world.ask("state")
        assert state["closed"]["lost"] == [[1001]]
        assert state["closed"]["plain"] in ([[1005]], [[0]], [[1000]])

    run(scenario)


async def _closed(world: World, sid: str) -> Any:
    return (await world.ask("state"))["closed"].get(sid)


async def _raw(
    world: World, target: str, port: int = 0, size: int | None = None
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection whose handshake and first message are done, with nothing read ahead."""
    sock = socket.socket()
    if size:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", world.ports[port]))
    reader, writer = await asyncio.open_connection(sock=sock, limit=64 * 1024)
    writer.write(
        f"GET {target} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n".encode()
    )
    answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 15)
    assert answer.startswith(b"HTTP/1.1 101 "), answer
    await asyncio.wait_for(reader.readuntil(b'"}}'), 5)
    return reader, writer


@pytest.mark.parametrize("world", [{"ping_interval": 1, "client_pong": 2, "backend_pong": 2}], indirect=True)
def test_pings_on_both_legs(world: World) -> None:
    async def scenario(http: aiohttp.ClientSession) -> None:
        alive = await connect(http, world.url("/ws?clientId=alive"), autoping=False)
        reader, writer = await _raw(world, "/ws?clientId=dead")
        await alive.receive_str(timeout=5)
        for _ in range(3):
            ping = await alive.receive(timeout=5)
            assert ping.type is WSMsgType.PING
            await alive.pong(ping.data)
        await asyncio.wait_for(_read_to_end(reader), 10)  # it has not answered
        writer.close()
        state = await world.ask("state")
        assert state["pings"]["alive"] >= 2
        assert not alive.closed
        await alive.close()

    run(scenario)


async def _read_to_end(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(ConnectionError):
        while await reader.read(MIB):
            pass


def test_refusals_are_passed_on(world: World) -> None:
    async def scenario(http: aiohttp.ClientSession) -> None:
        for status, expected in ((400, 400), (403, 403), (404, 404), (500, 502)):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await connect(http, world.url(f"/ws?refuse={status}"))
            assert refused.value.status == expected
        headers = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
        async with http.get(world.url(), headers={**headers, "Sec-WebSocket-Key": "short"}) as answer:
            assert answer.status == 400
            assert (await answer.json())["error"]["type"] == "invalid_upgrade"
        world.backend_dies()
        headers["Sec-WebSocket-Key"] = "AAAAAAAAAAAAAAAAAAAAAA=="
        for state, target in (("ready", "/terminal"), ("down", "/terminal"), ("failed", "/ws")):
            if state != "ready":
                world.order("become", state)
            async with http.get(world.url(target), headers=headers) as answer:
                assert answer.status == 503
                assert int(answer.headers["Retry-After"]) > 0
                assert (await answer.json())["error"]["type"] == "backend_down"
        await until(lambda: world.counts()["bridges"] == [0, 0])
        assert world.counts()["sessions"] == 0

    run(scenario)


@pytest.mark.parametrize("world", [{"open": 1}], indirect=True)
def test_a_backend_that_does_not_answer(world: World) -> None:
    async def scenario(http: aiohttp.ClientSession) -> None:
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await connect(http, world.url("/ws?stall=1"))
        assert refused.value.status == 504
        await until(lambda: world.counts()["links"] == [0, 0])

    run(scenario)


def test_the_first_message_is_not_lost(world: World) -> None:
    async def scenario(http: aiohttp.ClientSession) -> None:
        for number in range(100):
            async with await connect(http, world.url(f"/ws?clientId=n{number}")) as ws:
                assert (await ws.receive_json(timeout=5))["data"]["sid"] == f"n{number}"
        await until(lambda: world.counts()["links"] == [0, 0])

    run(scenario)


def test_status_says_what_our_books_say(world: World) -> None:
    async def scenario(http: aiohttp.ClientSession) -> None:
        def left(message: Any) -> Any:
            return message["data"]["status"]["exec_info"]["queue_remaining"]

        world.order("remaining", 3)
        ws = await connect(http, world.url("/ws?clientId=a"))
        first = await ws.receive_json(timeout=5)
        assert (left(first), first["data"]["sid"]) == (3, "a")
        status = json.dumps({"type": "status", "data": {"status": {"exec_info": {"queue_remaining": 2}, "more": 1}}})
        await world.do("a", ["text", status])
        second = await ws.receive_json(timeout=5)
        assert (left(second), second["data"]["status"]["more"]) == (3, 1)
        world.order("remaining", 3)  # the same: nothing is sent
        world.order("remaining", 1)
        third = await ws.receive_json(timeout=5)
        assert third == {"type": "status", "data": {"status": {"exec_info": {"queue_remaining": 1}}}}
        await ws.close()

    run(scenario)


FLAGS = '{"type": "feature_flags", "data": {"supports_preview_metadata": true}}'


def test_a_reconnecting_client_is_never_deaf(world: World) -> None:
    async def scenario(http: aiohttp.ClientSession) -> None:
        kept: list[Any] = []
        for turn in range(50):
            port = turn % 2  # two gates over one backend
            if turn % 5 == 4:  # half open: never read, never closed
                kept.append(await _raw(world, "/ws?clientId=me", port))
                continue
            ws = await connect(http, world.url("/ws?clientId=me", port))
            assert (await ws.receive_json(timeout=5))["data"]["sid"] == "me"
            await world.do("me", ["text", f'{{"type": "executed", "data": {turn}}}'])
            assert (await ws.receive_json(timeout=5))["data"] == turn
            if turn % 3:
                await ws.close()
            else:
                kept.append(ws)
        await ws.close()
        for _, writer in [pair for pair in kept if isinstance(pair, tuple)]:
            writer.transport.abort()
        assert (await world.ask("state"))["closed"].get("me")

    run(scenario)


def test_the_newest_socket_with_a_client_id_is_served(world: World) -> None:
    async def scenario(http: aiohttp.ClientSession) -> None:
        old = await connect(http, world.url("/ws?clientId=me"))
        await old.receive_str(timeout=5)
        await old.send_str(FLAGS)
        await old.send_str("more")
        await until(lambda: _received(world, "me", 2))
        new = await connect(http, world.url("/api/ws?clientId=me", 1))
        await new.receive_str(timeout=5)
        await world.do("me", ["text", "for the new"])
        assert await new.receive_str(timeout=5) == "for the new"
        assert world.counts()["links"] == [0, 1]
        assert not old.closed
        await new.close()
        # The old one is served again, with what it had negotiated.
        assert (await old.receive_json(timeout=5))["data"]["sid"] == "me"
        await until(lambda: _received(world, "me", 3))
        assert (await world.ask("state"))["received"]["me"] == [FLAGS, "more", FLAGS]
        await world.do("me", ["text", "for the old"])
        assert await old.receive_str(timeout=5) == "for the old"
        await old.close()
        await until(lambda: world.counts()["sessions"] == 0)

    run(scenario)


async def _received(world: World, sid: str, number: int) -> bool:
    return len((await world.ask("state"))["received"].get(sid, ())) >= number


def test_three_at_once_with_one_client_id(world: World) -> None:
    async def scenario(http: aiohttp.ClientSession) -> None:
        for _ in range(10):
            three = await asyncio.gather(*(connect(http, world.url("/ws?clientId=me", n % 2)) for n in range(3)))
            for ws in three:  # each is told its sid, whether it is served or not
                assert (await ws.receive_json(timeout=5))["data"]["sid"] == "me"
            counts = world.counts()
            assert sum(counts["links"]) == 1
            await world.do("me", ["text", '{"type": "executed"}'])
            heard = [asyncio.create_task(_hear(ws)) for ws in three]
            done, _ = await asyncio.wait(heard, timeout=5, return_when=asyncio.FIRST_COMPLETED)
            assert len(done) == 1
            for task in heard:
                task.cancel()
            await asyncio.gather(*heard, return_exceptions=True)
            for ws in three:
                await ws.close()
            await until(lambda: world.counts()["sessions"] == 0)

    run(scenario)


async def _hear(ws: aiohttp.ClientWebSocketResponse) -> None:
    while (await ws.receive_json())["type"] != "executed":
        pass


@both_ways
def test_a_client_that_stops_reading(world: World) -> None:
    async def scenario(http: aiohttp.ClientSession) -> None:
        slow_reader, slow_writer = await _raw(world, "/ws?clientId=slow", size=8192)
        quick = await connect(http, world.url("/ws?clientId=quick"))
        await quick.receive_str(timeout=5)
        # Not to count what is only used once.
        await world.do("quick", ["run", 20, 100_000])
        for _ in range(48):
            await quick.receive(timeout=5)
        before = world.counts()["rss"]
        flood = asyncio.create_task(world.do("slow", ["run", 3000, 100_000]))
        peak, longest = before, 0.0
        while not flood.done():
            started = time.monotonic()
            await quick.send_str("echo")
            assert await quick.receive_str(timeout=5) == "echoed"
            longest = max(longest, time.monotonic() - started)
            peak = max(peak, world.counts()["rss"])
        await flood
        print(f"300 MB to a client that does not read: RSS +{(peak - before) / MIB:.1f} MiB, echo <= {longest:.3f} s")
        assert peak - before < 8 * MIB
        assert longest < 0.5

        events = []
        previews = 0
        async for opcode, payload in _messages(slow_reader):
            if opcode == 2:
                previews += 1
            else:
                message = json.loads(payload)
                if message["type"] != "progress":
                    events.append((message["type"], message["data"]["step"]))
                if len(events) == 1200:
                    break
        kinds = ("executed", "status", "execution_cached", "executing")
        assert events == [(kind, step) for step in range(0, 3000, 10) for kind in kinds]
        assert previews < 300
        slow_writer.close()
        await quick.close()

    run(scenario, 120)


async def _messages(reader: asyncio.StreamReader, control: bool = False) -> Any:
    while True:
        first, second = await asyncio.wait_for(reader.readexactly(2), 10)
        length = second
        if second == 126:
            (length,) = struct.unpack(">H", await reader.readexactly(2))
        elif second == 127:
            (length,) = struct.unpack(">Q", await reader.readexactly(8))
        payload = await reader.readexactly(length)
        if first & 15 < 8 or control:
            yield first & 15, payload


@pytest.mark.parametrize("world", [{"client_close": 1}], indirect=True)
def test_a_client_that_is_too_slow_for_what_counts(world: World) -> None:
    async def scenario(http: aiohttp.ClientSession) -> None:
        _, writer = await _raw(world, "/ws?clientId=slow", size=8192)
        before = world.counts()["rss"]
        text = json.dumps({"type": "executed", "data": "x" * 10_000})
        with contextlib.suppress(AssertionError):  # the backend finds its client gone
            await world.do("slow", ["text", text, 3000])
        await until(lambda: world.counts()["bridges"] == [0, 0])
        assert world.counts()["rss"] - before < 8 * MIB
        writer.close()

    run(scenario)


def test_clients_stay_while_their_backend_is_replaced(world: World) -> None:
    async def scenario(http: aiohttp.ClientSession) -> None:
        sockets = [await connect(http, world.url(f"/ws?clientId=c{n}")) for n in range(3)]
        sockets.append(await connect(http, world.url("/ws?clientId=c0", 1)))  # the first is silent
        without = await connect(http, world.url("/ws"))
        sid = (await without.receive_json(timeout=5))["data"]["sid"]
        terminal = await connect(http, world.url("/terminal"))
        for ws in (*sockets, terminal):
            await ws.receive_str(timeout=5)
        await sockets[1].send_str(FLAGS)
        world.backend_dies()
        closed = await terminal.receive(timeout=5)
        assert (closed.type, closed.data, closed.extra) == (WSMsgType.CLOSE, 1012, "backend restarting")
        world.order("become", "down")
        world.order("remaining", 2)
        for ws in sockets:
            told = await ws.receive_json(timeout=5)
            assert told == {"type": "status", "data": {"status": {"exec_info": {"queue_remaining": 2}}}}
        late = await connect(http, world.url("/ws?clientId=late"))
        assert (await late.receive_json(timeout=5))["data"]["sid"] == "late"
        await late.send_str("held")
        world.backend_returns()
        await until(lambda: world.counts()["links"] == [4, 1])
        await until(lambda: _received(world, "late", 1))
        await until(lambda: _received(world, "c1", 1))
        state = await world.ask("state")
        assert sorted(state["sids"]) == sorted(["c0", "c1", "c2", "late", sid])
        assert (state["received"]["c1"], state["received"]["late"]) == ([FLAGS], ["held"])
        for client_id, ws in (("c0", sockets[3]), ("c1", sockets[1]), ("late", late)):
            await world.do(client_id, ["text", "heard"])
            assert (await ws.receive_json(timeout=5))["data"]["sid"] == client_id
            assert await ws.receive_str(timeout=5) == "heard"
        for ws in (*sockets, without, late):
            await ws.close()
        await until(lambda: world.counts()["links"] == [0, 0])
        assert (world.counts()["bridges"], world.counts()["sessions"]) == ([0, 0], 0)

    run(scenario)


@both_ways
def test_a_reset_connection_is_made_again(world: World) -> None:
    async def scenario(http: aiohttp.ClientSession) -> None:
        ws = await connect(http, world.url("/ws?clientId=a"))
        await ws.receive_str(timeout=5)
        await world.do("a", ["text", "last"], ["abort"])
        assert await ws.receive_str(timeout=5) == "last"
        assert (await ws.receive_json(timeout=5))["data"]["sid"] == "a"
        await world.do("a", ["text", "heard"])
        assert await ws.receive_str(timeout=5) == "heard"
        await ws.close()

    run(scenario)


def test_clients_of_a_backend_that_is_given_up_are_told(world: World) -> None:
    async def scenario(http: aiohttp.ClientSession) -> None:
        sockets = [await connect(http, world.url("/ws?clientId=c", port)) for port in (0, 1)]
        for ws in sockets:
            await ws.receive_str(timeout=5)
        world.backend_dies()
        world.order("become", "failed")
        for ws in sockets:
            closed = await ws.receive(timeout=5)
            assert (closed.type, closed.data, closed.extra) == (
                WSMsgType.CLOSE,
                1012,
                "GPU 0 failed to start too often",
            )
        await until(lambda: world.counts()["bridges"] == [0, 0])
        assert world.counts()["sessions"] == 0

    run(scenario)


def test_what_waits_goes_before_the_end(world: World) -> None:
    async def scenario(http: aiohttp.ClientSession) -> None:
        reader, writer = await _raw(world, "/ws?clientId=slow", size=8192)
        texts = [["text", json.dumps({"type": "executed", "data": [n, "x" * 9000]})] for n in range(100)]
        for first in range(0, 100, 20):
            await world.do("slow", *texts[first : first + 20], ["binary", PREVIEW, 500_000])
        world.backend_dies()
        world.order("become", "failed")
        executed, last = [], None
        async for opcode, payload in _messages(reader, control=True):
            if opcode == 1:
                executed.append(json.loads(payload)["data"][0])
            elif opcode == 8:
                last = struct.unpack(">H", payload[:2])[0]
                break
        assert executed == list(range(100))
        assert last == 1012
        writer.close()

    run(scenario)


@both_ways
def test_the_gate_closes_all(world: World) -> None:
    async def scenario(http: aiohttp.ClientSession) -> None:
        sockets = [await connect(http, world.url(f"/ws?clientId=c{n % 2}")) for n in range(4)]
        for ws in sockets:
            await ws.receive_str(timeout=5)
        closing = [asyncio.create_task(ws.receive(timeout=5)) for ws in sockets]
        await asyncio.get_running_loop().run_in_executor(None, world.order, "close")
        for task in closing:
            closed = await task
            assert (closed.type, closed.data) == (WSMsgType.CLOSE, 1012)
        await until(lambda: world.counts()["bridges"] == [0, 0])
        await until(lambda: world.counts()["links"] == [0, 0])
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await connect(http, world.url())
        assert refused.value.status == 503

    run(scenario)


def test_a_backend_that_hangs_takes_no_client_with_it(world: World) -> None:
    """A stopped process: its leg can't be closed properly, but is, in time."""

    async def scenario(http: aiohttp.ClientSession) -> None:
        old = await connect(http, world.url("/ws?clientId=me"))
        await old.receive_str(timeout=5)
        world.backend.send_signal(signal.SIGSTOP)
        try:
            await old.close()
            connecting = asyncio.create_task(connect(http, world.url("/ws?clientId=me", 1)))
            await until(lambda: world.counts()["links"] == [0, 1])
        finally:
            world.backend.send_signal(signal.SIGCONT)
        new = await connecting
        await new.receive_str(timeout=5)
        await asyncio.sleep(0)
        await world.do("me", ["text", "heard"])
        assert await new.receive_str(timeout=5) == "heard"
        await new.close()

    run(scenario)


def test_idle_sockets_cost_little(world: World) -> None:
    async def scenario(http: aiohttp.ClientSession) -> None:
        before = world.counts()
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as many:
            sockets = [await connect(many, world.url(f"/ws?clientId=i{n}")) for n in range(200)]
            during = world.counts()
            each = (during["rss"] - before["rss"]) / 200
            print(f"an idle bridged socket takes {each / 1024:.1f} KiB")
            assert each < 64 * 1024
            assert during["clients"] == [200, 0]
            world.backend_dies()
            world.order("become", "down")
            await until(lambda: world.counts()["links"] == [0, 0])
            waiting = world.counts()
            print(f"one that waits: {(waiting['rss'] - before['rss']) / 200 / 1024:.1f} KiB")
            assert waiting["clients"] == [200, 0]
            assert waiting["rss"] - during["rss"] < 200 * 2048
            world.backend_returns()
            await until(lambda: world.counts()["links"] == [200, 0])
            for ws in sockets:
                await ws.close()
        await until(lambda: world.counts()["links"] == [0, 0])
        after = world.counts()
        assert after["sockets"] == before["sockets"]
        assert after["timers"] <= before["timers"] + 1

    run(scenario)
