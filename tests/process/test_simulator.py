"""The simulator as a program: its options, its end, and the faults that it can suffer."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from comfygate import __version__
from comfygate.backend.commandline import COMPANION
from tests.contract.comfyui_client import Target
from tests.contract.sample_prompts import Prompt, empty_image, node, save
from tests.ports import free_ports

LIMIT = 20.0
COMMAND = [sys.executable, "-m", "comfygate.simulator"]


@dataclass(frozen=True)
class Started(Target):
    """A running simulator."""

    process: subprocess.Popen[bytes] | None = None
    folder: Path = Path()

    def ended(self) -> int:
        """The exit status, once there is one; negative for a signal."""
        assert self.process is not None
        return self.process.wait(LIMIT)

    def log(self) -> str:
        return (self.folder / "log").read_text()


@contextlib.contextmanager
def simulator(folder: Path, *options: str, environment: dict[str, str] | None = None) -> Iterator[Started]:
    """Start one that keeps everything below `folder`, and wait until it answers."""
    port = free_ports()
    whole = [*COMMAND, "--cpu", "--port", str(port), f"--base-directory={folder}", *options]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(whole, stdout=log, stderr=log, env=os.environ | (environment or {}))
    started = Started("simulator", f"http://127.0.0.1:{port}", process=process, folder=folder)
    try:
        deadline = time.monotonic() + LIMIT
        while time.monotonic() < deadline and process.poll() is None:
            with contextlib.suppress(OSError):
                if started.get("/prompt").status == 200:
                    break
            time.sleep(0.02)
        yield started
    finally:
        process.kill()
        process.wait()


def work(**inputs: Any) -> Prompt:
    """A prompt with one SimulatedWork."""
    chosen = {"seconds": 0.0, "steps": 1, "preview": False, "fault": "none"} | inputs
    return {"1": node("SimulatedWork", **chosen), "2": node("PreviewImage", images=["1", 0])}


def sampled(checkpoint: str, seed: int = 1) -> Prompt:
    """A text to a picture."""
    return {
        "1": node("CheckpointLoaderSimple", ckpt_name=checkpoint),
        "2": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "3": node("CLIPTextEncode", text="a hill", clip=["1", 1]),
        "4": node(
            "KSampler",
            model=["1", 0],
            seed=seed,
            steps=4,
            cfg=8,
            sampler_name="euler",
            scheduler="normal",
            positive=["3", 0],
            negative=["3", 0],
            latent_image=["2", 0],
            denoise=1,
        ),
        "5": node("VAEDecode", samples=["4", 0], vae=["1", 2]),
        "6": node("SaveImage", images=["5", 0], filename_prefix="sampled"),
    }


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Started]:
    """One for the tests that break nothing."""
    with simulator(tmp_path_factory.mktemp("shared"), "--preview-method", "auto", "--sim-step-seconds", "0") as comfyui:
        yield comfyui


def run(*options: str, **more: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *options], capture_output=True, text=True, timeout=LIMIT, check=False, **more)


def test_help_lists_what_a_supervisor_passes() -> None:
    told = run("--help")
    assert told.returncode == 0
    for option in ("--listen", "--cuda-device", "--temp-directory", "--extra-model-paths-config", "--database-url"):
        assert option in told.stdout


def test_an_unknown_option_ends_it_with_2() -> None:
    told = run("--no-such-option")
    assert told.returncode == 2
    assert "--no-such-option" in told.stderr


def test_a_missing_library_is_named_with_its_remedy() -> None:
    hide = (
        "import importlib.util as util; find = util.find_spec;"
        "util.find_spec = lambda name, *more: None if name == 'PIL' else find(name, *more);"
        "from comfygate.simulator.__main__ import main; main([])"
    )
    told = subprocess.run([sys.executable, "-c", hide], capture_output=True, text=True, timeout=LIMIT, check=False)
    assert told.returncode == 1
    assert told.stderr == "The simulator needs PIL: pip install 'comfygate[simulator]'\n"


def test_sigint_ends_it_with_0_and_removes_the_previews(tmp_path: Path) -> None:
    with simulator(tmp_path) as comfyui:
        comfyui.wait(comfyui.queue(work()))
        assert list((tmp_path / "temp").iterdir())
        assert comfyui.process is not None
        comfyui.process.send_signal(signal.SIGINT)
        assert comfyui.ended() == 0
        assert not (tmp_path / "temp").exists()


def test_sigterm_kills_it_at_once(tmp_path: Path) -> None:
    with simulator(tmp_path) as comfyui:
        assert comfyui.process is not None
        comfyui.process.terminate()
        assert comfyui.ended() == -signal.SIGTERM
        assert (tmp_path / "temp").exists()


def test_a_taken_port_ends_it_with_1_after_wiping_the_previews(tmp_path: Path) -> None:
    with simulator(tmp_path) as comfyui:
        comfyui.wait(comfyui.queue(work()))
        second = run("--port", comfyui.host.partition(":")[2], f"--base-directory={tmp_path}")
        assert second.returncode == 1
        assert "Address already in use" in second.stderr or "address already in use" in second.stderr
        assert list((tmp_path / "temp").iterdir()) == []
        assert comfyui.get("/prompt").status == 200


def test_starts_fail_as_often_as_asked(tmp_path: Path) -> None:
    options = [f"--base-directory={tmp_path}", "--sim-fail-start", "2", "--sim-fail-status", "7"]
    assert [run(*options).returncode for _ in range(2)] == [7, 7]
    with simulator(tmp_path, "--sim-fail-start", "2") as comfyui:
        assert comfyui.get("/prompt").status == 200


def test_the_environment_adds_options_and_the_command_line_wins(tmp_path: Path) -> None:
    extra = {"COMFYGATE_SIMULATOR": "--max-upload-size 3 --cuda-device 5"}
    with simulator(tmp_path, "--max-upload-size", "4", environment=extra) as comfyui:
        assert comfyui.get("/features").json["max_upload_size"] == 4 * 2**20
        assert comfyui.get("/system_stats").json["devices"][0]["type"] == "cpu"


def test_a_gpu_is_always_number_0_inside(tmp_path: Path) -> None:
    port = free_ports()
    command = [*COMMAND, "--port", str(port), f"--base-directory={tmp_path}", "--cuda-device", "3"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        comfyui = Started("simulator", f"http://127.0.0.1:{port}", process=process)
        deadline = time.monotonic() + LIMIT
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError):
                (device,) = comfyui.get("/system_stats").json["devices"]
                break
            time.sleep(0.02)
        assert (device["type"], device["index"]) == ("cuda", 0)
        assert "Simulated GPU 3" in device["name"]
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(("fault", "status"), [("crash", -signal.SIGSEGV), ("exit", 1)])
def test_a_node_can_end_the_process(tmp_path: Path, fault: str, status: int) -> None:
    with simulator(tmp_path) as comfyui:
        comfyui.queue(work(fault=fault))
        assert comfyui.ended() == status


def test_a_hung_process_accepts_and_does_not_answer(tmp_path: Path) -> None:
    with simulator(tmp_path) as comfyui:
        comfyui.queue(work(fault="hang"))
        assert comfyui.process is not None
        stat = Path(f"/proc/{comfyui.process.pid}/stat")
        deadline = time.monotonic() + LIMIT
        while stat.read_text().rpartition(")")[2].split()[0] != "T":
            assert time.monotonic() < deadline
            time.sleep(0.01)
        connection = http.client.HTTPConnection(comfyui.host, timeout=0.3)
        connection.request("GET", "/prompt")
        with pytest.raises(TimeoutError):
            connection.getresponse()
        connection.close()
        comfyui.process.send_signal(signal.SIGINT)
        assert comfyui.process.poll() is None


def test_out_of_memory_fails_one_prompt_and_unloads(tmp_path: Path) -> None:
    with simulator(tmp_path, "--sim-model-seconds", "0", "--sim-step-seconds", "0") as comfyui:
        comfyui.wait(comfyui.queue(sampled("sim-alpha.safetensors")))
        assert comfyui.get("/simulator/state").json["loaded"] == ["checkpoints/sim-alpha.safetensors"]
        _, data = comfyui.wait(comfyui.queue(work(fault="oom")))["status"]["messages"][-1]
        assert data["exception_type"] == "torch.OutOfMemoryError"
        assert comfyui.get("/simulator/state").json["loaded"] == []
        assert comfyui.wait(comfyui.queue(work()))["status"]["completed"]


def test_a_cuda_error_fails_every_later_prompt(tmp_path: Path) -> None:
    with simulator(tmp_path) as comfyui:
        for prompt in (work(fault="cuda_error"), save()):
            _, data = comfyui.wait(comfyui.queue(prompt))["status"]["messages"][-1]
            assert data["exception_type"] == "RuntimeError"
            assert data["exception_message"].startswith("CUDA error: an illegal memory access")


def test_a_lost_worker_is_in_the_log(tmp_path: Path) -> None:
    with simulator(tmp_path) as comfyui:
        comfyui.queue(work(fault="zombie"))
        deadline = time.monotonic() + LIMIT
        while "Thread-1 (prompt_worker)" not in comfyui.log():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        comfyui.queue(save())
        assert comfyui.get("/prompt").json["exec_info"]["queue_remaining"] == 2


@pytest.mark.parametrize(("fault", "completed"), [("none", False), ("uninterruptible", True)])
def test_an_interrupt_works_between_steps(tmp_path: Path, fault: str, completed: bool) -> None:
    with simulator(tmp_path) as comfyui:
        prompt_id = comfyui.queue({"1": work(seconds=1.0, steps=50, fault=fault)["1"], "2": work()["2"]}, number=1)
        comfyui.until("/queue", lambda queue: queue["queue_running"])
        with comfyui.listen() as socket:
            socket.next()
            while fault == "none" and b"progress" not in str(socket.next()).encode():
                pass
            time.sleep(0.1)  # lets the node begin
            comfyui.post("/interrupt")
        # The flag that came too late for the node strikes before the next one.
        messages = comfyui.wait(prompt_id)["status"]["messages"]
        assert messages[-1][0] == "execution_interrupted"
        assert (messages[-1][1]["executed"] == ["1"]) is completed


def test_models_push_each_other_out(tmp_path: Path) -> None:
    options = ["--sim-memory", "2", "--sim-model-seconds", "0.2", "--sim-step-seconds", "0"]
    with simulator(tmp_path, *options) as comfyui:

        def loads_for(*names: str) -> int:
            before = int(comfyui.get("/simulator/state").json["loads"])
            for name in names:
                comfyui.wait(comfyui.queue(sampled(f"sim-{name}.safetensors")))
            return int(comfyui.get("/simulator/state").json["loads"]) - before

        started = time.monotonic()
        assert loads_for("alpha", "bravo", "alpha") == 2
        assert time.monotonic() - started >= 0.4
        assert loads_for("charlie") == 1
        assert loads_for("alpha") == 0
        assert loads_for("bravo") == 1


def test_sampling_tells_each_step_and_shows_it(shared: Started) -> None:
    with shared.listen("me") as socket:
        messages = socket.until_idle(shared.queue(sampled("sim-alpha.safetensors"), client_id="me"))
    steps = [each["data"] for each in messages if isinstance(each, dict) and each["type"] == "progress"]
    assert [(step["value"], step["max"], step["node"]) for step in steps] == [(n, 4, "4") for n in (1, 2, 3, 4)]
    pictures = [each for each in messages if isinstance(each, bytes)]
    assert len(pictures) == 4
    assert all(struct.unpack(">II", picture[:8]) == (1, 1) for picture in pictures)
    assert all(picture[8:10] == b"\xff\xd8" for picture in pictures)


def test_a_reader_that_does_not_read_stalls_everyone(tmp_path: Path) -> None:
    with simulator(tmp_path) as comfyui, comfyui.listen("reader") as reader, comfyui.listen("sleeper"):
        reader.next()
        # Without a client id the previews go to all, 200 kB each.
        comfyui.wait(comfyui.queue(work(steps=100, preview=True, preview_size=512)))
        prompt_id = comfyui.queue(save(), client_id="reader")
        comfyui.wait(prompt_id)
        with pytest.raises(TimeoutError):
            while True:
                message = reader.next(1.0)
                assert not isinstance(message, dict) or message["type"] != "execution_success"


def test_the_companion_validates_without_queueing(tmp_path: Path) -> None:
    paths = tmp_path / "paths.yaml"
    paths.write_text(f'comfygate:\n  custom_nodes: "{COMPANION}"\n')
    with simulator(tmp_path, "--extra-model-paths-config", str(paths)) as comfyui:
        companion = comfyui.get("/comfygate/companion").json
        assert (companion["version"], companion["routes"]) == (__version__, ["validate"])
        assert "routes" in companion["parts"]
        body = {"prompt": save()}
        answer = comfyui.post("/comfygate/validate", body)
        assert (answer.status, answer.json) == (200, {"outputs": ["2"], "node_errors": {}})
        bad = {"prompt": {"1": empty_image(-1), "2": save()["2"]}}
        assert comfyui.post("/comfygate/validate", bad).json == comfyui.post("/prompt", bad).json
        assert comfyui.post("/comfygate/validate", {}).status == 400
        assert comfyui.get("/history").json == {}


def test_there_is_no_companion_without_its_option(shared: Started) -> None:
    assert shared.get("/comfygate/companion").status == 404
    assert shared.post("/comfygate/validate", {"prompt": save()}).status == 405


def peak_memory(comfyui: Started) -> int:
    """The most memory that the process ever had resident, in bytes."""
    assert comfyui.process is not None
    status = Path(f"/proc/{comfyui.process.pid}/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


def test_large_bodies_cost_no_memory(tmp_path: Path) -> None:
    size = 100 * 2**20
    with simulator(tmp_path, "--max-upload-size", "1") as comfyui:
        before = peak_memory(comfyui)
        body = bytes(size)
        sent = comfyui.request("POST", "/simulator/sink", body).json
        assert sent == {"bytes": size, "sha256": hashlib.sha256(body).hexdigest()}
        for query in ("", "&chunked=1"):
            assert len(comfyui.get(f"/simulator/bytes?size={size}{query}").body) == size
        assert peak_memory(comfyui) - before < 16 * 2**20


def test_bodies_can_break_off(shared: Started) -> None:
    whole = shared.get("/simulator/bytes?size=1000")
    assert whole.body[:300] == bytes(range(256)) + bytes(range(44))
    assert shared.get("/simulator/bytes?size=1000&chunked=1").headers["transfer-encoding"] == "chunked"
    for query in ("", "&chunked=1"):
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            shared.get(f"/simulator/bytes?size=1000&cut=10{query}")


def test_echo_shows_the_target_as_it_came(shared: Started) -> None:
    target = "/simulator/echo?a=%2F&header=X-A:1&header=X-A:2&status=201"
    answer = shared.request("PUT", target, b"body", {"X-Mixed-Case": "1"})
    assert (answer.status, answer.json["method"], answer.json["target"]) == (201, "PUT", target)
    assert ["X-Mixed-Case", "1"] in answer.json["headers"]
    assert answer.json["body"] == "body"


@pytest.mark.parametrize("kind", ["preview", "progress", "executed"])
def test_a_flood_reaches_its_client(shared: Started, kind: str) -> None:
    with shared.listen("me") as mine:
        mine.next()
        path = f"/simulator/flood?client_id=me&messages=20&size=1000&kind={kind}"
        assert shared.get(path).json == {"sent": 20}
        for _ in range(20):
            message = mine.next()
            assert isinstance(message, bytes) is (kind == "preview")
            assert len(str(message)) >= 1000


def test_it_exits_when_told(tmp_path: Path) -> None:
    with simulator(tmp_path) as comfyui:
        assert comfyui.post("/simulator/exit?code=3").status == 200
        assert comfyui.ended() == 3


def test_plain_get_on_ipv6_and_ipv4(tmp_path: Path) -> None:
    with simulator(tmp_path, "--listen", "127.0.0.1,::1") as comfyui:
        port = int(comfyui.host.partition(":")[2])
        assert comfyui.get("/prompt").status == 200
        if socket.has_ipv6:
            with socket.create_connection(("::1", port), timeout=LIMIT) as other:
                other.sendall(b"GET /prompt HTTP/1.0\r\n\r\n")
                assert other.recv(100).startswith(b"HTTP/1.0 200")
