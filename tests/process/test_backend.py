"""Backends as real processes: how they start, crash, end, and what is left of them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import ensureDeferred, gatherResults
from twisted.internet.task import deferLater

from comfygate.backend import probe
from comfygate.backend.commandline import Program
from comfygate.backend.options import Options
from comfygate.backend.remote import RemoteBackend
from comfygate.model import BackendState
from tests.process.backends import FAMILY, MAIN, Seen, Workshop, alive, guard_of, log_files, until

READY, DOWN, FAILED, STARTING, STOPPING, STOPPED = (
    BackendState.READY,
    BackendState.DOWN,
    BackendState.FAILED,
    BackendState.STARTING,
    BackendState.STOPPING,
    BackendState.STOPPED,
)


@pytest.fixture
def workshop(tmp_path: Path) -> Iterator[Workshop]:
    made = Workshop(reactor, tmp_path)
    yield made
    pytest_twisted.blockon(ensureDeferred(made.close()))


@pytest_twisted.ensureDeferred
async def test_simulator(workshop: Workshop) -> None:
    backend = workshop.backend(Program("simulator"), arguments=("--sim-step-seconds", "0.01"))
    assert backend.state is STOPPED
    backend.start()
    assert backend.state is STARTING
    assert backend.address is None and backend.client is None
    await workshop.becomes(backend, READY)
    assert backend.has_companion
    assert backend.last_error is None
    assert backend.client is not None
    assert (await backend.client.companion() or {})["routes"] == ["validate"]
    queue = await backend.client.queue()
    assert queue.running == queue.pending == ()
    await until(workshop.reactor, lambda: workshop.seen.remaining == [0])
    assert (await backend.client.validate(b"{}")).status == 400
    assert await backend.client.history("none") is None
    await backend.client.interrupt()
    await backend.client.interrupt("none")
    await backend.client.delete(["none"])
    await backend.stop()
    assert workshop.seen.states == [STARTING, READY, STOPPING, STOPPED]
    assert backend.pid is None


@pytest_twisted.ensureDeferred
async def test_environment_and_arguments(workshop: Workshop) -> None:
    program = workshop.program('note("facts", json.dumps([sys.argv, os.getcwd(), dict(os.environ)]))\nserve()')
    backend = workshop.backend(program)
    backend.start()
    await workshop.becomes(backend, READY)
    arguments, folder, environment = json.loads((workshop.own / "facts").read_text())
    assert "--cpu" in arguments
    assert "--extra-model-paths-config" not in arguments  # this one does not list it
    assert folder == program.comfyui
    assert environment["PYTHONUNBUFFERED"] == "1"
    assert backend.address == ("127.0.0.1", int(arguments[arguments.index("--port") + 1]))
    assert not backend.has_companion


@pytest_twisted.ensureDeferred
async def test_kill_is_followed_by_a_restart(workshop: Workshop) -> None:
    backend = workshop.backend(workshop.program(FAMILY + "serve()"))
    backend.start()
    await workshop.becomes(backend, READY)
    family = await workshop.family()
    assert backend.pid is not None
    os.kill(backend.pid, signal.SIGKILL)
    await workshop.becomes(backend, DOWN)
    assert backend.last_error == "killed by signal 9"
    assert not any(map(alive, family))
    await workshop.becomes(backend, READY)
    assert backend.restarts == 1
    assert backend.last_error is None
    assert workshop.seen.states == [STARTING, READY, DOWN, STARTING, READY]


@pytest_twisted.ensureDeferred
async def test_a_killed_guard_leaves_nothing(workshop: Workshop) -> None:
    backend = workshop.backend(workshop.program(FAMILY + "serve()"))
    backend.start()
    await workshop.becomes(backend, READY)
    family = await workshop.family()
    assert backend.pid is not None
    process = backend.pid
    os.kill(guard_of(process), signal.SIGKILL)
    await workshop.becomes(backend, DOWN, 2)
    assert not any(map(alive, [process, *family]))
    assert "guard" in (backend.last_error or "")
    await workshop.becomes(backend, READY)


DAEMON = """
import sys
from pathlib import Path
from twisted.internet import reactor
from tests.process.backends import Workshop
from comfygate.backend.commandline import Program
workshop = Workshop(reactor, Path(sys.argv[1]))
workshop.backend(Program(sys.argv[2], sys.executable)).start()
reactor.run()
"""


@pytest_twisted.ensureDeferred
async def test_a_killed_daemon_leaves_nothing(workshop: Workshop) -> None:
    program = workshop.program(FAMILY + "signal.signal(signal.SIGINT, signal.SIG_IGN)\nserve()")
    root = Path(__file__).parents[2]
    daemon = subprocess.Popen([sys.executable, "-c", DAEMON, str(workshop.folder), program.comfyui], cwd=root)
    try:
        family = await workshop.family()
        (process,) = workshop.pids("starts")
        guard = guard_of(process)
        assert guard_of(guard) == daemon.pid
    finally:
        daemon.kill()
        daemon.wait()
    await until(workshop.reactor, lambda: not any(map(alive, [guard, process, *family])), 2)


@pytest_twisted.ensureDeferred
async def test_a_daemon_killed_during_help_leaves_nothing(workshop: Workshop) -> None:
    program = workshop.program("")
    pids = workshop.folder / "help-pid"
    text = f"import os, time\nopen({str(pids)!r}, 'w').write(str(os.getpid()) + '\\n')\ntime.sleep(1000)\n"
    Path(program.comfyui, "main.py").write_text(text)
    root = Path(__file__).parents[2]
    # What it made for --help it cannot remove.
    environment = {**os.environ, "TMPDIR": str(workshop.folder)}
    command = [sys.executable, "-c", DAEMON, str(workshop.folder), program.comfyui]
    daemon = subprocess.Popen(command, cwd=root, env=environment)
    try:
        await until(workshop.reactor, lambda: pids.exists() and pids.read_text().endswith("\n"))
    finally:
        daemon.kill()
        daemon.wait()
    await until(workshop.reactor, lambda: not alive(int(pids.read_text())), 2)


@pytest_twisted.ensureDeferred
async def test_a_stop_during_help_leaves_nothing(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch = workshop.folder / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    program = workshop.program("")
    pids = workshop.folder / "help-pid"
    noise = "while True: print('x' * 1000)"
    text = f"import os\nopen({str(pids)!r}, 'w').write(str(os.getpid()) + '\\n')\n{noise}\n"
    Path(program.comfyui, "main.py").write_text(text)
    backend = workshop.backend(program)
    backend.start()
    await until(workshop.reactor, lambda: pids.exists() and pids.read_text().endswith("\n"))
    await backend.stop()
    assert not alive(int(pids.read_text()))
    assert not list(scratch.iterdir())
    assert backend.state is STOPPED


@pytest_twisted.ensureDeferred
async def test_five_deaths_at_the_start_are_final(workshop: Workshop) -> None:
    backend = workshop.backend(workshop.program('print("no room for the model\\n\\n")\nsys.exit(3)'))
    backend.start()
    await workshop.becomes(backend, FAILED)
    assert len(workshop.pids("starts")) == 5
    assert workshop.seen.states == [STARTING, DOWN] * 4 + [STARTING, FAILED]
    assert backend.last_error is not None
    assert "exit status 3" in backend.last_error
    assert "no room for the model" in backend.last_error
    assert str(backend.log_path) in backend.last_error
    assert "\n" not in backend.last_error
    assert backend.log_tail.count("no room for the model") == 5
    assert backend.retry_after == 60
    await backend.stop()
    assert backend.state is STOPPED


@pytest.mark.parametrize(
    ("comfyui", "python", "sentence"),
    [
        ("/no/such/folder", sys.executable, "there is no main.py in /no/such/folder"),
        ("here", "/no/such/python", "cannot start /no/such/python"),
        ("broken", sys.executable, "--help failed (exit status 1): ModuleNotFoundError: No module named 'no_torch'"),
        ("other", sys.executable, "--help lists no --port"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_cannot_be_started(workshop: Workshop, comfyui: str, python: str, sentence: str) -> None:
    program = workshop.program("")
    if comfyui == "broken":
        Path(program.comfyui, "main.py").write_text("import no_torch")
    elif comfyui == "other":
        Path(program.comfyui, "main.py").write_text("import argparse; argparse.ArgumentParser().parse_args()")
    folder = comfyui if comfyui.startswith("/") else program.comfyui
    backend = workshop.backend(Program(folder, python))
    backend.start()
    await workshop.becomes(backend, FAILED)
    assert sentence in (backend.last_error or "")


@pytest_twisted.ensureDeferred
async def test_not_ready_in_time(workshop: Workshop) -> None:
    backend = workshop.backend(workshop.program("time.sleep(1000)"), start_timeout=1.0, restart_delay=100.0)
    backend.start()
    await workshop.becomes(backend, DOWN)
    assert backend.last_error == "was not ready after 1 s"
    assert not any(map(alive, workshop.pids("starts")))


@pytest_twisted.ensureDeferred
async def test_a_port_that_is_taken_is_not_taken_again(workshop: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        answers = [port]
        chosen = lambda: answers.pop() if answers else probe.free_port()  # noqa: E731
        monkeypatch.setattr("comfygate.backend.attempt.free_port", chosen)
        backend = workshop.backend(workshop.program("serve()"))
        backend.start()
        await workshop.becomes(backend, DOWN)
        assert backend.last_error == f"exit status 1; another program listens on its port {port}"
        assert any("Address already in use" in line for line in backend.log_tail)
        await workshop.becomes(backend, READY)
        assert backend.address is not None and backend.address[1] != port


def test_free_port_is_free_and_out_of_the_kernels_way() -> None:
    port = probe.free_port()
    assert 20000 <= port < int(probe.EPHEMERAL.read_text().split()[0])
    with socket.create_server(("127.0.0.1", port)):
        assert not probe._is_free(port)


@pytest_twisted.ensureDeferred
async def test_stop_leaves_nothing(workshop: Workshop) -> None:
    backend = workshop.backend(workshop.program(FAMILY + "serve()"))
    backend.start()
    await workshop.becomes(backend, READY)
    family = await workshop.family()
    process = backend.pid
    assert process is not None
    await backend.stop()
    assert not any(map(alive, [process, *family]))


@pytest_twisted.ensureDeferred
async def test_stop_insists(workshop: Workshop) -> None:
    program = workshop.program("signal.signal(signal.SIGINT, signal.SIG_IGN)\nserve()")
    backend = workshop.backend(program, stop_grace=0.3)
    backend.start()
    await workshop.becomes(backend, READY)
    process = backend.pid
    assert process is not None
    begun = time.monotonic()
    await backend.stop()
    assert 0.3 <= time.monotonic() - begun < 3
    assert not alive(process)


@pytest_twisted.ensureDeferred
async def test_stop_of_one_that_stands_still(workshop: Workshop) -> None:
    backend = workshop.backend(workshop.program("serve()"), stop_grace=0.3)
    backend.start()
    await workshop.becomes(backend, READY)
    process = backend.pid
    assert process is not None
    os.kill(process, signal.SIGSTOP)
    await backend.stop()
    assert not alive(process)


@pytest_twisted.ensureDeferred
async def test_it_is_interrupted_although_the_daemon_is_not(workshop: Workshop) -> None:
    """A daemon that was started in the background ignores SIGINT; Python then installs no KeyboardInterrupt."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        backend = workshop.backend(workshop.program('try: serve()\nexcept KeyboardInterrupt: note("said", "1")'))
        backend.start()
        await workshop.becomes(backend, READY)
        await backend.stop()
    finally:
        signal.signal(signal.SIGINT, before)
    assert workshop.pids("said") == [1]


