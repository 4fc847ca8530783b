"""The GPUs of a gate at one moment, and what policies ask of them again and again."""

from __future__ import annotations

from collections.abc import Iterable
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

    def load_seconds(self, view: BackendView, models: frozenset[str]) -> float:
        """See :meth:`comfygate.model.BackendView.load_seconds`."""
        key = (view.gpu_id, models)
        found = self._loads.get(key)
        if found is None:
            found = self._loads[key] = view.load_seconds(models)
        return found

    def least_load(self, model: str) -> float:
        """Seconds until a model is loaded where that takes least: none, if a GPU will have it."""
        found = self._least_loads.get(model)
        if found is None:
            each = [0.0 if model in view.loaded else view.estimates.load(model) for view in self]
            found = self._least_loads[model] = min(each)
        return found

    def longest_run(self, job: Job) -> float:
        """Seconds that a job takes on the slowest of them, where its models are loaded."""
        found = self._longest_runs.get(job.shape)
        if found is None:
            found = self._longest_runs[job.shape] = max(view.estimates.run(job) for view in self)
        return found

    @cached_property
    def _loads(self) -> dict[tuple[int, frozenset[str]], float]:
        return {}

    @cached_property
    def _least_loads(self) -> dict[str, float]:
        return {}

    @cached_property
    def _longest_runs(self) -> dict[str, float]:
        return {}


def free_first(views: Iterable[BackendView]) -> list[BackendView]:
    """These, in the order in which they will have run what they hold."""
    return sorted(views, key=lambda view: (len(view.active), view.backlog, view.gpu_id))
