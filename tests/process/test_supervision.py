"""Processes that truly hang, spin, lose their worker or their context; and those that only look like it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred, gatherResults
from twisted.internet.task import deferLater
from twisted.logger import globalLogPublisher

from comfygate.backend import probe, procfs
from comfygate.backend.commandline import Program
from comfygate.backend.evidence import interval
from comfygate.backend.managed import ManagedBackend
from comfygate.model import BackendState, RestartCause
from tests.gateway import Gateway, eventually, is_alive, request, running, workflow
from tests.process.backends import FAMILY, Workshop, alive, until

READY, DOWN, STARTING, STOPPING, STOPPED = (
    BackendState.READY,
    BackendState.DOWN,
    BackendState.STARTING,
    BackendState.STOPPING,
    BackendState.STOPPED,
)
CONDEMNED = [STARTING, READY, STOPPING, DOWN]
FAST = ("--sim-step-seconds", "0.01")


@pytest.fixture
def workshop(tmp_path: Path) -> Iterator[Workshop]:
    made = Workshop(reactor, tmp_path)
    yield made
    pytest_twisted.blockon(ensureDeferred(made.close()))


async def serving(workshop: Workshop, program: Program, **settings: Any) -> tuple[ManagedBackend, int]:
    """A backend that is READY, and its process."""
    backend = workshop.backend(program, **settings)
    backend.start()
    await workshop.becomes(backend, READY)
    assert backend.pid is not None
    return backend, backend.pid


@contextmanager
def logged(text: str) -> Iterator[list[dict[str, Any]]]:
    """The events that are logged meanwhile and hold `text`."""
    found: list[dict[str, Any]] = []

    def observe(event: dict[str, Any]) -> None:
        if text in (event.get("log_format") or ""):
            found.append(event)

    globalLogPublisher.addObserver(observe)
    try:
        yield found
    finally:
        globalLogPublisher.removeObserver(observe)


async def submit(backend: ManagedBackend, prompt: dict[str, Any]) -> None:
    assert backend.client is not None
    answer = await backend.client.submit(orjson.dumps({"prompt": prompt}))
    assert answer.status == 200, answer


# -- hung


@pytest_twisted.ensureDeferred
async def test_one_that_is_stopped_for_too_long(workshop: Workshop) -> None:
    """With all that it started, and within the time that is promised."""
    limit = 1.5
    backend, pid = await serving(workshop, workshop.program(FAMILY + "serve()"), hang_timeout=limit)
    family = await workshop.family()
    os.kill(pid, signal.SIGSTOP)
    begun = time.monotonic()
    with logged("is killed to be started again") as events:
        await until(reactor, lambda: backend.state is not READY)
    took = time.monotonic() - begun
    (event,) = events
    assert (event["gpu"], event["cause"], event["pid"]) == (0, "hung", pid)
    assert event["evidence"]["stopped"] is True
    assert event["evidence"]["silent_seconds"] >= limit * 0.9
    assert event["evidence"]["processor_seconds"] < 0.1
    assert "main.py" in event["last_line"]
    assert backend.address is None and backend.client is None
    assert 1 <= backend.retry_after <= 10
    assert limit * 0.9 <= took <= limit + interval(limit) + 1.0  # the last for a machine that is busy
    assert backend.cause is RestartCause.HUNG
    await workshop.becomes(backend, DOWN)
    assert not any(map(alive, [pid, *family]))
    assert backend.last_error is not None
    assert backend.last_error.startswith("hung: no answer for 1.")
    assert "s of processor time, it is stopped; killed" in backend.last_error
    await workshop.becomes(backend, READY)
    assert workshop.seen.states == [*CONDEMNED, STARTING, READY]
    assert backend.restart_causes == {RestartCause.HUNG: 1}
    assert backend.last_error is None


HANG = """
class Hanging(Handler):
    def do_GET(self):
        if os.path.exists(os.path.join(own, "hang")):
            time.sleep(1000)
        super().do_GET()
