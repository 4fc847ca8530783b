"""Requests that break a ComfyUI: why a gate looks at prompts before it passes them on.

Each test breaks an instance of its own, so none of them runs against a gate.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.contract.comfyui_client import Target
from tests.contract.conftest import DIRECT
from tests.contract.sample_prompts import save, slow


@pytest.fixture(params=list(DIRECT))
def fresh(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Target]:
    with DIRECT[request.param](tmp_path) as started:
        yield started


@pytest.mark.parametrize("client_id", [[], {}])
def test_a_client_id_that_is_no_text_ends_the_process(fresh: Target, client_id: Any) -> None:
    # The answer 200 comes where it leaves before the end.
    with contextlib.suppress(OSError, http.client.HTTPException):
        assert fresh.post("/prompt", {"prompt": save(), "client_id": client_id}).status == 200
    with pytest.raises((OSError, http.client.HTTPException)):
        fresh.until("/prompt", lambda seen: False)


def test_what_breaks_the_worker_leaves_a_zombie(fresh: Target) -> None:
    """HTTP answers, the broken job seems to run, and nothing ever runs again."""
    broken: list[dict[str, Any]] = [
        {"prompt": save(), "extra_data": None},
        {"prompt": save(), "extra_data": 5},
        {"prompt": save() | {"3": {"class_type": "EmptyImage"}}},
        {"prompt": save() | {"3": {"class_type": "EmptyImage", "inputs": None}}},
    ]
    first = fresh.queue(**broken[0])
    fresh.until("/queue", lambda queue: [item[1] for item in queue["queue_running"]] == [first])
    for body in broken[1:]:
        fresh.queue(**body)
    last = fresh.queue(save())
    with pytest.raises(AssertionError, match="has not ended"):
        fresh.wait(last, limit=1.0)
    queue = fresh.get("/queue").json
    assert [len(queue["queue_running"]), len(queue["queue_pending"])] == [1, len(broken)]


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": save(), "extra_data": 5},
        {"prompt": save() | {"3": {"class_type": "EmptyImage"}}},
        {"prompt": save() | {"3": {"class_type": "EmptyImage", "inputs": []}}},
    ],
)
def test_each_of_these_is_enough(fresh: Target, body: dict[str, Any]) -> None:
    broken = fresh.queue(**body)
    with pytest.raises(AssertionError, match="has not ended"):
        fresh.wait(broken, limit=0.5)
    assert [item[1] for item in fresh.get("/queue").json["queue_running"]] == [broken]


def test_the_same_number_and_id_is_an_error_and_yet_queued(fresh: Target) -> None:
    fresh.queue(slow(6))
    fresh.until("/queue", lambda queue: queue["queue_running"])
    same = {"number": 5, "prompt_id": str(uuid.uuid4())}
    fresh.queue(save(), **same)
    assert fresh.post("/prompt", {"prompt": save(), **same}).status == 500
    pending = fresh.get("/queue").json["queue_pending"]
    assert [item[1] for item in pending] == [same["prompt_id"]] * 2
    fresh.post("/interrupt")
    fresh.until("/prompt", lambda seen: seen["exec_info"]["queue_remaining"] == 0)


def test_a_number_that_is_none_makes_the_queue_unreadable(fresh: Target) -> None:
    fresh.queue(slow(6))
    fresh.until("/queue", lambda queue: queue["queue_running"])
    body = json.dumps({"prompt": save(), "number": float("nan")}).encode()
    assert fresh.post("/prompt", body).status == 200
    assert b'"queue_pending": [[NaN, ' in fresh.get("/queue").body
