"""The status of a whole daemon, as a page sees it: asked for once, or watched."""

from __future__ import annotations

import http.client
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.contract.comfyui_client import Listener
from tests.gateway import Gateway, eventually, request, running, workflow

UNLIMITED = "rate = 0\n"


class Watching:
    """A reader of the event stream."""

    def __init__(self, port: int, seconds: float = 30.0) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
        self._connection.request("GET", "/comfygate/events")
        self.answer = self._connection.getresponse()

    def next(self) -> tuple[str, Any] | None:
        """The next event's name and data; ``None`` at the end of the stream."""
        fields: dict[str, str] = {}
        while line := self.answer.readline():
            if line == b"\n":
                if "data" in fields:
                    return fields["event"], orjson.loads(fields["data"])
                fields.clear()
                continue
            name, _, value = line.decode().rstrip("\n").partition(": ")
            fields[name] = value
        return None

    def until(self, condition: Callable[[Any], Any], events: int = 200) -> Any:
        """The first status for which `condition` is true."""
        for _ in range(events):
            event = self.next()
            assert event is not None, "the stream ended"
            assert event[0] == "status"
            if condition(event[1]):
                return event[1]
        raise AssertionError(f"not among {events} events: {condition}")

    def close(self) -> None:
        self.answer.close()
        self._connection.close()


@contextmanager
def watching(port: int) -> Iterator[Watching]:
    one = Watching(port)
    try:
        yield one
    finally:
        one.close()


def status(port: int) -> Any:
    answer = request(port, "GET", "/comfygate/status")
    assert answer.status == 200, answer
    assert answer.headers["cache-control"] == "no-store"
    return answer.json()


def steady(gpu: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in gpu.items() if key != "process_memory"}


def submit(port: int, prompt: dict[str, Any] | None = None, **more: Any) -> str:
    answer = request(port, "POST", "/prompt", {"prompt": prompt or workflow(), **more})
    assert answer.status == 200, answer
    return str(answer.json()["prompt_id"])


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running(tmp_path_factory.mktemp("status"), UNLIMITED, gpus=2) as one:
        yield one


@pytest.fixture
def gateway(shared: Gateway) -> Iterator[Gateway]:
    """Two GPUs with nothing to do."""
    yield shared
    shared.wait_ready()
    request(shared.hub, "POST", "/queue", {"clear": True})
    request(shared.hub, "POST", "/interrupt")
    eventually(lambda: status(shared.hub)["totals"]["idle"] == 2)


