"""The companion, where the command line names one: its modules that need nothing of ComfyUI run here too.

So what the companion changes in ComfyUI is changed here by the same code.
"""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

from comfygate.simulator.machine import Machine

NAME = "comfygate_companion"


class Companion:
    """The companion's folder, and those of its parts that are in use.

    :ivar parts: what GET /comfygate/companion shows.
    """

    def __init__(self, folder: Path) -> None:
        self.parts: list[str] = []
        self._folder = folder

    @classmethod
    def of(cls, machine: Machine) -> Companion | None:
        """The one in the folder that ``--extra-model-paths-config`` leads to, if any."""
        for path in [path for paths in machine.options.extra_model_paths_config for path in paths]:
            # Our own file, in which the folder is a JSON string; others are of no use to a simulator.
            found = re.search(r'^\s+custom_nodes: (".*")$', Path(path).read_text(encoding="utf-8"), re.MULTILINE)
            folder = Path(json.loads(found[1]), NAME) if found else None
            if folder is not None and folder.is_dir():
                return cls(folder)
        return None

    def module(self, name: str) -> ModuleType:
        """Load one of its modules; it must import nothing of ComfyUI."""
        spec = importlib.util.spec_from_file_location(f"{NAME}_{name}", self._folder / f"{name}.py")
        if spec is None or spec.loader is None:
            raise ImportError(f"the companion in {self._folder} has no {name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
