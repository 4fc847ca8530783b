"""ComfyUI's messages that say how many prompts are left."""

from __future__ import annotations

from typing import Any

import orjson

_AT_MOST = 64 * 1024


def with_remaining(payload: bytes, remaining: int) -> bytes | None:
    """Put our number of prompts into a backend's status message, which counts only its own queue.

    :param payload: a text message whose type is ``status``.
    :return: the message to pass on, or ``None`` if it is not such a message.
    """
    if len(payload) > _AT_MOST:
        return None
    try:
        message = orjson.loads(payload)
        info = message["data"]["status"]["exec_info"]
        theirs = info["queue_remaining"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return None
    if type(theirs) is not int:
        return None
    if theirs == remaining:
        return payload
    info["queue_remaining"] = remaining
    return orjson.dumps(message)


def status_message(remaining: int, sid: str | None = None) -> bytes:
    """A status message as ComfyUI sends it; with `sid`, the first one of a socket."""
    data: dict[str, Any] = {"status": {"exec_info": {"queue_remaining": remaining}}}
    if sid is not None:
        data["sid"] = sid
    return orjson.dumps({"type": "status", "data": data})
