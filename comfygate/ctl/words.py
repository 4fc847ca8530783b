"""Values as people read them, and text of strangers as a terminal may show it."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, TypeGuard

LONGEST = 2000

_UNITS = ((86_400, "d"), (3600, "h"), (60, "m"))
_BINARY = ("B", "KiB", "MiB", "GiB", "TiB")


def plain(value: Any, longest: int = LONGEST) -> str:
    """A text of others in one line, without anything that a terminal would obey; nothing for ``None``."""
    text = "" if value is None else str(value)
    shown = "".join(c if c.isprintable() else " " for c in text[: longest + 1])
    return shown if len(shown) <= longest else f"{shown[:longest]}…"


def plain_lines(value: Any) -> str:
    """The same for a text of several lines, which stay lines."""
    return "\n".join(plain(line.expandtabs()) for line in str(value).split("\n"))


def duration(seconds: Any) -> str:
    """How long, in one unit: ``12s``, ``3m``, ``5h``, ``2d``; nothing for what is no number."""
    if not is_number(seconds):
        return ""
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{seconds / size:.0f}{unit}" if seconds >= 10 * size else f"{int(seconds / size)}{unit}"
    return f"{max(0, int(seconds))}s"


def since(then: Any, now: Any) -> str:
    """How long ago, as :func:`duration`."""
    return duration(now - then) if is_number(then) and is_number(now) else ""


def moment(seconds: Any) -> str:
    """A time in seconds since 1970 as the clock here shows it."""
    if not is_number(seconds):
        return ""
    try:
        return datetime.fromtimestamp(seconds).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return ""


def size(count: Any) -> str:
    """Bytes in the largest unit of which there is one."""
    if not is_number(count):
        return ""
    number, index = float(count), 0
    while number >= 1024 and index < len(_BINARY) - 1:
        number, index = number / 1024, index + 1
    return f"{number:.0f} {_BINARY[index]}" if index == 0 or number >= 100 else f"{number:.1f} {_BINARY[index]}"


def number(value: Any) -> str:
    """A number without decimals that say nothing; nothing for ``None``."""
    return f"{value:.10g}" if is_number(value) else plain(value)


def is_number(value: Any) -> TypeGuard[float]:
    """Whether it is one, and not a truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def gpus(gpu_ids: Iterable[Any]) -> str:
    """GPUs by number: ``GPU 0``, ``GPUs 0, 1``; in a row of three or more, ``GPUs 0 to 7``."""
    ids = sorted(one for one in gpu_ids if isinstance(one, int))
    row = len(ids) > 2 and ids == list(range(ids[0], ids[-1] + 1))
    listed = f"{ids[0]} to {ids[-1]}" if row else ", ".join(map(str, ids))
    return f"GPU{'s' if len(ids) != 1 else ''} {listed or 'none'}"
