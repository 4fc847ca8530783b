"""The waiting jobs of one gate, in order, and what policies ask of them again and again."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from heapq import merge, nsmallest
from typing import overload

from attrs import define, field

from comfygate.model import Job, Order

Group = tuple[frozenset[str], frozenset[int]]
"""What makes jobs alike for the choice of a GPU: the models that they load, and the GPUs that may run them."""


@define
class _Groups:
    """Jobs that are alike, and the first job of each group, all in order."""

    members: dict[Group, list[Job]] = field(factory=dict)
    heads: list[Job] = field(factory=list)

    def add(self, job: Job) -> None:
        members = self.members.setdefault(group_of(job), [])
        before = members[0] if members else None
        insort(members, job, key=_order)
        if members[0] is job:
            if before is not None:
                _remove(self.heads, before)
            insort(self.heads, job, key=_order)

    def remove(self, job: Job) -> None:
        members = self.members[group_of(job)]
        was_first = members[0] is job
        _remove(members, job)
        if was_first:
            _remove(self.heads, job)
            if members:
                insort(self.heads, members[0], key=_order)
        if not members:
            del self.members[group_of(job)]


@define
class _Clients:
    """Each client's own jobs, and the places of the first ones, by the GPUs that may run these."""

    due: Callable[[str], float]
    lines: dict[str, Line] = field(factory=dict)
    firsts: dict[frozenset[int], dict[str, Order]] = field(factory=dict)

    def add(self, job: Job) -> None:
        own = self.lines.get(job.client)
        if own is None:
            own = Line((), self.due)
        else:
            self.leave(own)
        own.add(job)
        self.come(own)

    def remove(self, job: Job) -> None:
        own = self.lines[job.client]
        self.leave(own)
        own.remove(job)
        if own:
            self.come(own)

    def come(self, own: Line) -> None:
        first = own[0]
        self.lines[first.client] = own
        self.firsts.setdefault(first.targets, {})[first.client] = first.order

    def leave(self, own: Line) -> None:
        first = own[0]
        del self.lines[first.client], self.firsts[first.targets][first.client]
        if not self.firsts[first.targets]:
            del self.firsts[first.targets]


