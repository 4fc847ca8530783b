"""What ComfyUIs say of themselves, made one: /system_stats and /features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def merged_stats(answers: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """GET /system_stats: the system of the first, and the devices of all.

    Inside each ComfyUI its device is number 0, or none; here it has the number
    by which X-Target-GPU and /queue/all know it.

    :param answers: by gpu_id, in order; at least one.
    """
    first = next(iter(answers.values()))
    devices = [
        {**device, "index": gpu_id, "gpu_id": gpu_id}
        for gpu_id, answer in answers.items()
        for device in answer.get("devices") or ()
        if isinstance(device, dict)
    ]
    return {**first, "devices": devices}


def merged_features(answers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """GET /features: what holds for every one.

    :param answers: at least one.
    """
    first, others = answers[0], answers[1:]
    merged = {}
    for key, value in first.items():
        values = [value, *(other[key] for other in others if key in other)]
        if len(values) == len(answers):
            common = _common(values)
            if common is not None:
                merged[key] = common
    return merged


def _common(values: Sequence[Any]) -> Any:
    """What all say; of numbers the smallest, a flag if all have it; ``None`` where they contradict each other."""
    if all(isinstance(value, bool) for value in values):
        return all(values)
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return min(values)
    if all(isinstance(value, dict) for value in values):
        return merged_features(values)
    return values[0] if all(type(value) is type(values[0]) and value == values[0] for value in values) else None
