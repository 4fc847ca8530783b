"""The proxies: started on free ports with folders of their own, ended by their process ids."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path

from benchmarks.proxy.scenario import DEBIAN, DIRECT, HAPROXY, OURS, PLAIN, TUNED, VARIANTS, Backend, Behind, Target
from comfygate.config.keys import MAIN
from tests.gateway import descendants, eventually, running
from tests.ports import free_ports

ROOT = Path(__file__).parents[2]
ETC = Path(__file__).parent / "etc"
PROGRAMS = {"nginx": "nginx-light", "haproxy": "haproxy", "wrk": "wrk"}
"""Programs, and the Debian packages that have them."""

SEARCHED = os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"))
"""Debian's users do not have the folder of daemons in their PATH."""

FAST_PATH = "fast_path"
"""The key that turns ComfyGate's fast path off; a ComfyGate without it has only one variant."""


def missing() -> list[str]:
    """Debian packages of the programs that are not here."""
    return [package for name, package in PROGRAMS.items() if shutil.which(name, path=SEARCHED) is None]


def program(name: str) -> str:
    """The path of a program.

    :raises FileNotFoundError: it is not installed.
    """
    found = shutil.which(name, path=SEARCHED)
    if found is None:
        raise FileNotFoundError(f"{name} is not installed: apt install {PROGRAMS.get(name, name)}")
    return found


def variants() -> tuple[str, ...]:
    """Those that can be measured here."""
    has_switch = FAST_PATH in {key.name for key in MAIN}
    return tuple(name for name in VARIANTS if name != PLAIN or has_switch)


@contextmanager
def targets(
    names: Iterable[str], backend: Backend, behind: Behind, folder: Path, core: int | None = None
) -> Iterator[dict[str, Target]]:
    """Run proxies before a backend.

    :param names: of :data:`~benchmarks.proxy.scenario.VARIANTS`.
    :param core: the only one that proxies may use.
    """
    with ExitStack() as stack:
        found = {}
        for name in names:
            place = folder / name
            place.mkdir(parents=True)
            found[name] = stack.enter_context(_START[name](name, backend, behind, place))
            if core is not None:
                _pin(found[name].pids, core)
        yield found


def _pin(pids: Iterable[int], core: int) -> None:
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            os.sched_setaffinity(int(task.name), {core})


@contextmanager
def process(arguments: Sequence[str], folder: Path, port: int, seconds: float = 60.0) -> Iterator[int]:
    """Run a program in the foreground, until the end of the block.

    :param folder: for what it prints.
    :param port: where it listens once it has started.
    :param seconds: that this may take.
    :return: its process id.
    """
    log = folder / "output.log"
    with log.open("ab") as output:
        started = subprocess.Popen(arguments, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:

        def listens() -> bool:
            if started.poll() is not None:
                raise RuntimeError(f"{' '.join(arguments)} ended at once: {log.read_text()[-2000:]}")
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), 5):
                return True
            return False

        eventually(listens, seconds)
        yield started.pid
    finally:
        started.send_signal(signal.SIGTERM)
        try:
            started.wait(10)
        except subprocess.TimeoutExpired:
            below = descendants(started.pid)
            for pid in (started.pid, *below):
                os.kill(pid, signal.SIGKILL)
            started.wait()


def configured(name: str, folder: Path, **values: object) -> Path:
    """Fill in a template of etc/; return the file."""
    text = (ETC / name).read_text()
    for key, value in {"folder": folder, "user": getpass.getuser(), **values}.items():
        text = text.replace(f"@{key.upper()}@", str(value))
    path = folder / name
    path.write_text(text)
    return path


@contextmanager
def nginx(template: str, folder: Path, **values: object) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Run nginx; return its port and the process ids of its workers, all of them."""
    port = free_ports()
    config = configured(template, folder, port=port, **values)
    workers = (os.cpu_count() or 1) if "worker_processes auto" in config.read_text() else 1
    arguments = [program("nginx"), "-p", str(folder), "-c", str(config), "-e", str(folder / "error.log")]
    with process(arguments, folder, port) as pid:
        eventually(lambda: len(descendants(pid)) == workers)
        yield port, tuple(descendants(pid))


def _nginx(template: str) -> Callable[[str, Backend, Behind, Path], AbstractContextManager[Target]]:
    @contextmanager
    def start(name: str, backend: Backend, behind: Behind, folder: Path) -> Iterator[Target]:
        with nginx(template, folder, backend=behind.port) as (port, workers):
            yield Target(name, port, workers, folder, behind)

    return start


@contextmanager
def _haproxy(name: str, backend: Backend, behind: Behind, folder: Path) -> Iterator[Target]:
    port = free_ports()
    config = configured("haproxy.cfg", folder, port=port, backend=behind.port)
    with process([program("haproxy"), "-db", "-f", str(config)], folder, port) as pid:
        yield Target(name, port, (pid,), folder, behind)


def _comfygate(switch: Mapping[str, str]) -> Callable[[str, Backend, Behind, Path], AbstractContextManager[Target]]:
    @contextmanager
    def start(name: str, backend: Backend, behind: Behind, folder: Path) -> Iterator[Target]:
        """All checks as by default; only the rate is not limited, and nor is how many may come at once."""
        lines = ["rate = 0", "max_connections = 8192", "max_pending = 1000000", "shutdown_grace = 0"]
        has_switch = FAST_PATH in {key.name for key in MAIN}
        lines += [f"{key} = {value}" for key, value in switch.items() if has_switch]
        if backend.comfygate is None:
            lines += ["comfyui = simulator", "devices = none", "[gpu:0]", f"url = http://127.0.0.1:{behind.port}"]
        else:
            lines.append(backend.comfygate)
        with running(folder, "\n".join(lines) + "\n", gpus=backend.gpus) as gateway:
            yield Target(name, gateway.ports[0], (gateway.pid,), folder, behind)

    return start


@contextmanager
def _direct(name: str, backend: Backend, behind: Behind, folder: Path) -> Iterator[Target]:
    yield Target(name, behind.port, (), folder, behind)


_START: dict[str, Callable[[str, Backend, Behind, Path], AbstractContextManager[Target]]] = {
    DIRECT: _direct,
    DEBIAN: _nginx("nginx-debian.conf"),
    TUNED: _nginx("nginx-tuned.conf"),
    HAPROXY: _haproxy,
    OURS: _comfygate({FAST_PATH: "on"}),
    PLAIN: _comfygate({FAST_PATH: "off"}),
}
