"""What entries of ComfyUI's history say, and what ours do."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from attrs import evolve

from comfygate.history import Outcome, encoded, ended_at, failed_entry, outcome, refusal
from comfygate.model import JobState
from comfygate.testing import job

BROKEN = {"node_type": "KSampler", "exception_type": "torch.OutOfMemoryError", "exception_message": "Out of\n memory"}


@pytest.mark.parametrize(
    ("entry", "state", "reason"),
    [
        ({"status": {"status_str": "success"}}, JobState.DONE, None),
        ({"status": {"status_str": "error", "messages": [["execution_error", {}]]}}, JobState.FAILED, None),
        (
            {"status": {"status_str": "error", "messages": [["execution_start", {}], ["execution_error", BROKEN]]}},
            JobState.FAILED,
            "KSampler: torch.OutOfMemoryError: Out of memory",
        ),
        ({"status": {"status_str": "error", "messages": [["execution_interrupted", {}]]}}, JobState.CANCELLED, None),
        ({}, JobState.FAILED, None),
        ({"status": None}, JobState.FAILED, None),
        ({"status": {"messages": [[], ["execution_error"], ["execution_error", 5]]}}, JobState.FAILED, None),
    ],
)
def test_how_a_history_entry_says_that_a_job_ended(entry: dict[str, Any], state: JobState, reason: str | None) -> None:
    assert outcome(entry) == Outcome(state, reason)


def test_our_own_entry_reads_as_a_failure_with_its_reason() -> None:
    one = evolve(job(), item=b'[1,"id",{},{},["9"]]')
    entry = orjson.loads(failed_entry(one, "lost 2 times", 12.5))
    assert set(entry) == {"prompt", "outputs", "status", "meta"}
    assert entry["prompt"] == [1, "id", {}, {}, ["9"]]
    assert outcome(entry) == Outcome(JobState.FAILED, "ComfyGate: lost 2 times")
    assert ended_at(entry) == 12.5


def test_the_end_of_an_entry_is_that_of_its_last_message() -> None:
    messages = [["execution_start", {"timestamp": 1000}], ["execution_success", {"timestamp": 3000}]]
    assert ended_at({"status": {"messages": messages}}) == 3.0
    assert ended_at({"status": None}) == 0.0
    assert ended_at({"status": {"messages": [[], ["odd", "text"], ["odd", {"timestamp": "x"}]]}}) == 0.0


def test_numbers_that_orjson_does_not_write() -> None:
    assert encoded({"seed": 2**70}) == b'{"seed": 1180591620717411303424}'


def test_why_comfyui_refused_a_prompt_fits_on_one_line() -> None:
    errors = [{"message": "Value not in list", "details": "ckpt_name: 'a'\n not in []"}]
    told = {
        "error": {"message": "Prompt outputs failed validation", "details": ""},
        "node_errors": {"4": {"errors": errors}},
    }
    said = "Prompt outputs failed validation; Value not in list: ckpt_name: 'a' not in []"
    assert refusal(orjson.dumps(told)) == said
    assert refusal(b"<h1>no\xff</h1>") == "<h1>no\ufffd</h1>"
    assert refusal(b"[]") == "[]"


def test_a_name_of_a_file_that_is_no_utf8_does_not_spoil_the_reason() -> None:
    error = {"node_type": "LoadImage", "exception_type": "OSError", "exception_message": "caf\udce9.png"}
    entry = {"status": {"status_str": "error", "messages": [["execution_error", error]]}}
    assert outcome(entry) == Outcome(JobState.FAILED, "LoadImage: OSError: caf\\udce9.png")
