"""The daemon from outside: started as users start it, with simulated GPUs."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.gateway import (
    Gateway,
    Response,
    descendants,
    eventually,
    is_alive,
    request,
    running,
    twistd,
    workflow,
)

UNLIMITED = "rate = 0\n"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Four GPUs and the hub, without a limit."""
    with running(tmp_path_factory.mktemp("gateway"), UNLIMITED) as one:
        yield one


@pytest.fixture
def gateway(shared: Gateway) -> Iterator[Gateway]:
    """The same, with nothing to do."""
    yield shared
    request(shared.hub, "POST", "/queue", {"clear": True})
    request(shared.hub, "POST", "/interrupt")
    eventually(lambda: all(not queue["running_count"] + queue["pending_count"] for queue in shared.queues()))


def submit(port: int, prompt: dict[str, Any] | None = None, headers: dict[str, str] | None = None, **more: Any) -> Any:
    answer = request(port, "POST", "/prompt", {"prompt": prompt or workflow(), **more}, headers)
    assert answer.status == 200, answer
    return answer.json()


def ended(port: int, prompt_id: str) -> Any:
    """The prompt's entry in the history, once it has ended."""
    return eventually(lambda: request(port, "GET", f"/history/{prompt_id}").json().get(prompt_id))


def test_it_says_where_it_is_and_stops_without_a_trace(tmp_path: Path) -> None:
    with running(tmp_path, gpus=2) as gateway:
        log = gateway.log.read_text()
        for port in (*gateway.ports, gateway.hub):
            assert f"http://127.0.0.1:{port}/" in log
            assert request(port, "GET", "/system_stats").status == 200
        below = descendants(gateway.pid)
        assert len(below) >= 2
        assert gateway.stop() == 0
        assert not [pid for pid in below if is_alive(pid)]
        assert not (tmp_path / "state" / "control.sock").exists()


def test_a_killed_backend_comes_back_and_the_others_never_notice(gateway: Gateway) -> None:
    victim = gateway.backend_pid(2)
    os.kill(victim, signal.SIGKILL)
    answer: Response = eventually(lambda: (r := request(gateway.ports[2], "GET", "/prompt")).status != 200 and r)
    assert answer.status == 503
    assert answer.json()["error"]["type"] in ("backend_down", "backend_starting")
    assert int(answer.headers["retry-after"]) >= 1
    for target in ("/", "/prompt", "/object_info", "/view?filename=x.png"):
        assert request(gateway.ports[2], "GET", target).status in (503, 502), target
    waits = submit(gateway.ports[2])["prompt_id"]
    assert waits in [item[1] for item in request(gateway.ports[2], "GET", "/queue").json()["queue_pending"]]
    assert request(gateway.ports[2], "GET", "/history").json() == {}
    for port in (gateway.ports[0], gateway.ports[1], gateway.ports[3]):
        assert request(port, "GET", "/queue").status == 200
    assert gateway.states()[2] in ("down", "starting")
    gateway.wait_ready(2)
    assert gateway.backend_pid(2) != victim
    assert ended(gateway.ports[2], waits)["status"]["completed"]
    assert submit(gateway.ports[2])["gpu_id"] == 2


def test_jobs_of_a_killed_backend_run_after_its_restart(gateway: Gateway) -> None:
    ids = [submit(gateway.ports[3], workflow(0.5))["prompt_id"] for _ in range(4)]
    eventually(lambda: gateway.queues()[3]["running_count"])
    os.kill(gateway.backend_pid(3), signal.SIGKILL)
    eventually(lambda: gateway.states()[3] != "ready")
    assert gateway.queues()[3]["pending_count"] == 4
    gateway.wait_ready(3)
    for prompt_id in ids:
        assert ended(gateway.ports[3], prompt_id)["status"]["completed"]


