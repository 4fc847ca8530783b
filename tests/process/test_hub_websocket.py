"""WebSockets of the hub: one stream from all GPUs, of a real daemon with simulated ComfyUIs."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import re
import signal
import socket
import struct
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import aiohttp
import pytest

from tests.gateway import Gateway, eventually, request, resident_kib, running, workflow
from tests.process.listening import LIMIT, listen, submit, until

JPEG = b"\0\0\0\1\0\0\0\1"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running(tmp_path_factory.mktemp("hub"), "rate = 0\nrestart_delay = 0.1\n", gpus=4) as one:
        yield one


@pytest.fixture
def gateway(shared: Gateway) -> Gateway:
    """Four GPUs and the hub, without a limit, all at work."""
    shared.wait_ready()
    return shared


def remaining(message: dict[str, Any]) -> int:
    return int(message["data"]["status"]["exec_info"]["queue_remaining"])


def event_of(message: dict[str, Any]) -> str:
    idle = message["type"] == "executing" and message["data"]["node"] is None
    return "idle" if idle else str(message["type"])


def events(messages: list[Any], prompt_id: str) -> list[str]:
    """Types of what was told of a prompt."""
    return [
        event_of(one) for one in messages if isinstance(one, dict) and one.get("data", {}).get("prompt_id") == prompt_id
    ]


async def spoken(socket: aiohttp.ClientWebSocketResponse) -> dict[str, Any] | bytes:
    """The next message."""
    message = await asyncio.wait_for(socket.receive(), LIMIT)
    assert message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY), message
    return message.data if message.type is aiohttp.WSMsgType.BINARY else dict(json.loads(message.data))


class Crowd:
    """Clients that all run prompts through one port at once."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"

    async def one(self, http: aiohttp.ClientSession, prompts: int, several: bool) -> list[str]:
        """Run them as a client does, and look at everything that it is told; ids of the prompts."""
        me = uuid.uuid4().hex
        async with http.ws_connect(f"{self.url}/ws?clientId={me}", max_msg_size=0) as stream:
            first = await spoken(stream)
            assert isinstance(first, dict) and first["data"]["sid"] == me
            if several:
                await stream.send_json({"type": "feature_flags", "data": {"supports_concurrent_prompts": True}})
            colors = await self._submit(http, me, prompts)
            heard: dict[str, list[str]] = defaultdict(list)
            order: list[str] = []
            ended: set[str] = set()
            while ended != colors.keys():
                message = await spoken(stream)
                assert isinstance(message, dict), "nobody asked for previews"
                if message["type"] == "status":
                    told = {one for one, kinds in heard.items() if "execution_success" in kinds}
                    assert remaining(message) > 0 or told == colors.keys()
                    continue
                if message["type"] == "feature_flags":
                    assert message["data"]["supports_concurrent_prompts"] is True
                    continue
                prompt_id = message["data"]["prompt_id"]
                assert prompt_id in colors, f"{message} is somebody else's"
                heard[prompt_id].append(event_of(message))
                order.append(prompt_id)
                if message["type"] == "execution_success":
                    await self._check_image(http, prompt_id, colors[prompt_id])
                if event_of(message) == "idle":
                    ended.add(prompt_id)
            for kinds in heard.values():
                assert kinds[0] == "execution_start" and kinds[-2:] == ["execution_success", "idle"], kinds
                assert len(set(kinds) & {"executed", "execution_cached"}) == 2, kinds
                assert max(Counter(one for one in kinds if one.startswith("execution_")).values()) == 1
            switches = sum(1 for before, after in itertools.pairwise(order) if before != after)
            assert several or switches == prompts - 1, "stories are mixed"
            return list(colors)

    async def _submit(self, http: aiohttp.ClientSession, me: str, prompts: int) -> dict[str, int]:
        async def one() -> tuple[str, int]:
            prompt = workflow()
            body = {"prompt": prompt, "client_id": me}
            async with http.post(f"{self.url}/prompt", json=body) as answer:
                assert answer.status == 200, await answer.text()
                return (await answer.json())["prompt_id"], prompt["1"]["inputs"]["color"]

        return dict(await asyncio.gather(*(one() for _ in range(prompts))))

    async def _check_image(self, http: aiohttp.ClientSession, prompt_id: str, color: int) -> None:
        """The history can be read in the moment of the last event, and shows the right picture."""
        async with http.get(f"{self.url}/history/{prompt_id}") as answer:
            entry = (await answer.json())[prompt_id]
        [image] = entry["outputs"]["9"]["images"]
        async with http.get(f"{self.url}/view", params=image) as answer:
            content = await answer.read()
        [found] = re.findall(rb'"color": ?(\d+)', content)
        assert int(found) == color


