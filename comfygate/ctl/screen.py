"""What is printed: tables and lines, coloured where somebody looks at them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, TextIO

import orjson
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

_PIPED = 200
"""Columns where there is no terminal, and nobody says how many."""


class Screen(Console):
    """A console that takes nothing in a text for more than text."""

    def __init__(self, stream: TextIO, environ: Mapping[str, str]) -> None:
        terminal = stream.isatty()
        colored = terminal and not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"
        width = int(columns) if (columns := environ.get("COLUMNS", "")).isascii() and columns.isdigit() else 0
        super().__init__(
            file=stream,
            force_terminal=terminal,
            color_system="auto" if colored else None,
            width=width or (None if terminal else _PIPED),
            markup=False,
            emoji=False,
            highlight=False,
            soft_wrap=False,
        )

    def on_broken_pipe(self) -> None:
        """Let the program end as it does after any broken pipe."""
        raise BrokenPipeError

    def lines(self, *shown: RenderableType) -> None:
        """Print things one below the other."""
        for one in shown:
            self.print(one, no_wrap=False)


def screen(environ: Mapping[str, str], stream: TextIO | None = None) -> Screen:
    """The screen on standard output."""
    stream = stream or sys.stdout
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")  # letters that this terminal does not know
    return Screen(stream, environ)


def columns(*headings: tuple[str, str]) -> Table:
    """A table without lines.

    :param headings: each a text and how it is laid out: ``left``, ``right``, or
        ``name``, which is shortened first where room is scarce.
    """
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for text, kind in headings:
        scarce = kind == "name"
        table.add_column(
            text,
            justify="right" if kind == "right" else "left",
            no_wrap=kind != "wrapped",
            overflow="fold" if kind == "wrapped" else "ellipsis",
            min_width=6 if scarce else None,
            ratio=None,
        )
    return table


def state(name: Any) -> Text:
    """A state in its colour."""
    return Text(str(name), style=_STYLES.get(str(name).partition(",")[0], ""))


_STYLES = {
    "ready": "green",
    "done": "green",
    "running": "green",
    "starting": "yellow",
    "stopping": "yellow",
    "draining": "yellow",
    "unclear": "yellow",
    "down": "bold red",
    "failed": "bold red",
    "quarantined": "bold red",
    "cancelled": "dim",
    "stopped": "dim",
}


def print_json(value: Any) -> None:
    """Print one value for programs."""
    _write(orjson.dumps(value, option=orjson.OPT_INDENT_2) + b"\n")


def print_json_line(value: Any) -> None:
    """Print one value of several for programs, at once."""
    _write(orjson.dumps(value) + b"\n")


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
