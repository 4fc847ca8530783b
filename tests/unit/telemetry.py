"""A control plane over fake backends that is watched, with figures that the test sets."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count

from attrs import define, field
from twisted.internet.defer import execute

from comfygate.backend.readings import Reading, Readings
from comfygate.control.chronicle import Chronicle
from comfygate.control.outcomes import Outcomes
from comfygate.control.status import Status, Telemetry
from comfygate.gate.tally import GateFigures, Tally
from comfygate.model import Job
from tests.unit.fakes import House

BORN = 1_800_000_000.0


@define
class FakeDevices:
    found: Mapping[int, Reading] = field(factory=dict)

    def read(self, pids: Mapping[int, int]) -> Mapping[int, Reading]:
        return self.found

    def close(self) -> None: ...


class Observed(House):
    reading = Reading(memory_used=5_000, memory_total=9_000, utilisation=0.5, temperature=60.0, process_memory=7_000)

    def __init__(self, gpus: int = 2) -> None:
        super().__init__(gpus)
        self.reconciler.stop()  # what happens to jobs is for the test to say
        self.tallies = {name: Tally() for name in self.books.gates}
        self.outcomes = Outcomes(range(gpus), self.tallies, self.clock, self.wall_clock)
        self.chronicle = Chronicle(range(gpus), self.wall_clock)
        self.ledger.subscribe(self.outcomes)
        self.ledger.subscribe(self.chronicle)
        for backend in self.backends:
            backend.subscribe(self.chronicle)
        self.devices = FakeDevices()
        self.readings = Readings(self.clock, execute, self.devices, dict)
        self.telemetry = Telemetry(
            books=self.books,
            outcomes=self.outcomes,
            chronicle=self.chronicle,
            readings=self.readings,
            gates=self.figures,
            ports={n: 8181 + n for n in range(gpus)},
            wall_clock=self.wall_clock,
        )
        self.status = Status(self.telemetry)
        self._sequence = count()

    def wall_clock(self) -> float:
        return BORN + self.clock.seconds()

    def figures(self) -> list[GateFigures]:
        gates = self.books.gates.values()
        return [GateFigures(gate.name, 8181, gate.gpu_ids, self.tallies[gate.name], 7) for gate in gates]

    def refresh(self) -> None:
        """Read the devices anew."""
        self.clock.advance(10)
        assert self.readings.refresh().called

    def accept(self, *prompt_ids: str, gate: str = "hub", expected: int = 0, client_id: str = "me") -> list[Job]:
        """Let prompts wait; nothing hands them over."""
        jobs = [
            Job(
                prompt_id=prompt_id,
                number=0,
                sequence=next(self._sequence),
                gate=gate,
                targets=frozenset({0, 1}),
                expected=expected,
                client_id=client_id,
            )
            for prompt_id in prompt_ids
        ]
        for job in jobs:
            self.ledger.accept(job)
        return jobs
