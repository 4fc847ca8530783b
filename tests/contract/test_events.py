"""The WebSocket: what is told to whom, and in which order."""

from __future__ import annotations

import contextlib
import itertools
import json
import struct
import uuid
from typing import Any

import pytest

from tests.contract.comfyui_client import Target
from tests.contract.sample_prompts import Prompt, node, save, slow

FLAGS = {"supports_preview_metadata": True}
Message = dict[str, Any] | bytes


@pytest.fixture
def client_id() -> str:
    return uuid.uuid4().hex


def names(messages: list[Message]) -> list[str]:
    """Each message in a word or two; status messages, which may come at any time, left out."""
    said = []
    for message in messages:
        if isinstance(message, bytes):
            said.append(f"binary {struct.unpack('>I', message[:4])[0]}")
        elif message["type"] == "executing" or message["type"] == "executed":
            said.append(f"{message['type']} {message['data']['node']}")
        elif message["type"] == "progress_state":
            nodes = message["data"]["nodes"].values()
            said.append("progress_state " + ", ".join(f"{each['node_id']} {each['state']}" for each in nodes))
        elif message["type"] != "status":
            said.append(message["type"])
    return said


def heard(comfyui: Target, prompt: Prompt, client_id: str, flags: Any = None) -> list[Message]:
    """What a client hears of its prompt."""
    with comfyui.listen(client_id, flags) as socket:
        assert socket.next()["type"] == "status"  # type: ignore[index,call-overload]
        if flags is not None:
            assert socket.next()["type"] == "feature_flags"  # type: ignore[index,call-overload]
        return socket.until_idle(comfyui.queue(prompt, client_id=client_id))


def test_the_first_message_is_the_status_with_the_id(comfyui: Target, client_id: str) -> None:
    with comfyui.listen(client_id) as socket:
        status = {"exec_info": {"queue_remaining": 0}}
        assert socket.next() == {"type": "status", "data": {"status": status, "sid": client_id}}
    with comfyui.listen() as socket:
        first = socket.next()
        assert isinstance(first, dict)
        assert len(first["data"]["sid"]) == 32


def test_only_the_first_message_negotiates(comfyui: Target) -> None:
    flags = json.dumps({"type": "feature_flags", "data": FLAGS})
    with comfyui.listen() as socket:
        socket.next()
        socket.send(flags)
        answer = {"supports_preview_metadata": True, "max_upload_size": 2 * 2**20}
        assert socket.next() == {"type": "feature_flags", "data": answer}
        socket.send(flags)
        assert socket.quiet(0.3)
    with comfyui.listen() as socket:
        socket.next()
        socket.send(json.dumps({"type": "hello"}))
        socket.send(flags)
        assert socket.quiet(0.3)


def test_the_events_of_a_prompt(comfyui: Target, client_id: str) -> None:
    messages = heard(comfyui, save(), client_id)
    assert names(messages) == [
        "execution_start",
        "execution_cached",
        "progress_state 1 running",
        "executing 1",
        "progress_state 1 finished",
        "progress_state 1 finished, 2 running",
        "executing 2",
        "executed 2",
        "progress_state 1 finished, 2 finished",
        "execution_success",
        "executing None",
    ]
    told = {message["type"]: message["data"] for message in messages if isinstance(message, dict)}
    prompt_id = told["execution_start"]["prompt_id"]
    assert set(told["execution_start"]) == {"prompt_id", "timestamp"}
    assert told["execution_cached"] == {
        "nodes": [],
        "prompt_id": prompt_id,
        "timestamp": told["execution_cached"]["timestamp"],
    }
    assert told["progress_state"]["nodes"]["2"] == {
        "value": 1.0,
        "max": 1.0,
        "state": "finished",
        "node_id": "2",
        "prompt_id": prompt_id,
        "display_node_id": "2",
        "parent_node_id": None,
        "real_node_id": "2",
    }
    assert set(told["executed"]) == {"node", "display_node", "output", "prompt_id"}
    assert told["executing"] == {"node": None, "prompt_id": prompt_id}
    assert comfyui.get(f"/history/{prompt_id}").json[prompt_id]["outputs"] == {"2": told["executed"]["output"]}


def test_the_status_counts_the_queue(comfyui: Target, client_id: str) -> None:
    counts = [
        message["data"]["status"]["exec_info"]["queue_remaining"]
        for message in heard(comfyui, save(), client_id)
        if isinstance(message, dict) and message["type"] == "status"
    ]
    # How often it says the same is not part of the contract: a gate hears of a queue from two sides.
    assert [count for count, _ in itertools.groupby(counts)] == [1, 0]


def test_the_same_again_comes_from_the_cache(comfyui: Target, client_id: str) -> None:
    prompt = save()
    first = comfyui.wait(comfyui.queue(prompt))
    messages = heard(comfyui, prompt, client_id)
    assert names(messages) == [
        "execution_start",
        "execution_cached",
        "executed 2",
        "progress_state 2 finished",
        "execution_success",
        "executing None",
    ]
    told = {message["type"]: message["data"] for message in messages if isinstance(message, dict)}
    assert sorted(told["execution_cached"]["nodes"]) == ["1", "2"]
    assert told["executed"]["output"] == first["outputs"]["2"]


def test_only_what_changed_runs_again(comfyui: Target, client_id: str) -> None:
    prompt = save("one")
    comfyui.wait(comfyui.queue(prompt))
    prompt["2"]["inputs"]["filename_prefix"] = "other"
    messages = heard(comfyui, prompt, client_id)
    assert names(messages)[1:5] == [
        "execution_cached",
        "progress_state 2 running",
        "executing 2",
        "executed 2",
    ]


