"""Several GPUs through one port, held against a single ComfyUI."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from PIL import Image

from tests.contract.comfyui_client import Target
from tests.contract.conftest import simulator
from tests.gateway import Gateway, Response, eventually, request, running, workflow
from tests.process.test_uploads import TYPE, form

CONFIG = """rate = 0
arguments = --preview-method auto
[gpu:1]
arguments = --preview-method auto --sim-node Mine --sim-model checkpoints/mine.safetensors
[gate:ends]
port = {spare}
gpus = 0,2
"""
READ = [
    "/prompt",
    "/queue",
    "/queue/all",
    "/history",
    "/history/unknown",
    "/object_info",
    "/object_info/SaveImage",
    "/object_info/Mine",
    "/object_info/Unknown",
    "/system_stats",
    "/features",
    "/embeddings",
    "/models",
    "/view?filename=unknown.png&type=temp",
    "/view?filename=..%2Fx",
    "/view",
    "/view_metadata/checkpoints?filename=mine.safetensors",
    "/view_metadata/checkpoints?filename=unknown.safetensors",
]
MINE = {"ckpt_name": "mine.safetensors"}


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """One ComfyUI, as clients know it."""
    with simulator(tmp_path_factory.mktemp("single")) as one:
        yield one


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Three GPUs; the one in the middle has a custom node and a model that the others do not have."""
    with running(tmp_path_factory.mktemp("hub"), CONFIG, gpus=3) as one:
        # What the GPUs offer is asked when they are ready; prompts may come before that is known.
        eventually(lambda: "Mine" in request(one.hub, "GET", "/object_info").json())
        yield one


@pytest.fixture
def gateway(shared: Gateway) -> Iterator[Gateway]:
    """The same, with nothing to do."""
    yield shared
    request(shared.hub, "POST", "/queue", {"clear": True})
    request(shared.hub, "POST", "/interrupt")
    idle(shared)
    request(shared.hub, "POST", "/history", {"clear": True})


def idle(gateway: Gateway) -> None:
    eventually(lambda: request(gateway.hub, "GET", "/prompt").json()["exec_info"]["queue_remaining"] == 0)
    eventually(lambda: all(not queue["running_count"] + queue["pending_count"] for queue in gateway.queues()))


def submit(gateway: Gateway, prompt: dict[str, Any], gpu_id: int | None = None, **more: Any) -> Response:
    headers = {} if gpu_id is None else {"X-Target-GPU": str(gpu_id)}
    return request(gateway.hub, "POST", "/prompt", {"prompt": prompt, **more}, headers)


def ended(gateway: Gateway, answer: Response) -> Any:
    assert answer.status == 200, answer
    prompt_id = answer.json()["prompt_id"]
    return eventually(lambda: request(gateway.hub, "GET", f"/history/{prompt_id}").json().get(prompt_id))


def owner(gateway: Gateway, prompt_id: str) -> int:
    """The GPU that ran a prompt."""
    found = [n for n, port in enumerate(gateway.ports) if request(port, "GET", f"/history/{prompt_id}").json()]
    assert len(found) == 1
    return found[0]


def through(kind: str, color: int = 0, **inputs: Any) -> dict[str, Any]:
    """A prompt with one node of this class between an image and its file."""
    prompt = workflow()
    prompt["2"] = {"class_type": kind, "inputs": {"image": ["1", 0], **inputs}}
    prompt["9"]["inputs"]["images"] = ["2", 0]
    return prompt


def with_checkpoint(name: str) -> dict[str, Any]:
    prompt = workflow()
    prompt["3"] = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": name}}
    prompt["4"] = {"class_type": "CLIPTextEncode", "inputs": {"text": "x", "clip": ["3", 1]}}
    sampler = {"seed": 1, "steps": 1, "cfg": 1.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0}
    links = {"model": ["3", 0], "positive": ["4", 0], "negative": ["4", 0], "latent_image": ["5", 0]}
    prompt["5"] = {"class_type": "EmptyLatentImage", "inputs": {"width": 64, "height": 64, "batch_size": 1}}
    prompt["6"] = {"class_type": "KSampler", "inputs": sampler | links}
    prompt["7"] = {"class_type": "VAEDecode", "inputs": {"samples": ["6", 0], "vae": ["3", 2]}}
    prompt["9"]["inputs"]["images"] = ["7", 0]
    del prompt["1"]
    return prompt