def test_a_prompt_that_crashes_every_comfyui_is_given_up_and_the_next_runs(gateway: Gateway) -> None:
    submit(gateway.ports[1], workflow(0.5, fault="crash"))
    after = submit(gateway.ports[1])["prompt_id"]
    assert ended(gateway.ports[1], after)["status"]["completed"]
    assert gateway.queues()[1]["pending_count"] == 0
    assert "was lost 2 times" in gateway.log.read_text()


def test_nothing_is_left_two_seconds_after_the_daemon_was_killed(tmp_path: Path) -> None:
    with running(tmp_path, gpus=2) as gateway:
        below = descendants(gateway.pid)
        gateway.process.kill()
        gateway.process.wait()
        eventually(lambda: not [pid for pid in below if is_alive(pid)], seconds=2)


def test_a_burst_passes_and_the_rest_are_told_when_to_come_back(tmp_path: Path) -> None:
    with running(tmp_path, gpus=2) as gateway, ThreadPoolExecutor(50) as threads:
        began = time.monotonic()
        answers = list(threads.map(lambda _: request(gateway.ports[0], "GET", "/queue"), range(200)))
        took = time.monotonic() - began
        passed = [answer for answer in answers if answer.status == 200]
        refused = [answer for answer in answers if answer.status == 429]
        assert len(passed) + len(refused) == 200
        assert 20 <= len(passed) <= 20 + 10 * took + 1
        for answer in refused:
            assert int(answer.headers["retry-after"]) >= 1
            assert answer.json()["error"]["type"] == "rate_limited"
        # Neither another port nor what costs nothing feels it.
        assert request(gateway.ports[1], "GET", "/queue").status == 200
        assert request(gateway.ports[0], "POST", "/interrupt", {"prompt_id": "x"}).status == 200
        assets = list(threads.map(lambda _: request(gateway.ports[0], "GET", "/"), range(478)))
        assert {answer.status for answer in assets} == {200}
        # And the bucket fills again.
        eventually(lambda: request(gateway.ports[0], "GET", "/queue").status == 200, seconds=2, every=0.1)


HARMFUL: list[tuple[str, bytes]] = [
    ("client_id list", b'{"prompt": %s, "client_id": []}'),
    ("client_id object", b'{"prompt": %s, "client_id": {}}'),
    ("extra_data null", b'{"prompt": %s, "extra_data": null}'),
    ("extra_data number", b'{"prompt": %s, "extra_data": 5}'),
    ("number NaN", b'{"prompt": %s, "number": NaN}'),
    ("number null", b'{"prompt": %s, "number": null}'),
    ("prompt null", b'{"prompt": null, "x": %s}'),
    ("not JSON", b"{nope %s"),
]


def test_what_would_harm_a_backend_is_refused(gateway: Gateway) -> None:
    before = [gateway.backend_pid(n) for n in range(4)]
    for name, template in HARMFUL:
        answer = request(gateway.ports[0], "POST", "/prompt", template % orjson.dumps(workflow()))
        assert answer.status == 400, name
        assert answer.json()["error"]["message"], name
    first = submit(gateway.ports[0])
    again = {"prompt": workflow(), "prompt_id": first["prompt_id"], "number": first["number"]}
    assert request(gateway.ports[0], "POST", "/prompt", again).status == 400
    assert request(gateway.ports[1], "POST", "/prompt", again).status == 400
    assert [gateway.backend_pid(n) for n in range(4)] == before
    assert ended(gateway.ports[0], submit(gateway.ports[0])["prompt_id"])["status"]["completed"]


def test_the_hub_spreads_prompts_and_finds_their_histories(gateway: Gateway) -> None:
    told = [submit(gateway.hub, workflow(1.5)) for _ in range(8)]
    assert sorted(one["gpu_id"] for one in told) == [0, 0, 1, 1, 2, 2, 3, 3]
    for one in told:
        assert ended(gateway.hub, one["prompt_id"])["status"]["completed"]
    pinned = [submit(gateway.hub, headers={"X-Target-GPU": "2"}) for _ in range(3)]
    assert {one["gpu_id"] for one in pinned} == {2}
    for one in pinned:
        ended(gateway.ports[2], one["prompt_id"])
    wrong = request(gateway.hub, "POST", "/prompt", {"prompt": workflow()}, {"X-Target-GPU": "9"})
    assert (wrong.status, wrong.json()["error"]["type"]) == (400, "invalid_target")


