"""Entries of ComfyUI's ``/history``: what they say, and the one that we write where ComfyUI could not."""

from __future__ import annotations

import json
from typing import Any

import orjson
from attrs import frozen

from comfygate.model import Job, JobState


@frozen
class Outcome:
    """How a backend says that a job ended.

    :ivar reason: why it did not end well, in one line.
    """

    state: JobState
    reason: str | None = None


def outcome(entry: dict[str, Any]) -> Outcome:
    """How a job ended.

    :param entry: its entry in ComfyUI's /history.
    """
    status = entry.get("status") or {}
    if status.get("status_str") == "success":
        return Outcome(JobState.DONE)
    messages = {message[0]: message[-1] for message in status.get("messages") or [] if message}
    if "execution_interrupted" in messages:
        return Outcome(JobState.CANCELLED)
    error = messages.get("execution_error")
    if not isinstance(error, dict):
        return Outcome(JobState.FAILED)
    said = [error[key] for key in ("node_type", "exception_type", "exception_message") if error.get(key)]
    return Outcome(JobState.FAILED, ": ".join(" ".join(printable(str(one)).split()) for one in said)[:500] or None)


def printable(text: str) -> str:
    """Text as UTF-8 can hold it: a file's name in an error message may have bytes that are none, which Python keeps."""
    return text.encode(errors="backslashreplace").decode()


def encoded(entry: dict[str, Any]) -> bytes:
    """An entry in JSON; ComfyUI's may hold numbers that orjson does not write."""
    try:
        return orjson.dumps(entry)
    except orjson.JSONEncodeError:
        return json.dumps(entry).encode()


def ended_at(entry: dict[str, Any]) -> float:
    """When a job ended, in seconds since 1970: the time of its last message; 0 if there is none."""
    messages = (entry.get("status") or {}).get("messages") or []
    stamps = [message[-1].get("timestamp") for message in messages if message and isinstance(message[-1], dict)]
    return max((stamp / 1000 for stamp in stamps if isinstance(stamp, int | float)), default=0.0)


def execution_error(job: Job, reason: str, wall: float) -> dict[str, Any]:
    """What ComfyUI says of a prompt that ended with an error, where no node of it is to blame.

    :param reason: one line for people.
    :param wall: now, in seconds since 1970.
    """
    return {
        "prompt_id": job.prompt_id,
        "node_id": "",
        "node_type": "",
        "executed": [],
        "exception_message": reason,
        "exception_type": "ComfyGate",
        "traceback": [],
        "current_inputs": {},
        "current_outputs": [],
        "timestamp": int(wall * 1000),
    }


def execution_interrupted(job: Job, wall: float) -> dict[str, Any]:
    """What ComfyUI says of a prompt that was interrupted, where it is not known at which node.

    :param wall: now, in seconds since 1970.
    """
    return {
        "prompt_id": job.prompt_id,
        "node_id": "",
        "node_type": "",
        "executed": [],
        "timestamp": int(wall * 1000),
    }


def failed_entry(job: Job, reason: str, wall: float) -> bytes:
    """The entry of a job that failed by our decision, in JSON, as ComfyUI writes one that ended with an error.

    A client that waits for the job to appear in the history would wait for ever otherwise.

    :param reason: one line for people.
    :param wall: now, in seconds since 1970.
    """
    messages = [["execution_error", execution_error(job, reason, wall)]]
    status = {"status_str": "error", "completed": False, "messages": messages}
    rest = orjson.dumps({"outputs": {}, "status": status, "meta": {}})
    return b'{"prompt":' + (job.item or b"[]") + b"," + rest[1:]


def refusal(body: bytes) -> str:
    """Why ComfyUI refused a prompt, in one line.

    :param body: of its answer 400 to POST /prompt.
    """
    try:
        said = orjson.loads(body)
        nodes = said.get("node_errors") or {}
        errors = [said["error"], *(error for node in nodes.values() for error in node["errors"])]
        lines = [": ".join(filter(None, (error["message"], error["details"]))) for error in errors]
    except (orjson.JSONDecodeError, AttributeError, LookupError, TypeError):
        lines = [body.decode(errors="replace")]
    return " ".join("; ".join(lines).split())[:500]
