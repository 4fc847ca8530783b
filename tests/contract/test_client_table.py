"""What a client sees: every row of the table, on every GPU's port, with and without /api."""

from __future__ import annotations

import asyncio
import itertools
import uuid
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import aiohttp
import orjson
import pytest
from PIL import Image

from tests.gateway import Gateway, Response, eventually, request, running, workflow

GPUS = 4


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Four GPUs and the hub, without a limit."""
    with running(tmp_path_factory.mktemp("table"), "rate = 0\n", gpus=GPUS) as one:
        yield one


class Client:
    """A client of one GPU's port, as scripts are."""

    def __init__(self, gateway: Gateway, gpu_id: int, prefix: str) -> None:
        self.gateway = gateway
        self.gpu_id = gpu_id
        self.port = gateway.ports[gpu_id]
        self.prefix = prefix

    def get(self, target: str, **headers: str) -> Response:
        return request(self.port, "GET", self.prefix + target, headers=headers)

    def post(self, target: str, body: Any = b"", **headers: str) -> Response:
        return request(self.port, "POST", self.prefix + target, body, headers)

    def submit(self, seconds: float = 0.0, **fields: Any) -> str:
        answer = self.post("/prompt", {"prompt": workflow(seconds), **fields})
        assert answer.status == 200, answer
        assert answer.json()["gpu_id"] == self.gpu_id
        prompt_id: str = answer.json()["prompt_id"]
        return prompt_id

    def ended(self, prompt_id: str) -> Any:
        return eventually(lambda: self.get(f"/history/{prompt_id}").json().get(prompt_id))

    def queue(self) -> tuple[list[str], list[str]]:
        answer = self.get("/queue").json()
        assert set(answer) == {"queue_running", "queue_pending", "gpu_id"}
        assert answer["gpu_id"] == self.gpu_id
        return [item[1] for item in answer["queue_running"]], [item[1] for item in answer["queue_pending"]]

    def other(self) -> Client:
        """A client of the next GPU's port."""
        return Client(self.gateway, (self.gpu_id + 1) % GPUS, self.prefix)

    def upload(self, name: str, content: bytes, **fields: str) -> Response:
        form = b""
        for key, value in fields.items():
            form += f'--b\r\nContent-Disposition: form-data; name="{key}"\r\n\r\n{value}\r\n'.encode()
        form += f'--b\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'.encode()
        body = form + content + b"\r\n--b--\r\n"
        return self.post("/upload/image", body, **{"Content-Type": "multipart/form-data; boundary=b"})


@pytest.fixture(params=["", "/api"], ids=["plain", "api"])
def prefix(request: pytest.FixtureRequest) -> str:
    """Every route has a twin under /api."""
    return str(request.param)


@pytest.fixture(params=range(GPUS), ids=lambda n: f"gpu{n}")
def client(gateway: Gateway, prefix: str, request: pytest.FixtureRequest) -> Iterator[Client]:
    """A client of each port in turn, which leaves an empty queue behind."""
    one = Client(gateway, request.param, prefix)
    yield one
    for gpu_id in range(GPUS):
        cleaner = Client(gateway, gpu_id, "")
        cleaner.post("/queue", {"clear": True})
        cleaner.post("/interrupt")
        eventually(lambda one=cleaner: one.queue() == ([], []))


def test_anything_else_is_passed_byte_for_byte(gateway: Gateway, client: Client) -> None:
    if not client.prefix:
        for target in ("/simulator/echo?a=b%2Fc&d=%20+;x", "/simulator/echo?%e2%82%ac=%zz&&", "/simulator/echo?"):
            echoed = client.get(target, **{"X-Mine": "yes"}).json()
            assert echoed["target"] == target
            assert {"X-Mine", "yes"} <= {part for header in echoed["headers"] for part in header}
        body = bytes(range(256)) * 4000
        assert client.post("/simulator/sink", body).json()["bytes"] == len(body)
    saved = client.post("/userdata/a%2Fb%20c.json?overwrite=true", b'{"x": 1}')
    assert saved.status == 200
    assert client.get("/userdata/a%2Fb%20c.json").body == b'{"x": 1}'
    assert client.get("/object_info/EmptyImage").json()["EmptyImage"]["name"] == "EmptyImage"
    assert client.get("/nope").status == 404
    assert request(client.port, "DELETE", client.prefix + "/queue").status == 405


