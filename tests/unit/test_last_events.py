"""What a client is told of the end of a prompt when no ComfyUI tells it."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from attrs import evolve
from twisted.internet.task import Clock

from comfygate.control.last_events import LastEvents, last_events
from comfygate.ledger import Ledger
from comfygate.model import JobState
from comfygate.queue import WaitingJobs
from comfygate.testing import job

ONE = evolve(job(), client_id="me")
BEGUN = evolve(ONE, attempts=1)


def said(one: Any = ONE, state: JobState = JobState.FAILED, **facts: bool) -> list[Any]:
    facts = {"told": False, "recorded": True, **facts}
    return [orjson.loads(message) for message in last_events(one, state, "lost twice", 12.5, **facts)]


def test_a_failure_by_our_decision_ends_as_comfyuis_own() -> None:
    error, nothing = said()
    assert error["type"] == "execution_error"
    # The keys of ComfyUI 0.3.64, execution.py, handle_execution_error.
    assert list(error["data"]) == [
        "prompt_id",
        "node_id",
        "node_type",
        "executed",
        "exception_message",
        "exception_type",
        "traceback",
        "current_inputs",
        "current_outputs",
        "timestamp",
    ]
    assert (error["data"]["exception_message"], error["data"]["timestamp"]) == ("lost twice", 12500)
    assert nothing == {"type": "executing", "data": {"node": None, "prompt_id": ONE.prompt_id}}
    assert said(state=JobState.UNKNOWN) == [error, nothing]


@pytest.mark.parametrize(("one", "facts"), [(BEGUN, {"recorded": False, "told": True}), (ONE, {})])
def test_what_had_begun_and_is_not_wanted_any_more_is_interrupted(one: Any, facts: dict[str, bool]) -> None:
    interrupted, nothing = said(one, JobState.CANCELLED, **facts)
    assert interrupted == {
        "type": "execution_interrupted",
        "data": {"prompt_id": one.prompt_id, "node_id": "", "node_type": "", "executed": [], "timestamp": 12500},
    }
    assert nothing["type"] == "executing"


def test_nothing_is_said_twice() -> None:
    for state in (JobState.DONE, JobState.FAILED, JobState.CANCELLED):
        assert said(BEGUN, state, told=True) == []
    assert said(state=JobState.CANCELLED, told=True, recorded=False) == []  # it has never run
    assert [message["type"] for message in said(state=JobState.UNKNOWN, told=True)] == ["executing"]


def test_the_client_is_told_after_the_change() -> None:
    clock, ledger = Clock(), Ledger([0], WaitingJobs(10, 10_000))
    sent: list[tuple[str, bytes]] = []
    ledger.subscribe(LastEvents(lambda client_id, message: sent.append((client_id, message)), ledger, clock, lambda: 1))
    for one, told in ((ONE, False), (evolve(job(), client_id=None), False), (evolve(job(), client_id="you"), True)):
        ledger.accept(one)
        ledger.assign(one.prompt_id, 0)
        ledger.end(one.prompt_id, JobState.FAILED, "lost twice", b"{}", told=told)
    assert not sent
    clock.advance(0)
    assert [client_id for client_id, _ in sent] == ["me", "me"]
