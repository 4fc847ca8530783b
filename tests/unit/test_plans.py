"""Which requests a planned fault strikes."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from comfygate.simulator.plans import Countdown, Plan, read_plan


@pytest.mark.parametrize(
    ("text", "plan"),
    [
        ("die", Plan("die")),
        ("die_before", Plan("die", before=True)),
        ("queue_500:3", Plan("queue_500", nth=3)),
        ("garbage_before:*5", Plan("garbage", before=True, nth=5, again=True)),
    ],
)
def test_it_is_read(text: str, plan: Plan) -> None:
    assert read_plan(text) == plan


@pytest.mark.parametrize("text", ["", "dies", "die:0", "die:x", "die:-1", "die:*0", "_before"])
def test_what_it_is_not(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="garbage"):
        read_plan(text)


@pytest.mark.parametrize(("text", "struck"), [("die", [1]), ("die:3", [3]), ("die:*3", [3, 6])])
def test_whom_it_strikes(text: str, struck: list[int]) -> None:
    plan = read_plan(text)
    assert [count for count in range(1, 8) if plan.strikes(count)] == struck


def test_the_count_outlives_the_process(tmp_path: Path) -> None:
    plans = [read_plan("die:2"), read_plan("silent:*3")]
    memory = tmp_path / "count"
    found = [Countdown(plans, memory).next() for _ in range(6)]
    assert found == [None, plans[0], plans[1], None, None, plans[1]]


def test_without_a_plan_nothing_is_written(tmp_path: Path) -> None:
    assert Countdown((), tmp_path / "count").next() is None
    assert not (tmp_path / "count").exists()
