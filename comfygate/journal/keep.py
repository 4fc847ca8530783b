"""How much the journal keeps."""

from __future__ import annotations

from attrs import frozen


@frozen(kw_only=True)
class Keep:
    """How much of finished jobs' history is kept.

    :ivar finished: jobs.
    :ivar days: for how long.
    :ivar total: bytes of the file above which the oldest go.
    """

    finished: int = 10_000
    days: float = 30.0
    total: int = 2**30