@pytest.mark.parametrize("seconds", [0.0, 0.05, 0.3])
@pytest_twisted.ensureDeferred
async def test_stop_during_the_start(workshop: Workshop, seconds: float) -> None:
    backend = workshop.backend(workshop.program("time.sleep(1000)"))
    backend.start()
    await deferLater(workshop.reactor, seconds)
    await backend.stop()
    assert backend.state is STOPPED
    assert not any(map(alive, workshop.pids("starts")))


FLOOD = """
block = b"y" * 1_000_000
begun = time.monotonic()
for _ in range(100):
    sys.stdout.buffer.write(block)
sys.stdout.flush()
os.write(2, b"\\xff\\xfe the end \\x80\\n")
note("took", str(int((time.monotonic() - begun) * 1000)))
serve()
"""


@pytest_twisted.ensureDeferred
async def test_a_flood_of_output(workshop: Workshop) -> None:
    """100 MB without a newline, then what is not UTF-8."""
    backend = workshop.backend(workshop.program(FLOOD), log_size=1_000_000, log_files=3)
    backend.start()
    await workshop.becomes(backend, READY)
    assert workshop.pids("took")[0] < 10_000
    await backend.stop()
    sizes = [path.stat().st_size for path in log_files(workshop.own)]
    assert len(sizes) == 3
    assert max(sizes) <= 1_000_000
    assert sum(sizes) > 2_000_000
    assert b"\xff\xfe the end \x80\n" in (workshop.own / "comfyui.log").read_bytes()


