"""What a good answer looks like."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import frozen

from comfygate.smoke.client import Reply, shown
from comfygate.smoke.outcome import UnexpectedError
from comfygate.smoke.samples import picture

_READING_FAILED = (LookupError, TypeError, ValueError, AttributeError)
"""What comes of looking for things where they are not."""


@frozen
class Judge:
    """Reads a good answer.

    :ivar expected: what a good one is, in words.
    :ivar read: what to make of one; raises UnexpectedError, or any error that
        looking into a bad one may bring.
    """

    expected: str
    read: Callable[[Reply], Any]

    def __call__(self, reply: Reply, status: int = 200) -> Any:
        """Look at an answer.

        :return: what `read` made of it.
        :raises UnexpectedError: it is no good one, or has another status.
        """
        if reply.status != status:
            raise UnexpectedError(f"expected {status}; came {reply.complaint}", reply.status)
        try:
            return self.read(reply)
        except UnexpectedError as error:
            raise UnexpectedError(f"expected {self.expected}; came {error}", reply.status) from None
        except _READING_FAILED:
            raise UnexpectedError(f"expected {self.expected}; came {shown(reply.body)}", reply.status) from None


def _expecting(expected: str) -> Callable[[Callable[[Reply], Any]], Judge]:
    return lambda read: Judge(expected, read)


@_expecting("any answer")
def is_anything(reply: Reply) -> bool:
    """Take whatever comes."""
    return True


@_expecting("an HTML page")
def is_page(reply: Reply) -> None:
    """Look at a page."""
    if "text/html" not in reply.headers["content-type"] or b"<" not in reply.body:
        raise ValueError


@_expecting("JSON")
def is_json(reply: Reply) -> None:
    """Look at an answer of any shape."""
    reply.json()


@_expecting("the state of every GPU")
def has_status(reply: Reply) -> None:
    """Look at /comfygate/status."""
    if not all(isinstance(gpu["state"], str) for gpu in reply.object()["gpus"]):
        raise ValueError


@_expecting("an object with queue_running and queue_pending")
def has_queue(reply: Reply) -> dict[str, list[Any]]:
    """Give the two lists of /queue."""
    found = reply.object()
    queue = {key: found[key] for key in ("queue_running", "queue_pending")}
    if not all(isinstance(items, list) for items in queue.values()):
        raise ValueError
    return queue


@_expecting("the queue of every GPU, and the totals")
def has_queues(reply: Reply) -> None:
    """Look at /queue/all."""
    found = reply.object()
    totals = found["total_running"], found["total_pending"]
    counts = [(queue["gpu_id"], queue["running_count"], queue["pending_count"]) for queue in found["queues"]]
    if totals != (sum(one[1] for one in counts), sum(one[2] for one in counts)):
        raise UnexpectedError(f"the totals {totals} are not the sums of {counts}")


@_expecting("exec_info.queue_remaining")
def has_exec_info(reply: Reply) -> None:
    """Look at /prompt."""
    int(reply.object()["exec_info"]["queue_remaining"])


@_expecting("the name that the picture was stored under")
def has_image(reply: Reply) -> dict[str, str]:
    """Give what /view needs to show an upload."""
    found = reply.object()
    name, subfolder = found["name"], found["subfolder"]
    if not name.startswith("comfygate-smoke"):
        raise ValueError
    return {"filename": str(name), "subfolder": str(subfolder), "type": "input"}


@_expecting("a PNG")
def is_picture(reply: Reply) -> None:
    """Look at an image."""
    if not reply.body.startswith(b"\x89PNG"):
        raise ValueError


@_expecting("bytes 1 to 3 of the PNG")
def is_part(reply: Reply) -> None:
    """Look at a part of our picture."""
    if reply.body != picture()[1:4] or not reply.headers["content-range"].startswith("bytes 1-3/"):
        raise ValueError


@_expecting("an error with a type and a message")
def is_rejection(reply: Reply) -> None:
    """Look at the answer to a prompt that cannot run."""
    error = reply.object()["error"]
    if not (isinstance(error["type"], str) and isinstance(error["message"], str)):
        raise ValueError


def has_prompt_id(gpu_id: int | None) -> Judge:
    """Give the id of a prompt that was queued, on that GPU's port or on one over several."""

    @_expecting("a prompt_id and a gpu_id" if gpu_id is None else f"a prompt_id and gpu_id {gpu_id}")
    def judge(reply: Reply) -> str:
        found = reply.object()
        prompt_id, where = found["prompt_id"], found["gpu_id"]
        if not isinstance(prompt_id, str) or not isinstance(where, int) or gpu_id not in (None, where):
            raise ValueError
        return prompt_id

    return judge


def answers_interrupt(prompt_id: str, *states: str) -> Judge:
    """Look at the answer to an interrupt, which must name one of `states`."""

    @_expecting(f"the prompt_id and the state {' or '.join(states)}")
    def judge(reply: Reply) -> None:
        found = reply.object()
        if found["prompt_id"] != prompt_id or found["state"] not in states:
            raise ValueError

    return judge


def image_in_history(prompt_id: str, node: str) -> Judge:
    """Give the first image that `node` of a prompt has made; None while the prompt has not ended."""

    @_expecting("a prompt that ended well, with its image")
    def judge(reply: Reply) -> dict[str, str] | None:
        found = reply.object()
        if not found:
            return None
        entry = found[prompt_id]
        if entry["status"]["status_str"] != "success":
            raise ValueError
        image = entry["outputs"][node]["images"][0]
        return {key: str(image[key]) for key in ("filename", "subfolder", "type")}

    return judge


def is_not_queued(prompt_id: str) -> Judge:
    """Say whether /queue does not list a prompt."""

    @_expecting(has_queue.expected)
    def judge(reply: Reply) -> bool:
        return prompt_id not in [item[1] for items in has_queue(reply).values() for item in items]

    return judge
