"""A backend without a process: just a queue, a history, and switches for faults."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from typing import Any, BinaryIO

import orjson
from attrs import define, field, frozen
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from zope.interface import implementer

from comfygate.backend.fleet import Fleet
from comfygate.control.accept import Acceptance
from comfygate.control.books import Books
from comfygate.control.dispatch import Dispatcher
from comfygate.control.histories import Histories
from comfygate.control.interrupt import Interrupts
from comfygate.control.listings import Listings
from comfygate.control.operations import Operations
from comfygate.control.reconcile import Reconciler
from comfygate.errors import BackendUnreachable
from comfygate.interfaces import IBackend, IBackendListener, IJournal
from comfygate.ledger import Ledger
from comfygate.model import (
    BackendAnswer,
    BackendQueue,
    BackendState,
    Holding,
    Job,
    JobState,
    Progress,
    QueueItem,
    RestartCause,
)
from comfygate.queue import WaitingJobs
from comfygate.routing.assignment import GateRouting
from comfygate.routing.interrupts import LedgerLookup
from comfygate.routing.least_loaded import LeastLoaded


@frozen
class FakeAnswer:
    status: int
    body: bytes


@define
class FakeClient:
    """Does what ComfyUI's routes do.

    :ivar fault: raised by the next submit, after queueing if `queues_anyway`.
    :ivar deaf: it does not tell its queue.
    :ivar asked: the names of all methods that were called.
    :ivar pause: what every answer waits for.
    :ivar before: called before an answer, by the method's name; may raise.
    :ivar after: called when it is done, by the method's name.
    :ivar says: what it answers to other questions, by path.
    :ivar folder: when the files were changed that it has, by the target that asks for them.
    """

    items: list[Any] = field(factory=list)
    done: dict[str, Any] = field(factory=dict)
    interrupted: list[str | None] = field(factory=list)
    validation: FakeAnswer = FakeAnswer(200, b'{"outputs": ["9"], "node_errors": {}}')
    fault: Exception | None = None
    answer: FakeAnswer | None = None
    queues_anyway: bool = False
    submitted: list[str] = field(factory=list)
    bodies: list[dict[str, Any]] = field(factory=list)
    deaf: bool = False
    asked: list[str] = field(factory=list)
    pause: Deferred[None] | None = None
    before: dict[str, Callable[[], object]] = field(factory=dict)
    says: dict[str, BackendAnswer] = field(factory=dict)
    folder: dict[str, float] = field(factory=dict)
    uploads: list[tuple[str, bytes]] = field(factory=list)
    bodies: list[bytes | None] = field(factory=list)
    after: dict[str, Callable[[], object]] = field(factory=dict)
    read: list[list[str]] = field(factory=list)

    async def validate(self, body: bytes) -> FakeAnswer:
        await self._ready("validate")
        return self.validation

    async def submit(self, body: bytes) -> FakeAnswer:
        await self._ready("submit")
        fields = orjson.loads(body)
        self.bodies.append(fields)
        fault, self.fault = self.fault, None
        answer, self.answer = self.answer, None
        if (fault is None and answer is None) or self.queues_anyway:
            self.items.append([fields["number"], fields["prompt_id"], fields["prompt"], {}, ["9"]])
            self.items[1:] = sorted(self.items[1:])
        self.submitted.append(fields["prompt_id"])
        if fault is not None:
            raise fault
        return answer or FakeAnswer(200, b'{"node_errors": {}}')

    async def queue(self) -> BackendQueue:
        await self._ready("queue")
        if self.deaf:
            raise BackendUnreachable("refused")
        items = [QueueItem(item[0], item[1], None, orjson.dumps(item)) for item in self.items]
        return BackendQueue(tuple(items[:1]), tuple(items[1:]))

    async def history(self, prompt_id: str) -> dict[str, Any] | None:
        await self._ready("history")
        return self.done.get(prompt_id)

    async def histories(self, newest: int | None) -> dict[str, Any]:
        await self._ready("histories")
        return dict(list(self.done.items())[-newest:] if newest else self.done)

    async def forget(self, prompt_ids: list[str] | None) -> None:
        await self._ready("forget")
        for prompt_id in list(self.done) if prompt_ids is None else prompt_ids:
            self.done.pop(prompt_id, None)

    async def interrupt(self, prompt_id: str | None) -> None:
        await self._ready("interrupt")
        self.interrupted.append(prompt_id)

    async def delete(self, prompt_ids: list[str]) -> None:
        await self._ready("delete")
        self.items[1:] = [item for item in self.items[1:] if item[1] not in prompt_ids]
        self.after.get("delete", lambda: None)()

    async def free(self) -> None:
        await self._ready("free")

    async def ask(self, method: str, target: str, body: bytes | None = None, **bounds: Any) -> BackendAnswer:
        await self._ready(f"{method} {target}")
        self.bodies.append(body)
        return self.says.get(target.partition("?")[0], BackendAnswer(404, b"404: Not Found", "text/plain"))

    async def modified(self, target: str, seconds: float) -> float | None:
        await self._ready(f"HEAD {target}")
        return self.folder.get(target)

    async def upload(self, target: str, content_type: str, content: BinaryIO, seconds: float) -> BackendAnswer:
        await self._ready(f"POST {target}")
        self.uploads.append((content_type, content.read()))
        return BackendAnswer(200, b'{"name": "x.png"}', "application/json")

    async def read_ahead(self, models: Iterable[str]) -> None:
        await self._ready("read_ahead")
        self.read.append(list(models))

    async def _ready(self, method: str) -> None:
        self.asked.append(method)
        if self.pause is not None:
            waiting: Deferred[None] = Deferred()
            self.pause.addCallback(lambda _: None if waiting.called else waiting.callback(None))
            await waiting
        self.before.get(method, lambda: None)()

    def finish(self, status: str = "success", *messages: str) -> str:
        """The running prompt ends; say which it was."""
        prompt_id: str = self.items.pop(0)[1]
        self.done[prompt_id] = {"status": {"status_str": status, "messages": [[name, {}] for name in messages]}}
        return prompt_id


def raising(error: Exception) -> Callable[[], object]:
    """For :ivar:`FakeClient.before`."""

    def fail() -> object:
        raise error

    return fail


@implementer(IBackend)
class FakeBackend:
    owned: bool = True
    device = "cpu"
    restarts = 0
    cause = RestartCause.EXITED
    last_error: str | None = None
    retry_after = 3.0
    address = ("127.0.0.1", 1)
    has_companion = True
    pid: int | None = None
    progress: Progress | None = None
    holding: Holding | None = None

    def __init__(self, gpu_id: int) -> None:
        self.gpu_id = gpu_id
        self.name = f"GPU {gpu_id}"
        self.state = BackendState.READY
        self.restart_causes: dict[RestartCause, int] = {}
        self._client = FakeClient()
        self.held_before: dict[str, tuple[str, ...]] = {}
        self.condemned: list[tuple[RestartCause, str]] = []
        self._listeners: list[Any] = []

    @property
    def client(self) -> Any:
        """As everywhere, none while it is not READY."""
        return self._client if self.state is BackendState.READY else None

    @client.setter
    def client(self, client: FakeClient) -> None:
        self._client = client

    def start(self) -> None: ...

    def stop(self) -> Deferred[None]:
        for state in (BackendState.STOPPING, BackendState.STOPPED):
            self.become(state)
        return succeed(None)

    def restart(self) -> Deferred[None]:
        """End it, and begin to start it; a test says when it is READY."""
        self.cause = RestartCause.REQUESTED
        self.restarts += 1
        for state in (BackendState.STOPPING, BackendState.STOPPED, BackendState.STARTING):
            self.become(state)
        return succeed(None)

    def condemn(self, cause: RestartCause, reason: str, evidence: Any) -> None:
        self.condemned.append((cause, reason))

    def subscribe(self, listener: IBackendListener) -> None:
        self._listeners.append(listener)

    def become(self, state: BackendState) -> None:
        if state is not BackendState.READY:
            self._client = FakeClient(deaf=self._client.deaf)
        self.state = state
        for listener in self._listeners:
            listener.backend_changed(self)

    def tell(self) -> None:
        """Say, as ComfyUI's status messages do, that the queue changed."""
        for listener in self._listeners:
            listener.queue_changed(self, len(self.client.items))


