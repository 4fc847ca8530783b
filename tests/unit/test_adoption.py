"""Every part takes a new configuration on, whatever becomes of the others."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from twisted.logger import capturedLogs

from comfygate.adoption import Adoption
from comfygate.changes import compare
from comfygate.control.outcomes import Outcomes
from comfygate.control.resettle import Resettlement
from tests.unit.fakes import House
from tests.unit.test_changes import BASE, plan


class Noting:
    """A part that notes what it is told; all fail if one is to."""

    def __init__(self, name: str, notes: list[str], fails: bool) -> None:
        self._name, self._notes, self._fails = name, notes, fails

    def __getattr__(self, method: str) -> Any:
        def call(*arguments: Any) -> list[int]:
            self._notes.append(f"{self._name}.{method}")
            if self._fails:
                raise ValueError("oops")
            return []

        return call


def adopt(text: str, *, fails: bool = False) -> tuple[Adoption, list[str]]:
    house, notes = House(3), list[str]()
    parts: dict[str, Any] = {name: Noting(name, notes, fails) for name in ("ports", "gpus")}
    adoption = Adoption(
        books=house.books,
        outcomes=Outcomes((0, 1, 2), house.books.gates, house.clock, house.clock.seconds),
        resettlement=Resettlement(house.books),
        interrupts=house.interrupts,
        operations=house.operations,
        shutdown=SimpleNamespace(grace=0),  # type: ignore[arg-type]
        persistence=Noting("persistence", notes, False),  # type: ignore[arg-type]
        devices=SimpleNamespace(uuids={}),  # type: ignore[arg-type]
        herald=SimpleNamespace(plan=None),  # type: ignore[arg-type]
        read_ahead=SimpleNamespace(wanted=True),  # type: ignore[arg-type]
        gpu_ports={2: 8183},
        **parts,
    )
    old, new = plan(BASE), plan(BASE + text)
    with capturedLogs():
        adoption.adopt(new, compare(old, new), {})
    return adoption, notes


def test_every_part_takes_it_on_in_an_order_in_which_no_gate_has_a_gpu_that_is_not_there() -> None:
    text = "prefetch = 5\nretries = 0\nwhen_down = refuse\nmax_pending = 7\nstart_timeout = 9\nshutdown_grace = 8\n"
    text += "read_ahead = off\n"
    adoption, notes = adopt(text + "interrupt_policy = ask-all\n[gate:fast]\nport = 8190\ngpus = 1\n")
    assert notes == ["gpus.prepare", "persistence.follow", "ports.follow", "gpus.carry_out"]
    books = adoption.books
    assert not adoption.read_ahead.wanted
    assert (books.prefetch, books.retries, books.queue_when_down) == (5, 0, False)
    assert books.ledger.waiting.max_jobs == 7
    assert (adoption.operations.start_timeout, adoption.shutdown.grace) == (9, 8)
    assert books.gates["fast"].gpu_ids == (1,)
    assert adoption.outcomes.accepted["fast"] == 0
    assert type(adoption.interrupts.policy).__name__ == "AskAll"
    assert adoption.herald.plan is not None
    assert adoption.gpu_ports == {0: 8181, 1: 8182, 2: 8183}


def test_a_part_that_fails_keeps_no_other_from_it() -> None:
    adoption, notes = adopt("prefetch = 5\n", fails=True)
    assert notes == ["gpus.prepare", "persistence.follow", "ports.follow", "gpus.carry_out"]
    assert adoption.books.prefetch == 5
