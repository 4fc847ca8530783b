"""The machine that is simulated: what the parts of the program share."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable

from attrs import define, field

from comfygate.simulator.console import Console
from comfygate.simulator.folders import Folders, SavePath, save_path
from comfygate.simulator.models import ModelMemory


@define
class Machine:
    """Options, folders, memory and log of one simulated ComfyUI.

    :ivar poisoned: a CUDA error has made every further node fail.
    :ivar executed_nodes: how many nodes ran since the start.
    :ivar save_path: chooses output names; the companion may put its own function here.
    """

    options: argparse.Namespace
    folders: Folders
    console: Console
    memory: ModelMemory
    poisoned: bool = False
    executed_nodes: int = 0
    arguments: list[str] = field(factory=list)
    save_path: Callable[[str, str, int, int], SavePath] = save_path

    def digest(self, data: bytes) -> str:
        """Hash of a file's content, by the function that the options name."""
        return hashlib.new(self.options.default_hashing_function, data).hexdigest()
