"""What is sent: a prompt that any ComfyUI can run and that leaves nothing in the output folder, and a small picture."""

from __future__ import annotations

import struct
import zlib
from typing import Any

PICTURE_NAME = "comfygate-smoke.png"
MASK_NAME = "comfygate-smoke-mask.png"
PREVIEW_NODE = "2"


def workflow(color: int) -> dict[str, Any]:
    """A prompt that makes one small picture in the temp folder; another colour is another picture."""
    image = {"width": 16, "height": 16, "batch_size": 1, "color": color}
    return {
        "1": {"class_type": "EmptyImage", "inputs": image},
        PREVIEW_NODE: {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }


def bad_workflow() -> dict[str, Any]:
    """A prompt that no ComfyUI can run."""
    return {"1": {"class_type": "ComfyGateSmokeHasNoSuchNode", "inputs": {}}}


def picture() -> bytes:
    """A PNG of one pixel, the same each time."""
    return b"".join(
        (
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", struct.pack(">IIBBBBB", 1, 1, 8, 6, 0, 0, 0)),
            _chunk(b"IDAT", zlib.compress(b"\x00\x40\x80\xc0\xff", 9)),
            _chunk(b"IEND", b""),
        )
    )


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
