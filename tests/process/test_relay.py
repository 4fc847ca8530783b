"""The relay between real sockets: what in-memory wires cannot show."""

from __future__ import annotations

import contextlib
import hashlib
import json
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.process.relaying import Backend, Connection, Gates, Program, Script, client, eventually
from tests.unit.test_http1 import BAD

MIB = 1024 * 1024
GIB = 1024 * MIB
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
GET = b"GET /a HTTP/1.1\r\nHost: h\r\n\r\n"

Start = Callable[..., tuple[int, Backend]]


@pytest.fixture(scope="module", params=("fast", "plain"))
def gates(request: pytest.FixtureRequest) -> Iterator[Gates]:
    program = Gates(request.param)
    yield program
    program.stop()
    assert b"Traceback" not in b"".join(program.log)


@pytest.fixture
def start(gates: Gates) -> Iterator[Start]:
    """Open a port in front of a scripted backend."""
    with contextlib.ExitStack() as stack:

        def begin(script: Script, **options: Any) -> tuple[int, Backend]:
            backend = Backend(script)
            stack.callback(backend.stop)
            return gates.open(backend.port, **options), backend

        yield begin


def ok(connection: Connection, head: bytes) -> bool:
    connection.send(OK)
    return True


def send_zeros(connection: Connection, count: int) -> None:
    block = memoryview(bytes(MIB))
    while count:
        connection.send(block[: min(count, MIB)])
        count -= min(count, MIB)


def download(connection: Connection, head: bytes) -> bool:
    size = int(head.split()[1].rpartition(b"/")[2])
    connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
    send_zeros(connection, size)
    return True


def upload(connection: Connection, head: bytes) -> bool:
    connection.skip(int(head.lower().partition(b"content-length: ")[2].split()[0]))
    connection.send(OK)
    return True


def fetch(port: int, size: int, *, rate: float | None = None) -> None:
    with client(port) as connection:
        connection.send(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % size)
        assert connection.head().startswith(b"HTTP/1.1 200 ")
        connection.skip(size, rate=rate)


def push(port: int, size: int) -> None:
    with client(port) as connection:
        connection.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % size)
        send_zeros(connection, size)
        assert connection.head().startswith(b"HTTP/1.1 200 ")


# Memory.


def little(growth: int) -> None:
    assert growth < 8 * MIB


def test_a_gigabyte_down_costs_no_memory(start: Start, gates: Gates) -> None:
    port, _ = start(download)
    fetch(port, 20 * MIB)
    before = gates.memory()
    fetch(port, GIB)
    little(gates.peak() - before)


def test_a_gigabyte_up_costs_no_memory(start: Start, gates: Gates) -> None:
    port, _ = start(upload)
    push(port, 20 * MIB)
    before = gates.memory()
    push(port, GIB)
    little(gates.peak() - before)


def test_a_slow_reader_costs_no_memory(start: Start, gates: Gates) -> None:
    port, _ = start(download)
    fetch(port, 20 * MIB)
    before = gates.memory()
    with client(port) as connection:
        connection.send(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % GIB)
        connection.head()
        connection.skip(4 * MIB, rate=MIB)
        little(gates.peak() - before)


def test_a_slow_backend_costs_no_memory(start: Start, gates: Gates) -> None:
    going = threading.Event()

    def slow(connection: Connection, head: bytes) -> bool:
        going.wait(20)
        return upload(connection, head)

    port, _ = start(slow)
    before = gates.memory()
    with client(port) as connection:
        size = 64 * MIB
        connection.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % size)
        connection.sock.settimeout(1.0)
        sent = 0
        block = bytes(MIB)
        with pytest.raises(TimeoutError):
            while sent < size:
                sent += connection.sock.send(block)
        connection.sock.settimeout(20)
        little(gates.peak() - before)
        going.set()
        send_zeros(connection, size - sent)
        assert connection.head().startswith(b"HTTP/1.1 200 ")


# Ends.


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    ],
)
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
def test_a_cut_answer_ends_in_a_reset(start: Start, answer: bytes, version: bytes) -> None:
    proceed = threading.Event()

    def script(connection: Connection, head: bytes) -> None:
        connection.send(answer)
        proceed.wait(20)

    port, _ = start(script)
    with client(port) as connection:
        connection.send(b"GET / HTTP/%b\r\nHost: h\r\n\r\n" % version)
        connection.head()
        while b"abc" not in connection.buffer:
            connection.buffer += connection.sock.recv(65536)
        proceed.set()
        with pytest.raises(ConnectionResetError):
            connection.rest()


