"""What events teach, as policies see it."""

from __future__ import annotations

import pytest

from comfygate.ledger import Stranger
from comfygate.model import BackendState, BackendView, Guess, Holding, Job, JobState
from comfygate.testing import job
from tests.unit.fakes import House

MiB = 2**20


class Watched(House):
    """One GPU, to which a test hands jobs itself."""

    def __init__(self) -> None:
        super().__init__(gpus=2)
        self.experience = self.books.experience

    @property
    def view(self) -> BackendView:
        return self.books.view(0)

    def hand_over(self, *models: str, shape: str = "s") -> Job:
        one = job(models=models, shape=shape, expected=0, gate="nowhere")
        self.ledger.accept(one)
        self.ledger.assign(one.prompt_id, 0)
        return one

    def tell(self, holding: Holding) -> None:
        """As a backend does whose companion tells something."""
        backend = self.backends[0]
        backend.holding = holding
        if not holding.ended:
            backend.held_before[holding.prompt_id] = holding.models

    def run(self, *models: str, seconds: float, shape: str = "s") -> Job:
        one = self.hand_over(*models, shape=shape)
        self.clock.advance(seconds)
        self.ledger.end(one.prompt_id, JobState.DONE)
        return one


def test_what_ran_last_is_loaded_where_nobody_tells() -> None:
    house = Watched()
    assert house.view.loaded == ()
    house.run("a", "b", seconds=1.0)
    assert house.view.loaded == ("a", "b")
    house.hand_over("c")
    assert house.view.loaded == ("c",)
    assert house.experience.loaded(0) == ("a", "b")


def test_what_is_told_counts_and_so_does_what_is_never_told_of() -> None:
    house = Watched()
    house.run("a", "lora", seconds=1.0)
    house.tell(Holding(prompt_id="x", models=("b", "a")))
    assert house.view.loaded == ("lora", "b", "a")
    house.hand_over("c")
    assert set(house.view.loaded) == {"b", "a", "c"}  # as many as there were room for


def test_what_a_process_held_is_gone_with_it() -> None:
    house = Watched()
    house.run("a", seconds=1.0)
    house.backends[0].become(BackendState.DOWN)
    house.backends[0].become(BackendState.READY)
    assert house.view.loaded == ()


def test_costs_are_learned_from_runs_with_and_without_a_load() -> None:
    house = Watched()
    house.run("a", seconds=9.0)
    house.run("a", seconds=4.0)
    assert house.view.estimates.run(job(shape="s")) == 4.0
    assert house.view.estimates.load("a") == pytest.approx(5.0)


def test_a_companion_says_what_had_to_be_loaded() -> None:
    house = Watched()
    earlier = house.run("a", seconds=4.0, shape="t")
    house.tell(Holding(prompt_id=earlier.prompt_id, models=("a",)))
    house.backends[0].tell()
    one = house.hand_over("a")
    house.tell(Holding(prompt_id=one.prompt_id, models=(), ended=False))
    house.clock.advance(9.0)
    house.tell(Holding(prompt_id=one.prompt_id, models=("a",)))
    house.ledger.end(one.prompt_id, JobState.DONE)
    assert house.view.estimates.run(job(shape="s")) == Guess().run(one)
    house.run("a", seconds=4.0)
    assert house.view.estimates.load("a") == pytest.approx(5.0)


def test_the_second_of_two_is_timed_from_the_end_of_the_first() -> None:
    house = Watched()
    house.run("a", seconds=1.0)
    first, second = house.hand_over("a"), house.hand_over("a", shape="long")
    house.clock.advance(1.0)
    house.ledger.end(first.prompt_id, JobState.DONE)
    house.clock.advance(7.0)
    house.ledger.end(second.prompt_id, JobState.DONE)
    assert house.view.estimates.run(job(shape="long")) == 7.0


def test_nothing_is_learned_from_failures_and_beside_strangers() -> None:
    house = Watched()
    one = house.hand_over("a")
    house.clock.advance(1.0)
    house.ledger.end(one.prompt_id, JobState.FAILED)
    house.ledger.meet(0, (Stranger("x", 0.0, True, b"[]"),))
    house.run("a", seconds=2.0)
    assert house.view.estimates.run(one) == Guess().run(one)


def test_the_backlog_is_what_is_left_of_what_it_holds() -> None:
    house = Watched()
    house.run("a", seconds=9.0)
    house.run("a", seconds=4.0)
    house.hand_over("a")
    house.hand_over("a")
    house.clock.advance(1.0)
    assert house.view.backlog == pytest.approx(3.0 + 4.0)
    house.clock.advance(60.0)
    assert house.view.backlog == pytest.approx(0.4 + 4.0)
    house.ledger.meet(0, (Stranger("x", 0.0, False, b"[]"),))
    assert house.view.backlog > 4.4


def test_a_job_that_waits_again_is_nobodys() -> None:
    house = Watched()
    one = house.hand_over("a")
    house.ledger.put_back(one.prompt_id, attempts=0)
    assert house.view.backlog == 0.0
    two = house.hand_over("b")
    house.ledger.forget(two.prompt_id)
    assert house.view.backlog == 0.0


def test_free_memory_is_what_comfyui_says_or_else_the_driver() -> None:
    house = Watched()
    house.experience.free_memory = lambda gpu_id: 5 * MiB
    assert house.view.free_memory == 5 * MiB
    house.tell(Holding(prompt_id="x", free_memory=7 * MiB))
    assert house.view.free_memory == 7 * MiB
    house.tell(Holding(prompt_id="x"))
    assert house.view.free_memory == 5 * MiB


def test_turns_follow_the_weights() -> None:
    house = Watched()
    house.experience.weights = {0: 2.0}
    house.hand_over("a")
    assert (house.view.turn, house.view.weight) == (0.5, 2.0)
    assert house.books.view(1).weight == 1.0
