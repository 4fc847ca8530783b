"""What runs and loads cost, learned from those that ended."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable

from attrs import frozen

from comfygate.model import Guess, Job

NEWEST = 0.3
"""The share of the newest value in a moving average."""

MOST = 4_096
"""Averages that each table keeps; what got no new value for longest is forgotten first."""

_UNKNOWN = Guess()


class Averages:
    """Moving averages by key, a bounded number of them."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._values: OrderedDict[Hashable, float] = OrderedDict()

    def get(self, key: Hashable) -> float | None:
        """The average, if there is one."""
        return self._values.get(key)

    def add(self, key: Hashable, value: float) -> None:
        """Let a new value count."""
        old = self._values.get(key)
        self._values[key] = value if old is None else old + NEWEST * (value - old)
        self._values.move_to_end(key)
        if len(self._values) > self._most:
            self._values.popitem(last=False)


@frozen
class _Unsettled:
    missing: frozenset[str]
    seconds: float


class Costs:
    """Averages of run times by shape and GPU, of load times by model and GPU, and what to take where one is missing.

    A run that had to load tells what loading costs only once it is known how
    long the same shape runs without; until then it is kept.
    """

    def __init__(self) -> None:
        self._runs = Averages()
        self._loads = Averages()
        self._unsettled: OrderedDict[tuple[str, int], _Unsettled] = OrderedDict()

    def on(self, gpu_id: int) -> GpuCosts:
        """What jobs cost on one GPU."""
        return GpuCosts(self, gpu_id)

    def ran(self, job: Job, gpu_id: int, seconds: float, missing: Iterable[str]) -> None:
        """A job ended well.

        :param seconds: from the moment when the GPU had nothing else to do.
        :param missing: those of its models that were not loaded when it began.
        """
        lacking = frozenset(missing)
        key = (job.shape, gpu_id)
        if lacking:
            run = self._known_run(job.shape, gpu_id)
            if run is None:
                self._unsettled[key] = _Unsettled(lacking, seconds)
                if len(self._unsettled) > MOST:
                    self._unsettled.popitem(last=False)
            else:
                self._loaded(gpu_id, lacking, seconds - run)
            return
        for known in (key, job.shape, None):
            self._runs.add(known, seconds)
        unsettled = self._unsettled.pop(key, None)
        if unsettled is not None:
            self._loaded(gpu_id, unsettled.missing, unsettled.seconds - seconds)

    def run(self, job: Job, gpu_id: int) -> float:
        """Seconds that a job takes where its models are loaded."""
        known = self._known_run(job.shape, gpu_id)
        if known is None:
            known = self._runs.get(None)
        return _UNKNOWN.run(job) if known is None else known

    def load(self, model: str, gpu_id: int) -> float:
        """Seconds that it takes to load a model file."""
        for key in ((model, gpu_id), model, None):
            known = self._loads.get(key)
            if known is not None:
                return known
        return _UNKNOWN.load(model)

    def _known_run(self, shape: str, gpu_id: int) -> float | None:
        known = self._runs.get((shape, gpu_id))
        return self._runs.get(shape) if known is None else known

    def _loaded(self, gpu_id: int, models: frozenset[str], seconds: float) -> None:
        # What several took together is divided as they were expected to take.
        spent = max(0.0, seconds)
        expected = {model: max(0.001, self.load(model, gpu_id)) for model in models}
        whole = sum(expected.values())
        for model, share in expected.items():
            each = spent * share / whole
            for key in ((model, gpu_id), model, None):
                self._loads.add(key, each)


@frozen
class GpuCosts:
    """Provides :class:`comfygate.model.Estimates` for one GPU."""

    costs: Costs
    gpu_id: int

    def run(self, job: Job) -> float:
        """See :meth:`comfygate.model.Estimates.run`."""
        return self.costs.run(job, self.gpu_id)

    def load(self, model: str) -> float:
        """See :meth:`comfygate.model.Estimates.load`."""
        return self.costs.load(model, self.gpu_id)
