"""Tells ComfyGate which model files this ComfyUI has in memory, and how much memory is free.

``{"type": "comfygate.models", "data": {"prompt_id", "ended", "models", "free_memory"}}``
is sent to ComfyGate's own sockets when a prompt is about to run, after what it
cannot use has been let go, and when it has ended.  ComfyUI does not note from
which file a model comes; so its functions that read them are watched, and what
they return is followed for as long as it lives.
"""

from __future__ import annotations

import functools
import importlib
import os
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from .listening import listen

MESSAGE = "comfygate.models"

MOST = 4096
"""Paths whose names are remembered."""

READERS = (
    ("comfy.sd", "load_checkpoint_guess_config"),
    ("comfy.sd", "load_diffusion_model"),
    ("comfy.sd", "load_clip"),
    ("comfy.controlnet", "load_controlnet"),
    ("comfy.clip_vision", "load"),
)
"""Functions that read model files; what they take in strings are paths."""

_ENDS = frozenset({"execution_success", "execution_error", "execution_interrupted"})


class Reports:
    """Makes messages of events.

    :param models: names of the files in memory, those used last at the end.
    :param free_memory: bytes of the device's memory, ``None`` if nobody knows.
    """

    def __init__(self, models: Callable[[], list[str]], free_memory: Callable[[], int | None]) -> None:
        self._models = models
        self._free_memory = free_memory
        self._said: tuple[str, bool] | None = None

    def event(self, event: Any, data: Any) -> dict[str, Any] | None:
        """What to say after an event, if anything: once at the begin of a prompt, and once at its end."""
        ended = event in _ENDS
        if not (ended or event == "execution_cached") or not isinstance(data, dict):
            return None
        prompt_id = data.get("prompt_id")
        if not isinstance(prompt_id, str) or self._said == (prompt_id, ended):
            return None
        self._said = (prompt_id, ended)
        return {
            "prompt_id": prompt_id,
            "ended": ended,
            "models": self._models(),
            "free_memory": self._free_memory(),
        }


class Follower:
    """Knows which file the models come from that are alive."""

    def __init__(self) -> None:
        self._names: OrderedDict[str, str] = OrderedDict()
        self._alive: weakref.WeakKeyDictionary[Any, tuple[str, ...]] = weakref.WeakKeyDictionary()

    def found(self, name: str, path: str | None) -> None:
        """ComfyUI has looked a file up by its name."""
        if path is not None:
            self._names[path] = name
            self._names.move_to_end(path)
            if len(self._names) > MOST:
                self._names.popitem(last=False)

    def read(self, paths: Iterable[str], made: Any) -> None:
        """Files have been read, and this was made of them."""
        names = tuple(self._names.get(path, os.path.basename(path)) for path in paths)
        for part in made if isinstance(made, list | tuple) else (made,):
            if part is not None:
                try:
                    self._alive[within(part)] = names
                except TypeError:  # it cannot be followed
                    continue

    def models(self, loaded: Iterable[Any]) -> list[str]:
        """Names of the files whose models are alive.

        :param loaded: models on the device, those used last at the end; they come last.
        """
        order: dict[str, None] = {}
        on_device = [names for model in loaded for names in (self._alive.get(model),) if names is not None]
        for names in [*list(self._alive.values()), *on_device]:
            for name in names:
                order.pop(name, None)
                order[name] = None
        return list(order)


def within(made: Any) -> Any:
    """The model in what ComfyUI wraps around it; copies of the wrapping share it."""
    for name in ("patcher", "model"):
        inner = getattr(made, name, None)
        made = made if inner is None else inner
    return made


def strings(values: Iterable[Any]) -> Iterator[str]:
    """All strings among arguments, also those in lists."""
    for value in values:
        if isinstance(value, str):
            yield value
        elif isinstance(value, list | tuple):
            yield from strings(value)


def install(parts: list[str]) -> None:
    """Watch this ComfyUI.

    :param parts: the companion's parts; not used.
    :raises Exception: of any kind, if this ComfyUI is not like those known.
    """
    folders: Any = importlib.import_module("folder_paths")
    management = importlib.import_module("comfy.model_management")
    follower = Follower()
    get_full_path = folders.get_full_path

    @functools.wraps(get_full_path)
    def look_up(folder_name: str, filename: str, *args: Any, **kwargs: Any) -> Any:
        path = get_full_path(folder_name, filename, *args, **kwargs)
        follower.found(filename, path)
        return path

    folders.get_full_path = look_up
    for module, name in READERS:
        owner = importlib.import_module(module)
        read = getattr(owner, name, None)
        if read is not None:  # another version may do without some
            setattr(owner, name, following(read, follower))

    def loaded() -> Iterator[Any]:
        for one in reversed(list(management.current_loaded_models)):
            model = one.model
            if model is not None:
                yield within(model)

    def free_memory() -> int | None:
        return int(management.get_free_memory(management.get_torch_device()))

    listen(MESSAGE, Reports(lambda: follower.models(loaded()), free_memory).event)


def following(read: Callable[..., Any], follower: Follower) -> Callable[..., Any]:
    """A function that reads model files, and tells what it made of them."""

    @functools.wraps(read)
    def read_and_tell(*args: Any, **kwargs: Any) -> Any:
        made = read(*args, **kwargs)
        # The first argument of each: ckpt_path, ckpt_paths, unet_path.
        named = [value for name, value in kwargs.items() if "path" in name]
        follower.read([path for path in strings(args[:1] or named) if os.path.isabs(path)], made)
        return made

    return read_and_tell