def test_a_named_gate_is_one_more_port_over_some_of_the_gpus(tmp_path: Path) -> None:
    gate = "[gate:some]\nport = {spare}\ngpus = 2,0\npolicy = round-robin\nrate = 0.001\nburst = 5\n"
    with running(tmp_path, UNLIMITED + gate, gpus=3) as gateway:
        told = [submit(gateway.spare, workflow(0.2)) for _ in range(4)]
        assert [one["gpu_id"] for one in told] == [0, 2, 0, 2]
        for one in told:
            assert ended(gateway.ports[one["gpu_id"]], one["prompt_id"])["status"]["completed"]
        pinned = request(gateway.spare, "POST", "/prompt", {"prompt": workflow()}, {"X-Target-GPU": "1"})
        assert pinned.json()["error"]["type"] == "invalid_target"
        assert request(gateway.spare, "POST", "/prompt", {"prompt": workflow()}).status == 429
        assert submit(gateway.ports[1])["gpu_id"] == 1


def test_an_interrupt_by_id_reaches_its_prompt_from_any_port(gateway: Gateway) -> None:
    first = submit(gateway.ports[0], workflow(20))["prompt_id"]
    other = submit(gateway.ports[1], workflow(1.5))["prompt_id"]
    waits = [submit(gateway.ports[0], workflow(20))["prompt_id"] for _ in range(3)]
    eventually(lambda: [queue["running_count"] for queue in gateway.queues()][:2] == [1, 1])
    for prompt_id in waits:
        found = request(gateway.ports[3], "POST", "/interrupt", {"prompt_id": prompt_id}).json()
        assert found == {"prompt_id": prompt_id, "gpu_id": 0, "state": "pending"}
    found = request(gateway.ports[1], "POST", "/api/interrupt", {"prompt_id": first}).json()
    assert found == {"prompt_id": first, "gpu_id": 0, "state": "running"}
    entry = ended(gateway.ports[0], first)
    assert entry["status"]["status_str"] == "error"
    assert entry["status"]["messages"][-1][0] == "execution_interrupted"
    assert ended(gateway.ports[1], other)["status"]["completed"]
    for prompt_id in waits:
        assert request(gateway.ports[0], "GET", f"/history/{prompt_id}").json() == {}
    unknown = request(gateway.hub, "POST", "/interrupt", {"prompt_id": "never-heard-of"}).json()
    assert unknown == {"prompt_id": "never-heard-of", "gpu_id": None, "state": "unknown"}


def test_the_sums_of_queue_all_are_the_same_on_every_port(gateway: Gateway) -> None:
    ids = [submit(gateway.ports[n], workflow(3))["prompt_id"] for n in (0, 0, 0, 2)]
    eventually(lambda: [queue["running_count"] for queue in gateway.queues()] == [1, 0, 1, 0])
    for port in (*gateway.ports, gateway.hub):
        listed = request(port, "GET", "/queue/all").json()
        assert (listed["total_running"], listed["total_pending"]) == (2, 2)
        assert [queue["gpu_id"] for queue in listed["queues"]] == [0, 1, 2, 3]
        assert [item[1] for item in listed["queues"][0]["queue_pending"]] == ids[1:3]
    assert request(gateway.hub, "POST", "/queue", {"clear": True}).status == 200
    assert request(gateway.hub, "POST", "/interrupt").status == 200
    eventually(lambda: all(not queue["running_count"] + queue["pending_count"] for queue in gateway.queues()))