def preview(gateway: Gateway, gpu_id: int) -> str:
    """Have a GPU leave a temporary picture; the query that asks for it."""
    prompt = workflow()
    prompt["9"] = {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}
    (image,) = ended(gateway, submit(gateway, prompt, gpu_id))["outputs"]["9"]["images"]
    assert image["type"] == "temp"
    return "&".join(f"{key}={value}" for key, value in image.items())


@pytest.mark.parametrize("path", READ)
def test_each_route_answers_also_under_api_and_to_head(gateway: Gateway, path: str) -> None:
    answer = request(gateway.hub, "GET", path)
    assert answer.status in (200, 400, 404), answer
    for method, target in (("HEAD", path), ("GET", "/api" + path), ("HEAD", "/api" + path)):
        other = request(gateway.hub, method, target)
        assert other.status == answer.status, (method, target)
        assert other.body == b"" or method == "GET"
        if answer.status == 200:
            assert other.headers["content-type"] == answer.headers["content-type"]
            if path != "/system_stats":  # the memory that is free
                assert other.headers["content-length"] == answer.headers["content-length"]


@pytest.mark.parametrize("path", [path for path in READ if "mine" not in path.lower() and path != "/queue/all"])
def test_each_route_answers_as_a_single_comfyui(gateway: Gateway, single: Target, path: str) -> None:
    answer, known = request(gateway.hub, "GET", path), single.get(path)
    assert answer.status == known.status
    assert answer.headers.get("content-type") == known.headers.get("content-type")
    if path == "/system_stats":
        ours, theirs = answer.json(), known.json
        assert ours["system"].keys() == theirs["system"].keys()
        assert [list(device) for device in ours["devices"]] == [[*theirs["devices"][0], "gpu_id"]] * 3
    elif path == "/queue":
        assert answer.json() == {**known.json, "gpu_ids": {}}
    elif path == "/object_info":
        assert {**known.json, "Mine": answer.json()["Mine"]}.keys() == answer.json().keys()
    elif path == "/features":
        assert answer.json().keys() == known.json.keys()
    elif answer.status == 200:
        assert answer.json() == known.json
    else:
        assert answer.body == known.body


def test_a_gpus_port_says_what_its_comfyui_says(gateway: Gateway) -> None:
    for n, port in enumerate(gateway.ports):
        assert ("Mine" in request(port, "GET", "/object_info").json()) is (n == 1)
        assert len(request(port, "GET", "/system_stats").json()["devices"]) == 1
        assert "gpu_id" not in request(port, "GET", "/system_stats").json()["devices"][0]


def test_a_port_over_some_of_the_gpus_speaks_for_those(gateway: Gateway) -> None:
    ends = gateway.spare
    assert [device["gpu_id"] for device in request(ends, "GET", "/system_stats").json()["devices"]] == [0, 2]
    assert "Mine" not in request(ends, "GET", "/object_info").json()
    assert request(ends, "GET", "/object_info/Mine").json() == {}
    assert request(ends, "POST", "/prompt", {"prompt": through("Mine")}).status == 400
    for gpu_id, status in ((0, 200), (1, 404), (2, 200)):
        assert request(ends, "GET", f"/view?{preview(gateway, gpu_id)}").status == status
    answer = submit(gateway, workflow(), 1)
    ended(gateway, answer)
    assert request(ends, "GET", f"/history/{answer.json()['prompt_id']}").json() == {}
    assert request(ends, "GET", "/queue").json() == {"queue_running": [], "queue_pending": [], "gpu_ids": {}}


