"""Whose prompts are whose, and which ends were missed."""

from __future__ import annotations

import itertools
import json
from typing import Any

import orjson
import pytest
from twisted.internet.task import Clock

from comfygate.aliases import Aliases
from comfygate.ledger import Ledger
from comfygate.model import Job, JobState
from comfygate.outbox import Message
from comfygate.queue import WaitingJobs
from comfygate.stream.endings import ending
from comfygate.stream.roll import Change, Roll

ALIASES = Aliases(b"s" * 32)


class World:
    def __init__(self) -> None:
        self.clock = Clock()
        self.ledger = Ledger((0, 1), WaitingJobs(5_000, 2**30))
        self.roll = Roll(self.ledger, ALIASES, self.clock.seconds, lambda: 1e9)
        self.ledger.subscribe(self.roll)
        self.changes: list[Change] = []
        self.sequence = itertools.count(1)

    def accept(self, prompt_id: str, client_id: str | None = "me", alias: str | None = None) -> Job:
        known = alias or ALIASES.inside(client_id or "")
        job = Job(
            prompt_id=prompt_id,
            number=0,
            sequence=next(self.sequence),
            gate="hub",
            targets=frozenset({0, 1}),
            expected=0,
            client_id=client_id,
            submission=orjson.dumps({"client_id": known}),
        )
        self.ledger.accept(job)
        return job

    def run(self, prompt_id: str, gpu_id: int = 0) -> None:
        job = self.ledger.assign(prompt_id, gpu_id).job
        self.ledger.hold(job, gpu_id, JobState.RUNNING)

    def listen(self) -> list[str]:
        return [prompt_id for prompt_id, _ in self.roll.listen("me", self.changes.append)]

    def leave(self, *untold: str) -> None:
        self.roll.leave("me", self.changes.append, [(one, ()) for one in untold])


def kinds(messages: Any) -> list[str]:
    return [json.loads(one.payload)["type"] for one in messages]


def test_prompts_belong_to_clients_as_long_as_they_last() -> None:
    world = World()
    world.accept("a")
    world.accept("b", "you")
    assert world.roll.owns("me", "a") and not world.roll.owns("me", "b") and not world.roll.owns("me", "c")
    world.run("a", 1)
    assert world.roll.runs("me", 1) == "a"
    assert world.roll.runs("you", 1) is None and world.roll.runs("me", 0) is None
    assert list(world.roll.prompts("me")) == ["a"] and not list(world.roll.prompts("nobody"))
    world.ledger.end("a", JobState.DONE)
    assert not world.roll.owns("me", "a")
    assert world.roll._clients.keys() == {"you"}


def test_what_was_sent_to_a_gpus_own_port_is_none_of_its_business() -> None:
    world = World()
    world.listen()
    for job in (world.accept("a", alias="me"), world.accept("b", None), world.accept("c", "")):
        assert not world.roll.owns("me", job.prompt_id)
        world.ledger.end(job.prompt_id, JobState.DONE)
    assert world.changes == []


def test_listeners_are_told_of_ends_and_of_prompts_that_wait_again() -> None:
    world = World()
    world.listen()
    world.accept("a")
    assert world.changes == []
    world.run("a", 1)
    world.ledger.put_back("a", attempts=1)
    assert world.changes == [Change("a", None, 1, told=False)]
    world.run("a")
    world.ledger.end("a", JobState.DONE)
    assert kinds(world.changes[1].ending) == ["execution_success", "executing"]
    assert world.changes[1].told and world.changes[1].gpu_id == 0


def test_a_refused_prompt_ends_in_silence() -> None:
    world = World()
    world.listen()
    world.accept("a")
    world.run("a")
    world.ledger.forget("a")
    assert world.changes == [Change("a", (), None, told=False)]
    assert not world.roll.owns("me", "a")


def test_ends_are_kept_for_who_was_there_and_only_once() -> None:
    world = World()
    world.accept("before")
    world.ledger.end("before", JobState.DONE)
    assert world.listen() == []  # it has never been there
    world.leave("told too late")
    world.accept("a")
    world.ledger.end("a", JobState.DONE)
    assert world.listen() == ["told too late", "a"]
    world.leave()
    assert world.listen() == []


