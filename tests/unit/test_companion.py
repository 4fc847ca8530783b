"""The companion, as far as it can be tried without ComfyUI."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from comfygate.backend.commandline import COMPANION
from comfygate.companion.custom_nodes.comfygate_companion.validation import Validator, positions

ERRORS: dict[str, Any] = {}


def oldest(prompt: Any) -> Any:
    return (True, None, ["9"], (prompt,))


def older(prompt_id: str, prompt: Any) -> Any:
    return (True, None, ["9"], (prompt_id, prompt))


async def newer(prompt_id: str, prompt: Any) -> Any:
    return older(prompt_id, prompt)


async def newest(prompt_id: str, prompt: Any, partial_execution_list: Any) -> Any:
    return (False, {"type": "x"}, [], (prompt_id, prompt, partial_execution_list))


async def newest_with_more(prompt_id: str, prompt: Any, partial_execution_list: Any = None, more: Any = 5) -> Any:
    assert more == 5
    return (True, None, ["9"], (prompt_id, prompt, partial_execution_list))


@pytest.mark.parametrize(
    ("form", "arguments"),
    [
        (oldest, ("prompt",)),
        (older, ("id", "prompt")),
        (newer, ("id", "prompt")),
        (newest, ("id", "prompt", ["4"])),
        (newest_with_more, ("id", "prompt", ["4"])),
    ],
)
def test_forms(form: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    valid, error, outputs, given = asyncio.run(Validator(form).validate("id", "prompt", ["4"]))
    assert given == arguments
    assert valid is (form is not newest)
    assert (error, outputs) == (({"type": "x"}, []) if form is newest else (None, ["9"]))


def test_unknown_form() -> None:
    with pytest.raises(TypeError, match="form that is not known"):
        positions(lambda a, b, c, d: None)


def test_it_is_not_in_the_way_of_what_it_does_not_know(tmp_path: Path) -> None:
    """Loaded as ComfyUI loads it, in a process where nothing of ComfyUI is there."""
    program = """
import importlib.util, sys
path = sys.argv[1]
name = path.replace(".", "_x_")
spec = importlib.util.spec_from_file_location(name, path + "/__init__.py")
module = importlib.util.module_from_spec(spec)
sys.modules[name] = module
spec.loader.exec_module(module)
assert module.NODE_CLASS_MAPPINGS == {}
assert "comfygate" not in sys.modules
"""
    arguments = [sys.executable, "-B", "-c", program, str(COMPANION / "comfygate_companion")]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    assert "routes is not available" in done.stderr
