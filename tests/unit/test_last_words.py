from __future__ import annotations

from typing import Any

import orjson
from attrs import evolve

from comfygate.history import Outcome, outcome
from comfygate.last_words import LastWords
from comfygate.model import Job, JobState
from comfygate.testing import job


def event(kind: str, **data: Any) -> tuple[bytes, bytes]:
    return kind.encode(), orjson.dumps({"type": kind, "data": data})


def made() -> Job:
    return evolve(job(), item=b'[1,"id",{},{},["9"]]')


IMAGES = {"images": [{"filename": "a.png", "subfolder": "", "type": "output"}]}


def test_a_success_that_was_told_has_its_outputs() -> None:
    heard, one = LastWords(), made()
    assert heard.hear(*event("executed", node="9", output=IMAGES, prompt_id=one.prompt_id)) is None
    assert heard.entry(one) is None
    assert heard.hear(*event("execution_success", prompt_id=one.prompt_id, timestamp=5)) == one.prompt_id
    entry = heard.entry(one)
    assert entry is not None
    assert entry["outputs"] == {"9": IMAGES}
    assert entry["prompt"] == [1, "id", {}, {}, ["9"]]
    assert outcome(entry) == Outcome(JobState.DONE)


def test_an_error_that_was_told_has_its_reason() -> None:
    heard, one = LastWords(), made()
    heard.hear(*event("execution_error", prompt_id=one.prompt_id, node_type="KSampler", exception_message="boom"))
    entry = heard.entry(one)
    assert entry is not None
    assert outcome(entry) == Outcome(JobState.FAILED, "KSampler: boom")


def test_what_is_too_long_to_keep_is_no_last_words() -> None:
    heard, one = LastWords(), made()
    for node in range(3):
        heard.hear(*event("executed", node=str(node), output={"text": "x" * 500_000}, prompt_id=one.prompt_id))
    heard.hear(*event("execution_success", prompt_id=one.prompt_id))
    assert heard.entry(one) is None


def test_only_so_many_prompts_are_remembered() -> None:
    heard = LastWords()
    first = made()
    heard.hear(*event("execution_success", prompt_id=first.prompt_id))
    for _ in range(1_000):
        heard.hear(*event("execution_success", prompt_id=made().prompt_id))
    assert heard.entry(first) is None


def test_odd_messages_say_nothing() -> None:
    heard = LastWords()
    for payload in (b"", b"[]", b'{"data": []}', b'{"data": {"prompt_id": 5}}', b'{"data": {}}'):
        assert heard.hear(b"execution_success", payload) is None


def test_a_prompt_that_runs_anew_is_heard_anew() -> None:
    heard, one = LastWords(), made()
    heard.hear(*event("execution_success", prompt_id=one.prompt_id))
    heard.forget(one.prompt_id)
    assert heard.entry(one) is None
