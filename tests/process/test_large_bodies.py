"""Large bodies through a whole daemon: every byte, beside small requests, and cut off in their middle."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import struct
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from comfygate.gate.fast_path.pipes import MOST_IDLE
from tests.gateway import Gateway, eventually, request, running

MIB = 1024 * 1024
SIZE = 100 * MIB + 1
SMALL = "/prompt"
PATIENCE = 60.0


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running(tmp_path_factory.mktemp("bodies"), "rate = 0\nmax_body = 0\n", gpus=1) as one:
        yield one


@pytest.fixture(scope="module")
def body() -> bytes:
    """Bytes of which none can be missing, or in another's place."""
    return os.urandom(SIZE)


@pytest.fixture(scope="module")
def file(gateway: Gateway, body: bytes) -> str:
    """The same as an output."""
    gateway.output.mkdir(parents=True, exist_ok=True)
    (gateway.output / "large.png").write_bytes(body)
    return "/view?filename=large.png&type=output"


def connect(gateway: Gateway) -> socket.socket:
    return socket.create_connection(("127.0.0.1", gateway.ports[0]), PATIENCE)


def read_head(client: socket.socket) -> tuple[bytes, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = client.recv(MIB)
        assert piece
        data += piece
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def ask(client: socket.socket, target: str) -> bytes:
    """Begin a download; give the first of its body."""
    client.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    head, rest = read_head(client)
    assert b" 200 " in head
    return rest


def rest_of(client: socket.socket, beginning: bytes, size: int = SIZE) -> str:
    """Read a body to its end, and no further; give its hash."""
    digest, space = hashlib.sha256(beginning), memoryview(bytearray(MIB))
    left = size - len(beginning)
    while left:
        count = client.recv_into(space, min(left, MIB))
        assert count, f"{left} bytes are missing"
        digest.update(space[:count])
        left -= count
    return digest.hexdigest()


def offer(client: socket.socket, size: int = SIZE) -> None:
    """Begin an upload."""
    client.sendall(f"POST /simulator/sink HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n".encode())


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def test_every_byte_goes_both_ways_beside_small_requests(gateway: Gateway, body: bytes, file: str) -> None:
    expected = hashlib.sha256(body).hexdigest()

    def down() -> None:
        with connect(gateway) as client:
            for _ in range(2):
                assert rest_of(client, ask(client, file)) == expected

    def up() -> None:
        with connect(gateway) as client:
            for _ in range(2):
                offer(client)
                client.sendall(body)
                head, answer = read_head(client)
                assert b" 200 " in head and expected.encode() in (answer or client.recv(MIB))

    slowest, count = 0.0, 0
    with ThreadPoolExecutor(4) as threads:
        moving = [threads.submit(one) for one in (down, up, down, up)]
        while not all(one.done() for one in moving):
            began = time.monotonic()
            assert request(gateway.ports[0], "GET", SMALL).status == 200
            slowest = max(slowest, time.monotonic() - began)
            count += 1
        for one in moving:
            one.result()
    assert count > 10 and slowest < 5


def test_a_client_that_stops_reading_for_a_while(gateway: Gateway, body: bytes, file: str) -> None:
    with connect(gateway) as client:
        for _ in range(2):
            beginning = ask(client, file)
            for _ in range(50):
                assert request(gateway.ports[0], "GET", SMALL).status == 200
            assert rest_of(client, beginning) == hashlib.sha256(body).hexdigest()


def test_clients_that_leave_in_mid_upload(gateway: Gateway) -> None:
    piece = bytes(8 * MIB)

    def leave(n: int) -> None:
        with connect(gateway) as client:
            offer(client, 1024 * MIB)
            client.sendall(piece)
            if n % 2:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    backend = gateway.backend_pid(0)
    assert request(gateway.ports[0], "GET", SMALL).status == 200
    before = descriptors(gateway.pid), descriptors(backend)
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(leave, range(40)))
    eventually(lambda: descriptors(backend) <= before[1])  # it sees the end of each
    eventually(lambda: descriptors(gateway.pid) <= before[0] + 2 * MOST_IDLE)
    assert request(gateway.ports[0], "GET", SMALL).status == 200


def test_a_backend_that_is_killed_in_mid_download(gateway: Gateway) -> None:
    with connect(gateway) as client:
        ask(client, f"/simulator/bytes?size={1024 * MIB}")
        left = 8 * MIB
        while left > 0:
            left -= len(client.recv(MIB))
        os.kill(gateway.backend_pid(0), signal.SIGKILL)
        with pytest.raises(ConnectionResetError):
            while client.recv(MIB):
                pass
    eventually(lambda: request(gateway.ports[0], "GET", SMALL).status == 200)