def test_a_comfyui_that_someone_else_runs_is_proxied(gateway: Gateway, tmp_path: Path) -> None:
    # Another gate's GPU port stands in for somebody's ComfyUI: it has no companion of ours to offer.
    config = f"{UNLIMITED}comfyui = simulator\ndevices = cpu*1\n[gpu:1]\nurl = http://127.0.0.1:{gateway.ports[0]}\n"
    with running(tmp_path, config, gpus=2) as other:
        told = submit(other.ports[1])
        assert told["gpu_id"] == 1
        assert ended(other.ports[1], told["prompt_id"])["status"]["completed"]
        assert ended(gateway.ports[0], told["prompt_id"])["status"]["completed"]
        stranger = submit(gateway.ports[0], workflow(20))["prompt_id"]
        eventually(lambda: other.queues()[1]["running_count"] == 1)
        found = request(other.ports[0], "POST", "/interrupt", {"prompt_id": stranger}).json()
        assert found == {"prompt_id": stranger, "gpu_id": 1, "state": "running"}
        assert ended(gateway.ports[0], stranger)["status"]["status_str"] == "error"
    assert request(gateway.ports[0], "GET", "/queue").status == 200


def test_a_page_from_elsewhere_is_kept_out(gateway: Gateway) -> None:
    port = gateway.ports[0]
    assert request(port, "GET", "/queue", headers={"Origin": "http://evil.example"}).status == 403
    assert request(port, "POST", "/prompt", {}, {"Origin": "null"}).status == 403
    for host in (f"127.0.0.1:{port}", f"gpu.example:{port}", "gpu.example"):
        answer = request(port, "GET", "/queue", headers={"Host": host, "Origin": f"http://{host}"})
        assert answer.status == 200
        assert request(port, "GET", "/", headers={"Host": host, "Origin": f"http://{host}"}).status == 200


def test_our_own_routes_in_the_backends_are_out_of_reach(gateway: Gateway) -> None:
    for target in ("/comfygate/validate", "/api/comfygate/validate", "/%63omfygate/validate"):
        assert request(gateway.ports[0], "POST", target, {"prompt": workflow()}).status == 404, target


def test_a_policy_in_a_users_own_file_is_found_and_used(tmp_path: Path) -> None:
    plugins = tmp_path / "mine" / "twisted" / "plugins"
    plugins.mkdir(parents=True)
    (plugins / "my_policy.py").write_text(
        "from comfygate.routing.registry import PolicyMaker\n"
        "last = PolicyMaker(name='last', dotted='my_module.Last', help='to the last GPU')\n"
    )
    (tmp_path / "mine" / "my_module.py").write_text(
        "from comfygate.routing.inorder import InOrder\n"
        "class Last(InOrder):\n"
        "    def pick(self, job, candidates, backends):\n"
        "        return backends[-1] if backends[-1] in candidates else None\n"
    )
    environment = {"PYTHONPATH": str(tmp_path / "mine")}
    with running(tmp_path, UNLIMITED + "policy = last\n", gpus=2, environment=environment) as gateway:
        assert [submit(gateway.hub)["gpu_id"] for _ in range(5)] == [1] * 5


