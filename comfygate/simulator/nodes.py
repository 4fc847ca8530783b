"""What a node is: its inputs as /object_info shows them, its outputs, and the function that does its work."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from attrs import field, frozen
from PIL import Image

from comfygate.simulator.machine import Machine
from comfygate.simulator.models import FILES

Images = list[Image.Image]
"""The value of an IMAGE: a batch of pictures of one size."""


class Latent(NamedTuple):
    """The value of a LATENT: not a picture yet, but what it will be."""

    width: int
    height: int
    batch: int
    seed: int


@frozen
class Choice:
    """An input with a fixed list of values, some known only when asked."""

    values: Callable[[Machine], list[str]]


def one_of(*values: str) -> Choice:
    """A choice between `values`."""
    return Choice(lambda machine: list(values))


def model_file(folder: str, *extra: str) -> Choice:
    """A choice between the files in a folder of models."""
    return Choice(lambda machine: [*FILES[folder], *extra])


Input = tuple[str | Choice, Mapping[str, Any] | None]
"""Type and options of an input; None where ComfyUI shows no options at all."""


@frozen
class Node:
    """One class of nodes.

    :ivar changed: a text that differs when the node has to run again though its inputs are the same.
    :ivar checks: inputs with a check of their own, which takes the place of limits and lists;
        it tells what is wrong, or None.
    """

    name: str
    work: Callable[..., tuple[Any, ...] | Ui]
    required: Mapping[str, Input]
    optional: Mapping[str, Input]
    output: tuple[str, ...]
    category: str
    display_name: str
    is_output: bool = False
    output_name: tuple[str, ...] | None = None
    module: str = "nodes"
    takes_prompt: bool = False
    changed: Callable[[Machine, Mapping[str, Any]], str] | None = None
    checks: Mapping[str, Callable[[Machine, Any], str | None]] = field(factory=dict)

    @property
    def hidden(self) -> dict[str, str]:
        """Inputs that the server fills in."""
        return {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"} if self.takes_prompt else {}

    def config(self, machine: Machine, name: str) -> list[Any]:
        """An input's type and options, as in /object_info."""
        kind, options = self.required[name] if name in self.required else self.optional[name]
        shown: Any = kind.values(machine) if isinstance(kind, Choice) else kind
        return [shown] if options is None else [shown, dict(options)]

    def info(self, machine: Machine) -> dict[str, Any]:
        """The node's entry in /object_info."""
        groups = {"required": self.required, "optional": self.optional}
        inputs: dict[str, Any] = {
            group: {name: self.config(machine, name) for name in members}
            for group, members in groups.items()
            if members
        }
        inputs.setdefault("required", {})
        if self.hidden:
            inputs["hidden"] = self.hidden
        return {
            "input": inputs,
            "input_order": {group: list(members) for group, members in inputs.items()},
            "output": list(self.output),
            "output_is_list": [False] * len(self.output),
            "output_name": list(self.output_name or self.output),
            "name": self.name,
            "display_name": self.display_name,
            "description": "",
            "python_module": self.module,
            "category": self.category,
            "output_node": self.is_output,
        }


class Ui(NamedTuple):
    """What an output node hands to the page, instead of or beside outputs."""

    shown: dict[str, Any]
    outputs: tuple[Any, ...] = ()


NODES: dict[str, Node] = {}
"""Every known class of nodes by name."""


def node(
    name: str,
    category: str,
    display_name: str | None = None,
    *,
    output: tuple[str, ...] = (),
    required: Mapping[str, Input] | None = None,
    optional: Mapping[str, Input] | None = None,
    **more: Any,
) -> Callable[[Callable[..., tuple[Any, ...] | Ui]], Callable[..., tuple[Any, ...] | Ui]]:
    """Register the function below as the work of the node class `name`.

    The function gets a :class:`~comfygate.simulator.run.Run` and the inputs by name.
    """

    def register(work: Callable[..., tuple[Any, ...] | Ui]) -> Callable[..., tuple[Any, ...] | Ui]:
        NODES[name] = Node(
            name=name,
            work=work,
            required=required or {},
            optional=optional or {},
            output=output,
            category=category,
            display_name=display_name or name,
            **more,
        )
        return work

    return register


def number(default: int, low: int, high: int, **more: Any) -> Input:
    """An INT input."""
    return "INT", {"default": default, "min": low, "max": high, **more}


def decimal(default: float, low: float, high: float, step: float) -> Input:
    """A FLOAT input."""
    return "FLOAT", {"default": default, "min": low, "max": high, "step": step}


def link(kind: str) -> Input:
    """An input that only another node can give."""
    return kind, None
