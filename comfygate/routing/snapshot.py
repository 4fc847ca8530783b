"""The GPUs of a gate at one moment, and what policies ask of them again and again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

from comfygate.model import BackendView, Job


class Snapshot(tuple[BackendView, ...]):
    """The views of a gate's GPUs; nothing is reckoned twice, for however many lines it is asked."""

    @classmethod
    def of(cls, backends: Iterable[BackendView]) -> Snapshot:
        """`backends` itself, if it is a snapshot; else a new one of these."""
        return backends if isinstance(backends, Snapshot) else cls(backends)

    @cached_property
    def available(self) -> list[BackendView]:
        """Those that take jobs at all."""
        return [view for view in self if view.available]

    @cached_property
    def taking(self) -> list[BackendView]:
        """Those that have room for any job, those first that are free first."""
        return free_first(view for view in self.available if len(view.active) < view.prefetch)

    def loads(self, models: frozenset[str]) -> Mapping[int, float]:
        """By gpu_id, the seconds until these are loaded, once what it holds has run."""
        found = self._loads.get(models)
        if found is None:
            each = zip(*map(self._load, models), strict=True) if models else [()] * len(self)
            found = self._loads[models] = {view.gpu_id: sum(few) for view, few in zip(self, each, strict=True)}
        return found

    def longest_run(self, job: Job) -> float:
        """Seconds that a job takes on the slowest of them, where its models are loaded."""
        found = self._runs.get(job.shape)
        if found is None:
            found = self._runs[job.shape] = max(view.estimates.run(job) for view in self)
        return found

    def _load(self, model: str) -> Sequence[float]:
        found = self._load_each.get(model)
        if found is None:
            found = [0.0 if model in view.loaded else view.estimates.load(model) for view in self]
            self._load_each[model] = found
        return found

    @cached_property
    def _loads(self) -> dict[frozenset[str], Mapping[int, float]]:
        return {}

    @cached_property
    def _load_each(self) -> dict[str, Sequence[float]]:
        return {}

    @cached_property
    def _runs(self) -> dict[str, float]:
        return {}


def free_first(views: Iterable[BackendView]) -> list[BackendView]:
    """These, in the order in which they will have run what they hold."""
    return sorted(views, key=lambda view: (len(view.active), view.backlog, view.gpu_id))
