"""Clients that look at /history and /queue every 20 ms, and at nothing else, never lose sight of a prompt."""

from __future__ import annotations

import http.client
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import orjson
import pytest

from tests.gateway import Gateway, running, workflow

JOBS = int(os.environ.get("COMFYGATE_POLLED_JOBS", "240"))
POLLERS = 8
EVERY = 0.02


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running(tmp_path_factory.mktemp("polled"), "rate = 0\n", gpus=4) as one:
        yield one


class Poller:
    """One client, on one connection."""

    def __init__(self, port: int, *, history_first: bool) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self._order = ("history", "queue") if history_first else ("queue", "history")
        self.polls = 0

    def __enter__(self) -> Poller:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def _ask(self, method: str, target: str, body: bytes | None = None) -> dict[str, object]:
        self._connection.request(method, target, body)
        answer = self._connection.getresponse()
        content = answer.read()
        assert answer.status == 200, content
        return orjson.loads(content)  # type: ignore[no-any-return]

    def _sees(self, where: str, prompt_id: str) -> bool:
        if where == "history":
            return prompt_id in self._ask("GET", f"/history/{prompt_id}")
        queue = self._ask("GET", "/queue")
        return any(item[1] == prompt_id for key in ("queue_running", "queue_pending") for item in queue[key])  # type: ignore[attr-defined]

    def run(self, seconds: float) -> str | None:
        """Submit a prompt and follow it to its end; say where it was lost sight of."""
        told = self._ask("POST", "/prompt", orjson.dumps({"prompt": workflow(seconds)}))
        prompt_id = str(told["prompt_id"])
        while True:
            self.polls += 1
            seen = {where: self._sees(where, prompt_id) for where in self._order}
            if not any(seen.values()):
                return f"{prompt_id} was in neither, asked {' and then '.join(self._order)}"
            if seen["history"]:
                return None
            time.sleep(EVERY)


def test_a_prompt_is_in_one_of_them_at_every_instant(gateway: Gateway) -> None:
    def poll(n: int) -> tuple[list[str], int]:
        with Poller(gateway.hub, history_first=n % 2 == 0) as poller:
            lost = [poller.run((n + job) % 5 * 0.02) for job in range(JOBS // POLLERS)]
            return [one for one in lost if one], poller.polls

    with ThreadPoolExecutor(POLLERS) as threads:
        results = list(threads.map(poll, range(POLLERS)))
    assert [one for lost, _ in results for one in lost] == []
    assert sum(polls for _, polls in results) > JOBS
