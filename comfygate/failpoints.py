"""Named steps at which a test may have the process die, as a loss of power would end it.

``COMFYGATE_FAILPOINT=name`` kills the process with SIGKILL when it reaches the
step of that name, ``name:n`` when it does so for the n-th time.  Without the
variable a step costs one comparison.
"""

from __future__ import annotations

import os
import signal

VARIABLE = "COMFYGATE_FAILPOINT"

_wanted, _, _times = os.environ.get(VARIABLE, "").partition(":")
_left = int(_times) if _times.isdigit() else 1


def reach(name: str) -> None:
    """Die here, if that is wanted."""
    global _left  # noqa: PLW0603 - the process has one fate
    if name == _wanted:
        _left -= 1
        if _left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
