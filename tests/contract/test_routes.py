"""Everything else that a client of ComfyUI asks: facts, settings, user data, and HTTP itself."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from tests.contract.comfyui_client import Target


def test_system_stats(comfyui: Target) -> None:
    told = comfyui.get("/system_stats").json
    assert set(told) == {"system", "devices"}
    assert {"os", "ram_total", "ram_free", "comfyui_version", "python_version", "argv"} <= set(told["system"])
    assert len(told["devices"]) == comfyui.gpus
    for device in told["devices"]:
        assert set(device) - ({"gpu_id"} if comfyui.gpus > 1 else set()) == {
            "name",
            "type",
            "index",
            "vram_total",
            "vram_free",
            "torch_vram_total",
            "torch_vram_free",
        }


def test_features(comfyui: Target) -> None:
    assert comfyui.get("/features").json == {"supports_preview_metadata": True, "max_upload_size": 2 * 2**20}


def bare(value: Any) -> Any:
    """Without what is only for reading."""
    if isinstance(value, dict):
        return {name: bare(each) for name, each in value.items() if name != "tooltip"}
    return [bare(each) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("name", "inputs", "outputs"),
    [
        ("EmptyImage", {"width", "height", "batch_size", "color"}, ["IMAGE"]),
        ("SaveImage", {"images", "filename_prefix"}, []),
        ("LoadImage", {"image"}, ["IMAGE", "MASK"]),
        ("CheckpointLoaderSimple", {"ckpt_name"}, ["MODEL", "CLIP", "VAE"]),
        ("CLIPTextEncode", {"text", "clip"}, ["CONDITIONING"]),
        ("VAEDecode", {"samples", "vae"}, ["IMAGE"]),
        ("EmptyLatentImage", {"width", "height", "batch_size"}, ["LATENT"]),
        ("SaveImageWebsocket", {"images"}, []),
    ],
)
def test_object_info(comfyui: Target, name: str, inputs: set[str], outputs: list[str]) -> None:
    told = comfyui.get(f"/object_info/{name}").json
    assert set(told) == {name}
    info = told[name]
    assert set(info["input"]["required"]) == inputs
    assert set(info["input_order"]["required"]) == inputs
    assert info["output"] == outputs
    assert info["output_is_list"] == [False] * len(outputs)
    assert info["output_node"] is (name in {"SaveImage", "SaveImageWebsocket"})
    assert {"name", "display_name", "description", "python_module", "category", "output_name"} <= set(info)
    assert name in comfyui.get("/object_info").json


def test_the_inputs_of_a_sampler(comfyui: Target) -> None:
    required = bare(comfyui.get("/object_info/KSampler").json["KSampler"]["input"]["required"])
    assert list(required) == [
        "model",
        "seed",
        "steps",
        "cfg",
        "sampler_name",
        "scheduler",
        "positive",
        "negative",
        "latent_image",
        "denoise",
    ]
    assert required["steps"] == ["INT", {"default": 20, "min": 1, "max": 10000}]
    assert required["seed"][1]["max"] == 2**64 - 1
    assert required["sampler_name"][0][0] == "euler"


def test_an_unknown_node_has_no_info(comfyui: Target) -> None:
    assert comfyui.get("/object_info/Nope").json == {}


def test_models(comfyui: Target) -> None:
    folders = comfyui.get("/models").json
    assert {"checkpoints", "loras", "vae", "controlnet", "embeddings"} <= set(folders)
    assert isinstance(comfyui.get("/models/checkpoints").json, list)
    missing = comfyui.get("/models/nope")
    assert (missing.status, missing.body) == (404, b"")
    assert isinstance(comfyui.get("/embeddings").json, list)
    assert {"name", "folders"} == set(comfyui.get("/experiment/models").json[0])
    assert comfyui.get("/view_metadata/checkpoints?filename=nope.safetensors").status == 404


@pytest.mark.parametrize(("path", "kind"), [("/extensions", list), ("/workflow_templates", dict), ("/i18n", dict)])
def test_lists_for_the_page(comfyui: Target, path: str, kind: type) -> None:
    assert isinstance(comfyui.get(path).json, kind)
    assert isinstance(comfyui.get(f"/api{path}").json, kind)


def test_the_page(comfyui: Target) -> None:
    page = comfyui.get("/")
    assert page.status == 200
    assert page.headers["content-type"] == "text/html"
    assert page.headers["cache-control"] == "no-cache"
    assert b"<html" in page.body


def test_settings(comfyui: Target) -> None:
    name = "Contract." + uuid.uuid4().hex
    assert comfyui.get(f"/settings/{name}").json is None
    assert comfyui.post(f"/settings/{name}", [1, {"a": "b"}]).status == 200
    assert comfyui.get(f"/settings/{name}").json == [1, {"a": "b"}]
    assert comfyui.post("/api/settings", {name: True}).status == 200
    assert comfyui.get("/settings").json[name] is True


def test_users(comfyui: Target) -> None:
    told = comfyui.get("/users").json
    assert told["storage"] == "server"
    assert isinstance(told["migrated"], bool)


def test_saved_workflows(comfyui: Target) -> None:
    folder = uuid.uuid4().hex
    path = f"/userdata/{folder}%2Fone%20two.json"
    assert comfyui.get(path).status == 404
    saved = comfyui.post(path, {"a": 1})
    assert (saved.status, saved.json) == (200, f"{folder}/one two.json")
    assert comfyui.get(path).json == {"a": 1}
    assert comfyui.get(f"/userdata?dir={folder}").json == ["one two.json"]
    assert comfyui.get(f"/userdata?dir={folder}&split=true").json == [["one two.json", "one two.json"]]
    (full,) = comfyui.get(f"/userdata?dir={folder}&recurse=true&full_info=true").json
    assert (full["path"], full["size"]) == ("one two.json", len(comfyui.get(path).body))
    assert set(full) == {"path", "size", "modified", "created"}
    (listed,) = comfyui.get(f"/v2/userdata?path={folder}").json
    assert (listed["name"], listed["path"], listed["type"]) == ("one two.json", f"{folder}/one two.json", "file")
    assert comfyui.post(f"{path}?overwrite=false", {"a": 2}).status == 409
    moved = comfyui.post(f"{path}/move/{folder}%2Fthree.json?full_info=true")
    assert (moved.status, moved.json["path"]) == (200, f"{folder}/three.json")
    assert comfyui.get(path).status == 404
    gone = comfyui.request("DELETE", f"/api/userdata/{folder}%2Fthree.json")
    assert (gone.status, gone.body) == (204, b"")
    assert comfyui.request("DELETE", f"/userdata/{folder}%2Fthree.json").status == 404


def test_user_data_stays_in_its_folder(comfyui: Target) -> None:
    assert comfyui.get("/userdata/..%2F..%2Fsecret").status == 403
    assert comfyui.get("/userdata?dir=..%2F..").status == 403
    assert comfyui.get("/userdata").status == 400
    assert comfyui.get("/userdata?dir=nope").status == 404
    assert comfyui.get("/v2/userdata?path=..%2F..").status == 400


def test_the_log(comfyui: Target) -> None:
    assert isinstance(comfyui.get("/internal/logs").json, str)
    raw = comfyui.get("/internal/logs/raw").json
    assert set(raw) == {"entries", "size"}
    assert {"t", "m"} == set(raw["entries"][0])
    assert comfyui.get("/api/internal/logs").status == 404
    wish = {"clientId": "nobody", "enabled": True}
    assert comfyui.request("PATCH", "/internal/logs/subscribe", wish).status == 200
    assert isinstance(comfyui.get("/internal/files/input").json, list)
    assert comfyui.get("/internal/files/nope").status == 400


@pytest.mark.parametrize("path", ["/queue", "/api/queue", "/prompt", "/system_stats"])
def test_head_is_get_without_the_body(comfyui: Target, path: str) -> None:
    head, whole = comfyui.request("HEAD", path), comfyui.get(path)
    assert (head.status, head.body) == (200, b"")
    assert head.headers["content-type"] == whole.headers["content-type"]


def test_unknown_paths_and_methods(comfyui: Target) -> None:
    assert (comfyui.get("/nope").status, comfyui.get("/nope").body) == (404, b"")
    wrong = comfyui.request("DELETE", "/queue")
    assert (wrong.status, wrong.body) == (405, b"405: Method Not Allowed")
    assert wrong.headers["allow"] == "GET,HEAD,POST"
    assert comfyui.post("/nope", {}).status == 405


def test_options_are_answered(comfyui: Target) -> None:
    answer = comfyui.request("OPTIONS", "/prompt")
    assert (answer.status, answer.body) == (200, b"")


@pytest.mark.parametrize(
    ("host", "origin", "status"),
    [
        ("127.0.0.1:1", "http://evil.example", 403),
        ("127.0.0.1:1", "http://127.0.0.1:2", 403),
        ("localhost:1", "http://127.0.0.1:1", 403),
        ("127.0.0.1:1", "http://127.0.0.1:1", 200),
        ("127.0.0.1:1", "http://127.0.0.1", 200),
        ("127.0.0.1", "http://127.0.0.1:1", 200),
        ("192.0.2.1:1", "http://evil.example", 200),
    ],
)
def test_pages_from_elsewhere_are_kept_off_loopback(direct: Target, host: str, origin: str, status: int) -> None:
    answer = direct.request("GET", "/queue", headers={"Host": host, "Origin": origin})
    assert answer.status == status


def test_a_body_over_the_limit_is_refused(comfyui: Target) -> None:
    answer = comfyui.request("POST", "/prompt", b"x" * (2 * 2**20 + 1))
    assert answer.status == 413
    assert comfyui.upload("/upload/image", b"x" * (2 * 2**20 + 1)).status == 413
