"""The next assignment, over all gates: one pure function, asked whenever something changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import evolve, frozen
from twisted.logger import Logger

from comfygate.interfaces import IRoutingPolicy
from comfygate.model import BackendView, Choice, Job, Order, is_gpus_own

_log = Logger()


@frozen
class GateRouting:
    """How one gate's jobs are routed.

    :ivar gpu_ids: the gate's set.
    """

    name: str
    gpu_ids: tuple[int, ...]
    policy: IRoutingPolicy

    @property
    def merges(self) -> bool:
        """Whether it stands for several GPUs, now or later, and is no GPU's own port."""
        return not is_gpus_own(self.name)


def next_choice(
    gates: Sequence[GateRouting],
    waiting: Mapping[str, Sequence[Job]],
    views: Mapping[int, BackendView],
    now: float,
) -> Choice | None:
    """Which job goes to which GPU next.

    Each gate's policy proposes; among the proposals, that of the gate wins which
    has the job that would run first, since gates compete for the same GPUs.

    :param waiting: jobs by gate, in running order.
    :param views: all backends by gpu_id.
    :return: ``None`` if nothing can be handed over now.
    """
    proposals: list[tuple[Order, Choice]] = []
    for gate in gates:
        backends = [views[gpu_id] for gpu_id in gate.gpu_ids]
        jobs = waiting.get(gate.name, ())
        if jobs and any(view.available and len(view.active) <= view.prefetch for view in backends):
            choice = _ask(gate, jobs, backends, now)
            if choice is not None and views[choice.gpu_id].accepts(choice.job):
                proposals.append((_first(jobs, choice), choice))
    return min(proposals, key=lambda proposal: proposal[0])[1] if proposals else None


def _first(jobs: Sequence[Job], choice: Choice) -> Order:
    """The place of the first job that the choice's GPU may run, which need not be the one that is chosen."""
    return next((job.order for job in jobs if choice.gpu_id in job.targets), choice.job.order)


def expected_gpu(gate: GateRouting, job: Job, views: Mapping[int, BackendView], now: float) -> int | None:
    """Where a policy would send `job` if every backend had room.

    One that is being drained is expected to run it only where no other can: it
    waits there until the drain is over.

    :return: a gpu_id, or ``None`` if no backend of the job's targets is READY.
    """
    empty = [_emptied(views[gpu_id], job) for gpu_id in gate.gpu_ids if gpu_id in views]
    found = _expected(gate, job, empty, now)
    if found is None and any(view.draining for view in empty):
        found = _expected(gate, job, [evolve(view, draining=False) for view in empty], now)
    return found


def _emptied(view: BackendView, job: Job) -> BackendView:
    """A GPU with room for a job, after all that it holds or is expected to run."""
    waiting = max(0, view.running + view.pending - len(view.active) - (view.gpu_id == job.expected))
    return evolve(view, active=(), backlog=view.backlog + waiting * view.estimates.run(job))


def _expected(gate: GateRouting, job: Job, backends: Sequence[BackendView], now: float) -> int | None:
    choice = _ask(gate, (job,), backends, now)
    if choice is not None:
        return choice.gpu_id
    return min((view.gpu_id for view in backends if view.available and view.gpu_id in job.targets), default=None)


def _ask(gate: GateRouting, jobs: Sequence[Job], backends: Sequence[BackendView], now: float) -> Choice | None:
    """What a gate's policy chooses; one that fails stops its own gate, and no other."""
    with _log.failuresHandled("asking the policy of {gate}", gate=gate.name):
        choice = gate.policy.select(jobs, backends, now)
        if choice is None or choice.gpu_id in gate.gpu_ids:
            return choice
        _log.error("the policy of {gate} chose {gpu_id}, no GPU of its own", gate=gate.name, gpu_id=choice.gpu_id)
    return None
