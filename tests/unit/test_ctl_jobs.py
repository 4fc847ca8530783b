"""Prompts by the beginning of their ids, and as a table."""

from __future__ import annotations

import io
from typing import Any

import pytest

from comfygate.ctl.errors import RefusedError
from comfygate.ctl.jobs import resolve, resolve_all, select, table
from comfygate.ctl.screen import Screen

IDS = ["3f2a1111-0000-4000-8000-000000000000", "3f2a2222-0000-4000-8000-000000000000", "odd id"]


def job(**fields: Any) -> dict[str, Any]:
    facts = {"prompt_id": IDS[0], "place": 0, "gate": "hub", "gpu_id": 0, "targets": [0, 1], "state": "running"}
    return {**facts, "number": 0, "attempts": 0, "deaths": 0, "client_id": None, "accepted": None, **fields}


class FakeClient:
    def __init__(self, *jobs: dict[str, Any]) -> None:
        self.asked = 0
        self._jobs = jobs

    def get(self, target: str, **query: Any) -> Any:
        self.asked += 1
        return {"time": 100.0, "gpus": [0, 1], "gates": ["gpu-0", "gpu-1", "hub"], "jobs": list(self._jobs)}


@pytest.mark.parametrize(
    ("text", "found"),
    [("3f2a1", IDS[0]), ("3F2A2", IDS[1]), (IDS[1], IDS[1]), ("odd ", "odd id"), ("odd id", "odd id")],
)
def test_a_beginning_that_is_one_prompts(text: str, found: str) -> None:
    assert resolve(text, IDS) == found


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("3f2", "too short for a prompt; give 4 characters"),
        ("", "too short"),
        ("ffff", "no prompt in the queue has an id that begins with ffff"),
        ("3f2a", f"2 prompts in the queue have an id that begins with 3f2a: {IDS[0]}, {IDS[1]}; give more"),
        ("\x1b[2J", "begins with  [2J"),
    ],
)
def test_a_beginning_that_is_not(text: str, sentence: str) -> None:
    with pytest.raises(RefusedError) as caught:
        resolve(text, IDS)
    assert sentence in str(caught.value)


def test_a_whole_id_costs_no_question() -> None:
    client = FakeClient(job())
    assert resolve_all(client, [IDS[1]]) == [IDS[1]]  # type: ignore[arg-type]
    assert client.asked == 0
    assert resolve_all(client, [IDS[1], "3f2a1"]) == [IDS[1], IDS[0]]  # type: ignore[arg-type]
    assert client.asked == 1


def test_jobs_of_a_gpu_or_of_a_port() -> None:
    queue = FakeClient(job(), job(gate="gpu-1", gpu_id=1), job(gate=None, gpu_id=1)).get("queue")
    assert len(select(queue, [])) == 3
    assert [one["gate"] for one in select(queue, ["1"])] == ["gpu-1", None]
    assert [one["gate"] for one in select(queue, ["hub"])] == ["hub"]
    assert len(select(queue, ["hub", "1"])) == 3
    with pytest.raises(RefusedError, match="there is no GPU or port '2'; GPUs are 0, 1; ports are gpu-0, gpu-1, hub"):
        select(queue, ["2"])


def shown(width: int, *jobs: dict[str, Any]) -> list[str]:
    stream = io.StringIO()
    Screen(stream, {"COLUMNS": str(width)}).show(table(jobs, 100.0, width))
    return stream.getvalue().splitlines()


def test_the_table() -> None:
    waits = job(place=12, state="waiting", number=-3.5, attempts=1, client_id="me", accepted=40.0, gate="fast")
    assert shown(140, job(), waits) == [
        " #  PROMPT                                GATE  GPU  STATE    NUMBER  TRIES  CLIENT  AGE",
        f" 0  {IDS[0]}  hub     0  running       0      -  -         -",
        f"12  {IDS[0]}  fast    0  waiting    -3.5      1  me       1m",
    ]


def test_a_narrow_table_shortens_what_may_be_shortened() -> None:
    lines = shown(80, job(client_id="c" * 200, gate="g" * 60), job(state="foreign", gate=None))
    assert max(map(len, lines)) <= 80
    assert len(lines) == 3
    assert "3f2a1111-0000 " in lines[1]
    assert "running" in lines[1]
    assert "…" in lines[1]


def test_no_text_of_a_client_is_obeyed() -> None:
    (_, line) = shown(140, job(client_id="\x1b[31m[red]x[/red]:smile:\n"))
    assert "\x1b" not in line
    assert "[red]x[/red]:smile:" in line
