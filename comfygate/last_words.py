"""What ComfyUIs told clients of the ends of prompts, for the case that they die before they tell us.

Between a prompt's last event and its entry in ``/history`` a process may be
lost.  Its client has been told by then; so what it was told is what holds, and
the prompt is not run again.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import orjson
from attrs import define, field

from comfygate.model import Job

EVENTS = frozenset({b"executed", b"execution_success", b"execution_error", b"execution_interrupted"})
"""Types of the messages that are of interest; all but the first are a prompt's last."""

_LONGEST = 2**20
"""Bytes of one message; the outputs of nodes are names of files, as a rule."""

_MOST = 1_000
"""Prompts of which something is known; those heard of last."""


@define
class _Heard:
    size: int = 0
    outputs: dict[str, Any] = field(factory=dict)
    last: tuple[str, dict[str, Any]] | None = None
    whole: bool = True


class LastWords:
    """Remembers events by prompt, within bounds."""

    def __init__(self) -> None:
        self._heard: OrderedDict[str, _Heard] = OrderedDict()

    def hear(self, kind: bytes, payload: bytes) -> str | None:
        """Take note of one of the :data:`EVENTS`.

        :return: the prompt's id, if this was its last event.
        """
        data = _data(payload)
        prompt_id = data.get("prompt_id")
        if not isinstance(prompt_id, str):
            return None
        heard = self._heard.setdefault(prompt_id, _Heard())
        self._heard.move_to_end(prompt_id)
        heard.size += len(payload)
        heard.whole = heard.whole and heard.size <= _LONGEST
        if kind != b"executed":
            heard.last = (kind.decode("ascii"), data)
        elif heard.whole:
            heard.outputs[str(data.get("node"))] = data.get("output")
        if len(self._heard) > _MOST:
            self._heard.popitem(last=False)
        return None if heard.last is None else prompt_id

    def entry(self, job: Job) -> dict[str, Any] | None:
        """A job's entry as ``/history`` would have it; ``None`` if it was not heard out."""
        heard = self._heard.get(job.prompt_id)
        if heard is None or heard.last is None or not heard.whole:
            return None
        succeeded = heard.last[0] == "execution_success"
        status = {
            "status_str": "success" if succeeded else "error",
            "completed": succeeded,
            "messages": [list(heard.last)],
        }
        return {"prompt": orjson.loads(job.item), "outputs": heard.outputs, "status": status, "meta": {}}

    def forget(self, prompt_id: str) -> None:
        """The job is over, or runs anew."""
        self._heard.pop(prompt_id, None)


def _data(payload: bytes) -> dict[str, Any]:
    if len(payload) > _LONGEST:
        return {}
    try:
        data = orjson.loads(payload)["data"]
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return {}
    return data if isinstance(data, dict) else {}
