"""Draws the lifecycle from the machine itself: ``python -m comfygate.backend.picture > docs/lifecycle.md``."""

from __future__ import annotations

import sys

from comfygate.backend import lifecycle, record

TEXT = f"""# The life of a backend

Written by `python -m comfygate.backend.picture` from the state machine in `comfygate/backend/lifecycle.py`;
a test compares the two.

```mermaid
%s
```

What clients see of it: *Starting* and *Overdue* are `starting`; *Ready* and *Settled* are `ready`; *Down* is `down`;
*Failed* is `failed`; *Restarting*, *Condemned*, *Stopping* and *Killing* are `stopping`; *Stopped* is `stopped`.
*Judging* lasts no time. After `stopping` nothing is left of a process only when `down`, `failed` or `stopped` follows.

- `late`: not ready within `start_timeout`; the process is killed.
- `exited`: nothing is left of the process. The verdict is `again`, after `restart_delay`, which doubles with each
  further death up to `restart_delay_max` (and up to {record.CHANCE:g} s of chance), or `give_up` after
  {record.DEATHS} deaths in a row before it was ready.
- `proven`: ready for {record.STABLE:g} s; the next death counts as the first.
- `condemn`: there is evidence that only a new process will serve again (it is hung, its worker is lost, its context is
  broken); its whole process group is killed, also if it is stopped.
- `restart`: somebody asked for a new process. It follows without delay, and its deaths are counted anew.
- `unyielding`: still there `stop_grace` seconds after it was interrupted; its whole process group is killed.
"""


def transitions() -> list[tuple[str, str, str]]:
    """List the machine's transitions as (state, input, next state), those without effect left out."""
    automaton = lifecycle.machine.__automat_automaton__
    found = [(old.name, event, new.name) for old, event, new, _ in automaton.allTransitions()]
    return sorted((old, event, new) for old, event, new in found if old != new)


def mermaid() -> str:
    """Draw the machine as a Mermaid state diagram."""
    lines = [f"    {old} --> {new}: {event}" for old, event, new in transitions()]
    return "\n".join(["stateDiagram-v2", "    [*] --> Stopped", *lines])


def page() -> str:
    """Write docs/lifecycle.md."""
    return TEXT % mermaid()


if __name__ == "__main__":
    sys.stdout.write(page())
