"""The course of a run: everything in turns, so that a noisy machine is noisy for all alike."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from attrs import frozen

from benchmarks.proxy.scenario import Backend, Behind, Figures, MeasuringError, Scenario, Target
from benchmarks.proxy.servers import targets

Found = dict[str, dict[str, list[Figures]]]
"""Figures by scenario and variant, one for each pair."""


@frozen
class Course:
    """How a run is made.

    :ivar pairs: rounds in which every variant has its turn.
    :ivar seconds: that a measurement takes.
    :ivar variants: those that take part.
    :ivar core: the only one that proxies may use, while all others have the rest.
    """

    pairs: int
    seconds: float
    variants: tuple[str, ...]
    core: int | None = None


def run(scenarios: Sequence[Scenario], course: Course, found: Found) -> None:
    """Measure everything; what is found is also printed as it is found.

    :param found: where it is put.
    """
    if course.core is not None:
        os.sched_setaffinity(0, os.sched_getaffinity(0) - {course.core})
    for backend in dict.fromkeys(scenario.backend for scenario in scenarios):
        mine = [scenario for scenario in scenarios if scenario.backend is backend]
        with TemporaryDirectory(prefix="comfygate-bench-") as name:
            place = Path(name) / "backend"
            place.mkdir()
            with backend.start(place) as behind:
                for fresh in (False, True):
                    some = [scenario for scenario in mine if scenario.fresh is fresh]
                    (_run_fresh if fresh else _run_shared)(some, course, backend, behind, Path(name), found)


def _run_shared(
    scenarios: Sequence[Scenario], course: Course, backend: Backend, behind: Behind, folder: Path, found: Found
) -> None:
    wanted = {name for scenario in scenarios for name in scenario.variants}
    names = [name for name in course.variants if name in wanted]
    if not names:
        return
    with targets(names, backend, behind, folder / "shared", course.core) as running:
        for scenario in scenarios:
            for pair in range(course.pairs):
                for name in _turns(scenario, course, pair):
                    _measure(scenario, running[name], pair, course, found)


def _run_fresh(
    scenarios: Sequence[Scenario], course: Course, backend: Backend, behind: Behind, folder: Path, found: Found
) -> None:
    for number, scenario in enumerate(scenarios):
        for pair in range(course.pairs):
            for name in _turns(scenario, course, pair):
                place = folder / f"fresh-{number}-{pair}"
                with targets([name], backend, behind, place, course.core) as running:
                    _measure(scenario, running[name], pair, course, found)


def _turns(scenario: Scenario, course: Course, pair: int) -> Iterable[str]:
    """Who is measured in what order: another one comes first each time."""
    names = [name for name in course.variants if name in scenario.variants]
    start = pair % len(names) if names else 0
    return names[start:] + names[:start]


def _measure(scenario: Scenario, target: Target, pair: int, course: Course, found: Found) -> None:
    try:
        figures = scenario.measure(target, course.seconds * scenario.seconds)
    except (MeasuringError, OSError) as error:
        print(f"{scenario.name} | {pair + 1}/{course.pairs} {target.name} failed: {error}", file=sys.stderr, flush=True)
        figures = {}  # so that later pairs keep their places
    found.setdefault(scenario.name, {}).setdefault(target.name, []).append(figures)
    if not figures:
        return
    said = ", ".join(f"{name} {value:.4g}" for name, value in figures.items() if not math.isnan(value))
    print(f"{scenario.name} | {pair + 1}/{course.pairs} {target.name}: {said}", file=sys.stderr, flush=True)
