"""Whether every accepted prompt ended exactly once: one pure judgement over what was seen from outside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Any

from attrs import field, frozen

LAST_EVENT = "executing null"
"""What Watch calls ``executing {"node": null}``, after which a client believes that the prompt is over."""

SHOWN = 40
"""Prompts that a report shows one by one."""


class Answer(Enum):
    """What POST /prompt came to."""

    ACCEPTED = "answered 200"
    UNANSWERED = "not answered"  #: it may have been accepted
    REFUSED = "refused"


@frozen
class Sent:
    """One POST /prompt.

    :ivar gpu_id: what the answer said, if there was one.
    :ivar said: the answer's status, or why there was none.
    """

    prompt_id: str
    port: int
    answer: Answer
    gpu_id: int | None = None
    said: str = "200"


@frozen
class Entry:
    """What the journal says of a prompt that it believes to be over."""

    state: str
    reason: str | None
    attempts: int


@frozen(kw_only=True)
class Evidence:
    """What was seen.

    :ivar removed: prompts that a client took out of the queue before they ran.
    :ivar events: how often each event of a prompt arrived.
    :ivar histories: each prompt's entry in GET /history/{id}, where there is one.
    :ivar listed: on which GPUs' ports GET /history lists a prompt.
    :ivar files: output files by the prompt that is written in them; "" for none.
    :ivar journal: every row of a finished prompt; ``None`` if there is no journal.
    :ivar unfinished: prompts that the journal believes to be under way.
    :ivar left: how many prompts still run or wait.
    """

    sent: Sequence[Sent] = ()
    removed: frozenset[str] = frozenset()
    events: Mapping[str, Counter[str]] = field(factory=dict)
    histories: Mapping[str, Mapping[str, Any]] = field(factory=dict)
    listed: Mapping[str, Sequence[int]] = field(factory=dict)
    files: Mapping[str, Sequence[str]] = field(factory=dict)
    journal: Mapping[str, Sequence[Entry]] | None = None
    unfinished: frozenset[str] = frozenset()
    left: int = 0


@frozen
class End:
    """How a prompt ended: ``done``, ``failed`` or ``cancelled``, and what its /history says of the reason."""

    how: str
    reason: str = ""


@frozen
class Verdict:
    """What was found.

    :ivar ends: every prompt that ended.
    :ivar runs: how often each prompt is known to have been begun.
    :ivar problems: (prompt_id, sentence); the id is empty where none is meant.
    """

    evidence: Evidence
    ends: Mapping[str, End]
    runs: Mapping[str, int]
    problems: Sequence[tuple[str, str]]

    def count(self, how: str) -> int:
        """How many prompts ended like that."""
        return sum(end.how == how for end in self.ends.values())

    @property
    def reruns(self) -> dict[str, int]:
        """Prompts that were begun more than once, and how often."""
        return {prompt_id: runs for prompt_id, runs in self.runs.items() if runs > 1}

    def report(self) -> str:
        """What a person wants to read first."""
        answers = Counter(sent.answer for sent in self.evidence.sent)
        lines = [
            ", ".join(f"{answers[answer]} {answer.value}" for answer in Answer),
            ", ".join(f"{self.count(how)} {how}" for how in ("done", "failed", "cancelled")),
            f"{len(self.reruns)} begun more than once: "
            + (", ".join(f"{prompt_id} {runs} times" for prompt_id, runs in self.reruns.items()) or "none"),
            f"{len(self.problems)} problems" + ":" * bool(self.problems),
        ]
        lines += [f"  {prompt_id or '(no prompt)'}: {what}" for prompt_id, what in self.problems[:SHOWN]]
        for prompt_id in list(dict.fromkeys(one for one, _ in self.problems if one))[:SHOWN]:
            lines += self._all_about(prompt_id)
        return "\n".join(lines)

    def _all_about(self, prompt_id: str) -> Iterator[str]:
        seen = self.evidence
        yield f"  what is known of {prompt_id}:"
        for sent in seen.sent:
            if sent.prompt_id == prompt_id:
                yield f"    sent to port {sent.port}: {sent.answer.value} ({sent.said}), gpu_id {sent.gpu_id}"
        yield f"    end: {self.ends.get(prompt_id)}; taken out by a client: {prompt_id in seen.removed}"
        yield f"    events: {dict(seen.events.get(prompt_id, {}))}"
        yield f"    in GET /history of GPUs {list(seen.listed.get(prompt_id, ()))}"
        yield f"    files: {list(seen.files.get(prompt_id, ()))}"
        if seen.journal is not None:
            under_way = "under way" if prompt_id in seen.unfinished else "not under way"
            yield f"    journal: {list(seen.journal.get(prompt_id, ()))}, {under_way}"


def judge(evidence: Evidence, most_runs: int = 2) -> Verdict:
    """Judge what was seen after everything has come to rest.

    :param most_runs: how often a prompt may be begun.
    """
    ends = {sent.prompt_id: end for sent in evidence.sent if (end := _end(evidence, sent.prompt_id))}
    runs = {sent.prompt_id: _runs(evidence, sent.prompt_id) for sent in evidence.sent}
    problems: list[tuple[str, str]] = []
    for sent in evidence.sent:
        found = _of_one(evidence, sent, ends.get(sent.prompt_id), runs[sent.prompt_id], most_runs)
        problems += [(sent.prompt_id, problem) for problem in found]
    problems += [("", problem) for problem in _of_all(evidence)]
    return Verdict(evidence, ends, runs, problems)


def _end(evidence: Evidence, prompt_id: str) -> End | None:
    entry = evidence.histories.get(prompt_id)
    if entry is None:
        return End("cancelled") if prompt_id in evidence.removed else None
    status = entry.get("status") or {}
    messages = {message[0]: message[-1] for message in status.get("messages") or []}
    if status.get("status_str") == "success":
        return End("done")
    if "execution_interrupted" in messages:
        return End("cancelled")
    return End("failed", str(messages.get("execution_error", {}).get("exception_message", "")).strip())


def _runs(evidence: Evidence, prompt_id: str) -> int:
    begun = evidence.events.get(prompt_id, Counter[str]())["execution_start"]
    noted = [entry.attempts for entry in (evidence.journal or {}).get(prompt_id, ())]
    # The last run is no lost attempt, unless it was the one that was too much.
    return max(begun, *(attempts + 1 for attempts in noted), 0) if noted else begun


def _of_one(evidence: Evidence, sent: Sent, end: End | None, runs: int, most_runs: int) -> Iterator[str]:
    files = evidence.files.get(sent.prompt_id, ())
    if sent.answer is Answer.REFUSED:
        if end is not None or files:
            yield f"was refused ({sent.said}), but ran"
        return
    if sent.answer is Answer.ACCEPTED and end is None:
        yield "is lost: it was answered 200 and neither ended nor was removed"
    yield from _ended_once(evidence, sent.prompt_id, end)
    yield from _files_fit(evidence, sent.prompt_id, end, files, most_runs)
    if runs > most_runs and not (end and end.how == "failed"):
        yield f"was begun {runs} times"


def _ended_once(evidence: Evidence, prompt_id: str, end: End | None) -> Iterator[str]:
    if end is not None and end.how == "failed" and not end.reason:
        yield "failed without a reason"
    if len(evidence.listed.get(prompt_id, ())) > 1:
        yield "is in the history of several GPUs"
    told = evidence.events.get(prompt_id, Counter[str]())
    if told[LAST_EVENT] > 1:
        yield f"its client was told {told[LAST_EVENT]} times that it is over"
    if end is not None and end.how == "failed" and told["execution_success"]:
        yield "failed, but its client was told that it succeeded"
    if evidence.journal is None:
        return
    if end is not None and len(evidence.journal.get(prompt_id, ())) != 1:
        yield f"has {len(evidence.journal.get(prompt_id, ()))} ends in the journal"
    if prompt_id in evidence.unfinished:
        yield "is under way for ever, says the journal"
    yield from _journal_agrees(evidence.journal.get(prompt_id, ()), end)


def _journal_agrees(entries: Sequence[Entry], end: End | None) -> Iterator[str]:
    for entry in entries:
        # Whoever lost sight of a prompt tells clients that it failed.
        how = "failed" if entry.state == "unknown" else entry.state
        if end is not None and how != end.how:
            yield f"is {end.how} in /history and {entry.state} in the journal"
        if how == "failed" and not entry.reason:
            yield "failed without a reason in the journal"


def _files_fit(
    evidence: Evidence, prompt_id: str, end: End | None, files: Sequence[str], most_runs: int
) -> Iterator[str]:
    if len(files) > most_runs:
        yield f"has {len(files)} output files"
    if end is None or end.how != "done":
        return
    named = [
        image["filename"]
        for output in evidence.histories[prompt_id].get("outputs", {}).values()
        for image in output.get("images", ())
    ]
    if not named:
        yield "is done, but its history names no file"
    if not set(named) <= set(files):
        yield f"its history names {named}, but its files are {list(files)}"


def _of_all(evidence: Evidence) -> Iterator[str]:
    if evidence.left:
        yield f"{evidence.left} prompts still run or wait"
    known = {sent.prompt_id for sent in evidence.sent}
    twice = [prompt_id for prompt_id, count in Counter(one.prompt_id for one in evidence.sent).items() if count > 1]
    if twice:
        yield f"the test sent {twice} twice"
    for prompt_id in evidence.files.keys() - known:
        yield f"the files {list(evidence.files[prompt_id])} belong to no prompt of this test ({prompt_id or 'no id'})"
