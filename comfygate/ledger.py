"""Which job is where, and in which state.

Plain bookkeeping: whoever does the I/O says what happened, and everybody else
asks.  Jobs that have ended are remembered by id, within a bound, so that an id
is not used twice and an interrupt can tell "over" from "never heard of".
"""

from __future__ import annotations

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Iterable

from attrs import define, evolve, field, frozen
from twisted.logger import Logger

from comfygate.interfaces import IJobListener
from comfygate.model import BackendState, BackendView, Job, JobState, Order
from comfygate.queue import WaitingJobs

NOWHERE = -1
"""Where a waiting job is expected whose targets are all gone; it is listed under no GPU."""


@frozen
class Held:
    """A job that a backend holds, or is being sent."""

    job: Job
    gpu_id: int
    state: JobState


@frozen
class Ended:
    """A job that is over.

    :ivar gpu_id: the GPU that held it in the end, if one did.
    :ivar reason: why it did not end well, in one line, where that is known.
    :ivar told: whether ComfyUI, or whoever ended it, has told its client.
    """

    gpu_id: int | None
    state: JobState
    reason: str | None = None
    told: bool = True


@frozen
class Stranger:
    """A job in a backend's queue that did not come through us.

    :ivar item: the job as GET /queue lists it, in JSON.
    """

    prompt_id: str
    number: float
    running: bool
    item: bytes


@frozen
class Listing:
    """A GPU's queue as clients see it: items of GET /queue, in running order."""

    running: tuple[bytes, ...]
    pending: tuple[bytes, ...]


@frozen
class Running:
    """The job that a GPU works on."""

    prompt_id: str
    client_id: str | None = None


@define
class _Gpu:
    held: dict[str, Held] = field(factory=dict)
    strangers: tuple[Stranger, ...] = ()
    last_assigned: int = -1