Handler = Hanging
"""


@pytest_twisted.ensureDeferred
async def test_one_that_waits_for_ever(workshop: Workshop) -> None:
    """It is not stopped, and accepts connections: it only never answers."""
    text = HANG + "serve()"
    backend, pid = await serving(workshop, workshop.program(text), hang_timeout=1.5)
    (workshop.own / "hang").touch()
    await until(reactor, lambda: backend.state is not READY)
    (workshop.own / "hang").unlink()
    assert "is stopped" not in (backend.last_error or "")
    await workshop.becomes(backend, READY)
    assert backend.restart_causes == {RestartCause.HUNG: 1}
    assert not alive(pid)


@pytest_twisted.ensureDeferred
async def test_one_that_is_stopped_for_a_while(workshop: Workshop) -> None:
    backend, pid = await serving(workshop, workshop.program("serve()"), hang_timeout=15.0)
    os.kill(pid, signal.SIGSTOP)
    await deferLater(reactor, 5.0)  # the time itself is what is tested
    os.kill(pid, signal.SIGCONT)
    assert backend.client is not None
    await backend.client.check(5.0)
    assert backend.pid == pid and backend.state is READY


SPIN = """
class Spinning(Handler):
    def do_GET(self):
        end = time.monotonic() + (4 if os.path.exists(os.path.join(own, "spin")) else 0)
        while time.monotonic() < end:
            pass
        super().do_GET()
