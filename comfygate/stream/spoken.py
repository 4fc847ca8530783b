"""What a ComfyUI's WebSocket message is about."""

from __future__ import annotations

import re
import struct
from enum import Enum

import orjson
from attrs import frozen

from comfygate.outbox import Message, text_type

_PARSED_AT_MOST = 1024 * 1024
_PROMPT = re.compile(rb'"prompt_id"\s*:\s*"([^"\\]{1,200})"')
_LONGEST_METADATA = 64 * 1024

_LAST = frozenset({b"execution_success", b"execution_error", b"execution_interrupted"})
_OF_A_PROMPT = _LAST | {
    b"execution_start",
    b"execution_cached",
    b"executing",
    b"executed",
    b"progress",
    b"progress_state",
}


class Role(Enum):
    """What a message means to whoever joins several streams."""

    STATUS = "status"  #: how many prompts are left
    FEATURES = "features"  #: the answer to a client's feature flags
    START = "start"  #: a prompt begins
    STATE = "state"  #: which node is at work, and how far it all is
    LAST = "last"  #: a prompt has ended; its history may not have been written
    IDLE = "idle"  #: nothing of a prompt runs any more, and its history can be read
    OTHER = "other"


@frozen
class Spoken:
    """A message, read.

    :ivar prompt_id: the prompt that it names.
    :ivar implied: whether it is about a prompt, which it does not name.
    :ivar kind: the type of a text message.
    :ivar binary: the number that a binary message begins with.
    """

    role: Role
    prompt_id: str | None = None
    implied: bool = False
    kind: bytes = b""
    binary: int | None = None


def read(message: Message) -> Spoken:
    """Read a message (ComfyUI: ``server.py``, ``execution.py``, ``main.py``, ``protocol.py``)."""
    return _read_binary(message.payload) if message.binary else _read_text(message.payload)


def with_prompt_id(payload: bytes, prompt_id: str) -> bytes:
    """A text message that names the prompt that it is about."""
    value = orjson.loads(payload)
    value["data"]["prompt_id"] = prompt_id
    return orjson.dumps(value)


def as_preview(payload: bytes) -> bytes | None:
    """A picture with metadata (type 4) as one without (type 1); ``None`` if it is something else."""
    metadata, image = _split(payload)
    kind = metadata.get("image_type")
    if kind is None:
        return None
    return struct.pack(">II", 1, 2 if kind == "image/png" else 1) + image


def _read_text(payload: bytes) -> Spoken:
    kind = text_type(payload)
    if kind == b"status":
        return Spoken(Role.STATUS, kind=kind)
    if kind == b"feature_flags":
        return Spoken(Role.FEATURES, kind=kind)
    data = _data(payload)
    prompt_id = data.get("prompt_id")
    known = kind in _OF_A_PROMPT
    if not isinstance(prompt_id, str):
        return Spoken(_role(kind, data), None, known, kind)
    return Spoken(_role(kind, data), prompt_id, False, kind)


def _role(kind: bytes, data: dict[str, object]) -> Role:
    if kind in _LAST:
        return Role.LAST
    if kind == b"execution_start":
        return Role.START
    if kind == b"executing":
        return Role.IDLE if data.get("node") is None else Role.STATE
    return Role.STATE if kind == b"progress_state" else Role.OTHER


def _data(payload: bytes) -> dict[str, object]:
    if len(payload) > _PARSED_AT_MOST:
        found = _PROMPT.search(payload)
        return {"prompt_id": found[1].decode("utf-8", "replace"), "node": ""} if found else {"node": ""}
    try:
        data = orjson.loads(payload)["data"]
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return {}
    return data if isinstance(data, dict) else {}


def _read_binary(payload: bytes) -> Spoken:
    number = int.from_bytes(payload[:4], "big") if len(payload) >= 4 else -1
    if number == 4:
        prompt_id = _split(payload)[0].get("prompt_id")
        named = prompt_id if isinstance(prompt_id, str) else None
        return Spoken(Role.OTHER, named, named is None, binary=4)
    return Spoken(Role.OTHER, None, number in (1, 3), binary=number)


def _split(payload: bytes) -> tuple[dict[str, object], bytes]:
    size = int.from_bytes(payload[4:8], "big")
    if payload[:4] != b"\0\0\0\4" or size > _LONGEST_METADATA:
        return {}, b""
    try:
        metadata = orjson.loads(payload[8 : 8 + size])
    except orjson.JSONDecodeError:
        return {}, b""
    return (metadata if isinstance(metadata, dict) else {}), payload[8 + size :]
