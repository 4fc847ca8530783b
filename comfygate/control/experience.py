"""What policies know besides the queue, kept up to date by events: what GPUs hold, and what jobs cost."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping

from attrs import define, evolve, field
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from zope.interface import implementer

from comfygate.backend.fleet import Fleet
from comfygate.interfaces import IBackend, IBackendListener, IJobListener
from comfygate.ledger import Ledger
from comfygate.model import BackendView, Job, JobState
from comfygate.routing.costs import Costs
from comfygate.routing.shares import Shares

_MOST_NAMES = 4_096
"""Names of models that are remembered for a GPU, so that it is known which ones it tells of."""

_LEFT = 0.1
"""The part of a run that is expected to be left at least, while it has not ended."""

_HELD = frozenset({JobState.SENT, JobState.UNCLEAR, JobState.PENDING, JobState.RUNNING})


@define
class _Gpu:
    """What is known of one GPU.

    :ivar last: the models of the job that ended there last.
    :ivar told: names of models that it has told of; of others it may hold some
        without telling, such as LoRAs.
    :ivar held: when each job was handed over, in that order.
    :ivar free_since: when the last of its jobs ended.
    """

    last: frozenset[str] = frozenset()
    told: OrderedDict[str, None] = field(factory=OrderedDict)
    held: dict[str, float] = field(factory=dict)
    free_since: float = 0.0

    def tells_of(self, models: tuple[str, ...]) -> None:
        for model in models:
            self.told[model] = None
            self.told.move_to_end(model)
        while len(self.told) > _MOST_NAMES:
            self.told.popitem(last=False)


@implementer(IJobListener, IBackendListener)
class Experience:
    """Listens to the ledger and to backends, and completes the views that policies get.

    :ivar costs: what was learned.
    :ivar weights: of GPUs; 1 for those that are not named.
    :ivar free_memory: bytes of a GPU's memory that are free, as the driver says.
    :ivar files: names of model files that some ComfyUI's loaders offer, as far as somebody has asked.
    """

    _log = Logger()

    def __init__(self, fleet: Fleet, ledger: Ledger, clock: IReactorTime) -> None:
        self.costs = Costs()
        self.weights: Mapping[int, float] = {}
        self.free_memory: Callable[[int], int | None] = lambda gpu_id: None
        self.files: frozenset[str] = frozenset()
        self._fleet = fleet
        self._ledger = ledger
        self._clock = clock
        self._turns = Shares()
        self._gpus: defaultdict[int, _Gpu] = defaultdict(_Gpu)
        ledger.subscribe(self)
        fleet.subscribe(self)

    def complete(self, view: BackendView) -> BackendView:
        """A view with everything that is known of its GPU."""
        gpu_id = view.gpu_id
        loaded, backlog = self._ahead(gpu_id)
        holding = self._fleet[gpu_id].holding
        free = None if holding is None else holding.free_memory
        return evolve(
            view,
            loaded=loaded,
            backlog=backlog,
            free_memory=self.free_memory(gpu_id) if free is None else free,
            weight=self.weights.get(gpu_id, 1.0),
            turn=self._turns.due(gpu_id),
            estimates=self.costs.on(gpu_id),
        )

    def loaded(self, gpu_id: int) -> tuple[str, ...]:
        """The model files in a GPU's memory now, as far as is known, those used last at the end."""
        gpu = self._gpus[gpu_id]
        holding = self._fleet[gpu_id].holding
        return tuple(sorted(gpu.last)) if holding is None else _together(gpu, holding.models)

    def job_changed(
        self, job: Job, state: JobState, gpu_id: int | None, reason: str | None, record: bytes | None
    ) -> None:
        """See :class:`comfygate.interfaces.IJobListener`."""
        if gpu_id is not None and state in _HELD:
            held = self._gpus[gpu_id].held
            if job.prompt_id not in held:
                held[job.prompt_id] = self._clock.seconds()
                self._turns.charge(gpu_id, 1.0 / self.weights.get(gpu_id, 1.0))
            return
        for there, gpu in self._gpus.items():
            begun = gpu.held.pop(job.prompt_id, None)
            if begun is not None:
                if state is JobState.DONE:
                    self._learn(job, there, self._clock.seconds() - max(begun, gpu.free_since))
                if state.ended:
                    gpu.free_since = self._clock.seconds()
                    gpu.last = job.models

    def job_refused(self, job: Job) -> None:
        """See :class:`comfygate.interfaces.IJobListener`."""
        for gpu in self._gpus.values():
            gpu.held.pop(job.prompt_id, None)

    def backend_changed(self, backend: IBackend) -> None:
        """See :class:`comfygate.interfaces.IBackendListener`: what a process held is gone with it."""
        self._gpus[backend.gpu_id].last = frozenset()

    def queue_changed(self, backend: IBackend, remaining: int) -> None:
        """See :class:`comfygate.interfaces.IBackendListener`."""
        if backend.holding is not None:
            self._gpus[backend.gpu_id].tells_of(backend.holding.models)

    def _ahead(self, gpu_id: int) -> tuple[tuple[str, ...], float]:
        """What will be loaded when what a GPU holds has run, and in how many seconds that is."""
        gpu, costs = self._gpus[gpu_id], self.costs.on(gpu_id)
        holding = self._fleet[gpu_id].holding
        loaded = self.loaded(gpu_id)
        room = 0 if holding is None else len(loaded)
        backlog = 0.0
        for place, held in enumerate(self._ledger.held_by(gpu_id)):
            models = held.job.models
            seconds = costs.run(held.job) + sum(costs.load(model) for model in models if model not in loaded)
            if not place:
                since = max(gpu.held.get(held.job.prompt_id, gpu.free_since), gpu.free_since)
                seconds = max(_LEFT * seconds, seconds - (self._clock.seconds() - since))
            backlog += seconds
            kept = tuple(model for model in loaded if model not in models)
            loaded = (*kept[len(kept) - max(0, room - len(models)) :], *sorted(models)) if models else loaded
        backlog += sum(costs.run(_STRANGER) for _ in self._ledger.strangers(gpu_id))
        return loaded, backlog

    def _learn(self, job: Job, gpu_id: int, seconds: float) -> None:
        if self._ledger.strangers(gpu_id):
            return  # who knows whose time it was
        gpu = self._gpus[gpu_id]
        before = self._fleet[gpu_id].held_before.get(job.prompt_id)
        if before is None:
            missing = job.models - gpu.last
        else:
            gpu.tells_of(before)
            missing = job.models - frozenset(_together(gpu, before))
        self.costs.ran(job, gpu_id, seconds, missing)


_STRANGER = Job(prompt_id="", number=0, sequence=0, gate="", targets=frozenset(), expected=-1)


def _together(gpu: _Gpu, told: tuple[str, ...]) -> tuple[str, ...]:
    """What a GPU tells, and what of its last job's models it never tells of."""
    untold = (model for model in sorted(gpu.last) if model not in gpu.told and model not in told)
    return (*untold, *told)
