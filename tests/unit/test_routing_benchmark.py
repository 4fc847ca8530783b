"""What affinity promises, on the load of benchmarks/routing, for a few seeds."""

from statistics import mean

import pytest

from benchmarks.routing.load import lower_bound, make_load
from benchmarks.routing.simulation import bound_on_arrival, simulate
from comfygate.routing.affinity import Affinity
from comfygate.routing.fair import Fair


@pytest.mark.parametrize(("rate", "promised"), [(None, 0.3), (2.0, 0.5)])
def test_affinity_is_as_fast_as_it_promises_and_overtakes_no_more(rate: float | None, promised: float) -> None:
    ratios = []
    for seed in range(5):
        load = make_load(seed, rate)
        found = simulate(load, Affinity())
        ratios.append(found.makespan / bound_on_arrival(load, "shortest queue on arrival").makespan)
        assert found.makespan <= 1.15 * lower_bound(load)
        assert found.overtaken <= Affinity().overtake
    assert mean(ratios) <= promised


def test_a_lower_limit_is_kept_too() -> None:
    assert simulate(make_load(0, None), Affinity(overtake="20")).overtaken <= 20


def test_fair_costs_little() -> None:
    load = make_load(0, None)
    assert simulate(load, Fair(within="affinity")).makespan <= 1.25 * lower_bound(load)