def test_it_becomes_a_daemon_as_twistd_does(tmp_path: Path) -> None:
    with running(tmp_path, gpus=1) as gateway:
        assert gateway.stop() == 0
    done = twistd(
        "--pidfile", "gate.pid", "--logfile", "gate.log", "comfygate", "--config", "gpus.ini", folder=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")
    pid = int((tmp_path / "gate.pid").read_text())
    try:
        eventually(lambda: "ComfyGate is ready" in (tmp_path / "gate.log").read_text())
        assert request(gateway.ports[0], "GET", "/queue").status == 200
        answer = request(gateway.ports[0], "POST", "/prompt", {"prompt": workflow()}, seconds=5)
        history = f"/history/{answer.json()['prompt_id']}"
        eventually(lambda: request(gateway.hub, "GET", history).json())
        assert holds_locks(pid, gateway.journal)
    finally:
        below = descendants(pid)
        os.kill(pid, signal.SIGTERM)
        eventually(lambda: not is_alive(pid))
    assert not [child for child in below if is_alive(child)]
    assert not (tmp_path / "gate.pid").exists()
    assert "the journal is not closed" not in (tmp_path / "gate.log").read_text()


def holds_locks(pid: int, path: Path) -> bool:
    """Whether a process has locked a file as SQLite does."""
    inode = f":{path.stat().st_ino}"
    locks = (line.split() for line in Path("/proc/locks").read_text().splitlines())
    return any(words[4] == str(pid) and words[5].endswith(inode) for words in locks if words[1] == "POSIX")


def test_a_second_daemon_is_told_that_the_first_runs(gateway: Gateway) -> None:
    done = twistd("-n", "--pidfile=", "comfygate", "--config", str(gateway.config), folder=gateway.folder)
    assert done.returncode == 2
    assert "is in use by another ComfyGate" in done.stderr
    assert request(gateway.ports[0], "GET", "/queue").status == 200


def test_a_port_that_is_taken_is_one_sentence(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (tmp_path / "gpus.ini").write_text(
            "[comfygate]\ncomfyui = simulator\ndevices = cpu*1\nstate_dir = temporary\n"
            f"first_port = {port}\nhub_port = 0\n"
        )
        done = twistd("-n", "--pidfile=", "comfygate", "--config", "gpus.ini", folder=tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert f"port {port}" in done.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[comfygate]\nfirst_prot = 1\n", "first_prot"),
        ("[comfygate]\ncomfyui = simulator\ndevices = cpu*0\n", "devices"),
        ("[comfygate]\ncomfyui = /nowhere\ndevices = cpu*1\n", "/nowhere"),
        ("[comfygate]\ncomfyui = simulator\ndevices = cpu*1\npolicy = fastest\n", "least-loaded"),
        ("[comfygate]\ncomfyui = simulator\ndevices = cpu*1\n[gpu:7]\nport = 1\n", "gpu:7"),
        ("[comfygate]\ncomfyui = simulator\ndevices = cpu*1\ninput_dir = nowhere\n", "input_dir"),
    ],
)
@pytest.mark.parametrize("check", [["--check"], []])
def test_a_mistake_is_one_sentence_and_nothing_is_started(
    tmp_path: Path, text: str, words: str, check: list[str]
) -> None:
    (tmp_path / "gpus.ini").write_text(text)
    done = twistd("-n", "--pidfile=", "comfygate", "--config", "gpus.ini", *check, folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("comfygate: gpus.ini")
    assert done.stderr.count("\n") == 1
    assert words in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["gpus.ini"]


def test_the_command_line(tmp_path: Path) -> None:
    assert twistd("comfygate", "--version", folder=tmp_path).stdout.startswith("comfygate ")
    assert "--check" in twistd("comfygate", "--help", folder=tmp_path).stdout
    wrong = twistd("comfygate", "--bogus", folder=tmp_path)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    (tmp_path / "gpus.ini").write_text("[comfygate]\ncomfyui = simulator\ndevices = cpu*1\n")
    checked = twistd("comfygate", "--check", "--config", "gpus.ini", folder=tmp_path)
    assert checked.returncode == 0
    assert "gpu-0 on 8181" in checked.stdout


def test_what_a_request_says_besides_does_not_reach_the_control_plane(gateway: Gateway) -> None:
    many = {f"X-Custom-{n}": "x" * 4000 for n in range(14)}
    form = {"Content-Type": "multipart/form-data; boundary=b", "X-ComfyGate-Gate": "gpu-3", **many}
    answer = request(gateway.ports[1], "POST", "/prompt", {"prompt": workflow()}, form)
    assert (answer.status, answer.json()["gpu_id"]) == (200, 1)
    packed = request(gateway.ports[1], "POST", "/prompt", b"x", {"Content-Encoding": "gzip"})
    assert (packed.status, packed.json()["error"]["type"]) == (415, "unsupported_encoding")


def test_it_stops_quietly_though_its_socket_is_gone(tmp_path: Path) -> None:
    with running(tmp_path, gpus=1) as gateway:
        (tmp_path / "state" / "control.sock").unlink()
        assert gateway.stop() == 0
    assert "Traceback" not in gateway.log.read_text()
