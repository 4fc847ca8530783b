"""What people and programs are told."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, TextIO

import orjson

from comfygate.smoke.outcome import Outcome, Verdict

_SIGNS = {Verdict.PASSED: "✓", Verdict.FAILED: "✗", Verdict.SKIPPED: "-"}
_PLAIN = {Verdict.PASSED: "ok  ", Verdict.FAILED: "FAIL", Verdict.SKIPPED: "-   "}
_COLORS = {Verdict.PASSED: "32", Verdict.FAILED: "31", Verdict.SKIPPED: "33"}
_PATH_WIDTH = 22
_LONGEST = 500


class Report:
    """Lines for people.

    :param names: of all ports, so that columns stay where they are.
    """

    def __init__(self, stream: TextIO, names: Sequence[str], environ: Mapping[str, str]) -> None:
        self._stream = stream
        self._begun = False
        self._width = max((len(_one_line(name)) for name in names), default=0)
        self._signs = _SIGNS if _can_print(stream, "".join(_SIGNS.values())) else _PLAIN
        self._colored = stream.isatty() and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"

    def lines(self, outcomes: Sequence[Outcome]) -> None:
        """Write a line for each thing that was asked of a port."""
        if self._begun:
            self._write("")
        self._begun = True
        for outcome in outcomes:
            self._write(self._line(outcome))

    def summary(self, outcomes: Sequence[Outcome], seconds: float) -> None:
        """Write how it went."""
        counts = Counter(outcome.verdict for outcome in outcomes)
        ports = len({outcome.port for outcome in outcomes})
        failed, skipped = counts[Verdict.FAILED], counts[Verdict.SKIPPED]
        result = ", ".join(
            [f"{failed} failed" if failed else "all is well"] + ([f"{skipped} not tried"] if skipped else [])
        )
        port = "1 port" if ports == 1 else f"{ports} ports"
        text = f"{len(outcomes)} checks of {port} in {seconds:.1f} s: {result}."
        verdict = Verdict.FAILED if failed or not counts[Verdict.PASSED] else Verdict.PASSED
        self._write(f"\n{self._paint(text, verdict)}")

    def _line(self, outcome: Outcome) -> str:
        status = "---" if outcome.status is None else str(outcome.status)
        sign = self._paint(f"{self._signs[outcome.verdict]} {status}", outcome.verdict)
        name = _one_line(outcome.name).ljust(self._width)
        request = f"{outcome.method:<4} {outcome.path:<{_PATH_WIDTH}}"
        return f"{sign} {outcome.port:<5} {name}  {request} {_one_line(outcome.note)}".rstrip()

    def _paint(self, text: str, verdict: Verdict) -> str:
        return f"\x1b[{_COLORS[verdict]}m{text}\x1b[0m" if self._colored else text

    def _write(self, line: str) -> None:
        encoding = self._stream.encoding or "ascii"
        # What a server sent may hold letters that this terminal does not know.
        self._stream.write(line.encode(encoding, "replace").decode(encoding) + "\n")
        self._stream.flush()


def as_json(hub: str, outcomes: Sequence[Outcome], seconds: float) -> bytes:
    """The same for programs: ``{"hub", "ok", "seconds", "passed", "failed", "skipped", "checks": [{"port", "name",
    "gpu_id", "method", "path", "verdict", "status", "note", "seconds"}, …]}``.
    """
    counts = Counter(outcome.verdict for outcome in outcomes)
    found: dict[str, Any] = {"hub": hub, "ok": all_well(outcomes), "seconds": round(seconds, 3)}
    found |= {verdict.value: counts[verdict] for verdict in Verdict}
    checks = [
        {
            "port": one.port,
            "name": one.name,
            "gpu_id": one.gpu_id,
            "method": one.method,
            "path": one.path,
            "verdict": one.verdict.value,
            "status": one.status,
            "note": one.note,
            "seconds": round(one.seconds, 3),
        }
        for one in outcomes
    ]
    return orjson.dumps({**found, "checks": checks}, option=orjson.OPT_INDENT_2) + b"\n"


def all_well(outcomes: Sequence[Outcome]) -> bool:
    """Whether nothing failed."""
    return not any(outcome.verdict is Verdict.FAILED for outcome in outcomes)


def _one_line(text: str) -> str:
    """What a server sent, without anything that a terminal would obey."""
    plain = "".join(c if c.isprintable() else " " for c in text[: _LONGEST + 1])
    return plain if len(plain) <= _LONGEST else f"{plain[:_LONGEST]}…"


def _can_print(stream: TextIO, text: str) -> bool:
    try:
        text.encode(stream.encoding or "ascii")
    except UnicodeEncodeError:
        return False
    return True