def test_a_prompt_is_checked_validated_and_queued_for_that_gpu(client: Client) -> None:
    prompt_id = str(uuid.uuid4())
    answer = client.post("/prompt", {"prompt": workflow(), "prompt_id": prompt_id}).json()
    assert answer["prompt_id"] == prompt_id
    assert (answer["node_errors"], answer["gpu_id"]) == ({}, client.gpu_id)
    assert isinstance(answer["number"], int)
    assert client.ended(prompt_id)["status"]["completed"]
    missing = client.post("/prompt", {"prompt": {"1": {"class_type": "SaveImage", "inputs": {}}}})
    assert missing.status == 400
    assert missing.json()["error"]["type"] == "prompt_outputs_failed_validation"
    assert missing.json()["node_errors"]["1"]["errors"]
    assert client.post("/prompt", {"prompt": {}}).json()["error"]["type"] == "prompt_no_outputs"
    assert client.post("/prompt", b"[1, 2]").json()["error"]["type"] == "no_prompt"
    assert client.post("/prompt", {"prompt": workflow(), "client_id": []}).status == 400


def test_the_queue_is_comfyuis_and_the_gpu_id(client: Client) -> None:
    ids = [client.submit(5, client_id="me", extra_data={"k": 1}) for _ in range(5)]
    eventually(lambda: client.queue() == (ids[:1], ids[1:]))
    item = client.get("/queue").json()["queue_pending"][2]
    assert item[1] == ids[3]
    assert item[2]["9"]["class_type"] == "SaveImage"
    assert item[3] == {"k": 1, "client_id": "me"}
    assert item[4] == ["9"]
    assert client.get("/prompt").json() == {"exec_info": {"queue_remaining": 5}}
    front = client.submit(5, front=True)
    assert client.queue()[1][0] == front
    assert request(client.port, "HEAD", client.prefix + "/queue").body == b""
    assert client.other().queue() == ([], [])


def test_queue_all_is_the_same_on_every_port(client: Client) -> None:
    ids = [client.submit(5) for _ in range(3)]
    eventually(lambda: client.queue() == (ids[:1], ids[1:]))
    answers = [Client(client.gateway, n, client.prefix).get("/queue/all").json() for n in range(GPUS)]
    assert all(answer == answers[0] for answer in answers)
    mine = answers[0]["queues"][client.gpu_id]
    assert (mine["gpu_id"], mine["running_count"], mine["pending_count"]) == (client.gpu_id, 1, 2)
    assert [item[1] for item in mine["queue_running"] + mine["queue_pending"]] == ids
    assert (answers[0]["total_running"], answers[0]["total_pending"]) == (1, 2)


def test_clear_and_delete_touch_that_gpu_only(client: Client) -> None:
    mine = [client.submit(5) for _ in range(5)]
    other = client.other()
    theirs = [other.submit(5) for _ in range(3)]
    eventually(lambda: (client.queue(), other.queue()) == ((mine[:1], mine[1:]), (theirs[:1], theirs[1:])))
    deleted = client.post("/queue", {"delete": [mine[1], mine[4], theirs[2], "unknown", mine[0]]})
    assert (deleted.status, deleted.body) == (200, b"")
    eventually(lambda: client.queue() == (mine[:1], mine[2:4]))
    cleared = client.post("/queue", {"clear": True})
    assert (cleared.status, cleared.body) == (200, b"")
    eventually(lambda: client.queue() == (mine[:1], []))
    assert other.queue() == (theirs[:1], theirs[1:])


def test_an_interrupt_by_id_works_from_every_port(client: Client) -> None:
    other = client.other()
    mine = [client.submit(5) for _ in range(4)]
    theirs = other.submit(0.5)
    eventually(lambda: client.queue()[0] == mine[:1] and other.queue()[0] == [theirs])
    where = {"gpu_id": client.gpu_id}
    assert other.post("/interrupt", {"prompt_id": mine[3]}).json() == {
        "prompt_id": mine[3],
        "state": "pending",
        **where,
    }
    assert other.post("/interrupt", {"prompt_id": mine[1]}).json() == {
        "prompt_id": mine[1],
        "state": "pending",
        **where,
    }
    assert other.post("/interrupt", {"prompt_id": mine[0]}).json() == {
        "prompt_id": mine[0],
        "state": "running",
        **where,
    }
    entry = client.ended(mine[0])
    assert (entry["status"]["status_str"], entry["status"]["completed"]) == ("error", False)
    eventually(lambda: client.queue() == ([mine[2]], []))
    assert other.ended(theirs)["status"]["completed"]
    over = client.post("/interrupt", {"prompt_id": theirs}).json()
    assert over == {"prompt_id": theirs, "gpu_id": None, "state": "unknown"}


def test_an_interrupt_without_an_id_stops_what_runs_on_that_gpu(client: Client) -> None:
    other = client.other()
    mine, theirs = client.submit(5), other.submit(0.5)
    eventually(lambda: client.queue()[0] == [mine] and other.queue()[0] == [theirs])
    answer = client.post("/interrupt")
    assert (answer.status, answer.body) == (200, b"")
    assert client.ended(mine)["status"]["status_str"] == "error"
    assert other.ended(theirs)["status"]["completed"]


