"""The last lines of a ComfyUI's log, as a person wants to see them."""

from __future__ import annotations

import re
from pathlib import Path

READ = 16 * 1024
LONGEST = 300

OURS = "[comfygate]"
"""How the lines begin that the guard writes by itself."""

_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b.")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def last_lines(path: Path, count: int = 20) -> tuple[str, ...]:
    """Read the last `count` lines that say something.

    A progress bar that overwrites itself counts as what it shows in the end.
    Colours and other control characters are left out.

    :return: nothing, if the log cannot be read.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - READ))
            data = file.read(READ)
    except OSError:
        return ()
    lines = (cleaned(line, LONGEST).strip() for line in data.decode("utf-8", errors="replace").split("\n"))
    return tuple(line for line in lines if line)[-count:]


def cleaned(line: str, longest: int) -> str:
    """A line as a terminal would show it in the end: without what it overwrites, colours and control characters.

    :param longest: characters that are kept.
    """
    shown = line.rstrip("\r").rpartition("\r")[2]
    return _CONTROL.sub("", _ESCAPE.sub("", shown)).rstrip()[:longest]
