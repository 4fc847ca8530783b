"""What a backend says about its queue."""

from __future__ import annotations

import pytest

from comfygate.backend.monitor import queue_remaining


def test_status() -> None:
    message = b'{"type": "status", "data": {"status": {"exec_info": {"queue_remaining": 3}}, "sid": "x"}}'
    assert queue_remaining(message) == 3


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"[]",
        b"null",
        b'{"type": "progress", "data": {}}',
        b'{"type": "status", "data": null}',
        b'{"type": "status", "data": {"status": {"exec_info": {"queue_remaining": "3"}}}}',
        b'{"type": "status", "data": {"status": {}}}',
        b'{"type": "status"',
    ],
)
def test_anything_else(message: bytes) -> None:
    assert queue_remaining(message) is None