@pytest_twisted.ensureDeferred
async def test_a_full_disk_does_not_stop_it(workshop: Workshop) -> None:
    workshop.own.mkdir()
    (workshop.own / "comfyui.log").symlink_to("/dev/full")
    backend = workshop.backend(workshop.program('print("x" * 10_000_000)\nserve()'))
    backend.start()
    await workshop.becomes(backend, READY)


@pytest_twisted.ensureDeferred
async def test_the_last_words_are_logged(workshop: Workshop) -> None:
    """Also when something else still holds the other end of the pipe."""
    end = 'sys.stdout.write("z" * 300_000 + "last words")\nsys.stdout.flush()\nos._exit(4)'
    program = workshop.program(FAMILY + end)
    backend = workshop.backend(program, restart_delay=100.0)
    backend.start()
    await workshop.becomes(backend, DOWN)
    assert backend.last_error == "exit status 4"
    assert (workshop.own / "comfyui.log").read_bytes().endswith(b"last words")


@pytest_twisted.ensureDeferred
async def test_one_help_for_all(workshop: Workshop) -> None:
    program = workshop.program("")
    main = Path(program.comfyui, "main.py")
    main.write_text(f"open({str(workshop.folder / 'asked')!r}, 'a').write('x')\n" + MAIN)
    options = Options(reactor, str(workshop.folder))
    first, second = await gatherResults([ensureDeferred(options.of(program)), ensureDeferred(options.of(program))])
    assert first == second
    assert "--temp-directory" in first
    assert (workshop.folder / "asked").read_text() == "x"


