"""Which requests a planned fault strikes: the third, every fifth."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from attrs import frozen

BEFORE = "_before"
"""Ends the name of a fault that strikes before the request is acted on."""

KINDS = {
    "die": "exit with status 1",
    "queue_500": "answer 500",
    "garbage": "send what is not HTTP",
    "half_head": "send half of the answer's head",
    "short_body": "announce more than is sent",
    "silent": "send nothing",
}
"""How an answer fails to come; :mod:`comfygate.simulator.answers` has the code."""


@frozen
class Plan:
    """A fault and the requests that it strikes.

    :ivar kind: one of `KINDS`.
    :ivar before: whether the request is not acted on.
    :ivar nth: which request it strikes, from 1.
    :ivar again: whether it strikes every `nth`.
    """

    kind: str
    before: bool = False
    nth: int = 1
    again: bool = False

    def strikes(self, count: int) -> bool:
        """Whether it strikes the request with this number."""
        return count % self.nth == 0 if self.again else count == self.nth


def read_plan(text: str) -> Plan:
    """Read ``KIND``, ``KIND:N`` (the N-th request) or ``KIND:*N`` (every N-th).

    :raises argparse.ArgumentTypeError: it is something else.
    """
    name, _, number = text.partition(":")
    kind = name.removesuffix(BEFORE)
    digits = number.removeprefix("*") or "1"
    if kind not in KINDS or not digits.isdecimal() or not int(digits):
        known = ", ".join(KINDS)
        raise argparse.ArgumentTypeError(f"{text!r} is not KIND, KIND:N or KIND:*N with a KIND of {known}")
    return Plan(kind, name != kind, int(digits), number.startswith("*"))


class Countdown:
    """Counts requests, over restarts of the process too, and says which fault strikes.

    :param memory: the file that holds the count; written only where faults are planned.
    """

    def __init__(self, plans: Sequence[Plan], memory: Path) -> None:
        self._plans = tuple(plans)
        self._memory = memory

    def next(self) -> Plan | None:
        """Count one more request, and say what strikes it."""
        if not self._plans:
            return None
        count = 1 + (int(self._memory.read_text()) if self._memory.exists() else 0)
        self._memory.write_text(str(count))
        return next((plan for plan in self._plans if plan.strikes(count)), None)
