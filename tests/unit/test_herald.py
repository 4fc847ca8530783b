"""What the daemon says when it has begun."""

from __future__ import annotations

from pathlib import Path

import pytest
from twisted.logger import capturedLogs, formatEvent

from comfygate.config.settings import parse
from comfygate.herald import Herald
from comfygate.model import BackendState
from comfygate.plan import Plan, make_plan
from tests.unit.fakes import FakeBackend

READY, STARTING, DOWN, FAILED, STOPPING = (
    BackendState.READY,
    BackendState.STARTING,
    BackendState.DOWN,
    BackendState.FAILED,
    BackendState.STOPPING,
)


def plan(tmp_path: Path, text: str = "") -> Plan:
    text = f"[comfygate]\ncomfyui = simulator\ndevices = cpu*3\nstate_dir = {tmp_path}/my state\n{text}"
    return make_plan(parse(text, filename="gpus.ini", environ={"HOME": str(tmp_path)}, here="/"))


def said(plan: Plan, *changes: tuple[int, BackendState]) -> list[str]:
    """What is said after these changes."""
    backends = [FakeBackend(gpu_id) for gpu_id in plan.gpu_ids]
    herald = Herald(plan)
    for backend in backends:
        backend.subscribe(herald)
    with capturedLogs() as events:
        for gpu_id, state in changes:
            backends[gpu_id].become(state)
    return [str(formatEvent(event)) for event in events]


def test_the_addresses_are_said_once_when_all_answer(tmp_path: Path) -> None:
    changes = [(0, STARTING), (0, READY), (1, READY)]
    one = plan(tmp_path, "[gate:fast]\nport = 8190\ngpus = 1\n")
    assert said(one, *changes) == []
    assert said(one, *changes, (2, READY), (1, DOWN), (1, STARTING), (1, READY)) == [
        "ComfyGate is ready:\n"
        "    http://127.0.0.1:8181/  GPU 0\n"
        "    http://127.0.0.1:8182/  GPU 1\n"
        "    http://127.0.0.1:8183/  GPU 2\n"
        "    http://127.0.0.1:8188/  hub: GPUs 0, 1, 2\n"
        "    http://127.0.0.1:8190/  fast: GPU 1\n"
        f"    comfygatectl --state-dir '{tmp_path}/my state'  looks after it"
    ]


@pytest.mark.parametrize("state", [DOWN, FAILED])
def test_a_gpu_that_cannot_start_does_not_keep_the_addresses_back(state: BackendState, tmp_path: Path) -> None:
    (text,) = said(plan(tmp_path), (1, state), (0, READY), (2, READY))
    assert text.startswith("ComfyGate is ready, but for GPU 1:\n    http://127.0.0.1:8181/  GPU 0\n")
    (text,) = said(plan(tmp_path), (1, state), (0, READY), (2, state))
    assert text.startswith("ComfyGate is ready, but for GPUs 1, 2:\n")
    (text,) = said(plan(tmp_path), (1, state), (0, state), (2, state))
    assert text.startswith("ComfyGate listens, but no GPU is ready:\n    http://127.0.0.1:8181/  GPU 0\n")


def test_one_that_came_up_after_all_counts_as_ready(tmp_path: Path) -> None:
    (text,) = said(plan(tmp_path), (1, DOWN), (0, READY), (1, READY), (2, READY))
    assert text.startswith("ComfyGate is ready:\n")


def test_nothing_is_said_when_it_ends_before_it_has_begun(tmp_path: Path) -> None:
    assert said(plan(tmp_path), (0, READY), (1, STOPPING), (2, STOPPING)) == []