class Ledger:
    """Every job from its acceptance to its end.

    :param gpu_ids: the GPUs there are; more may be named at any time.
    :param waiting: the queue to keep waiting jobs in.
    :param remembered: how many ended jobs are remembered.
    """

    _log = Logger()

    def __init__(self, gpu_ids: Iterable[int], waiting: WaitingJobs, remembered: int = 10_000) -> None:
        self.waiting = waiting
        self._gpus: defaultdict[int, _Gpu] = defaultdict(_Gpu, {gpu_id: _Gpu() for gpu_id in gpu_ids})
        self._where: dict[str, int] = {}
        self._finished: set[str] = set()
        self._expected: Counter[int] = Counter()
        self._ended: OrderedDict[str, Ended] = OrderedDict()
        self._remembered = remembered
        self._assignments = 0
        self._listeners: list[IJobListener] = []

    def subscribe(self, listener: IJobListener) -> None:
        """Tell `listener` of every later change of a job."""
        self._listeners.append(listener)

    # What happened.

    def accept(self, job: Job) -> None:
        """A job waits from now on, for the first time or again."""
        self.waiting.add(job)
        self._expected[job.expected] += 1
        self._tell(job, JobState.WAITING, None)

    def relocate(self, job: Job) -> None:
        """A waiting job has another gate, other targets or another place from now on.

        :param job: as it is to be; it is known by its prompt_id.
        :raises KeyError: if it is not waiting.
        """
        self._stop_waiting(job.prompt_id)
        self.accept(job)

    def assign(self, prompt_id: str, gpu_id: int, seconds: float = 0.0) -> Held:
        """A waiting job is being sent to a backend.

        :param seconds: of work, that it is expected to be.
        :raises KeyError: if it is not waiting.
        """
        self.waiting.hand_over(prompt_id, gpu_id, seconds)
        job = self._stop_waiting(prompt_id)
        self._gpus[gpu_id].last_assigned = self._assignments
        self._assignments += 1
        return self.hold(job, gpu_id, JobState.SENT)

    def hold(self, job: Job, gpu_id: int, state: JobState) -> Held:
        """A backend holds `job`, in this state."""
        held = Held(job, gpu_id, state)
        self._gpus[gpu_id].held[job.prompt_id] = held
        self._where[job.prompt_id] = gpu_id
        self._tell(job, state, gpu_id)
        return held

    def finish(self, prompt_id: str) -> None:
        """A job's last event was seen; its backend will say in a moment how it ended."""
        if prompt_id in self._where:
            self._finished.add(prompt_id)

    def put_back(self, prompt_id: str, *, attempts: int, deaths: int = 0) -> Job:
        """A job that a backend held waits again, in its old place.

        :param attempts: see :class:`comfygate.model.Job`, as `deaths`.
        """
        held = self._let_go(prompt_id)
        job = evolve(held.job, attempts=attempts, deaths=deaths)
        self.accept(job)
        return job

    def end(
        self,
        prompt_id: str,
        state: JobState,
        reason: str | None = None,
        record: bytes | None = None,
        *,
        told: bool = True,
    ) -> None:
        """A job is over, wherever it was.

        :param reason: why it did not end well, in one line for people.
        :param record: its entry in ComfyUI's ``/history``, in JSON, if there is one.
        :param told: see :class:`Ended`.
        """
        told = told or self.is_finished(prompt_id)
        gpu_id = self._where.get(prompt_id)
        job = self._stop_waiting(prompt_id) if gpu_id is None else self._let_go(prompt_id).job
        self.remember(prompt_id, Ended(gpu_id, state, reason, told))
        self._tell(job, state, gpu_id, reason, record)

    def remember(self, prompt_id: str, ended: Ended) -> None:
        """A job is over, now or since before the daemon was started."""
        self._ended[prompt_id] = ended
        if len(self._ended) > self._remembered:
            self._ended.popitem(last=False)

    def forget(self, prompt_id: str) -> None:
        """A backend turned out not to have taken the job, and its client knows."""
        job = self._let_go(prompt_id).job
        for listener in self._listeners:
            with self._log.failuresHandled("telling {listener} of {job}", listener=listener, job=job):
                listener.job_refused(job)

    def meet(self, gpu_id: int, strangers: tuple[Stranger, ...]) -> None:
        """A backend's queue holds these jobs that did not come through us."""
        self._gpus[gpu_id].strangers = strangers

    def drop(self, gpu_id: int) -> None:
        """A GPU that holds no job is gone, and what others had sent to it."""
        self._gpus.pop(gpu_id, None)

    # What is known.

    @property
    def first_number(self) -> float:
        """The smallest queue number of all jobs that wait or are held; 0 if there is none."""
        held = (one.job.number for gpu in self._gpus.values() for one in gpu.held.values())
        return min((*held, *(job.number for job in self.waiting)), default=0.0)

    def knows(self, prompt_id: str) -> bool:
        """Whether the id was accepted before, as far as is remembered."""
        return prompt_id in self.waiting or prompt_id in self._where or prompt_id in self._ended

    def held(self, prompt_id: str) -> Held | None:
        """The job, if a backend holds it."""
        gpu_id = self._where.get(prompt_id)
        return None if gpu_id is None else self._gpus[gpu_id].held[prompt_id]

    def is_current(self, held: Held) -> bool:
        """Whether nothing happened to a job since it was said to be held like that."""
        return self.held(held.job.prompt_id) is held

    def ended(self, prompt_id: str) -> Ended | None:
        """How the job ended, if it did and is remembered."""
        return self._ended.get(prompt_id)

    def held_by(self, gpu_id: int) -> list[Held]:
        """The jobs that a backend holds, in running order."""
        return sorted(self._gpus[gpu_id].held.values(), key=lambda held: held.job.order)

    def strangers(self, gpu_id: int) -> tuple[Stranger, ...]:
        """The jobs in a backend's queue that did not come through us."""
        return self._gpus[gpu_id].strangers

    def suspects(self, gpu_id: int) -> list[Held]:
        """The jobs that run on a GPU, as far as can be told: those that it said run, or else the next in order.

        A prompt that ends its ComfyUI at once does so before that has said
        anything, often even before it has answered.
        """
        held = [one for one in self.held_by(gpu_id) if not self.is_finished(one.job.prompt_id)]
        running = [one for one in held if one.state is JobState.RUNNING]
        if running or any(stranger.running for stranger in self._gpus[gpu_id].strangers):
            return running
        return held[:1]

    def running(self, gpu_id: int) -> Running | None:
        """The job that runs on a GPU, as far as can be told; ours before a stranger."""
        for held in self.suspects(gpu_id)[:1]:
            return Running(held.job.prompt_id, held.job.client_id)
        return next((Running(one.prompt_id) for one in self._gpus[gpu_id].strangers if one.running), None)

    def is_finished(self, prompt_id: str) -> bool:
        """Whether a held job's last event was seen."""
        return prompt_id in self._finished

    def expected_on(self, gpu_id: int) -> list[Job]:
        """The waiting jobs that are listed under a GPU, in running order."""
        if not self._expected[gpu_id]:
            return []
        return sorted((job for job in self.waiting if job.expected == gpu_id), key=lambda job: job.order)

    def expected_count(self, gpu_id: int) -> int:
        """How many waiting jobs are listed under a GPU."""
        return self._expected[gpu_id]

    def listing(self, *gpu_ids: int) -> Listing:
        """What the queue of a GPU, or of several together, shows.

        Not a job whose last event was seen: its client may have seen it, too, and looks whether the job is gone.
        """
        rows: list[tuple[Order, bool, bytes]] = []
        for gpu_id in gpu_ids:
            held_by = (held for held in self.held_by(gpu_id) if not self.is_finished(held.job.prompt_id))
            rows += [(held.job.order, held.state is JobState.RUNNING, held.job.item) for held in held_by]
            rows += [((one.number, 0), one.running, one.item) for one in self._gpus[gpu_id].strangers]
            rows += [(job.order, False, job.item) for job in self.expected_on(gpu_id)]
        rows.sort(key=lambda row: row[0])
        return Listing(
            running=tuple(item for _, running, item in rows if running),
            pending=tuple(item for _, running, item in rows if not running),
        )

    def owners(self, gpu_ids: Iterable[int]) -> dict[str, int]:
        """Under which GPU each job is listed, by id."""
        found: dict[str, int] = {}
        for gpu_id in gpu_ids:
            gpu = self._gpus[gpu_id]
            held = gpu.held.keys() - self._finished
            found.update(dict.fromkeys((*held, *(one.prompt_id for one in gpu.strangers)), gpu_id))
        chosen = frozenset(gpu_ids)
        found.update((job.prompt_id, job.expected) for job in self.waiting if job.expected in chosen)
        return found

    def remaining(self, gpu_id: int) -> int:
        """How many jobs run or wait on a GPU: ComfyUI's queue_remaining."""
        gpu = self._gpus[gpu_id]
        over = sum(1 for prompt_id in self._finished if self._where[prompt_id] == gpu_id)
        return len(gpu.held) - over + self._expected[gpu_id] + len(gpu.strangers)

    def view(self, gpu_id: int, state: BackendState, prefetch: int) -> BackendView:
        """What a policy sees of a GPU."""
        gpu = self._gpus[gpu_id]
        running = sum(1 for held in gpu.held.values() if held.state is JobState.RUNNING)
        running += sum(1 for stranger in gpu.strangers if stranger.running)
        if not running and (gpu.held or gpu.strangers):
            running = 1  # one of them is about to run, though the backend has not said so yet
        return BackendView(
            gpu_id=gpu_id,
            state=state,
            active=tuple(held.job.order for held in gpu.held.values()),
            running=running,
            pending=len(gpu.held) + self._expected[gpu_id] + len(gpu.strangers) - running,
            prefetch=prefetch,
            last_assigned=gpu.last_assigned,
        )

    def _tell(
        self,
        job: Job,
        state: JobState,
        gpu_id: int | None,
        reason: str | None = None,
        record: bytes | None = None,
    ) -> None:
        for listener in self._listeners:  # one that fails must not keep the journal from being told
            with self._log.failuresHandled("telling {listener} of {job}", listener=listener, job=job):
                listener.job_changed(job, state, gpu_id, reason, record)

    def _stop_waiting(self, prompt_id: str) -> Job:
        job = self.waiting.remove(prompt_id)
        self._expected[job.expected] -= 1
        return job

    def _let_go(self, prompt_id: str) -> Held:
        self._finished.discard(prompt_id)
        return self._gpus[self._where.pop(prompt_id)].held.pop(prompt_id)
