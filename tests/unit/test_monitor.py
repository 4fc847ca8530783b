"""What a backend says about its queue."""

from __future__ import annotations

import pytest

from comfygate.backend.monitor import WORKS, queue_remaining


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


@pytest.mark.parametrize(
    "name",
    ["execution_start", "execution_error", "executing", "executed", "progress", "progress_state", "comfygate.progress"],
)
def test_signs_that_prompts_are_run(name: str) -> None:
    assert WORKS.match(f'{{"type": "{name}", "data": {{}}}}'.encode())
    assert WORKS.match(f'{{"type":"{name}","data":{{}}}}'.encode())


@pytest.mark.parametrize("name", ["status", "crystools.monitor", "logs", "progress_bar", "feature_flags"])
def test_no_signs_that_prompts_are_run(name: str) -> None:
    """Which others send too, also while the worker is lost."""
    assert not WORKS.match(f'{{"type": "{name}", "data": {{"type": "executing"}}}}'.encode())
