"""Saves files as a ComfyUI does, many times: ``name_saver FOLDER STATE NODE COUNT``; prints the names, one a line.

NODE is ``counting`` (a batch of three from the number that it is given) or
``listing`` (goes by what it finds in the folder, as some video nodes do).  An
empty STATE leaves the protection out.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from typing import Any

from comfygate.companion.custom_nodes.comfygate_companion.names import Names
from comfygate.companion.custom_nodes.comfygate_companion.ranges import Registry
from comfygate.simulator.folders import save_path

Choose = Callable[..., Any]


def write(path: str) -> None:
    """Make a file.

    :raises FileExistsError: somebody else has.
    """
    with open(path, "x"):
        print(path)


def counting(get_save_image_path: Choose, root: str, images: list[bytes]) -> None:
    """Save a file for each image."""
    folder, filename, counter, _, _ = get_save_image_path("counted", root, 8, 8)
    for _ in images:
        write(f"{folder}/{filename}_{counter:05}_.png")
        counter += 1


def listing(get_save_image_path: Choose, root: str, images: list[bytes]) -> None:
    """Save one file under a number of the node's own choice."""
    folder, filename, _, _, _ = get_save_image_path("listed", root, 8, 8)
    pattern = re.compile(rf"{filename}_(\d+)\D*\..+")
    matches = [match for name in os.listdir(folder) if (match := pattern.fullmatch(name))]
    highest = max((int(match[1]) for match in matches), default=0)
    write(f"{folder}/{filename}_{highest + 1:05}.mp4")


def main(root: str, state: str, node: str, count: str) -> None:
    """Run the node `count` times, each in a prompt of its own."""
    names = Names(Registry(state), save_path, lambda: f"{root}/temp", "nowhere") if state else None
    choose = names.get_save_image_path if names is not None else save_path
    input()
    for _ in range(int(count)):
        {"counting": counting, "listing": listing}[node](choose, root, [b""] * 3)
        if names is not None:
            names.release()


if __name__ == "__main__":
    main(*sys.argv[1:])
