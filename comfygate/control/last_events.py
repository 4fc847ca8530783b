"""What a client is told of the end of a prompt when no ComfyUI tells it.

A client waits for ``execution_error`` and for ``executing`` without a node,
which ComfyUI sends last (``main.py``).  Where we end a prompt, because its
ComfyUI died once too often, nobody else will.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import orjson
from twisted.internet.interfaces import IReactorTime
from zope.interface import implementer

from comfygate.history import execution_error, execution_interrupted
from comfygate.interfaces import IJobListener
from comfygate.ledger import Ledger
from comfygate.model import Job, JobState

_WHY_UNKNOWN = "nobody knows how the prompt ended"


def last_events(
    job: Job, state: JobState, reason: str | None, wall: float, *, told: bool, recorded: bool
) -> tuple[bytes, ...]:
    """The WebSocket messages that the client of a job that is over has yet to get.

    :param state: how it ended.
    :param reason: why, in one line for people.
    :param wall: now, in seconds since 1970.
    :param told: see :class:`comfygate.ledger.Ended`.
    :param recorded: whether there is an entry of it in a history.
    """
    if state is JobState.UNKNOWN and told:
        return (_nothing_runs(job),)  # its ComfyUI may have died before it said so
    if state is JobState.CANCELLED:
        # Of a prompt that has never run ComfyUI says nothing, either.
        begun_and_dropped = job.attempts > 0 and not recorded
        if begun_and_dropped or not told:
            return (_message("execution_interrupted", execution_interrupted(job, wall)), _nothing_runs(job))
    elif state in (JobState.FAILED, JobState.UNKNOWN) and not told:
        error = execution_error(job, reason or _WHY_UNKNOWN, wall)
        return (_message("execution_error", error), _nothing_runs(job))
    return ()


def _nothing_runs(job: Job) -> bytes:
    return _message("executing", {"node": None, "prompt_id": job.prompt_id})


def _message(kind: str, data: dict[str, Any]) -> bytes:
    return orjson.dumps({"type": kind, "data": data})


@implementer(IJobListener)
class LastEvents:
    """Sends them.

    :param announce: sends a text message to the client with an id.
    :param ledger: whose jobs they are.
    :param wall_clock: seconds since 1970.
    """

    def __init__(
        self,
        announce: Callable[[str, bytes], None],
        ledger: Ledger,
        clock: IReactorTime,
        wall_clock: Callable[[], float],
    ) -> None:
        self._announce = announce
        self._ledger = ledger
        self._clock = clock
        self._wall_clock = wall_clock

    def job_changed(
        self, job: Job, state: JobState, gpu_id: int | None, reason: str | None, record: bytes | None
    ) -> None:
        """See :class:`comfygate.interfaces.IJobListener`."""
        ended = self._ledger.ended(job.prompt_id) if state.ended else None
        if ended is None or job.client_id is None:
            return
        wall = self._wall_clock()
        messages = last_events(job, state, reason, wall, told=ended.told, recorded=record is not None)
        if messages:
            self._clock.callLater(0, self._send, job.client_id, messages)

    def job_refused(self, job: Job) -> None:
        """See :class:`comfygate.interfaces.IJobListener`."""

    def _send(self, client_id: str, messages: Iterable[bytes]) -> None:
        for message in messages:
            self._announce(client_id, message)
