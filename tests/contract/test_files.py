"""Uploads, /view, and the names of saved pictures."""

from __future__ import annotations

import io
import json
import uuid

import pytest
from PIL import Image

from tests.contract.comfyui_client import Target
from tests.contract.sample_prompts import node, save


def png(color: str = "red", mode: str = "RGB") -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (8, 8), color).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder() -> str:
    return uuid.uuid4().hex


def test_an_upload_can_be_seen(comfyui: Target, folder: str) -> None:
    answer = comfyui.upload("/upload/image", png(), "my image.png", subfolder=folder, type="input")
    assert answer.status == 200
    assert answer.json == {"name": "my image.png", "subfolder": folder, "type": "input"}
    seen = comfyui.get(f"/view?filename=my%20image.png&subfolder={folder}&type=input")
    assert (seen.status, seen.body) == (200, png())
    assert seen.headers["content-type"] == "image/png"
    assert seen.headers["content-disposition"] == 'filename="my image.png"'


def test_names_are_kept_apart_by_content(comfyui: Target, folder: str) -> None:
    def name(content: bytes, **fields: str) -> str:
        return str(comfyui.upload("/api/upload/image", content, subfolder=folder, **fields).json["name"])

    assert name(png("red")) == "a.png"
    assert name(png("red")) == "a.png"
    assert name(png("green")) == "a (1).png"
    assert name(png("blue")) == "a (2).png"
    assert name(png("green")) == "a (1).png"
    assert name(png("white"), overwrite="true") == "a.png"
    assert comfyui.get(f"/view?filename=a.png&subfolder={folder}&type=input").body == png("white")


@pytest.mark.parametrize(
    ("content", "fields"),
    [(png(), {"subfolder": "../../x"}), (None, {}), (b"", {"filename": ""})],
)
def test_bad_uploads_are_refused(comfyui: Target, content: bytes | None, fields: dict[str, str]) -> None:
    answer = comfyui.upload("/upload/image", content, **fields)
    assert (answer.status, answer.body) == (400, b"")


def test_a_mask_becomes_the_alpha_of_its_original(comfyui: Target, folder: str) -> None:
    comfyui.upload("/upload/image", png("red"), "original.png", subfolder=folder)
    reference = json.dumps({"filename": "original.png", "subfolder": folder, "type": "input"})
    mask = png("#00000040", "RGBA")
    answer = comfyui.upload("/upload/mask", mask, "masked.png", subfolder=folder, original_ref=reference)
    assert answer.json == {"name": "masked.png", "subfolder": folder, "type": "input"}
    seen = comfyui.get(f"/view?filename=masked.png&subfolder={folder}&type=input").body
    assert Image.open(io.BytesIO(seen)).getpixel((0, 0)) == (255, 0, 0, 0x40)


def test_an_uploaded_picture_can_be_loaded(comfyui: Target, folder: str) -> None:
    comfyui.upload("/upload/image", png("red"), subfolder=folder)
    prompt = {
        "1": node("LoadImage", image=f"{folder}/a.png"),
        "3": node("ImageInvert", image=["1", 0]),
        "2": node("SaveImage", images=["3", 0], filename_prefix=f"{folder}/inverted"),
    }
    (image,) = comfyui.wait(comfyui.queue(prompt))["outputs"]["2"]["images"]
    assert image == {"filename": "inverted_00001_.png", "subfolder": folder, "type": "output"}
    seen = comfyui.get(f"/view?filename={image['filename']}&subfolder={folder}&type=output").body
    assert Image.open(io.BytesIO(seen)).getpixel((0, 0)) == (0, 255, 255)


def test_a_saved_picture_holds_its_prompt(comfyui: Target, folder: str) -> None:
    prompt = save(f"{folder}/kept")
    workflow = {"nodes": [1, 2, 3]}
    prompt_id = comfyui.queue(prompt, extra_data={"extra_pnginfo": {"workflow": workflow}})
    (image,) = comfyui.wait(prompt_id)["outputs"]["2"]["images"]
    seen = comfyui.get(f"/view?filename={image['filename']}&subfolder={folder}").body
    with Image.open(io.BytesIO(seen)) as picture:
        assert picture.size == (64, 64)
        assert json.loads(picture.text["prompt"]) == prompt  # type: ignore[attr-defined]
        assert json.loads(picture.text["workflow"]) == workflow  # type: ignore[attr-defined]


