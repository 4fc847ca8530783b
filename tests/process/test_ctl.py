"""comfygatectl as operators run it: against whole daemons, against what is none, and as somebody else."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from comfygate.ctl.client import Client
from comfygate.ctl.errors import AbsentError
from tests.gateway import Gateway, eventually, request, running, workflow

CTL = [sys.executable, "-m", "comfygate.ctl"]
NOBODY = 65_534


def environment(**more: str) -> dict[str, str]:
    inherited = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR")}
    return {**inherited, "PYTHONIOENCODING": "utf-8", "TERM": "xterm", **more}


def ctl(*words: str | Path, seconds: float = 60.0, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    return subprocess.run(
        [*CTL, *map(str, words)],
        env=environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        timeout=seconds,
        check=False,
        **more,
    )


class Operator:
    """Who looks after one daemon."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.where = ("--state-dir", str(gateway.folder / "state"))

    def __call__(self, *words: str, status: int = 0) -> str:
        """What a command prints; where it ends with another status than 0, what it complains of."""
        done = ctl(*self.where, *words)
        assert done.returncode == status, (done.stdout, done.stderr)
        if status:
            return done.stderr
        assert done.stderr == ""
        return done.stdout

    def json(self, *words: str) -> Any:
        return orjson.loads(self(*words, "--json"))

    def json_lines(self, *words: str) -> list[Any]:
        return [orjson.loads(line) for line in self(*words, "--json").splitlines()]

    def submit(self, port: int, seconds: float, client_id: str = "me") -> str:
        prompt = {"prompt": workflow(seconds), "client_id": client_id}
        prompt_id: str = request(port, "POST", "/prompt", prompt).json()["prompt_id"]
        return prompt_id

    def state_of(self, prompt_id: str) -> str | None:
        return next((job["state"] for job in self.jobs() if job["prompt_id"] == prompt_id), None)

    def jobs(self) -> list[dict[str, Any]]:
        jobs: list[dict[str, Any]] = self.client.get("queue")["jobs"]
        return jobs

    @property
    def client(self) -> Client:
        """Asks without a program."""
        return Client(f"{self.gateway.folder}/state/control.sock", 30, lambda path, error: AbsentError(str(error)))


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    """Of three GPUs and the hub."""
    with running(tmp_path_factory.mktemp("ctl"), "rate = 0\n", gpus=3) as gateway:
        yield Operator(gateway)


@pytest.fixture(autouse=True)
def empty(request: pytest.FixtureRequest) -> Iterator[None]:
    """Nothing is left of a test that failed."""
    yield
    if "operator" in request.fixturenames:
        one: Operator = request.getfixturevalue("operator")
        for _ in one.client.lines("POST", "cancel", {"prompt_ids": [job["prompt_id"] for job in one.jobs()]}):
            pass
        one.client.post("undrain", {})
        one.gateway.wait_ready()
        eventually(lambda: not one.jobs())


# -- looking


def test_status(operator: Operator) -> None:
    printed = operator("status").splitlines()
    assert printed[0].split()[:5] == ["GPU", "NAME", "STATE", "PORT", "RUNNING"]
    for gpu_id, port in enumerate(operator.gateway.ports):
        assert re.match(rf" *{gpu_id}  .* ready +{port} ", printed[1 + gpu_id])
    assert any(line.startswith("totals   3 of 3 ready; 0 running, 0 pending") for line in printed)
    assert f"ports    hub {operator.gateway.hub} (GPUs 0 to 2); 0 WebSocket clients on all" in printed
    assert "journal  on" in printed
    assert "\x1b" not in "".join(printed)
    found = operator.json("status")
    assert found["totals"]["gpus"] == len(found["gpus"]) == 3


def test_the_configuration_names_the_daemon_too(operator: Operator) -> None:
    config = operator.gateway.config
    assert ctl("--config", config, "status").returncode == 0
    assert ctl("status", "--socket", operator.gateway.folder / "state" / "control.sock").returncode == 0


def test_the_version() -> None:
    done = ctl("--version")
    assert re.fullmatch(r"comfygatectl \d+\.\d+\.\d+\n", done.stdout)


def test_it_starts_without_the_weight_of_the_daemon() -> None:
    code = "import sys, comfygate.ctl.command as c; sys.argv = ['x', '--socket', '/no/x', 'status']\n"
    code += "try: c.main()\nexcept SystemExit: print([n for n in ('twisted', 'treq', 'autobahn') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "[]\n", done.stderr


