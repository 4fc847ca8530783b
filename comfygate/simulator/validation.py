"""Whether a prompt can run: the checks of POST /prompt and their answers."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from typing import Any, NamedTuple

from attrs import define, field

from comfygate.simulator.machine import Machine
from comfygate.simulator.nodes import NODES, Node

CONVERSIONS = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}

Reason = dict[str, Any]


class Verdict(NamedTuple):
    """Either `error`, or outputs to execute; node errors with both."""

    error: dict[str, Any] | None
    outputs: list[str]
    node_errors: dict[str, Any]


def refusal(type: str, message: str, details: str = "") -> dict[str, Any]:
    """The `error` of an answer 400."""
    return {"type": type, "message": message, "details": details, "extra_info": {}}


def full_name(kind: type[BaseException]) -> str:
    """An exception's name as clients see it."""
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def validate(machine: Machine, prompt: Any, targets: Any = None) -> Verdict:
    """Check `prompt`, converting its values where their type allows.

    :param targets: ids of the outputs wanted; None for all.
    :raises Exception: anything, where the prompt has not even the shape of one.
    """
    outputs: list[str] = []
    for node_id in prompt:
        kind, error = _known_class(machine, prompt[node_id], node_id)
        if kind is None:
            return Verdict(error, [], {})
        if kind.is_output and (targets is None or node_id in targets):
            outputs.append(node_id)
    if not outputs:
        return Verdict(refusal("prompt_no_outputs", "Prompt has no outputs"), [], {})
    return _judge(Check(machine, prompt), outputs)


def _known_class(machine: Machine, node: Any, node_id: str) -> tuple[Node | None, dict[str, Any] | None]:
    where = f"Node ID '#{node_id}'"
    if "class_type" not in node:
        message = "Cannot execute because a node is missing the class_type property."
        return None, refusal("invalid_prompt", message, where)
    kind = NODES.get(node["class_type"])
    if kind is None and machine.options.sim_newer:
        message = f"Node '{node['class_type']}' not found. The custom node may not be installed."
        extra = {"node_id": node_id, "class_type": node["class_type"], "node_title": node["class_type"]}
        return None, refusal("missing_node_type", message, where) | {"extra_info": extra}
    if kind is None:
        message = f"Cannot execute because node {node['class_type']} does not exist."
        return None, refusal("invalid_prompt", message, where)
    return kind, None


def _judge(check: Check, outputs: list[str]) -> Verdict:
    good: list[str] = []
    details: list[str] = []
    node_errors: dict[str, Any] = {}
    for output in outputs:
        if check.guarded(output, "exception_during_validation", "Exception when validating node", {}):
            good.append(output)
            continue
        details += [f"{reason['message']}: {reason['details']}" for reason in check.results[output][1]]
        for node_id, (valid, reasons) in check.results.items():
            # A node that is only downstream of an error has no reasons of its own.
            if valid or not reasons:
                continue
            blank = {"errors": reasons, "dependent_outputs": [], "class_type": check.prompt[node_id]["class_type"]}
            node_errors.setdefault(node_id, blank)["dependent_outputs"].append(output)
    if good:
        return Verdict(None, good, node_errors)
    error = refusal("prompt_outputs_failed_validation", "Prompt outputs failed validation", "\n".join(details))
    return Verdict(error, [], node_errors)


