"""Medians and ratios of what was found: a table, whether promises are kept, a plot, and a file."""

from __future__ import annotations

import math
import os
import platform
import re
import statistics
import subprocess
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from attrs import frozen

from benchmarks.proxy.course import Found
from benchmarks.proxy.scenario import DEBIAN, OURS, PLAIN, TUNED, VARIANTS, Promise

Values = list[float | None]
"""One for each pair."""


def values(found: Found, scenario: str, variant: str, figure: str) -> Values:
    """What was found in each pair; ``None`` where it was not."""
    rounds = found.get(scenario, {}).get(variant, [])
    there = [one.get(figure) for one in rounds]
    return [None if value is None or math.isnan(value) else value for value in there]


def median(some: Values) -> float | None:
    """Of those that there are."""
    there = [value for value in some if value is not None]
    return statistics.median(there) if there else None


def ratio(ours: Values, theirs: Values) -> float | None:
    """The median of the ratios within each pair, which share what the machine was busy with."""
    return median([a / b for a, b in zip(ours, theirs, strict=False) if a is not None and b])


def ratio_of_added(ours: Values, theirs: Values, without: Values) -> float | None:
    """How much more is added to what there is without anybody; ``None`` if nothing can be seen to be added."""
    mine, others = (_median_added(each, without) for each in (ours, theirs))
    return None if mine is None or others is None or others <= 0 else mine / others


def _median_added(some: Values, without: Values) -> float | None:
    return median([a - b for a, b in zip(some, without, strict=False) if a is not None and b is not None])


def figures_of(found: Found, scenario: str) -> list[str]:
    """The names of a scenario's figures, in order."""
    return list(dict.fromkeys(name for rounds in found[scenario].values() for one in rounds for name in one))


def table(found: Found) -> str:
    """In Markdown: medians of each variant, and ComfyGate's ratios."""
    names = [name for name in VARIANTS if any(name in variants for variants in found.values())]
    ratios = [(TUNED, "to tuned"), (DEBIAN, "to nginx"), (PLAIN, "to plain")]
    ratios = [(name, title) for name, title in ratios if name in names and OURS in names]
    lines = ["| | | " + " | ".join([*names, *(title for _, title in ratios)]) + " |"]
    lines.append("|---|---|" + "---:|" * (len(names) + len(ratios)))
    for scenario in found:
        title = scenario
        for figure in figures_of(found, scenario):
            cells = [written(median(values(found, scenario, name, figure))) for name in names]
            ours = values(found, scenario, OURS, figure)
            cells += [
                "" if (r := ratio(ours, values(found, scenario, name, figure))) is None else f"{r:.2f}"
                for name, _ in ratios
            ]
            lines.append(f"| {title} | {figure} | " + " | ".join(cells) + " |")
            title = ""
    return "\n".join(lines)


def written(value: float | None) -> str:
    """A number with three digits that mean something."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


@frozen
class Verdict:
    """Whether a promise is kept.

    :ivar value: what was found, in the promise's terms; ``None`` if it was not measured.
    """

    promise: Promise
    value: float | None

    @property
    def kept(self) -> bool:
        bound = self.promise.bound
        return self.value is not None and (self.value >= bound if self.promise.at_least else self.value <= bound)

    def __str__(self) -> str:
        word = "at least" if self.promise.at_least else "at most"
        state = "not measured" if self.value is None else "ok    " if self.kept else "MISSES"
        of = f" of {self.promise.to}" if self.promise.to else ""
        found = "" if self.value is None else f"{written(self.value)}{of} "
        return f"{state} {self.promise.what}: {found}({word} {written(self.promise.bound)}{of})"


def judge(found: Found, promises: Iterable[Promise], ours: str = OURS) -> list[Verdict]:
    """Compare what was found with what is promised."""
    verdicts = []
    for promise in promises:
        mine = values(found, promise.scenario, ours, promise.figure)
        if promise.to is None:
            verdicts.append(Verdict(promise, median(mine)))
            continue
        theirs = values(found, promise.scenario, promise.to, promise.figure)
        if promise.less is None:
            verdicts.append(Verdict(promise, ratio(mine, theirs)))
        else:
            without = values(found, promise.scenario, promise.less, promise.figure)
            verdicts.append(Verdict(promise, ratio_of_added(mine, theirs, without)))
    return verdicts


def save(path: Path, found: Found, verdicts: Iterable[Verdict], how: dict[str, Any]) -> None:
    """Write everything down, with the date and the machine.

    :param how: what was asked for.
    """
    content = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "how": how,
        "promises": [
            {"what": one.promise.what, "found": one.value, "bound": one.promise.bound, "kept": one.kept}
            for one in verdicts
        ],
        "medians": {
            scenario: {
                variant: {name: median(values(found, scenario, variant, name)) for name in figures_of(found, scenario)}
                for variant in variants
            }
            for scenario, variants in found.items()
        },
        "pairs": found,
    }
    path.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def kept(path: Path) -> Found:
    """What was written down; a figure that there was not is ``None``."""
    found: Found = orjson.loads(path.read_bytes())["pairs"]
    return found


def machine() -> dict[str, Any]:
    """What it was measured on, and the versions of what was measured."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "kernel": platform.release().partition("-")[0],
        "python": platform.python_version(),
        "nginx": _version("nginx", "-v"),
        "haproxy": _version("haproxy", "-v"),
        "wrk": _version("wrk", "--version"),
        "comfygate": _version("git", "describe", "--always", "--dirty"),
    }