@implementer(IJournal)
class FakeJournal:
    """Keeps how jobs ended in memory, and accepts at once, later or not at all.

    :ivar trouble: with what every acceptance and flush fails.
    :ivar pause: what every acceptance waits for.
    """

    lasting = True

    def __init__(self) -> None:
        self.accepted: list[Job] = []
        self.ended: dict[str, tuple[int | None, JobState, bytes | None]] = {}
        self.refused: list[str] = []
        self.noted: list[tuple[str, JobState, int | None]] = []
        self.flushes = 0
        self.trouble: Exception | None = None
        self.pause: Deferred[None] | None = None

    def accept(self, job: Job) -> Deferred[None]:
        def kept(_: object) -> None:
            if self.trouble is not None:
                raise self.trouble
            self.accepted.append(job)

        return self._when_ready().addCallback(kept)

    def flush(self) -> Deferred[None]:
        self.flushes += 1
        return self._when_ready() if self.trouble is None else fail(self.trouble)

    def history(self, prompt_id: str) -> Deferred[bytes | None]:
        return succeed(self.ended.get(prompt_id, (None, None, None))[2])

    def histories(self, gpu_ids: Iterable[int], newest: int | None) -> Deferred[list[tuple[str, float, bytes]]]:
        rows = [(key, float(n), one[2]) for n, (key, one) in enumerate(self.ended.items()) if one[0] in gpu_ids]
        kept = [row for row in rows if row[2] is not None]
        return succeed(kept if newest is None else kept[-newest:])  # type: ignore[arg-type]

    def forget_histories(self, gpu_ids: Iterable[int], prompt_ids: Iterable[str] | None) -> Deferred[None]:
        for prompt_id in list(self.ended) if prompt_ids is None else prompt_ids:
            if prompt_id in self.ended:
                self.ended[prompt_id] = (*self.ended[prompt_id][:2], None)
        return succeed(None)

    def job_changed(
        self, job: Job, state: JobState, gpu_id: int | None, reason: str | None, record: bytes | None
    ) -> None:
        self.noted.append((job.prompt_id, state, gpu_id))
        if state.ended:
            self.ended[job.prompt_id] = (job.expected if gpu_id is None else gpu_id, state, record)

    def job_refused(self, job: Job) -> None:
        self.refused.append(job.prompt_id)

    def _when_ready(self) -> Deferred[None]:
        waiting: Deferred[None] = Deferred()
        if self.pause is None:
            waiting.callback(None)
        else:
            self.pause.addCallback(lambda _: None if waiting.called else waiting.callback(None))
        return waiting


