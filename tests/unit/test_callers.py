"""What a node's source and variables tell of the numbers that it will use."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from attrs import frozen

from comfygate.companion.custom_nodes.comfygate_companion.callers import UNCOUNTED, Caller, look

NAMES: list[str] = []
LOOKED: list[Caller] = []


@frozen
class Array:
    """Has what a tensor shows of its form."""

    shape: tuple[int, ...]


def get_save_image_path() -> tuple[str, str, int, str, str]:
    LOOKED.append(look(sys._getframe(1), "executor"))
    return "folder", "name", 5, "", ""


def save_image(images: Any, prompt: Any = None, again: Any = None) -> None:
    _, filename, counter, _, _ = get_save_image_path()
    for _image in range(2):
        NAMES.append(f"{filename}_{counter:05}_.png")
        counter += 1


def save_by_index(images: Any) -> None:
    _, filename, counter, _, _ = get_save_image_path()
    NAMES.extend(f"{filename}_{counter + index:05}.png" for index in range(2))


def save_video(images: Any) -> None:
    folder, filename, counter, _, _ = get_save_image_path()  # over several lines
    NAMES.append(f"{folder}/{filename}_{counter:05}_.webm")


class Node:
    def save_video(self, images: Any) -> None:
        text = """
not indented
"""
        _, filename, counter, _, _ = get_save_image_path()
        NAMES.append(f"{text}{filename}_{counter:05}_.webm")


def ask_in_either_branch(images: Any) -> None:
    if NAMES:
        _, filename, counter, _, _ = get_save_image_path()
    else:
        _, filename, counter, _, _ = get_save_image_path()
    NAMES.append(f"{filename}_{counter + 1:05}_.png")


def look_elsewhere(images: Any) -> None:
    _, filename, counter, _, _ = get_save_image_path()
    _, filename, counter, _, _ = ("folder", "name", len(NAMES), "", "")
    NAMES.append(f"{filename}_{counter:05}_.png")


def list_by_itself(images: Any) -> None:
    _, filename, _, _, _ = get_save_image_path()
    NAMES.append(filename)


def put_another_in_its_place(images: Any) -> None:
    _, filename, counter, _, _ = get_save_image_path()
    counter = len(NAMES)
    NAMES.append(f"{filename}_{counter:05}_.png")


def pass_on(images: Any) -> Any:
    return get_save_image_path()


BATCH = Array((8, 64, 64, 3))

# Its function has no source.
exec("def compiled(images):\n    _, _, counter, _, _ = get_save_image_path()\n    return counter", globals())


def run(function: Callable[[], None]) -> None:
    """Call `function` as a node is called: from a module called "executor", whose variables don't count."""
    space: dict[str, Any] = {"__name__": "executor", "function": function, "batch": BATCH}
    exec("def execute(batch):\n    function()\nexecute(batch)", space)


@pytest.mark.parametrize(
    ("node", "extent", "trusted"),
    [
        (save_image, 8, True),
        (save_by_index, 8, True),
        (save_video, 1, True),
        (Node().save_video, 1, True),
        (ask_in_either_branch, 8, True),
        (look_elsewhere, 8, False),
        (list_by_itself, 8, False),
        (put_another_in_its_place, 8, False),
        (pass_on, 8, False),
        (globals()["compiled"], 8, False),
    ],
)
def test_what_becomes_of_the_number(node: Callable[[Any], Any], extent: int, trusted: bool) -> None:
    run(lambda: node(BATCH))
    assert (LOOKED[-1].extent, LOOKED[-1].trusted) == (extent, trusted)


@pytest.mark.parametrize(
    ("value", "extent"),
    [
        (BATCH, 8),
        ([BATCH, Array((4, 8, 8, 3))], 12),
        ([Array((64, 64, 3))] * 5, 5),
        (Array((7, 64, 64)), 7),
        (Array((64, 64)), 1),
        ({"samples": Array((3, 4, 8, 8))}, 3),
        ({"waveform": Array((2, 2, 44100)), "sample_rate": 44100}, 2),
        ([SimpleNamespace(getbands=None)] * 6, 6),
        (SimpleNamespace(data=[io.BytesIO(), io.BytesIO()]), 2),
        ([[[[[BATCH]]]]], UNCOUNTED),
        ("nothing to count", UNCOUNTED),
        ({"workflow": {"1": {"inputs": [1] * 100_000}}}, UNCOUNTED),
    ],
)
def test_how_many_there_are(value: Any, extent: int) -> None:
    run(lambda: save_image(value))
    assert LOOKED[-1].extent == extent


def test_a_value_under_two_names_counts_once() -> None:
    run(lambda: save_image(BATCH, prompt={}, again=BATCH))
    assert LOOKED[-1].extent == 8


def test_variables_of_the_function_that_called_count_too() -> None:
    def node(images: Any) -> None:
        save_image([])

    run(lambda: node(BATCH))
    assert LOOKED[-1].extent == 8


def test_the_executor_is_not_looked_at() -> None:
    run(lambda: save_image([]))
    assert LOOKED[-1].extent == UNCOUNTED
    assert LOOKED[-1].frame in LOOKED[-1].stack
    save_image([])
    assert LOOKED[-1].frame is None


def test_a_function_that_may_be_suspended_may_not_have_ended() -> None:
    async def node() -> None:
        save_image([])

    def start() -> None:
        with pytest.raises(StopIteration):
            node().send(None)

    run(start)
    assert LOOKED[-1].frame is None
