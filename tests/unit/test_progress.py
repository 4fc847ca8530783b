"""What the companion tells of a running prompt, and how the daemon reads it."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from comfygate.backend.monitor import LONGEST_NAME, progress_of
from comfygate.companion.custom_nodes.comfygate_companion.listening import Teller
from comfygate.companion.custom_nodes.comfygate_companion.progress import INTERVAL, MESSAGE, Steps, needed
from comfygate.model import Progress

PROMPT: dict[str, Any] = {
    "1": {"class_type": "Load", "inputs": {"name": "x"}},
    "2": {"class_type": "KSampler", "inputs": {"model": ["1", 0], "steps": 20, "list": [1, 2]}},
    "9": {"class_type": "SaveImage", "inputs": {"images": ["2", 0]}},
    "7": {"class_type": "Unused", "inputs": {}},
}


class Run:
    """A ComfyUI that runs PROMPT as p, and nothing else."""

    def __init__(self) -> None:
        self.now = 100.0
        self.steps = Steps(lambda prompt_id: (PROMPT, ["9"]) if prompt_id == "p" else None, lambda: self.now)

    def __call__(self, event: Any, **data: Any) -> Any:
        return self.steps.event(event, {"prompt_id": "p", **data})

    def state(self, **nodes: tuple[str, float, float]) -> Any:
        return self(
            "progress_state",
            nodes={
                node[1:]: {"state": state, "value": value, "max": most, "node_id": node[1:]}
                for node, (state, value, most) in nodes.items()
            },
        )


def test_only_what_is_needed_counts() -> None:
    assert needed(PROMPT, ["9"]) == {"1", "2", "9"}
    assert needed(PROMPT, ["1", "gone"]) == {"1"}
    loop = {"1": {"inputs": {"a": ["2", 0]}}, "2": {"inputs": {"a": ["1", 0]}}}
    assert needed(loop, ["1"]) == {"1", "2"}


def test_a_whole_run() -> None:
    run = Run()
    first = run("execution_start")
    assert (first["node"], first["nodes_done"], first["nodes_total"], first["ended"]) == (None, 0, 3, False)
    assert run("execution_cached", nodes=["1", "7"]) is None
    at = run.state(_2=("running", 0, 1))
    assert (at["node"], at["node_type"], at["nodes_done"]) == ("2", "KSampler", 1)
    run.now += INTERVAL
    on = run.state(_2=("running", 5, 20))
    assert (on["value"], on["max"]) == (5, 20)
    next_node = run.state(_2=("finished", 20, 20), _9=("running", 0, 1))
    assert (next_node["node"], next_node["node_type"], next_node["nodes_done"]) == ("9", "SaveImage", 2)
    run.state(_2=("finished", 20, 20), _9=("finished", 1, 1))
    end = run("execution_success")
    assert (end["ended"], end["node"], end["nodes_done"], end["prompt_id"]) == (True, None, 3, "p")
    assert run("executing", node=None) is None
    assert run("execution_start")["nodes_done"] == 0


def test_values_are_told_four_times_a_second_at_most() -> None:
    run = Run()
    run("execution_start")
    told = []
    for step in range(1000):
        run.now += 0.01
        told.append(run.state(_2=("running", step, 1000)))
    assert 30 <= sum(message is not None for message in told) <= 41


def test_an_older_comfyui_without_states() -> None:
    run = Run()
    run("execution_start")
    assert run("executing", node="2", display_node="2")["node_type"] == "KSampler"
    run.now += INTERVAL
    message = run("progress", node="2", value=3, max=20)
    assert (message["node"], message["value"], message["max"]) == ("2", 3, 20)
    assert run("executing", node=None)["ended"] is True


def test_a_node_in_the_place_of_another() -> None:
    run = Run()
    run("execution_start")
    assert run("progress", node="2.0.1", value=1, max=2)["node"] == "2"


def test_a_prompt_that_nobody_knows() -> None:
    run = Run()
    message = run("execution_start", prompt_id="q")
    assert run("execution_start", prompt_id="q") is None
    assert (message["prompt_id"], message["nodes_total"], message["nodes_done"]) == ("q", None, None)


@pytest.mark.parametrize(
    ("event", "data"),
    [
        ("status", {"status": {}}),
        (1, b"picture"),
        ("progress", None),
        ("progress", {"prompt_id": None}),
        ("executed", {"prompt_id": "p"}),
    ],
)
def test_what_does_not_matter(event: Any, data: Any) -> None:
    assert Run().steps.event(event, data) is None


def test_only_monitors_are_told_and_a_fault_disturbs_nobody(caplog: pytest.LogCaptureFixture) -> None:
    sent: list[tuple[str, Any, str]] = []
    clients = ["me", "comfygate-1", None, 5]
    teller = Teller(MESSAGE, Run().steps.event, lambda *message: sent.append(message), lambda: clients)
    teller.heard("execution_start", {"prompt_id": "p"})
    assert [(type, client) for type, _, client in sent] == [("comfygate.progress", "comfygate-1")]
    for _ in range(3):
        teller.heard("progress_state", {"prompt_id": "p", "nodes": {"2": None}})
    assert caplog.text.count("comfygate.progress is not told any more") == 1
    assert len(sent) == 1


class Odd:
    def __float__(self) -> float:
        return float("nan")


def test_odd_numbers_become_none() -> None:
    run = Run()
    message = run("progress", node="2", value=Odd(), max="many")
    assert (message["value"], message["max"]) == (None, None)


def said(**changes: Any) -> bytes:
    run = Run()
    run("execution_start")
    run("execution_cached", nodes=["1"])
    message = run.state(_2=("running", 4, 20)) | changes
    return orjson.dumps({"type": "comfygate.progress", "data": message})


def test_the_daemon_reads_what_the_companion_says() -> None:
    assert progress_of(said()) == Progress(
        prompt_id="p", node="2", node_type="KSampler", value=4.0, max=20.0, nodes_done=1, nodes_total=3
    )
    assert progress_of(said(ended=True)) is None
    long = progress_of(said(node="x" * 10_000))
    assert long is not None
    assert long.node == "x" * LONGEST_NAME


@pytest.mark.parametrize(
    "message", [b"", b"[]", b'{"data": 5}', b'{"data": {}}', said(prompt_id=None), said(node=["x"])]
)
def test_the_daemon_is_not_disturbed(message: bytes) -> None:
    with pytest.raises(ValueError, match="no progress"):
        progress_of(message)
