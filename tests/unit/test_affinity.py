"""affinity: what it chooses, and that nobody waits for ever."""

from __future__ import annotations

import random
import time
from collections.abc import Sequence

import pytest
from attrs import define, evolve, field

from comfygate.interfaces import IRoutingPolicy
from comfygate.line import Line
from comfygate.model import BackendState, BackendView, Choice, Job
from comfygate.routing.affinity import Affinity
from comfygate.routing.fair import Fair
from comfygate.testing import job, view


def chosen(waiting: Sequence[Job], *views: BackendView, **arguments: str) -> Choice | None:
    return Affinity(**arguments).select(waiting, views, 0.0)


def test_a_gpu_takes_the_job_whose_model_it_has() -> None:
    first, second = job(models=["a"]), job(models=["b"])
    has_b = view(0, running=1, loaded=["b"])
    assert chosen([first, second], has_b) == Choice(second, 0)
    assert chosen([first], has_b) is None  # it waits for a GPU that is idle
    assert chosen([first], view(0, loaded=["b"])) == Choice(first, 0)


def test_a_gpu_that_has_nothing_else_to_do_loads_what_nobody_has_before_it_helps() -> None:
    popular = [job(models=["a"]) for _ in range(50)]
    rare = job(models=["c"])
    busy = view(0, running=1, pending=1, loaded=["a"], backlog=10.0)
    idle = view(1, loaded=["b"])
    assert chosen([*popular, rare], busy, idle) == Choice(rare, 1)
    assert chosen(popular, busy, idle) == Choice(popular[0], 1)


def test_it_helps_only_where_the_load_is_over_before_the_others_have_finished() -> None:
    busy = view(0, running=1, pending=1, loaded=["a"], backlog=5.0)
    idle = view(1)
    few = [job(models=["a"], shape="short")]

    class Short:
        def run(self, job: Job) -> float:
            return 1.0

        def load(self, model: str) -> float:
            return 10.0

    views = [evolve(one, estimates=Short()) for one in (busy, idle)]
    assert chosen(few, *views) is None
    many = [job(models=["a"]) for _ in range(20)]
    assert chosen(many, *views) == Choice(many[0], 1)


def test_on_a_cold_start_prompts_spread_rather_than_queue_behind_a_load() -> None:
    waiting = [job(models=["a"]), job(models=["a"])]
    loading = view(0, running=1, loaded=["a"], backlog=20.0)
    assert chosen(waiting, loading, view(1)) == Choice(waiting[0], 1)


def test_a_model_goes_where_it_disturbs_least() -> None:
    views = [view(0, loaded=["a"], last_assigned=7), view(1, loaded=["b"], last_assigned=3)]
    one = job(models=["c"])
    assert chosen([one], *views) == Choice(one, 1)


def test_a_small_load_is_no_reason_to_wait() -> None:
    class WithLora:
        def run(self, job: Job) -> float:
            return 10.0

        def load(self, model: str) -> float:
            return 0.5 if model == "lora" else 30.0

    busy = evolve(view(0, running=1, loaded=["a"]), estimates=WithLora())
    one = job(models=["a", "lora"])
    assert chosen([one], busy) == Choice(one, 0)


def test_a_pinned_job_waits_for_its_gpu_and_holds_nobody_up() -> None:
    pinned, other = job(targets=[0], models=["a"]), job(models=["a"])
    assert chosen([pinned, other], view(0, running=2), view(1, loaded=["a"])) == Choice(other, 1)


def test_who_asked_for_the_front_is_overtaken_by_nobody() -> None:
    front, other = job(number=-3, models=["b"]), job(models=["a"])
    has_a = view(0, active=((1.0, 0), (2.0, 1)), loaded=["a"])
    assert chosen([front, other], has_a) == Choice(front, 0)  # runs next: it gets a place more
    full = view(0, active=((-9.0, 0), (-8.0, 1)), loaded=["a"], backlog=20.0)
    assert chosen([front, other], full) is None
    pinned = job(number=-3, targets=[0])
    assert chosen([pinned, other], full, view(1)) == Choice(other, 1)


@pytest.mark.parametrize("arguments", [{"overtake": "3"}, {"delay": "9"}])
def test_nobody_is_overtaken_beyond_the_limit(arguments: dict[str, str]) -> None:
    line = Line([job(models=["b"]), *(job(models=["a"]) for _ in range(10))])
    rare = line[0]
    has_a = view(0, running=1, loaded=["a"])
    passed = 0
    while (choice := chosen(line, has_a, **arguments)) != Choice(rare, 0):
        assert choice is not None
        line.hand_over(choice.job, 0, 24.0)  # of work, and the jobs may run on eight GPUs
        line.remove(choice.job)
        passed += 1
    assert 1 <= passed <= 3


