"""The words of the house: frozen values that every layer may pass around."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Protocol

from attrs import field, frozen

Order = tuple[float, int]
"""A job's place: (number, sequence); the smaller runs earlier."""


def is_gpus_own(gate: str) -> bool:
    """Whether a gate is a GPU's own port, by its name: no other may be called so."""
    return gate.startswith("gpu-")


class BackendState(Enum):
    """Where one ComfyUI is in its life; the values are what JSON shows."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    DOWN = "down"  #: exited or unreachable, and will be tried again by itself
    FAILED = "failed"  #: given up: a person has to look at it
    STOPPING = "stopping"


class JobState(Enum):
    """Where an accepted prompt is.  The last four are final."""

    WAITING = "waiting"  #: in our queue
    SENT = "sent"  #: on its way to a backend, not yet acknowledged
    UNCLEAR = "unclear"  #: sent without a clear answer; being looked up
    PENDING = "pending"  #: in a backend's queue
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNKNOWN = "unknown"  #: it left the backend, which cannot say how it ended

    @property
    def ended(self) -> bool:
        """Whether nothing more can happen to the job."""
        return self in _ENDED


_ENDED = frozenset({JobState.DONE, JobState.FAILED, JobState.CANCELLED, JobState.UNKNOWN})


@frozen(kw_only=True)
class Job:
    """An accepted prompt.

    :ivar prompt_id: canonical UUID, unique across all GPUs.
    :ivar number: ComfyUI's queue number; the smaller runs earlier.
    :ivar sequence: order of acceptance in this daemon, which breaks ties.
    :ivar gate: name of the gate that accepted it.
    :ivar targets: gpu_ids that may run it.
    :ivar expected: the gpu_id that the client was told, where the job is listed
        while it waits; -1 before anyone was told.
    :ivar client_id: whose WebSocket gets its events.
    :ivar submission: JSON body for a backend's ``POST /prompt``.
    :ivar item: the job as ``GET /queue`` lists it, in JSON:
        ``[number, prompt_id, prompt, extra_data, outputs]``.
    :ivar outputs: ids of the output nodes that ComfyUI will run.
    :ivar accepted: when it was accepted, in seconds since 1970.
    :ivar attempts: runs that were begun and lost, for whatever reason.
    :ivar deaths: how many of them ended with the death of their backend, for
        which the job may be to blame.
    :ivar models: the model files that it loads, as it names them.
    :ivar shape: what its run time depends on, apart from the GPU: equal for
        prompts that differ in seeds and texts only; empty if it is not known.
    """

    prompt_id: str
    number: float
    sequence: int
    gate: str
    targets: frozenset[int]
    expected: int
    client_id: str | None = None
    submission: bytes = field(default=b"", repr=False)
    item: bytes = field(default=b"", repr=False)
    outputs: tuple[str, ...] = ()
    accepted: float = 0.0
    attempts: int = 0
    deaths: int = 0
    models: frozenset[str] = frozenset()
    shape: str = ""

    @property
    def client(self) -> str:
        """Whose job it is: the begin of the client_id, or all together that came to a gate without one."""
        return self.client_id[:200] if self.client_id else f"({self.gate})"

    @property
    def urgent(self) -> bool:
        """Whether its client asked for a place before all others: ``front``, or a negative ``number``."""
        return self.number < 0

    @property
    def order(self) -> Order:
        """The key by which jobs are run."""
        return (self.number, self.sequence)

    @property
    def size(self) -> int:
        """Bytes that the job holds in memory."""
        return len(self.submission) + len(self.item)


class Estimates(Protocol):
    """What jobs cost on one GPU, as far as is known; does not change while a policy thinks."""

    def run(self, job: Job) -> float:
        """Seconds that `job` takes where its models are loaded."""

    def load(self, model: str) -> float:
        """Seconds that it takes to load a model file."""


class Guess:
    """Provides :class:`Estimates` where nothing was learned yet."""

    def run(self, job: Job) -> float:
        """See :meth:`Estimates.run`."""
        return 10.0

    def load(self, model: str) -> float:
        """See :meth:`Estimates.load`."""
        return 10.0


@frozen(kw_only=True)
class Holding:
    """What a ComfyUI says that it has in memory, at the begin or end of a prompt.

    :ivar models: names of model files, the ones used last at the end.
    :ivar free_memory: bytes of the device's memory that it could still use;
        ``None`` if it does not know.
    :ivar ended: whether the prompt has ended, or is about to run.
    """

    prompt_id: str
    models: tuple[str, ...] = ()
    free_memory: int | None = None
    ended: bool = True


@frozen(kw_only=True)
class BackendView:
    """What a policy sees of one GPU at one moment.

    :ivar gpu_id: the n in ``[gpu:n]``.
    :ivar state: only a READY backend is handed jobs.
    :ivar active: orders of the jobs that it holds (sent, pending or running).
    :ivar running: jobs that run there, whoever sent them.
    :ivar pending: jobs that wait there or are expected to run there.
    :ivar prefetch: how many jobs it may hold.
    :ivar last_assigned: sequence number of the last assignment to it, -1 if none.
    :ivar draining: whether it is to get no further jobs.
    :ivar loaded: the model files that will be in its memory when what it holds
        has run, those used last at the end.
    :ivar backlog: seconds that what it holds is expected to take.
    :ivar free_memory: bytes of the device's memory that are free, if that is known.
    :ivar weight: the share of work that it is to get, relative to others.
    :ivar turn: grows with each job it is given, the slower the higher its weight.
    :ivar estimates: what jobs cost on it.
    """

    gpu_id: int
    state: BackendState = BackendState.READY
    active: tuple[Order, ...] = ()
    running: int = 0
    pending: int = 0
    prefetch: int = 2
    last_assigned: int = -1
    draining: bool = False
    loaded: tuple[str, ...] = ()
    backlog: float = 0.0
    free_memory: int | None = None
    weight: float = 1.0
    turn: float = 0.0
    estimates: Estimates = field(factory=Guess, eq=False, repr=False)

    @property
    def available(self) -> bool:
        """Whether it takes jobs at all."""
        return self.state is BackendState.READY and not self.draining

    def accepts(self, job: Job) -> bool:
        """Whether `job` may be handed over now.

        A job that belongs before what the backend holds (``front``) may take
        one place more than `prefetch`, so that it runs next.
        """
        return self.gpu_id in job.targets and self.has_room(job.order)

    def load_seconds(self, models: frozenset[str]) -> float:
        """Seconds until these are loaded, once what it holds has run."""
        return sum(self.estimates.load(model) for model in models if model not in self.loaded)

    def has_room(self, order: Order) -> bool:
        """Whether a job with this place would be accepted; if not, then no later one either."""
        if not self.available or len(self.active) > self.prefetch:
            return False
        return sum(1 for one in self.active if one < order) < self.prefetch


@frozen
class Choice:
    """A policy's answer: this job goes to this GPU next."""

    job: Job
    gpu_id: int


