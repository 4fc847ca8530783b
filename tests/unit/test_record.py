"""What is kept of a backend's life."""

from __future__ import annotations

from comfygate.backend.record import CHANCE, delays


def test_delays() -> None:
    assert [delays(0.0, 60.0)(n) for n in range(3)] == [0, 0, 0]
    for n, least in enumerate((8, 16, 20, 20)):
        assert least <= delays(8.0, 20.0)(n) <= least + CHANCE
    assert 0.1 <= delays(0.1, 0.1)(50) <= 0.2
    assert 100 <= delays(100.0, 60.0)(0) <= 101  # the first is what was asked for