class House:
    """A control plane over fake backends, on a clock that stands still."""

    def __init__(
        self, gpus: int = 2, prefetch: int = 2, max_pending: int = 100, *, queue_when_down: bool = True
    ) -> None:
        self.clock = Clock()
        self.backends = [FakeBackend(gpu_id) for gpu_id in range(gpus)]
        everything = tuple(range(gpus))
        policy = LeastLoaded()
        gates = [GateRouting(f"gpu-{n}", (n,), policy) for n in everything]
        self.hub = GateRouting("hub", everything, policy)
        self.ledger = Ledger(everything, WaitingJobs(max_pending, 1_000_000))
        self.books = Books(
            Fleet(self.backends),  # type: ignore[arg-type]
            self.ledger,
            [*gates, self.hub],
            self.clock,
            prefetch,
            queue_when_down=queue_when_down,
            wall_clock=lambda: 1_000.0,
        )
        self.journal = FakeJournal()
        self.ledger.subscribe(self.journal)
        self.books.flush = self.journal.flush
        self.gates = gates
        self.reconciler = Reconciler(self.books)
        self.reconciler.start()
        self.dispatcher = Dispatcher(self.books, self.reconciler, self.journal)
        self.acceptance = Acceptance(self.books, self.reconciler, self.journal)
        self.interrupts = Interrupts(self.books, LedgerLookup())
        self.remembered: list[frozenset[int]] = []
        self.operations = Operations(
            self.books, self.reconciler, self.interrupts, start_timeout=60.0, remember=self.remembered.append
        )
        self.histories = Histories(self.books, self.journal)
        self.listings = Listings(self.books, {n: 8181 + n for n in everything})

    def turn(self) -> None:
        """Let everything happen that is due."""
        for _ in range(5):
            self.clock.advance(0)

    def finish(self, gpu_id: int, *outcome: str) -> str:
        """The prompt that runs on a GPU ends, and the backend says so."""
        prompt_id = self.backends[gpu_id].client.finish(*outcome)
        self.backends[gpu_id].tell()
        self.turn()
        return prompt_id


def body(**fields: Any) -> bytes:
    return orjson.dumps({"prompt": {"9": {"class_type": "SaveImage", "inputs": {}}}, **fields})


def new_id() -> str:
    return str(uuid.uuid4())
