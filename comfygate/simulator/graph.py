"""The order in which a prompt's nodes run, and what makes one the same as before."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator
from typing import Any

from comfygate.simulator.machine import Machine
from comfygate.simulator.nodes import NODES


def is_link(value: Any) -> bool:
    """Whether an input's value is another node's output: ``[node id, slot]``."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)


def sources(prompt: dict[str, Any], node_id: str) -> Iterator[str]:
    """Ids of the nodes that `node_id` needs directly."""
    for value in prompt[node_id]["inputs"].values():
        if is_link(value):
            yield value[0]


def signatures(machine: Machine, prompt: dict[str, Any]) -> dict[str, str]:
    """For each node a text that is equal where class, inputs and all that lies upstream are equal.

    :raises KeyError: a node has no inputs.
    """
    known: dict[str, str] = {}

    def signature(node_id: str) -> str:
        if node_id not in prompt:
            return uuid.uuid4().hex
        if node_id not in known:
            known[node_id] = ""  # ends a circle
            node = prompt[node_id]
            inputs = {
                name: [signature(value[0]), value[1]] if is_link(value) else value
                for name, value in sorted(node["inputs"].items())
            }
            text = json.dumps([node["class_type"], _changed(machine, node), inputs])
            known[node_id] = hashlib.sha256(text.encode()).hexdigest()
        return known[node_id]

    return {node_id: signature(node_id) for node_id in prompt}


def _changed(machine: Machine, node: dict[str, Any]) -> str:
    changed = NODES[node["class_type"]].changed
    if changed is None:
        return ""
    try:
        return changed(machine, node["inputs"])
    except (OSError, KeyError):
        return uuid.uuid4().hex


def execution_order(prompt: dict[str, Any], outputs: list[str], cached: set[str]) -> Iterator[str]:
    """Ids of the nodes to run for `outputs`; of those that are ready, an output first.

    A cached node is named only if it is itself an output; what it needs is not.
    """
    waiting: dict[str, set[str]] = {}
    ahead = list(reversed(outputs))
    while ahead:
        node_id = ahead.pop()
        if node_id not in waiting:
            needed = (
                [] if node_id in cached else [source for source in sources(prompt, node_id) if source not in cached]
            )
            waiting[node_id] = set(needed)
            ahead.extend(reversed(needed))
    while waiting:
        ready = [node_id for node_id, missing in waiting.items() if not missing]
        chosen = _choose(prompt, ready, waiting)
        del waiting[chosen]
        yield chosen
        for still_needed in waiting.values():
            still_needed.discard(chosen)


def _choose(prompt: dict[str, Any], ready: list[str], waiting: dict[str, set[str]]) -> str:
    def shows(node_id: str) -> bool:
        return NODES[prompt[node_id]["class_type"]].is_output

    for node_id in ready:
        if shows(node_id):
            return node_id
    for node_id in ready:
        if any(node_id in needed and shows(other) for other, needed in waiting.items()):
            return node_id
    return ready[0]