def test_the_queue_a_move_and_a_cancel(operator: Operator) -> None:
    gateway = operator.gateway
    runs, next_, moved, last = (operator.submit(gateway.ports[0], 30, f"client {n}\x1b[2J") for n in range(4))
    eventually(lambda: operator.state_of(runs) == "running")
    lines = operator("queue").splitlines()
    assert lines[0].split() == ["#", "PROMPT", "GATE", "GPU", "STATE", "NUMBER", "TRIES", "CLIENT", "AGE"]
    assert [line.split()[1] for line in lines[1:]] == [runs, next_, moved, last]
    assert "client 0 [2J" in lines[1]
    assert operator("queue", "1") == "Nothing runs, and nothing waits.\n"
    assert len(operator.json("queue", "gpu-0")["jobs"]) == 4
    assert "there is no GPU or port 'hubb'" in operator("queue", "hubb", status=1)

    told = operator("move", moved[:9], "--to", "gpu-1", "--front")
    assert told == f"{moved} waits at gpu-1 now, in front of everything; GPU 1 is expected to run it.\n"
    eventually(lambda: operator.state_of(moved) == "running")
    assert operator.json("queue", "1")["jobs"][0]["gate"] == "gpu-1"
    assert operator("move", runs, "--to", "gpu-1", status=1).startswith("comfygatectl: It runs on GPU 0.")
    assert "Known are: gpu-0, gpu-1, gpu-2, hub" in operator("move", last, "--to", "nowhere", status=1)
    found = operator.json("move", last[:9], "--to", "hub")
    assert (found["prompt_id"], found["gate"]) == (last, "hub")

    assert operator("cancel", next_[:9]) == f"{next_} is stopped; it waited on GPU 0.\n"
    assert operator.json_lines("cancel", runs) == [{"prompt_id": runs, "gpu_id": 0, "state": "running", "error": None}]
    complaint = operator("cancel", "00000000-0000-0000-0000-000000000000", status=1)
    assert "00000000-0000-0000-0000-000000000000: There is no such prompt" in complaint
    assert complaint.endswith("comfygatectl: 1 of 1 prompts were not stopped.\n")
    assert "no prompt in the queue has an id that begins with ffff" in operator("cancel", "ffff", status=1)
    assert moved in operator("cancel", "--all")
    eventually(lambda: not operator.jobs())
    assert operator("cancel", "--all") == "Nothing runs, and nothing waits.\n"


def test_all_of_one_gpu_are_stopped_and_none_begins_meanwhile(operator: Operator) -> None:
    here = [operator.submit(operator.gateway.ports[0], 30) for _ in range(4)]
    elsewhere = operator.submit(operator.gateway.ports[1], 30)
    eventually(lambda: operator.state_of(here[0]) == "running" and operator.state_of(elsewhere) == "running")
    stopped = operator.json_lines("cancel", "--all", "--gpu", "0")
    assert [line["prompt_id"] for line in stopped] == [*here[1:], here[0]]
    assert [line["state"] for line in stopped] == ["pending", "pending", "pending", "running"]
    assert operator.state_of(elsewhere) == "running"


# -- GPUs


def test_drain_and_undrain(operator: Operator) -> None:
    assert operator("drain", "2") == "GPU 2 gets no further prompts; it is ready.\n"
    assert re.search(r"^ *2 .* draining ", operator("status"), re.MULTILINE)
    prompt_id = operator.submit(operator.gateway.ports[2], 0)
    assert operator.state_of(prompt_id) == "waiting"
    found = operator.json("undrain", "--all")["gpus"]
    assert [(gpu["gpu_id"], gpu["draining"]) for gpu in found] == [(0, False), (1, False), (2, False)]
    eventually(lambda: operator.state_of(prompt_id) is None)
    assert operator("drain", "7", status=1) == "comfygatectl: There is no GPU 7. There are 3, counted from 0.\n"


def test_a_restart_shows_its_steps_and_ends_when_all_serve_again(operator: Operator) -> None:
    before = operator.gateway.backend_pid(1)
    lines = operator("restart", "1", "gpu-2").splitlines()
    steps = [" ".join(line.split()[2:5]) for line in lines]
    assert steps == [f"GPU {n} {step}" for n in (1, 2) for step in ("draining", "stopping", "starting", "ready")]
    assert operator.gateway.states() == ["ready"] * 3
    assert operator.gateway.backend_pid(1) != before


