"""Where a file is to be saved, as ComfyUI's ``get_save_image_path`` answers it, and which numbers are taken there."""

from __future__ import annotations

import os
import re
from typing import Any, NamedTuple

from .ranges import Unavailable

BATCH_NUMBER = "%batch_num%"
"""What SaveImage and its like replace by the picture's index in the batch."""


class Place(NamedTuple):
    """What ``get_save_image_path`` answers, in its order."""

    folder: str
    filename: str
    number: int
    subfolder: str
    prefix: str


def place_of(answer: Any) -> Place:
    """Check what ComfyUI's function answered.

    :raises Unavailable: it has another form in this version.
    """
    if not isinstance(answer, tuple) or len(answer) != len(Place._fields) or not isinstance(answer[2], int):
        raise Unavailable("get_save_image_path has a form that is not known")
    return Place(*answer)


def numbers_in(place: Place) -> list[int]:
    """The numbers of all files under a name, whatever follows the number: some nodes have patterns of their own."""
    stem = re.escape(os.path.normcase(place.filename)).replace(BATCH_NUMBER, r"\d+")
    pattern = re.compile(rf"{stem}_(\d{{1,18}})(?!\d)")
    try:
        names = os.listdir(place.folder)
    except OSError:
        return []
    found = (pattern.match(os.path.normcase(name)) for name in names)
    return [int(match[1]) for match in found if match]


def is_below(path: str, folder: str) -> bool:
    """Whether `path` is `folder` or lies in it."""
    path, folder = os.path.abspath(path), os.path.abspath(folder)
    return path == folder or path.startswith(os.path.join(folder, ""))
