"""POST /prompt: what may be handed to a ComfyUI without harming it.

ComfyUI accepts bodies that end its process, stop its worker thread or make its
queue unreadable.  Everything here is checked before a backend sees the prompt;
whether its nodes fit together is left to ComfyUI's own validation.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from typing import Any

import orjson
from attrs import frozen

from comfygate.errors import GateError

# Credentials of ComfyUI's API nodes; ComfyUI keeps them out of /queue and /history.
_SECRET_EXTRA_DATA = frozenset({"auth_token_comfy_org", "api_key_comfy_org"})


@frozen(kw_only=True)
class Submission:
    """The checked body of a POST /prompt.

    :ivar prompt_id: the client's canonical UUID, or one of ours.
    :ivar client_id: whose WebSocket gets its events.
    :ivar number: the queue number that the client asked for, if it did.
    :ivar front: whether the prompt wants to run next.
    :ivar fields: the whole JSON object, to be sent on.
    """

    prompt_id: str
    client_id: str | None
    number: float | None
    front: bool
    fields: Mapping[str, Any]

    def validation(self) -> bytes:
        """The body for the companion's validate route.

        :raises GateError: 400; orjson reads values nested deeper than it writes.
        """
        return _encoded({**self.fields, "prompt_id": self.prompt_id})

    def submission(self, number: float, alias: str | None = None) -> bytes:
        """The body for a backend's POST /prompt, under our number.

        :param alias: what the backend knows the client by, if that is another id.
        :raises GateError: as :meth:`validation`.
        """
        ours = {"prompt_id": self.prompt_id, "number": number}
        return _encoded({**self.fields, **ours} if alias is None else {**self.fields, **ours, "client_id": alias})

    def item(self, number: float, outputs: list[str]) -> bytes:
        """The job as GET /queue lists it: [number, id, prompt, extra_data, outputs]."""
        extra = {k: v for k, v in self.fields.get("extra_data", {}).items() if k not in _SECRET_EXTRA_DATA}
        if self.client_id is not None:
            extra.pop("client_id", None)
            extra["client_id"] = self.client_id  # the last one, where it is quickly found
        return orjson.dumps([number, self.prompt_id, self.fields["prompt"], extra, outputs])


def renumbered(submission: bytes, item: bytes, number: float) -> tuple[bytes, bytes]:
    """What :meth:`Submission.submission` and :meth:`Submission.item` gave, under another number."""
    rest = item[item.index(b",") :]
    return _encoded({**orjson.loads(submission), "number": number}), b"[" + orjson.dumps(number) + rest


def _encoded(value: object) -> bytes:
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError as error:
        raise _refusal("invalid_prompt", "The prompt is nested too deeply", str(error)) from None


def parse_submission(body: bytes) -> Submission:
    """Check the body of a POST /prompt (ComfyUI: server.py, route /prompt).

    :raises GateError: 400, naming the field and what it must be.
    """
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise _refusal("invalid_json", "The body is not JSON", str(error)) from None
    if not isinstance(fields, dict) or "prompt" not in fields:
        raise _refusal("no_prompt", "No prompt provided", "No prompt provided")
    fields = {key: value for key, value in fields.items() if not (key in _NULLABLE and value is None)}
    _check_prompt(fields["prompt"])
    client_id = _typed(fields, "client_id", str, "a string")
    fields = _with_checked_rest(fields)
    return Submission(
        prompt_id=_prompt_id(fields),
        client_id=fields.get("extra_data", {}).get("client_id") if client_id is None else client_id,
        number=_number(fields),
        front=bool(_typed(fields, "front", bool, "true or false")),
        fields=fields,
    )


# To ComfyUI, null for these means the same as leaving them out.
_NULLABLE = frozenset({"client_id", "prompt_id", "partial_execution_targets"})


def _refusal(type: str, message: str, details: str) -> GateError:
    return GateError(400, type, message, details)


def _check_prompt(prompt: object) -> None:
    if not isinstance(prompt, dict):
        raise _refusal("invalid_prompt", "The prompt is not an object", '"prompt" must map node ids to nodes.')
    for node_id, node in prompt.items():
        if not isinstance(node, dict):
            details = f"Node {node_id!r} must be an object with class_type and inputs."
            raise _refusal("invalid_prompt", "A node is not an object", details)
        if not isinstance(node.get("class_type", ""), str):
            details = f"The class_type of node {node_id!r} must be a string."
            raise _refusal("invalid_prompt", "A node's class_type is not a string", details)
        if not isinstance(node.get("inputs"), dict):
            # A node without inputs that no output needs passes validation, and then ends the worker.
            details = f'Node {node_id!r} must have "inputs", an object; it may be empty.'
            raise _refusal("invalid_prompt", "A node has no inputs", details)


def _typed(fields: Mapping[str, Any], key: str, kind: type, words: str) -> Any:
    value = fields.get(key)
    if key in fields and not isinstance(value, kind):
        raise _refusal(f"invalid_{key}", f"{key} has the wrong type", f'"{key}" must be {words}.')
    return value


def _prompt_id(fields: Mapping[str, Any]) -> str:
    if "prompt_id" not in fields:
        return str(uuid.uuid4())
    value = fields["prompt_id"]
    try:
        canonical = isinstance(value, str) and str(uuid.UUID(value)) == value
    except ValueError:
        canonical = False
    if not canonical:
        details = '"prompt_id" must be a UUID in lower case with hyphens; leave it out to be given one.'
        raise _refusal("invalid_prompt_id", "prompt_id is not a canonical UUID", details)
    return str(value)


def _number(fields: Mapping[str, Any]) -> float | None:
    if "number" not in fields:
        return None
    value = fields["number"]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _refusal(
            "invalid_number", "number is not a finite number", '"number" must be finite; smaller runs earlier.'
        )
    return float(value)


def _with_checked_rest(fields: dict[str, Any]) -> dict[str, Any]:
    _typed(fields, "extra_data", dict, "an object")
    client_id = fields.get("extra_data", {}).get("client_id")
    if client_id is not None and not isinstance(client_id, str):
        raise _refusal("invalid_client_id", "client_id has the wrong type", '"extra_data.client_id" must be a string.')
    targets = _typed(fields, "partial_execution_targets", list, "a list of node ids")
    if targets is not None and not all(isinstance(target, str) for target in targets):
        details = '"partial_execution_targets" must be a list of strings.'
        raise _refusal("invalid_partial_execution_targets", "A target is not a string", details)
    return fields
