"""Jobs as rows of tables, each sealed with a checksum, so that no damaged one passes for a job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from zlib import crc32

import orjson
from attrs import evolve, field, frozen

from comfygate.errors import GateError
from comfygate.history import printable
from comfygate.model import Job, JobState
from comfygate.prompts import parse_submission

Value = int | float | str | bytes | None
Row = tuple[Value, ...]

MOST_RECORD = 4 * 2**20
"""Bytes of a job's entry in /history that are kept; see :func:`fitting`."""

DAMAGED = "its entry in the journal was damaged"


class DamagedRowError(ValueError):
    """A row is not what was written."""


@frozen
class Table:
    """A table whose rows end with a checksum over all columns before it.

    :ivar columns: their names; the first is the row's number, the last `crc`.
    """

    name: str
    columns: tuple[str, ...]

    def sealed(self, *values: Value) -> Row:
        """A row with its checksum.

        :param values: every column but the last; at most one is bytes.
        """
        return (*values, self._sum(values))

    def is_whole(self, row: Sequence[Value]) -> bool:
        """Whether this is what :meth:`sealed` returned, and not a row of another table."""
        if len(row) != len(self.columns):
            return False
        try:
            return self._sum(row[:-1]) == row[-1]
        except (orjson.JSONEncodeError, UnicodeError):
            return False

    def _sum(self, values: Sequence[Value]) -> int:
        crc = crc32(self.name.encode())
        crc = crc32(orjson.dumps([None if isinstance(value, bytes) else value for value in values]), crc)
        for value in values:
            if isinstance(value, bytes):
                crc = crc32(value, crc)
        return crc


JOBS = Table(
    "jobs",
    (
        *("sequence", "prompt_id", "number", "gate", "targets", "expected", "client_id"),
        *("accepted", "attempts", "deaths", "state", "gpu_id", "crc"),
    ),
)
BODIES = Table("bodies", ("sequence", "outputs", "submission", "crc"))
FINISHED = Table(
    "finished",
    (
        *("id", "sequence", "prompt_id", "gate", "gpu_id", "client_id"),
        *("state", "reason", "attempts", "accepted", "ended", "crc"),
    ),
)
RECORDS = Table("records", ("id", "record", "crc"))
SETTINGS = Table("settings", ("id", "name", "value", "changed", "crc"))
TABLES = (JOBS, BODIES, FINISHED, RECORDS, SETTINGS)


@frozen
class Journalled:
    """A job that is not over.

    :ivar gpu_id: the GPU that held it, if one did.
    """

    job: Job
    state: JobState
    gpu_id: int | None


@frozen(kw_only=True)
class Finished:
    """A job that is over.

    :ivar sequence: see :class:`comfygate.model.Job`, as for the others.
    :ivar gpu_id: the GPU that held it last, if one did.
    :ivar reason: why it did not end well, in one line.
    :ivar ended: when, in seconds since 1970.
    :ivar record: its entry in ComfyUI's ``/history``, in JSON, if there is one.
    """

    sequence: int
    prompt_id: str
    gate: str
    gpu_id: int | None
    client_id: str | None
    state: JobState
    reason: str | None
    attempts: int
    accepted: float
    ended: float
    record: bytes | None = field(default=None, repr=False)


def job_row(noted: Journalled) -> Row:
    """What changes about a job, and what it takes to end it: small, and written at every change."""
    job = noted.job
    targets = orjson.dumps(sorted(job.targets)).decode()
    return JOBS.sealed(
        *(job.sequence, job.prompt_id, _number(job.number), job.gate, targets, job.expected, job.client_id),
        *(float(job.accepted), job.attempts, job.deaths, noted.state.value, noted.gpu_id),
    )


def body_row(job: Job) -> Row:
    """What it takes to run a job: large, and written once."""
    return BODIES.sealed(job.sequence, orjson.dumps(job.outputs).decode(), job.submission)


def finished_row(id: int, ended: Finished) -> Row:
    """That a job is over.

    :param id: a number for it; larger for those that ended later.
    """
    reason = None if ended.reason is None else printable(ended.reason)  # else nothing could be written any more
    return FINISHED.sealed(
        *(id, ended.sequence, ended.prompt_id, ended.gate, ended.gpu_id, ended.client_id),
        *(ended.state.value, reason, ended.attempts, float(ended.accepted), float(ended.ended)),
    )


