"""One prompt while it runs: its progress, its previews, its interruption."""

from __future__ import annotations

import io
import json
import struct
from typing import Any

from attrs import define, field
from PIL import Image, ImageOps

from comfygate.simulator.jobs import Jobs
from comfygate.simulator.machine import Machine
from comfygate.simulator.sockets import PREVIEW, PREVIEW_WITH_METADATA, Sockets

Preview = tuple[str, Image.Image]
"""Format (JPEG or PNG) and picture."""


class Interrupted(Exception):  # noqa: N818
    """The prompt was interrupted."""


@define
class Run:
    """What nodes see of the prompt that they belong to.

    :ivar client: client id of the sender; None if it gave none, then progress goes to everybody.
    :ivar node: id of the node at work.
    """

    machine: Machine
    jobs: Jobs
    sockets: Sockets
    prompt_id: str
    prompt: dict[str, Any]
    extra_data: Any
    client: Any
    node: str = ""
    states: dict[str, dict[str, Any]] = field(factory=dict)

    @property
    def extra_pnginfo(self) -> Any:
        """What the client wants to have in saved images besides the prompt."""
        return self.extra_data.get("extra_pnginfo")

    def check_interrupt(self) -> None:
        """Stop here if so asked.

        :raises Interrupted: the prompt was interrupted.
        """
        if self.jobs.interrupted.is_set():
            self.jobs.interrupted.clear()
            raise Interrupted

    def progress(self, value: float, maximum: float, preview: Preview | None = None) -> None:
        """Report how far the node is; a place where it can be interrupted."""
        self.check_interrupt()
        self._update(value, maximum, "running")
        metadata = self.sockets.wants_metadata(self.client)
        picture = self._encode(*preview) if preview else b""
        if preview and metadata:
            self._post(PREVIEW_WITH_METADATA, self._described(preview[0], picture))
        self._post("progress", {"value": value, "max": maximum, "prompt_id": self.prompt_id, "node": self.node})
        if preview and not metadata:
            self._post(PREVIEW, struct.pack(">I", 2 if preview[0] == "PNG" else 1) + picture)

    def start(self, node: str) -> None:
        """A node begins."""
        self.node = node
        self._update(0.0, 1.0, "running")

    def finish(self, node: str) -> None:
        """A node has ended, or was taken from the cache."""
        self.node = node
        maximum = self.states[node]["max"] if node in self.states else 1
        self._update(maximum, maximum, "finished")

    def executed(self, node: str, output: Any) -> None:
        """Hand an output to the client."""
        if self.client is not None:
            data = {"node": node, "display_node": node, "output": output, "prompt_id": self.prompt_id}
            self._post("executed", data)

    def executing(self, node: str) -> None:
        """Tell the client which node is at work."""
        if self.client is not None:
            self.sockets.current_node = node
            self._post("executing", {"node": node, "display_node": node, "prompt_id": self.prompt_id})

    def _post(self, type: str | int, data: Any) -> None:
        self.sockets.post(type, data, self.client)

    def _update(self, value: float, maximum: float, state: str) -> None:
        names = {"value": value, "max": maximum, "state": state, "node_id": self.node, "prompt_id": self.prompt_id}
        self.states[self.node] = names | self._identity()
        self._post("progress_state", {"prompt_id": self.prompt_id, "nodes": dict(self.states)})

    def _identity(self) -> dict[str, Any]:
        return {"display_node_id": self.node, "parent_node_id": None, "real_node_id": self.node}

    def _encode(self, format: str, picture: Image.Image) -> bytes:
        if format == "JPEG":
            side = self.machine.options.preview_size
            picture = ImageOps.contain(picture, (side, side), Image.Resampling.BILINEAR)
        buffer = io.BytesIO()
        picture.save(buffer, format=format, quality=95, compress_level=1)
        return buffer.getvalue()

    def _described(self, format: str, picture: bytes) -> bytes:
        names: dict[str, Any] = {"node_id": self.node, "prompt_id": self.prompt_id} | self._identity()
        text = json.dumps(names | {"image_type": f"image/{format.lower()}"}).encode()
        return struct.pack(">I", len(text)) + text + picture
