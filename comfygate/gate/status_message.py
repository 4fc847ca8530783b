"""ComfyUI's status message: how many prompts are left."""

from __future__ import annotations

from typing import Any

import orjson

_AT_MOST = 64 * 1024


def add_waiting(payload: bytes, waiting: int) -> tuple[bytes, int | None]:
    """Count the prompts that wait with us into a backend's status message.

    :param payload: a text message whose type is ``status``.
    :param waiting: prompts that the backend doesn't know of yet.
    :return: the message to pass on, and the number that the backend gave;
        an odd message is passed on as it is, with ``None``.
    """
    if len(payload) > _AT_MOST:
        return payload, None
    try:
        message = orjson.loads(payload)
        info = message["data"]["status"]["exec_info"]
        remaining = info["queue_remaining"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return payload, None
    if type(remaining) is not int:
        return payload, None
    if waiting:
        info["queue_remaining"] = remaining + waiting
        payload = orjson.dumps(message)
    return payload, remaining


def status_message(remaining: int, sid: str | None = None) -> bytes:
    """A status message as ComfyUI sends it; with `sid`, the first one of a socket."""
    data: dict[str, Any] = {"status": {"exec_info": {"queue_remaining": remaining}}}
    if sid is not None:
        data["sid"] = sid
    return orjson.dumps({"type": "status", "data": data})