def test_node_classes_and_choices_are_those_of_all(gateway: Gateway) -> None:
    one, other = (request(port, "GET", "/object_info").json() for port in gateway.ports[:2])
    merged = request(gateway.hub, "GET", "/object_info").json()
    assert list(merged) == [*one, "Mine"]
    assert merged["Mine"] == other["Mine"]
    ckpt_name = merged["CheckpointLoaderSimple"]["input"]["required"]["ckpt_name"]
    assert ckpt_name == [[*one["CheckpointLoaderSimple"]["input"]["required"]["ckpt_name"][0], "mine.safetensors"], {}]
    assert request(gateway.hub, "GET", "/api/object_info/Mine").json() == {"Mine": other["Mine"]}
    loader = request(gateway.hub, "GET", "/object_info/CheckpointLoaderSimple").json()["CheckpointLoaderSimple"]
    assert loader == merged["CheckpointLoaderSimple"]
    assert request(gateway.hub, "GET", "/view_metadata/checkpoints?filename=mine.safetensors").status == 200


def test_a_prompt_goes_where_its_classes_and_models_are(gateway: Gateway) -> None:
    answers = [submit(gateway, through("Mine")) for _ in range(4)]
    answers += [submit(gateway, with_checkpoint("mine.safetensors")) for _ in range(4)]
    others = [submit(gateway, workflow(0.05)) for _ in range(6)]
    for answer in answers:
        assert answer.json()["gpu_id"] == 1
        assert ended(gateway, answer)["status"]["completed"]
        assert owner(gateway, answer.json()["prompt_id"]) == 1
    for answer in others:
        ended(gateway, answer)
    assert len({owner(gateway, answer.json()["prompt_id"]) for answer in others}) > 1


def test_what_no_gpu_has_is_refused_as_comfyui_does(gateway: Gateway, single: Target) -> None:
    for prompt in (through("Nobodys"), with_checkpoint("nobodys.safetensors")):
        answer, known = submit(gateway, prompt), single.post("/prompt", {"prompt": prompt})
        assert (answer.status, known.status) == (400, 400)
        assert answer.json()["error"]["type"] == known.json["error"]["type"]
        assert answer.json()["node_errors"].keys() == known.json["node_errors"].keys()
    pinned = submit(gateway, through("Mine"), 0)
    assert pinned.status == 400
    assert pinned.json()["error"] == single.post("/prompt", {"prompt": through("Mine")}).json["error"]
    assert submit(gateway, through("Mine"), 1).status == 200


def test_a_temporary_picture_is_found_wherever_it_is(gateway: Gateway) -> None:
    for gpu_id in range(3):
        query = preview(gateway, gpu_id)
        at_home = request(gateway.ports[gpu_id], "GET", f"/view?{query}")
        assert at_home.status == 200
        assert [request(port, "GET", f"/view?{query}").status for port in gateway.ports].count(200) == 1
        assert request(gateway.hub, "GET", f"/view?{query}").body == at_home.body
        assert request(gateway.hub, "GET", f"/api/view?{query}&preview=webp;50").headers["content-type"] == "image/webp"
        head = request(gateway.hub, "HEAD", f"/view?{query}")
        assert (head.status, head.headers["content-length"]) == (200, str(len(at_home.body)))
        part = request(gateway.hub, "GET", f"/view?{query}", headers={"Range": "bytes=1-3"})
        assert (part.status, part.body) == (206, b"PNG")
        known = {"If-None-Match": at_home.headers["etag"]}
        assert request(gateway.hub, "GET", f"/view?{query}", headers=known).status == 304


def test_a_picture_that_no_prompt_has_named_is_looked_for(gateway: Gateway) -> None:
    for n, port in enumerate(gateway.ports):
        body = form(f"own-{n}.png", b"content %d" % n, type="temp")
        assert request(port, "POST", "/upload/image", body, TYPE).json()["type"] == "temp"
    for _ in range(2):
        for n in range(3):
            found = request(gateway.hub, "GET", f"/view?filename=own-{n}.png&type=temp")
            assert found.body == b"content %d" % n
            assert request(gateway.hub, "GET", f"/view?filename=own-{n}.png%20[temp]").body == found.body


def test_a_prompt_with_a_temporary_picture_runs_where_that_is(gateway: Gateway) -> None:
    query = dict(pair.split("=") for pair in preview(gateway, 2).split("&"))
    prompt = workflow()
    prompt["1"] = {"class_type": "LoadImage", "inputs": {"image": f"{query['filename']} [temp]"}}
    for _ in range(3):
        answer = submit(gateway, prompt)
        assert answer.json()["gpu_id"] == 2
        assert ended(gateway, answer)["status"]["completed"]


