"""comfygate-smoke from outside: run as users run it, against whole daemons and against what is none."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.gateway import Gateway, eventually, request, running
from tests.ports import free_ports

LINE = re.compile(r"(✓|✗|-) (\d{3}|---) (\d+) +(GPU \d|hub|fast) +(GET|POST|) +(\S.*)")
DEMO = "arguments = --preview-method auto --sim-node-seconds 0.3 --sim-step-seconds 0.15\n"  # as etc/demo.ini


def smoke(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "comfygate.smoke", *arguments],
        env={**os.environ, "PYTHONIOENCODING": "utf-8", **environment},
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
    )


@contextmanager
def begun(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The same, not waited for, and killed in the end."""
    program = subprocess.Popen(
        [sys.executable, "-m", "comfygate.smoke", *arguments],
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    with program:
        try:
            yield program
        finally:
            program.kill()


def hub(gateway: Gateway) -> str:
    return f"--hub=http://127.0.0.1:{gateway.hub}"


def lines(done: subprocess.CompletedProcess[str]) -> list[tuple[str, ...]]:
    """Sign, status, port, name, method and the rest of every line but the last."""
    *told, blank, _ = done.stdout.splitlines()
    assert blank == ""
    found = [LINE.fullmatch(line) for line in told if line]
    assert all(found), done.stdout
    return [match.groups() for match in found if match]


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Four slow GPUs and the hub with their usual limits, and one more gate without."""
    more = "[gate:fast]\nport = {spare}\ngpus = 0,1\nrate = 0\n"
    with running(tmp_path_factory.mktemp("smoke"), DEMO + more) as one:
        yield one


def test_all_is_well(gateway: Gateway) -> None:
    done = smoke(hub(gateway))
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    told = lines(done)
    assert {line[0] for line in told} == {"✓"}
    named = {str(port): f"GPU {n}" for n, port in enumerate(gateway.ports)}
    assert {line[2]: line[3] for line in told} == named | {str(gateway.hub): "hub", str(gateway.spare): "fast"}
    summary = re.fullmatch(r"\d+ checks of 6 ports in ([\d.]+) s: all is well\.", done.stdout.splitlines()[-1])
    assert summary
    assert float(summary[1]) < 20
    for port in map(str, gateway.ports):
        own = [(line[1], line[4], line[5].split()[0]) for line in told if line[2] == port]
        assert ("429", "GET", "/prompt") in own
        for wanted in ("/", "/queue", "/api/queue/all", "/history/{id}", "/settings", "/system_stats", "/object_info"):
            assert ("200", "GET", wanted) in own
        for wanted in ("/prompt", "/api/prompt", "/interrupt", "/upload/image", "/upload/mask", "/queue"):
            assert ("200", "POST", wanted) in own
        assert {("206", "GET", "/view"), ("400", "POST", "/prompt"), ("101", "GET", "/ws")} <= set(own)
    unlimited = [line[5] for line in told if line[2] == str(gateway.spare)][-1]
    assert "no limit was met" in unlimited


def test_nothing_piles_up(gateway: Gateway) -> None:
    for _ in range(2):
        assert smoke(hub(gateway), "--no-limit").returncode == 0
    state = gateway.folder / "state"
    assert sorted(path.name for path in (state / "input").iterdir()) == [
        "comfygate-smoke-mask.png",
        "comfygate-smoke.png",
    ]
    assert not list((state / "output").rglob("*.png"))
    assert all(not queue["running_count"] + queue["pending_count"] for queue in gateway.queues())


def test_it_waits_while_it_is_told_to_come_back(gateway: Gateway) -> None:
    for _ in range(40):
        request(gateway.ports[3], "GET", "/prompt")
    done = smoke("--url", f"http://127.0.0.1:{gateway.ports[3]}", "--no-limit")
    assert done.returncode == 0, done.stdout
    assert {line[3] for line in lines(done)} == {"GPU 3"}
    assert "429" not in {line[1] for line in lines(done)}


def test_for_programs(gateway: Gateway) -> None:
    done = smoke(hub(gateway), "--json", "--no-limit", "--port", str(gateway.ports[1]), "--port", str(gateway.hub))
    assert (done.returncode, done.stderr) == (0, "")
    found = orjson.loads(done.stdout)
    assert found["ok"] is True
    assert (found["failed"], found["skipped"], found["passed"]) == (0, 0, len(found["checks"]))
    assert {(check["port"], check["gpu_id"]) for check in found["checks"]} == {
        (gateway.ports[1], 1),
        (gateway.hub, None),
    }


def test_a_terminal_without_the_signs_gets_words(gateway: Gateway) -> None:
    port = str(gateway.ports[0])
    done = smoke(hub(gateway), "--port", port, "--no-limit", PYTHONIOENCODING="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"ok   200 {port} GPU 0  GET  /\n")
    assert "\x1b" not in done.stdout


def test_a_gpu_that_is_down(tmp_path: Path) -> None:
    config = "comfyui = simulator\ndevices = cpu*2\n[gpu:1]\narguments = --sim-fail-start -1\n"
    with running(tmp_path, config, gpus=2, ready=False) as gateway:
        gateway.wait_ready(0)
        eventually(lambda: gateway.states()[1] == "down")
        done = smoke(hub(gateway), "--prompt-timeout", "2")
        assert done.returncode == 1
        assert done.stderr in ("", waiting("GPU 1", 120))  # it may be trying just then
        told = lines(done)
        assert {line[2] for line in told if line[0] == "✗"} == {str(gateway.ports[1])}
        failed = [line for line in told if line[0] == "✗" and line[1] == "503"]
        assert any(line[4:] == ("GET", line[5]) and line[5].startswith("/object_info") for line in failed)
        # A prompt is accepted, and waits for the GPU.
        prompts = [line for line in told if line[4] == "POST" and line[5].startswith("/prompt")]
        assert ("✓", "200") in {line[:2] for line in prompts if line[2] == str(gateway.ports[1])}
        assert any("expected 200; came backend_" in line[5] for line in failed)
        assert re.search(r"\d+ failed, \d+ not tried\.$", done.stdout.rstrip())


def waiting(names: str, seconds: float) -> str:
    return f"comfygate-smoke: waiting for {names} to start, for at most {seconds:g} s (--start-timeout)\n"


SLOW = "comfyui = simulator\ndevices = cpu*2\n[gpu:1]\narguments = --sim-start-seconds {}\n"


def test_a_gpu_that_starts_is_waited_for(tmp_path: Path) -> None:
    with running(tmp_path, SLOW.format(3), gpus=2, ready=False) as gateway:
        starting = eventually(lambda: _process_of(gateway, 1))
        os.kill(starting, signal.SIGSTOP)  # it starts as soon as it may
        gateway.wait_ready(0)
        with begun(hub(gateway), "--no-limit") as waits:
            assert waits.stderr is not None and waits.stderr.readline() == waiting("GPU 1", 120)
            os.kill(starting, signal.SIGCONT)
            out, err = waits.communicate(timeout=120)
        assert (waits.returncode, err) == (0, ""), out


def _process_of(gateway: Gateway, gpu_id: int) -> int | None:
    try:
        return gateway.backend_pid(gpu_id)
    except AssertionError:
        return None


def test_a_gpu_that_starts_for_too_long(tmp_path: Path) -> None:
    more = "[gate:fast]\nport = {spare}\ngpus = 0\n"
    with running(tmp_path, SLOW.format(600).replace("[", more + "[", 1), gpus=2, ready=False) as gateway:
        gateway.wait_ready(0)
        for port in (gateway.ports[0], gateway.spare):
            only = smoke(hub(gateway), "--port", str(port), "--no-limit")
            assert (only.returncode, only.stderr) == (0, "")  # the other is nothing to this one
        done = smoke(hub(gateway), "--port", "9", "--port", str(gateway.ports[1]))
        assert done.returncode == 2 and "knows no port 9" in done.stderr
        done = smoke(hub(gateway), "--start-timeout", "1", "--prompt-timeout", "5", "--no-limit")
        assert (done.returncode, done.stderr) == (1, waiting("GPU 1", 1))
        assert {line[2] for line in lines(done) if line[0] == "✗"} == {str(gateway.ports[1])}


def test_a_gpu_that_hangs(tmp_path: Path) -> None:
    with running(tmp_path, gpus=2) as gateway:
        victim = gateway.backend_pid(1)
        os.kill(victim, signal.SIGSTOP)
        try:
            done = smoke(hub(gateway), "--port", str(gateway.ports[1]), "--timeout", "0.5")
        finally:
            os.kill(victim, signal.SIGCONT)
        assert (done.returncode, done.stderr) == (1, "")
        told = [(line[0], line[1], line[5]) for line in lines(done)]
        assert told == [
            ("✗", "---", "/                      no answer within 0.5 s"),
            ("✗", "---", "/system_stats          no answer within 0.5 s"),
            ("-", "---", "everything else        not tried: this port is silent"),
        ]


# -- what is no ComfyGate


def test_nobody_is_there() -> None:
    url = f"http://127.0.0.1:{free_ports()}"
    done = smoke("--hub", url)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"comfygate-smoke: {url} cannot be reached (no connection: refused); "
        "start ComfyGate, or name one of its ports with --hub URL\n"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ("--hub", "127.0.0.1:8188"),
        ("--hub", "ftp://127.0.0.1"),
        ("--url", "http://127.0.0.1:8188/page"),
        ("--url", "http://127.0.0.1:8188", "--port", "8181"),
        ("--timeout", "0"),
        ("--timeout", "nan"),
        ("--loud",),
    ],
)
def test_a_mistake_in_the_options(arguments: tuple[str, ...]) -> None:
    done = smoke(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


def test_a_port_that_there_is_not(gateway: Gateway) -> None:
    done = smoke(hub(gateway), "--port", "1")
    assert done.returncode == 2
    assert f"knows no port 1; it knows {gateway.ports[0]}, " in done.stderr


@contextmanager
def serving(answers: dict[str, Any], otherwise: bytes) -> Iterator[str]:
    """A server that knows a few JSON answers by path, and answers everything else with some bytes."""

    class Server(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("content-length", 0)))
            found = answers.get(self.path)
            if found is None:
                self.wfile.write(otherwise)
                return
            body = orjson.dumps(found)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, format: str, *arguments: object) -> None: ...

    class Listening(ThreadingHTTPServer):
        request_queue_size = 128

    with Listening(("127.0.0.1", 0), Server) as server:
        if answers:
            answers["/queue/all"]["queues"][0]["port"] = server.server_port
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def broken(body: bytes, length: int | None = None) -> bytes:
    size = len(body) if length is None else length
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (size, body)


QUEUES = {"queues": [{"gpu_id": 0, "running_count": 0, "pending_count": 0}], "total_running": 0, "total_pending": 0}


@pytest.mark.parametrize(
    "answer",
    [
        b"garbage\r\n\r\n",
        b"",
        b"HTTP/1.1 twohundred OK\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        broken(b"not JSON \xff\x1b[31m"),
        broken(b"[]"),
        broken(b"{}"),
        broken(b"null"),
        broken(b"cut", 100),
        broken(b'{"exec_info": [], "queue_running": 1, "queue_pending": {}, "prompt_id": 1, "gpus": [1], "name": 5}'),
    ],
)
def test_a_broken_answer_is_a_line_and_no_traceback(answer: bytes) -> None:
    with serving({"/queue/all": orjson.loads(orjson.dumps(QUEUES))}, answer) as url:
        done = smoke("--hub", url, "--timeout", "2")
    assert (done.returncode, done.stderr) == (1, "")
    told = lines(done)
    assert len(told) > 20
    assert ("✓", "GET", "/queue/all") in {(line[0], line[4], line[5].split()[0]) for line in told}
    assert ("✗", "POST", "/prompt") in {(line[0], line[4], line[5].split()[0]) for line in told}
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize("answer", [b"garbage\r\n\r\n", broken(b"<html>"), broken(b'{"queues": [{"port": "x"}]}')])
def test_what_answers_is_no_comfygate(answer: bytes) -> None:
    with serving({}, answer) as url:
        done = smoke("--hub", url, "--timeout", "2")
    assert (done.returncode, done.stderr) == (1, "")
    assert "expected the queues of a ComfyGate; came " in done.stdout
    assert "1 failed" in done.stdout
