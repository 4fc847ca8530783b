"""Who has had how much of something: start-time fair queueing."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable

MOST = 10_000
"""Takers that are remembered; who had nothing for longest is forgotten first."""


class Shares:
    """The virtual time at which each taker is due again.

    Whoever takes something is due again the later, the more it was.  Who comes
    after a pause is due now, and no earlier: a pause earns nothing (Goyal, Vin
    and Cheng, "Start-time Fair Queuing", 1996).
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._due: OrderedDict[Hashable, float] = OrderedDict()

    def due(self, taker: Hashable) -> float:
        """When `taker` is due; the smallest comes first."""
        due = self._due.get(taker, 0.0)
        return due if due > self._now else self._now  # max() takes longer, and thousands may be asked for

    def charge(self, taker: Hashable, amount: float) -> None:
        """`taker` gets `amount`."""
        begun = self.due(taker)
        self._due[taker] = begun + amount
        self._due.move_to_end(taker)
        self._now = begun
        if len(self._due) > MOST:
            self._due.popitem(last=False)

    def forget(self, taker: Hashable) -> None:
        """`taker` is gone."""
        self._due.pop(taker, None)
