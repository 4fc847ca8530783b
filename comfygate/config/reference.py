"""What is written about the configuration, made from its table of keys.

``python -m comfygate.config.reference etc/gpus.ini docs/configuration.md`` writes
the annotated file, and the tables between the marks in the other.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path

from comfygate.config.keys import GATE, GPU, MAIN, Key

BEGIN = "<!-- made by comfygate.config.reference: begin -->"
END = "<!-- made by comfygate.config.reference: end -->"

_INTRODUCTION = """\
; The configuration of ComfyGate.  Every key is here with its default, behind a
; "; ": take that away, and change the value, where you want another.
;
; "~" and $VARIABLE work in folders and programs; what does not begin with "/"
; is looked for from the folder of this file.  Sizes may be written 64K, 10M, 2G.
; After a blank, ";" begins a comment.  An indented line continues the line above.
"""

_SECTIONS: tuple[tuple[str, str, str, tuple[Key, ...]], ...] = (
    ("comfygate", "[comfygate]", "All GPUs and all ports.", MAIN),
    ("gpu:n", "; [gpu:0]", "What is different for one GPU, by its number, from 0 in the order of devices.", GPU),
    ("gate:name", "; [gate:fast]", "One more port, over some of the GPUs; the name is yours.", GATE),
)


def annotated() -> str:
    """The text of an annotated configuration file, in which every key is a comment."""
    parts = [_INTRODUCTION]
    for _, header, about, keys in _SECTIONS:
        parts.append(f"\n{_comment(about)}{header}\n")
        parts.extend(f"\n{_comment(_explained(key))}; {key.name} = {key.default}".rstrip() + "\n" for key in keys)
    return "".join(parts)


def _explained(key: Key) -> str:
    return f"{key.help} (default: {key.otherwise})" if key.otherwise else key.help


def _comment(text: str) -> str:
    return textwrap.indent(textwrap.fill(text, 100), ";; ") + "\n"


def tables() -> str:
    """The same in Markdown: a table for each section."""
    parts = []
    for name, _, about, keys in _SECTIONS:
        rows = ["| " + " | ".join((f"`{key.name}`", _default(key), _escaped(key.help))) + " |" for key in keys]
        parts.append("\n".join((f"### [{name}]", "", about, "", "| key | default | meaning |", "|---|---|---|", *rows)))
    return "\n\n".join(parts)


def _default(key: Key) -> str:
    return f"`{key.default}`" if key.default else _escaped(key.otherwise or "none")


def _escaped(text: str) -> str:
    return text.replace("*", r"\*").replace("|", r"\|")


def filled(text: str) -> str:
    """Put the tables between the marks in `text`."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{tables()}\n\n{END}{after}"


def main(arguments: Sequence[str]) -> None:
    """Write the annotated file, and the tables into the other."""
    ini, markdown = (Path(argument) for argument in arguments)
    ini.write_text(annotated(), encoding="utf-8")
    markdown.write_text(filled(markdown.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