class RestartCause(Enum):
    """Why a ComfyUI was started again; the values are what metrics show."""

    EXITED = "exited"  #: it ended while it served requests
    START_FAILED = "start_failed"  #: it ended before it answered
    START_TIMEOUT = "start_timeout"  #: it did not answer in time
    HUNG = "hung"  #: it neither answered nor used the processor
    STALLED = "stalled"  #: it answered, but its queue did not move
    CUDA_ERROR = "cuda_error"  #: prompts failed, one after the other, with an error that only a new process gets rid of
    OUT_OF_MEMORY = "out_of_memory"  #: prompts kept failing for lack of memory, also after it was told to free some
    REQUESTED = "requested"  #: somebody asked for it


@frozen(kw_only=True)
class Progress:
    """How far the prompt is that a ComfyUI runs.

    :ivar node: id of the node at work, ``None`` between two nodes.
    :ivar node_type: its class, if that is known.
    :ivar value: how many of the node's `max` steps are done.
    :ivar nodes_done: how many of the prompt's `nodes_total` nodes have ended or
        need not run.
    """

    prompt_id: str
    node: str | None = None
    node_type: str | None = None
    value: float | None = None
    max: float | None = None
    nodes_done: int | None = None
    nodes_total: int | None = None


@frozen(kw_only=True)
class Device:
    """One accelerator, or one share of the CPU.

    :ivar gpu_id: index in the order of the ``devices`` key.
    :ivar label: what the configuration calls it: ``0``, a UUID, ``cpu``.
    :ivar name: what people call it, such as ``NVIDIA GeForce RTX 4090``.
    :ivar environment: variables that bind a process to it.
    :ivar arguments: ComfyUI options that bind a process to it (``--cpu``).
    """

    gpu_id: int
    label: str
    name: str
    environment: Mapping[str, str] = field(factory=dict)
    arguments: tuple[str, ...] = ()


@frozen
class BackendAnswer:
    """What a ComfyUI answered to the gate itself.

    :ivar content_type: as sent, or empty.
    """

    status: int
    body: bytes = b""
    content_type: str = ""


@frozen
class QueueItem:
    """One prompt in ComfyUI's queue.

    :ivar number: its place; the smaller runs earlier.
    :ivar prompt_id: its id, made a string.
    :ivar client_id: whose events they are, if anybody's.
    :ivar raw: the item in JSON, ``[number, prompt_id, prompt, extra_data, outputs]``.
    """

    number: float
    prompt_id: str
    client_id: str | None = None
    raw: bytes = field(default=b"", repr=False)


@frozen
class BackendQueue:
    """What ``GET /queue`` lists; the pending ones are in the order in which they will run."""

    running_items: tuple[QueueItem, ...] = ()
    pending_items: tuple[QueueItem, ...] = ()

    @property
    def running(self) -> tuple[str, ...]:
        """Ids of what runs."""
        return tuple(item.prompt_id for item in self.running_items)

    @property
    def pending(self) -> tuple[str, ...]:
        """Ids of what waits."""
        return tuple(item.prompt_id for item in self.pending_items)
