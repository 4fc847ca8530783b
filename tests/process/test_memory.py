"""The daemon needs little memory, and how much does not depend on the size of bodies or the slowness of readers."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.comfyui_client import Listener
from tests.gateway import Gateway, Response, request, resident_kib, running, twistd

MIB = 1024 * 1024
GIB = 1024 * MIB
MOST_GROWTH = 8 * 1024  # KiB
MOST_AT_REST = 64 * 1024  # KiB
FORM = "multipart/form-data; boundary=b"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One GPU behind a gate that has carried something already."""
    with running(tmp_path_factory.mktemp("memory"), "rate = 0\nmax_body = 0\n", gpus=1) as one:
        for _ in range(3):
            request(one.ports[0], "GET", f"/simulator/bytes?size={8 * MIB}")
            request(one.ports[0], "POST", "/simulator/sink", bytes(8 * MIB))
        yield one


def test_at_rest(tmp_path: Path) -> None:
    twistd("--help", folder=tmp_path)  # Twisted finds its plugins once, which takes memory, and notes them
    with running(tmp_path, gpus=4) as gateway:
        assert resident_kib(gateway.pid) <= MOST_AT_REST


class Growth:
    """How far the daemon's memory has grown since this was made, at its highest."""

    def __init__(self, gateway: Gateway) -> None:
        self._pid = gateway.pid
        self._before = resident_kib(self._pid)
        self._highest = self._before

    def look(self) -> None:
        self._highest = max(self._highest, resident_kib(self._pid))

    @property
    def kib(self) -> int:
        return self._highest - self._before


def ask(gateway: Gateway, head: str) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", gateway.ports[0]), timeout=60)
    client.sendall(head.replace("\n", "\r\n").encode())
    return client


def read_head(client: socket.socket) -> tuple[bytes, bytes]:
    data = b""
    while b"\r\n\r\n" not in data:
        piece = client.recv(65536)
        assert piece
        data += piece
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


@pytest.mark.parametrize("chunked", ["", "&chunked=1"])
def test_a_large_download(gateway: Gateway, chunked: str) -> None:
    growth = Growth(gateway)
    with ask(gateway, f"GET /simulator/bytes?size={GIB}{chunked} HTTP/1.1\nHost: x\nConnection: close\n\n") as client:
        head, rest = read_head(client)
        assert b" 200 " in head
        received, buffer = len(rest), bytearray(MIB)
        while count := client.recv_into(buffer):
            received += count
            growth.look()
    assert received >= GIB
    assert growth.kib < MOST_GROWTH


def test_a_large_upload(gateway: Gateway) -> None:
    growth = Growth(gateway)
    piece = bytes(MIB)
    with ask(gateway, f"POST /simulator/sink HTTP/1.1\nHost: x\nContent-Length: {GIB}\n\n") as client:
        for _ in range(GIB // MIB):
            client.sendall(piece)
            growth.look()
        head, rest = read_head(client)
        assert b" 200 " in head
        assert str(GIB).encode() in rest or str(GIB).encode() in client.recv(65536)
    assert growth.kib < MOST_GROWTH


def test_a_large_file_into_the_shared_folder_and_small_ones_beside_it(tmp_path: Path) -> None:
    size, piece = 300 * MIB, bytes(MIB)
    config = "rate = 0\narguments = --max-upload-size 400\n"
    with running(tmp_path, config, gpus=2) as gateway:
        for port in gateway.ports:
            assert upload(gateway, port, "warm.png", piece).status == 200
        growth = Growth(gateway)
        begin, end = form("large.png")
        length = len(begin) + size + len(end)
        head = f"POST /upload/image HTTP/1.1\nHost: x\nContent-Type: {FORM}\nContent-Length: {length}\n\n"
        with ask(gateway, head) as client:
            client.sendall(begin)
            for n in range(300):
                client.sendall(piece)
                growth.look()
                if n % 30 == 0:  # the large one is under way and holds nobody up
                    assert upload(gateway, gateway.ports[1], "small.png", b"%d" % n, seconds=10).status == 200
            client.sendall(end)
            assert b" 200 " in read_head(client)[0]
        assert growth.kib < MOST_GROWTH
        folder = tmp_path / "state" / "input"
        assert (folder / "large.png").stat().st_size == size
        assert len(list(folder.glob("small*.png"))) == 10


def form(name: str) -> tuple[bytes, bytes]:
    """What stands before and after the one file of a form."""
    file = f'--b\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'
    return file.encode(), b"\r\n--b--\r\n"


def upload(gateway: Gateway, port: int, name: str, content: bytes, seconds: float = 60.0) -> Response:
    body = content.join(form(name))
    return request(port, "POST", "/upload/image", body, {"Content-Type": FORM}, seconds=seconds)


def test_a_slow_reader(gateway: Gateway) -> None:
    growth = Growth(gateway)
    with ask(gateway, f"GET /simulator/bytes?size={GIB} HTTP/1.1\nHost: x\n\n") as client:
        read_head(client)
        end = time.monotonic() + 5
        while time.monotonic() < end:
            assert client.recv(100_000)
            time.sleep(0.1)  # a reader at 1 MB/s
            growth.look()
    assert growth.kib < MOST_GROWTH // 2
    assert request(gateway.ports[0], "GET", "/prompt").status == 200


def test_a_websocket_that_stops_reading(gateway: Gateway) -> None:
    def flood(kind: str, messages: int, size: int) -> None:
        target = f"/simulator/flood?client_id=idle&messages={messages}&size={size}&kind={kind}"
        assert request(gateway.ports[0], "GET", target, seconds=60).json() == {"sent": messages}
        growth.look()

    with Listener.open(f"127.0.0.1:{gateway.ports[0]}", "/ws?clientId=idle") as idle:
        growth = Growth(gateway)
        # The simulator waits until each is taken: none of them may wait for the client.
        flood("preview", 1000, 200_000)
        flood("progress", 20_000, 2000)
        flood("executed", 50, 100)
        flood("preview", 1000, 100_000)
        assert growth.kib < MOST_GROWTH
        executed = 0
        while executed < 50:
            message = idle.next()
            executed += isinstance(message, dict) and message["type"] == "executed"


def test_a_file_larger_than_the_bound_is_refused_at_once(tmp_path: Path) -> None:
    with (
        running(tmp_path, "max_body = 1M\n", gpus=1) as gateway,
        ask(gateway, f"POST /upload/image HTTP/1.1\nHost: x\nContent-Length: {2 * MIB}\n\n") as client,
    ):
        assert b" 413 " in read_head(client)[0]
