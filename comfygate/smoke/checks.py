"""What is asked of one port, one thing after the other."""

from __future__ import annotations

import uuid
from contextlib import suppress
from urllib.parse import urlencode

import orjson

from comfygate.smoke.judge import (
    Judge,
    has_exec_info,
    has_image,
    has_queue,
    has_queues,
    has_status,
    is_anything,
    is_json,
    is_page,
    is_part,
    is_picture,
)
from comfygate.smoke.limit import PATH, check_limit
from comfygate.smoke.outcome import Outcome
from comfygate.smoke.prompts import check_prompts
from comfygate.smoke.record import GivenUpError, Record
from comfygate.smoke.samples import MASK_NAME, PICTURE_NAME, picture

_READ_ONLY = ("/system_stats", "/object_info", "/embeddings", "/models", "/extensions", "/settings", "/users")


async def check_port(record: Record, *, limit: bool) -> list[Outcome]:
    """Ask one port for everything.

    :param limit: whether to find out, at the end, that too many requests are refused.
    """
    with suppress(GivenUpError):  # the record says so
        await _ask_for_everything(record, limit)
    return record.outcomes


async def _ask_for_everything(record: Record, limit: bool) -> None:
    await _pages(record)
    await _queues(record)
    await _uploads(record)
    image = await check_prompts(record)
    if image is not None:
        await record.get(view_path("/view", image), is_picture, called="/view", note="the preview")
    if limit:
        await record.check("GET", PATH, lambda: check_limit(record.client))


def view_path(path: str, image: dict[str, str]) -> str:
    """Where an image is shown."""
    return f"{path}?{urlencode(image)}"


async def _pages(record: Record) -> None:
    await record.get("/", is_page)
    for path in _READ_ONLY:
        await record.get(path, is_json)
    await record.get("/comfygate/status", has_status)


async def _queues(record: Record) -> None:
    routes: tuple[tuple[str, Judge], ...] = (
        ("/queue", has_queue),
        ("/queue/all", has_queues),
        ("/prompt", has_exec_info),
    )
    for path, judge in routes:
        await record.get(path, judge)
        await record.get(f"/api{path}", judge)
    unknown = {"delete": [str(uuid.uuid4())]}
    await record.post("/queue", is_anything, json=unknown, note="deletes a prompt that is not there")


async def _uploads(record: Record) -> None:
    image = ("image", (PICTURE_NAME, "image/png", picture()))
    stored = None
    for path in ("/upload/image", "/api/upload/image"):
        stored = await record.post(path, has_image, files=[image]) or stored
    if stored is None:
        record.skip("GET", "/view", "no picture was uploaded")
        return
    mask = ("image", (MASK_NAME, "image/png", picture()))
    fields = {"original_ref": orjson.dumps(stored).decode(), "overwrite": "true"}
    await record.post("/upload/mask", has_image, files=[mask], data=fields)
    for path in ("/view", "/api/view"):
        await record.get(view_path(path, stored), is_picture, called=path, note="the upload")
    part = {"Range": "bytes=1-3"}
    await record.get(view_path("/view", stored), is_part, 206, headers=part, called="/view", note="a part of it")