@define
class Check:
    """One prompt under examination; each node is looked at once."""

    machine: Machine
    prompt: Any
    results: dict[str, tuple[bool, list[Reason]]] = field(factory=dict)

    def guarded(self, node_id: str, type: str, message: str, extra: Reason) -> bool:
        """Check a node, and take an exception for a reason against it."""
        try:
            return self.node(node_id)
        except Exception as error:
            names = {
                "exception_type": full_name(error.__class__),
                "traceback": traceback.format_tb(error.__traceback__),
            }
            reason = {"type": type, "message": message, "details": str(error), "extra_info": extra | names}
            self.results[node_id] = (False, [reason])
            return False

    def node(self, node_id: str) -> bool:
        """Check a node and those that it depends on."""
        if node_id in self.results:
            return self.results[node_id][0]
        inputs = self.prompt[node_id]["inputs"]
        kind = NODES[self.prompt[node_id]["class_type"]]
        sources_valid = True
        reasons: list[Reason] = []
        for name in [*kind.required, *kind.optional]:
            config = kind.config(self.machine, name)
            if name not in inputs:
                if name in kind.required:
                    extra = {"input_name": name}
                    reasons.append(_reason("required_input_missing", "Required input is missing", name, extra))
            elif isinstance(inputs[name], list):
                sources_valid &= self._link(name, inputs[name], config, reasons)
            else:
                reasons.extend(_value(inputs, name, config, name in kind.checks))
        reasons.extend(self._own_checks(kind, inputs))
        self.results[node_id] = (sources_valid and not reasons, reasons)
        return self.results[node_id][0]

    def _own_checks(self, kind: Node, inputs: dict[str, Any]) -> Iterator[Reason]:
        for name, check in kind.checks.items():
            if name in inputs and not isinstance(inputs[name], list) and (wrong := check(self.machine, inputs[name])):
                message = "Custom validation failed for node"
                yield _reason("custom_validation_failed", message, f"{name} - {wrong}", {"input_name": name})

    def _link(self, name: str, link: list[Any], config: list[Any], reasons: list[Reason]) -> bool:
        """Check a link and what it leads to; False if the source is at fault."""
        extra = {"input_name": name, "input_config": _config(config)}
        if len(link) != 2:
            message = "Bad linked input, must be a length-2 list of [node_id, slot_index]"
            reasons.append(_reason("bad_linked_input", message, name, extra | {"received_value": link}))
            return True
        source, slot = link
        received = NODES[self.prompt[source]["class_type"]].output[slot]
        if not _fits(received, config[0]):
            details = f"{name}, received_type({received}) mismatch input_type({config[0]})"
            extra |= {"received_type": received, "linked_node": link}
            reasons.append(_reason("return_type_mismatch", "Return type mismatch between linked nodes", details, extra))
            return True
        what = "Exception when validating inner node"
        return self.guarded(source, "exception_during_inner_validation", what, extra | {"linked_node": link})


def _reason(type: str, message: str, details: str, extra: Reason) -> Reason:
    return {"type": type, "message": message, "details": details, "extra_info": extra}


def _config(config: list[Any]) -> list[Any]:
    return config if len(config) == 2 else [config[0], {}]


def _fits(received: Any, wanted: Any) -> bool:
    if received == wanted or "*" in (received, wanted):
        return True
    if not isinstance(received, str) or not isinstance(wanted, str):
        return False
    return not {part.strip() for part in received.split(",")}.isdisjoint(part.strip() for part in wanted.split(","))


def _value(inputs: dict[str, Any], name: str, config: list[Any], skip_limits: bool) -> Iterator[Reason]:
    """Convert a value in place and hold it against its limits."""
    kind, options = _config(config)
    value = inputs[name]
    extra = {"input_name": name, "input_config": [kind, options]}
    try:
        if isinstance(value, dict) and "__value__" in value:
            value = inputs[name] = value["__value__"]
        if not isinstance(kind, list) and kind in CONVERSIONS:
            value = inputs[name] = CONVERSIONS[kind](value)
    except (TypeError, ValueError, OverflowError) as error:
        message = f"Failed to convert an input value to a {kind} value"
        extra |= {"received_value": value, "exception_message": str(error)}
        yield _reason("invalid_input_type", message, f"{name}, {value}, {error}", extra)
        return
    if not skip_limits:
        yield from _limits(name, value, kind, options, extra | {"received_value": value})


def _limits(name: str, value: Any, kind: Any, options: dict[str, Any], extra: Reason) -> Iterator[Reason]:
    if "min" in options and value < options["min"]:
        message = f"Value {value} smaller than min of {options['min']}"
        yield _reason("value_smaller_than_min", message, name, extra)
    elif "max" in options and value > options["max"]:
        message = f"Value {value} bigger than max of {options['max']}"
        yield _reason("value_bigger_than_max", message, name, extra)
    elif isinstance(kind, list) and value not in kind:
        long = len(kind) > 20
        listed = f"(list of length {len(kind)})" if long else str(kind)
        extra |= {"input_config": None} if long else {}
        yield _reason("value_not_in_list", "Value not in list", f"{name}: '{value}' not in {listed}", extra)
