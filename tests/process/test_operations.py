"""GPUs are drained and restarted and prompts are moved under work; each prompt runs once, and none is lost."""

from __future__ import annotations

import http.client
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.gateway import Gateway, eventually, request, running, workflow

LIMITS = "rate = 0\n"


class ControlSocket(http.client.HTTPConnection):
    """The operator's way in."""

    def __init__(self, gateway: Gateway, seconds: float = 60.0) -> None:
        super().__init__("localhost", timeout=seconds)
        self._path = str(gateway.folder / "state" / "control.sock")

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def operate(gateway: Gateway, what: str, **fields: Any) -> tuple[int, list[Any]]:
    """Ask for something; the status, and the objects of the answer."""
    connection = ControlSocket(gateway)
    try:
        connection.request("POST", f"/comfygate/operator/{what}", orjson.dumps(fields))
        answer = connection.getresponse()
        return answer.status, [orjson.loads(line) for line in answer.read().splitlines() if line]
    finally:
        connection.close()


class Load:
    """Prompts that each save one picture under a name of their own.

    :ivar names: by prompt_id.
    """

    def __init__(self, gateway: Gateway) -> None:
        self.names: dict[str, str] = {}
        self._gateway = gateway

    def submit(self, port: int, seconds: float) -> str:
        prompt = workflow(seconds)
        name = f"job{len(self.names)}x"
        prompt["9"]["inputs"]["filename_prefix"] = name
        answer = request(port, "POST", "/prompt", {"prompt": prompt})
        assert answer.status == 200, answer
        prompt_id: str = answer.json()["prompt_id"]
        self.names[prompt_id] = name
        return prompt_id

    def pictures(self) -> Counter[str]:
        """How many pictures there are, by name."""
        output = self._gateway.folder / "state" / "output"
        return Counter(path.name.partition("_")[0] for path in output.glob("job*.png"))

    def is_done(self, prompt_id: str) -> bool:
        return self.pictures()[self.names[prompt_id]] > 0

    def ran_once(self) -> None:
        """Wait for the end of everything, and see that nothing is lost and nothing ran twice."""
        eventually(lambda: sum(counts(self._gateway)) == 0)
        assert self.pictures() == Counter(self.names.values())


def counts(gateway: Gateway) -> list[int]:
    """How many prompts run and wait on each GPU."""
    return [queue["running_count"] + queue["pending_count"] for queue in gateway.queues()]


def listed(gateway: Gateway, gpu_id: int, which: str = "pending") -> list[str]:
    return [item[1] for item in gateway.queues()[gpu_id][f"queue_{which}"]]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running(tmp_path_factory.mktemp("gateway"), LIMITS) as one:
        yield one


@pytest.fixture
def gateway(shared: Gateway) -> Iterator[Gateway]:
    yield shared
    operate(shared, "undrain")
    request(shared.hub, "POST", "/queue", {"clear": True})
    request(shared.hub, "POST", "/interrupt")
    eventually(lambda: sum(counts(shared)) == 0)
    for path in (shared.folder / "state" / "output").glob("job*.png"):
        path.unlink()


def draining(gateway: Gateway) -> list[bool]:
    status = request(gateway.hub, "GET", "/comfygate/status").json()
    return [gpu["draining"] for gpu in status["gpus"]]


def test_what_runs_on_a_drained_gpu_ends_there_and_what_waits_goes_elsewhere_or_waits(gateway: Gateway) -> None:
    load = Load(gateway)
    first = load.submit(gateway.ports[1], 2.0)
    own = [load.submit(gateway.ports[1], 0.1) for _ in range(2)]
    eventually(lambda: listed(gateway, 1, "running") == [first])
    others = [load.submit(gateway.ports[n], 2.0) for n in (0, 2, 3)]
    hubs = [load.submit(gateway.hub, 0.1) for _ in range(6)]
    assert operate(gateway, "drain", gpu_ids=[1])[0] == 200
    assert draining(gateway) == [False, True, False, False]
    late = load.submit(gateway.ports[1], 0.1)
    for prompt_id in (first, *others, *hubs):
        eventually(lambda prompt_id=prompt_id: load.is_done(prompt_id))
    eventually(lambda: listed(gateway, 1) == [*own, late])
    assert not any(map(load.is_done, (*own, late)))
    assert gateway.states() == ["ready"] * 4
    assert operate(gateway, "undrain", gpu_ids=[1])[0] == 200
    load.ran_once()


def test_a_prompt_that_waits_in_a_comfyui_runs_where_it_is_moved(gateway: Gateway) -> None:
    load = Load(gateway)
    first = load.submit(gateway.ports[0], 3.0)
    waits = [load.submit(gateway.ports[0], 0.1) for _ in range(3)]
    eventually(lambda: listed(gateway, 0, "running") == [first])
    for prompt_id, port in ((waits[0], "gpu-2"), (waits[2], "hub")):
        status, answer = operate(gateway, "move", prompt_id=prompt_id, to=port)
        assert (status, answer[0].get("gate")) == (200, port), answer
        eventually(lambda prompt_id=prompt_id: load.is_done(prompt_id))
    assert not load.is_done(first)
    status, answer = operate(gateway, "move", prompt_id=first, to="gpu-2")
    assert (status, answer[0]["error"]["type"]) == (409, "prompt_runs")
    load.ran_once()


