"""Jobs and journals for tests."""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable
from typing import Any, TypeVar

import orjson
from attrs import define, field, frozen
from twisted.internet.defer import Deferred, execute

from comfygate.journal.batch import Batch
from comfygate.journal.records import Finished, Journalled
from comfygate.journal.store import Store
from comfygate.model import Job, JobState
from comfygate.prompts import parse_submission

T = TypeVar("T")

NOW = 1_700_000_000.0


def make_job(sequence: int = 1, *, size: int = 100, seed: int = 0, **changes: Any) -> Job:
    """A job as POST /prompt makes it, with a prompt of about `size` bytes."""
    prompt_id = str(uuid.UUID(int=random.Random(f"{seed}/{sequence}").getrandbits(128), version=4))
    text = f"{sequence:05d}" * (size // 5)
    extra = changes.pop("extra_data", {})
    prompt = {"9": {"class_type": "SaveImage", "inputs": {"text": text}}}
    body = orjson.dumps({"prompt_id": prompt_id, "client_id": "someone", "prompt": prompt, "extra_data": extra})
    submission = parse_submission(body)
    number = changes.get("number", sequence)
    values: dict[str, Any] = {
        "prompt_id": prompt_id,
        "number": number,
        "sequence": sequence,
        "gate": "hub",
        "targets": frozenset({0, 1}),
        "expected": 0,
        "client_id": "someone",
        "submission": submission.submission(number),
        "item": submission.item(number, ["9"]),
        "outputs": ("9",),
        "accepted": NOW + sequence,
        "models": submission.models,
        "shape": submission.shape,
    }
    return Job(**{**values, **changes})


def waiting(job: Job) -> Journalled:
    return Journalled(job, JobState.WAITING, None)


def running(job: Job, gpu_id: int = 0) -> Journalled:
    return Journalled(job, JobState.RUNNING, gpu_id)


def finished(job: Job, **changes: Any) -> Finished:
    values: dict[str, Any] = {
        "sequence": job.sequence,
        "prompt_id": job.prompt_id,
        "gate": job.gate,
        "gpu_id": 0,
        "client_id": job.client_id,
        "state": JobState.DONE,
        "reason": None,
        "attempts": job.attempts,
        "accepted": job.accepted,
        "ended": NOW + 1000 + job.sequence,
        "record": record_of(job),
    }
    return Finished(**{**values, **changes})


def record_of(job: Job) -> bytes:
    """Its entry in /history."""
    status = {"status_str": "success", "completed": True, "messages": []}
    return orjson.dumps({"prompt": orjson.loads(job.item), "outputs": {"9": {}}, "status": status})


def opened(path: Any) -> Store:
    return Store.open(str(path), lambda: NOW)


@frozen
class Written:
    """What was written into a journal by :func:`fill`."""

    jobs: tuple[Job, ...]
    running: frozenset[str]
    done: tuple[Job, ...]


def fill(store: Store, count: int = 300) -> Written:
    """Write jobs in groups: a third is running, half of those are done, so that every table is in use."""
    jobs = tuple(make_job(n + 1, size=(100, 2000, 9000)[n % 3]) for n in range(count))
    started, done = jobs[: count // 3], jobs[: count // 6]
    for group in groups(jobs):
        store.write(Batch(new=tuple(map(waiting, group))))
    for group in groups(started):
        store.write(Batch(changed=tuple(map(running, group))))
    for group in groups(done):
        store.write(Batch(ended=tuple(map(finished, group))))
    return Written(jobs[len(done) :], frozenset(job.prompt_id for job in started[len(done) :]), done)


def groups(jobs: tuple[Job, ...], size: int = 10) -> list[tuple[Job, ...]]:
    return [jobs[start : start + size] for start in range(0, len(jobs), size)]


@define
class FakeThread:
    """Does things when a test says so.

    :ivar held: whether what comes has to wait.
    """

    held: bool = False
    acts: list[Callable[[], None]] = field(factory=list)

    def __call__(self, act: Callable[[], T]) -> Deferred[T]:
        if not self.held:
            return execute(act)
        done: Deferred[T] = Deferred()
        self.acts.append(lambda: execute(act).chainDeferred(done))
        return done

    def go_on(self, count: int | None = None) -> None:
        """Do what waits, or the first of it."""
        acts, self.acts = self.acts[:count], self.acts[len(self.acts[:count]) :]
        for act in acts:
            act()
