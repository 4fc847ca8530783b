"""The policies that are short: fair, weighted, most-free-memory."""

from collections import Counter
from collections.abc import Sequence

import pytest
from attrs import evolve

from comfygate.line import Line
from comfygate.model import BackendView, Choice, Job
from comfygate.routing.fair import Fair
from comfygate.routing.least_loaded import LeastLoaded
from comfygate.routing.most_free_memory import MostFreeMemory
from comfygate.routing.registry import Policies, PolicyError
from comfygate.routing.shares import Shares
from comfygate.routing.weighted import Weighted
from comfygate.testing import job, view


def test_fair_serves_who_has_had_least() -> None:
    shares = Shares()
    line = Line((job(client_id=name) for name in ["greedy"] * 30 + ["modest"] * 10), shares.due)
    order = []
    for _ in range(20):
        choice = Fair(within="least-loaded").select(line, [view(0)], 0.0)
        assert choice is not None
        order.append(choice.job.client_id)
        line.hand_over(choice.job, 0, 10.0)
        line.remove(choice.job)
        shares.charge(choice.job.client, 10.0)
    assert Counter(order) == {"greedy": 10, "modest": 10}
    assert order[:4] == ["greedy", "modest", "greedy", "modest"]


def test_fair_passes_over_a_client_that_cannot_be_served() -> None:
    pinned, other = job(client_id="a", targets=[0]), job(client_id="b")
    assert Fair(within="least-loaded").select([pinned, other], [view(0, running=2), view(1)], 0.0) == Choice(other, 1)


def test_fair_does_not_push_back_what_it_handed_over_before_its_turn() -> None:
    early = job(client_id="a", number=1)
    full = view(0, active=((5.0, 1), (6.0, 2)))
    assert Fair(within="least-loaded").select([early], [full], 0.0) is None
    front = job(client_id="b", number=-1)
    assert Fair(within="least-loaded").select([early, front], [full], 0.0) == Choice(front, 0)


def test_a_thousand_clients_that_cannot_be_served_do_not_keep_others_waiting() -> None:
    pinned = [job(client_id=str(number), targets=[0]) for number in range(1000)]
    free = job(client_id="free")
    assert Fair(within="least-loaded").select([*pinned, free], [view(0, running=2), view(1)], 0.0) == Choice(free, 1)


def test_fair_asks_about_no_client_whose_jobs_no_gpu_with_room_may_run() -> None:
    class Asked(LeastLoaded):
        def select(self, waiting: Sequence[Job], backends: Sequence[BackendView], now: float) -> Choice | None:
            asked.extend(waiting)
            return super().select(waiting, backends, now)

    asked: list[Job] = []
    fair = Fair()
    fair.within = Asked()
    pinned = [job(client_id=str(number), targets=[0]) for number in range(9)]
    both = [job(client_id="a", targets=[0]), job(client_id="a", targets=[1])]
    views = [view(0, running=2), view(1)]
    assert fair.select(pinned, views, 0.0) is None
    assert not asked
    assert fair.select([*pinned, *both], views, 0.0) == Choice(both[1], 1)
    assert asked == both


def test_fair_takes_what_its_inner_policy_takes() -> None:
    policies = Policies.installed()
    fair = policies.make("routing", "fair", {"within": "affinity", "overtake": "7"})
    assert fair.within.overtake == 7
    assert not fair.reads_memory
    assert policies.make("routing", "fair", {"within": "most-free-memory"}).reads_memory
    for arguments, words in (
        ({"within": "fair"}, "another policy than fair"),
        ({"within": "luck"}, "there is no routing policy 'luck'"),
        ({"within": "affinity", "bias": "3"}, "bias=3 does not fit"),
    ):
        with pytest.raises(PolicyError, match=words):
            policies.make("routing", "fair", arguments)


def test_weighted_gives_turns_by_weight() -> None:
    turns = Shares()
    weights = {0: 1.0, 1: 2.0, 2: 5.0}
    counted: Counter[int] = Counter()
    for _ in range(80):
        views = [evolve(view(n), weight=weight, turn=turns.due(n)) for n, weight in weights.items()]
        choice = Weighted().select([job()], views, 0.0)
        assert choice is not None
        turns.charge(choice.gpu_id, 1 / weights[choice.gpu_id])
        counted[choice.gpu_id] += 1
    assert counted == {0: 10, 1: 20, 2: 50}


def memory(gpu_id: int, free: int | None, **more: int) -> BackendView:
    return evolve(view(gpu_id, **more), free_memory=free)


def test_most_free_memory() -> None:
    policy = MostFreeMemory()
    one = job()
    assert policy.select([one], [memory(0, 5), memory(1, 9), memory(2, None)], 0.0) == Choice(one, 1)
    assert policy.select([one], [memory(0, 5), memory(1, 9, running=1)], 0.0) == Choice(one, 0)
    assert policy.select([one], [memory(0, None), memory(1, 0)], 0.0) == Choice(one, 1)
    assert policy.select([one], [memory(0, None), memory(1, None)], 0.0) == Choice(one, 0)
