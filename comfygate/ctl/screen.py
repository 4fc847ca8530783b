"""What is printed: tables and lines, coloured where somebody looks at them."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
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
        told = environ.get("COLUMNS", "")
        width = int(told) if told.isascii() and told.isdigit() and len(told) < 5 else 0
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

    def show(self, *shown: RenderableType) -> None:
        """Print things one below the other; a line of text is left as long as it is."""
        with self.capture() as capture:
            for one in shown:
                self.print(one, soft_wrap=isinstance(one, Text))
        # What fills tables up to their edge nobody sees, and programs trip over.
        self.file.writelines(f"{line.rstrip(' ')}\n" for line in capture.get().split("\n")[:-1])
        self.file.flush()


def screen(environ: Mapping[str, str], stream: TextIO | None = None) -> Screen:
    """The screen on standard output."""
    stream = stream or sys.stdout
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="replace")  # letters that this terminal does not know
    return Screen(stream, environ)


def columns(*headings: tuple[str, str]) -> Table:
    """A table without lines.

    :param headings: each a text and how it is laid out: ``left``, ``right``, or
        ``name`` or ``wrapped``, which are shortened or go on below themselves where
        room is scarce.
    """
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for text, kind in headings:
        table.add_column(
            text,
            justify="right" if kind == "right" else "left",
            no_wrap=kind in ("left", "right"),
            overflow="fold" if kind == "wrapped" else "ellipsis",
        )
    return table


def add_row(table: Table, cells: Sequence[str | Text]) -> None:
    """Add a row to such a table; nothing in a text is taken for more than text."""
    shown = [Text(cell) if isinstance(cell, str) else cell for cell in cells]
    for column, text in zip(table.columns, shown, strict=True):
        if column.overflow == "ellipsis":
            # Said of the text, not of the column: else the column would not give way to others.
            text.no_wrap, text.overflow = True, "ellipsis"
    table.add_row(*shown)


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