def test_a_batch_counts_up_and_the_next_goes_on(comfyui: Target, folder: str) -> None:
    def names(count: int) -> list[str]:
        history = comfyui.wait(comfyui.queue(save(f"{folder}/batch", count)))
        return [image["filename"] for image in history["outputs"]["2"]["images"]]

    assert names(2) == ["batch_00001_.png", "batch_00002_.png"]
    assert names(1) == ["batch_00003_.png"]


def test_sizes_and_batch_numbers_are_filled_in(comfyui: Target, folder: str) -> None:
    history = comfyui.wait(comfyui.queue(save(f"{folder}/%width%x%height%-%batch_num%", 2)))
    names = [image["filename"] for image in history["outputs"]["2"]["images"]]
    assert names == ["64x64-0_00001_.png", "64x64-1_00002_.png"]


def test_previews_go_to_the_temp_folder(comfyui: Target) -> None:
    prompt = {"1": save()["1"], "2": node("PreviewImage", images=["1", 0])}
    (image,) = comfyui.wait(comfyui.queue(prompt))["outputs"]["2"]["images"]
    assert image["filename"].startswith("ComfyUI_temp_")
    assert (image["subfolder"], image["type"]) == ("", "temp")
    assert comfyui.get(f"/view?filename={image['filename']}&type=temp").status == 200
    assert comfyui.get(f"/view?filename={image['filename']}").status == 404


def test_parts_and_conditions(comfyui: Target, folder: str) -> None:
    comfyui.upload("/upload/image", png(), subfolder=folder)
    path = f"/view?filename=a.png&subfolder={folder}&type=input"
    whole = comfyui.get(path)
    assert whole.headers["accept-ranges"] == "bytes"
    part = comfyui.get(path, Range="bytes=2-5")
    assert (part.status, part.body) == (206, png()[2:6])
    assert part.headers["content-range"] == f"bytes 2-5/{len(png())}"
    assert comfyui.get(path, Range="bytes=999999-").status == 416
    unchanged = comfyui.request("GET", path, headers={"If-None-Match": whole.headers["etag"]})
    assert (unchanged.status, unchanged.body) == (304, b"")
    head = comfyui.request("HEAD", path)
    assert (head.status, head.body, head.headers["content-length"]) == (200, b"", str(len(png())))


def test_previews_and_channels_are_made_on_the_way(comfyui: Target, folder: str) -> None:
    comfyui.upload("/upload/image", png("#ff000080", "RGBA"), subfolder=folder)
    path = f"/view?filename=a.png&subfolder={folder}&type=input"
    webp = comfyui.get(f"{path}&preview=webp;50")
    assert (webp.headers["content-type"], webp.body[8:12]) == ("image/webp", b"WEBP")
    jpeg = comfyui.get(f"{path}&preview=jpeg")
    assert (jpeg.headers["content-type"], jpeg.body[:2]) == ("image/jpeg", b"\xff\xd8")
    assert Image.open(io.BytesIO(comfyui.get(f"{path}&channel=rgb").body)).getpixel((0, 0)) == (255, 0, 0)
    alpha = Image.open(io.BytesIO(comfyui.get(f"{path}&channel=a").body))
    assert alpha.getpixel((0, 0)) == (0, 0, 0, 0x80)


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("", 404),
        ("?filename=nope.png", 404),
        ("?filename=../main.py", 400),
        ("?filename=/etc/passwd", 400),
        ("?filename=a.png&subfolder=../..", 403),
        ("?filename=a.png&type=elsewhere", 400),
    ],
)
def test_what_cannot_be_seen(comfyui: Target, query: str, status: int) -> None:
    answer = comfyui.get(f"/view{query}")
    assert (answer.status, answer.body) == (status, b"")


def test_active_content_is_not_shown_in_place(comfyui: Target, folder: str) -> None:
    comfyui.upload("/upload/image", b"<script>", "page.html", subfolder=folder)
    seen = comfyui.get(f"/view?filename=page.html&subfolder={folder}&type=input")
    assert seen.headers["content-type"] == "application/octet-stream"
