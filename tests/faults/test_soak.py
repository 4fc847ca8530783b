"""The soak: that it can fail, and a short one for losses and descriptors."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from benchmarks.soak import BOUNDS, Sample, growths, soak


def samples(count: int = 180, **slopes: float) -> list[Sample]:
    """As of half an hour, with caches that fill first, noise, and a growth a minute of what is named."""
    chance = random.Random(1)
    found = []
    for n in range(count):
        figures = {"rss": 90.0 + min(n / count, 0.3) * 20, "descriptors": 120.0, "threads": 8.0, "journal": 9.0}
        noisy = {name: value + chance.uniform(-2, 2) for name, value in figures.items()}
        grown = {name: value + slopes.get(name, 0.0) * n / 6 for name, value in noisy.items()}
        found.append(Sample(at=10.0 * n, **grown))
    return found


def test_what_stays_as_it_is_is_flat() -> None:
    assert [one.name for one in growths(samples()) if one.flat] == [bound.name for bound in BOUNDS]


@pytest.mark.parametrize(("name", "a_minute"), [("rss", 0.6), ("descriptors", 1.0), ("threads", 0.3), ("journal", 0.4)])
def test_what_grows_slowly_is_seen(name: str, a_minute: float) -> None:
    assert [one.name for one in growths(samples(**{name: a_minute})) if not one.flat] == [name]


def test_a_short_one_loses_nothing(tmp_path: Path) -> None:
    soaked = soak(tmp_path, 18.0, every=2.0)
    assert not soaked.verdict.problems, soaked.verdict.report()
    assert soaked.verdict.count("done") == len(soaked.verdict.ends) > 100
    assert set(soaked.answers) == {200}, soaked.answers
    first, last = soaked.samples[2].descriptors, soaked.samples[-1].descriptors
    assert last - first < 30, [one.descriptors for one in soaked.samples]
