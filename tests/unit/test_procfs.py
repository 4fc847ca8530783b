"""What is read of processes, from real ones."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from comfygate.backend import procfs


@contextmanager
def program(text: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-S", "-E", "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


FAMILY = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-S", "-E", "-c", "import time; print(1, flush=True); time.sleep(60)"])
print(child.pid, flush=True)
sys.stdin.readline()
child.kill()
child.wait()
"""

WORK = """
import time
def work(seconds):
    end = time.process_time() + seconds
    while time.process_time() < end: pass
"""


def wait_for(condition: object, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_whole_family() -> None:
    with program(FAMILY) as parent:
        assert parent.stdout is not None
        lines = sorted((int(parent.stdout.readline()), int(parent.stdout.readline())))
        child = lines[1]
        assert procfs.below(parent.pid) == [child]
        assert {parent.pid, child} <= set(procfs.below(os.getpid()))
        parent.communicate("\n")


def test_processor_time_of_all_also_of_those_that_ended() -> None:
    ended = f"""{WORK}
import os, sys
if os.fork() == 0:
    work(0.3)
    os._exit(0)
os.wait()
print("waited", flush=True)
if os.fork() == 0:
    work(0.3)
    print("worked", flush=True)
    sys.stdin.readline()
    os._exit(0)
os.wait()
"""
    with program(ended) as parent:
        assert parent.stdout is not None
        before = procfs.usage(os.getpid(), parent.pid)
        assert before is not None and not before.stopped
        assert parent.stdout.readline() == "waited\n"
        middle = procfs.usage(os.getpid(), parent.pid)
        assert middle is not None and middle.seconds - before.seconds >= 0.25
        assert parent.stdout.readline() == "worked\n"
        after = procfs.usage(os.getpid(), parent.pid)
        assert after is not None and after.seconds - middle.seconds >= 0.25
        parent.communicate("\n")


def test_a_stopped_program_and_one_that_is_gone() -> None:
    with program("import time; time.sleep(60)") as process:
        os.kill(process.pid, signal.SIGSTOP)

        def stopped() -> bool:
            found = procfs.usage(os.getpid(), process.pid)
            return found is not None and found.stopped

        wait_for(stopped)
        process.kill()
        wait_for(lambda: procfs.usage(os.getpid(), process.pid) is None)  # a zombie is gone, too
    assert procfs.usage(os.getpid(), process.pid) is None


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0", "::", "::ffff:127.0.0.1"])
def test_who_listens(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as found:
        if ":" in address:
            found.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        found.bind((address, 0))
        port = found.getsockname()[1]
        assert procfs.listeners(port) == frozenset()
        found.listen()
        sockets = procfs.listeners(port)
        assert sockets == {os.readlink(f"/proc/self/fd/{found.fileno()}")}
        assert procfs.hold_all([os.getpid()], sockets)
        assert procfs.hold_all([1, os.getpid()], sockets)
        assert not procfs.hold_all([os.getppid()], sockets)
        assert not procfs.hold_all([], sockets)
        assert not procfs.hold_all([os.getpid()], {*sockets, "socket:[1]"})
    assert procfs.listeners(port) == frozenset()


def test_another_address_is_none_of_our_business() -> None:
    with socket.create_server(("127.0.0.2", 0)) as found:
        assert procfs.listeners(found.getsockname()[1]) == frozenset()


def test_without_ipv6(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    with pytest.raises(FileNotFoundError):
        procfs.listeners(80, tmp_path)
    (tmp_path / "net" / "tcp").write_text(
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
        "   0: 0100007F:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0  0 1605 1 0 100 0 0 10 0\n"
        "   1: 0100007F:0050 0100007F:9999 01 00000000:00000000 00:00000000 00000000  0  0 1606 1 0 100 0 0 10 0\n"
    )
    assert procfs.listeners(80, tmp_path) == {"socket:[1605]"}
