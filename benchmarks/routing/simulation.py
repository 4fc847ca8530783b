"""A pure policy in simulated time: the daemon's own queue, costs and policies, without a daemon."""

from __future__ import annotations

import heapq
from collections import defaultdict
from typing import Any

from attrs import define, field, frozen

from benchmarks.routing.load import GPUS, Load, Prompt
from comfygate.interfaces import IRoutingPolicy
from comfygate.line import Line
from comfygate.model import BackendView, Job
from comfygate.routing.assignment import GateRouting, next_choice
from comfygate.routing.costs import Costs
from comfygate.routing.shares import Shares

PREFETCH = 2


@frozen
class Outcome:
    """What became of a load; all in run times.

    :ivar waits: from arrival to begin, by prompt.
    :ivar overtaken: how often each prompt was, at most; ``None`` where nobody counted.
    """

    makespan: float
    waits: tuple[float, ...]
    loads: int
    overtaken: int | None

    @property
    def p95(self) -> float:
        return sorted(self.waits)[int(0.95 * len(self.waits))]

    @property
    def worst(self) -> float:
        return max(self.waits)


@define
class _Gpu:
    """Runs what it is handed, in order; holds one model."""

    gpu_id: int
    model: str | None = None
    held: list[Job] = field(factory=list)
    since: float = 0.0
    missing: tuple[str, ...] = ()


def bound_on_arrival(load: Load, choice: str) -> Outcome:
    """What nginx, and clients that balance by themselves, do: each prompt goes to a GPU's own queue as it arrives.

    :param choice: ``round-robin on arrival`` or ``shortest queue on arrival``.
    """
    ends: list[list[float]] = [[] for _ in range(GPUS)]
    models: list[str | None] = [None] * GPUS
    waits, loads = [], 0
    for prompt in load.prompts:
        if choice == "round-robin on arrival":
            gpu = prompt.number % GPUS
        else:
            gpu = min(range(GPUS), key=lambda gpu: (sum(end > prompt.arrives for end in ends[gpu]), gpu))
        begins = max(prompt.arrives, ends[gpu][-1] if ends[gpu] else 0.0)
        waits.append(begins - prompt.arrives)
        takes = 1.0
        if models[gpu] != prompt.model:
            takes += load.loads[prompt.model]
            models[gpu] = prompt.model
            loads += 1
        ends[gpu].append(begins + takes)
    return Outcome(max(one[-1] for one in ends if one), tuple(waits), loads, 0)


class Simulation:
    """One gate over GPUs that hold one model each, with a prefetch of two, as the daemon runs it."""

    def __init__(self, load: Load, policy: IRoutingPolicy, run_seconds: float = 10.0) -> None:
        self._load = load
        self._unit = run_seconds
        self._routing = GateRouting("hub", tuple(range(GPUS)), policy)
        self._shares, self._turns = Shares(), Shares()
        self._line = Line((), self._shares.due)
        self._costs = Costs()
        self._gpus = [_Gpu(gpu_id) for gpu_id in range(GPUS)]
        self._last_assigned: dict[int, int] = defaultdict(lambda: -1)
        self._assignments = 0
        self._waits: dict[str, float] = {}
        self._arrived: dict[str, float] = {}
        self._loads = 0
        self._overtaken = 0
        self._events: list[tuple[float, int, int, Any]] = []
        self._now = 0.0

    def run(self) -> Outcome:
        for prompt in self._load.prompts:
            self._push(prompt.arrives * self._unit, 0, prompt)
        while self._events:
            self._now = self._events[0][0]
            while self._events and self._events[0][0] == self._now:
                _, kind, _, what = heapq.heappop(self._events)
                self._arrive(what) if kind == 0 else self._end(self._gpus[what])
            self._dispatch()
        assert not self._line, "the policy left jobs behind"
        waits = tuple(wait / self._unit for wait in self._waits.values())
        return Outcome(self._now / self._unit, waits, self._loads, self._overtaken)

    def _push(self, when: float, kind: int, what: Any) -> None:
        heapq.heappush(self._events, (when, kind, len(self._events) + self._assignments * 1000, what))

    def _arrive(self, prompt: Prompt) -> None:
        job = Job(
            prompt_id=str(prompt.number),
            number=prompt.number,
            sequence=prompt.number,
            gate="hub",
            targets=frozenset(range(GPUS)),
            expected=-1,
            client_id=prompt.client,
            models=frozenset({prompt.model}),
            shape=prompt.model,
        )
        self._arrived[job.prompt_id] = self._now
        self._line.add(job)

    def _view(self, gpu: _Gpu) -> BackendView:
        costs = self._costs.on(gpu.gpu_id)
        backlog, model = 0.0, gpu.model
        for place, job in enumerate(gpu.held):
            (own,) = job.models
            missing = gpu.missing if not place else (() if own == model else (own,))
            seconds = costs.run(job) + sum(map(costs.load, missing))
            backlog += max(0.0, seconds - (self._now - gpu.since)) if not place else seconds
            model = own
        return BackendView(
            gpu_id=gpu.gpu_id,
            active=tuple(job.order for job in gpu.held),
            running=min(1, len(gpu.held)),
            pending=max(0, len(gpu.held) - 1),
            prefetch=PREFETCH,
            last_assigned=self._last_assigned[gpu.gpu_id],
            loaded=() if model is None else (model,),
            backlog=backlog,
            turn=self._turns.due(gpu.gpu_id),
            estimates=costs,
        )

    def _dispatch(self) -> None:
        views = {gpu.gpu_id: self._view(gpu) for gpu in self._gpus}
        while True:
            choice = next_choice([self._routing], {"hub": self._line}, views, self._now)
            if choice is None:
                return
            job, gpu = choice.job, self._gpus[choice.gpu_id]
            view = views[gpu.gpu_id]
            seconds = view.estimates.run(job) + view.load_seconds(job.models)
            self._overtaken = max(self._overtaken, self._line.overtaken(job)[0])
            self._line.hand_over(job, gpu.gpu_id, seconds)
            self._line.remove(job)
            self._shares.charge(job.client, seconds)
            self._turns.charge(gpu.gpu_id, 1.0)
            self._last_assigned[gpu.gpu_id] = self._assignments
            self._assignments += 1
            gpu.held.append(job)
            if len(gpu.held) == 1:
                self._begin(gpu)
            views[gpu.gpu_id] = self._view(gpu)

    def _begin(self, gpu: _Gpu) -> None:
        job = gpu.held[0]
        (model,) = job.models
        gpu.since = self._now
        gpu.missing = () if gpu.model == model else (model,)
        self._loads += len(gpu.missing)
        gpu.model = model
        self._waits[job.prompt_id] = self._now - self._arrived[job.prompt_id]
        takes = 1.0 + sum(self._load.loads[one] for one in gpu.missing)
        self._push(self._now + takes * self._unit, 1, gpu.gpu_id)

    def _end(self, gpu: _Gpu) -> None:
        job = gpu.held.pop(0)
        self._costs.ran(job, gpu.gpu_id, self._now - gpu.since, gpu.missing)
        if gpu.held:
            self._begin(gpu)


def simulate(load: Load, policy: IRoutingPolicy) -> Outcome:
    return Simulation(load, policy).run()
