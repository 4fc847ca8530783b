"""Calls ``execution.validate_prompt``, which has had several forms."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


class Validator:
    """One ComfyUI's ``validate_prompt``, whichever form it has.

    Known are ``(prompt)``, ``(prompt_id, prompt)`` and
    ``(prompt_id, prompt, partial_execution_targets)``, plain or async.

    :raises TypeError: if it takes something else.
    """

    def __init__(self, validate_prompt: Callable[..., Any]) -> None:
        self._validate_prompt = validate_prompt
        self._places = positions(validate_prompt)

    async def validate(self, prompt_id: str, prompt: Any, targets: Any) -> tuple[bool, Any, Any, Any]:
        """Validate `prompt`.

        :return: whether it is valid, ComfyUI's error if not, the ids of the
            good outputs, and the errors of the nodes.
        """
        values = (prompt_id, prompt, targets)
        found = self._validate_prompt(*(values[place] for place in self._places))
        if inspect.isawaitable(found):
            found = await found
        valid, error, outputs, node_errors = found
        return bool(valid), error, outputs, node_errors


def positions(validate_prompt: Callable[..., Any]) -> tuple[int, ...]:
    """Which of (prompt_id, prompt, targets) the function takes, in its order."""
    parameters = [
        parameter
        for parameter in inspect.signature(validate_prompt).parameters.values()
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    required = [parameter for parameter in parameters if parameter.default is parameter.empty]
    if len(parameters) == 1:
        return (1,)
    if len(required) <= 2 == len(parameters):
        return (0, 1)
    if len(required) <= 3 <= len(parameters):
        return (0, 1, 2)
    raise TypeError(f"validate_prompt has a form that is not known: {inspect.signature(validate_prompt)}")
