"""What several test files here share."""

import pytest
import txaio
from twisted.internet.task import Clock

from tests.unit.bridging import Gate


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """A clock that Autobahn looks at, too."""
    clock = Clock()
    monkeypatch.setattr(txaio.config, "loop", clock)  # type: ignore[attr-defined]
    return clock


@pytest.fixture
def gate(clock: Clock) -> Gate:
    """WebSockets between wires."""
    return Gate(clock)
