"""ComfyGate's companion: a custom node that runs inside ComfyUI and changes what it does, but adds no nodes.

It consists of parts that don't need each other, each a module with ``install()``:

- ``models``: ComfyGate is told which model files are in memory when a prompt begins and when it ends;
- ``names``: no two ComfyUIs save under the same name, though all save into one folder;
- ``progress``: ComfyGate is told how far the running prompt is, whoever sent it;
- ``read_ahead``: ``POST /comfygate/read_ahead``, ``{"models": [names]}``, has model files read into the page cache
  while there is memory for them;
- ``routes``: ``GET /comfygate/companion``, ``{"version", "routes", "parts"}``, says what there is;
  ``POST /comfygate/validate`` takes the body of ``POST /prompt`` and answers
  what that would, without queueing anything: ``{"outputs": [ids], "node_errors"}``
  where it would accept the prompt, and its very refusal where it would not.
- ``user_files``: settings and workflows are never half written, and no change of theirs is undone by another.

It imports nothing of ComfyGate, and must not be in ComfyUI's way: whatever is
missing or different here is logged, and ComfyUI goes on without that part.
"""

from __future__ import annotations

import importlib
import logging

NODE_CLASS_MAPPINGS: dict[str, type] = {}
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {}

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]

PARTS = ("models", "names", "progress", "read_ahead", "routes", "user_files")

installed: list[str] = []
"""The parts that found what they need in this ComfyUI."""

for part in PARTS:
    try:
        importlib.import_module(f".{part}", __name__).install(installed)
        installed.append(part)
    except Exception:
        logging.getLogger("comfygate").exception("[comfygate] %s is not available in this ComfyUI", part)