def test_a_restart_for_programs_cuts_a_prompt_off_which_runs_again(operator: Operator) -> None:
    prompt_id = operator.submit(operator.gateway.ports[0], 2)
    eventually(lambda: operator.state_of(prompt_id) == "running")
    lines = operator.json_lines("restart", "0", "--now")
    assert [line.get("step") for line in lines] == ["draining", "stopping", "starting", "ready", None]
    assert lines[-1] == {"done": True}
    eventually(lambda: operator.state_of(prompt_id) is None)
    assert request(operator.gateway.ports[0], "GET", f"/history/{prompt_id}").json()[prompt_id]


def test_a_restart_that_nobody_waits_for_and_another_meanwhile(operator: Operator) -> None:
    prompt_id = operator.submit(operator.gateway.ports[0], 30)
    eventually(lambda: operator.state_of(prompt_id) == "running")
    assert operator("restart", "0", "--no-wait").startswith("The restart of GPU 0 has begun")
    assert "Another restart goes on" in operator("restart", "1", status=1)
    operator("cancel", prompt_id)
    eventually(lambda: not operator.client.get("/comfygate/status")["gpus"][0]["draining"])
    assert operator.json("status")["gpus"][0]["state"] == "ready"


def test_a_restart_goes_on_when_whoever_watches_leaves(operator: Operator) -> None:
    prompt_id = operator.submit(operator.gateway.ports[0], 30)
    eventually(lambda: operator.state_of(prompt_id) == "running")
    before = operator.gateway.backend_pid(0)
    with reading(*operator.where, "restart", "0") as process:
        assert process.stdout is not None
        assert prompt_id in process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == -signal.SIGINT
        assert process.stderr is not None
        assert process.stderr.read() == "comfygatectl: the restart goes on without you; comfygatectl top shows it\n"
    operator("cancel", prompt_id)
    eventually(lambda: not operator.client.get("/comfygate/status")["gpus"][0]["draining"])
    assert operator.gateway.backend_pid(0) != before


# -- logs and the journal


def test_the_daemons_log(operator: Operator) -> None:
    operator("drain", "1")
    operator("undrain", "1")
    lines = operator("logs", "-n", "2").splitlines()
    assert len(lines) == 2
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d info     drained by the operator: none", lines[1])
    entry = operator.json_lines("logs", "-n", "1")[0]
    assert (entry["level"], entry["text"]) == ("info", "drained by the operator: none")


def test_a_comfyuis_log(operator: Operator) -> None:
    lines = operator("logs", "1").splitlines()
    assert any("comfygate.simulator" in line and line.startswith("[comfygate] process") for line in lines)
    assert {line["gpu_id"] for line in operator.json_lines("logs", "1")} == {1}
    assert "There is no GPU 7" in operator("logs", "7", status=1)


