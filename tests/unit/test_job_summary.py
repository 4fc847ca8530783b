"""A prompt as /api/jobs shows it."""

from __future__ import annotations

from typing import Any

import pytest

from comfygate.job_summary import duration, ended, queued

EXTRA = {"create_time": 5, "extra_pnginfo": {"workflow": {"id": "w"}}}
ITEM = [3, "x", {"1": {}}, EXTRA, ["1"]]


def entry(outputs: Any = None, status: str = "success", *messages: str) -> dict[str, Any]:
    told = [["execution_start", {"timestamp": 100}], *([name, {"timestamp": 400}] for name in messages)]
    return {"prompt": ITEM, "outputs": outputs or {}, "status": {"status_str": status, "messages": told}}


def test_one_in_the_queue() -> None:
    counts = {"outputs_count": 0, "previewable_outputs_count": 0}
    told = {"id": "x", "priority": 3, "create_time": 5, "workflow_id": "w", **counts}
    assert queued(ITEM, running=True, created=None) == {**told, "status": "in_progress"}
    assert queued(ITEM, running=False, created=9) == {**told, "status": "pending", "create_time": 9}
    whole = queued(ITEM, running=False, created=None, whole=True)
    assert whole["workflow"] == {"prompt": {"1": {}}, "extra_data": EXTRA}
    assert "create_time" not in queued([3, "x", {}, {"extra_pnginfo": None}, []], running=False, created=None)


@pytest.mark.parametrize(
    ("status", "message", "shown"),
    [
        ("success", "execution_success", "completed"),
        ("error", "execution_error", "failed"),
        ("error", "execution_interrupted", "cancelled"),
    ],
)
def test_how_one_ended(status: str, message: str, shown: str) -> None:
    job = ended("x", entry({}, status, message))
    assert (job["status"], job["execution_start_time"], job["execution_end_time"]) == (shown, 100, 400)
    assert job.get("execution_error") == ({"timestamp": 400} if shown == "failed" else None)
    assert duration(job) == 300 and duration({}) == 0 and duration({"execution_end_time": 3}) == 0


def test_one_that_says_little() -> None:
    assert ended("x", {}) == {
        "id": "x",
        "status": "completed",
        "outputs_count": 0,
        "previewable_outputs_count": 0,
    }


def test_the_best_stands_for_the_whole() -> None:
    picture = {"filename": "a.png", "subfolder": "", "type": "output"}
    outputs: dict[str, Any] = {
        "1": {"text": ["a long text" * 200, None]},
        "2": {"images": [{**picture, "type": "temp"}], "animated": [True]},
        "3": {"files": [{"filename": "a.txt", "type": "output"}], "latents": [{"filename": "x.latent"}]},
        "4": {"images": [picture, {**picture, "filename": "b.png"}]},
        "5": None,
        "6": {"result": ["model.glb", 3]},
        "7": {"clips": [{"format": "video/mp4", "filename": "c"}]},
    }
    job = ended("x", entry(outputs))
    assert job["preview_output"] == {**picture, "nodeId": "4", "mediaType": "images"}
    assert (job["outputs_count"], job["previewable_outputs_count"]) == (7, 6)
    del outputs["4"], outputs["6"]
    assert ended("x", entry(outputs))["preview_output"]["nodeId"] == "2"
    del outputs["2"], outputs["7"]
    assert ended("x", entry(outputs))["preview_output"]["filename"] == "a.txt"
    del outputs["3"]
    preview = ended("x", entry(outputs))["preview_output"]
    assert preview["truncated"] and len(preview["content"]) == 1024 and preview["mediaType"] == "text"


def test_the_whole_of_it() -> None:
    outputs = {"6": {"result": ["model.glb", None, 3], "animated": [None]}, "7": "x"}
    whole = ended("x", entry(outputs), created=8, whole=True)
    model = {"filename": "model.glb", "type": "output", "subfolder": "", "mediaType": "3d"}
    assert whole["outputs"] == {"6": {"result": [model, 3], "animated": [None]}, "7": "x"}
    assert whole["execution_status"]["status_str"] == "success"
    assert whole["workflow"] == {"prompt": {"1": {}}, "extra_data": EXTRA} and whole["create_time"] == 8
