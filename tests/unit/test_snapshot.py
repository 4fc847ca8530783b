"""What policies ask of a gate's GPUs again and again."""

from attrs import define, evolve, field

from comfygate.model import Job
from comfygate.routing.snapshot import Snapshot, free_first
from comfygate.testing import job, view


@define
class Counted:
    """Costs that count how often they were asked."""

    seconds: float
    asked: list[str] = field(factory=list)

    def run(self, job: Job) -> float:
        self.asked.append(job.shape)
        return self.seconds

    def load(self, model: str) -> float:
        self.asked.append(model)
        return self.seconds


def test_a_snapshot_is_taken_as_it_is() -> None:
    gpus = Snapshot.of([view(0), view(1)])
    assert Snapshot.of(gpus) is gpus
    assert list(gpus) == [view(0), view(1)]


def test_those_that_have_room_come_in_the_order_in_which_they_are_free() -> None:
    idle, busy = view(3), view(1, running=1, backlog=5.0)
    busier, full, drained = view(0, running=1, backlog=9.0), view(2, running=2), evolve(view(4), draining=True)
    gpus = Snapshot([busier, busy, full, idle, drained])
    assert gpus.available == [busier, busy, full, idle]
    assert gpus.taking == [idle, busy, busier]
    assert free_first([view(1), view(0)]) == [view(0), view(1)]


def test_each_cost_is_asked_for_once() -> None:
    quick, slow = Counted(1.0), Counted(3.0)
    has_a, other = view(0, loaded=["a"], estimates=quick), view(5, estimates=slow)
    gpus = Snapshot([has_a, other])
    for _ in range(2):
        assert gpus.load_seconds(has_a, frozenset("ac")) == 1.0
        assert gpus.load_seconds(other, frozenset("ac")) == 6.0
        assert gpus.least_load("a") == 0.0
        assert gpus.least_load("b") == 1.0
        assert gpus.longest_run(job(shape="s")) == 3.0
    assert sorted(quick.asked) == ["b", "c", "s"]
    assert sorted(slow.asked) == ["a", "a", "b", "c", "s"]
