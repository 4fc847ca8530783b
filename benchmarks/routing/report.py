"""Figures of several loads: a table, a plot, and a file with the date and the machine."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from attrs import frozen

from benchmarks.routing.simulation import Outcome

Figures = dict[str, Any]


@frozen
class Result:
    """One way to route, on one load.

    :ivar bound: no order can end earlier than that.
    :ivar shortest_queue: the makespan of the shortest queue on arrival.
    """

    outcome: Outcome
    bound: float
    shortest_queue: float


def figures(results: Sequence[Result]) -> Figures:
    """Means over the loads, and the worst where that says more; times in runs."""
    to_queue = [one.outcome.makespan / one.shortest_queue for one in results]
    to_bound = [one.outcome.makespan / one.bound for one in results]
    return {
        "makespan": statistics.mean(one.outcome.makespan for one in results),
        "to_shortest_queue": statistics.mean(to_queue),
        "to_shortest_queue_worst": max(to_queue),
        "to_bound": statistics.mean(to_bound),
        "to_bound_worst": max(to_bound),
        "wait_p95": statistics.mean(one.outcome.p95 for one in results),
        "wait_worst": max(one.outcome.worst for one in results),
        "loads": statistics.mean(one.outcome.loads for one in results),
        "overtaken": max((one.outcome.overtaken for one in results if one.outcome.overtaken is not None), default=None),
    }


def table(rows: Mapping[str, Figures]) -> str:
    """In Markdown."""
    lines = [
        "| | makespan | to the shortest queue (worst) | to the bound (worst) | wait p95 | worst | loads | overtaken |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        overtaken = "?" if row["overtaken"] is None else row["overtaken"]
        lines.append(
            f"| {name} | {row['makespan']:.0f} "
            f"| {row['to_shortest_queue']:.3f} ({row['to_shortest_queue_worst']:.3f}) "
            f"| {row['to_bound']:.3f} ({row['to_bound_worst']:.3f}) "
            f"| {row['wait_p95']:.1f} | {row['wait_worst']:.1f} | {row['loads']:.0f} | {overtaken} |"
        )
    return "\n".join(lines)


def save(path: Path, found: Mapping[str, Any]) -> None:
    """Write all figures down, with the date and the machine."""
    content = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {"processor": _processor(), "cores": os.cpu_count(), "python": platform.python_version()},
        **found,
    }
    path.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


COLORS = ("#3b6ea5", "#d08c2f")
BAR, GAP, LEFT, WIDTH = 11, 8, 210, 420


def plot(path: Path, groups: Mapping[str, Mapping[str, Figures]]) -> None:
    """Draw the makespans as multiples of the bound, a bar for each way and arrival."""
    names = list(dict.fromkeys(name for rows in groups.values() for name in rows))
    most = max(row["to_bound"] for rows in groups.values() for row in rows.values())
    step = BAR * len(groups) + GAP
    height = 60 + step * len(names)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 60}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        '<text x="10" y="20" font-weight="bold">Time until all have run, as a multiple of the lower bound</text>',
    ]
    for index, group in enumerate(groups):
        parts.append(f'<rect x="{LEFT + 150 * index}" y="29" width="10" height="10" fill="{COLORS[index]}"/>')
        parts.append(f'<text x="{LEFT + 150 * index + 15}" y="38">{group}</text>')
    for place, name in enumerate(names):
        top = 50 + place * step
        parts.append(f'<text x="{LEFT - 8}" y="{top + step / 2}" text-anchor="end">{name}</text>')
        for index, rows in enumerate(groups.values()):
            if name in rows:
                value = rows[name]["to_bound"]
                y, width = top + index * BAR, WIDTH * value / most
                parts.append(
                    f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR - 1}" fill="{COLORS[index]}"/>'
                )
                parts.append(f'<text x="{LEFT + width + 4:.1f}" y="{y + 9}" font-size="10">{value:.2f}</text>')
    path.write_text("\n".join([*parts, "</svg>"]) + "\n", encoding="utf-8")
