"""Tells ComfyGate how far the running prompt is, whoever sent it.

ComfyUI tells progress to the client that sent the prompt.  This part listens to
what it would say, and sends ``{"type": "comfygate.progress", "data": {…}}`` to
the sockets whose client id begins with ``comfygate-``, and to no others.
"""

from __future__ import annotations

import importlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .listening import listen

MESSAGE = "comfygate.progress"
INTERVAL = 0.25
"""Seconds between two messages about the same node."""

_ENDS = frozenset({"execution_success", "execution_error", "execution_interrupted"})
_FOLLOWED = _ENDS | {"execution_start", "execution_cached", "executing", "progress", "progress_state"}

Running = tuple[Mapping[str, Any], Sequence[str]]
"""A prompt, and the ids of its output nodes that are to be executed."""


class Steps:
    """Makes messages of events; knows nothing of how either travels.

    :param running: the prompt with an id, if it runs.
    :param clock: seconds.
    """

    def __init__(self, running: Callable[[str], Running | None], clock: Callable[[], float] = time.monotonic) -> None:
        self._running = running
        self._clock = clock
        self._prompt_id: str | None = None
        self._over: str | None = None
        self._prompt: Mapping[str, Any] = {}
        self._needed: frozenset[str] = frozenset()
        self._done: set[str] = set()
        self._node: str | None = None
        self._value: float | None = None
        self._max: float | None = None
        self._said = 0.0

    def event(self, event: Any, data: Any) -> dict[str, Any] | None:
        """What to say after an event.

        :param event: its type, as on a WebSocket.
        :return: ``{"prompt_id", "node", "node_type", "value", "max",
            "nodes_done", "nodes_total", "ended"}``, or ``None``: each change of
            node and the end at once, values every :data:`INTERVAL` at most.
        """
        if not isinstance(event, str) or event not in _FOLLOWED or not isinstance(data, dict):
            return None
        prompt_id = data.get("prompt_id")
        if not isinstance(prompt_id, str) or (prompt_id == self._over and event != "execution_start"):
            return None
        begins = prompt_id != self._prompt_id
        if begins:
            self._begin(prompt_id)
        if event in _ENDS or (event == "executing" and data.get("node") is None):
            return self._end(prompt_id)
        before = self._node
        self._follow(event, data)
        now = self._clock()
        if self._node == before and now - self._said < INTERVAL and not begins:
            return None
        self._said = now
        return self._message(ended=False)

    def _begin(self, prompt_id: str) -> None:
        running = self._running(prompt_id)
        self._prompt_id = prompt_id
        self._prompt, outputs = running or ({}, ())
        self._needed = needed(self._prompt, outputs)
        self._done = set()
        self._node = self._value = self._max = None

    def _end(self, prompt_id: str) -> dict[str, Any]:
        self._node = self._value = self._max = None
        message = self._message(ended=True)
        self._over, self._prompt_id, self._prompt = prompt_id, None, {}
        return message

    def _follow(self, event: str, data: dict[str, Any]) -> None:
        if event == "execution_cached":
            self._done.update(self._needed.intersection(data.get("nodes") or ()))
        elif event == "executing":
            self._at(str(data.get("display_node") or data["node"]))
        elif event == "progress":
            if data.get("node") is not None:
                self._at(str(data["node"]))
            self._value, self._max = _number(data.get("value")), _number(data.get("max"))
        elif event == "progress_state":
            self._states(data.get("nodes") or {})

    def _at(self, node: str) -> None:
        if node not in self._prompt and "." in node:
            node = node.partition(".")[0]  # a node that another one has put in its own place
        if node != self._node:
            self._node = node
            self._value = self._max = None

    def _states(self, nodes: Mapping[str, Any]) -> None:
        running = None
        for node, state in nodes.items():
            if state.get("state") == "finished":
                if node in self._needed:
                    self._done.add(node)
            elif state.get("state") == "running":
                running = state
        if running is not None:
            self._at(str(running.get("display_node_id") or running.get("node_id")))
            self._value, self._max = _number(running.get("value")), _number(running.get("max"))

    def _message(self, *, ended: bool) -> dict[str, Any]:
        node = self._prompt.get(self._node) if self._node is not None else None
        node_type = node.get("class_type") if isinstance(node, dict) else None
        return {
            "prompt_id": self._prompt_id,
            "node": self._node,
            "node_type": node_type if isinstance(node_type, str) else None,
            "value": self._value,
            "max": self._max,
            "nodes_done": len(self._done) if self._needed else None,
            "nodes_total": len(self._needed) or None,
            "ended": ended,
        }


def needed(prompt: Mapping[str, Any], outputs: Sequence[str]) -> frozenset[str]:
    """The nodes that some outputs of a prompt need, and these themselves."""
    found: set[str] = set()
    waiting = [node for node in outputs if node in prompt]
    while waiting:
        node = waiting.pop()
        if node in found:
            continue
        found.add(node)
        inputs = prompt[node].get("inputs") or {}
        waiting += [value[0] for value in inputs.values() if _is_link(value) and value[0] in prompt]
    return frozenset(found)


def _number(value: Any) -> float | None:
    """A number that is one in JSON, whatever a node has reported."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def install(parts: list[str]) -> None:
    """Listen to this ComfyUI.

    :param parts: the companion's parts; not used.
    :raises Exception: of any kind, if this ComfyUI is not like those known.
    """
    server = importlib.import_module("server").PromptServer.instance

    def running(prompt_id: str) -> Running | None:
        # (number, prompt_id, prompt, extra_data, outputs to execute, …)
        for item in list(server.prompt_queue.currently_running.values()):
            if item[1] == prompt_id:
                return item[2], item[4]
        return None

    listen(MESSAGE, Steps(running).event)
