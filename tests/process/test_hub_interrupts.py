"""Interrupting one prompt never touches the one that follows, at whatever moment it comes."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.gateway import Gateway, eventually, request, running, workflow

ROUNDS = int(os.environ.get("COMFYGATE_INTERRUPT_ROUNDS", "150"))
LONGEST = 0.2


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running(tmp_path_factory.mktemp("interrupts"), "rate = 0\n", gpus=4) as one:
        yield one


def submit(gateway: Gateway, seconds: float, gpu_id: int | None) -> str:
    headers = {} if gpu_id is None else {"X-Target-GPU": str(gpu_id)}
    answer = request(gateway.hub, "POST", "/prompt", {"prompt": workflow(seconds)}, headers)
    assert answer.status == 200, answer
    return str(answer.json()["prompt_id"])


def ended(gateway: Gateway, prompt_id: str) -> Any:
    return eventually(lambda: request(gateway.hub, "GET", f"/history/{prompt_id}").json().get(prompt_id), every=0.01)


def one_round(gateway: Gateway, gpu_id: int, dice: random.Random) -> tuple[str, str]:
    """X runs, Y follows on the same GPU or on any, X is interrupted at some moment; how both ended."""
    x = submit(gateway, 0.15, gpu_id)
    y = submit(gateway, 0.05, gpu_id if dice.random() < 0.7 else None)
    time.sleep(dice.random() * LONGEST)
    told = request(gateway.hub, "POST", "/interrupt", {"prompt_id": x})
    assert told.status == 200, told
    end_of_y = ended(gateway, y)["status"]["status_str"]
    if told.json()["state"] == "pending":
        return "removed", end_of_y
    return ended(gateway, x)["status"]["status_str"], end_of_y


def test_whatever_follows_is_never_interrupted(gateway: Gateway) -> None:
    def rounds(gpu_id: int) -> list[tuple[str, str]]:
        dice = random.Random(gpu_id)
        return [one_round(gateway, gpu_id, dice) for _ in range(ROUNDS // 4 + 1)]

    with ThreadPoolExecutor(4) as threads:
        results = [one for some in threads.map(rounds, range(4)) for one in some]
    assert len(results) >= ROUNDS
    assert {end_of_y for _, end_of_y in results} == {"success"}
    ends = [end_of_x for end_of_x, _ in results]
    assert ends.count("error") > len(ends) // 10 and ends.count("success") > 0
