"""The queue, interrupting, and the history."""

from __future__ import annotations

from typing import Any

from tests.contract.comfyui_client import Target
from tests.contract.sample_prompts import node, save, slow


def ids(queue: dict[str, Any], part: str) -> list[str]:
    return [item[1] for item in sorted(queue[part], key=lambda item: (item[0], item[1]))]


def started(comfyui: Target, count: int = 1) -> list[str]:
    """Queue slow prompts, and wait until the first one runs."""
    queued = [comfyui.queue(slow(), client_id="someone") for _ in range(count)]
    comfyui.until("/queue", lambda queue: ids(queue, "queue_running") == queued[:1])
    return queued


def test_an_idle_queue(comfyui: Target) -> None:
    assert comfyui.get("/queue").json == {"queue_running": [], "queue_pending": []} | comfyui.extra
    assert comfyui.get("/prompt").json == {"exec_info": {"queue_remaining": 0}}


def test_running_and_waiting_jobs_are_listed_whole(comfyui: Target) -> None:
    first, second, third = started(comfyui, 3)
    queue = comfyui.get("/queue").json
    assert ids(queue, "queue_running") == [first]
    assert ids(queue, "queue_pending") == [second, third]
    number, prompt_id, prompt, extra_data, outputs = queue["queue_running"][0]
    assert isinstance(number, int | float)
    assert prompt_id == first
    assert prompt["2"]["class_type"] == "PreviewImage"
    assert (extra_data["client_id"] == "someone") is not comfyui.merges
    assert outputs == ["2"]
    assert comfyui.get("/prompt").json == {"exec_info": {"queue_remaining": 3}}


def test_front_and_number_decide_the_order(comfyui: Target) -> None:
    _running, last = started(comfyui, 2)
    front = comfyui.queue(slow(), front=True)
    early = comfyui.queue(slow(), number=0.5)
    assert ids(comfyui.get("/queue").json, "queue_pending") == [front, early, last]


def test_waiting_jobs_are_deleted_and_unknown_ones_ignored(comfyui: Target) -> None:
    running, second, third = started(comfyui, 3)
    answer = comfyui.post("/queue", {"delete": [second, running, "unknown"]})
    assert (answer.status, answer.body) == (200, b"")
    queue = comfyui.get("/queue").json
    assert ids(queue, "queue_running") == [running]
    assert ids(queue, "queue_pending") == [third]


def test_clear_forgets_what_waits(comfyui: Target) -> None:
    started(comfyui, 3)
    assert comfyui.post("/api/queue", {"clear": True}).status == 200
    queue = comfyui.get("/queue").json
    assert len(queue["queue_running"]) == 1
    assert queue["queue_pending"] == []


def test_interrupt_without_an_id_stops_what_runs(comfyui: Target) -> None:
    first, second = started(comfyui, 2)
    assert comfyui.post("/interrupt").status == 200
    history = comfyui.wait(first)
    assert history["status"]["status_str"] == "error"
    assert history["status"]["completed"] is False
    assert history["outputs"] == {}
    event, data = history["status"]["messages"][-1]
    assert event == "execution_interrupted"
    assert data["prompt_id"] == first
    assert data["node_type"] in {"EmptyImage", "ImageBlur"}
    assert set(data) == {"prompt_id", "node_id", "node_type", "executed", "timestamp"}
    comfyui.until("/queue", lambda queue: ids(queue, "queue_running") == [second])


def test_interrupt_by_id_stops_only_that_one(comfyui: Target) -> None:
    (first,) = started(comfyui)
    assert comfyui.post("/interrupt", {"prompt_id": "unknown"}).status == 200
    assert ids(comfyui.get("/queue").json, "queue_running") == [first]
    assert comfyui.post("/interrupt", {"prompt_id": first}).status == 200
    assert comfyui.wait(first)["status"]["messages"][-1][0] == "execution_interrupted"


