"""What can be told of the node that asks for an output name: how many numbers will it use, and does it use ours at all?

ComfyUI hands out one number and leaves it to the node to count on from there.
So its source is read for what becomes of the number, and its variables are
looked through for the pictures that it may save.
"""

from __future__ import annotations

import ast
import functools
import inspect
import io
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType, FrameType
from typing import Any

UNCOUNTED = 100
"""Numbers for a node that counts on, but over what cannot be told."""

MOST_FRAMES = 20
DEEPEST = 3
MOST_LOOKED_AT = 20_000
"""Values that are looked at in a function's variables before the rest is left uncounted."""


@dataclass(frozen=True)
class Use:
    """What a function does with the number.

    :ivar single: it only writes it into names; so it needs one.
    :ivar trusted: it uses it, and does not put another in its place.
    """

    single: bool = False
    trusted: bool = False


@dataclass(frozen=True)
class Caller:
    """A node that asks.

    :ivar extent: how many numbers it may use.
    :ivar trusted: it goes by the number that it is given, not by what it finds in the folder.
    :ivar frame: the identity of its function's frame, if it has surely ended when
        another node asks in the same thread; None if that cannot be told.
    :ivar stack: the identities of all frames that wait for the answer.
    """

    extent: int = UNCOUNTED
    trusted: bool = False
    frame: int | None = None
    stack: frozenset[int] = frozenset()


def look(asking: FrameType, executor: str) -> Caller:
    """Look at who asks.

    :param asking: the frame that called.
    :param executor: the module that runs nodes; its frames and those above are of no interest.
    """
    frames = list(_frames(asking))
    names = [frame.f_globals.get("__name__") for frame in frames]
    known = executor in names
    node = frames[: names.index(executor)] if known else frames[:MOST_FRAMES]
    use = use_of(asking.f_code, asking.f_lineno)
    extent = 1 if use.single else max(map(_countable, node), default=0) or UNCOUNTED
    ends = known and not any(frame.f_code.co_flags & WAITING for frame in node)
    return Caller(extent, use.trusted, id(asking) if ends else None, frozenset(map(id, frames)))


WAITING = inspect.CO_COROUTINE | inspect.CO_GENERATOR | inspect.CO_ASYNC_GENERATOR
"""Functions that may be suspended while others run in their thread."""


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back


@functools.lru_cache(maxsize=512)
def use_of(code: CodeType, line: int) -> Use:
    """What the function does with the number that it asks for in `line`; the default if its source does not tell."""
    try:
        source = inspect.getsource(code)
        tree = ast.parse("if True:\n" + source if source[0].isspace() else source)
    except (OSError, SyntaxError, ValueError, TypeError, IndexError):
        return Use()
    line -= code.co_firstlineno - (2 if source[0].isspace() else 1)
    parents = {child: parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)}
    target = _target(tree, line)
    if target is None:
        return Use()
    uses = [name for name in ast.walk(tree) if isinstance(name, ast.Name) and name.id == target.id]
    # A function may ask in several places, as in both branches of an "if".
    asks = {name for name in uses if _question(name, parents) == _question(target, parents)}
    places = [parents[name] for name in uses if name not in asks]
    loads = [parents[name] for name in uses if isinstance(name.ctx, ast.Load)]
    replaced = any(
        isinstance(name.ctx, ast.Store) and name not in asks and not isinstance(parents[name], ast.AugAssign)
        for name in uses
    )
    return Use(
        single=bool(loads) and all(isinstance(place, ast.FormattedValue) for place in places),
        trusted=bool(loads) and not replaced,
    )


def _target(tree: ast.AST, line: int) -> ast.Name | None:
    """The variable that gets the number: the third of five."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Assign) or not isinstance(node.value, ast.Call):
            continue
        (target, *others) = node.targets
        if node.lineno <= line <= (node.end_lineno or 0) and isinstance(target, ast.Tuple) and not others:
            third = target.elts[2] if len(target.elts) == 5 else None
            return third if isinstance(third, ast.Name) else None
    return None


def _question(name: ast.Name, parents: dict[ast.AST, ast.AST]) -> str | None:
    """The function that is called for five values of which `name` gets the third, as it is written."""
    five = parents[name]
    if not isinstance(five, ast.Tuple) or len(five.elts) != 5 or five.elts[2] is not name:
        return None
    given = parents[five]
    called = given.value if isinstance(given, ast.Assign) else None
    return ast.dump(called.func) if isinstance(called, ast.Call) else None


def _countable(frame: FrameType) -> int:
    """How many pictures, sounds or the like there are in a function's variables; no variable counts twice."""
    values = {id(value): value for value in frame.f_locals.values()}
    left = [MOST_LOOKED_AT]
    return sum(_count(value, DEEPEST, left) for value in values.values())


def _count(value: Any, depth: int, left: list[int]) -> int:
    left[0] -= 1
    if left[0] < 0 or isinstance(value, (str, int, float, type(None))):
        return 0
    shape = getattr(value, "shape", None)
    if isinstance(shape, tuple):
        return _batch(shape)
    if isinstance(value, (bytes, io.IOBase)) or hasattr(value, "getbands"):  # a file's content, a PIL image
        return 1
    if isinstance(value, dict):
        value = list(value.values())
    elif isinstance(getattr(value, "__dict__", {}).get("data"), list):  # ComfyUI's SVG
        value = value.data
    if depth and isinstance(value, (list, tuple)):
        return sum(_count(item, depth - 1, left) for item in value)
    return 0


def _batch(shape: tuple[Any, ...]) -> int:
    """How many there are in an array: images [B, H, W, C], masks [B, H, W], sounds [B, C, T], latents [B, C, …]."""
    one = len(shape) < 3 or (len(shape) == 3 and shape[2] in (1, 3, 4))
    return 1 if one else int(shape[0])