def _version(*command: str) -> str | None:
    """The first line that a program says, up to what follows its version."""
    environment = {**os.environ, "PATH": os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"}
    try:
        said = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=10, check=False)
    except OSError:
        return None
    line = (said.stdout + said.stderr).strip().partition("\n")[0]
    found = re.search(r"\d[\w.+~-]*", line)
    return line if command[0] == "git" or found is None else found[0]


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


COLORS = {TUNED: "#8a8a8a", "nginx": "#c4c4c4", "haproxy": "#d08c2f", OURS: "#3b6ea5", PLAIN: "#9fbfe0"}
BAR, GAP, LEFT, WIDTH = 9, 8, 330, 420
MOST = 3.0
"""Bars end there; the number says what they would be."""


def plot(path: Path, found: Found, rows: Sequence[tuple[str, str]]) -> None:
    """Draw figures as multiples of those of tuned nginx, a bar for each variant.

    :param rows: scenarios and figures.
    """
    rows = [row for row in rows if median(values(found, row[0], TUNED, row[1]))]
    names = [name for name in VARIANTS if name in COLORS and any(name in variants for variants in found.values())]
    step = BAR * len(names) + GAP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{LEFT + WIDTH + 60}" height="{60 + step * len(rows)}" '
        'font-family="sans-serif" font-size="11">',
        '<rect width="100%" height="100%" fill="white"/>',
        '<text x="10" y="20" font-weight="bold">As multiples of tuned nginx</text>',
        '<text x="200" y="20">(of rates, more is better; of CPU and times, less)</text>',
    ]
    for index, name in enumerate(names):
        parts.append(f'<rect x="{10 + 130 * index}" y="29" width="10" height="10" fill="{COLORS[name]}"/>')
        parts.append(f'<text x="{25 + 130 * index}" y="38">{name}</text>')
    for place, (scenario, figure) in enumerate(rows):
        top = 50 + place * step
        parts.append(f'<text x="{LEFT - 8}" y="{top + step / 2}" text-anchor="end">{scenario}: {figure}</text>')
        theirs = values(found, scenario, TUNED, figure)
        for index, name in enumerate(names):
            value = ratio(values(found, scenario, name, figure), theirs)
            if value is not None:
                y, width = top + index * BAR, WIDTH * min(value, MOST) / MOST
                parts.append(f'<rect x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR - 1}" fill="{COLORS[name]}"/>')
                parts.append(f'<text x="{LEFT + width + 4:.1f}" y="{y + 8}" font-size="9">{value:.2f}</text>')
    parts.append(
        f'<line x1="{LEFT + WIDTH / MOST}" x2="{LEFT + WIDTH / MOST}" y1="46" y2="{50 + step * len(rows)}" '
        'stroke="#555" stroke-dasharray="3 3"/>'
    )
    path.write_text("\n".join([*parts, "</svg>"]) + "\n", encoding="utf-8")