def test_an_interrupted_prompt_says_so(comfyui: Target, client_id: str) -> None:
    with comfyui.listen(client_id) as socket:
        prompt_id = comfyui.queue(slow(), client_id=client_id)
        comfyui.until("/queue", lambda queue: queue["queue_running"])
        comfyui.post("/interrupt", {"prompt_id": prompt_id})
        messages = socket.until_idle(prompt_id)
    assert names(messages)[-2:] == ["execution_interrupted", "executing None"]


def test_a_failed_prompt_says_so(comfyui: Target, client_id: str) -> None:
    messages = heard(comfyui, save("../outside"), client_id)
    assert names(messages)[-3:] == ["executing 2", "execution_error", "executing None"]


def test_pictures_for_a_client_without_flags(comfyui: Target, client_id: str) -> None:
    prompt = {"1": save()["1"], "2": node("SaveImageWebsocket", images=["1", 0])}
    messages = heard(comfyui, prompt, client_id)
    assert names(messages)[6:] == [
        "executing 2",
        "progress_state 1 finished, 2 running",
        "progress",
        "binary 1",
        "progress_state 1 finished, 2 finished",
        "execution_success",
        "executing None",
    ]
    (picture,) = [message for message in messages if isinstance(message, bytes)]
    assert struct.unpack(">II", picture[:8]) == (1, 2)
    assert picture[8:16] == b"\x89PNG\r\n\x1a\n"
    (progress,) = [message for message in messages if isinstance(message, dict) and message["type"] == "progress"]
    assert progress["data"] | {"prompt_id": ""} == {"value": 0, "max": 1, "prompt_id": "", "node": "2"}


def test_pictures_for_a_client_with_flags(comfyui: Target, client_id: str) -> None:
    prompt = {"1": save()["1"], "2": node("SaveImageWebsocket", images=["1", 0])}
    messages = heard(comfyui, prompt, client_id, FLAGS)
    assert names(messages)[6:10] == [
        "executing 2",
        "progress_state 1 finished, 2 running",
        "binary 4",
        "progress",
    ]
    (picture,) = [message for message in messages if isinstance(message, bytes)]
    (length,) = struct.unpack(">I", picture[4:8])
    metadata = json.loads(picture[8 : 8 + length])
    assert metadata | {"prompt_id": ""} == {
        "node_id": "2",
        "prompt_id": "",
        "display_node_id": "2",
        "parent_node_id": None,
        "real_node_id": "2",
        "image_type": "image/png",
    }
    assert picture[8 + length :].startswith(b"\x89PNG")


def test_a_stranger_hears_only_the_status(comfyui: Target, client_id: str) -> None:
    with comfyui.listen("stranger" + client_id) as stranger:
        stranger.next()
        heard(comfyui, save(), client_id)
        counts = []
        # How often it is told the same is not part of the contract.
        for message in stranger.until_quiet(0.2):
            assert isinstance(message, dict)
            assert message["type"] == "status"
            counts.append(message["data"]["status"]["exec_info"]["queue_remaining"])
        assert [count for count, _ in itertools.groupby(counts)] == [1, 0]


def test_without_a_client_id_everyone_hears_the_progress(direct: Target, client_id: str) -> None:
    with direct.listen(client_id) as socket:
        direct.wait(direct.queue(save()))
        messages: list[Message] = []
        while names(messages)[-1:] != ["progress_state 1 finished, 2 finished"]:
            message = socket.next()
            assert message is not None
            messages.append(message)
    assert names(messages) == [
        "progress_state 1 running",
        "progress_state 1 finished",
        "progress_state 1 finished, 2 running",
        "progress_state 1 finished, 2 finished",
    ]


def test_a_returning_client_is_told_the_node(comfyui: Target, client_id: str) -> None:
    with comfyui.listen(client_id) as socket:
        comfyui.queue(slow(), client_id=client_id)
        message = socket.next()
        while not (isinstance(message, dict) and message["type"] == "executing" and message["data"]["node"] == "10"):
            message = socket.next()
    with comfyui.listen(client_id) as socket:
        assert socket.next()["type"] == "status"  # type: ignore[index,call-overload]
        told = socket.next()
        assert isinstance(told, dict)
        assert told["type"] == "executing"
        # ComfyUI does not say of which prompt; where several may run, that is not enough.
        assert {"node", "prompt_id"} <= set(told["data"]) if comfyui.merges else set(told["data"]) == {"node"}


def test_a_reused_id_goes_deaf_when_the_older_one_leaves(direct: Target, client_id: str) -> None:
    older, newer = direct.listen(client_id), direct.listen(client_id)
    with newer:
        with older:
            older.next()
            newer.next()
            prompt_id = direct.queue(save(), client_id=client_id)
            newer.until_idle(prompt_id)
            assert older.quiet(0.2)
        # The newer one may hear of this prompt or not, as the close is seen late or early; of the next it does not.
        direct.wait(direct.queue(save(), client_id=client_id))
        while not newer.quiet(0.2):
            pass
        direct.wait(direct.queue(save(), client_id=client_id))
        assert newer.quiet(0.3)


def test_a_message_over_four_mebibytes_closes_with_1009(comfyui: Target) -> None:
    with comfyui.listen() as socket:
        socket.next()
        with contextlib.suppress(ConnectionError):
            socket.send("x" * (4 * 2**20 + 1))
        assert socket.next() is None
        assert socket.close_code == 1009


def test_ws_without_an_upgrade_is_refused(comfyui: Target) -> None:
    assert comfyui.get("/ws").status == 400
