"""What messages are about."""

from __future__ import annotations

import json
from typing import Any

import pytest

from comfygate.outbox import Message
from comfygate.stream.spoken import Role, Spoken, as_preview, read, with_prompt_id


def text(kind: str, **data: Any) -> Message:
    return Message(json.dumps({"type": kind, "data": data}).encode())


def binary(payload: bytes) -> Message:
    return Message(payload, True)


@pytest.mark.parametrize(
    ("message", "role", "prompt_id", "implied"),
    [
        (text("status", status={}), Role.STATUS, None, False),
        (text("feature_flags"), Role.FEATURES, None, False),
        (text("execution_start", prompt_id="a"), Role.START, "a", False),
        (text("execution_cached", nodes=[], prompt_id="a"), Role.OTHER, "a", False),
        (text("executing", node="1", prompt_id="a"), Role.STATE, "a", False),
        (text("executing", node="1"), Role.STATE, None, True),
        (text("executing", node=None, prompt_id="a"), Role.IDLE, "a", False),
        (text("progress", value=1, prompt_id="a"), Role.OTHER, "a", False),
        (text("progress", value=1), Role.OTHER, None, True),
        (text("progress_state", prompt_id="a", nodes={}), Role.STATE, "a", False),
        (text("executed", prompt_id="a", output={"prompt_id": "b"}), Role.OTHER, "a", False),
        (text("execution_success", prompt_id="a"), Role.LAST, "a", False),
        (text("execution_error", prompt_id="a"), Role.LAST, "a", False),
        (text("execution_interrupted", prompt_id="a"), Role.LAST, "a", False),
        (text("custom", prompt_id="a"), Role.OTHER, "a", False),
        (text("custom", prompt_id=5), Role.OTHER, None, False),
        (text("custom"), Role.OTHER, None, False),
        (Message(b'{"data": {"prompt_id": "a"}, "type": "execution_success"}'), Role.LAST, "a", False),
        (Message(b'{"type": "executed", "data": null}'), Role.OTHER, None, True),
        (Message(b"no json"), Role.OTHER, None, False),
        (text("executed", prompt_id="a", output="x" * 2**21), Role.OTHER, "a", False),
        (text("executed", output="x" * 2**21), Role.OTHER, None, True),
    ],
)
def test_texts(message: Message, role: Role, prompt_id: str | None, implied: bool) -> None:
    found = read(message)
    assert (found.role, found.prompt_id, found.implied, found.binary) == (role, prompt_id, implied, None)


@pytest.mark.parametrize(
    ("payload", "prompt_id", "implied", "number"),
    [
        (b"\0\0\0\1\0\0\0\1x", None, True, 1),
        (b"\0\0\0\3\0\0\0\0011text", None, True, 3),
        (b"\0\0\0\4\0\0\0\x11" + b'{"prompt_id":"a"}' + b"x", "a", False, 4),
        (b"\0\0\0\4\0\0\0\2{}x", None, True, 4),
        (b"\0\0\0\4\0\0\0\2[]x", None, True, 4),
        (b"\0\0\0\4\0\0\0\2{{x", None, True, 4),
        (b"\0\0\0\4\xff\xff\xff\xff", None, True, 4),
        (b"\0\0\0\x09x", None, False, 9),
        (b"\0", None, False, -1),
        (b"", None, False, -1),
    ],
)
def test_binaries(payload: bytes, prompt_id: str | None, implied: bool, number: int) -> None:
    assert read(binary(payload)) == Spoken(Role.OTHER, prompt_id, implied, b"", number)


def test_a_prompt_is_named() -> None:
    named = with_prompt_id(b'{"type": "executing", "data": {"node": "1"}}', "a")
    assert json.loads(named) == {"type": "executing", "data": {"node": "1", "prompt_id": "a"}}


def test_a_picture_without_its_metadata() -> None:
    def described(kind: str) -> bytes:
        metadata = json.dumps({"image_type": kind}).encode()
        return b"\0\0\0\4" + len(metadata).to_bytes(4, "big") + metadata + b"picture"

    assert as_preview(described("image/jpeg")) == b"\0\0\0\1\0\0\0\1picture"
    assert as_preview(described("image/png")) == b"\0\0\0\1\0\0\0\2picture"
    assert as_preview(b"\0\0\0\4\0\0\0\2{}picture") is None
    assert as_preview(b"\0\0\0\1\0\0\0\1picture") is None
