"""A changed configuration file, applied by SIGHUP while everything goes on."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.gateway import TWISTD, Gateway, eventually, is_alive, request, running, workflow
from tests.ports import free_ports

UNLIMITED = "rate = 0\n"


def edit(gateway: Gateway, old: str, new: str) -> None:
    text = gateway.config.read_text()
    assert old in text
    gateway.config.write_text(text.replace(old, new))


def add(gateway: Gateway, text: str) -> None:
    with gateway.config.open("a") as file:
        file.write(text)


def said(gateway: Gateway) -> list[str]:
    """What was said of reloading, in lines of the log."""
    lines = gateway.log.read_text().splitlines()
    return [line.partition("] ")[2] for line in lines if "] reloaded " in line or " was not applied, " in line]


def reload(gateway: Gateway) -> str:
    """Send a SIGHUP, and return what the log says of it, without the file's name."""
    before = len(said(gateway))
    gateway.process.send_signal(signal.SIGHUP)
    eventually(lambda: len(said(gateway)) > before)
    return said(gateway)[before].replace(f"{gateway.config}", "gpus.ini")


def submit(port: int, prompt: dict[str, Any] | None = None, headers: dict[str, str] | None = None) -> Any:
    answer = request(port, "POST", "/prompt", {"prompt": prompt or workflow()}, headers)
    assert answer.status == 200, answer
    return answer.json()


def ended(port: int, prompt_id: str) -> Any:
    return eventually(lambda: request(port, "GET", f"/history/{prompt_id}").json().get(prompt_id))


def done(gateway: Gateway) -> int:
    """How many prompts ended well so far, on whichever GPU."""
    text = request(gateway.hub, "GET", "/metrics").body.decode()
    ended = [line for line in text.splitlines() if line.startswith("comfygate_jobs_ended_total")]
    return int(sum(float(line.split()[-1]) for line in ended if 'outcome="done"' in line))


def running_on(gateway: Gateway, gpu_id: int) -> bool:
    return bool(queue_of(gateway, gpu_id)["running_count"])


def queue_of(gateway: Gateway, gpu_id: int) -> Any:
    return next(queue for queue in gateway.queues() if queue["gpu_id"] == gpu_id)


def listens(port: int, host: str = "127.0.0.1") -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), 1):
        return True
    return False


