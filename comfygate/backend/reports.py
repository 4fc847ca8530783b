"""What a backend's companion has told of its memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from comfygate.model import Holding

_PROMPTS = 16
"""More than a backend is handed at once by default; what is older is of no use."""


class Reports:
    """The last report, and the reports of the last few prompts' begins.

    :ivar last: what is in memory; ``None`` if nobody has told.
    """

    def __init__(self) -> None:
        self.last: Holding | None = None
        self._before: OrderedDict[str, tuple[str, ...]] = OrderedDict()

    @property
    def before(self) -> Mapping[str, tuple[str, ...]]:
        """What was in memory when a prompt was about to run, by prompt_id."""
        return self._before

    def hear(self, holding: Holding) -> None:
        """The companion tells something."""
        self.last = holding
        if not holding.ended:
            self._before[holding.prompt_id] = holding.models
            if len(self._before) > _PROMPTS:
                self._before.popitem(last=False)

    def clear(self) -> None:
        """The process is gone, and its memory with it."""
        self.last = None
        self._before.clear()
