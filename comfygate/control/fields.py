"""What a request says in its body and its query, read with a type."""

from __future__ import annotations

import re
from typing import Any

import orjson
from twisted.web.http import Request

from comfygate.errors import GateError


def body_of(request: Request) -> bytes:
    """The whole body."""
    if request.content is None:
        return b""
    request.content.seek(0)
    body: bytes = request.content.read()
    return body


def object_of(request: Request) -> dict[str, Any]:
    """The body as a JSON object; an empty one is ``{}``.

    :raises GateError: 400 if it is something else.
    """
    body = body_of(request)
    if not body.strip():
        return {}
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise GateError(400, "invalid_json", "The body is not JSON", str(error)) from None
    if not isinstance(value, dict):
        raise GateError(400, "invalid_json", "The body is not a JSON object")
    return value


def text_in(fields: dict[str, Any], key: str) -> str | None:
    """A string in a JSON object, or ``None`` where there is none.

    :raises GateError: 400 if it is something else.
    """
    value = fields.get(key)
    if value is not None and not isinstance(value, str):
        raise GateError(400, f"invalid_{key}", f"{key} has the wrong type", f'"{key}" must be a string.')
    return value


def flag_in(fields: dict[str, Any], key: str) -> bool:
    """A truth value in a JSON object; false where there is none.

    :raises GateError: 400 if it is something else.
    """
    value = fields.get(key, False)
    if not isinstance(value, bool):
        raise GateError(400, f"invalid_{key}", f"{key} has the wrong type", f'"{key}" must be true or false.')
    return value


def texts_in(fields: dict[str, Any], key: str) -> list[str]:
    """A list of strings in a JSON object; empty where there is none.

    :raises GateError: 400 if it is something else.
    """
    value = fields.get(key, [])
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise GateError(400, f"invalid_{key}", f"{key} has the wrong type", f'"{key}" must be a list of strings.')
    return value


def query_of(request: Request) -> dict[str, str]:
    """The query's fields; of one that is there several times, the last."""
    return {
        name.decode(errors="replace"): values[-1].decode(errors="replace")
        for name, values in (request.args or {}).items()
    }


def number_in(query: dict[str, str], key: str, default: int, most: int) -> int:
    """A whole number from 0 to `most` in a query.

    :raises GateError: 400 if it is something else.
    """
    text = query.get(key, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) <= most):
        details = f'"{key}" must be a whole number from 0 to {most}, not {text[:50]!r}.'
        raise GateError(400, f"invalid_{key}", f"{key} has the wrong form", details)
    return int(text)


def deleted_in(fields: dict[str, Any]) -> list[str]:
    """The ids in ``{"delete": [ids]}``, made strings as ComfyUI's are.

    :raises GateError: 400 if they are no list.
    """
    delete = fields.get("delete", [])
    if not isinstance(delete, list):
        raise GateError(400, "invalid_delete", "delete has the wrong type", '"delete" must be a list of prompt ids.')
    return list(map(str, delete))


def whole_number_of(request: Request, key: str) -> int | None:
    """A whole number in the query, as ComfyUI takes it with ``int()``; ``None`` where there is none.

    :raises GateError: 400 if it is something else.
    """
    text = query_of(request).get(key)
    if text is None:
        return None
    if re.fullmatch(r"[+-]?[0-9]{1,18}", text, re.ASCII) is None:
        details = f'"{key}" must be a whole number, not {text[:50]!r}.'
        raise GateError(400, f"invalid_{key}", f"{key} is not a whole number", details)
    return int(text)