class WebSocket:
    """A client that sees whether it was cut off."""

    def __init__(self, port: int, client_id: str) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 30)
        self._socket.settimeout(30)
        self._socket.sendall(
            f"GET /ws?clientId={client_id} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\n"
            "Connection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        self._file = self._socket.makefile("rb")
        assert b" 101 " in self._file.readline()
        while self._file.readline() != b"\r\n":
            pass

    def frame(self) -> tuple[int, bytes]:
        """The next frame: opcode and payload."""
        head = self._file.read(2)
        assert len(head) == 2, "cut off"
        size = head[1] & 127
        if size > 125:
            kind = "!H" if size == 126 else "!Q"
            (size,) = struct.unpack(kind, self._file.read(struct.calcsize(kind)))
        return head[0] & 15, self._file.read(size)

    def is_open(self) -> bool:
        """Whether it has not been closed, and the other side answers."""
        self._socket.sendall(b"\x89\x81\0\0\0\0x")
        while True:
            opcode, payload = self.frame()
            if opcode == 8:
                return False
            if (opcode, payload) == (10, b"x"):
                return True

    def closed_with(self) -> int:
        """The code with which it was closed."""
        while True:
            opcode, payload = self.frame()
            if opcode == 8:
                return int.from_bytes(payload[:2], "big")

    def close(self) -> None:
        self._file.close()
        self._socket.close()


class Download:
    """A client that reads slowly."""

    SIZE = 64 * 2**20

    def __init__(self, gateway: Gateway, port: int) -> None:
        folder = gateway.folder / "state" / "output"
        with (folder / "large.bin").open("wb") as file:
            file.truncate(self.SIZE)
        self._socket = socket.create_connection(("127.0.0.1", port), 30)
        self._socket.sendall(b"GET /view?filename=large.bin HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        self._file = self._socket.makefile("rb")
        assert b" 200 " in self._file.readline()
        while self._file.readline() != b"\r\n":
            pass
        self._file.read(1000)

    def is_whole(self) -> bool:
        size = 1000
        while data := self._file.read(2**20):
            size += len(data)
        self._file.close()
        self._socket.close()
        return size == self.SIZE


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    with running(tmp_path, UNLIMITED, gpus=2) as one:
        yield one


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """One whose file is right again after each test."""
    with running(tmp_path_factory.mktemp("gateway"), UNLIMITED, gpus=2) as one:
        yield one


def test_no_connection_on_an_unchanged_port_is_cut(gateway: Gateway) -> None:
    sockets = [WebSocket((*gateway.ports, gateway.hub)[n % 3], f"client-{n}") for n in range(100)]
    download = Download(gateway, gateway.ports[0])
    kept = socket.create_connection(("127.0.0.1", gateway.hub), 30)
    edit(gateway, UNLIMITED, "rate = 500\nmax_wait = 1\ncors_origins = http://page.example\nprefetch = 3\n")
    add(gateway, f"[gate:fast]\nport = {gateway.spare}\ngpus = 1\n")
    assert reload(gateway) == (
        f"reloaded gpus.ini: port {gateway.spare} (fast) opens for GPU 1; "
        f"port {gateway.ports[0]} (gpu-0), port {gateway.ports[1]} (gpu-1), port {gateway.hub} (hub): "
        "rate 0 → 500, max_wait 0 → 1; cors_origins none → http://page.example; prefetch 2 → 3"
    )
    assert all(one.is_open() for one in sockets)
    assert download.is_whole()
    # Also who came before gets what holds now.
    kept.sendall(b"GET /queue HTTP/1.1\r\nHost: x\r\nOrigin: http://page.example\r\nConnection: close\r\n\r\n")
    assert b"Access-Control-Allow-Origin: http://page.example" in kept.makefile("rb").read()
    kept.close()
    for one in sockets:
        one.close()


def test_a_rate_takes_effect(gateway: Gateway) -> None:
    def answers(count: int) -> set[int]:
        return {request(gateway.hub, "GET", "/queue").status for _ in range(count)}

    assert answers(20) == {200}
    edit(gateway, UNLIMITED, "rate = 0.01\nburst = 3\n")
    assert "rate 0 → 0.01, burst 20 → 3" in reload(gateway)
    assert answers(3) == {200}
    assert answers(3) == {429}
    edit(gateway, "rate = 0.01\nburst = 3\n", UNLIMITED)
    reload(gateway)
    assert answers(20) == {200}


def test_gates_open_move_and_close(gateway: Gateway) -> None:
    gate = f"[gate:fast]\nport = {gateway.spare}\ngpus = 1\n"
    add(gateway, gate)
    reload(gateway)
    assert submit(gateway.spare)["gpu_id"] == 1
    stays = WebSocket(gateway.spare, "zero")
    edit(gateway, "gpus = 1", "gpus = 0")
    assert reload(gateway) == f"reloaded gpus.ini: port {gateway.spare} (fast): gpus 1 → 0"
    assert stays.is_open()
    stays.close()
    assert submit(gateway.spare)["gpu_id"] == 0
    on_gate, on_hub = WebSocket(gateway.spare, "one"), WebSocket(gateway.hub, "two")
    # Another gate takes the port: nobody finds it closed.
    edit(gateway, gate.replace("gpus = 1", "gpus = 0"), gate.replace("fast", "slow"))
    assert reload(gateway) == (
        f"reloaded gpus.ini: port {gateway.spare} (fast) closes; port {gateway.spare} (slow) opens for GPU 1"
    )
    assert on_gate.closed_with() == 1012
    assert submit(gateway.spare)["gpu_id"] == 1
    edit(gateway, gate.replace("fast", "slow"), "")
    assert reload(gateway) == f"reloaded gpus.ini: port {gateway.spare} (slow) closes"
    eventually(lambda: not listens(gateway.spare))
    assert on_hub.is_open()
    for one in (on_gate, on_hub):
        one.close()


def test_ports_move_and_change_places(gateway: Gateway) -> None:
    first = gateway.ports[0]
    on_first, on_second = WebSocket(first, "one"), WebSocket(gateway.ports[1], "two")
    add(gateway, f"[gpu:0]\nport = {gateway.spare}\n")
    assert reload(gateway) == f"reloaded gpus.ini: gpu-0 moves from port {first} to port {gateway.spare}"
    assert submit(gateway.spare)["gpu_id"] == 0
    eventually(lambda: not listens(first))
    assert on_first.closed_with() == 1012
    assert on_second.is_open()
    # Two ports change places.
    edit(gateway, f"port = {gateway.spare}", f"port = {gateway.ports[1]}\n[gpu:1]\nport = {gateway.spare}")
    reload(gateway)
    assert submit(gateway.ports[1])["gpu_id"] == 0
    assert submit(gateway.spare)["gpu_id"] == 1
    for one in (on_first, on_second):
        one.close()


def test_all_ports_move_to_another_interface_on_the_same_numbers(gateway: Gateway) -> None:
    assert not listens(gateway.hub, "127.0.0.2")
    edit(gateway, UNLIMITED, UNLIMITED + "interface = 0.0.0.0\n")
    assert reload(gateway) == "reloaded gpus.ini: all ports move from 127.0.0.1 to 0.0.0.0"
    assert listens(gateway.hub, "127.0.0.2")
    assert listens(gateway.hub)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with pytest.raises(OSError, match="in use"):
            other.bind(("0.0.0.0", gateway.hub))
    edit(gateway, "interface = 0.0.0.0\n", "")
    reload(gateway)
    eventually(lambda: not listens(gateway.hub, "127.0.0.2"))
    assert submit(gateway.hub)["prompt_id"]


def test_a_gpu_is_added_and_removed(gateway: Gateway) -> None:
    pids = [gateway.backend_pid(n) for n in (0, 1)]
    edit(gateway, "devices = cpu*2", "devices = cpu*3")
    assert "GPU 2 (CPU) is added" in reload(gateway)
    gateway.wait_ready(0, 1, 2)
    assert submit(gateway.spare)["gpu_id"] == 2
    assert submit(gateway.hub, headers={"X-Target-GPU": "2"})["gpu_id"] == 2
    status = request(gateway.hub, "GET", "/comfygate/status").json()
    assert [gpu["port"] for gpu in status["gpus"]] == [*gateway.ports, gateway.spare]
    assert 'comfygate_jobs_ended_total{gpu="2",outcome="done"}' in request(gateway.hub, "GET", "/metrics").body.decode()

    eventually(lambda: done(gateway) == 2)  # what runs from now on is the long one
    submit(gateway.spare, workflow(seconds=6.0))
    eventually(lambda: running_on(gateway, 2))
    pinned = submit(gateway.spare, workflow())
    third = gateway.backend_pid(2)
    edit(gateway, "devices = cpu*3", "devices = cpu*2")
    assert "GPU 2 is removed when what it runs has ended" in reload(gateway)
    eventually(lambda: not listens(gateway.spare))
    assert is_alive(third), "what runs may end"
    assert running_on(gateway, 2)
    eventually(lambda: len(gateway.queues()) == 2)
    assert not is_alive(third)
    assert done(gateway) == 3
    assert "1 prompts wait for GPUs that are gone (2)" in gateway.log.read_text()
    assert [gateway.backend_pid(n) for n in (0, 1)] == pids

    edit(gateway, "devices = cpu*2", "devices = cpu*3")
    reload(gateway)
    eventually(lambda: done(gateway) == 4)
    assert ended(gateway.hub, pinned["prompt_id"])["status"]["status_str"] == "success"


def test_what_waits_goes_on_elsewhere(gateway: Gateway) -> None:
    add(gateway, f"[gate:both]\nport = {gateway.spare}\n")
    reload(gateway)
    long = [submit(port, workflow(seconds=1.5)) for port in gateway.ports for _ in range(2)]
    waiting = [submit(gateway.spare) for _ in range(6)]
    edit(gateway, f"[gate:both]\nport = {gateway.spare}\n", "")
    edit(gateway, "devices = cpu*2", "devices = cpu*1")
    assert "closes" in reload(gateway)
    for one in waiting:
        assert ended(gateway.hub, one["prompt_id"])["status"]["status_str"] == "success"
    eventually(lambda: len(gateway.queues()) == 1)
    # One of those that were sent to GPU 1 alone has run there; the other waits for it.
    eventually(lambda: done(gateway) == len(long) - 1 + len(waiting))
    assert "6 prompts that waited at both go on at gpu-0" in gateway.log.read_text()


def test_only_the_gpu_whose_arguments_changed_restarts_and_its_prompt_ends_first(gateway: Gateway) -> None:
    pids = [gateway.backend_pid(n) for n in (0, 1)]
    on_first, on_second = WebSocket(gateway.ports[0], "one"), WebSocket(gateway.ports[1], "two")
    runs = submit(gateway.ports[1], workflow(seconds=1.5))
    eventually(lambda: running_on(gateway, 1))
    waits = [submit(gateway.ports[1]) for _ in range(3)]
    add(gateway, "[gpu:1]\narguments = --preview-method auto\nname = the other\n")
    assert reload(gateway) == "reloaded gpus.ini: GPU 1 is called the other; GPU 1 restarts: arguments changed"
    assert is_alive(pids[1]), "what runs ends first"
    eventually(lambda: gateway.states()[1] != "ready")
    assert done(gateway) == 1, runs
    for one in waits:
        assert ended(gateway.hub, one["prompt_id"])["status"]["status_str"] == "success"
    assert gateway.backend_pid(0) == pids[0]
    assert gateway.backend_pid(1) != pids[1]
    words = Path(f"/proc/{gateway.backend_pid(1)}/cmdline").read_bytes().split(b"\0")
    assert b"auto" in words
    assert queue_of(gateway, 1)["name"] == "the other"
    assert on_first.is_open()
    assert on_second.is_open()
    assert reload(gateway) == "reloaded gpus.ini: nothing changed"
    for one in (on_first, on_second):
        one.close()


def test_a_gpu_becomes_someone_elses_and_ours_again(gateway: Gateway, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    with running(other, UNLIMITED, gpus=1) as someone:
        old = gateway.backend_pid(1)
        add(gateway, f"[gpu:1]\nurl = http://127.0.0.1:{someone.ports[0]}\n")
        assert reload(gateway) == "reloaded gpus.ini: GPU 1 restarts: url changed"
        eventually(lambda: not is_alive(old))
        gateway.wait_ready()
        prompt_id = submit(gateway.ports[1])["prompt_id"]
        assert ended(someone.hub, prompt_id)
        edit(gateway, f"[gpu:1]\nurl = http://127.0.0.1:{someone.ports[0]}\n", "")
        reload(gateway)
        eventually(lambda: queue_of(gateway, 1)["device"] == "cpu")
        gateway.wait_ready()
        assert ended(gateway.hub, submit(gateway.ports[1])["prompt_id"])


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("rate = 0", "rate = much", "gpus.ini, [comfygate] rate: must be a number from 0 to 1000000, not 'much'."),
        ("[comfygate]", "[comfygate", "gpus.ini, line 1: stands before any section; write [comfygate] above it."),
        ("rate = 0", "rate = 0\njournal = off", "gpus.ini, [comfygate] journal: cannot change from on to off while"),
        ("/state", "/elsewhere", "gpus.ini, [comfygate] state_dir: cannot change from "),
        ("cpu*2", "cpu*99", "gpus.ini, [comfygate] devices: cpu*99 asks for 99 shares"),
        ("rate = 0", "rate = 0\npolicy = magic", "there is no routing policy 'magic'"),
        ("rate = 0", "rate = 0\ninput_dir = /proc/nowhere", "gpus.ini, [comfygate] input_dir: there is no folder"),
    ],
)
def test_a_wrong_file_changes_nothing_and_says_why(unchanged: Gateway, old: str, new: str, sentence: str) -> None:
    gateway = unchanged
    pids = [gateway.backend_pid(n) for n in (0, 1)]
    one = WebSocket(gateway.hub, "one")
    good = gateway.config.read_text()
    gateway.config.write_text(good.replace(old, new, 1).replace("devices = cpu*2", "prefetch = 7\ndevices = cpu*2"))
    what = reload(gateway)
    assert what.startswith("gpus.ini was not applied, everything goes on as before: ")
    assert sentence in what
    gateway.config.unlink()
    assert "gpus.ini: cannot be read (No such file or directory)" in reload(gateway)
    gateway.config.write_text(good)
    assert reload(gateway) == "reloaded gpus.ini: nothing changed"
    assert one.is_open()
    assert [gateway.backend_pid(n) for n in (0, 1)] == pids
    one.close()


def test_a_taken_port_changes_nothing(unchanged: Gateway) -> None:
    gateway = unchanged
    good = gateway.config.read_text()
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", gateway.spare))
        taken.listen()
        edit(gateway, UNLIMITED, "rate = 1\n")
        add(gateway, f"[gate:fast]\nport = {gateway.spare}\n")
        what = reload(gateway)
    assert f"[gate:fast] port: fast cannot listen on 127.0.0.1 port {gateway.spare} (Address already in use)" in what
    assert {request(gateway.hub, "GET", "/queue").status for _ in range(30)} == {200}
    assert "rate 0 → 1" in reload(gateway), "it is free now"
    assert listens(gateway.spare)
    gateway.config.write_text(good)
    reload(gateway)


def test_many_signals_at_once(gateway: Gateway) -> None:
    edit(gateway, UNLIMITED, "rate = 77\n")
    for _ in range(20):
        gateway.process.send_signal(signal.SIGHUP)
    eventually(lambda: said(gateway))
    edit(gateway, "rate = 77\n", "rate = 78\n")
    assert "rate 77 → 78" in eventually(lambda: newest_change(gateway))
    assert sum("rate 0 → 77" in line for line in said(gateway)) == 1


def newest_change(gateway: Gateway) -> str:
    gateway.process.send_signal(signal.SIGHUP)
    return next((line for line in reversed(said(gateway)) if "→ 78" in line), "")


def test_signals_during_start_and_stop(tmp_path: Path) -> None:
    with running(tmp_path, UNLIMITED, gpus=1, ready=False) as gateway:
        # As soon as it runs code of ours.
        eventually(lambda: catches_sighup(gateway.pid), every=0.001)
        edit(gateway, UNLIMITED, "rate = 5\n")
        gateway.process.send_signal(signal.SIGHUP)
        gateway.wait_ready()
        eventually(lambda: said(gateway))
        assert reload(gateway).startswith("reloaded gpus.ini: ")
        submit(gateway.hub, workflow(seconds=1))
        eventually(lambda: running_on(gateway, 0))
        edit(gateway, "rate = 5\n", "rate = 6\n")
        gateway.process.send_signal(signal.SIGTERM)
        while gateway.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                gateway.process.send_signal(signal.SIGHUP)
            with contextlib.suppress(subprocess.TimeoutExpired):
                gateway.process.wait(0.02)
        assert gateway.process.returncode == 0
        assert "rate 5 → 6" not in gateway.log.read_text()


def catches_sighup(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(status.partition("SigCgt:")[2].split()[0], 16) & 1)


def test_relative_paths_are_found_again(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    ports = free_ports(2)
    text = "[comfygate]\ncomfyui = simulator\ndevices = cpu*1\nstate_dir = temporary\n"
    text += f"first_port = {ports}\nhub_port = {ports + 1}\n"
    (tmp_path / "mine.ini").write_text(text)
    (tmp_path / "run").mkdir()
    temporary = tmp_path_factory.mktemp("short")  # the path of a UNIX socket has a bound
    arguments = ["--rundir", "run", "--pidfile", "pid", "--logfile", str(tmp_path / "log")]
    subprocess.run(
        [TWISTD, *arguments, "comfygate", "--config", "mine.ini"],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(temporary)},
        check=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    log = tmp_path / "log"
    pid = int(eventually(lambda: find(tmp_path, "pid")).read_text())
    try:
        eventually(lambda: "ComfyGate is ready" in log.read_text())
        (tmp_path / "mine.ini").write_text(text + "rate = 3\n")
        os.kill(pid, signal.SIGHUP)
        eventually(lambda: "reloaded mine.ini: " in log.read_text())
        assert "rate 10 → 3" in log.read_text()
        assert "restart" not in log.read_text()
    finally:
        os.kill(pid, signal.SIGTERM)
        eventually(lambda: not is_alive(pid))
    assert not list(temporary.iterdir())


def find(folder: Path, name: str) -> Path | None:
    return next((path for path in folder.rglob(name) if path.is_file() and path.read_text().strip()), None)


def test_an_operator_is_told_what_was_changed(unchanged: Gateway) -> None:
    gateway, good = unchanged, unchanged.config.read_text()

    def ask() -> Any:
        with socket.socket(socket.AF_UNIX) as control:
            control.settimeout(30)
            control.connect(str(gateway.folder / "state" / "control.sock"))
            head = (
                b"POST /comfygate/operator/reload HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )
            control.sendall(head)
            answer = control.makefile("rb").read()
        status, _, rest = answer.partition(b"\r\n")
        return int(status.split()[1]), orjson.loads(rest.partition(b"\r\n\r\n")[2])

    assert ask() == (200, {"changes": ["nothing changed"]})
    edit(gateway, UNLIMITED, "rate = x\n")
    status, told = ask()
    assert status == 400
    assert "rate: must be a number" in told["error"]["message"]
    gateway.config.write_text(good)
