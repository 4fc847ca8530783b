"""WebSocket clients of a whole daemon while a ComfyUI of it is killed and started again."""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.contract.comfyui_client import Listener
from tests.gateway import Gateway, eventually, request, running, workflow
from tests.process.listening import LIMIT, listen, submit, until


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Four GPUs and the hub, without a limit: whoever dies often is started again ever later."""
    with running(tmp_path_factory.mktemp("gateway"), "rate = 0\n", gpus=4) as one:
        yield one


@pytest.fixture
def gateway(shared: Gateway) -> Gateway:
    """The same, with all GPUs at work."""
    shared.wait_ready()
    return shared


def kill(gateway: Gateway, gpu_id: int) -> None:
    os.kill(gateway.backend_pid(gpu_id), signal.SIGKILL)
    eventually(lambda: gateway.states()[gpu_id] != "ready")


def test_a_client_sees_its_prompt_run_again_on_the_socket_that_it_has(gateway: Gateway) -> None:
    port, me = gateway.ports[0], uuid.uuid4().hex
    with listen(port, me) as client:
        client.send('{"type": "feature_flags", "data": {"supports_preview_metadata": true}}')
        assert until(client, "status")["data"]["sid"] == me
        features = until(client, "feature_flags")
        prompt_id = submit(port, me, workflow(2.0, preview=True))
        until(client, "progress")
        kill(gateway, 0)
        another = submit(port, me, workflow())  # waits with us
        assert until(client, "status")["data"]["status"]["exec_info"]["queue_remaining"] == 2
        seen = client.until_idle(prompt_id)
        events = [one["type"] for one in seen if not isinstance(one, bytes)]
        assert events.count("execution_start") == events.count("execution_success") == 1
        assert "feature_flags" not in events
        assert features["data"]
        previews = [one[:4] for one in seen if isinstance(one, bytes)]
        assert set(previews) == {b"\0\0\0\4"}  # negotiated again
        assert client.until_idle(another)
    entry = request(port, "GET", f"/history/{prompt_id}").json()[prompt_id]
    assert entry["status"]["completed"]


def test_one_that_connects_while_the_gpu_is_down_hears_what_it_then_runs(gateway: Gateway) -> None:
    port, me = gateway.ports[1], uuid.uuid4().hex
    submit(port, me, workflow(1.0))
    kill(gateway, 1)
    with listen(port, me) as client, Listener.open(f"127.0.0.1:{port}", "/ws") as anonymous:
        assert until(client, "status")["data"] == {"status": {"exec_info": {"queue_remaining": 1}}, "sid": me}
        sid = until(anonymous, "status")["data"]["sid"]
        assert until(client, "execution_start", "execution_success")["type"] == "execution_start"
        until(client, "execution_success")
        prompt_id = submit(port, sid, workflow())
        assert anonymous.until_idle(prompt_id)


def test_one_that_reconnects_during_the_outage_is_heard_and_no_one_is_deaf(gateway: Gateway) -> None:
    port, me = gateway.ports[2], uuid.uuid4().hex
    with listen(port, me) as old:
        until(old, "status")
        kill(gateway, 2)
        with listen(port, me) as new:
            until(new, "status")
            gateway.wait_ready(2)
            new.until_idle(submit(port, me, workflow()))
        # The older one takes over again.
        while "sid" not in until(old, "status")["data"]:
            pass
        old.until_idle(submit(port, me, workflow()))


def test_one_on_the_hub_hears_the_other_gpus(gateway: Gateway) -> None:
    me = uuid.uuid4().hex
    with listen(gateway.hub, me) as client:
        assert until(client, "status")["data"]["sid"] == me
        kill(gateway, 0)
        answer = request(gateway.hub, "POST", "/prompt", {"prompt": workflow(), "client_id": me}, {"X-Target-GPU": "1"})
        assert client.until_idle(answer.json()["prompt_id"])


def test_a_client_is_told_of_a_prompt_that_kills_every_comfyui(gateway: Gateway) -> None:
    port, me = gateway.ports[3], uuid.uuid4().hex
    with listen(port, me) as client:
        until(client, "status")
        prompt_id = submit(port, me, workflow(0.2, fault="crash"))
        error = until(client, "execution_error", "execution_success")
        assert error["data"]["prompt_id"] == prompt_id
        assert "lost 2 times" in error["data"]["exception_message"]
        assert until(client, "executing")["data"] == {"node": None, "prompt_id": prompt_id}
        # The socket is good for more.
        client.until_idle(submit(port, me, workflow()))


def test_a_hundred_go_through_a_restart_and_none_is_deaf(gateway: Gateway) -> None:
    port = gateway.ports[2]
    ids = [uuid.uuid4().hex for _ in range(100)]

    async def client(http: aiohttp.ClientSession, client_id: str, connected: asyncio.Event, ran: set[str]) -> None:
        async with http.ws_connect(f"http://127.0.0.1:{port}/ws?clientId={client_id}") as ws:
            await ws.receive_json(timeout=LIMIT)
            connected.set()
            while True:
                message = await ws.receive(timeout=LIMIT)
                assert message.type in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY), (message, client_id)
                if message.type is aiohttp.WSMsgType.TEXT and message.json()["type"] == "execution_success":
                    ran.add(client_id)
                    return

    async def scenario() -> None:
        loop = asyncio.get_running_loop()
        ran: set[str] = set()
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
            events = [asyncio.Event() for _ in ids]
            clients = [asyncio.create_task(client(http, i, event, ran)) for i, event in zip(ids, events, strict=True)]
            await asyncio.gather(*(event.wait() for event in events))
            await loop.run_in_executor(None, kill, gateway, 2)
            # Whoever is connected again last is the first to have something to hear, at once.
            for client_id in reversed(ids):
                await loop.run_in_executor(None, submit, port, client_id, workflow())
            done = await asyncio.gather(*clients, return_exceptions=True)
            assert [one for one in done if one is not None] == []
        assert len(ran) == 100

    asyncio.run(asyncio.wait_for(scenario(), 120))


def test_the_last_words_of_a_daemon_that_stops_are_1012(tmp_path: Path) -> None:
    with running(tmp_path, gpus=1) as gateway:
        with listen(gateway.ports[0], "me") as client:
            until(client, "status")
            kill(gateway, 0)
            gateway.process.send_signal(signal.SIGTERM)
            while client.next(LIMIT) is not None:
                pass
            assert client.close_code == 1012
        assert gateway.process.wait(LIMIT) == 0
