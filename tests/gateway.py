"""A whole ComfyGate for tests: the daemon as users start it, on free ports, in a folder of its own."""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from configparser import ConfigParser
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson
from attrs import field, frozen

from tests.ports import free_ports

TWISTD = str(Path(sys.executable).with_name("twistd"))
PATIENCE = 60.0

FAST_PATH = os.environ.get("COMFYGATE_TEST_FAST_PATH") or "on"
"""What the daemons are told of ``fast_path``, unless a test does; see ``make test FAST_PATH=off``."""


@frozen
class Response:
    """An HTTP answer; header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=lambda body: repr(body[:300]))

    def json(self) -> Any:
        """The body, which must be JSON."""
        return orjson.loads(self.body)


def request(
    port: int,
    method: str,
    target: str,
    body: Any = None,
    headers: Mapping[str, str] | None = None,
    seconds: float = 30.0,
) -> Response:
    """Make one request on a connection of its own; a body that is not bytes is sent as JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    try:
        data = body if body is None or isinstance(body, bytes) else orjson.dumps(body)
        connection.request(method, target, data, dict(headers or {}))
        answer = connection.getresponse()
        return Response(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
    finally:
        connection.close()


def eventually(condition: Callable[[], Any], seconds: float = PATIENCE, every: float = 0.02) -> Any:
    """Wait until `condition` is true, and return what it said."""
    deadline = time.monotonic() + seconds
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {condition}")
        time.sleep(every)


def is_alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in "ZX"


def descendants(pid: int) -> list[int]:
    """All processes below `pid`."""
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            for child in map(int, task.read_text().split()):
                found += [child, *descendants(child)]
    return found


def resident_kib(pid: int) -> int:
    """Resident memory of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def twistd(
    *arguments: str, folder: Path, environment: Mapping[str, str] | None = None, seconds: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """Run twistd to its end."""
    return subprocess.run(
        [TWISTD, *arguments],
        cwd=folder,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


class Gateway:
    """A running daemon.

    :ivar ports: the GPUs' ports.
    :ivar hub: the hub's port.
    """

    def __init__(
        self, folder: Path, config: str, gpus: int, environment: Mapping[str, str], prefix: Sequence[str] = ()
    ) -> None:
        self.folder = folder
        self.first_port = free_ports(gpus + 2)
        self.ports = tuple(range(self.first_port, self.first_port + gpus))
        self.hub = self.first_port + gpus
        self.spare = self.hub + 1
        self.config = folder / "gpus.ini"
        self.log = folder / "daemon.log"
        main, _, rest = config.partition("\n[")
        keys = main.format(spare=self.spare)
        rest = ("[" + rest).format(spare=self.spare) if rest else ""
        if "fast_path" not in keys and FAST_PATH != "on":
            keys = f"fast_path = {FAST_PATH}\n{keys}"
        self.config.write_text(
            f"[comfygate]\nstate_dir = {folder / 'state'}\nfirst_port = {self.first_port}\nhub_port = {self.hub}\n"
            f"{keys}\n{rest}\n"
        )
        self._environment = {**os.environ, **environment}
        self._prefix = tuple(prefix)
        self.process = self.start()

    def start(self, **environment: str) -> subprocess.Popen[bytes]:
        """Start the daemon in the foreground, for the first time or again in the same folder.

        :param environment: further variables, for this time.
        """
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self._prefix, TWISTD, "-n", "--pidfile=", "comfygate", "--config", str(self.config)],
                cwd=self.folder,
                env={**self._environment, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return self.process

    def kill(self) -> None:
        """End the daemon as a loss of power would, and wait until nothing of it is left."""
        below = descendants(self.pid)
        self.process.kill()
        self.wait_gone(below)

    def wait_gone(self, below: Sequence[int] = (), seconds: float = 10.0) -> int:
        """Wait until a daemon that is about to die is gone, with the processes that it had; return its exit status."""
        status = self.process.wait(seconds)
        eventually(lambda: not any(map(is_alive, below)), seconds)
        return status

    @property
    def pid(self) -> int:
        """The daemon's process."""
        return self.process.pid

    @property
    def output(self) -> Path:
        """Where images are saved."""
        config = ConfigParser(interpolation=None, strict=False)
        config.read(self.config)
        return Path(config.get("comfygate", "output_dir", fallback=str(self.folder / "state" / "output")))

    @property
    def journal(self) -> Path:
        """The file that jobs are written to."""
        return self.folder / "state" / "journal.sqlite"

    def states(self) -> list[str]:
        """Every GPU's state."""
        return [queue["state"] for queue in self.queues()]

    def queues(self) -> list[dict[str, Any]]:
        """The queues in /queue/all."""
        queues: list[dict[str, Any]] = request(self.hub, "GET", "/queue/all").json()["queues"]
        return queues

    def status(self) -> dict[str, Any]:
        """What GET /comfygate/status says."""
        status: dict[str, Any] = request(self.hub, "GET", "/comfygate/status").json()
        return status

    def wait_ready(self, *gpu_ids: int) -> None:
        """Wait until these GPUs, or all, are READY."""

        def ready() -> bool:
            assert self.process.poll() is None, self.log.read_text()
            try:
                states = self.states()
            except OSError:
                return False
            return all(states[n] == "ready" for n in gpu_ids or range(len(states)))

        eventually(ready, every=0.05)

    def backend_pid(self, gpu_id: int) -> int:
        """The process of a GPU's ComfyUI."""
        port = self.folder / "state" / f"gpu-{gpu_id}"
        for pid in descendants(self.pid):
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if str(port).encode() in words and b"--port" in words and not any(b"guard" in word for word in words):
                return pid
        raise AssertionError(f"GPU {gpu_id} has no process")

    def stop(self, seconds: float = 30.0) -> int:
        """End the daemon as an init system would; return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(seconds)


@contextmanager
def running(
    folder: Path,
    config: str = "",
    *,
    gpus: int = 4,
    environment: Mapping[str, str] | None = None,
    prefix: Sequence[str] = (),
    ready: bool = True,
) -> Iterator[Gateway]:
    """Run a daemon with simulated GPUs.

    :param config: lines for [comfygate], and further sections; ``{spare}`` is a
        free port.
    :param prefix: a command that runs the words behind it.
    """
    simulated = "" if "comfyui" in config else f"comfyui = simulator\ndevices = cpu*{gpus}\n"
    gateway = Gateway(folder, simulated + config, gpus, environment or {}, prefix)
    pids: list[int] = []
    try:
        if ready:
            gateway.wait_ready()
        yield gateway
    finally:
        if gateway.process.poll() is None:
            pids = descendants(gateway.pid)
            try:
                gateway.stop()
            except subprocess.TimeoutExpired:
                gateway.process.kill()
                gateway.process.wait()
                for pid in filter(is_alive, pids):
                    os.kill(pid, signal.SIGKILL)
                raise


_colors = iter(range(1, 2**24))


def workflow(seconds: float = 0.0, **work: Any) -> dict[str, Any]:
    """A small prompt that saves one image; with `seconds`, one that takes so long."""
    color = next(_colors)
    image = {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": color}}
    save = {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "ComfyUI"}}
    if not seconds and not work:
        return {"1": image, "9": save}
    inputs = {
        "image": ["1", 0],
        "seconds": seconds,
        "steps": max(1, int(seconds * 20)),
        "preview": False,
        "fault": "none",
        **work,
    }
    save["inputs"]["images"] = ["2", 0]  # type: ignore[index]
    return {"1": image, "2": {"class_type": "SimulatedWork", "inputs": inputs}, "9": save}
