"""Output names that no two ComfyUIs choose at once.

ComfyUI's ``folder_paths.get_save_image_path`` lists the folder and hands out
the highest number plus one.  Here it does so under a lock, and above every
number that another process was handed and may not have used yet.  The lock is
held while the number is chosen, never while anything is saved.
"""

from __future__ import annotations

import functools
import importlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, NamedTuple

from .callers import Caller, look
from .places import BATCH_NUMBER, Place, is_below, numbers_in, place_of
from .ranges import Range, Registry, Unavailable, key_of

VARIABLE = "COMFYGATE_NAMES"
"""The environment variable that names the folder of the registry."""

FIRST_FILE = 1.0
"""Seconds that a node which finds its number by itself has to make its first file, while others wait for it."""

POLL = 0.01
MOST_HELD = 1000
MOST_TRIES = 5

logger = logging.getLogger("comfygate")


def install(parts: list[str]) -> None:
    """Put this in the place of ComfyUI's function.

    :raises Exception: of any kind, if this ComfyUI is not like those known, or
        was not started by ComfyGate.
    """
    folder_paths = importlib.import_module("folder_paths")
    queue = importlib.import_module("execution").PromptQueue
    original, task_done = folder_paths.get_save_image_path, queue.task_done
    names = Names(registry(), original, folder_paths.get_temp_directory, "execution", executing_context())

    @functools.wraps(task_done)
    def release(*args: Any, **kwargs: Any) -> Any:
        names.release()
        return task_done(*args, **kwargs)

    queue.task_done = release
    # Also for custom nodes that were loaded earlier and have imported it by name.
    for module in list(sys.modules.values()):
        for name, value in list(getattr(module, "__dict__", {}).items()):
            if value is original:
                setattr(module, name, names.get_save_image_path)


def executing_context() -> Callable[[], Any]:
    """ComfyUI's function that tells which node is executed; in versions that have none, one that does not know."""
    try:
        found: Callable[[], Any] = importlib.import_module("comfy_execution.utils").get_executing_context
    except (ImportError, AttributeError):
        return lambda: None
    return found


def registry() -> Registry:
    """The one that all ComfyUIs of this ComfyGate share.

    :raises RuntimeError: there is none.
    :raises OSError: its folder cannot be used.
    """
    folder = os.environ.get(VARIABLE)
    if not folder:
        raise RuntimeError(f"{VARIABLE} names no folder")
    return Registry(folder)


class Held(NamedTuple):
    """A range of ours, and what tells whether the function that asked for it has ended.

    :ivar frame: the identity of its frame; a later one may have the same.
    :ivar call: stands for this one execution of a node; None if ComfyUI does not tell.
    """

    range: Range
    thread: int
    frame: int | None
    call: Any

    def has_ended(self, thread: int, caller: Caller, call: Any) -> bool:
        """Whether it has, now that `caller` asks in `thread`; False if that cannot be told."""
        if self.thread != thread or self.frame is None:
            return False
        return self.frame not in caller.stack or (self.call is not None and call is not None and self.call is not call)


