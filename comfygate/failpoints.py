"""Steps at which a test has this process killed, to see what is found afterwards.

With ``COMFYGATE_FAILPOINT=name`` in the environment the process kills itself
(SIGKILL) when it comes to the step of that name; with ``name:3``, when it comes
there for the third time.  Without it, a step is a call that does nothing.

The steps, in the order in which a prompt passes them:

- ``journal.accept.noted``: the journal was asked to write a new job down.
- ``journal.batch.begun``: within the transaction, before anything is written.
- ``journal.batch.written``: before the commit.
- ``journal.batch.committed``: it is on disk, and nobody has been told.
- ``accept.answered``: the client's 200 is on its way.
- ``dispatch.before_send``, ``dispatch.after_send``: around a backend's POST /prompt.
- ``end.noted``: the job is over, and the journal has been told.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from attrs import define

VARIABLE = "COMFYGATE_FAILPOINT"


@define
class Trap:
    """Kills the process at one step.

    :ivar left: how often the step is still to be come to, this time included.
    """

    name: str
    left: int = 1

    def __call__(self, name: str) -> None:
        """The process has come to the step `name`."""
        if name == self.name:
            self.left -= 1
            if not self.left:
                os.kill(os.getpid(), signal.SIGKILL)


def armed(text: str) -> Callable[[str], None]:
    """What is to be called at each step.

    :param text: the variable's value; empty: nothing is to happen.
    :raises ValueError: if what stands behind the colon is no number from 1 on.
    """
    if not text:
        return _pass
    name, _, times = text.partition(":")
    if times and not (times.isdecimal() and int(times)):
        raise ValueError(f"{VARIABLE}={text}: write name or name:n, where n counts from 1")
    return Trap(name, int(times or 1))


def _pass(name: str) -> None:
    pass


reach = armed(os.environ.get(VARIABLE, ""))
"""Call it with a step's name."""
