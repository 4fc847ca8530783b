import pytest

from comfygate.model import Guess
from comfygate.routing.costs import Averages, Costs
from comfygate.testing import job

PLAIN = job(shape="plain", models=["m"])


def test_without_experience_it_is_guessed() -> None:
    costs = Costs().on(0)
    assert costs.run(PLAIN) == Guess().run(PLAIN)
    assert costs.load("m") == Guess().load("m")


def test_runs_are_known_by_shape_and_gpu_then_by_shape_then_at_all() -> None:
    costs = Costs()
    costs.ran(PLAIN, 0, 4.0, ())
    costs.ran(PLAIN, 1, 4.0, ())
    costs.ran(PLAIN, 1, 14.0, ())
    assert costs.on(0).run(PLAIN) == 4.0
    assert costs.on(1).run(PLAIN) == pytest.approx(7.0)
    assert 4.0 < costs.on(2).run(PLAIN) < 14.0
    assert costs.on(2).run(job(shape="other")) == costs.on(2).run(PLAIN)


def test_a_load_is_what_a_run_took_longer() -> None:
    costs = Costs()
    costs.ran(PLAIN, 0, 9.0, ["m"])
    assert costs.on(0).load("m") == Guess().load("m")  # whoever has never seen it run alone does not know
    costs.ran(PLAIN, 0, 4.0, ())
    assert costs.on(0).load("m") == pytest.approx(5.0)
    assert costs.on(1).load("m") == pytest.approx(5.0)
    assert costs.on(1).load("unknown") == pytest.approx(5.0)
    costs.ran(PLAIN, 0, 3.0, ["m"])
    assert costs.on(0).load("m") == pytest.approx(3.5)  # never less than nothing


def test_what_several_models_took_is_divided_as_they_were_expected_to_take() -> None:
    costs = Costs()
    costs.ran(PLAIN, 0, 4.0, ())
    costs.ran(PLAIN, 0, 14.0, ["large"])
    costs.ran(PLAIN, 0, 14.0, ["as-large"])
    costs.ran(PLAIN, 0, 24.0, ["large", "as-large"])
    assert costs.on(0).load("large") == pytest.approx(10.0)


def test_tables_are_bounded() -> None:
    averages = Averages(most=3)
    for number in range(10):
        averages.add(number, 1.0)
    assert [averages.get(number) for number in (6, 7, 8, 9)] == [None, 1.0, 1.0, 1.0]
    costs = Costs()
    for number in range(10_000):
        costs.ran(job(shape=str(number)), 0, 1.0, ["m"])
    assert len(costs._unsettled) == 4096
