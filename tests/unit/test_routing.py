import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from attrs import evolve
from zope.interface import implementer
from zope.interface.verify import verifyObject

from comfygate.interfaces import IInterruptPolicy, IRoutingPolicy
from comfygate.model import BackendState, BackendView, Choice, Job
from comfygate.routing.assignment import GateRouting, expected_gpu, next_choice
from comfygate.routing.inorder import InOrder
from comfygate.routing.interrupts import AskAll, LedgerLookup
from comfygate.routing.least_loaded import LeastLoaded
from comfygate.routing.registry import Policies, PolicyError, PolicyMaker
from comfygate.routing.round_robin import RoundRobin
from comfygate.routing.sticky import StickyByClient
from comfygate.testing import job, view


def picked(choice: Choice | None) -> int | None:
    return choice.gpu_id if choice else None


def test_least_loaded_counts_a_running_prompt_as_ten_pending() -> None:
    policy = LeastLoaded()
    assert picked(policy.select([job()], [view(0, running=1), view(1, pending=9, active=())], 0.0)) == 1
    assert picked(policy.select([job()], [view(0, running=1), view(1, pending=11, active=())], 0.0)) == 0
    assert picked(policy.select([job()], [view(0), view(1)], 0.0)) == 0


def test_round_robin_takes_turns_and_passes_over_who_is_down() -> None:
    policy = RoundRobin()
    views = [view(0, last_assigned=4), view(1, last_assigned=2), view(2, last_assigned=3)]
    assert picked(policy.select([job()], views, 0.0)) == 1
    views[1] = view(1, last_assigned=2, state=BackendState.DOWN)
    assert picked(policy.select([job()], views, 0.0)) == 2


def test_sticky_keeps_a_client_on_one_gpu_and_moves_it_only_when_that_is_down() -> None:
    policy = StickyByClient()
    views = [view(n) for n in range(4)]
    homes = {name: picked(policy.select([job(client_id=name)], views, 0.0)) for name in map(str, range(40))}
    assert set(homes.values()) == {0, 1, 2, 3}
    busy = [view(n, running=1, pending=1) if n == homes["7"] else view(n) for n in range(4)]
    assert policy.select([job(client_id="7")], busy, 0.0) is None
    down = [view(n, state=BackendState.DOWN) if n == homes["7"] else view(n) for n in range(4)]
    moved = {name: picked(policy.select([job(client_id=name)], down, 0.0)) for name in homes}
    assert moved["7"] not in (None, homes["7"])
    assert all(moved[name] == home for name, home in homes.items() if home != homes["7"])


def test_sticky_lets_others_pass_a_client_that_waits_for_its_gpu() -> None:
    policy = StickyByClient()
    views = [view(n) for n in range(2)]
    clients = [str(n) for n in range(20)]
    home = {name: picked(policy.select([job(client_id=name)], views, 0.0)) for name in clients}
    waits = next(name for name in clients if home[name] == 0)
    other = next(name for name in clients if home[name] == 1)
    busy = [view(0, running=1, pending=1), view(1)]
    choice = policy.select([job(client_id=waits), job(client_id=other)], busy, 0.0)
    assert choice is not None
    assert choice.job.client_id == other


def test_a_backend_takes_prefetch_jobs_and_one_more_that_belongs_before_them() -> None:
    holding = view(0, active=((5.0, 1), (6.0, 2)), prefetch=2)
    assert not holding.accepts(job(number=7))
    assert holding.accepts(job(number=-1))
    assert not view(0, active=((5.0, 1), (6.0, 2), (-1.0, 3)), prefetch=2).accepts(job(number=-2))
    assert not view(0).accepts(job(targets=[1]))
    assert not view(0, state=BackendState.STARTING).accepts(job())


def test_pinned_jobs_do_not_block_those_behind_them() -> None:
    full, free = view(0, running=1, pending=1), view(1)
    pinned, other = job(targets=[0]), job()
    choice = LeastLoaded().select([pinned, other], [full, free], 0.0)
    assert choice == Choice(other, 1)


