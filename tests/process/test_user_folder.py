"""Settings and workflows, saved through every port, while the ComfyUIs that write them are killed."""

from __future__ import annotations

import http.client
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.gateway import Gateway, Response, eventually, request
from tests.process.comfyuis import COMFYUIS, two_gpus

SETTINGS = {f"Comfy.Test.{n}": {"value": n, "text": "x" * 200} for n in range(200)}
WORKFLOWS = {f"workflow {n}.json": {"nodes": [n] * 1000} for n in range(50)}


@pytest.fixture(params=COMFYUIS)
def gateway(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Gateway]:
    with two_gpus(request.param, tmp_path) as one:
        yield one


def saves() -> list[tuple[str, Any]]:
    """What to post and where: settings one by one and two together, and workflows."""
    items = list(SETTINGS.items())
    single = [(f"/settings/{name}", value) for name, value in items[:100]]
    several = [("/settings", dict(items[n : n + 2])) for n in range(100, 200, 2)]
    workflows = [(f"/api/userdata/workflows%2F{name.replace(' ', '%20')}", w) for name, w in WORKFLOWS.items()]
    return list(chain.from_iterable(zip(single[::2], single[1::2], several, workflows, strict=True)))


def save(port: int, target: str, value: Any) -> None:
    """Save as a client does that does not give up; a body that comes late is what a browser sends."""

    def saved() -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
        try:
            body = orjson.dumps(value)
            connection.putrequest("POST", target)
            connection.putheader("Content-Length", str(len(body)))
            connection.endheaders()
            time.sleep(0.002)
            connection.send(body)
            status = connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()
        assert status == 200 or status >= 500, status
        return status == 200

    eventually(saved, seconds=120)


def get(port: int, target: str) -> Any:
    """What a port has; one whose ComfyUI is just being started again is asked again."""
    answer: Response = eventually(lambda: (r := request(port, "GET", target)).status == 200 and r)
    return answer.json()


def test_nothing_that_was_saved_is_lost_when_the_writer_is_killed(gateway: Gateway) -> None:
    posts = saves()
    thirds = [posts[: len(posts) // 3], posts[len(posts) // 3 : len(posts) * 2 // 3], posts[len(posts) * 2 // 3 :]]
    with ThreadPoolExecutor(8) as threads:
        for n, third in enumerate(thirds):
            done = [
                threads.submit(save, (*gateway.ports, gateway.hub)[number % 3], target, value)
                for number, (target, value) in enumerate(third)
            ]
            if n < 2:
                # GPU 0 writes first, and GPU 1 since GPU 0 died, also when that is back.
                eventually(lambda done=done: sum(one.done() for one in done) > 10)
                os.kill(gateway.backend_pid(n), signal.SIGKILL)
            for one in done:
                one.result()
            gateway.wait_ready()
    for port in (*gateway.ports, gateway.hub):
        found = get(port, "/settings")
        assert {name: found.get(name) for name in SETTINGS} == SETTINGS
        assert sorted(get(port, "/userdata?dir=workflows&recurse=true")) == sorted(WORKFLOWS)
        for name, workflow in WORKFLOWS.items():
            assert get(port, f"/userdata/workflows%2F{name.replace(' ', '%20')}") == workflow
        assert not [entry for entry in get(port, "/v2/userdata") if ".tmp" in entry["name"]]


@pytest.mark.parametrize("comfyui", COMFYUIS)
def test_users_are_the_same_on_every_port_and_none_is_lost(comfyui: str, tmp_path: Path) -> None:
    with two_gpus(comfyui, tmp_path, "--multi-user") as gateway:
        names: dict[str, str] = {}
        for n in range(2):
            for port in (*gateway.ports, gateway.hub):
                name = f"user {len(names)}"
                ask = partial(request, port, "POST", "/users", {"username": name})
                answer = eventually(lambda ask=ask: (r := ask()).status == 200 and r)
                names[answer.json()] = name
            os.kill(gateway.backend_pid(n), signal.SIGKILL)
            eventually(lambda n=n: gateway.states()[n] != "ready")
            gateway.wait_ready(1 - n)
        for port in (*gateway.ports, gateway.hub):
            assert get(port, "/users")["users"] == names
        for user in names:
            assert request(gateway.ports[0], "POST", "/settings/a", user, {"comfy-user": user}).status == 200
        for user in names:
            answer = request(gateway.hub, "GET", "/settings/a", headers={"comfy-user": user})
            assert answer.json() == user
