"""What was lost of a journal."""

from __future__ import annotations

from attrs import frozen


@frozen
class Loss:
    """A row that was damaged, and is in quarantine.

    :ivar table: where it was.
    :ivar why: what is wrong with it.
    :ivar prompt_id: whose it was, where that is known.
    """

    table: str
    why: str
    prompt_id: str | None
