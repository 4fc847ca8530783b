"""A prompt as ComfyUI's ``/api/jobs`` shows it (ComfyUI: ``comfy_execution/jobs.py``, since early 2026)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

PENDING = "pending"
IN_PROGRESS = "in_progress"
COMPLETED = "completed"
FAILED = "failed"
CANCELLED = "cancelled"

STATUSES = (PENDING, IN_PROGRESS, COMPLETED, FAILED, CANCELLED)
"""In the order in which ComfyUI names them."""

_SHOWN = frozenset({"images", "video", "audio", "3d", "text"})
_MODELS = (".obj", ".fbx", ".gltf", ".glb", ".usdz")
_TEXTS = (".txt", ".md", ".json")
_LONGEST_TEXT = 1024
_ENDS = frozenset({"execution_success", "execution_error", "execution_interrupted"})


def queued(item: list[Any], *, running: bool, created: int | None, whole: bool = False) -> dict[str, Any]:
    """A prompt that runs or waits.

    :param item: as GET /queue lists it: [number, id, prompt, extra_data, outputs].
    :param created: when it was accepted, in milliseconds since 1970; as `item` says where not given.
    :param whole: with the workflow.
    """
    number, prompt_id, prompt, extra = item[:4]
    told, workflow = _metadata(extra)
    job = {
        "id": prompt_id,
        "status": IN_PROGRESS if running else PENDING,
        "priority": number,
        "create_time": told if created is None else created,
        "outputs_count": 0,
        "previewable_outputs_count": 0,
        "workflow_id": workflow,
    }
    return _pruned(job) | ({"workflow": {"prompt": prompt, "extra_data": extra}} if whole else {})


def ended(
    prompt_id: str, entry: Mapping[str, Any], *, created: int | None = None, whole: bool = False
) -> dict[str, Any]:
    """A prompt that is over.

    :param entry: its entry in /history.
    :param created: as for :func:`queued`.
    :param whole: with outputs and workflow.
    """
    number, _, prompt, extra = (list(entry.get("prompt") or ()) + [None] * 4)[:4]
    told, workflow = _metadata(extra)
    status = entry.get("status") or {}
    messages = dict(_messages(status))
    outputs = entry.get("outputs") or {}
    shown = [(preview, item) for preview, item in _items(outputs)]
    counted = [item for preview, item in shown if item is not None]
    job = {
        "id": prompt_id,
        "status": _status(status, messages),
        "priority": number,
        "create_time": told if created is None else created,
        "execution_start_time": messages.get("execution_start", {}).get("timestamp"),
        "execution_end_time": next(
            (messages[name].get("timestamp") for name in reversed(messages) if name in _ENDS), None
        ),
        "execution_error": messages.get("execution_error"),
        "outputs_count": len(counted),
        "previewable_outputs_count": sum(1 for preview, item in shown if item is not None and preview is not None),
        "preview_output": _preview([preview for preview, _ in shown if preview is not None]),
        "workflow_id": workflow,
    }
    if not whole:
        return _pruned(job)
    details = {"outputs": _tidied(outputs), "execution_status": entry.get("status")}
    return _pruned(job) | details | {"workflow": {"prompt": prompt, "extra_data": extra}}


def duration(job: Mapping[str, Any]) -> float:
    """How long it ran, in milliseconds; 0 where that is not known."""
    start, end = job.get("execution_start_time") or 0, job.get("execution_end_time") or 0
    return end - start if start and end else 0


def _pruned(job: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in job.items() if value is not None}


def _metadata(extra: Any) -> tuple[int | None, str | None]:
    extra = extra if isinstance(extra, dict) else {}
    workflow: Any = extra.get("extra_pnginfo")
    for key in ("workflow", "id"):
        workflow = workflow.get(key) if isinstance(workflow, dict) else None
    created = extra.get("create_time")
    return created if isinstance(created, int) else None, workflow


def _messages(status: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for message in status.get("messages") or ():
        if isinstance(message, list) and len(message) > 1 and isinstance(message[1], dict):
            yield message[0], message[1]


def _status(status: Mapping[str, Any], messages: Mapping[str, Any]) -> str:
    if status.get("status_str") != "error":
        return COMPLETED
    return CANCELLED if "execution_interrupted" in messages else FAILED


def _items(outputs: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any] | None, dict[str, Any] | None]]:
    """Everything that nodes have left: how it is previewed, if it can be, and the file, if it is one."""
    for node_id, left in outputs.items():
        for kind, items in left.items() if isinstance(left, dict) else ():
            for item in items if isinstance(items, list) and kind != "animated" else ():
                where = {"nodeId": node_id, "mediaType": kind}
                found = _file(item)
                if found is not None:
                    yield (where | found if _can_be_shown(kind, found) else None), found
                elif kind == "text" and item is not None:
                    yield where | _text(str(item)), None


def _file(item: Any) -> dict[str, Any] | None:
    if isinstance(item, str) and item.lower().endswith(_MODELS):
        return {"filename": item, "type": "output", "subfolder": "", "mediaType": "3d"}
    return item if isinstance(item, dict) else None


def _can_be_shown(kind: str, item: Mapping[str, Any]) -> bool:
    format, name = str(item.get("format") or ""), str(item.get("filename") or "").lower()
    return kind in _SHOWN or format.startswith(("video/", "audio/")) or name.endswith((*_MODELS, *_TEXTS))


def _text(text: str) -> dict[str, Any]:
    short = {"content": text[:_LONGEST_TEXT]}
    return short | {"truncated": True} if len(text) > _LONGEST_TEXT else short


def _preview(shown: list[dict[str, Any]]) -> dict[str, Any] | None:
    """What stands for the prompt: a saved picture, else another one, else a saved text, else a text."""
    return min(shown, key=_rank, default=None)


def _rank(preview: Mapping[str, Any]) -> int:
    if "content" in preview and "filename" not in preview:
        return 3
    if preview["mediaType"] == "text" or str(preview.get("filename") or "").lower().endswith(_TEXTS):
        return 2
    return 0 if preview.get("type") == "output" else 1


def _tidied(outputs: Mapping[str, Any]) -> dict[str, Any]:
    return {node_id: _tidied_node(left) if isinstance(left, dict) else left for node_id, left in outputs.items()}


def _tidied_node(left: Mapping[str, Any]) -> dict[str, Any]:
    return {
        kind: [_file(item) or item for item in items if item is not None]
        if isinstance(items, list) and kind != "animated"
        else items
        for kind, items in left.items()
    }
