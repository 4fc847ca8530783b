"""Uploads into the input folder, and /view of what lies in the folders."""

from __future__ import annotations

import io
import json
import mimetypes
import os
import time
from collections.abc import Callable
from typing import Any

from aiohttp import web
from aiohttp.web_request import FileField
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from comfygate.simulator.folders import is_inside
from comfygate.simulator.machine import Machine
from comfygate.simulator.models import FILES

Save = Callable[[FileField, Any, str], None]

# Kinds that a browser would run; served as a download instead.
ACTIVE = {"text/html", "text/html-sandboxed", "application/xhtml+xml", "text/javascript", "text/css"}


class Files:
    """The routes that bring files in and out."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._folders = machine.folders
        mimetypes.add_type("image/webp", ".webp")

    def routes(self) -> list[web.RouteDef]:
        """/upload, /view and /view_metadata."""
        return [
            web.post("/upload/image", self._upload_image),
            web.post("/upload/mask", self._upload_mask),
            web.get("/view", self._view),
            web.get("/view_metadata/{folder}", self._view_metadata),
        ]

    async def _upload_image(self, request: web.Request) -> web.Response:
        return self._upload(await request.post(), _save_whole)

    async def _upload_mask(self, request: web.Request) -> web.Response:
        return self._upload(await request.post(), self._save_masked)

    def _upload(self, form: Any, save: Save) -> web.Response:
        """Save under the given name, or ``name (1).png`` and so on where another file has it.

        Looking and writing are two steps, with no lock between processes, as in ComfyUI.
        """
        image = form.get("image")
        kind = form.get("type") or "input"
        root = self._folders.by_type(kind)
        if root is None:
            raise ValueError(f"no folder is called {kind}")
        if not isinstance(image, FileField) or not image.filename:
            return web.Response(status=400)
        subfolder = form.get("subfolder", "")
        folder = os.path.join(root, os.path.normpath(subfolder))
        if not is_inside(root, os.path.join(folder, image.filename)):
            return web.Response(status=400)
        os.makedirs(folder, exist_ok=True)
        name, is_new = image.filename, True
        if form.get("overwrite") not in {"true", "1"}:
            name, is_new = self._free_name(folder, image)
        if is_new:
            time.sleep(self._machine.options.sim_disk_seconds)  # ComfyUI, too, does nothing else meanwhile
            save(image, form, os.path.join(folder, name))
        return web.json_response({"name": name, "subfolder": subfolder, "type": kind})

    def _free_name(self, folder: str, image: FileField) -> tuple[str, bool]:
        """A name that is free, or that of the same content; and whether it is free."""
        content = image.file.read()
        image.file.seek(0)
        stem, ending = os.path.splitext(image.filename)
        name, number = image.filename, 1
        while os.path.exists(path := os.path.join(folder, name)):
            with open(path, "rb") as file:
                if self._machine.digest(file.read()) == self._machine.digest(content):
                    return name, False
            name, number = f"{stem} ({number}){ending}", number + 1
        return name, True

    def _save_masked(self, image: FileField, form: Any, path: str) -> None:
        """Save the picture that `original_ref` names with the upload's alpha; nothing where there is none."""
        original = json.loads(form.get("original_ref"))
        name, root = self._folders.annotated(original["filename"])
        root = root or self._folders.by_type(original.get("type", "output"))
        if not name or name.startswith("/") or ".." in name or root is None:
            return
        folder = os.path.join(root, original.get("subfolder", ""))
        source = os.path.join(folder, name)
        if not is_inside(root, folder) or not os.path.isfile(source):
            return
        with Image.open(source) as opened, Image.open(image.file) as mask:
            texts = PngInfo()
            for key, text in getattr(opened, "text", {}).items():
                texts.add_text(key, text)
            picture = opened.convert("RGBA")
            picture.putalpha(mask.convert("RGBA").getchannel("A"))
            picture.save(path, compress_level=4, pnginfo=texts)

    async def _view(self, request: web.Request) -> web.StreamResponse:
        query = request.query
        if "filename" not in query:
            return web.Response(status=404)
        name, root = self._folders.annotated(query["filename"])
        root = root or self._folders.by_type(query.get("type", "output"))
        if not name or name.startswith("/") or ".." in name or root is None:
            return web.Response(status=400)
        folder = os.path.join(root, query.get("subfolder", ""))
        if not is_inside(root, folder):
            return web.Response(status=403)
        name = os.path.basename(name)
        path = os.path.join(folder, name)
        if not os.path.isfile(path):
            return web.Response(status=404)
        headers = {"Content-Disposition": f'filename="{name}"'}
        if "preview" in query or query.get("channel") in {"rgb", "a"}:
            kind, picture = _converted(path, query.get("preview"), query.get("channel", ""))
            return web.Response(body=picture, content_type=f"image/{kind}", headers=headers)
        content_type = mimetypes.guess_type(name)[0] or "application/octet-stream"
        if content_type in ACTIVE:
            content_type = "application/octet-stream"
        return web.FileResponse(path, headers=headers | {"Content-Type": content_type})

    async def _view_metadata(self, request: web.Request) -> web.Response:
        folder, name = request.match_info["folder"], request.query.get("filename", "")
        if name.endswith(".safetensors") and name in FILES.get(folder, []):
            return web.json_response({"modelspec.title": name, "simulated": "true"})
        return web.Response(status=404)


def _save_whole(image: FileField, form: Any, path: str) -> None:
    with open(path, "wb") as file:
        file.write(image.file.read())


def _converted(path: str, preview: str | None, channel: str) -> tuple[str, bytes]:
    """A picture as preview, without its alpha, or as its alpha alone: kind and bytes."""
    buffer = io.BytesIO()
    with Image.open(path) as opened:
        if preview is not None:
            kind, *rest = preview.split(";")
            if kind not in {"webp", "jpeg"} or "a" in channel:
                kind = "webp"
            quality = int(rest[-1]) if rest and rest[-1].isdigit() else 90
            picture = opened.convert("RGB") if kind == "jpeg" or channel == "rgb" else opened.copy()
            picture.save(buffer, format=kind, quality=quality)
            return kind, buffer.getvalue()
        if channel == "rgb":
            picture = opened.convert("RGB")
        else:
            alpha = opened.getchannel("A") if opened.mode == "RGBA" else Image.new("L", opened.size, 255)
            picture = Image.new("RGBA", opened.size)
            picture.putalpha(alpha)
        picture.save(buffer, format="PNG")
    return "png", buffer.getvalue()