def deaf_client(gateway: Gateway, client_id: str) -> socket.socket:
    """One that sends work and never reads: its pictures fill every buffer."""
    deaf = socket.socket()
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    deaf.connect(("127.0.0.1", gateway.hub))
    deaf.sendall(
        f"GET /ws?clientId={client_id} HTTP/1.1\r\nHost: 127.0.0.1:{gateway.hub}\r\nUpgrade: websocket\r\n"
        "Connection: Upgrade\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        "Sec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    assert deaf.recv(20).startswith(b"HTTP/1.1 101")
    return deaf


def test_64_clients_each_get_what_is_theirs_while_one_does_not_read(gateway: Gateway) -> None:
    deaf_id = uuid.uuid4().hex
    deaf = deaf_client(gateway, deaf_id)
    noisy = workflow(1.0, preview=True, preview_size=2048)
    deafs = [submit(gateway.hub, deaf_id, noisy, gpu_id) for gpu_id in range(4)]
    crowd = Crowd(gateway.hub)

    async def all_of_them() -> list[list[str]]:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=600)) as http:
            return await asyncio.gather(*(crowd.one(http, 10, several=n % 2 == 0) for n in range(64)))

    try:
        ids = [prompt_id for each in asyncio.run(all_of_them()) for prompt_id in each]
    finally:
        deaf.close()
    assert len(set(ids)) == 640
    history = request(gateway.hub, "GET", "/history").json()
    assert history.keys() >= {*ids, *deafs}
    used = Counter(image["filename"] for one in ids for image in history[one]["outputs"]["9"]["images"])
    assert len(used) == 640
    where = {gpu_id for gpu_id in range(4) if set(request(gateway.ports[gpu_id], "GET", "/history").json()) & set(ids)}
    assert where == {0, 1, 2, 3}


def test_two_at_once_are_two_stories_or_one_mixed_one_for_who_asks(gateway: Gateway) -> None:
    me = uuid.uuid4().hex
    with listen(gateway.hub, me) as client:
        first = submit(gateway.hub, me, workflow(1.0, preview=True), 0)
        assert until(client, "execution_start")["data"]["prompt_id"] == first
        second = submit(gateway.hub, me, workflow(), 1)
        seen = client.until_idle(first)
        assert not events(seen, second)
        eventually(lambda: second in request(gateway.hub, "GET", "/history").json())
        seen = client.until_idle(second)
        assert events(seen, second)[0] == "execution_start"
        assert not any(isinstance(one, bytes) for one in seen)
    another = uuid.uuid4().hex
    with listen(gateway.hub, another) as client:
        client.send('{"type": "feature_flags", "data": {"supports_concurrent_prompts": true}}')
        first = submit(gateway.hub, another, workflow(2.0), 0)
        assert until(client, "execution_start")["data"]["prompt_id"] == first
        second = submit(gateway.hub, another, workflow(), 1)
        seen = client.until_idle(second)
        assert events(seen, second)[0] == "execution_start" and "idle" not in events(seen, first)
        client.until_idle(first)


def test_a_prompt_that_is_sent_at_once_is_heard_from_its_beginning(gateway: Gateway) -> None:
    for n in range(20):
        me = uuid.uuid4().hex
        with listen(gateway.hub, me) as client:
            prompt_id = submit(gateway.hub, me, workflow(), n % 4)
            told = events(client.until_idle(prompt_id), prompt_id)
            assert told[0] == "execution_start" and told[-2:] == ["execution_success", "idle"]