def test_what_comes_near_the_limit_is_served_together_and_by_a_gpu_that_can_be_spared() -> None:
    rare = [job(models=["b"]) for _ in range(3)]
    line = Line([*rare, *(job(models=["a"]) for _ in range(40))])
    for _ in range(10):
        line.hand_over(line[3], 0, 1.0)
        line.remove(line[3])
    alone = view(0, running=1, loaded=["a"], backlog=1.0)
    shared = view(1, running=1, loaded=["a"], backlog=5.0)
    assert chosen(line, alone, overtake="20") == Choice(line[3], 0)  # nobody else has it
    assert chosen(line, alone, shared, overtake="20") == Choice(rare[0], 0)
    line.hand_over(rare[0], 0, 1.0)
    line.remove(rare[0])
    now = view(0, running=1, loaded=["b"], backlog=9.0)
    assert chosen(line, now, shared, overtake="20") == Choice(rare[1], 0)
    assert chosen(line, alone, overtake="13") == Choice(rare[1], 0)  # there is no time to lose


@pytest.mark.parametrize("value", ["0", "-1", "many", "nan", "1.5"])
def test_bad_arguments_are_named(value: str) -> None:
    with pytest.raises(ValueError, match="overtake must be a whole number above 0"):
        Affinity(overtake=value)
    if value != "1.5":
        with pytest.raises(ValueError, match="delay must be a number above 0"):
            Affinity(delay=value)


@define
class Place:
    """GPUs that come and go, and what they were given."""

    dice: random.Random
    limit: int
    policy: IRoutingPolicy
    line: Line = field(factory=Line)
    views: dict[int, BackendView] = field(factory=dict)

    def step(self, *, arrivals: bool) -> None:
        dice = self.dice
        if arrivals and dice.random() < 0.6:
            for _ in range(dice.randrange(1, 8)):
                self.line.add(
                    job(
                        targets=dice.choice([[0, 1, 2, 3]] * 4 + [[0], [2, 3]]),
                        models=dice.choice([[], ["a"], ["a"], ["a"], ["b"], ["c"], ["a", "d"]]),
                        number=-1.0 if dice.random() < 0.05 else None,
                        client_id=dice.choice(["x", "x", "x", "y", None]),
                    )
                )
        gpu_id = dice.randrange(4)
        one = self.views[gpu_id]
        state = dice.choice([BackendState.READY] * 9 + [BackendState.DOWN]) if arrivals else BackendState.READY
        self.views[gpu_id] = evolve(one, active=one.active[1:], state=state)
        while self.dispatch():
            pass

    def dispatch(self) -> bool:
        choice = self.policy.select(self.line, list(self.views.values()), 0.0)
        if choice is None:
            return False
        one = self.views[choice.gpu_id]
        assert one.accepts(choice.job)
        self.line.hand_over(choice.job, choice.gpu_id, 1.0)
        self.line.remove(choice.job)
        loaded = tuple(sorted(choice.job.models)) or one.loaded
        self.views[choice.gpu_id] = evolve(
            one, active=(*one.active, choice.job.order), loaded=loaded, backlog=10.0 * (len(one.active) + 1)
        )
        return True


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_gpus_that_are_there_are_used_and_nobody_waits_for_ever(seed: int) -> None:
    dice = random.Random(seed)
    limit = dice.choice([1, 2, 5, 20])
    place = Place(dice, limit, Affinity(overtake=str(limit)))
    place.views = {n: view(n, prefetch=dice.choice([1, 2, 3])) for n in range(4)}
    for _ in range(300):
        place.step(arrivals=True)
        assert all(place.line.overtaken(each)[0] <= limit for each in place.line)
    for _ in range(20_000):
        if not place.line:
            break
        place.step(arrivals=False)
    assert not place.line


@pytest.mark.parametrize("seed", range(10))
def test_affinity_within_fair_serves_everybody_too(seed: int) -> None:
    place = Place(random.Random(seed), 5, Fair(within="affinity", overtake="5"))
    place.views = {n: view(n) for n in range(4)}
    for _ in range(200):
        place.step(arrivals=True)
        for own in place.line.clients().values():
            assert all(own.overtaken(each)[0] <= 5 for each in own)
    for _ in range(20_000):
        if not place.line:
            break
        place.step(arrivals=False)
    assert not place.line


@pytest.mark.parametrize("kinds", [6, 300, 5_000])
def test_five_thousand_jobs_on_eight_gpus_are_decided_upon_quickly(kinds: int) -> None:
    dice = random.Random(1)
    line = Line(job(models=[f"m{dice.randrange(kinds)}", "shared"], client_id=str(n % 50)) for n in range(5_000))
    line.heads()
    policy = Affinity()
    took = []
    for _ in range(60):
        views = [view(n, running=n > 3, loaded=[f"m{n}", "shared"], last_assigned=n) for n in range(8)]
        began = time.process_time()
        choice = policy.select(line, views, 0.0)
        assert choice is not None
        line.hand_over(choice.job, choice.gpu_id, 10.0)
        line.remove(choice.job)
        took.append(time.process_time() - began)
    assert sorted(took)[len(took) // 2] < 0.005
