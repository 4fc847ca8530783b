"""What is remembered of what went wrong."""

from __future__ import annotations

import pytest

from comfygate.control.chronicle import Chronicle
from comfygate.model import BackendState, RestartCause
from tests.unit.fakes import FakeBackend


@pytest.mark.parametrize(
    ("state", "cause", "noted"),
    [
        (BackendState.DOWN, RestartCause.HUNG, True),
        (BackendState.DOWN, RestartCause.REQUESTED, False),
        (BackendState.FAILED, RestartCause.REQUESTED, True),
        (BackendState.STOPPING, RestartCause.HUNG, False),
    ],
)
def test_a_restart_that_was_asked_for_is_no_mishap(state: BackendState, cause: RestartCause, noted: bool) -> None:
    chronicle = Chronicle([0], lambda: 77.0)
    backend = FakeBackend(0)
    backend.cause = cause
    backend.state = state
    chronicle.backend_changed(backend)
    assert bool(chronicle.mishaps) is noted
    assert chronicle.since(0) == 77.0
