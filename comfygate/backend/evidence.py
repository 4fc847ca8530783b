"""When a backend is beyond help: decisions over what was measured, without I/O.

Time counts only as far as it was watched: a step between two looks that is much
longer than it should be (the clock was set, the daemon itself stood still) says
nothing about the backend, and counts for little.
"""

from __future__ import annotations

from collections.abc import Mapping

from attrs import define, field, frozen

from comfygate.backend.procfs import Usage
from comfygate.model import RestartCause

QUIET = 0.05
"""Share of one processor up to which a program counts as idle.  Not nothing: threads that
wait in vain for the GIL look for it 200 times a second (measured: 16 of them, 0.04)."""

GIVEN_UP = 2
"""Questions that are given up before the next one is left standing: so often has it
to leave them without an answer, and so few connections pile up on it."""

STUCK_QUIET = 5.0
"""Seconds for which prompts may wait though none runs, in an idle program."""

STUCK_BUSY = 60.0
"""The same in one that is at work: it may be moving models out of the way."""

STUCK_SHARE = 0.25
"""Share of one processor that it may use meanwhile: it still answers requests."""

STUCK_LOOKS = 3


@frozen
class Verdict:
    """A backend is to be killed and started again.

    :ivar reason: what it suffers from and how that was seen, in one line.
    :ivar evidence: what was measured, for the log.
    """

    cause: RestartCause
    reason: str
    evidence: Mapping[str, object] = field(factory=dict)


@define
class Stretch:
    """Time in which a program was idle, as far as is known.

    :ivar longest: seconds that one step may count for.
    :ivar share: of one processor, up to which it counts as idle.
    :ivar idle: seconds since it was last seen to work.
    :ivar used: seconds of processor time in `measured` seconds of those.
    """

    longest: float
    last: float
    share: float = QUIET
    idle: float = 0.0
    used: float = 0.0
    measured: float = 0.0
    _base: float | None = None

    def step(self, now: float, usage: Usage) -> float:
        """Take note of what the program has used by now.

        :return: seconds since the last step, as far as they count.
        """
        passed = min(max(0.0, now - self.last), self.longest)
        self.last = now
        self.idle += passed
        if self._base is None:
            self._base = usage.seconds
            return passed
        self.measured += passed
        self.used = max(0.0, usage.seconds - self._base)
        if not usage.stopped and self.used > self.share * self.measured:
            self._base, self.idle, self.used, self.measured = usage.seconds, 0.0, 0.0, 0.0
        return passed

    @property
    def evidence(self) -> dict[str, object]:
        """What was measured, for the log."""
        return {"processor_seconds": round(self.used, 3), "measured_seconds": round(self.measured, 3)}


def interval(limit: float) -> float:
    """Seconds between two questions whether a backend answers; see :class:`Silence`."""
    return max(0.05, min(limit / 6, 15.0))


@define
class Silence:
    """Whether a backend that does not answer is hung.

    It is, once a question has been open for `limit` seconds, at least
    ``GIVEN_UP`` others were given up in that time, and the program was idle for
    `limit` seconds: it used practically no processor time, or was stopped.  One
    that computes, however slow it is to answer, is not; nor is one that answers
    after all.

    The bound: looked at every ``interval(limit)`` seconds, a program that stands
    still for longer than `limit` seconds is condemned within ``limit +
    interval(limit)`` seconds of the moment when it stopped, whatever it did
    before.  For that, the time between a question and the first look that finds
    it open counts as idle: nothing is measured as long as it answers.
    """

    limit: float
    silent: float = 0.0
    unanswered: int = 0
    _stretch: Stretch | None = None

    def asked(self, now: float) -> None:
        """A question is put."""
        if self._stretch is None:
            self._stretch = Stretch(longest=3 * interval(self.limit), last=now)

    def answered(self) -> None:
        """It answered, whatever it said."""
        self.silent, self.unanswered, self._stretch = 0.0, 0, None

    def gave_up(self) -> None:
        """A question is not waited for any more."""
        self.unanswered += 1

    @property
    def patience(self) -> float:
        """Seconds after which the next question may be given up."""
        return min(self.limit / 3, 30.0) if self.unanswered < GIVEN_UP else 3600.0

    @property
    def open(self) -> bool:
        """Whether nothing was answered since a question was put."""
        return self._stretch is not None

    def look(self, now: float, usage: Usage) -> Verdict | None:
        """Judge it."""
        if self._stretch is None:
            return None
        self.silent += self._stretch.step(now, usage)
        enough = self.limit - interval(self.limit) / 10  # timers are not exact
        if self.unanswered < GIVEN_UP or min(self.silent, self._stretch.idle) < enough:
            return None
        used = f"{self._stretch.used:.2f} s of processor time"
        stopped = ", it is stopped" if usage.stopped else ""
        evidence = {"silent_seconds": round(self.silent, 3), "unanswered": self.unanswered, "stopped": usage.stopped}
        reason = f"hung: no answer for {self.silent:.3g} s, {used}{stopped}"
        return Verdict(RestartCause.HUNG, reason, evidence | self._stretch.evidence)


@define
class Standstill:
    """Whether a prompt that should run stands still: no event from the worker, and an idle program.

    :ivar limit: seconds of that which are too long.
    """

    limit: float
    _stretch: Stretch | None = None

    def moved(self) -> None:
        """The worker did something."""
        self._stretch = None

    def look(self, now: float, usage: Usage) -> Verdict | None:
        """Judge it, while its queue is not empty."""
        if self._stretch is None:
            self._stretch = Stretch(longest=3 * stall_interval(self.limit), last=now)
        self._stretch.step(now, usage)
        seconds = self._stretch.idle
        if seconds < self.limit:
            return None
        used = f"{self._stretch.used:.2f} s of processor time"
        evidence = {"still_seconds": round(seconds, 3), "stopped": usage.stopped, **self._stretch.evidence}
        return Verdict(RestartCause.STALLED, f"stalled: no event for {seconds:.4g} s, {used}", evidence)


def stall_interval(limit: float) -> float:
    """Seconds between two looks at a prompt that may stand still."""
    return max(0.05, min(limit / 20, 30.0))


@define
class Stuck:
    """Whether a queue is stuck: prompts wait and none runs, in several looks in a row."""

    looks: int = 0
    waited: float = 0.0
    _stretch: Stretch | None = None

    def clear(self) -> None:
        """Something runs, or nothing waits."""
        self.looks, self.waited, self._stretch = 0, 0.0, None

    def look(self, now: float, usage: Usage, pending: int) -> Verdict | None:
        """Judge it: `pending` prompts wait, and none runs."""
        if self._stretch is None:
            self._stretch = Stretch(longest=2 * STUCK_QUIET, last=now, share=STUCK_SHARE)
        self.looks += 1
        self.waited += self._stretch.step(now, usage)
        idle = self._stretch.idle > STUCK_QUIET
        if self.looks < STUCK_LOOKS or not (idle or self.waited > STUCK_BUSY):
            return None
        reason = f"stalled: nothing runs while {pending} wait, for {self.waited:.3g} s"
        evidence = {"stuck_seconds": round(self.waited, 3), "pending": pending, "looks": self.looks}
        return Verdict(RestartCause.STALLED, reason, evidence | self._stretch.evidence)


def worker_lost(line: str) -> Verdict:
    """What it means that a program printed `line`, an exception in its worker's thread."""
    return Verdict(RestartCause.STALLED, f"stalled: its worker is lost ({line})", {"printed": line})