def test_a_long_queue_is_not_searched_when_no_gpu_could_take_any_of_it() -> None:
    class Watched(list[Job]):
        def __iter__(self) -> Iterator[Job]:
            for one in super().__iter__():
                seen.append(one)
                yield one

    seen: list[Job] = []
    full = [view(n, active=((0.0, 0), (1.0, 1))) for n in range(4)]
    assert LeastLoaded().select(Watched(job(number=10) for _ in range(100)), full, 0.0) is None
    assert len(seen) == 1
    front = job(number=0.5)
    assert LeastLoaded().select([front, *seen], full, 0.0) == Choice(front, 0)


def one_after_the_other(policy: InOrder, waiting: Sequence[Job], backends: Sequence[BackendView]) -> Choice | None:
    for one in waiting:
        candidates = [each for each in backends if each.accepts(one)]
        picked = policy.pick(one, candidates, backends) if candidates else None
        if picked is not None:
            return Choice(one, picked.gpu_id)
    return None


@pytest.mark.parametrize("policy", [LeastLoaded(), StickyByClient()])
@pytest.mark.parametrize("seed", range(20))
def test_it_is_as_if_each_job_were_asked_about(policy: InOrder, seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(20):
        waiting = [
            job(number=number, targets=dice.choice([[0], [1], [0, 1], [2]]), client_id=dice.choice([None, *"abc"]))
            for number in sorted(dice.choice([-1.0, 1.0, dice.uniform(0, 9)]) for _ in range(dice.randrange(9)))
        ]
        backends = [
            view(n, active=tuple((dice.uniform(-2, 9), 0) for _ in range(dice.randrange(4))), prefetch=2)
            for n in range(dice.randrange(4))
        ]
        expected = one_after_the_other(policy, waiting, backends)
        assert policy.select(waiting, backends, 0.0) == expected


def test_among_gates_the_job_that_would_run_first_wins() -> None:
    policy = LeastLoaded()
    gates = [GateRouting("gpu-0", (0,), policy), GateRouting("hub", (0, 1), policy)]
    mine, hubs = job(gate="gpu-0", targets=[0], number=5), job(gate="hub", targets=[0, 1], number=4)
    views = {0: view(0), 1: view(1, state=BackendState.DOWN)}
    waiting = {"gpu-0": [mine], "hub": [hubs]}
    assert next_choice(gates, waiting, views, 0.0) == Choice(hubs, 0)
    assert next_choice(gates, {"gpu-0": [mine]}, views, 0.0) == Choice(mine, 0)
    assert next_choice(gates, waiting, {0: view(0, running=1, pending=1), 1: views[1]}, 0.0) is None


def test_a_policy_that_chooses_a_full_backend_is_not_followed() -> None:
    @implementer(IRoutingPolicy)
    class Stubborn:
        def select(self, waiting: Sequence[Job], backends: Sequence[BackendView], now: float) -> Choice | None:
            return Choice(waiting[0], 0)

    gates = [GateRouting("hub", (0, 1), Stubborn())]
    views = {0: view(0, running=1, pending=1), 1: view(1)}
    assert next_choice(gates, {"hub": [job()]}, views, 0.0) is None


def test_a_policy_that_fails_or_names_no_gpu_of_its_gate_stops_no_other_gate() -> None:
    @implementer(IRoutingPolicy)
    class Broken:
        def select(self, waiting: Sequence[Job], backends: Sequence[BackendView], now: float) -> Choice | None:
            raise RuntimeError("a mistake in a user's own file")

    @implementer(IRoutingPolicy)
    class Astray:
        def select(self, waiting: Sequence[Job], backends: Sequence[BackendView], now: float) -> Choice | None:
            return Choice(waiting[0], 9)

    views = {0: view(0), 1: view(1)}
    fine = job(gate="fine")
    for policy in (Broken(), Astray()):
        odd = GateRouting("odd", (0, 1), policy)
        gates = [odd, GateRouting("fine", (0, 1), LeastLoaded())]
        assert next_choice(gates, {"odd": [job(gate="odd")], "fine": [fine]}, views, 0.0) == Choice(fine, 0)
        assert expected_gpu(odd, job(targets=[1]), views, 0.0) == 1


def test_the_expected_gpu_is_where_the_policy_would_send_it_with_room_everywhere() -> None:
    gate = GateRouting("hub", (0, 1), LeastLoaded())
    views = {0: view(0, running=1, pending=1), 1: view(1, running=1, pending=5)}
    assert expected_gpu(gate, job(), views, 0.0) == 0
    assert expected_gpu(gate, job(targets=[1]), views, 0.0) == 1
    assert expected_gpu(gate, job(targets=[1]), {0: views[0], 1: view(1, state=BackendState.DOWN)}, 0.0) is None


def test_interrupts_are_looked_up_in_the_books_or_everywhere() -> None:
    views = [view(0), view(1, state=BackendState.DOWN), view(2)]
    assert list(LedgerLookup().candidates("x", job(), 2, views)) == [2]
    assert list(LedgerLookup().candidates("x", None, None, views)) == [0, 2]
    assert list(AskAll().candidates("x", job(), 2, views)) == [2, 0]


def test_built_in_policies_are_found_by_name_and_keep_their_promises() -> None:
    policies = Policies.installed()
    assert [maker.name for maker in policies.makers("routing")] == [
        *("affinity", "fair", "least-loaded", "most-free-memory", "round-robin", "sticky-by-client", "weighted")
    ]
    assert [maker.name for maker in policies.makers("interrupt")] == ["ask-all", "ledger"]
    for maker in policies.makers("routing"):
        verifyObject(IRoutingPolicy, policies.make("routing", maker.name, {}))
    for maker in policies.makers("interrupt"):
        verifyObject(IInterruptPolicy, policies.make("interrupt", maker.name, {}))


class NotAPolicy:
    pass


def test_mistakes_are_answered_with_what_is_known() -> None:
    policies = Policies.installed()
    with pytest.raises(PolicyError, match="known are: affinity, fair, least-loaded, "):
        policies.make("routing", "fastest", {})
    with pytest.raises(PolicyError, match="takes no arguments, and got bias=3"):
        policies.make("routing", "least-loaded", {"bias": "3"})
    wrong = Policies([PolicyMaker(name="wrong", dotted=f"{__name__}.NotAPolicy", help="")])
    with pytest.raises(PolicyError, match="not a IRoutingPolicy"):
        wrong.make("routing", "wrong", {})


def test_one_that_is_drained_is_expected_to_run_what_no_other_may() -> None:
    hub = GateRouting("hub", (0, 1, 2), LeastLoaded())
    views = {
        0: evolve(view(0), draining=True),
        1: view(1, running=1, pending=5),
        2: view(2, state=BackendState.DOWN),
    }
    assert expected_gpu(hub, job(), views, 0.0) == 1
    assert expected_gpu(hub, job(targets=[0]), views, 0.0) == 0
    assert expected_gpu(hub, job(targets=[2]), views, 0.0) is None
    views[1] = view(1, state=BackendState.DOWN)
    assert expected_gpu(hub, job(), views, 0.0) == 0
    assert next_choice([hub], {"hub": [job()]}, views, 0.0) is None
    views[0] = evolve(view(0, state=BackendState.DOWN), draining=True)
    assert expected_gpu(hub, job(), views, 0.0) is None


def test_the_documentation_has_every_policy_with_its_arguments() -> None:
    text = (Path(__file__).parents[2] / "docs" / "policies.md").read_text(encoding="utf-8")
    table = text.partition("## affinity")[0]
    rows = {line.split("`")[1]: line for line in table.splitlines() if line.startswith("| `")}
    for maker in Policies.installed().makers("routing"):
        for argument in filter(None, maker.arguments.partition(" ")[0].rstrip(",").split(",")):
            assert argument in rows[maker.name], f"{maker.name}: {argument}"
        assert maker.name in rows