def test_a_client_that_comes_back_is_told_where_its_prompt_is_and_what_it_missed(gateway: Gateway) -> None:
    me = uuid.uuid4().hex
    with listen(gateway.hub, me) as client:
        quick = submit(gateway.hub, me, workflow(0.5), 1)
        slow = submit(gateway.hub, me, workflow(4.0), 2)
        until(client, "execution_start")
    eventually(lambda: request(gateway.hub, "GET", f"/history/{quick}").json())
    with listen(gateway.hub, me) as client:
        assert until(client, "status")["data"]["sid"] == me
        assert events([until(client, "execution_success")], quick) == ["execution_success"]
        state = until(client, "executing")
        assert state["data"] == {"node": None, "prompt_id": quick}
        state = until(client, "executing")
        assert (state["data"]["node"], state["data"]["prompt_id"]) == ("2", slow)
        client.until_idle(slow)
        client.until_quiet(0.2)
    with listen(gateway.hub, me) as client:
        assert remaining(until(client, "status")) == 0
        assert client.quiet(0.3)  # all of it was read


def test_a_client_whose_old_socket_is_still_there_is_told_the_same(gateway: Gateway) -> None:
    me = uuid.uuid4().hex
    deaf = deaf_client(gateway, me)
    try:
        quick = submit(gateway.hub, me, workflow(), 1)
        eventually(lambda: request(gateway.hub, "GET", f"/history/{quick}").json())
        slow = submit(gateway.hub, me, workflow(3.0), 2)
        eventually(lambda: gateway.queues()[2]["running_count"])
        with listen(gateway.hub, me) as client:
            seen = client.until_idle(quick)
            assert events(seen, quick) == ["execution_success", "idle"]
            state = until(client, "executing", "progress_state")
            assert state["data"]["prompt_id"] == slow
            client.until_idle(slow)
    finally:
        deaf.close()


def test_a_gpu_that_dies_delays_nobody_and_its_prompt_is_told_again(gateway: Gateway) -> None:
    me = uuid.uuid4().hex
    with listen(gateway.hub, me) as client:
        client.send('{"type": "feature_flags", "data": {"supports_preview_metadata": true}}')
        first = submit(gateway.hub, me, workflow(2.0, preview=True), 3)
        until(client, "progress")
        second = submit(gateway.hub, me, workflow(), 0)
        os.kill(gateway.backend_pid(3), signal.SIGKILL)
        seen = client.until_idle(second)  # though the first was there before
        assert events(seen, second)[-2:] == ["execution_success", "idle"]
        seen = client.until_idle(first)
        assert events(seen, first)[0] == "execution_start"
        pictures = [one[:4] for one in seen if isinstance(one, bytes)]
        assert pictures and set(pictures) == {b"\0\0\0\4"}  # negotiated again
        assert not [one for one in seen if isinstance(one, dict) and one["type"] == "feature_flags"]


def test_a_client_that_comes_back_while_its_gpu_is_down_hears_the_second_run(gateway: Gateway) -> None:
    me = uuid.uuid4().hex
    with listen(gateway.hub, me) as client:
        prompt_id = submit(gateway.hub, me, workflow(1.5), 2)
        until(client, "progress")
        os.kill(gateway.backend_pid(2), signal.SIGKILL)
        eventually(lambda: gateway.states()[2] != "ready")
    with listen(gateway.hub, me) as client:
        told = events(client.until_idle(prompt_id), prompt_id)
        assert told[0] == "execution_start" and told[-2:] == ["execution_success", "idle"]


def test_nobody_sees_what_belongs_to_nobody(gateway: Gateway) -> None:
    """Of a prompt without a client ComfyUI tells everybody."""
    me, you = uuid.uuid4().hex, uuid.uuid4().hex
    with listen(gateway.hub, me) as mine, listen(gateway.hub, you) as yours, listen(gateway.ports[1], you) as direct:
        anonymous = submit(gateway.hub, None, workflow(0.5, preview=True), 1)
        own = submit(gateway.hub, me, workflow(0.5, preview=True), 1)
        seen = mine.until_idle(own)
        own_pictures = [one for one in seen if isinstance(one, bytes)]
        assert len(own_pictures) == 10 and all(one.startswith(JPEG) for one in own_pictures)
        assert not events(seen, anonymous)
        assert {one["type"] for one in yours.until_quiet(0.5) if isinstance(one, dict)} == {"status"}
        heard = direct.until_quiet(0.5)
        assert [one for one in heard if isinstance(one, bytes)]  # as on a single ComfyUI
        assert not events(heard, own)


