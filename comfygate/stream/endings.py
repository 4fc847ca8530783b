"""The last messages about a prompt, made anew from what the ledger knows of its end."""

from __future__ import annotations

from typing import Any

import orjson

from comfygate.history import execution_error, execution_interrupted
from comfygate.model import Job, JobState
from comfygate.outbox import Message

_LONGEST_RECORD = 4 * 2**20
_LONGEST = 256 * 1024
_BULKY = ("current_inputs", "current_outputs", "traceback")

_WHY_UNKNOWN = "nobody knows how the prompt ended"


def ending(
    job: Job, state: JobState, reason: str | None, record: bytes | None, wall: float, *, told: bool
) -> tuple[Message, ...]:
    """What a ComfyUI says last of a prompt: its last event, and ``executing`` without a node.

    :param state: how it ended.
    :param reason: why, in one line for people.
    :param record: its entry in ``/history``, in JSON, if there is one.
    :param wall: now, in seconds since 1970.
    :param told: see :class:`comfygate.ledger.Ended`.
    :return: empty for a prompt that was cancelled before it began: ComfyUI says nothing of such.
    """
    if state is JobState.DONE:
        kind, data = "execution_success", {"prompt_id": job.prompt_id, "timestamp": int(wall * 1000)}
    elif state is JobState.CANCELLED:
        kind = "execution_interrupted"
        found = _found(record, kind)
        if found is None and told and not job.attempts:
            return ()
        data = found or execution_interrupted(job, wall)
    else:
        kind = "execution_error"
        data = _found(record, kind) or execution_error(job, reason or _WHY_UNKNOWN, wall)
    return _message(kind, data), _message("executing", {"node": None, "prompt_id": job.prompt_id})


def _found(record: bytes | None, kind: str) -> dict[str, Any] | None:
    """What ComfyUI said of the end, as its history has it; without what makes it large."""
    if record is None or len(record) > _LONGEST_RECORD:
        return None
    try:
        messages = orjson.loads(record)["status"]["messages"]
        found = next((one[-1] for one in reversed(messages) if one[0] == kind), None)
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return None
    if not isinstance(found, dict):
        return None
    if len(orjson.dumps(found)) > _LONGEST:
        found |= {key: type(found[key])() for key in _BULKY if isinstance(found.get(key), dict | list)}
    return found


def _message(kind: str, data: dict[str, Any]) -> Message:
    return Message(orjson.dumps({"type": kind, "data": data}))
