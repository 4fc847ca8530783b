"""Where files lie, and how the next output file is named."""

from __future__ import annotations

import argparse
import os
import shutil
import time
from typing import NamedTuple

from attrs import frozen

IMAGE_ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif")


class SavePath(NamedTuple):
    """What ComfyUI's ``folder_paths.get_save_image_path`` answers, in its order."""

    folder: str
    filename: str
    counter: int
    subfolder: str
    prefix: str


@frozen
class Folders:
    """The four folders, as absolute paths."""

    input: str
    output: str
    temp: str
    user: str

    def by_type(self, name: str | None) -> str | None:
        """The folder called `name` in requests, None for an unknown name."""
        return {"input": self.input, "output": self.output, "temp": self.temp}.get(name or "")

    def annotated(self, name: str) -> tuple[str, str | None]:
        """Split ``x.png [output]`` into the name and the folder that it asks for."""
        for kind in ("output", "input", "temp"):
            if name.endswith(f"[{kind}]"):
                return name[: -len(kind) - 3], self.by_type(kind)
        return name, None

    def input_images(self) -> list[str]:
        """Images that LoadImage offers: those directly in the input folder."""
        return sorted(name for name in os.listdir(self.input) if name.lower().endswith(IMAGE_ENDINGS))

    def wipe_temp(self) -> None:
        """Remove the temp folder, as ComfyUI does when it starts and when it ends."""
        shutil.rmtree(self.temp, ignore_errors=True)

    def create(self) -> None:
        """Make the folders that do not exist."""
        for path in (self.input, self.output, self.temp, self.user):
            os.makedirs(path, exist_ok=True)


def from_options(options: argparse.Namespace) -> Folders:
    """The folders that the command line names; those that it does not name lie in the current folder."""
    base = os.path.abspath(options.base_directory or "simulator-data")

    def chosen(given: str | None, name: str) -> str:
        return os.path.abspath(given) if given else os.path.join(base, name)

    temp = os.path.join(os.path.abspath(options.temp_directory or base), "temp")
    return Folders(
        input=chosen(options.input_directory, "input"),
        output=chosen(options.output_directory, "output"),
        temp=temp,
        user=chosen(options.user_directory, "user"),
    )


def is_inside(folder: str, path: str) -> bool:
    """Whether `path`, made absolute, lies in `folder`."""
    return os.path.commonpath((folder, os.path.abspath(path))) == folder


def save_path(prefix: str, root: str, width: int, height: int) -> SavePath:
    """Choose the next free number for `prefix` by listing the folder.

    As in ComfyUI there is no lock: two processes that list at the same moment
    choose the same number.

    :raises ValueError: the prefix leads out of `root`.
    """
    prefix = _fill_in(prefix, width, height)
    subfolder, filename = os.path.split(os.path.normpath(prefix))
    folder = os.path.join(root, subfolder)
    if not is_inside(root, folder):
        raise PrefixOutside(folder, root)
    os.makedirs(folder, exist_ok=True)
    numbers = [_number(name, filename) for name in os.listdir(folder)]
    return SavePath(folder, filename, max(numbers, default=0) + 1, subfolder, prefix)


class PrefixOutside(Exception):  # noqa: N818
    """An output name that would leave the output folder."""

    def __init__(self, folder: str, root: str) -> None:
        super().__init__(
            f"A picture may only be saved in the output folder {root}, and not in {os.path.abspath(folder)}"
        )


# ComfyUI raises a plain Exception here, and clients see the name of its type.
PrefixOutside.__module__, PrefixOutside.__qualname__ = "builtins", "Exception"


def _fill_in(prefix: str, width: int, height: int) -> str:
    now = time.localtime()
    values = {
        "width": str(width),
        "height": str(height),
        "year": str(now.tm_year),
        "month": f"{now.tm_mon:02}",
        "day": f"{now.tm_mday:02}",
        "hour": f"{now.tm_hour:02}",
        "minute": f"{now.tm_min:02}",
        "second": f"{now.tm_sec:02}",
    }
    for name, value in values.items():
        prefix = prefix.replace(f"%{name}%", value)
    return prefix


def _number(name: str, filename: str) -> int:
    """The number in ``<filename>_<number>_….png``; 0 where there is none."""
    if not name.startswith(f"{filename}_"):
        return 0
    digits = name[len(filename) + 1 :].partition("_")[0]
    return int(digits) if digits.isdecimal() else 0
