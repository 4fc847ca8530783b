"""Two clients upload under one name at one moment, through two ports: what is left, and what they were told."""

from __future__ import annotations

import http.client
import io
import json
import os
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from PIL import Image

from tests.gateway import Gateway, eventually, running
from tests.process.comfyuis import COMFYUIS, two_gpus

PAIRS = 150
BOUNDARY = "-gate-"
TYPE = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


@pytest.fixture(scope="module", params=COMFYUIS)
def gateway(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with two_gpus(request.param, tmp_path_factory.mktemp(f"uploads-{request.param}")) as one:
        yield one


def form(name: str, content: bytes, **fields: str) -> bytes:
    """A body of multipart/form-data with one file."""
    parts = [f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n' for k, v in fields.items()]
    file = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
    head = "".join(parts) + file + "Content-Type: image/png\r\n\r\n"
    return head.encode() + content + f"\r\n--{BOUNDARY}--\r\n".encode()


def upload_pairs(
    gateway: Gateway, bodies: list[tuple[bytes, bytes]], target: str = "/upload/image"
) -> list[tuple[str, str]]:
    """Upload each pair at one moment through two ports; say what the files are called."""
    together = Barrier(2, timeout=60)

    def one_side(side: int) -> list[str]:
        names = []
        connection = http.client.HTTPConnection("127.0.0.1", gateway.ports[side], timeout=60)
        for pair in bodies:
            together.wait()
            connection.request("POST", target, pair[side], TYPE)
            answer = connection.getresponse()
            body = answer.read()
            assert answer.status == 200, body
            names.append(json.loads(body)["name"])
        connection.close()
        return names

    with ThreadPoolExecutor(2) as threads:
        return list(zip(*threads.map(one_side, range(2)), strict=True))


def folder_of(gateway: Gateway, subfolder: str) -> Path:
    return gateway.folder / "input" / subfolder


def test_different_files_of_one_name_are_all_kept(gateway: Gateway) -> None:
    contents = [(b"zero %d" % n, b"one %d" % n) for n in range(PAIRS)]
    bodies = [
        (form(f"{n}.png", zero, subfolder="all"), form(f"{n}.png", one, subfolder="all"))
        for n, (zero, one) in enumerate(contents)
    ]
    names = upload_pairs(gateway, bodies)
    folder = folder_of(gateway, "all")
    assert len(list(folder.iterdir())) == 2 * PAIRS
    for n, pair in enumerate(names):
        assert set(pair) == {f"{n}.png", f"{n} (1).png"}
        for name, content in zip(pair, contents[n], strict=True):
            assert (folder / name).read_bytes() == content


def test_the_same_file_is_kept_once(gateway: Gateway) -> None:
    bodies = [form(f"{n}.png", b"same %d" % n, subfolder="same") for n in range(PAIRS)]
    names = upload_pairs(gateway, [(body, body) for body in bodies])
    assert names == [(f"{n}.png", f"{n}.png") for n in range(PAIRS)]
    assert len(list(folder_of(gateway, "same").iterdir())) == PAIRS


def test_of_two_that_overwrite_one_is_kept_whole(gateway: Gateway) -> None:
    contents = [(b"zero" * 50_000, b"one%d" % n * 50_000) for n in range(PAIRS)]
    bodies = [
        (form("x.png", zero, subfolder=f"o{n}", overwrite="true"), form("x.png", one, subfolder=f"o{n}", overwrite="1"))
        for n, (zero, one) in enumerate(contents)
    ]
    assert set(upload_pairs(gateway, bodies)) == {("x.png", "x.png")}
    for n, pair in enumerate(contents):
        assert os.listdir(folder_of(gateway, f"o{n}")) == ["x.png"]
        assert (folder_of(gateway, f"o{n}") / "x.png").read_bytes() in pair


def test_masks_are_all_kept(gateway: Gateway) -> None:
    Image.new("RGB", (8, 8), (1, 2, 3)).save(gateway.folder / "input" / "original.png")
    fields = {"subfolder": "masks", "original_ref": json.dumps({"filename": "original.png", "type": "input"})}
    bodies = [(form(f"{n}.png", mask(2 * n), **fields), form(f"{n}.png", mask(2 * n + 1), **fields)) for n in range(50)]
    names = upload_pairs(gateway, bodies, "/upload/mask")
    for n, pair in enumerate(names):
        assert set(pair) == {f"{n}.png", f"{n} (1).png"}
        for side, name in enumerate(pair):
            with Image.open(folder_of(gateway, "masks") / name) as picture:
                assert picture.getpixel((0, 0)) == (1, 2, 3, 2 * n + side)


def mask(alpha: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGBA", (8, 8), (0, 0, 0, alpha)).save(buffer, "PNG")
    return buffer.getvalue()


def begin(port: int, body: bytes, missing: int = 0) -> socket.socket:
    """Send an upload, but for the last bytes."""
    client = socket.create_connection(("127.0.0.1", port), timeout=60)
    head = f"POST /upload/image HTTP/1.1\r\nHost: x\r\nContent-Type: {TYPE['Content-Type']}\r\n"
    client.sendall(head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body[: len(body) - missing])
    return client


def answer(client: socket.socket, seconds: float = 60) -> bytes | None:
    """What the gate says, if it does so in time."""
    client.settimeout(seconds)
    try:
        return client.recv(65536)
    except TimeoutError:
        return None


def test_a_backend_that_dies_in_the_middle_of_an_upload_lets_the_others_go_on(tmp_path: Path) -> None:
    with running(tmp_path, "rate = 0\n", gpus=2) as gateway:
        stopped = gateway.backend_pid(0)
        os.kill(stopped, signal.SIGSTOP)
        with begin(gateway.ports[0], form("x.png", b"zero")) as first:
            assert answer(first, 0.5) is None
            with begin(gateway.ports[1], form("x.png", b"one")) as second:
                assert answer(second, 1) is None
                os.kill(stopped, signal.SIGKILL)
                said = answer(second, 20)
                assert said is not None and b" 200 " in said.partition(b"\r\n")[0]
            said = answer(first)
            assert said is not None and b" 502 " in said.partition(b"\r\n")[0]
        eventually(lambda: gateway.states()[0] != "ready")
        gateway.wait_ready()
        with begin(gateway.ports[0], form("x.png", b"zero")) as again:
            said = answer(again)
            assert said is not None and b'"x (1).png"' in said


def test_a_client_that_leaves_in_the_middle_holds_nobody_up(gateway: Gateway) -> None:
    with (
        begin(gateway.ports[0], form("left.png", b"zero"), 1) as unfinished,
        begin(gateway.ports[1], form("left.png", b"one")) as second,
    ):
        said = answer(second)
        assert said is not None and b'"left.png"' in said
        with begin(gateway.ports[0], form("left.png", b"two")) as third:
            third.close()
        with begin(gateway.ports[1], form("left.png", b"three")) as fourth:
            said = answer(fourth)
            assert said is not None and b" 200 " in said.partition(b"\r\n")[0]
        assert answer(unfinished, 0.1) is None
