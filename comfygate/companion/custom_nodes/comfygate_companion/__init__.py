"""ComfyGate's companion: a custom node that runs inside ComfyUI and adds routes, but no nodes.

- ``GET /comfygate/companion``: ``{"version", "routes"}``; what there is.
- ``POST /comfygate/validate``: takes the body of ``POST /prompt`` and answers
  what that would, without queueing anything: ``{"outputs": [ids], "node_errors"}``
  where it would accept the prompt, and its very refusal where it would not.

It imports nothing of ComfyGate, and must not be in ComfyUI's way: whatever is
missing or different here is logged, and ComfyUI goes on without the companion.
"""

from __future__ import annotations

import logging

NODE_CLASS_MAPPINGS: dict[str, type] = {}
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {}

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]

try:
    from . import routes

    routes.install()
except Exception:
    logging.getLogger("comfygate").exception("[comfygate] the companion is not available in this ComfyUI")