@contextmanager
def reading(*words: str | Path, stdout: int = subprocess.PIPE) -> Iterator[subprocess.Popen[str]]:
    """A command that goes on; it is ended if the test has not done so."""
    with subprocess.Popen(
        [*CTL, *map(str, words)],
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_logs_are_followed_until_whoever_reads_has_enough(operator: Operator) -> None:
    with reading(*operator.where, "logs", "-f", "-n", "0") as process:
        assert process.stdout is not None
        said = eventually(
            lambda: (
                operator.client.post("drain", {"gpu_ids": [0]})
                and _readable(process, 0.5)
                and process.stdout.readline()
            )
        )  # type: ignore[union-attr]
        assert "drained by the operator: [0]" in said
        process.stdout.close()
        eventually(lambda: operator.client.post("undrain", {}) and process.poll() is not None)
        assert process.returncode == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_what_a_comfyui_prints_is_followed_over_its_restart(operator: Operator) -> None:
    with reading(*operator.where, "logs", "2", "-f", "-n", "1") as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        operator("restart", "2")
        lines = iter(process.stdout.readline, "")
        assert any(line.startswith("[comfygate] process ") for line in lines)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == -signal.SIGINT
        assert process.stderr is not None
        assert process.stderr.read() == ""


def _readable(process: subprocess.Popen[str], seconds: float) -> bool:
    return bool(select.select([process.stdout], [], [], seconds)[0])


def test_the_journal(operator: Operator) -> None:
    done = operator.submit(operator.gateway.ports[0], 0)
    waits = [operator.submit(operator.gateway.ports[0], 30) for _ in range(2)]
    eventually(lambda: operator.state_of(done) is None)
    printed = eventually(lambda: waits[1] in (shown := operator("journal")) and shown)
    assert re.search(r"^file +/.*/journal\S*, \S+ \S+, schema version \d+$", printed, re.MULTILINE)
    assert "state      is written" in printed
    assert "damaged    none" in printed
    assert done not in printed
    assert done in operator("journal", "--finished", "--limit", "1000")
    assert done in operator("journal", "--state", "done", "--limit", "1000")
    found = operator.json("journal", "--limit", "1")
    assert len(found["jobs"]) == 1
    shown = operator("journal", "show", done[:9])
    assert re.search(rf"^prompt id +{done}$", shown, re.MULTILINE)
    assert re.search(r"^state +done$", shown, re.MULTILINE)
    assert operator.json("journal", "show", done)["history"]["status"]["status_str"] == "success"
    assert "no prompt in the journal has an id that begins with ffff" in operator("journal", "show", "ffff", status=1)


def test_without_a_journal_it_says_so_and_logs_end_with_the_daemon(tmp_path: Path) -> None:
    with running(tmp_path, "journal = off\n", gpus=1) as gateway:
        operator = Operator(gateway)
        assert operator("journal", status=1).startswith("comfygatectl: There is no journal")
        assert "journal  off" in operator("status")
        with reading(*operator.where, "logs", "-f") as process:
            assert process.stdout is not None
            assert process.stdout.readline()
            gateway.stop()
            assert "ComfyGate is ready" in process.stdout.read()
            assert process.wait(30) == 0


# -- the configuration


def test_reload(tmp_path: Path) -> None:
    with running(tmp_path, "rate = 0\n", gpus=1) as gateway:
        operator = Operator(gateway)
        nothing = operator.json("reload")["changes"]
        text = gateway.config.read_text()
        gateway.config.write_text(text.replace("rate = 0", "rate = 5"))
        found = operator.json("reload")["changes"]
        assert found != nothing
        assert any("rate" in sentence for sentence in found)
        gateway.config.write_text(text.replace("rate = 0", "rate = fast"))
        complaint = operator("reload", status=1)
        assert complaint.startswith(f"comfygatectl: {gateway.config}, [comfygate] rate: ")
        assert complaint.endswith("Nothing was changed.\n")
        gateway.config.write_text(text)
        assert "rate" in operator("reload")


# -- readers that leave


@pytest.mark.parametrize("words", [("queue",), ("queue", "--json"), ("status",), ("logs", "0", "-n", "1000")])
def test_whoever_reads_may_leave_at_any_time(operator: Operator, words: tuple[str, ...]) -> None:
    reading_end, writing_end = os.pipe()
    os.close(reading_end)
    try:
        done = subprocess.run(
            [*CTL, *operator.where, *words],
            env=environment(),
            stdout=writing_end,
            stderr=subprocess.PIPE,
            timeout=60,
            check=False,
        )
    finally:
        os.close(writing_end)
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_first_line_of_much(operator: Operator) -> None:
    for _ in range(40):
        operator.submit(operator.gateway.ports[0], 30)
    command = " ".join([*CTL, *operator.where, "queue | head -1"])
    done = subprocess.run(
        ["sh", "-c", command], env=environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.split()[0] == "#"
    assert len(done.stdout.splitlines()) == 1
    assert done.stderr == ""


# -- nobody there, or somebody else


def test_nobody_is_there(tmp_path: Path) -> None:
    done = ctl("--state-dir", tmp_path / "nothing", "status")
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr.startswith(f"comfygatectl: there is no folder {tmp_path}/nothing; start ComfyGate, or name its ")
    done = ctl("--state-dir", tmp_path, "cancel", "--all")
    assert (done.returncode, done.stderr.count("\n")) == (3, 1)
    assert f"no ComfyGate runs in {tmp_path}" in done.stderr
    done = ctl("--config", tmp_path / "gpus.ini", "status")
    assert (done.returncode, "cannot be read" in done.stderr) == (2, True)


def test_a_daemon_that_was_killed_leaves_a_socket_that_nobody_answers(tmp_path: Path) -> None:
    with running(tmp_path, gpus=1) as gateway:
        assert Operator(gateway)("status")
        gateway.process.kill()
        gateway.process.wait()
        assert "the ComfyGate that made it has ended; start it again" in Operator(gateway)("status", status=3)


@contextmanager
def pretending(folder: Path, answer: Callable[[socket.socket], None]) -> Iterator[None]:
    """Something that is no ComfyGate listens on the socket."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "control.sock"))
        listening.listen()

        def serve() -> None:
            try:
                while True:
                    connection, _ = listening.accept()
                    with connection:
                        connection.recv(65536)
                        answer(connection)
            except OSError:
                return

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (b"", "broke the connection off"),
        (b"SSH-2.0-x\r\n", "broke the connection off"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "what came is no JSON"),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 8\r\n\r\n\x1b[2Jgone", "the answer was 404:  [2Jgone"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{", "broke the connection off"),
    ],
)
def test_somebody_else_answers(tmp_path: Path, answer: bytes, sentence: str) -> None:
    with pretending(tmp_path, lambda connection: connection.sendall(answer)):
        done = ctl("--state-dir", tmp_path, "status")
    assert (done.returncode, done.stdout) == (1, "")
    assert sentence in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_daemon_that_hangs(tmp_path: Path) -> None:
    over = threading.Event()
    with pretending(tmp_path, lambda connection: bool(over.wait(30)) or None):
        done = ctl("--state-dir", tmp_path, "--timeout", "0.3", "status")
        over.set()
    assert done.returncode == 1
    assert done.stderr.endswith("has said nothing for 0.3 s.\n")


def test_through_a_port_there_is_no_operator(operator: Operator) -> None:
    gateway = operator.gateway
    for port in (gateway.hub, gateway.ports[0]):
        for path in ("/comfygate/operator/queue", "/api/comfygate/operator/queue", "/comfygate/operator%2Fqueue"):
            assert request(port, "GET", path).status == 404
        claims = {"X-ComfyGate-Gate": "hub"}
        answer = request(port, "POST", "/comfygate/operator/drain", {"gpu_ids": [0]}, claims)
        assert (answer.status, answer.json()["error"]["type"]) == (404, "not_found")
    assert [gpu["draining"] for gpu in operator.json("status")["gpus"]] == [False] * 3


AS_NOBODY = f"""
import os, sys
from comfygate.ctl import client, command, find, fleet, gpus, screen  # of files that nobody may read
os.setgroups([])
os.setgid({NOBODY})
os.setuid({NOBODY})
command.main()
"""


def ctl_as_nobody(*words: str | Path) -> tuple[int, str]:
    """The status, and the complaint."""
    command = [sys.executable, "-c", AS_NOBODY, *map(str, words)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == ""
    return done.returncode, done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_somebody_else_may_not() -> None:
    folder = Path(tempfile.mkdtemp(prefix="ctl-", dir="/tmp"))
    try:
        folder.chmod(0o755)
        with running(folder, gpus=1) as gateway:
            state = folder / "state"
            remedy = "belongs to user root: run it as that user (sudo -u root comfygatectl …).\n"
            assert ctl_as_nobody("--state-dir", state, "status") == (3, f"comfygatectl: {state} {remedy}")
            # Who opens the folder does not open the socket in it.
            state.chmod(0o755)
            found = ctl_as_nobody("--state-dir", state, "status")
            assert found == (3, f"comfygatectl: {state}/control.sock {remedy}")
            # And who opens that lets others look, but not operate.
            (state / "control.sock").chmod(0o666)
            status, complaint = ctl_as_nobody("--state-dir", state, "drain", "--all")
            assert (status, complaint.partition(".")[0]) == (
                1,
                "comfygatectl: This user may not operate this ComfyGate",
            )
            assert [gpu["draining"] for gpu in Operator(gateway).json("status")["gpus"]] == [False]
    finally:
        shutil.rmtree(folder)


# -- top


class Terminal:
    """A terminal, and a command in it."""

    def __init__(self, *words: str, columns: int = 100, rows: int = 30) -> None:
        self._master, slave = pty.openpty()
        self.before = termios.tcgetattr(slave)
        self._slave = slave
        self._size(columns, rows)
        self.process = subprocess.Popen(
            [*CTL, *words],
            env=environment(),
            stdin=slave,
            stdout=slave,
            stderr=slave,
            preexec_fn=lambda: (os.setsid(), fcntl.ioctl(0, termios.TIOCSCTTY, 0)),  # noqa: PLW1509 - no threads here
        )
        self.seen = b""

    def _size(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def resize(self, columns: int, rows: int) -> None:
        """Be as large; the kernel tells the command."""
        self._size(columns, rows)

    def press(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def wait_for(self, words: str, since: int = 0) -> str:
        """Read until the words are on the screen; everything since that place, without colours."""
        return self._read_until(lambda text: words in text, since)

    def wait_for_picture(self, *words: str, without: str) -> None:
        """Read until a whole picture of ``top`` has these words, and has not those of `without`."""

        def shows(text: str) -> bool:
            # The last one may be half drawn.
            pictures = text.split("comfygatectl top ")[1:-1]
            return any(all(word in one for word in words) and without not in one for one in pictures)

        self._read_until(shows, len(self.seen))

    def _read_until(self, has_come: Callable[[str], bool], since: int) -> str:
        deadline = time.monotonic() + 30
        while True:
            text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.seen[since:].decode(errors="replace"))
            if has_come(text):
                return text
            assert time.monotonic() < deadline, text
            self._read()

    def _read(self) -> None:
        if select.select([self._master], [], [], 0.1)[0]:
            self.seen += os.read(self._master, 65536)

    def end(self) -> int:
        """Wait for its end; its status."""
        while self.process.poll() is None:
            self._read()
        return self.process.wait(30)

    @property
    def is_as_before(self) -> bool:
        return termios.tcgetattr(self._slave) == self.before

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)
        os.close(self._slave)


@pytest.fixture
def terminals() -> Iterator[list[Terminal]]:
    made: list[Terminal] = []
    yield made
    for one in made:
        one.close()


def test_top_follows_and_fits_its_terminal(operator: Operator, terminals: list[Terminal]) -> None:
    terminal = Terminal(*operator.where, "top")
    terminals.append(terminal)
    terminal.wait_for("3 of 3 ready; 0 running")
    prompt_id = operator.submit(operator.gateway.ports[1], 30)
    terminal.wait_for(prompt_id[:8])
    terminal.wait_for("SimulatedWo")
    assert "LAST ERROR" not in terminal.wait_for("RST")
    place = len(terminal.seen)
    terminal.resize(160, 30)
    terminal.wait_for("LAST ERROR", place)
    terminal.press(b"x")  # says nothing
    terminal.press(b"q")
    assert terminal.end() == 0
    assert terminal.is_as_before
    assert terminal.seen.startswith(b"\x1b[?1049h")
    assert b"\x1b[?1049l" in terminal.seen


def test_top_ends_with_ctrl_c(operator: Operator, terminals: list[Terminal]) -> None:
    terminal = Terminal(*operator.where, "top")
    terminals.append(terminal)
    terminal.wait_for("3 of 3 ready")
    terminal.press(b"\x03")
    assert terminal.end() == 0
    assert terminal.is_as_before
    assert b"Traceback" not in terminal.seen


def test_top_outlives_the_daemon(tmp_path: Path, terminals: list[Terminal]) -> None:
    with running(tmp_path, gpus=1) as gateway:
        terminal = Terminal(*Operator(gateway).where, "top")
        terminals.append(terminal)
        terminal.wait_for("1 of 1 ready")
        gateway.stop()
        terminal.wait_for("this is the last that it said")
        gateway.start()
        gateway.wait_ready()
        terminal.wait_for_picture("1 of 1 ready", without="this is the last that it said")
        terminal.press(b"q")
        assert terminal.end() == 0


def test_top_needs_a_terminal_and_a_daemon(operator: Operator, terminals: list[Terminal], tmp_path: Path) -> None:
    assert "top needs a terminal" in operator("top", status=2)
    terminal = Terminal("--state-dir", str(tmp_path), "top")
    terminals.append(terminal)
    terminal.wait_for("no ComfyGate runs in")
    assert terminal.end() == 3
    assert b"\x1b[?1049h" not in terminal.seen


def test_top_for_programs(operator: Operator) -> None:
    with reading(*operator.where, "top", "--json") as process:
        assert process.stdout is not None
        assert orjson.loads(process.stdout.readline())["totals"]["gpus"] == 3
        operator("drain", "1")
        assert any(orjson.loads(line)["gpus"][1]["draining"] for line in process.stdout)
