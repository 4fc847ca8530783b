"""Waiting jobs find new places when gates and GPUs go, and come back."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import capturedLogs, formatEvent

from comfygate.control.resettle import Resettlement
from comfygate.control.worklist import Worklist
from comfygate.ledger import NOWHERE
from comfygate.model import BackendState, Job, JobState
from comfygate.routing.assignment import GateRouting
from comfygate.routing.least_loaded import LeastLoaded
from tests.unit.fakes import House, body, new_id
from tests.unit.test_control import submit


class Moving(House):
    """One whose gates and GPUs change; nothing is handed over unless a test wants it."""

    def __init__(self, gpus: int = 2) -> None:
        super().__init__(gpus)
        self.resettlement = Resettlement(self.books)
        self.ledger.subscribe(self.resettlement)
        self._sequence = 0

    def have(self, **gates: tuple[int, ...]) -> None:
        """These are the gates from now on; names with _ for -."""
        names = {name.replace("_", "-"): gpu_ids for name, gpu_ids in gates.items()}
        self.books.gates = {name: GateRouting(name, gpu_ids, LeastLoaded()) for name, gpu_ids in names.items()}

    def wait(self, gate: str, *targets: int) -> str:
        """A job waits."""
        self._sequence += 1
        job = Job(
            prompt_id=new_id(),
            number=self._sequence,
            sequence=self._sequence,
            gate=gate,
            targets=frozenset(targets),
            expected=targets[0],
        )
        self.ledger.accept(job)
        return job.prompt_id

    def place(self, prompt_id: str) -> tuple[str, int]:
        job = self.ledger.waiting.get(prompt_id)
        return job.gate, job.expected

    def settle(self) -> list[str]:
        """Settle, and say what the log says."""
        with capturedLogs() as events:
            self.resettlement.settle()
        return [str(formatEvent(event)) for event in events]


def full(house: House) -> None:
    for backend in house.backends:
        backend.become(BackendState.DOWN)
    house.turn()


def test_what_has_its_place_keeps_it() -> None:
    house = Moving()
    full(house)
    ids = [house.wait("hub", 0, 1), house.wait("gpu-1", 1)]
    noted = len(house.journal.noted)
    assert house.settle() == []
    assert [house.place(one) for one in ids] == [("hub", 0), ("gpu-1", 1)]
    assert len(house.journal.noted) == noted, "nothing is written down that did not change"


def test_the_jobs_of_a_gate_that_is_gone_go_on_in_their_old_order() -> None:
    house = Moving()
    full(house)
    house.have(gpu_0=(0,), gpu_1=(1,), hub=(0, 1), pair=(0, 1))
    ids = [house.wait("pair", 0, 1) for _ in range(3)]
    house.have(gpu_0=(0,), gpu_1=(1,), hub=(0, 1))
    assert house.settle() == ["3 prompts that waited at pair go on at hub"]
    assert [job.prompt_id for job in house.ledger.waiting.of_gate("hub")] == ids
    assert house.journal.noted[-1] == (ids[-1], JobState.WAITING, None)


def test_the_jobs_of_a_gpu_that_is_gone_go_to_those_that_are_left() -> None:
    house = Moving(3)
    full(house)
    one, two = house.wait("hub", 2, 0, 1), house.wait("hub", 2, 1)
    house.have(gpu_0=(0,), gpu_1=(1,), hub=(0, 1))
    assert house.settle() == []
    assert house.place(one)[0] == house.place(two)[0] == "hub"
    assert house.place(one)[1] in (0, 1)
    assert house.place(two)[1] == 1
    assert house.ledger.expected_count(2) == 0


def test_they_are_spread_over_what_is_left() -> None:
    house = Moving(3)
    house.books.draining |= {0, 1, 2}
    house.have(gpu_0=(0,), gpu_1=(1,), gpu_2=(2,), hub=(0, 1, 2))
    ids = [house.wait("hub", 2, 0, 1) for _ in range(6)]
    house.books.draining.clear()
    house.have(gpu_0=(0,), gpu_1=(1,), hub=(0, 1))
    house.settle()
    places = [house.place(one)[1] for one in ids]
    assert (places.count(0), places.count(1)) == (3, 3)


def test_a_set_that_no_longer_holds_any_target_is_as_good_as_gone() -> None:
    house = Moving()
    full(house)
    house.have(gpu_0=(0,), gpu_1=(1,), fast=(0,))
    one = house.wait("fast", 0)
    house.have(gpu_0=(0,), gpu_1=(1,), fast=(1,))
    house.settle()
    assert house.place(one) == ("gpu-0", 0)


def test_what_nobody_may_run_is_kept_and_told_once_and_goes_on_when_its_gpu_is_back() -> None:
    house = Moving()
    full(house)
    ids = [house.wait("gpu-1", 1) for _ in range(2)]
    house.have(gpu_0=(0,), hub=(0,))
    (warning,) = house.settle()
    assert warning.startswith("2 prompts wait for GPUs that are gone (1): put these back into the configuration, or")
    assert [house.place(one) for one in ids] == [("gpu-1", NOWHERE)] * 2
    assert house.ledger.expected_count(1) == 0
    listed = [(job["prompt_id"], job["gpu_id"], job["targets"]) for job in Worklist(house.books).jobs()]
    assert listed == [(one, None, [1]) for one in ids]
    house.turn()
    assert house.settle() == []
    assert len(house.ledger.waiting) == 2
    house.have(gpu_0=(0,), gpu_1=(1,), hub=(0, 1))
    assert house.settle() == []
    assert [house.place(one) for one in ids] == [("gpu-1", 1)] * 2
    # Taken away once more, that is told once more.
    house.have(gpu_0=(0,), hub=(0,))
    assert len(house.settle()) == 1


def test_what_comes_to_wait_at_a_gate_that_is_gone_by_then_is_settled_by_itself() -> None:
    house = Moving()
    house.have(gpu_0=(0,), gpu_1=(1,), hub=(0, 1), fast=(0, 1))
    house.backends[0].client.pause = house.backends[1].client.pause = pause = Deferred[None]()
    told: list[Any] = []
    asked = Deferred.fromCoroutine(house.acceptance.submit(house.books.gates["fast"], body(), None))
    asked.addCallback(told.append)
    house.have(gpu_0=(0,), gpu_1=(1,), hub=(0, 1))
    full(house)
    pause.callback(None)
    house.turn()
    assert told[0].status == 200
    (job,) = house.ledger.waiting
    assert job.gate == "hub"


def test_what_a_lost_backend_held_for_a_gate_that_is_gone_goes_on_too() -> None:
    house = Moving()
    house.have(gpu_0=(0,), gpu_1=(1,), hub=(0, 1), fast=(1,))
    prompt_id = submit(house, house.books.gates["fast"])["prompt_id"]
    house.turn()
    assert house.ledger.held(prompt_id) is not None
    house.have(gpu_0=(0,), gpu_1=(1,), hub=(0, 1))
    house.backends[1].become(BackendState.DOWN)
    house.turn()
    assert house.place(prompt_id) == ("gpu-1", 1)
    house.backends[1].become(BackendState.READY)
    house.turn()
    assert house.finish(1) == prompt_id


def test_an_interrupt_finds_what_is_listed_nowhere() -> None:
    house = Moving()
    full(house)
    one = house.wait("gpu-1", 1)
    house.have(gpu_0=(0,), hub=(0,))
    house.settle()
    found: list[Any] = []
    Deferred.fromCoroutine(house.interrupts.prompt(one)).addCallback(found.append)
    assert (found[0].gpu_id, found[0].state) == (None, "pending")