def test_histories_are_that_gpus(client: Client) -> None:
    prompt_id = client.submit()
    entry = client.ended(prompt_id)
    assert entry["prompt"][1] == prompt_id
    assert entry["outputs"]["9"]["images"][0]["type"] == "output"
    assert list(client.get("/history?max_items=1").json()) == [prompt_id]
    assert client.other().get(f"/history/{prompt_id}").json() == {}
    assert client.post("/history", {"delete": [prompt_id]}).status == 200
    assert client.get(f"/history/{prompt_id}").json() == {}


def test_an_image_can_be_viewed_on_every_port(client: Client) -> None:
    image = client.ended(client.submit())["outputs"]["9"]["images"][0]
    target = f"/view?filename={image['filename']}&subfolder={image['subfolder']}&type={image['type']}"
    whole = client.get(target)
    assert whole.headers["content-type"] == "image/png"
    assert "prompt" in Image.open(BytesIO(whole.body)).info  # type: ignore[attr-defined]
    assert client.other().get(target).body == whole.body
    part = client.get(target, Range="bytes=0-9")
    assert (part.status, part.body, part.headers["content-range"]) == (
        206,
        whole.body[:10],
        f"bytes 0-9/{len(whole.body)}",
    )
    head = request(client.port, "HEAD", client.prefix + target)
    assert (head.body, head.headers["content-length"]) == (b"", str(len(whole.body)))
    assert client.get(target, **{"If-None-Match": whole.headers["etag"]}).status == 304
    assert client.get("/view?filename=../x").status == 400
    assert client.get("/view?filename=nope.png").status == 404


def test_an_upload_goes_into_the_shared_folder(client: Client) -> None:
    name = f"{uuid.uuid4().hex}.png"
    assert client.upload(name, b"one").json() == {"name": name, "subfolder": "", "type": "input"}
    assert client.other().upload(name, b"one").json()["name"] == name
    second = client.other().upload(name, b"two").json()["name"]
    assert second == name.replace(".png", " (1).png")
    assert client.get(f"/view?filename={name}&type=input").body == b"one"
    assert client.other().upload(name, b"three", overwrite="true").json()["name"] == name
    assert client.get(f"/view?filename={name}&type=input").body == b"three"


def test_the_websocket_tells_what_happens_to_ones_prompts(client: Client) -> None:
    told = asyncio.run(_events_of_one_prompt(client))
    kinds = [message["type"] for message in told]
    assert told[0]["data"]["sid"] == "me-" + str(client.gpu_id) + client.prefix.strip("/")
    assert kinds[:2] == ["status", "feature_flags"]
    start = kinds.index("execution_start")
    assert [kind for kind in kinds[start:] if kind not in ("status", "progress_state", "executing", "progress")] == [
        "execution_start",
        "execution_cached",
        "executed",
        "execution_success",
    ]
    counts = [remaining(one) for one in told if one["type"] == "status"]
    assert [count for count, _ in itertools.groupby(counts)] == [0, 1, 0]


def remaining(status: Any) -> int:
    count: int = status["data"]["status"]["exec_info"]["queue_remaining"]
    return count


async def _events_of_one_prompt(client: Client) -> list[Any]:
    client_id = "me-" + str(client.gpu_id) + client.prefix.strip("/")
    url = f"http://127.0.0.1:{client.port}{client.prefix}/ws?clientId={client_id}"
    told: list[Any] = []
    async with aiohttp.ClientSession() as session, session.ws_connect(url) as ws:
        await ws.send_json({"type": "feature_flags", "data": {"supports_preview_metadata": True}})
        told.append(orjson.loads(await ws.receive_str(timeout=10)))
        told.append(orjson.loads(await ws.receive_str(timeout=10)))
        await asyncio.to_thread(client.submit, client_id=client_id)
        while not (told[-1]["type"] == "executing" and told[-1]["data"]["node"] is None):
            message = await ws.receive(timeout=10)
            assert message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY), message
            if message.type is aiohttp.WSMsgType.TEXT:
                told.append(orjson.loads(message.data))
    return told


def test_a_client_hears_of_prompts_that_wait_with_the_gate(client: Client) -> None:
    asyncio.run(_counts(client))


async def _counts(client: Client) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"http://127.0.0.1:{client.port}{client.prefix}/ws?clientId=watcher") as ws,
    ):

        async def told(count: int) -> None:
            while True:
                message = orjson.loads(await ws.receive_str(timeout=10))
                if message["type"] == "status" and message["data"]["status"]["exec_info"]["queue_remaining"] == count:
                    return

        await told(0)
        for _ in range(6):
            await asyncio.to_thread(client.submit, 5)
        await told(6)
        await asyncio.to_thread(client.post, "/queue", {"clear": True})
        await told(1)
        await asyncio.to_thread(client.post, "/interrupt")
        await told(0)