def test_a_reset_in_a_body_without_length_is_no_clean_end(start: Start) -> None:
    def script(connection: Connection, head: bytes) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\n\r\nabc")
        proceed.wait(20)
        connection.reset()

    proceed = threading.Event()
    port, _ = start(script)
    with client(port) as connection:
        connection.send(GET)
        assert b"chunked" in connection.head()
        assert connection.exactly(8) == b"3\r\nabc\r\n"
        proceed.set()
        with pytest.raises(ConnectionResetError):
            connection.rest()


def test_a_body_without_length_ends_cleanly(start: Start) -> None:
    def script(connection: Connection, head: bytes) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\n\r\nabc")

    port, _ = start(script)
    with client(port) as connection:
        connection.send(GET.replace(b"1.1", b"1.0"))
        assert connection.rest().endswith(b"Connection: close\r\n\r\nabc")


def test_a_half_closed_client_gets_its_answer(start: Start) -> None:
    def script(connection: Connection, head: bytes) -> bool:
        body = connection.exactly(5)
        time.sleep(0.2)  # so that the half-close comes first
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" + body)
        return True

    port, _ = start(script)
    with client(port) as connection:
        connection.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello")
        connection.sock.shutdown(socket.SHUT_WR)
        assert connection.rest().endswith(b"\r\n\r\nhello")


def test_half_closed_in_the_middle_of_a_body(start: Start) -> None:
    gone = threading.Event()

    def script(connection: Connection, head: bytes) -> None:
        connection.gone()
        gone.set()

    port, backend = start(script)
    with client(port) as connection:
        connection.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhe")
        eventually(lambda: backend.heads, "the request")
        connection.sock.shutdown(socket.SHUT_WR)
        assert connection.gone()
    assert gone.wait(20)


@pytest.mark.parametrize("how", ["reset", "close with unread data"])
def test_the_client_leaving_cancels_the_request(start: Start, how: str) -> None:
    gone = threading.Event()

    def script(connection: Connection, head: bytes) -> None:
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        connection.gone()
        gone.set()

    port, _ = start(script)
    with client(port) as connection:
        connection.send(GET)
        assert connection.sock.recv(10, socket.MSG_PEEK)
        eventually(lambda: b"abc" in connection.sock.recv(1000, socket.MSG_PEEK), "the body")
        if how == "reset":
            connection.reset()
    assert gone.wait(20)


def test_a_client_that_closed_is_told_from_one_that_half_closed(start: Start) -> None:
    """Both look alike until something is sent to them."""
    gone = {b"/leaves": threading.Event(), b"/stays": threading.Event()}
    proceed = threading.Event()

    def script(connection: Connection, head: bytes) -> None:
        path = head.split()[1]
        if path == b"/stays":
            proceed.wait(20)
            connection.send(OK)
        else:
            connection.gone()
        gone[path].set()

    port, backend = start(script, limits={"half_closed": 0.1})
    with client(port) as stays:
        stays.send(b"GET /stays HTTP/1.1\r\nHost: h\r\n\r\n")
        stays.sock.shutdown(socket.SHUT_WR)
        with client(port) as leaves:
            leaves.send(b"GET /leaves HTTP/1.1\r\nHost: h\r\n\r\n")
            eventually(lambda: len(backend.heads) == 2, "both requests")
        assert gone[b"/leaves"].wait(20)
        assert not gone[b"/stays"].is_set()
        proceed.set()
        assert stays.rest() == b"HTTP/1.1 100 Continue\r\n\r\n" + OK


def test_the_client_leaving_a_download_cancels_it(start: Start) -> None:
    broken = threading.Event()

    def script(connection: Connection, head: bytes) -> None:
        try:
            download(connection, head)
        except ConnectionError:
            broken.set()

    port, _ = start(script)
    with client(port) as connection:
        connection.send(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % GIB)
        connection.exactly(1000)
    assert broken.wait(20)


# Order.


def test_pipelined_requests_are_answered_in_order(start: Start) -> None:
    def script(connection: Connection, head: bytes) -> bool:
        path = head.split()[1]
        body = connection.exactly(int(head.partition(b"Content-Length: ")[2].split()[0])) if b"POST" in head else b""
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(path + body), path + body))
        return True

    port, backend = start(script)
    with client(port) as connection:
        for n in range(200):
            connection.send(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % n)
            connection.send(b"POST /%d HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nxy" % n)
        for n in range(200):
            for expected in (b"/%d" % n, b"/%dxy" % n):
                connection.head()
                assert connection.exactly(len(expected)) == expected
    assert backend.connections == 1


def test_a_client_that_waits_for_100(start: Start) -> None:
    def script(connection: Connection, head: bytes) -> bool:
        assert b"Expect: 100-continue" in head
        connection.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = connection.exactly(5)
        connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n" + body)
        return True

    port, _ = start(script)
    with client(port) as connection:
        connection.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
        assert connection.head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.send(b"hello")
        connection.head()
        assert connection.exactly(5) == b"hello"


