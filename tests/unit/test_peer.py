"""Who is at the other end."""

from __future__ import annotations

import os
import socket
from types import SimpleNamespace
from typing import Any

from comfygate.control.peer import peer_uid


def request(handle: Any) -> Any:
    return SimpleNamespace(channel=SimpleNamespace(transport=SimpleNamespace(getHandle=lambda: handle)))


def test_a_process_of_ours() -> None:
    one, other = socket.socketpair(socket.AF_UNIX)
    with one, other:
        assert peer_uid(request(one)) == os.geteuid()


def test_nobody_can_be_told_on_another_kind_of_socket() -> None:
    with socket.socket(socket.AF_INET) as one:
        assert peer_uid(request(one)) is None
    assert peer_uid(request(one)) is None  # closed
    assert peer_uid(SimpleNamespace(channel=None)) is None  # type: ignore[arg-type]
    assert peer_uid(SimpleNamespace(channel=SimpleNamespace(transport=None))) is None  # type: ignore[arg-type]