class Line(Sequence[Job]):
    """Waiting jobs in running order; what is built from them is kept up to date.

    Nothing is built that nobody has asked for.

    :param jobs: in any order.
    :param due: when a client is due again, see :class:`comfygate.routing.shares.Shares`.
    """

    def __init__(self, jobs: Iterable[Job] = (), due: Callable[[str], float] = lambda client: 0.0) -> None:
        self._jobs = sorted(jobs, key=_order)
        self._overtaken = [0] * len(self._jobs)
        self._delays = [0.0] * len(self._jobs)
        self._groups: _Groups | None = None
        self._clients: _Clients | None = None
        self.due = due

    @classmethod
    def of(cls, waiting: Sequence[Job]) -> Line:
        """`waiting` itself, if it is a line; else a new one with these jobs."""
        return waiting if isinstance(waiting, Line) else cls(waiting)

    # What policies ask.

    def heads(self) -> Sequence[Job]:
        """The first job of each group of jobs that are alike, in order."""
        return self._grouped().heads

    def alike(self, job: Job) -> int:
        """How many jobs wait that are like this one, itself included."""
        return len(self._grouped().members.get(group_of(job), ()))

    def clients(self) -> Mapping[str, Line]:
        """The line of each client's own jobs."""
        return self._apart().lines

    def turns(self, most: int) -> Iterator[Line]:
        """The line of each client's own jobs: who is due first, and among equals who has the earliest job, comes first.

        :param most: clients whose first jobs may run on the same GPUs; those after them are left out.
        """
        clients = self._apart()
        groups = (
            nsmallest(most, [(self.due(client), order, client) for client, order in firsts.items()])
            for firsts in clients.firsts.values()
        )
        return (clients.lines[client] for _, _, client in merge(*groups))

    def patient(self, times: int, seconds: float) -> bool:
        """Whether every job may still be overtaken.

        :param times: how often a job may be, at most.
        :param seconds: by how much work, at most.
        """
        return max(self._overtaken, default=0) < times and max(self._delays, default=0.0) < seconds

    def overdue(self, times: int, seconds: float) -> Iterator[Job]:
        """The jobs that may not be overtaken any more, in order; see :meth:`patient`."""
        for index, job in enumerate(self._jobs):
            if self._overtaken[index] >= times or self._delays[index] >= seconds:
                yield job

    def overtaken(self, job: Job) -> tuple[int, float]:
        """How often a waiting job was overtaken, and the seconds of work of those that did, shared by its GPUs."""
        index = bisect_left(self._jobs, job.order, key=_order)
        return self._overtaken[index], self._delays[index]

    # What happens.

    def add(self, job: Job) -> None:
        """`job` waits from now on; nobody has overtaken it yet."""
        index = bisect_left(self._jobs, job.order, key=_order)
        self._jobs.insert(index, job)
        self._overtaken.insert(index, 0)
        self._delays.insert(index, 0.0)
        if self._groups is not None:
            self._groups.add(job)
        if self._clients is not None:
            self._clients.add(job)

    def remove(self, job: Job) -> None:
        """`job` waits no longer.

        :raises KeyError: if it did not.
        """
        index = bisect_left(self._jobs, job.order, key=_order)
        if index == len(self._jobs) or self._jobs[index].prompt_id != job.prompt_id:
            raise KeyError(job.prompt_id)
        found = self._jobs.pop(index)
        del self._overtaken[index], self._delays[index]
        if self._groups is not None:
            self._groups.remove(found)
        if self._clients is not None:
            self._clients.remove(found)

    def replace(self, job: Job) -> None:
        """`job` takes the place of the one with its order, and inherits by how much that was overtaken."""
        index = bisect_left(self._jobs, job.order, key=_order)
        before, self._jobs[index] = self._jobs[index], job
        for kept in (self._groups, self._clients):
            if kept is not None:
                kept.remove(before)
                kept.add(job)

    def copy(self) -> Line:
        """The same jobs, as often overtaken, in a line of their own."""
        copy = Line((), self.due)
        copy._jobs, copy._overtaken, copy._delays = self._jobs[:], self._overtaken[:], self._delays[:]
        return copy

    def hand_over(self, job: Job, gpu_id: int, seconds: float) -> None:
        """A waiting job goes to a GPU: those before it that could have gone there are overtaken.

        :param seconds: of work, that the job is expected to be.
        """
        index = bisect_left(self._jobs, job.order, key=_order)
        for place in range(index):
            targets = self._jobs[place].targets
            if gpu_id in targets:
                self._overtaken[place] += 1
                self._delays[place] += seconds / len(targets)
        if self._clients is not None and job.client in self._clients.lines:
            self._clients.lines[job.client].hand_over(job, gpu_id, seconds)

    def _grouped(self) -> _Groups:
        if self._groups is None:
            self._groups = _Groups()
            for job in self._jobs:
                self._groups.members.setdefault(group_of(job), []).append(job)
            self._groups.heads = sorted((members[0] for members in self._groups.members.values()), key=_order)
        return self._groups

    def _apart(self) -> _Clients:
        if self._clients is None:
            apart: dict[str, list[Job]] = {}
            for job in self._jobs:
                apart.setdefault(job.client, []).append(job)
            self._clients = _Clients(self.due)
            for jobs in apart.values():
                self._clients.come(Line(jobs, self.due))
        return self._clients

    @overload
    def __getitem__(self, index: int) -> Job: ...

    @overload
    def __getitem__(self, index: slice) -> list[Job]: ...

    def __getitem__(self, index: int | slice) -> Job | list[Job]:
        return self._jobs[index]

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs)

    def __len__(self) -> int:
        return len(self._jobs)


def group_of(job: Job) -> Group:
    """What makes a job like others."""
    return (job.models, job.targets)


def _order(job: Job) -> Order:
    return job.order


def _remove(jobs: list[Job], job: Job) -> None:
    del jobs[bisect_left(jobs, job.order, key=_order)]
