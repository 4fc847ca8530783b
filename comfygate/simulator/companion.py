"""The companion, where the command line names one: its modules that need nothing of ComfyUI run here too.

So what the companion changes in ComfyUI is changed here by the same code.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from aiohttp import web

from comfygate.simulator.console import Console
from comfygate.simulator.jobs import Jobs
from comfygate.simulator.machine import Machine
from comfygate.simulator.models import free_bytes
from comfygate.simulator.sockets import Sockets

NAME = "comfygate_companion"
WORKER = "comfygate.simulator.worker"
"""The module that runs nodes, as ``execution`` does in ComfyUI."""


class Companion:
    """The companion's folder, and those of its parts that are in use.

    :ivar parts: what GET /comfygate/companion shows.
    """

    def __init__(self, folder: Path) -> None:
        self.parts: list[str] = []
        self._folder = folder

    @classmethod
    def of(cls, machine: Machine) -> Companion | None:
        """The one in the folder that ``--extra-model-paths-config`` leads to, if any and if custom nodes are wanted."""
        if machine.options.disable_all_custom_nodes and NAME not in (machine.options.whitelist_custom_nodes or ()):
            return None
        for path in [path for paths in machine.options.extra_model_paths_config for path in paths]:
            # Our own file, in which the folder is a JSON string; others are of no use to a simulator.
            found = re.search(r'^\s+custom_nodes: (".*")$', Path(path).read_text(encoding="utf-8"), re.MULTILINE)
            folder = Path(json.loads(found[1]), NAME) if found else None
            if folder is not None and folder.is_dir():
                return cls(folder)
        return None

    def module(self, name: str) -> ModuleType:
        """Load one of its modules, which must import nothing of ComfyUI.

        :raises ImportError: there is none of that name.
        """
        if NAME not in sys.modules:
            # Stands for the package, whose own code looks for ComfyUI.
            package = ModuleType(NAME)
            package.__path__ = [str(self._folder)]
            sys.modules[NAME] = package
        return importlib.import_module(f"{NAME}.{name}")

    def protect_names(self, machine: Machine, jobs: Jobs) -> None:
        """Let no other process choose the same output names."""
        names = self.module("names")
        try:
            registry = names.registry()
        except (OSError, RuntimeError) as error:
            machine.console.say(f"[comfygate] names is not available: {error}")
            return
        protected = names.Names(registry, machine.save_path, lambda: machine.folders.temp, WORKER)
        machine.save_path = protected.get_save_image_path
        jobs.ending = protected.release
        self.parts.append("names")

    def tell_progress(self, sockets: Sockets, jobs: Jobs) -> None:
        """Tell ComfyGate how far the running prompt is."""
        progress = self.module("progress")

        def running(prompt_id: str) -> tuple[Any, list[str]] | None:
            return next(((item[2], item[4]) for item in jobs.listing()[0] if item[1] == prompt_id), None)

        self._tell(sockets, progress.MESSAGE, progress.Steps(running).event)
        self.parts.append("progress")

    def tell_models(self, machine: Machine, sockets: Sockets) -> None:
        """Tell ComfyGate which models are loaded."""
        models = self.module("models")
        memory = machine.memory
        told = models.Reports(lambda: [model.name for model in list(memory.loaded)], lambda: free_bytes(memory))
        self._tell(sockets, models.MESSAGE, told.event)
        self.parts.append("models")

    def read_ahead(self, console: Console) -> web.RouteDef:
        """The route by which model files are read ahead: here are none, so it is only said."""

        async def post_read_ahead(request: web.Request) -> web.Response:
            models = (await request.json())["models"]
            console.say(f"[comfygate] reads ahead: {', '.join(models)}")
            return web.json_response({})

        self.parts.append("read_ahead")
        return web.post("/comfygate/read_ahead", post_read_ahead)

    def _tell(self, sockets: Sockets, message: str, event: Any) -> None:
        listening = self.module("listening")
        teller = listening.Teller(message, event, sockets.post_alone, lambda: list(sockets.open))
        sockets.listeners.append(teller.heard)
