"""SIGTERM: what runs may end, everybody is told, and it takes no longer than it has to."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Any

from tests.contract.comfyui_client import Listener
from tests.gateway import Gateway, descendants, eventually, is_alive, request, running, workflow


def submit(port: int, seconds: float, **more: Any) -> str:
    answer = request(port, "POST", "/prompt", {"prompt": workflow(seconds), **more})
    assert answer.status == 200, answer
    prompt_id: str = answer.json()["prompt_id"]
    return prompt_id


def run(gateway: Gateway, *seconds: float) -> list[str]:
    """One prompt on each GPU, running, and one behind it."""
    ids = [
        submit(port, length, client_id=f"client-{port}") for port, length in zip(gateway.ports, seconds, strict=True)
    ]
    for port in gateway.ports:
        submit(port, 0.1)
    eventually(lambda: all(queue["running_count"] and queue["pending_count"] for queue in gateway.queues()))
    return ids


def told(gateway: Gateway) -> list[str]:
    """What the log says of the end."""
    return [line.partition("stopping: ")[2] for line in gateway.log.read_text().splitlines() if "stopping: " in line]


def stop(gateway: Gateway) -> float:
    """Send SIGTERM; say when."""
    gateway.process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    eventually(lambda: told(gateway))
    return began


def test_short_prompts_end_and_long_ones_do_not_hold_it_up(tmp_path: Path) -> None:
    config = "rate = 0\nshutdown_grace = 4\nstop_grace = 2\n"
    with running(tmp_path, config, gpus=2) as gateway:
        sockets = [Listener.open(f"127.0.0.1:{port}", f"/ws?clientId=client-{port}") for port in gateway.ports]
        short, _ = run(gateway, 2.0, 120.0)
        below = descendants(gateway.pid)
        began = stop(gateway)
        refused = request(gateway.hub, "POST", "/prompt", {"prompt": workflow()})
        assert (refused.status, refused.json()["error"]["type"]) == (503, "stopping")
        assert 10 <= int(refused.headers["retry-after"]) <= 14
        for port in (*gateway.ports, gateway.hub):
            assert request(port, "GET", "/queue").status == 200
            assert request(port, "GET", "/system_stats").status == 200
        with Listener.open(f"127.0.0.1:{gateway.hub}", "/ws") as late:
            assert late.next() is not None
            sockets[0].until_idle(short)
            entry = request(gateway.ports[0], "GET", f"/history/{short}").json()[short]
            assert entry["status"]["completed"]
            for one in (*sockets, late):
                while one.next() is not None:
                    pass
                assert one.close_code == 1012
                one.stream.close()
        assert gateway.process.wait(20) == 0
        took = time.monotonic() - began
        assert 4 <= took < 4 + 2 + 5
        assert told(gateway) == [
            "prompts that run: 2, that wait: 2; those that run get 4 s",
            "1 ended, 1 will run again after the next start",
        ]
        assert not [pid for pid in below if is_alive(pid)]


def test_it_ends_as_soon_as_the_last_prompt_has(tmp_path: Path) -> None:
    with running(tmp_path, "rate = 0\nshutdown_grace = 60\n", gpus=2) as gateway:
        run(gateway, 1.0, 2.0)
        began = stop(gateway)
        assert gateway.process.wait(30) == 0
        assert time.monotonic() - began < 15
        assert told(gateway)[1] == "2 ended, 0 will run again after the next start"


def test_a_second_signal_ends_the_wait(tmp_path: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        folder = tmp_path / str(number)
        folder.mkdir()
        with running(folder, "rate = 0\nshutdown_grace = 600\n", gpus=1) as gateway:
            run(gateway, 120.0)
            stop(gateway)
            began = time.monotonic()
            gateway.process.send_signal(number)
            gateway.process.send_signal(number)
            assert gateway.process.wait(30) == 0
            assert time.monotonic() - began < 10
            assert told(gateway)[1] == "0 ended, 1 will run again after the next start"
            assert "Traceback" not in gateway.log.read_text()


def test_where_nothing_runs_there_is_no_wait(tmp_path: Path) -> None:
    with running(tmp_path, "rate = 0\nshutdown_grace = 60\n", gpus=2) as gateway:
        began = time.monotonic()
        assert gateway.stop() == 0
        assert time.monotonic() - began < 5
        assert told(gateway) == []