def test_an_upload_is_seen_by_every_gpu(gateway: Gateway) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (1, 2, 3)).save(buffer, "PNG")
    answer = request(gateway.hub, "POST", "/api/upload/image", form("seen.png", buffer.getvalue()), TYPE)
    assert answer.json() == {"name": "seen.png", "subfolder": "", "type": "input"}
    for gpu_id, port in enumerate(gateway.ports):
        assert request(port, "GET", "/view?filename=seen.png&type=input").body == buffer.getvalue()
        prompt = workflow()
        prompt["1"] = {"class_type": "LoadImage", "inputs": {"image": "seen.png"}}
        assert ended(gateway, submit(gateway, prompt, gpu_id))["status"]["completed"]


@pytest.mark.parametrize("padding", [0, 3_000_000])
def test_a_mask_is_laid_on_the_picture_of_another_gpu(gateway: Gateway, padding: int) -> None:
    """Also a large one, which nobody holds in memory."""
    buffer = io.BytesIO()
    Image.frombytes("RGBA", (64, 64), os.urandom(4 * 64 * 64)).save(buffer, "PNG")
    for gpu_id in range(3):
        original = dict(pair.split("=") for pair in preview(gateway, gpu_id).split("&"))
        name = f"mask-{padding}-{gpu_id}.png"
        content = buffer.getvalue() + os.urandom(padding)
        body = form(name, content, original_ref=orjson.dumps(original).decode(), type="input", subfolder="clipspace")
        answer = request(gateway.hub, "POST", "/upload/mask", body, TYPE)
        assert answer.json() == {"name": name, "subfolder": "clipspace", "type": "input"}
        shown = request(gateway.hub, "GET", f"/view?filename={name}&type=input&subfolder=clipspace")
        with Image.open(io.BytesIO(shown.body)) as opened:
            assert opened.mode == "RGBA" and opened.size == (64, 64)


def test_a_gpu_that_hangs_is_left_out_and_delays_nobody_for_long(gateway: Gateway) -> None:
    victim = gateway.backend_pid(1)
    os.kill(victim, signal.SIGSTOP)
    try:
        devices = request(gateway.hub, "GET", "/system_stats", seconds=5).json()["devices"]
        assert [(device["index"], device["gpu_id"]) for device in devices] == [(0, 0), (2, 2)]
        assert request(gateway.hub, "GET", "/features", seconds=5).status == 200
        assert "Mine" in request(gateway.hub, "GET", "/object_info", seconds=10).json()
        assert request(gateway.hub, "GET", "/view?filename=none.png&type=temp", seconds=5).status == 404
    finally:
        os.kill(victim, signal.SIGCONT)
    eventually(lambda: len(request(gateway.hub, "GET", "/system_stats").json()["devices"]) == 3)


def test_all_gpus_free_their_memory(gateway: Gateway, single: Target) -> None:
    def loaded() -> list[int]:
        return [len(request(port, "GET", "/simulator/state").json()["loaded"]) for port in gateway.ports]

    for gpu_id in range(3):
        assert ended(gateway, submit(gateway, with_checkpoint("sim-alpha.safetensors"), gpu_id))["status"]["completed"]
    assert all(loaded())
    answer = request(gateway.hub, "POST", "/free", {"unload_models": True, "free_memory": True})
    assert (answer.status, answer.body) == (200, b"")
    eventually(lambda: not any(loaded()))
    nonsense = request(gateway.hub, "POST", "/api/free", b"nonsense")
    assert nonsense.status == single.post("/free", b"nonsense").status == 500