def test_a_prompt_in_front_runs_next(gateway: Gateway) -> None:
    load = Load(gateway)
    load.submit(gateway.ports[0], 1.5)
    waits = [load.submit(gateway.ports[0], 0.5) for _ in range(4)]
    assert operate(gateway, "move", prompt_id=waits[3], to="gpu-0", front=True)[0] == 200
    eventually(lambda: load.is_done(waits[3]))
    assert not any(map(load.is_done, waits[:3]))
    load.ran_once()


def test_a_prompt_is_cancelled_wherever_it_is(gateway: Gateway) -> None:
    load = Load(gateway)
    ids = [load.submit(gateway.ports[0], 20.0) for _ in range(4)]
    eventually(lambda: listed(gateway, 0, "running") == ids[:1])
    _, told = operate(gateway, "cancel", prompt_ids=[*ids[::-1], "nobody"])
    assert [one.get("state") for one in told[:4]] == ["pending"] * 3 + ["running"]
    assert told[4]["error"]["type"] == "unknown_prompt"
    eventually(lambda: sum(counts(gateway)) == 0)


@contextmanager
def watched(gateway: Gateway) -> Iterator[list[int]]:
    """How many GPUs were away at one time, and whether all that was asked was answered."""
    away: list[int] = []
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.02):
            away.append(sum(state != "ready" for state in gateway.states()))
            assert request(gateway.hub, "GET", "/queue").status == 200

    with ThreadPoolExecutor(1) as threads:
        watching = threads.submit(watch)
        try:
            yield away
        finally:
            over.set()
            watching.result()


def restart(gateway: Gateway, **fields: Any) -> list[Any]:
    status, steps = operate(gateway, "restart", **fields)
    assert status == 200
    return steps


def test_four_gpus_are_restarted_one_after_the_other_under_work(gateway: Gateway) -> None:
    load = Load(gateway)
    before = [gateway.backend_pid(n) for n in range(4)]
    for port in gateway.ports:
        for _ in range(3):
            load.submit(port, 0.3)
    for _ in range(12):
        load.submit(gateway.hub, 0.3)
    with ThreadPoolExecutor(1) as threads, watched(gateway) as away:
        restarting = threads.submit(restart, gateway)
        while not restarting.done():
            done = load.submit(gateway.hub, 0.2)
            eventually(lambda done=done: restarting.done() or load.is_done(done))
        steps = restarting.result()
    assert [(step["gpu_id"], step["step"]) for step in steps[:-1]] == [
        (gpu_id, step) for gpu_id in range(4) for step in ("draining", "stopping", "starting", "ready")
    ]
    assert steps[-1] == {"done": True}
    assert max(away) == 1
    after = [gateway.backend_pid(n) for n in range(4)]
    assert not set(before) & set(after)
    assert draining(gateway) == [False] * 4
    load.ran_once()


def test_one_that_is_restarted_at_once_runs_its_prompt_again(gateway: Gateway) -> None:
    load = Load(gateway)
    cut_off = load.submit(gateway.ports[2], 1.5)
    waits = load.submit(gateway.ports[2], 0.1)
    eventually(lambda: listed(gateway, 2, "running") == [cut_off])
    steps = restart(gateway, gpu_ids=[2], now=True)
    assert [step.get("step") for step in steps] == ["draining", "stopping", "starting", "ready", None]
    assert steps[1]["detail"] == f"{cut_off} is cut off, and will run again"
    assert not load.is_done(cut_off)
    queue = gateway.queues()[2]
    assert [item[1] for item in queue["queue_running"] + queue["queue_pending"]] == [cut_off, waits]
    load.ran_once()


def test_a_second_restart_is_refused_and_the_first_goes_on_when_nobody_listens(gateway: Gateway) -> None:
    before = gateway.backend_pid(3)
    load = Load(gateway)
    runs = load.submit(gateway.ports[3], 2.0)
    eventually(lambda: listed(gateway, 3, "running") == [runs])
    connection = ControlSocket(gateway)
    connection.request("POST", "/comfygate/operator/restart", b'{"gpu_ids": [3]}')
    assert orjson.loads(connection.getresponse().readline())["step"] == "draining"
    connection.close()
    status, answer = operate(gateway, "restart", gpu_ids=[1])
    assert (status, answer[0]["error"]["type"]) == (409, "restart_under_way")
    eventually(lambda: gateway.states()[3] != "ready")
    assert load.is_done(runs)
    gateway.wait_ready(3)
    assert gateway.backend_pid(3) != before
    load.ran_once()


def test_a_gpu_that_does_not_come_back_ends_the_restart(tmp_path: Path) -> None:
    config = f"{LIMITS}start_timeout = 3\n"
    with running(tmp_path, config, gpus=2) as gateway:
        before = gateway.backend_pid(1)
        (tmp_path / "state" / "gpu-0").rename(tmp_path / "state" / "gone")
        (tmp_path / "state" / "gpu-0").write_text("in the way of the folder")
        steps = restart(gateway)
        assert [step.get("step") for step in steps[:4]] == ["draining", "stopping", "starting", "failed"]
        assert steps[4]["done"] is False
        assert steps[4]["error"]["type"] == "restart_failed"
        assert steps[4]["error"]["extra_info"] == {"gpu_id": 0, "not_restarted": [1]}
        assert gateway.backend_pid(1) == before
        assert draining(gateway) == [False, False]