def read_job_head(row: Sequence[Any]) -> Journalled:
    """A job without what it takes to run it: neither submission nor item nor outputs.

    :raises DamagedRowError: if the row is not what :func:`job_row` returned.
    """
    if not JOBS.is_whole(row):
        raise DamagedRowError("the checksum is wrong")
    sequence, prompt_id, number, gate, targets, expected, client_id, accepted, attempts, deaths, state, gpu_id, _ = row
    job = Job(
        prompt_id=prompt_id,
        number=number,
        sequence=sequence,
        gate=gate,
        targets=frozenset(orjson.loads(targets)),
        expected=expected,
        client_id=client_id,
        accepted=accepted,
        attempts=attempts,
        deaths=deaths,
    )
    return Journalled(job, JobState(state), gpu_id)


def with_body(head: Journalled, row: Sequence[Any]) -> Journalled:
    """The whole job.

    :raises DamagedRowError: if the row is not what :func:`body_row` returned,
        or cannot be run for another reason.
    """
    if not BODIES.is_whole(row):
        raise DamagedRowError("the checksum is wrong")
    outputs: list[str] = orjson.loads(row[1])
    try:
        submission = parse_submission(row[2])
        # Backends may know the client by another id.
        client_id = submission.client_id if head.job.client_id is None else head.job.client_id
        item = evolve(submission, client_id=client_id).item(head.job.number, outputs)
        # A job that was moved has another number than it was written with.
        body = row[2] if submission.number == head.job.number else submission.submission(head.job.number)
    except (GateError, orjson.JSONEncodeError) as error:
        raise DamagedRowError(f"the prompt cannot be read any more: {error}") from None
    if submission.prompt_id != head.job.prompt_id:
        raise DamagedRowError(f"it belongs to {submission.prompt_id}")
    return evolve(head, job=evolve(head.job, submission=body, item=item, outputs=tuple(outputs)))


def read_finished(row: Sequence[Any]) -> Finished:
    """A finished job without its record.

    :raises DamagedRowError: if the row is not what :func:`finished_row` returned.
    """
    if not FINISHED.is_whole(row):
        raise DamagedRowError("the checksum is wrong")
    _, sequence, prompt_id, gate, gpu_id, client_id, state, reason, attempts, accepted, ended, _ = row
    return Finished(
        sequence=sequence,
        prompt_id=prompt_id,
        gate=gate,
        gpu_id=gpu_id,
        client_id=client_id,
        state=JobState(state),
        reason=reason,
        attempts=attempts,
        accepted=accepted,
        ended=ended,
    )


def lost(head: Journalled, ended: float, why: str) -> Finished:
    """How a job ends that cannot be run, because of what happened to its row."""
    job = head.job
    return Finished(
        sequence=job.sequence,
        prompt_id=job.prompt_id,
        gate=job.gate,
        gpu_id=job.expected if head.gpu_id is None else head.gpu_id,
        client_id=job.client_id,
        state=JobState.FAILED,
        reason=f"{DAMAGED}: {why}",
        attempts=job.attempts,
        accepted=job.accepted,
        ended=ended,
    )


def lost_body(row: Sequence[Any], ended: float) -> Finished | None:
    """How a job ends of which only the body is left; ``None`` if that is damaged too.

    Which GPUs may run it is not known any more, but whose it was is.
    """
    if not BODIES.is_whole(row):
        return None
    try:
        submission = parse_submission(row[2])
    except GateError:
        return None
    return Finished(
        sequence=row[0],
        prompt_id=submission.prompt_id,
        gate="",
        gpu_id=None,
        client_id=submission.client_id,
        state=JobState.FAILED,
        reason=DAMAGED,
        attempts=0,
        accepted=ended,
        ended=ended,
    )


def fitting(record: bytes | None, most: int = MOST_RECORD) -> bytes | None:
    """An entry of /history that fits: as it is, or with an empty prompt in its place, or none.

    The entry keeps ComfyUI's shape, ``"prompt": [number, prompt_id, {}, {}, outputs]``.
    """
    if record is None or len(record) <= most:
        return record
    try:
        entry = orjson.loads(record)
        number, prompt_id, _, _, outputs = entry["prompt"][:5]
        smaller = orjson.dumps({**entry, "prompt": [number, prompt_id, {}, {}, outputs]})
    except (ValueError, KeyError, TypeError):  # not an entry of /history
        return None
    return smaller if len(smaller) <= most else None


def has_secrets(submission: bytes) -> bool:
    """Whether a submission may hold credentials, which must be gone from the disk with the job."""
    return b"_comfy_org" in submission


def _number(number: float) -> int | float:
    return number + 0  # SQLite keeps -0.0 as 0.0, and both sort alike