def test_a_stopped_prompt_is_told_as_such(gateway: Gateway) -> None:
    me = uuid.uuid4().hex
    with listen(gateway.hub, me) as client:
        prompt_id = submit(gateway.hub, me, workflow(30.0), 0)
        until(client, "progress")
        answer = request(gateway.hub, "POST", "/interrupt", {"prompt_id": prompt_id})
        assert answer.json()["state"] == "running"
        told = events(client.until_idle(prompt_id), prompt_id)
        assert told[-2:] == ["execution_interrupted", "idle"]
        entry = request(gateway.hub, "GET", f"/history/{prompt_id}").json()[prompt_id]
        assert entry["status"]["status_str"] == "error"


def test_the_hub_shows_nobodys_id_and_gpus_ports_the_clients_own(gateway: Gateway) -> None:
    me, you = f"me-{uuid.uuid4().hex}", f"you-{uuid.uuid4().hex}"
    with listen(gateway.hub, me) as client, listen(gateway.ports[0], you):
        ended = [submit(gateway.hub, me, workflow(), 0), submit(gateway.ports[0], you, workflow())]
        client.until_idle(ended[0])
        eventually(lambda: request(gateway.ports[0], "GET", f"/history/{ended[1]}").json())
        held = [submit(gateway.hub, me, workflow(3.0), 0), submit(gateway.ports[0], you, workflow())]
        held.append(submit(gateway.hub, None, workflow(), 0, extra_data={"client_id": me}))
        eventually(lambda: gateway.queues()[0]["running_count"])
        for path in ("/queue", "/api/queue", "/queue/all", "/history", *(f"/history/{one}" for one in ended)):
            body = request(gateway.hub, "GET", path).body
            assert (ended[0].encode() in body) or (ended[1].encode() in body) or (held[0].encode() in body)
            assert me.encode() not in body and you.encode() not in body, path
        queue = request(gateway.ports[0], "GET", "/queue").json()
        listed = {one[1]: one[3]["client_id"] for one in (*queue["queue_running"], *queue["queue_pending"])}
        assert listed == {held[0]: me, held[1]: you, held[2]: me}
        history = request(gateway.ports[0], "GET", "/history").json()
        assert [history[one]["prompt"][3]["client_id"] for one in ended] == [me, you]
        shown = request(gateway.hub, "GET", "/queue").json()
        whose = {one[1]: one[3]["client_id"] for one in (*shown["queue_running"], *shown["queue_pending"])}
        assert whose[held[0]] == whose[held[2]] != whose[held[1]]
        # What is shown is good for nothing: nobody's events are to be had with it.
        with listen(gateway.ports[0], whose[held[0]]) as thief, listen(gateway.hub, whose[held[0]]) as another:
            client.until_idle(held[0])
            assert not events(thief.until_quiet(0.2), held[0]) and not events(another.until_quiet(0.2), held[0])


def test_events_are_told_under_the_same_names_after_a_restart(gateway: Gateway) -> None:
    me = uuid.uuid4().hex
    with listen(gateway.hub, me) as client:
        running_one = submit(gateway.hub, me, workflow(2.0), 0)
        waiting = [submit(gateway.hub, me, workflow(), 0) for _ in range(3)]
        until(client, "progress")
        gateway.kill()
    gateway.start()
    gateway.wait_ready(0)
    with listen(gateway.hub, me) as client:
        seen: list[Any] = []
        for prompt_id in (running_one, *waiting):
            seen += client.until_idle(prompt_id)
        for prompt_id in waiting:
            assert events(seen, prompt_id)[-2:] == ["execution_success", "idle"]
        assert events(seen, running_one)[-2:] == ["execution_success", "idle"]
    gateway.wait_ready()


def test_an_end_that_no_gpu_can_tell_is_told_with_its_reason(gateway: Gateway) -> None:
    me = uuid.uuid4().hex
    with listen(gateway.hub, me) as client:
        prompt_id = submit(gateway.hub, me, workflow(0.2, fault="exit"))
        seen = client.until_idle(prompt_id)
        assert events(seen, prompt_id)[-2:] == ["execution_error", "idle"]
        [error] = [one for one in seen if isinstance(one, dict) and one["type"] == "execution_error"]
        assert "lost 2 times" in error["data"]["exception_message"]


