"""Prompts whose clients look at /history and /queue, and at nothing else."""

from __future__ import annotations

from typing import Any

import orjson

from comfygate.control.polled import LINGERS
from comfygate.model import JobState
from tests.unit.fakes import House
from tests.unit.test_control import now, submit
from tests.unit.test_histories import one


def running(house: House) -> list[str]:
    listing = orjson.loads(b"".join(house.listings.queue(house.hub)))
    return [item[1] for item in listing["queue_running"]]


def where(house: House) -> Any:
    return orjson.loads(b"".join(house.listings.queue(house.hub)))["gpu_ids"]


def test_one_that_ends_between_the_two_questions_is_found_by_the_second() -> None:
    house = House()
    prompt_id = submit(house, house.hub)["prompt_id"]
    assert one(house, house.hub, prompt_id) == {}
    house.finish(0)
    assert running(house) == [prompt_id] and where(house) == {prompt_id: 0}
    assert list(one(house, house.hub, prompt_id)) == [prompt_id]
    assert running(house) == [] and where(house) == {}


def test_it_stays_for_a_moment_and_for_those_alone_who_ask() -> None:
    house = House()
    asked, other = (submit(house, house.hub)["prompt_id"] for _ in range(2))
    one(house, house.hub, asked)
    for gpu_id in (0, 1):
        house.finish(gpu_id)
    assert running(house) == [asked] and other not in where(house)
    house.clock.advance(LINGERS)
    assert running(house) == []


def test_whoever_asked_long_ago_does_not_poll() -> None:
    house = House()
    prompt_id = submit(house, house.hub)["prompt_id"]
    one(house, house.hub, prompt_id)
    house.clock.advance(LINGERS)
    house.finish(0)
    assert running(house) == []


def test_what_was_removed_is_nowhere() -> None:
    house = House(prefetch=1)
    *first, last = (submit(house, house.hub)["prompt_id"] for _ in range(3))
    one(house, house.hub, last)
    assert now(house.interrupts.prompt(last)).state == "pending"
    assert sorted(where(house)) == sorted(first)


def test_one_that_ends_while_comfyui_is_asked_is_told_at_once() -> None:
    house = House()
    prompt_id = submit(house, house.hub)["prompt_id"]
    client = house.backends[0].client

    def end() -> None:
        house.ledger.end(prompt_id, JobState.DONE, None, b'{"status": {}}')

    client.before["history"] = end
    assert list(one(house, house.hub, prompt_id)) == [prompt_id]