Handler = Spinning
"""
ONE_AT_A_TIME = "http.server.HTTPServer((options.listen, int(options.port)), Handler).serve_forever()"


@pytest_twisted.ensureDeferred
async def test_one_that_computes_is_slow_and_not_hung(workshop: Workshop) -> None:
    backend, pid = await serving(workshop, workshop.program(SPIN + ONE_AT_A_TIME), hang_timeout=1.0)
    (workshop.own / "spin").touch()
    await deferLater(reactor, 4.0)  # no answer for much longer than the limit
    (workshop.own / "spin").unlink()
    assert backend.pid == pid and backend.state is READY
    assert workshop.seen.states == [STARTING, READY]


@pytest_twisted.ensureDeferred
async def test_a_child_that_computes_is_work_too(workshop: Workshop) -> None:
    child = 'subprocess.Popen([sys.executable, "-c", "while True: pass"])'
    text = HANG + f"note('family', str({child}.pid))\nserve()"
    backend, pid = await serving(workshop, workshop.program(text), hang_timeout=1.0)
    (workshop.own / "hang").touch()
    await deferLater(reactor, 3.0)
    assert backend.pid == pid and backend.state is READY
    os.kill(workshop.pids("family")[0], signal.SIGKILL)
    await until(reactor, lambda: backend.state is not READY)
    assert backend.cause is RestartCause.HUNG


@pytest_twisted.ensureDeferred
async def test_a_node_that_holds_the_gil_is_no_hang(workshop: Workshop) -> None:
    backend, pid = await serving(workshop, Program("simulator"), arguments=FAST, hang_timeout=6.0)
    await submit(backend, workflow(0.1, fault="hold_gil"))
    await until(reactor, lambda: workshop.seen.remaining[-1:] == [1])
    await until(reactor, lambda: workshop.seen.remaining[-1:] == [0])
    assert backend.pid == pid
    assert workshop.seen.states == [STARTING, READY]


@pytest_twisted.ensureDeferred
async def test_never(workshop: Workshop) -> None:
    backend, pid = await serving(workshop, workshop.program("serve()"), hang_timeout=0.0)
    os.kill(pid, signal.SIGSTOP)
    await deferLater(reactor, 1.0)
    assert backend.state is READY
    os.kill(pid, signal.SIGCONT)


# -- stalled


@pytest_twisted.ensureDeferred
async def test_a_lost_worker(workshop: Workshop) -> None:
    backend, _ = await serving(workshop, Program("simulator"), arguments=FAST)
    begun = time.monotonic()
    await submit(backend, workflow(0.05, fault="zombie"))
    await until(reactor, lambda: backend.state is not READY)
    assert time.monotonic() - begun < 5
    assert backend.last_error is not None
    assert backend.last_error.startswith("stalled: its worker is lost (Exception in thread ")
    await workshop.becomes(backend, READY)
    assert backend.restart_causes == {RestartCause.STALLED: 1}
    await submit(backend, workflow())
    await until(reactor, lambda: workshop.seen.remaining[-2:] == [1, 0])
    assert backend.restarts == 1


STUCK = """
class Stuck(Handler):
    def do_GET(self):
        if self.path == "/queue":
            body = json.dumps({"queue_running": [], "queue_pending": [[1, "a", {}, {}, []]]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        else:
            super().do_GET()
Handler = Stuck
serve()
"""


@pytest_twisted.ensureDeferred
async def test_a_queue_that_does_not_move(workshop: Workshop) -> None:
    backend, _ = await serving(workshop, workshop.program(STUCK))
    begun = time.monotonic()
    backend._queue_changed(1)  # as its WebSocket would say, which this one has not
    await until(reactor, lambda: backend.state is not READY)
    assert 5 < time.monotonic() - begun < 16
    assert backend.cause is RestartCause.STALLED
    assert backend.last_error is not None and "nothing runs while 1 wait" in backend.last_error


@pytest_twisted.ensureDeferred
async def test_a_prompt_that_stands_still(workshop: Workshop) -> None:
    backend, _ = await serving(workshop, Program("simulator"), arguments=FAST, stall_timeout=2.0)
    await submit(backend, workflow(3.0, steps=60))  # with events, it may take as long as it wants
    await until(reactor, lambda: workshop.seen.remaining[-2:] == [1, 0])
    assert workshop.seen.states == [STARTING, READY]
    await submit(backend, workflow(600.0, fault="uninterruptible"))
    await until(reactor, lambda: backend.state is not READY)
    assert backend.cause is RestartCause.STALLED
    assert backend.last_error is not None and backend.last_error.startswith("stalled: no event for 2")


# -- restarts


@pytest_twisted.ensureDeferred
async def test_restart(workshop: Workshop) -> None:
    program = workshop.program('try: serve()\nexcept KeyboardInterrupt: note("said", "1")')
    backend, pid = await serving(workshop, program)
    await backend.restart()
    assert backend.state is STARTING
    assert not alive(pid)
    assert workshop.pids("said") == [1]
    await workshop.becomes(backend, READY)
    assert workshop.seen.states == [STARTING, READY, STOPPING, DOWN, STARTING, READY]
    assert backend.restart_causes == {RestartCause.REQUESTED: 1}


@pytest_twisted.ensureDeferred
async def test_restart_of_one_that_stands_still(workshop: Workshop) -> None:
    backend, pid = await serving(workshop, workshop.program("serve()"), stop_grace=0.3)
    os.kill(pid, signal.SIGSTOP)
    await backend.restart()
    assert not alive(pid)
    await workshop.becomes(backend, READY)


@pytest_twisted.ensureDeferred
async def test_restart_of_one_that_was_given_up(workshop: Workshop) -> None:
    program = workshop.program("sys.exit(3)")
    backend = workshop.backend(program)
    backend.start()
    await workshop.becomes(backend, BackendState.FAILED)
    workshop.program("serve()")
    await backend.restart()
    await workshop.becomes(backend, READY)


@pytest_twisted.ensureDeferred
async def test_many_restarts_and_a_stop(workshop: Workshop) -> None:
    backend, pid = await serving(workshop, workshop.program("serve()"))
    asked = [backend.restart(), backend.restart(), backend.stop(), backend.restart(), backend.stop()]
    await gatherResults(asked)
    assert backend.state is STOPPED
    assert not alive(pid)
    await deferLater(reactor, 0.2)
    assert backend.state is STOPPED and workshop.seen.states[-2:] == [STOPPING, STOPPED]
    await backend.restart()
    await workshop.becomes(backend, READY)


@pytest_twisted.ensureDeferred
async def test_another_setup_is_used_from_the_next_start_on(workshop: Workshop) -> None:
    text = 'note("arguments", " ".join(sys.argv))\nserve()'
    backend, pid = await serving(workshop, workshop.program(text))
    other = workshop.backend(workshop.program(text), arguments=("--cpu",), start_timeout=77.0)._setup
    backend.reconfigure(other)
    assert backend.pid == pid
    assert backend._record.start_timeout == 600
    await backend.restart()
    await workshop.becomes(backend, READY)
    assert backend._record.start_timeout == 77
    first, second = (workshop.own / "arguments").read_text().splitlines()
    assert second.count("--cpu") == first.count("--cpu") + 1


DIES = """
class Dying(Handler):
    def do_GET(self):
        if self.path == "/comfygate/companion":
            os._exit(5)
        super().do_GET()
Handler = Dying
serve()
"""


@pytest_twisted.ensureDeferred
async def test_one_that_dies_between_its_first_answer_and_ready(workshop: Workshop) -> None:
    backend = workshop.backend(workshop.program(DIES), restart_delay=100.0)
    backend.start()
    await workshop.becomes(backend, DOWN)
    await deferLater(reactor, 0.1)
    assert workshop.seen.states in ([STARTING, DOWN], [STARTING, READY, DOWN])
    assert backend.last_error == "exit status 5"


# -- strangers


STRANGER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        print(self.path, flush=True)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")
    def log_message(self, *arguments):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


@pytest_twisted.ensureDeferred
async def test_a_stranger_on_the_port_is_not_taken_for_ours(
    workshop: Workshop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that answers as ComfyUI does, and came between the choice of the port and its use."""
    port = probe.free_port()
    answers = [port]
    monkeypatch.setattr("comfygate.backend.attempt.free_port", lambda: answers.pop() if answers else probe.free_port())
    others = workshop.folder / "gpu-1" / "temp"
    others.mkdir(parents=True)
    (others / "preview.png").touch()
    stranger = subprocess.Popen([sys.executable, "-c", STRANGER, str(port)], stdout=subprocess.PIPE, text=True)
    try:
        await until(reactor, lambda: not probe._is_free(port))
        # It takes a while until it sees that its port is taken, as the real one does.
        backend = workshop.backend(Program("simulator"), arguments=("--sim-start-seconds", "2"))
        backend.start()
        await workshop.becomes(backend, DOWN)
        assert backend.last_error == f"exit status 1; another program listens on its port {port}"
        assert workshop.seen.states == [STARTING, DOWN]
        await workshop.becomes(backend, READY)
        assert backend.address is not None and backend.address[1] != port
        assert stranger.poll() is None
    finally:
        stranger.kill()
        said = stranger.communicate()[0]
    assert set(said.split()) == {"/prompt"}  # it was asked who it is, and nothing else
    assert (others / "preview.png").exists()


# -- in the daemon


def processor_seconds(pid: int) -> float:
    found = procfs._read(str(pid))
    assert found is not None
    return found.own


def errors_of(gateway: Gateway) -> list[str]:
    return [line for line in gateway.log.read_text().splitlines() if "is killed to be started again" in line]


def metric(gateway: Gateway, name: str, gpu_id: int, **label: str) -> float:
    text = request(gateway.hub, "GET", "/metrics").body.decode()
    labels = ",".join(f'{key}="{value}"' for key, value in sorted({**label, "gpu": str(gpu_id)}.items()))
    found = f"comfygate_{name}_total{{{labels}}} "
    return float(next(line for line in text.splitlines() if line.startswith(found)).rpartition(" ")[2])


def restarts(gateway: Gateway, gpu_id: int, cause: str) -> float:
    return metric(gateway, "backend_restarts", gpu_id, cause=cause)


def submitted(gateway: Gateway, gpu_id: int, prompt: dict[str, Any]) -> str:
    answer = request(gateway.ports[gpu_id], "POST", "/prompt", {"prompt": prompt})
    assert answer.status == 200, answer
    prompt_id: str = answer.json()["prompt_id"]
    return prompt_id


def run(gateway: Gateway, gpu_id: int, prompt: dict[str, Any], outcome: str = "failed") -> None:
    """Run a prompt to its end."""
    before = metric(gateway, "jobs_ended", gpu_id, outcome=outcome)
    submitted(gateway, gpu_id, prompt)
    eventually(lambda: metric(gateway, "jobs_ended", gpu_id, outcome=outcome) == before + 1)


CONFIG = "rate = 0\nrestart_delay = 0.1\n"


def test_a_broken_context(tmp_path: Path) -> None:
    with running(tmp_path, CONFIG, gpus=1) as gateway:
        before = gateway.backend_pid(0)
        run(gateway, 0, workflow(0.05, fault="cuda_error"))
        assert errors_of(gateway) == []
        assert is_alive(before)
        run(gateway, 0, workflow())  # poisoned, it fails whatever it is asked
        eventually(lambda: restarts(gateway, 0, "cuda_error") == 1)
        gateway.wait_ready()
        assert not is_alive(before)
        run(gateway, 0, workflow(), "done")
        (line,) = errors_of(gateway)
        assert "a CUDA error: 2 prompts in a row failed so, the last with: " in line
        assert "illegal memory access" in line and str(before) in line


def test_a_lack_of_memory(tmp_path: Path) -> None:
    with running(tmp_path, CONFIG, gpus=1) as gateway:
        before = gateway.backend_pid(0)
        run(gateway, 0, workflow(0.05, fault="oom"))
        run(gateway, 0, workflow(), "done")  # which ends the row
        run(gateway, 0, workflow(0.05, fault="oom"))
        run(gateway, 0, workflow(0.05, fault="oom"))
        eventually(lambda: "it is told to unload its models" in gateway.log.read_text())
        assert is_alive(before)
        assert errors_of(gateway) == []
        run(gateway, 0, workflow(0.05, fault="oom"))
        eventually(lambda: restarts(gateway, 0, "out_of_memory") == 1)
        gateway.wait_ready()
        assert not is_alive(before)
        assert len(errors_of(gateway)) == 1


def test_a_hang_and_a_lost_worker_lose_no_job(tmp_path: Path) -> None:
    with running(tmp_path, CONFIG + "hang_timeout = 2\n", gpus=1) as gateway:
        os.kill(gateway.backend_pid(0), signal.SIGSTOP)
        eventually(lambda: restarts(gateway, 0, "hung") == 1)
        gateway.wait_ready()
        submitted(gateway, 0, workflow(0.2, fault="zombie"))
        after = submitted(gateway, 0, workflow())
        # The prompt costs two workers, and is then failed; the one behind it runs.
        eventually(lambda: restarts(gateway, 0, "stalled") == 2)
        gateway.wait_ready()
        history = eventually(lambda: request(gateway.ports[0], "GET", f"/history/{after}").json())
        assert history[after]["status"]["status_str"] == "success"
        assert metric(gateway, "jobs_ended", 0, outcome="failed") == 1
        assert len(errors_of(gateway)) == 3


def test_at_rest_watching_costs_next_to_nothing(tmp_path: Path) -> None:
    with running(tmp_path, CONFIG, gpus=2) as gateway:
        before = processor_seconds(gateway.pid)
        time.sleep(4.0)  # the time itself is what is tested
        assert processor_seconds(gateway.pid) - before < 0.2