def test_the_queue_is_listed_in_the_order_in_which_it_runs(gateway: Gateway) -> None:
    blockers = [submit(gateway, workflow(20), gpu_id) for gpu_id in range(3)]
    eventually(lambda: len(request(gateway.hub, "GET", "/queue").json()["queue_running"]) == 3)
    waiting = [submit(gateway, workflow(), number=number) for number in (9, 3, 7, 1, 8, 2, 6, 4)]
    front = submit(gateway, workflow(), 2, front=True)
    queue = request(gateway.hub, "GET", "/api/queue").json()
    numbers = [item[0] for item in queue["queue_pending"]]
    assert numbers == sorted(numbers) and len(numbers) == 9
    assert queue["queue_pending"][0][1] == front.json()["prompt_id"]
    assert queue["gpu_ids"].keys() == {item[1] for item in queue["queue_running"] + queue["queue_pending"]}
    for gpu_id, blocker in enumerate(blockers):
        assert queue["gpu_ids"][blocker.json()["prompt_id"]] == gpu_id
    assert queue["gpu_ids"][front.json()["prompt_id"]] == 2
    doomed = [answer.json()["prompt_id"] for answer in waiting[:3]]
    assert request(gateway.hub, "POST", "/queue", {"delete": [*doomed, "unknown"]}).body == b""
    left = request(gateway.hub, "GET", "/queue").json()
    assert len(left["queue_pending"]) == 6 and not set(doomed) & left["gpu_ids"].keys()
    assert request(gateway.hub, "GET", "/prompt").json() == {"exec_info": {"queue_remaining": 9}}
    assert request(gateway.hub, "POST", "/api/queue", {"clear": True}).status == 200
    left = request(gateway.hub, "GET", "/queue").json()
    assert (len(left["queue_running"]), left["queue_pending"]) == (3, [])


def test_the_history_is_one_list_and_read_in_parts_as_a_single_one(gateway: Gateway, single: Target) -> None:
    ids = []
    for n in range(9):
        answer = submit(gateway, workflow(), n % 3)
        ended(gateway, answer)
        ids.append(answer.json()["prompt_id"])
        single.post("/prompt", {"prompt": workflow(), "prompt_id": answer.json()["prompt_id"]})
    eventually(lambda: len(single.get("/history").json) >= 9)
    known = list(single.get("/history").json)
    assert known[-9:] == ids
    for query in (
        "",
        "?max_items=4",
        "?max_items=100",
        "?offset=2",
        "?offset=2&max_items=3",
        "?offset=100",
        "?offset=-1",
    ):
        ours = list(request(gateway.hub, "GET", f"/history{query}").json())
        theirs = [one for one in single.get(f"/history{query}").json if one in ids]
        assert ours == theirs or len(known) > 9, query
    assert request(gateway.hub, "POST", "/history", {"delete": ids[:2]}).status == 200
    assert list(request(gateway.hub, "GET", "/api/history").json()) == ids[2:]
    assert request(gateway.hub, "GET", f"/history/{ids[0]}").json() == {}
    assert request(gateway.hub, "POST", "/history", {"clear": True}).status == 200
    assert request(gateway.hub, "GET", "/history").json() == {}
    single.post("/history", {"clear": True})


def test_a_custom_nodes_routes_stay_with_the_client(gateway: Gateway) -> None:
    def pid(agent: str) -> int:
        return int(request(gateway.hub, "GET", "/simulator/state", headers={"User-Agent": agent}).json()["pid"])

    agents = [f"browser {n}" for n in range(20)]
    homes = {agent: pid(agent) for agent in agents}
    assert len(set(homes.values())) == 3
    assert {agent: pid(agent) for agent in agents} == homes


