"""Prompts that some GPUs can run and others cannot."""

from __future__ import annotations

from typing import Any

import orjson

from comfygate.model import BackendState
from tests.unit.fakes import FakeAnswer, House, body, new_id
from tests.unit.test_control import accept, now, submit

MISSING = FakeAnswer(400, b'{"error": {"type": "missing_node_type", "message": "X"}, "node_errors": {}}')
PARTLY = FakeAnswer(
    200, b'{"outputs": ["9"], "node_errors": {"3": {"errors": [{"type": "value_not_in_list", "message": "x"}]}}}'
)
WHOLE = FakeAnswer(200, b'{"outputs": ["9"], "node_errors": {}}')


def fleet(*answers: FakeAnswer) -> House:
    house = House(gpus=len(answers))
    for backend, answer in zip(house.backends, answers, strict=True):
        backend.client.validation = answer
    return house


def test_a_prompt_goes_where_it_can_run() -> None:
    house = fleet(MISSING, WHOLE, MISSING)
    for _ in range(3):
        assert submit(house, house.hub)["gpu_id"] == 1
    assert len(house.backends[1].client.items) == 2 and len(house.ledger.waiting) == 1
    assert next(iter(house.ledger.waiting)).targets == {1}


def test_whoever_can_run_all_of_it_comes_before_those_who_can_run_a_part() -> None:
    house = fleet(PARTLY, MISSING, WHOLE)
    assert submit(house, house.hub)["gpu_id"] == 2
    house = fleet(MISSING, PARTLY)
    told = submit(house, house.hub)
    assert told["gpu_id"] == 1 and told["node_errors"]["3"]


def test_where_nobody_can_it_is_comfyui_that_says_so() -> None:
    house = fleet(MISSING, MISSING)
    answer = now(house.acceptance.submit(house.hub, body(), None))
    assert (answer.status, answer.body) == (400, MISSING.body)
    assert house.backends[0].client.asked.count("validate") == 2


def test_a_pinned_prompt_is_refused_by_its_own_gpu() -> None:
    house = fleet(MISSING, WHOLE)
    assert now(house.acceptance.submit(house.hub, body(), "0")).status == 400
    assert house.backends[1].client.asked.count("validate") == 0


def test_temporary_files_are_looked_for_everywhere() -> None:
    house = fleet(WHOLE, MISSING, WHOLE)
    nodes: Any = {"1": {"class_type": "LoadImage", "inputs": {"image": "a.png [temp]"}}}
    answer = now(house.acceptance.submit(house.hub, orjson.dumps({"prompt": nodes}), None))
    assert answer.status == 200
    assert next(iter(house.ledger.waiting)).targets == {0, 2}


def test_one_that_a_gpu_refuses_after_all_waits_for_another() -> None:
    house = fleet(WHOLE, WHOLE)
    prompt_id = accept(house, house.hub, prompt_id=new_id())["prompt_id"]
    house.backends[0].client.answer = MISSING
    house.turn()
    held = house.ledger.held(prompt_id)
    assert held is not None and (held.gpu_id, held.job.targets, held.job.expected) == (1, {1}, 1)
    assert house.journal.ended == {}


def test_one_that_every_gpu_refuses_fails() -> None:
    house = fleet(WHOLE, WHOLE)
    prompt_id = accept(house, house.hub)["prompt_id"]
    for backend in house.backends:
        backend.client.answer = MISSING
    house.turn()
    assert house.ledger.ended(prompt_id) is not None and house.ledger.held(prompt_id) is None


def test_without_a_companion_the_next_is_tried() -> None:
    house = fleet(WHOLE, WHOLE)
    for backend in house.backends:
        backend.has_companion = False
    house.backends[0].client.answer = MISSING
    answer: Any = now(house.acceptance.submit(house.hub, body(), None))
    assert answer.status == 200 and orjson.loads(answer.body)["gpu_id"] == 1
    for backend in house.backends:
        backend.client.answer = MISSING
    assert now(house.acceptance.submit(house.hub, body(), None)).status == 400
    assert len(house.ledger.waiting) == 0


class Info:
    """What is known of the GPUs.

    :ivar same: whether they are alike.
    """

    def __init__(self, suitable: tuple[int, ...], *, same: bool = False) -> None:
        self.same = same
        self.asked: list[tuple[int, ...]] = []
        self._suitable = suitable

    def doubt(self, gpu_ids: tuple[int, ...]) -> None:
        self.asked.append(tuple(gpu_ids))

    def suitable(self, gpu_ids: tuple[int, ...], prompt: Any) -> tuple[int, ...]:
        return self._suitable

    def alike(self, gpu_id: int, others: Any) -> bool:
        return self.same


def test_what_they_offer_is_asked_again() -> None:
    house = fleet(MISSING, WHOLE)
    house.acceptance._object_info = info = Info((0, 1))  # type: ignore[assignment]
    submit(house, house.hub)
    assert info.asked == [(0, 1)]


def test_only_those_that_can_run_it_are_considered() -> None:
    house = fleet(WHOLE, WHOLE, WHOLE)
    house.acceptance._object_info = Info((1, 2))  # type: ignore[assignment]
    assert submit(house, house.hub)["gpu_id"] == 1
    assert house.backends[0].client.asked == []


def test_a_prompt_for_a_gpu_that_is_down_is_not_refused_by_one_that_differs() -> None:
    house = fleet(MISSING, WHOLE)
    house.acceptance._object_info = info = Info((1,))  # type: ignore[assignment]
    house.backends[1].become(BackendState.DOWN)
    assert submit(house, house.hub)["gpu_id"] == 1
    info.same = True
    assert now(house.acceptance.submit(house.hub, body(), None)).status == 400


def test_one_that_cannot_validate_is_tried_when_the_others_refuse() -> None:
    house = fleet(MISSING, WHOLE)
    house.backends[1].has_companion = house.backends[1].owned = False
    answer: Any = now(house.acceptance.submit(house.hub, body(), None))
    assert answer.status == 200 and orjson.loads(answer.body)["gpu_id"] == 1
    house.backends[1].client.answer = FakeAnswer(500, b"")
    answer = now(house.acceptance.submit(house.hub, body(), None))
    assert (answer.status, answer.body) == (400, MISSING.body)