def test_the_same_on_every_port(gateway: Gateway) -> None:
    found = status(gateway.hub)
    assert [gate["name"] for gate in found["gates"]] == ["gpu-0", "gpu-1", "hub"]
    assert [gate["port"] for gate in found["gates"]] == [*gateway.ports, gateway.hub]
    assert [gpu["port"] for gpu in found["gpus"]] == list(gateway.ports)
    assert found["totals"]["gpus"] == found["totals"]["ready"] == found["totals"]["idle"] == 2
    assert found["started"] <= found["gpus"][0]["since"] <= found["time"]
    assert all(gpu["process_memory"] > 10_000_000 and gpu["memory"] is None for gpu in found["gpus"])
    for port in gateway.ports:
        assert [steady(gpu) for gpu in status(port)["gpus"]] == [steady(gpu) for gpu in found["gpus"]]
    head = request(gateway.hub, "HEAD", "/comfygate/events")
    assert (head.status, head.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")


def test_idle_busy_full_down(gateway: Gateway) -> None:
    with watching(gateway.hub) as hub:
        assert hub.answer.getheader("Cache-Control") == "no-store"
        assert hub.answer.getheader("X-Accel-Buffering") == "no"
        first = hub.until(lambda s: s["gpus"][1]["load"] == "idle")
        assert first["gpus"][1]["job"] is None
        prompt_id = submit(gateway.ports[1], workflow(20), client_id="me")
        busy = hub.until(lambda s: s["gpus"][1]["load"] == "busy" and s["gpus"][1]["job"]["since"])
        job = busy["gpus"][1]["job"]
        assert job["prompt_id"] == prompt_id
        assert job["client_id"] not in (None, "me")  # who knows it gets its events
        assert first["time"] <= job["since"] <= busy["time"] + 1
        for _ in range(3):
            submit(gateway.ports[1], workflow(20))
        full = hub.until(lambda s: s["totals"]["waiting"] == 2)["gpus"][1]
        assert (full["load"], full["running_count"], full["pending_count"]) == ("full", 1, 3)
        assert status(gateway.hub)["gpus"][1]["load"] == "full"
        os.kill(gateway.backend_pid(1), signal.SIGKILL)
        down = hub.until(lambda s: s["gpus"][1]["state"] == "down")
        gpu = down["gpus"][1]
        assert (gpu["load"], gpu["job"], gpu["pending_count"]) == (None, None, 4)
        assert "killed by signal 9" in gpu["last_error"]
        assert down["errors"][0]["gpu_id"] == 1
        assert down["errors"][0]["message"] == gpu["last_error"]
        assert down["gpus"][0]["load"] == "idle"
        request(gateway.hub, "POST", "/queue", {"clear": True})
        up = hub.until(lambda s: s["gpus"][1]["load"] == "idle")
        assert up["gpus"][1]["restarts"] == gpu["restarts"] + 1
        assert up["gpus"][1]["cancelled"] == first["gpus"][1]["cancelled"] + 4


def test_a_prompt_that_fails_is_among_the_errors(gateway: Gateway) -> None:
    before = status(gateway.hub)["gpus"][0]
    prompt_id = submit(gateway.ports[0], workflow(0.1, fault="error"))
    errors = eventually(lambda: [e for e in status(gateway.hub)["errors"] if e["prompt_id"] == prompt_id])
    assert errors[0]["gpu_id"] == 0
    assert "SimulatedWork" in errors[0]["message"]
    submit(gateway.ports[0])
    after = eventually(lambda: (s := status(gateway.hub)["gpus"][0])["done"] > before["done"] and s)
    assert after["failed"] == before["failed"] + 1


def test_it_answers_while_no_backend_does(tmp_path: Path) -> None:
    remote = "comfyui = simulator\ndevices = none\n[gpu:0]\nurl = http://127.0.0.1:9\n"
    with running(tmp_path, remote, gpus=1, ready=False) as gateway:

        def answers() -> bool:
            try:
                return bool(status(gateway.hub)["gpus"][0]["state"] == "down")
            except OSError:
                return False

        eventually(answers)
        with watching(gateway.ports[0]) as port:
            found = port.until(lambda s: True)
        assert found["totals"]["ready"] == 0
        assert found["gpus"][0]["owned"] is False
        assert found["gpus"][0]["process_memory"] is None
        assert "does not answer" in found["gpus"][0]["last_error"]


def test_streams_end_when_the_daemon_does(tmp_path: Path) -> None:
    with running(tmp_path, "backend_timeout = 0.1\n", gpus=1) as gateway, watching(gateway.hub) as hub:
        assert hub.until(lambda s: s["gpus"][0]["state"] == "ready")
        gateway.process.send_signal(signal.SIGTERM)
        while hub.next() is not None:
            pass
        assert gateway.process.wait(30) == 0


def test_no_more_viewers_than_may(gateway: Gateway) -> None:
    viewers = [Watching(gateway.hub) for _ in range(200)]
    try:
        assert all(one.answer.status == 200 for one in viewers)
        refused = request(gateway.ports[0], "GET", "/comfygate/events")
        assert (refused.status, refused.json()["error"]["type"]) == (503, "too_many_viewers")
        assert int(refused.headers["retry-after"]) > 0
        # They take none of the connections that others need.
        assert submit(gateway.hub)
    finally:
        for one in viewers:
            one.close()

    def seated() -> bool:
        with watching(gateway.hub) as one:
            return one.answer.status == 200

    eventually(seated)


def test_progress_of_a_prompt_that_no_client_listens_to(gateway: Gateway) -> None:
    with watching(gateway.hub) as hub:
        prompt_id = submit(gateway.ports[0], workflow(4))
        first = hub.until(lambda s: (job := s["gpus"][0]["job"]) and job["node"] == "2" and job["value"])
        job = first["gpus"][0]["job"]
        assert (job["prompt_id"], job["client_id"], job["node_type"]) == (prompt_id, None, "SimulatedWork")
        assert (job["nodes_done"], job["nodes_total"], job["max"]) == (1, 3, 80)
        later = hub.until(lambda s: s["gpus"][0]["job"]["value"] > job["value"])
        assert later["gpus"][0]["job"]["value"] <= 80
        hub.until(lambda s: s["gpus"][0]["job"] is None)


def test_clients_are_told_no_more_than_comfyui_tells_them(gateway: Gateway) -> None:
    with Listener.open(f"127.0.0.1:{gateway.ports[0]}", "/ws?clientId=stock") as stock:
        submit(gateway.ports[0], workflow(0.5))
        types: set[str] = set()
        remaining = 1
        while remaining or "progress_state" not in types:
            message = stock.next()
            assert isinstance(message, dict)
            types.add(message["type"])
            if message["type"] == "status":
                remaining = message["data"]["status"]["exec_info"]["queue_remaining"]
        assert types == {"status", "progress_state", "progress"}
