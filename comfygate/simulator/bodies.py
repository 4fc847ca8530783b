"""How request bodies are read."""

from __future__ import annotations

from typing import Any


def pick(body: Any, name: str, default: Any = None) -> Any:
    """The value of `name`, `default` where there is none.

    A list or a text passes for an object without that name, as in ComfyUI.

    :raises TypeError: `body` is null, a number or a truth value.
    """
    if name in body:
        return body[name]
    return default