def keep_sending(connection: Connection) -> None:
    """Send although the answer is there already."""
    with selectors.DefaultSelector() as selector:
        selector.register(connection.sock, selectors.EVENT_READ)
        assert selector.select(20)
    for _ in range(20):
        send_zeros(connection, 50_000)
        time.sleep(0.01)


def test_an_early_answer_reaches_a_client_that_still_sends(start: Start) -> None:
    def script(connection: Connection, head: bytes) -> None:
        connection.send(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig")
        connection.gone()

    port, _ = start(script)
    with client(port) as connection:
        connection.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000000\r\n\r\n")
        send_zeros(connection, MIB)
        keep_sending(connection)
        assert connection.head().startswith(b"HTTP/1.1 413 ")
        assert connection.rest() == b"big"


def test_the_gates_own_413_reaches_a_client_that_still_sends(start: Start) -> None:
    port, backend = start(ok, relay={"max_body": 1000})
    with client(port) as connection:
        connection.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 100000000\r\n\r\n")
        keep_sending(connection)
        assert connection.head().startswith(b"HTTP/1.1 413 ")
        assert json.loads(connection.rest())["error"]["type"] == "body_too_large"
    assert backend.heads == []


def test_a_stale_connection_is_replaced(start: Start) -> None:
    """The backend closes its connection at the moment when it is used again."""
    first = threading.Event()

    def script(connection: Connection, head: bytes) -> bool:
        if backend.connections == 1 and first.is_set():
            return False
        first.set()
        connection.send(OK)
        return True

    port, backend = start(script)
    with client(port) as connection:
        for _ in range(2):
            connection.send(GET)
            assert connection.head().startswith(b"HTTP/1.1 200 ")
            connection.exactly(2)
    assert backend.connections == 2 and len(backend.heads) == 3


def test_a_restarted_backend_is_reached_again(start: Start) -> None:
    def script(connection: Connection, head: bytes) -> bool:
        connection.send(OK)
        return not head.startswith(b"POST")

    port, _ = start(script)
    with client(port) as connection:
        for _ in range(5):
            connection.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n")
            assert connection.head().startswith(b"HTTP/1.1 200 ")
            connection.exactly(2)
            time.sleep(0.05)  # the backend's FIN arrives: the connection is no longer in the pool


def test_no_backend_is_502(gates: Gates) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        free = taken.getsockname()[1]
    with client(gates.open(free)) as connection:
        for _ in range(2):
            connection.send(GET)
            head = connection.head()
            assert head.startswith(b"HTTP/1.1 502 ")
            assert json.loads(body_of(connection, head))["error"]["type"] == "backend_failed"


# What must not get through.


def test_no_malformed_head_reaches_the_backend(start: Start) -> None:
    port, backend = start(ok, limits={"linger": 0.2})
    for name, data in BAD.items():
        with client(port) as connection:
            connection.send(data + b"GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n")
            answer = connection.rest()
            assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\n"), name
            assert answer.count(b"HTTP/1.1 ") == 1, name
    assert backend.heads == []


@pytest.mark.parametrize(
    "body",
    [
        b"5\nhello\r\n0\r\n\r\n",
        b"5\r\nhelloGET /x HTTP/1.1\r\nHost: h\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"10000000000000005\r\nhello\r\n0\r\n\r\n",
        b"ffffffffffffffff\r\nhello\r\n0\r\n\r\n",
    ],
)
def test_malformed_chunks_end_the_request(start: Start, body: bytes) -> None:
    got: list[bytes] = []

    def script(connection: Connection, head: bytes) -> None:
        with contextlib.suppress(ConnectionError):
            while data := connection.sock.recv(65536):
                got.append(data)

    port, _ = start(script)
    with client(port) as connection:
        connection.send(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
        assert connection.head().startswith(b"HTTP/1.1 400 ")
    assert b"0\r\n\r\n" not in b"".join(got)


def test_a_head_that_trickles_is_408(start: Start) -> None:
    port, backend = start(ok, limits={"head": 0.5})
    with client(port) as connection:
        started = time.monotonic()
        connection.sock.settimeout(0.05)
        answer = b""
        for byte in GET[:-1] * 100:
            connection.send(bytes([byte]))
            with contextlib.suppress(TimeoutError):
                answer = connection.sock.recv(65536)
            if answer:
                break
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert time.monotonic() - started < 5
    assert backend.heads == []


# Many.


def test_five_hundred_at_once(start: Start) -> None:
    port, _ = start(ok)
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(client(port)) for _ in range(500)]
        for connection in connections:
            connection.send(GET)
        for connection in connections:
            assert connection.head().startswith(b"HTTP/1.1 200 ")
            assert connection.exactly(2) == b"ok"


def test_many_downloads_at_once_stay_apart(start: Start) -> None:
    def script(connection: Connection, head: bytes) -> bool:
        mark = head.split()[1][1:2]
        connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(20):
            connection.send(b"%x\r\n%b\r\n" % (50_000, mark * 50_000))
        connection.send(b"0\r\n\r\n")
        return True

    port, _ = start(script)
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as selector:
        found: dict[bytes, bytearray] = {}
        for mark in b"abcdefghijklmnop":
            name = bytes([mark])
            connection = stack.enter_context(client(port))
            connection.send(b"GET /%b HTTP/1.0\r\nHost: h\r\n\r\n" % name)
            found[name] = bytearray()
            selector.register(connection.sock, selectors.EVENT_READ, name)
        while selector.get_map():
            for key, _ in selector.select(20):
                data = key.fileobj.recv(65536)  # type: ignore[union-attr]
                if data:
                    found[key.data] += data
                else:
                    selector.unregister(key.fileobj)
        for name, data in found.items():
            assert data.partition(b"\r\n\r\n")[2] == name * 1_000_000


# ComfyUI's HTTP library.


@pytest.fixture(scope="module")
def comfy(gates: Gates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    folder = tmp_path_factory.mktemp("files")
    (folder / "picture").write_bytes(bytes(range(256)) * 4096)
    backend = Program("aiohttp_backend.py", str(folder))
    try:
        yield gates.open(backend.port())
    finally:
        backend.stop()


def body_of(connection: Connection, head: bytes) -> bytes:
    return connection.exactly(int(head.lower().partition(b"content-length: ")[2].split()[0]))


def test_aiohttp_gets_the_target_and_the_headers(comfy: int) -> None:
    with client(comfy) as connection:
        connection.send(b"GET /a%2Fb//c?x=%C3%A4&y=a+b HTTP/1.1\r\nHost: h\r\n\r\n")
        assert json.loads(body_of(connection, connection.head())) == "/a%2Fb//c?x=%C3%A4&y=a+b"
        connection.send(b"POST /digest HTTP/1.1\r\nHost: h\r\nX-A: 1\r\nx-a: 2\r\nContent-Length: 3\r\n\r\nabc")
        told = json.loads(body_of(connection, connection.head()))
        assert told["digest"] == hashlib.sha256(b"abc").hexdigest()
        assert [value for name, value in told["headers"] if name.lower() == "x-a"] == ["1", "2"]


def test_aiohttp_takes_as_many_headers_as_we_pass(comfy: int) -> None:
    with client(comfy) as connection:
        connection.send(b"GET / HTTP/1.1\r\nHost: h\r\n" + b"X: y\r\n" * 127 + b"\r\n")
        assert connection.head().startswith(b"HTTP/1.1 200 ")


def test_aiohttp_serves_ranges_and_heads(comfy: int) -> None:
    with client(comfy) as connection:
        connection.send(b"HEAD /files/picture HTTP/1.1\r\nHost: h\r\n\r\n")
        assert b"Content-Length: 1048576\r\n" in connection.head()
        connection.send(b"GET /files/picture HTTP/1.1\r\nHost: h\r\nRange: bytes=1000-1999\r\n\r\n")
        head = connection.head()
        assert head.startswith(b"HTTP/1.1 206 ")
        assert body_of(connection, head) == (bytes(range(256)) * 8)[1000:2000]


def test_aiohttp_echoes_chunks(comfy: int) -> None:
    payload = bytes(range(256)) * 20_000
    with client(comfy) as connection:
        connection.send(b"POST /echo HTTP/1.1\r\nHost: h\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n")

        def send() -> None:
            for start in range(0, len(payload), 10_000):
                connection.send(b"2710\r\n%b\r\n" % payload[start : start + 10_000])
            connection.send(b"0\r\n\r\n")

        sender = threading.Thread(target=send)
        sender.start()
        connection.head()
        answer = connection.rest()
        sender.join(20)
    decoded = bytearray()
    while True:
        size, _, answer = answer.partition(b"\r\n")
        if size == b"0":
            break
        count = int(size, 16)
        decoded += answer[:count]
        answer = answer[count + 2 :]
    assert decoded == payload


def test_aiohttp_refuses_what_is_too_large(comfy: int) -> None:
    with client(comfy) as connection:
        connection.send(b"POST /small HTTP/1.1\r\nHost: h\r\nContent-Length: 3000000\r\n\r\n")
        send_zeros(connection, 3_000_000)
        assert connection.head().startswith(b"HTTP/1.1 413 ")