def test_interrupt_by_id_leaves_waiting_ones(direct: Target) -> None:
    first, second = started(direct, 2)
    answer = direct.post("/interrupt", {"prompt_id": second})
    assert (answer.status, answer.body) == (200, b"")
    queue = direct.get("/queue").json
    assert (ids(queue, "queue_running"), ids(queue, "queue_pending")) == ([first], [second])


def test_an_interrupt_while_idle_is_forgotten(comfyui: Target) -> None:
    comfyui.post("/interrupt")
    assert comfyui.wait(comfyui.queue(save()))["status"]["completed"] is True


def test_history_of_a_success(comfyui: Target) -> None:
    prompt = save("history")
    prompt_id = comfyui.queue(prompt, client_id="someone")
    history = comfyui.wait(prompt_id)
    assert set(history) == {"prompt", "outputs", "status", "meta"}
    assert history["prompt"][1:3] == [prompt_id, prompt]
    assert (history["prompt"][3]["client_id"] == "someone") is not comfyui.merges
    assert history["prompt"][4] == ["2"]
    (image,) = history["outputs"]["2"]["images"]
    assert image["filename"].startswith("history_0")
    assert (image["subfolder"], image["type"]) == ("", "output")
    assert history["status"]["status_str"] == "success"
    assert history["status"]["completed"] is True
    assert [event for event, _ in history["status"]["messages"]] == [
        "execution_start",
        "execution_cached",
        "execution_success",
    ]
    origin = {"node_id": "2", "display_node": "2", "parent_node": None, "real_node_id": "2"}
    assert history["meta"] == {"2": origin}


def test_history_of_a_failure(comfyui: Target) -> None:
    prompt = save("../outside")
    history = comfyui.wait(comfyui.queue(prompt))
    assert history["outputs"] == {}
    assert history["status"]["status_str"] == "error"
    event, data = history["status"]["messages"][-1]
    assert event == "execution_error"
    assert (data["node_id"], data["node_type"], data["executed"]) == ("2", "SaveImage", ["1"])
    assert data["exception_type"] == "Exception"
    assert "output folder" in data["exception_message"]
    assert data["exception_message"].endswith("\n")
    assert all(isinstance(line, str) for line in data["traceback"])
    assert data["current_inputs"]["filename_prefix"] == ["../outside"]
    assert set(data["current_outputs"]) == {"1", "2"}


def test_history_by_number_and_offset(comfyui: Target) -> None:
    comfyui.post("/history", {"clear": True})
    assert comfyui.get("/history").json == {}
    queued = [comfyui.queue(save()) for _ in range(4)]
    for prompt_id in queued:
        comfyui.wait(prompt_id)
    assert list(comfyui.get("/history").json) == queued
    assert list(comfyui.get("/history?max_items=2").json) == queued[2:]
    assert list(comfyui.get("/history?max_items=2&offset=1").json) == queued[1:3]
    assert list(comfyui.get("/history?offset=3").json) == queued[3:]
    assert list(comfyui.get("/history?max_items=9").json) == queued
    assert comfyui.post("/history", {"delete": [queued[0], "unknown"]}).status == 200
    assert list(comfyui.get("/api/history").json) == queued[1:]


def test_an_unknown_or_unfinished_prompt_has_no_history(comfyui: Target) -> None:
    assert comfyui.get("/history/unknown").json == {}
    (running,) = started(comfyui)
    assert comfyui.get(f"/history/{running}").json == {}


def test_secrets_are_not_kept(comfyui: Target) -> None:
    extra = {"auth_token_comfy_org": "secret", "api_key_comfy_org": "secret", "other": 1}
    history = comfyui.wait(comfyui.queue(save(), extra_data=extra))
    assert history["prompt"][3]["other"] == 1
    assert "secret" not in str(history)


def test_free_is_accepted(comfyui: Target) -> None:
    answer = comfyui.post("/free", {"unload_models": True, "free_memory": True})
    assert (answer.status, answer.body) == (200, b"")
    prompt = {"1": save()["1"], "2": node("PreviewImage", images=["1", 0])}
    assert comfyui.wait(comfyui.queue(prompt))["status"]["completed"] is True
