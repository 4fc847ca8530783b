"""The judge of the fault suite: it sees what is wrong, and only that."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from attrs import evolve

from tests.faults.verdict import LAST_EVENT, Answer, Entry, Evidence, Sent, judge

DONE = {
    "status": {"status_str": "success", "completed": True, "messages": []},
    "outputs": {"9": {"images": [{"filename": "a.png"}]}},
}
INTERRUPTED = {"status": {"status_str": "error", "messages": [["execution_interrupted", {}]]}, "outputs": {}}


def failed(reason: str) -> dict[str, Any]:
    messages = [["execution_error", {"exception_message": reason}]]
    return {"status": {"status_str": "error", "messages": messages}, "outputs": {}}


WHOLE = Evidence(
    sent=[Sent("x", 1, Answer.ACCEPTED, 0), Sent("y", 1, Answer.UNANSWERED), Sent("z", 1, Answer.REFUSED)],
    events={"x": Counter({"execution_start": 1, "execution_success": 1, LAST_EVENT: 1})},
    histories={"x": DONE},
    listed={"x": [0]},
    files={"x": ["a.png"]},
    journal={"x": [Entry("done", None, 0)]},
)


def problems(**changes: Any) -> list[str]:
    return [what for _, what in judge(evolve(WHOLE, **changes)).problems]


def test_what_is_well_is_well() -> None:
    verdict = judge(WHOLE)
    assert not verdict.problems
    assert verdict.count("done") == 1
    assert not verdict.reruns
    assert problems(journal=None) == []


def test_all_three_ends_are_ends() -> None:
    cancelled = {"files": {}, "events": {}}
    assert problems(histories={"x": INTERRUPTED}, journal={"x": [Entry("cancelled", None, 0)]}, **cancelled) == []
    removed = {"removed": frozenset("x"), "listed": {}}
    assert problems(histories={}, journal={"x": [Entry("cancelled", None, 0)]}, **removed, **cancelled) == []
    gone = {"x": [Entry("unknown", "nobody knows", 0)]}
    assert problems(histories={"x": failed("nobody knows")}, journal=gone, **cancelled) == []


def test_who_had_no_answer_may_have_been_accepted() -> None:
    journal = {"x": [Entry("done", None, 0)], "y": [Entry("done", None, 0)]}
    histories = {"x": DONE, "y": evolve_name("b.png")}
    assert problems(histories=histories, journal=journal, files={"x": ["a.png"], "y": ["b.png"]}) == []


def evolve_name(name: str) -> dict[str, Any]:
    return {**DONE, "outputs": {"9": {"images": [{"filename": name}]}}}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"histories": {}, "journal": {}}, "is lost"),
        ({"histories": {"x": failed(" ")}, "journal": {"x": [Entry("failed", "why", 0)]}}, "failed without a reason"),
        ({"histories": {"x": failed("e")}, "journal": {"x": [Entry("failed", "", 0)]}}, "without a reason in the"),
        ({"histories": {"x": failed("e")}, "journal": None}, "told that it succeeded"),
        ({"listed": {"x": [0, 1]}}, "several GPUs"),
        ({"events": {"x": Counter({LAST_EVENT: 2})}}, "told 2 times"),
        ({"events": {"x": Counter({"execution_start": 3})}}, "begun 3 times"),
        ({"journal": {"x": [Entry("done", None, 2)]}}, "begun 3 times"),
        ({"journal": {}}, "has 0 ends in the journal"),
        ({"journal": {"x": 2 * [Entry("done", None, 0)]}}, "has 2 ends in the journal"),
        ({"journal": {"x": [Entry("cancelled", None, 0)]}}, "done in /history and cancelled"),
        ({"unfinished": frozenset("x")}, "under way for ever"),
        ({"files": {"x": ["a.png", "b.png", "c.png"]}}, "has 3 output files"),
        ({"files": {"x": ["b.png"]}}, "its history names ['a.png']"),
        ({"files": {"x": ["a.png"], "z": ["c.png"]}}, "was refused"),
        ({"files": {"x": ["a.png"], "": ["c.png"]}}, "belong to no prompt"),
        ({"left": 1}, "still run or wait"),
        ({"sent": 2 * [Sent("x", 1, Answer.ACCEPTED, 0)]}, "sent ['x'] twice"),
    ],
)
def test_it_sees(changes: dict[str, Any], words: str) -> None:
    assert any(words in problem for problem in problems(**changes)), problems(**changes)


def test_a_person_can_read_what_is_wrong() -> None:
    report = judge(evolve(WHOLE, histories={}, journal={})).report()
    assert "1 answered 200, 1 not answered, 1 refused" in report
    assert "x: is lost" in report
    assert "sent to port 1" in report
    assert "'execution_success': 1" in report
