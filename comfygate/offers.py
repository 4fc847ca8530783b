"""What ComfyUIs offer to prompts, as their ``/object_info`` says: classes of nodes, and the values of their inputs.

Installations that are meant to be alike differ all the same: one GPU has a
custom node or a folder of models that another does not have.  Here their
answers become one, and a prompt is held against each.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import orjson
from attrs import field, frozen

Choices = Mapping[str, Mapping[str, frozenset[str]]]
"""By class and input, the values that may be chosen."""

_LACKS = frozenset({"value_not_in_list", "custom_validation_failed"})
"""Reasons against a node that may hold for one ComfyUI and not for another: ``execution.py``, ``validate_inputs``."""

_NO_SUCH_CLASS = "does not exist"  # how ComfyUI says it that has no missing_node_type yet


@frozen
class Offer:
    """What one ComfyUI offers.

    :ivar choices: of inputs for which not all offer the same.
    """

    classes: frozenset[str]
    choices: Choices = field(factory=dict)


@frozen
class Comparison:
    """What several offer.

    :ivar merged: what a single ComfyUI with all of it would answer, in JSON.
    :ivar offers: each one's, in the order in which they were given.
    """

    merged: bytes
    offers: tuple[Offer, ...]

    def suitable(self, prompt: Mapping[str, Any]) -> list[bool]:
        """Which of them can run a prompt, as far as that can be told; what nobody offers is no reason.

        :param prompt: nodes by id, each with ``class_type`` and ``inputs``.
        """
        fits = [True] * len(self.offers)
        for node in prompt.values():
            for wanted in _wanted(node, self.offers):
                if any(wanted):
                    fits = [fit and has for fit, has in zip(fits, wanted, strict=True)]
        return fits


def compare(bodies: Sequence[bytes]) -> Comparison:
    """Hold answers to GET /object_info or /object_info/{class} against each other.

    :param bodies: one or more, which differ; the first decides where they contradict each other.
    :raises ValueError: one of them is not what ComfyUI answers.
    """
    infos = [_read(body) for body in bodies]
    merged: dict[str, Any] = {}
    choices: list[dict[str, dict[str, frozenset[str]]]] = [{} for _ in infos]
    for info in infos:
        for name, node in info.items():
            if name not in merged:
                merged[name] = node
            elif merged[name] != node:
                merged[name] = _merged_node(merged[name], node)
    for name, node in merged.items():
        if any(info.get(name, node) != node for info in infos):
            _note_choices(name, node, infos, choices)
    offers = tuple(Offer(frozenset(info), chosen) for info, chosen in zip(infos, choices, strict=True))
    return Comparison(_written(merged), offers)


def is_lacking(status: int, body: bytes) -> bool:
    """Whether what ComfyUI says to a prompt may be due to what it lacks, and others may have.

    A prompt of which only some outputs can be made is accepted, and the errors of the others are told.

    :param status: of its answer to POST /prompt, or of the companion's validation.
    """
    if status not in (200, 400):
        return False
    try:
        said = orjson.loads(body)
        error = said.get("error") or {}
        kinds = {reason["type"] for node in (said.get("node_errors") or {}).values() for reason in node["errors"]}
        kind, message = error.get("type"), error.get("message") or ""
    except (orjson.JSONDecodeError, AttributeError, LookupError, TypeError):
        return False
    missing = kind == "missing_node_type" or (kind == "invalid_prompt" and _NO_SUCH_CLASS in message)
    return missing or not kinds.isdisjoint(_LACKS)


def has_errors(body: bytes) -> bool:
    """Whether an answer that accepts a prompt leaves some of its outputs out."""
    try:
        return bool(orjson.loads(body).get("node_errors"))
    except (orjson.JSONDecodeError, AttributeError):
        return False


def _wanted(node: Mapping[str, Any], offers: Sequence[Offer]) -> Iterator[list[bool]]:
    name = node.get("class_type", "")
    yield [name in offer.classes for offer in offers]
    inputs = node.get("inputs") or {}
    for key in {key for offer in offers for key in offer.choices.get(name, ())}:
        value = inputs.get(key)
        if isinstance(value, str):
            yield [value in offer.choices.get(name, {}).get(key, frozenset()) for offer in offers]


def _read(body: bytes) -> dict[str, Any]:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        found = json.loads(body)  # Python writes NaN and Infinity
    if not isinstance(found, dict):
        raise ValueError("it is not a JSON object")
    return found


def _written(value: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        return json.dumps(value).encode()


def _merged_node(first: Any, second: Any) -> Any:
    """One class as two ComfyUIs know it: the first's, with the choices of both."""
    if not isinstance(first, dict) or not isinstance(second, dict):
        return first
    inputs = dict(first.get("input") or {})
    for group, name, config in _inputs(second):
        members = inputs.get(group)
        if isinstance(members, dict) and name in members and members[name] != config:
            inputs[group] = {**members, name: _merged_config(members[name], config)}
    return {**first, "input": inputs}


def _inputs(node: Any) -> Iterator[tuple[str, str, Any]]:
    groups = node.get("input") if isinstance(node, dict) else None
    for group, members in groups.items() if isinstance(groups, dict) else ():
        for name, config in members.items() if isinstance(members, dict) else ():
            yield group, name, config


def _merged_config(first: Any, second: Any) -> Any:
    one, other = _values(first), _values(second)
    if one is None or other is None:
        return first
    both = [*one, *(value for value in other if value not in set(one))]
    if isinstance(first[0], list):
        return [both, *first[1:]]
    return [first[0], {**first[1], "options": both}, *first[2:]]


def _values(config: Any) -> list[str] | None:
    """What may be chosen: ``[[values], options]``, or since mid-2025 also ``["COMBO", {"options": values}]``."""
    if not isinstance(config, list) or not config:
        return None
    values = config[0]
    if values == "COMBO" and len(config) > 1 and isinstance(config[1], dict):
        values = config[1].get("options")
    return values if isinstance(values, list) and all(isinstance(value, str) for value in values) else None


def _comes_and_goes(config: Any) -> bool:
    """Whether the values are files that clients upload: all GPUs have them, though they may have been asked before."""
    options = config[1] if len(config) > 1 and isinstance(config[1], dict) else {}
    return any(name.endswith("_upload") and value for name, value in options.items())


def _note_choices(
    name: str, node: Any, infos: Sequence[Mapping[str, Any]], choices: Sequence[dict[str, dict[str, frozenset[str]]]]
) -> None:
    for group, key, config in _inputs(node):
        if _values(config) is None or _comes_and_goes(config):
            continue
        each = []
        for info in infos:
            members = ((info.get(name) or {}).get("input") or {}).get(group)
            values = _values(members.get(key)) if isinstance(members, dict) else None
            each.append(frozenset(values or ()))
        if len(set(each)) > 1:
            for chosen, offered in zip(choices, each, strict=True):
                chosen.setdefault(name, {})[key] = offered
