"""The guard's log: bounded, and never in the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from comfygate.backend import guard
from comfygate.backend.guard import Log, descendants, in_words


def sizes(path: Path) -> dict[str, int]:
    return {file.name: file.stat().st_size for file in path.parent.iterdir()}


@pytest.mark.parametrize(
    "pieces",
    [
        [b"Exception in thread Thread-9 (prompt_worker):\nTraceback ..."],
        [b" 50%|####    | 5/10\rException in thr", b"ead Thread-9 (prompt_w", b"orker):\n"],
        [b"x" * 300_000, b"Exception in thread Thread-9 (prompt_worker)" + b"y" * 300_000, b"z"],
        [b"Exception in thread got prompt\nThread-9 (prompt_worker):\nTraceback ..."],
        [b"Exception in thread got prompt\nThread-9 (prompt_worker)got prompt\n:\n"],
        [b"Exception in thread ", b"got prompt\n" * 300, b"\r 50%|##  |", b"Thread-9 (prompt_worker)\xff\n:\n"],
        [b"Exception in thread Exception in thread asyncio_0:\nThread-9 (prompt_worker):\nTraceback ..."],
    ],
)
def test_a_lost_worker_is_reported_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pieces: list[bytes]) -> None:
    reports: list[str] = []
    monkeypatch.setattr(guard, "report", reports.append)
    made = guard.Guard(Log(str(tmp_path / "log"), 4096, 1))
    for piece in pieces:
        made._listen(piece)
    assert reports == ["lost Exception in thread Thread-9 (prompt_worker)"]
    assert len(made._heard) <= guard.LOST_LONGEST


@pytest.mark.parametrize(
    "text",
    [
        b"Exception in thread Thread-9 (asyncio)\n",
        b"Exception in thread Thread-9\n (prompt_worker)",
        b"Exception in thread Thread-9 (asyncio):\nTraceback ...\n[Thread-1 (prompt_worker)] got prompt\n",
        b"Exception in thread pool task: unknown\ngot prompt\nINFO [Thread-1 (prompt_worker)] loaded\n",
        b"Exception in thread pool task: unknown\nINFO Thread-1 (prompt_worker): loaded\n",
        b"Exception in thread pool task: unknown\nThread-1 (prompt_worker): loaded\n",
        b"Exception in thread pool task: unknown\nThread-1 (prompt_worker) loaded\n",
        b"Exception in thread " + b"x" * 5000 + b"Thread-9 (prompt_worker)",
        b'File "main.py", line 226, in prompt_worker\n',
    ],
)
def test_other_exceptions_are_not_the_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: bytes) -> None:
    reports: list[str] = []
    monkeypatch.setattr(guard, "report", reports.append)
    guard.Guard(Log(str(tmp_path / "log"), 4096, 1))._listen(text)
    assert reports == []


def test_listening_costs_little_whatever_is_printed(tmp_path: Path) -> None:
    made = guard.Guard(Log(str(tmp_path / "log"), 4096, 1))
    began = time.process_time()
    for _ in range(10):
        made._listen(b"Exception in thread " * (guard.CHUNK // 20))
    assert time.process_time() - began < 5  # hundredths of a second; four each where every start looks far ahead


def test_rotation(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = Log(str(path), 4096, 3)
    for number in range(10):
        log.write(bytes([65 + number]) * 3000)
    log.close()
    assert sizes(path) == {"log": 30000 % 4096, "log.1": 4096, "log.2": 4096}
    assert (path.parent / "log.2").read_bytes() + (path.parent / "log.1").read_bytes() + path.read_bytes() == b"".join(
        bytes([65 + number]) * 3000 for number in range(10)
    )[-(8192 + 30000 % 4096) :]


def test_one_write_larger_than_everything(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = Log(str(path), 4096, 2)
    log.write(b"x" * 1_000_000)
    log.close()
    assert sum(sizes(path).values()) <= 2 * 4096
    assert len(sizes(path)) == 2


def test_a_single_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = Log(str(path), 4096, 1)
    log.write(b"a" * 4096 + b"b" * 10)
    log.close()
    assert path.read_bytes() == b"b" * 10
    assert sizes(path) == {"log": 10}


def test_it_goes_on_where_the_last_one_ended(tmp_path: Path) -> None:
    path = tmp_path / "log"
    for text in (b"a" * 4000, b"b" * 100):
        log = Log(str(path), 4096, 3)
        log.write(text)
        log.close()
    assert sizes(path) == {"log": 4, "log.1": 4096}


def test_full_disk() -> None:
    log = Log("/dev/full", 4096, 3)
    log.write(b"x" * 100)
    log.write(b"x" * 100)
    assert log.dropped == 200
    log.close()
    assert log.dropped > 0


def test_what_was_lost_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log"
    now = time.monotonic()
    monkeypatch.setattr(guard, "time", SimpleNamespace(monotonic=lambda: now))
    log = Log(str(path), 8192, 3)
    (tmp_path / "log").mkdir()  # cannot be opened
    log.write(b"lost")
    log.write(b"lost too")
    (tmp_path / "log").rmdir()
    log.write(b"still too soon")
    now += guard.REOPEN
    log.write(b"back\n")
    log.close()
    text = path.read_text()
    assert text.startswith("\n[comfygate] 26 bytes of output were lost: Is a directory\n")
    assert text.endswith("back\n")


def test_loss_at_the_end_is_told(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = Log(str(path), 8192, 3)
    path.mkdir()
    log.write(b"lost")
    path.rmdir()
    log.close()
    assert "4 bytes of output were lost" in path.read_text()


def test_in_words() -> None:
    assert in_words(0) == "exit status 0"
    assert in_words(3 << 8) == "exit status 3"
    assert in_words(9) == "killed by signal 9"


def test_descendants() -> None:
    program = "import subprocess, sys; print(subprocess.Popen(['sleep', '60']).pid, flush=True); sys.stdin.read()"
    arguments = [sys.executable, "-c", program]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        grandchild = int(child.stdout.readline())
        try:
            assert {child.pid, grandchild} <= set(descendants(os.getpid()))
            assert list(descendants(child.pid)) == [grandchild]
        finally:
            os.kill(grandchild, signal.SIGKILL)
        deadline = time.monotonic() + 10
        while list(descendants(child.pid)):  # until it is a zombie, which does not count
            assert time.monotonic() < deadline
            time.sleep(0.01)