class Names:
    """``get_save_image_path`` for one process.

    :param original: what it was.
    :param temp: names the folder that no other process saves in.
    :param executor: name of the module that runs nodes.
    :param executing: returns an object that is another for each execution of a node, or None.
    """

    def __init__(
        self,
        registry: Registry,
        original: Callable[..., Any],
        temp: Callable[[], str],
        executor: str,
        executing: Callable[[], Any] = lambda: None,
    ) -> None:
        self._registry = registry
        self._executing = executing
        self._held: list[Held] = []
        self._lock = threading.Lock()
        self._warned = False

        @functools.wraps(original)
        def get_save_image_path(filename_prefix: str, output_dir: str, *args: Any, **kwargs: Any) -> Any:
            ask = functools.partial(original, filename_prefix, output_dir, *args, **kwargs)
            if is_below(output_dir, temp()):
                return ask()
            caller = look_or_guess(sys._getframe(1), executor)
            try:
                answer = self._choose(str(filename_prefix), str(output_dir), ask, caller)
                self._warned = False
                return tuple(answer)
            except Unavailable as error:
                if not self._warned:
                    self._warned = True
                    logger.warning("[comfygate] two GPUs may choose the same output name: %s", error)
                return ask()

        self.get_save_image_path: Callable[..., Any] = get_save_image_path

    def release(self) -> None:
        """Give up all numbers: the prompt has ended, and its files are there."""
        with self._lock:
            given_up, self._held = self._held, []
        for held in given_up:
            self._registry.release(held.range)

    def _release_ended(self, caller: Caller) -> None:
        """Give up what nodes of this thread held that have ended since."""
        thread, call = threading.get_ident(), self._executing()
        with self._lock:
            ended = [held.has_ended(thread, caller, call) for held in self._held]
            kept = [held for held, over in zip(self._held, ended, strict=True) if not over]
            given_up = [held for held, over in zip(self._held, ended, strict=True) if over] + kept[:-MOST_HELD]
            self._held = kept[-MOST_HELD:]
        for held in given_up:
            self._registry.release(held.range)

    def _choose(self, prefix: str, root: str, ask: Callable[[], Any], caller: Caller) -> Place:
        """Choose a number and reserve as many as the caller may use.

        :raises Unavailable: the registry cannot be used.
        """
        self._release_ended(caller)
        subfolder, filename = os.path.split(os.path.normpath(prefix))
        key = key_of(os.path.join(root, subfolder), filename)
        deadline = time.monotonic() + 2 * FIRST_FILE
        for _ in range(MOST_TRIES):
            while True:
                with self._registry.locked(key):
                    # In this order: who gives a range up has made its files.
                    ranges = self._registry.live(key)
                    place = place_of(ask())
                    actual = key_of(place.folder, place.filename)
                    if actual != key:
                        break
                    if time.monotonic() > deadline or not self._is_awaited(ranges, place, caller):
                        return self._reserve(key, ranges, place, caller)
                time.sleep(POLL)
            # The prefix holds the time of day, or the picture's size.
            key = actual
        raise Unavailable(f"the prefix {prefix!r} means something else each time")

    def _is_awaited(self, ranges: list[Range], place: Place, caller: Caller) -> bool:
        """Whether a file is about to be made that this node, or its maker, numbers by listing the folder."""
        now = time.monotonic()
        pending = [
            other
            for other in ranges
            if other.owner != self._registry.owner
            and now - other.made < FIRST_FILE
            and not (caller.trusted and other.seen < 0)
        ]
        numbers = numbers_in(place) if pending else []
        return not all(any(other.shows(number) for number in numbers) for other in pending)

    def _reserve(self, key: str, ranges: list[Range], place: Place, caller: Caller) -> Place:
        highest = 0
        if BATCH_NUMBER in place.filename or not caller.trusted:
            highest = max(numbers_in(place), default=0)
        # ComfyUI's own listing overlooks names with this variable, and starts at 1 each time.
        least = highest + 1 if BATCH_NUMBER in place.filename else place.number
        used = self._used(key, least, caller)
        names = {other.name for other in used}
        start = max([least, *(other.end for other in ranges if other.name not in names)])
        reserved = self._registry.reserve(key, start, caller.extent, -1 if caller.trusted else highest)
        with self._lock:
            self._held = [held for held in self._held if held.range not in used]
            self._held.append(Held(reserved, threading.get_ident(), caller.frame, self._executing()))
        for other in used:
            self._registry.release(other)
        return place._replace(number=start)

    def _used(self, key: str, least: int, caller: Caller) -> list[Range]:
        """What the same function was handed before, for files that are there: a loop asks for each file anew."""
        asking = (threading.get_ident(), caller.frame)
        if caller.frame is None:
            return []
        with self._lock:
            mine = [held.range for held in self._held if (held.thread, held.frame) == asking]
        return [one for one in mine if one.key == key and one.start < least]


def look_or_guess(asking: FrameType, executor: str) -> Caller:
    """Look at who asks; whatever that runs into, the node goes on."""
    try:
        return look(asking, executor)
    except Exception:
        logger.warning("[comfygate] cannot tell how many files a node will save", exc_info=True)
        return Caller()
