"""All GPUs at a glance, on screens of any width."""

from __future__ import annotations

import io
from typing import Any

import orjson
import pytest
from rich.cells import cell_len

from comfygate.ctl.fleet import done, picture
from comfygate.ctl.screen import Screen
from comfygate.model import BackendState, JobState, Progress
from tests.unit.telemetry import Observed

LONG = "ended 5 times in a row before it was ready, the last time with: exit status 1; the last line of /a/b/c: no GPU"


def status(observed: Observed, **changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(observed.status.dated(observed.status.encoded()))
    return {**found, **changes}


def shown(status: dict[str, Any], width: int, terminal: bool = False) -> list[str]:
    stream = io.StringIO()
    stream.isatty = lambda: terminal  # type: ignore[method-assign]
    screen = Screen(stream, {"COLUMNS": str(width), "TERM": "xterm-256color"})
    screen.show(picture(status, screen.width))
    return stream.getvalue().splitlines()


@pytest.fixture
def observed() -> Observed:
    """Eight GPUs with long names: one busy, one drained, one given up."""
    one = Observed(8)
    for backend in one.backends:
        backend.name = "NVIDIA RTX PRO 6000 Blackwell Workstation Edition"
    (job,) = one.accept("3f2a1111-0000-4000-8000-000000000000")
    one.ledger.hold(one.ledger.assign(job.prompt_id, 0).job, 0, JobState.RUNNING)
    progress = Progress(prompt_id=job.prompt_id, node="5", node_type="KSampler", value=5, max=20)
    one.backends[0].progress = Progress(**{**_fields(progress), "nodes_done": 1, "nodes_total": 2})
    one.clock.advance(150)
    one.books.draining.add(2)
    one.backends[3].last_error = LONG
    one.backends[3].become(BackendState.FAILED)
    return one


def _fields(progress: Progress) -> dict[str, Any]:
    return {name: getattr(progress, name) for name in ("prompt_id", "node", "node_type", "value", "max")}


def test_a_wide_screen_has_all_in_one_table(observed: Observed) -> None:
    lines = shown(status(observed), 160)
    assert lines[0].split() == [
        *("GPU", "NAME", "STATE", "PORT", "RUNNING", "PROGRESS", "PENDING", "SINCE", "RESTARTS", "LAST", "ERROR"),
    ]
    assert "3f2a1111   62% KSampler 5/20" in lines[1]
    assert " 8181 " in lines[1]
    assert " 2m " in lines[1]
    assert " draining " in lines[3]
    failed = next(number for number, line in enumerate(lines) if " failed " in line)
    assert "ended 5 times" in lines[failed]
    assert any(line.startswith("totals   7 of 8 ready; 1 running, 0 pending (0 of at most 100 wait") for line in lines)
    assert "journal  off" in lines
    assert "ports    hub 8181 (GPUs 0 to 7); 63 WebSocket clients on all" in lines


@pytest.mark.parametrize("width", [60, 80, 100, 119, 120, 140, 200])
def test_nothing_is_wider_than_the_screen(observed: Observed, width: int) -> None:
    lines = shown(status(observed), width)
    assert max(map(cell_len, lines)) <= width
    if width >= 80:
        assert "3f2a1111" in lines[1]
        assert "KSampler" in lines[1]
        assert "8181" in lines[1]
        assert "NVIDIA" in lines[1]


def test_a_narrow_screen_has_a_line_for_each_gpu_and_the_errors_below(observed: Observed) -> None:
    lines = shown(status(observed), 80)
    assert [line.split()[0] for line in lines[1:9]] == [str(n) for n in range(8)]
    first = next(number for number, line in enumerate(lines) if line.startswith("GPU 3 "))
    assert " ".join(" ".join(line.split()) for line in lines[first:]).removeprefix("GPU 3 ") == LONG


def test_a_journal_that_fails_says_why(observed: Observed) -> None:
    lines = shown(status(observed, journal={"state": "failing", "error": "the disk is full"}), 140)
    assert "journal  failing: the disk is full" in lines


def test_a_state_and_a_drain(observed: Observed) -> None:
    observed.books.draining.add(3)
    assert any("failed, draining" in line for line in shown(status(observed), 140))


def test_colours_are_for_terminals(observed: Observed) -> None:
    assert "\x1b" not in "".join(shown(status(observed), 140))
    assert "\x1b[" in "".join(shown(status(observed), 140, terminal=True))


@pytest.mark.parametrize("width", [80, 140])
def test_no_text_of_others_is_obeyed(observed: Observed, width: int) -> None:
    observed.backends[1].name = "\x1b]0;x\x07[bold]n"
    observed.backends[3].last_error = "[red]\x1b[2J\r\nend"
    lines = shown(status(observed), width)
    assert not any(c for line in lines for c in line if not c.isprintable())
    assert "[red] [2J  end" in "\n".join(lines)


@pytest.mark.parametrize(
    ("fields", "share"),
    [
        ({}, None),
        ({"nodes_done": 1, "nodes_total": 4}, 0.25),
        ({"nodes_done": 1, "nodes_total": 4, "value": 1, "max": 2}, 0.375),
        ({"nodes_done": 4, "nodes_total": 4, "value": 2, "max": 2}, 1.0),
        ({"nodes_done": 1, "nodes_total": 0}, None),
        ({"nodes_done": 1, "nodes_total": 2, "value": 1, "max": 0}, 0.5),
    ],
)
def test_how_much_is_done(fields: dict[str, Any], share: float | None) -> None:
    assert done(fields) == share
