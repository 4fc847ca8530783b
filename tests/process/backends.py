"""Stand-ins for ComfyUI that do one thing wrong each, and ways to look at processes."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from attrs import define, field
from twisted.internet.task import deferLater
from zope.interface import implementer

from comfygate.backend.attempt import Setup
from comfygate.backend.commandline import Folders, Program
from comfygate.backend.managed import ManagedBackend
from comfygate.backend.options import Options
from comfygate.interfaces import IBackend, IBackendListener
from comfygate.model import BackendState, Device

MAIN = """
import argparse, http.server, json, os, signal, subprocess, sys, threading, time

parser = argparse.ArgumentParser()
for name in "listen port output-directory input-directory temp-directory database-url".split():
    parser.add_argument("--" + name)
parser.add_argument("--cpu", action="store_true")
options = parser.parse_args()
own = options.temp_directory


def note(name, text):
    with open(os.path.join(own, name), "a") as file:
        file.write(text + "\\n")


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        found = self.path == "/prompt"
        self.send_response(200 if found else 404)
        self.end_headers()

    def log_message(self, *arguments):
        pass


def serve():
    http.server.ThreadingHTTPServer((options.listen, int(options.port)), Handler).serve_forever()


note("starts", str(os.getpid()))
"""
"""Beginning of a ``main.py`` that knows few options; what it does is added to it."""

FAMILY = """
# A grandchild in our group, one in a session of its own, and one that let go of everything.
sleep = [sys.executable, "-c", "import time; time.sleep(1000)"]
note("family", str(subprocess.Popen(sleep).pid))
note("family", str(subprocess.Popen(sleep, start_new_session=True).pid))
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        note("family", str(os.getpid()))
        time.sleep(1000)
    os._exit(0)
os.wait()
"""


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path("/proc", str(pid), "stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    except OSError:
        return False


async def until(reactor: Any, condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Return as soon as `condition` holds; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {condition}"
        await deferLater(reactor, 0.02)


@implementer(IBackendListener)
@define
class Seen:
    """The states that a backend went through, and what it said of its queue."""

    states: list[BackendState] = field(factory=list)
    remaining: list[int] = field(factory=list)

    def backend_changed(self, backend: IBackend) -> None:
        self.states.append(backend.state)

    def queue_changed(self, backend: IBackend, remaining: int) -> None:
        self.remaining.append(remaining)


class Workshop:
    """Makes backends in a folder, and ends them and whatever they left behind."""

    def __init__(self, reactor: Any, folder: Path) -> None:
        self.reactor = reactor
        self.folder = folder
        self.own = folder / "gpu-0"
        self.seen = Seen()
        self.made: list[ManagedBackend] = []

    def program(self, text: str) -> Program:
        """Write a ComfyUI whose ``main.py`` does `text` once its options are read."""
        home = self.folder / "comfyui"
        home.mkdir(exist_ok=True)
        (home / "main.py").write_text(MAIN + text)
        return Program(str(home), sys.executable)

    def backend(self, program: Program, **settings: Any) -> ManagedBackend:
        """Make a backend that is tried again soon."""
        settings = {"restart_delay": 0.05, "restart_delay_max": 0.05, **settings}
        device = Device(gpu_id=0, label="cpu", name="CPU", arguments=("--cpu",))
        folders = Folders(own=self.own, input=self.own / "input", output=self.own / "output", user=self.own / "user")
        setup = Setup(device=device, program=program, folders=folders, **settings)
        backend = ManagedBackend(self.reactor, setup, Options(self.reactor, str(self.folder)))
        backend.subscribe(self.seen)
        self.made.append(backend)
        return backend

    async def becomes(self, backend: Any, state: BackendState, seconds: float = 20.0) -> None:
        """Wait until `backend` is in `state`."""
        await until(self.reactor, lambda: backend.state is state, seconds)

    def pids(self, name: str) -> list[int]:
        """Read the process ids that a program noted in the file `name`."""
        path = self.own / name
        return [int(line) for line in path.read_text().split()] if path.exists() else []

    async def family(self) -> list[int]:
        """Wait for the processes of ``FAMILY``, and list them."""
        await until(self.reactor, lambda: len(self.pids("family")) == 3)
        found = self.pids("family")
        assert all(map(alive, found))
        return found

    async def close(self) -> None:
        """End everything."""
        for backend in self.made:
            await backend.stop()
        for pid in self.pids("family") + self.pids("starts"):
            if alive(pid):
                os.kill(pid, signal.SIGKILL)


def guard_of(pid: int) -> int:
    """The parent of a process."""
    return int(Path("/proc", str(pid), "stat").read_bytes().rpartition(b")")[2].split()[1])


def log_files(folder: Path) -> Iterator[Path]:
    """The files of a backend's log, oldest first."""
    yield from sorted(folder.glob("comfyui.log*"), reverse=True)