@pytest_twisted.ensureDeferred
async def test_remote(workshop: Workshop) -> None:
    port = probe.free_port()
    remote = RemoteBackend(reactor, 4, f"http://127.0.0.1:{port}", down_interval=0.1, ready_interval=30.0)
    seen = Seen()
    remote.subscribe(seen)
    remote.start()
    processes: list[subprocess.Popen[bytes]] = []

    def serve() -> None:
        program = Program("simulator")
        arguments = [*program.argv, "--port", str(port), "--base-directory", str(workshop.folder)]
        output = subprocess.DEVNULL
        processes.append(subprocess.Popen(arguments, cwd=program.folder, stdout=output, stderr=output))

    try:
        await workshop.becomes(remote, DOWN)
        assert remote.last_error == f"http://127.0.0.1:{port} does not answer"
        for _ in range(2):
            serve()
            await workshop.becomes(remote, READY)
            assert remote.address == ("127.0.0.1", port)
            assert remote.client is not None
            await until(reactor, lambda: seen.remaining)
            seen.remaining.clear()
            processes[-1].kill()
            # Long before the next look: the lost WebSocket says that there is something to see.
            await workshop.becomes(remote, DOWN, 5)
            assert remote.address is None
            processes[-1].wait()
        await remote.stop()
        assert seen.states == [STARTING, DOWN, READY, DOWN, READY, DOWN, STOPPED]
    finally:
        await remote.stop()
        for process in processes:
            process.kill()
            process.wait()


@pytest_twisted.ensureDeferred
async def test_a_remote_that_stands_still_is_given_time(workshop: Workshop) -> None:
    backend = workshop.backend(workshop.program("serve()"))
    backend.start()
    await workshop.becomes(backend, READY)
    assert backend.address is not None and backend.pid is not None
    remote = RemoteBackend(
        reactor, 1, f"http://127.0.0.1:{backend.address[1]}", down_interval=0.1, ready_interval=0.1, ready_time=0.3
    )
    seen = Seen()
    remote.subscribe(seen)
    remote.start()
    try:
        await workshop.becomes(remote, READY)
        os.kill(backend.pid, signal.SIGSTOP)
        begun = time.monotonic()
        await workshop.becomes(remote, DOWN)
        assert time.monotonic() - begun > 0.9  # three time-outs
        os.kill(backend.pid, signal.SIGCONT)
        await workshop.becomes(remote, READY)
    finally:
        await remote.stop()


def test_remote_wants_an_address() -> None:
    for url in ("127.0.0.1:8188", "https://127.0.0.1", "ftp://x", "http://"):
        with pytest.raises(ValueError, match="http://host:port"):
            RemoteBackend(reactor, 0, url)