def test_a_gates_set_may_change_under_its_clients(gateway: Gateway) -> None:
    me = uuid.uuid4().hex
    before = gateway.config.read_text()
    gateway.config.write_text(f"{before}\n[gate:some]\nport = {gateway.spare}\ngpus = 0,1\nrate = 0\n")
    try:
        gateway.process.send_signal(signal.SIGHUP)
        eventually(lambda: serves(gateway.spare))
        with listen(gateway.spare, me) as client:
            slow = submit(gateway.spare, me, workflow(3.0), 1)
            until(client, "progress")
            gateway.config.write_text(gateway.config.read_text().replace("gpus = 0,1", "gpus = 0,2"))
            gateway.process.send_signal(signal.SIGHUP)
            eventually(lambda: pinned(gateway.spare, 2))
            other = submit(gateway.spare, me, workflow(), 2)
            assert events(client.until_idle(slow), slow)[-2:] == ["execution_success", "idle"]
            assert events(client.until_idle(other), other)[-2:] == ["execution_success", "idle"]
            gateway.config.write_text(before)
            gateway.process.send_signal(signal.SIGHUP)
            while client.next() is not None:
                pass
            assert client.close_code == 1012
    finally:
        gateway.config.write_text(before)


def serves(port: int) -> bool:
    try:
        return request(port, "GET", "/queue").status == 200
    except OSError:
        return False


def pinned(port: int, gpu_id: int) -> bool:
    """Whether a GPU is one of the port's; its prompt is not valid."""
    answer = request(port, "POST", "/prompt", {"prompt": {}}, {"X-Target-GPU": str(gpu_id)})
    return bool(answer.json()["error"]["type"] != "invalid_target")


def unkind(port: int, target: str) -> socket.socket:
    """A WebSocket of somebody who does not care for what comes."""
    one = socket.create_connection(("127.0.0.1", port), LIMIT)
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # it leaves with a reset
    one.sendall(
        f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
    )
    return one


def masked(opcode: int, payload: bytes) -> bytes:
    size = bytes([0x80 | len(payload)]) if len(payload) < 126 else struct.pack(">BQ", 0xFF, len(payload))
    return bytes([0x80 | opcode]) + size + b"\0\0\0\0" + payload


def test_unkind_clients_cost_others_nothing(gateway: Gateway) -> None:
    def honest() -> None:
        me = uuid.uuid4().hex
        with listen(gateway.hub, me) as client:
            for _ in range(5):
                prompt_id = submit(gateway.hub, me, workflow())
                assert events(client.until_idle(prompt_id), prompt_id)[-2:] == ["execution_success", "idle"]

    honest()
    before = resident_kib(gateway.pid)
    crowd = [unkind(gateway.hub, f"/ws?clientId=unkind-{n % 50}") for n in range(200)]
    honest()
    for one in crowd[::2]:
        one.close()
    for n, one in enumerate(crowd[1::2]):
        with contextlib.suppress(OSError):  # some may have been closed for what they said
            flags = {"type": "feature_flags", "data": {"supports_preview_metadata": n % 2 == 0, "x": "y" * 60_000}}
            one.sendall(masked(1, json.dumps(flags).encode()))
            one.sendall(masked(1, b"[" * 100) * 200 + masked(2, b"\0\0\0\4" * 20) * 200)
            one.sendall(masked(9, b"ping") * 1_000 + masked(10, b"told" + b"\xff" * 8) * 200)
    honest()
    for one in crowd:
        one.close()
    for n in range(300):  # ids without end
        one = unkind(gateway.hub, f"/ws?clientId={uuid.uuid4().hex}-{n}")
        one.close()
    honest()
    eventually(lambda: websockets(gateway) == 0)
    assert resident_kib(gateway.pid) - before < 50_000


def websockets(gateway: Gateway) -> int:
    text = request(gateway.hub, "GET", "/metrics").body.decode()
    [line] = [one for one in text.splitlines() if one.startswith("comfygate_websocket_clients{") and '"hub"' in one]
    return int(float(line.split()[-1]))


def test_who_stays_is_told_when_the_daemon_stops(gateway: Gateway) -> None:
    with listen(gateway.hub, "stays") as client:
        until(client, "status")
        assert gateway.stop() == 0
        while client.next() is not None:
            pass
        assert client.close_code == 1012
    gateway.start()
    gateway.wait_ready()
