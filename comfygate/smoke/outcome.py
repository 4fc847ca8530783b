"""What a check found."""

from __future__ import annotations

from enum import Enum

from attrs import frozen


class Verdict(Enum):
    """How a check ended."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@frozen(kw_only=True)
class Outcome:
    """One line of the report.

    :ivar port: where it was asked.
    :ivar name: what the port is: ``GPU 0``, ``hub``, or a gate's own name.
    :ivar gpu_id: the GPU whose port it is, or None.
    :ivar status: of the HTTP answer; None if there was none.
    :ivar note: what was looked at, or what was expected and what came.
    :ivar seconds: until the answer was there.
    """

    port: int
    name: str
    gpu_id: int | None
    method: str
    path: str
    verdict: Verdict
    status: int | None = None
    note: str = ""
    seconds: float = 0.0


class UnexpectedError(Exception):
    """An answer is not what was expected, or there is none.

    :param note: what was expected, what came.
    :ivar status: of the HTTP answer, if there was one.
    """

    def __init__(self, note: str, status: int | None = None) -> None:
        super().__init__(note)
        self.status = status


class UnreachableError(UnexpectedError):
    """There is no server, or it takes no connections."""


class SilentError(UnexpectedError):
    """An answer did not come in time."""