def test_jobs_are_listed_as_a_single_new_comfyui_does(tmp_path: Path) -> None:
    with running(tmp_path, "rate = 0\narguments = --sim-newer\n", gpus=2) as gateway:
        hub = gateway.hub
        done = [ended(gateway, submit(gateway, workflow(), n % 2))["prompt"][1] for n in range(5)]
        blockers = [submit(gateway, workflow(30), n).json()["prompt_id"] for n in range(2)]
        eventually(lambda: len(request(hub, "GET", "/queue").json()["queue_running"]) == 2)
        waiting = [submit(gateway, workflow()).json()["prompt_id"] for _ in range(7)]
        page = request(hub, "GET", "/api/jobs").json()
        assert [job["id"] for job in page["jobs"]] == [*reversed(done + blockers + waiting)]
        assert page["pagination"] == {"offset": 0, "limit": None, "total": 14, "has_more": False}
        states = {"completed": done, "in_progress": blockers, "pending": waiting, "failed": [], "cancelled": []}
        for status, ids in states.items():
            listed = request(hub, "GET", f"/api/jobs?status={status}&sort_order=asc").json()["jobs"]
            assert [(job["id"], job["status"]) for job in listed] == [(one, status) for one in ids]
        part = request(hub, "GET", "/api/jobs?limit=3&offset=10").json()
        assert [job["id"] for job in part["jobs"]] == [*reversed(done[1:4])]
        assert part["pagination"] == {"offset": 10, "limit": 3, "total": 14, "has_more": True}
        of_gpu = {job["id"]: job for port in gateway.ports for job in request(port, "GET", "/api/jobs").json()["jobs"]}
        for job in page["jobs"]:
            known = of_gpu.get(job["id"])
            if known is not None:  # the others wait with us
                assert {**job, "create_time": 0} == {**known, "create_time": 0}
        for one in (done[0], blockers[0], waiting[-1]):
            assert request(hub, "GET", f"/api/jobs/{one}").json()["workflow"]["prompt"]
        whole = request(gateway.ports[0], "GET", f"/api/jobs/{done[0]}").json()
        ours = request(hub, "GET", f"/api/jobs/{done[0]}").json()
        assert {**ours, "create_time": 0} == {**whole, "create_time": 0}
        assert request(hub, "GET", "/api/jobs/unknown").status == 404
        assert request(hub, "GET", "/jobs").status == 404
        assert request(hub, "POST", f"/api/jobs/{waiting[0]}/cancel").json() == {"cancelled": True}
        both = {"job_ids": [blockers[1], waiting[1], done[0]]}
        assert request(hub, "POST", "/api/jobs/cancel", both).json() == {"cancelled": True}
        assert request(hub, "POST", f"/api/jobs/{done[0]}/cancel").json() == {"cancelled": False}
        eventually(lambda: request(hub, "GET", f"/api/jobs/{blockers[1]}").json()["status"] == "cancelled")
        assert request(hub, "GET", f"/api/jobs/{blockers[0]}").json()["status"] == "in_progress"
        assert request(hub, "GET", f"/api/jobs/{waiting[0]}").status == 404
        missing = submit(gateway, through("Nobodys"))
        assert (missing.status, missing.json()["error"]["type"]) == (400, "missing_node_type")
        request(hub, "POST", "/queue", {"clear": True})
        request(hub, "POST", "/interrupt")


def test_jobs_are_not_there_where_comfyui_is_older(gateway: Gateway, single: Target) -> None:
    for method, path in (("GET", "/api/jobs"), ("GET", "/api/jobs/x"), ("POST", "/api/jobs/cancel")):
        answer, known = request(gateway.hub, method, path), single.request(method, path)
        assert (answer.status, answer.body) == (known.status, known.body), path


def test_a_gpu_with_folders_of_its_own_gets_the_prompts_whose_files_it_has(tmp_path: Path, single: Target) -> None:
    """One that someone else runs shares no folder, and has no companion."""
    config = f"rate = 0\ncomfyui = simulator\ndevices = cpu*1\n[gpu:1]\nurl = {single.base_url}\n"
    with running(tmp_path, config, gpus=2) as gateway:
        for n, port in enumerate(gateway.ports):
            buffer = io.BytesIO()
            Image.new("RGB", (8, 8), (n, 2, 3)).save(buffer, "PNG")
            named = request(port, "POST", "/upload/image", form(f"gpu-{n}.png", buffer.getvalue()), TYPE).json()
            assert named["type"] == "input"
            assert request(gateway.hub, "GET", f"/view?filename=gpu-{n}.png&type=input").body == buffer.getvalue()
            prompt = workflow()
            prompt["1"] = {"class_type": "LoadImage", "inputs": {"image": f"gpu-{n}.png"}}
            for _ in range(3):
                answer = submit(gateway, prompt)
                assert answer.json()["gpu_id"] == n
                (image,) = ended(gateway, answer)["outputs"]["9"]["images"]
            shown = request(gateway.hub, "GET", f"/view?filename={image['filename']}")
            assert shown.body == request(port, "GET", f"/view?filename={image['filename']}").body
        assert len(request(gateway.hub, "GET", "/system_stats").json()["devices"]) == 2
        assert request(gateway.hub, "GET", "/history?max_items=1").json().keys() == {answer.json()["prompt_id"]}
