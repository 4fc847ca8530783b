"""What a test and a program that drives a client tell each other: prompts in, images out, as JSON."""

from __future__ import annotations

import base64
import json
import sys
from typing import Any

Prompt = dict[str, Any]


def task() -> tuple[str, list[Prompt], bool]:
    """The port's address, the prompts, and whether they are to be sent all at once: ``program URL RESULT < task``."""
    told = json.load(sys.stdin)
    return sys.argv[1], told["prompts"], told["together"]


def done(images: list[list[bytes]]) -> None:
    """Hand over each prompt's images."""
    with open(sys.argv[2], "w") as file:
        json.dump([[base64.b64encode(one).decode() for one in each] for each in images], file)