def test_ends_are_kept_for_a_while_and_not_too_many() -> None:
    world = World()
    world.listen()
    world.leave()
    for n in range(100):
        world.accept(str(n))
        world.ledger.end(str(n), JobState.DONE)
    assert world.listen() == [str(n) for n in range(36, 100)]
    world.leave("late")
    world.clock.advance(601)
    assert world.listen() == []
    world.leave()
    world.clock.advance(601)
    world.accept("a")
    world.ledger.end("a", JobState.DONE)
    assert not world.roll._absent
    for n in range(1_500):
        world.roll.listen(str(n), world.changes.append)
        world.roll.leave(str(n), world.changes.append, [("a", ())])
    assert len(world.roll._absent) == 1_000
    assert len(world.roll._clients) == 0


def test_bytes_that_are_kept_are_bounded() -> None:
    world = World()
    for n in range(100):
        world.roll.listen(str(n), world.changes.append)
        ends = [(str(m), (Message(bytes(2**18)),)) for m in range(5)]
        world.roll.leave(str(n), world.changes.append, [*ends, *ends])
        assert world.roll._kept == sum(one.size for one in world.roll._absent.values()) <= 2**24
    assert 10 < len(world.roll._absent) < 15
    for client_id in list(world.roll._absent):
        world.roll.listen(client_id, world.changes.append)
    assert world.roll._kept == 0


def test_one_of_two_ports_may_be_left() -> None:
    world = World()
    others: list[Change] = []
    world.listen()
    world.roll.listen("me", others.append)
    world.leave()
    world.accept("a")
    world.ledger.end("a", JobState.DONE)
    assert len(others) == 1 and world.changes == []
    world.roll.leave("me", others.append, [])
    assert world.listen() == []


RECORD = orjson.dumps(
    {
        "status": {
            "messages": [
                ["execution_start", {"prompt_id": "a"}],
                ["execution_error", {"prompt_id": "a", "node_id": "4"}],
                ["execution_interrupted", {"prompt_id": "a", "node_id": "5"}],
            ]
        }
    }
)


@pytest.mark.parametrize(
    ("state", "record", "told", "attempts", "kind", "node"),
    [
        (JobState.DONE, None, True, 0, "execution_success", None),
        (JobState.FAILED, RECORD, True, 0, "execution_error", "4"),
        (JobState.FAILED, None, False, 0, "execution_error", ""),
        (JobState.FAILED, b"no json", False, 0, "execution_error", ""),
        (JobState.FAILED, b'{"status": {"messages": [["execution_error", 5]]}}', False, 0, "execution_error", ""),
        (JobState.UNKNOWN, None, True, 0, "execution_error", ""),
        (JobState.CANCELLED, RECORD, True, 0, "execution_interrupted", "5"),
        (JobState.CANCELLED, None, False, 0, "execution_interrupted", ""),
        (JobState.CANCELLED, None, True, 1, "execution_interrupted", ""),
        (JobState.CANCELLED, None, True, 0, None, None),
    ],
)
def test_endings(
    state: JobState, record: bytes | None, told: bool, attempts: int, kind: str | None, node: str | None
) -> None:
    job = Job(prompt_id="a", number=0, sequence=0, gate="hub", targets=frozenset({0}), expected=0, attempts=attempts)
    made = ending(job, state, "why", record, 1e9, told=told)
    if kind is None:
        assert made == ()
        return
    first, second = (json.loads(one.payload) for one in made)
    assert first["type"] == kind and first["data"]["prompt_id"] == "a" and first["data"].get("node_id") == node
    assert second == {"type": "executing", "data": {"node": None, "prompt_id": "a"}}


def test_an_ending_is_not_large() -> None:
    job = Job(prompt_id="a", number=0, sequence=0, gate="hub", targets=frozenset({0}), expected=0)
    large = {"prompt_id": "a", "current_inputs": {"x": "y" * 10**6}, "traceback": ["no"], "exception_message": "m"}
    record = orjson.dumps({"status": {"messages": [["execution_error", large]]}})
    [error, _] = ending(job, JobState.FAILED, None, record, 0.0, told=True)
    assert json.loads(error.payload)["data"] == {
        "prompt_id": "a",
        "current_inputs": {},
        "traceback": [],
        "exception_message": "m",
    }
    assert isinstance(error, Message)
