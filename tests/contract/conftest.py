"""The targets of the contract suite, each started once.

A target is a function that yields a :class:`comfyui_client.Target` and ends
what it started.  The simulator is always one; a real ComfyUI is one where
COMFYUI_HOME names its folder (with $COMFYUI_PYTHON, or the Python of its
``venv``, or the one that runs the tests).
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import gateway
from tests.contract.comfyui_client import Target
from tests.ports import free_ports

START_LIMIT = 120.0
"""Seconds that a real ComfyUI may take to start on a busy machine."""

REPOSITORY = Path(__file__).parents[2]


@contextlib.contextmanager
def running(command: list[str], folder: Path, cwd: Path, name: str) -> Iterator[Target]:
    """Start a ComfyUI with everything that it writes below `folder`; end it at the end."""
    port = free_ports()
    for each in ("input", "output", "user"):
        (folder / each).mkdir()
    options = ["--cpu", "--port", str(port), "--max-upload-size", "2"]
    options += [f"--{each}-directory={folder / each}" for each in ("input", "output", "user")]
    options += [f"--temp-directory={folder}", f"--database-url=sqlite:///{folder / 'comfyui.db'}"]
    target = Target(name, f"http://127.0.0.1:{port}")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, *options], cwd=cwd, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + START_LIMIT
        while True:
            with contextlib.suppress(OSError):
                if target.get("/prompt").status == 200:
                    break
            assert process.poll() is None and time.monotonic() < deadline, (folder / "log").read_text()
            time.sleep(0.05)
        yield target
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def simulator(folder: Path) -> Iterator[Target]:
    with running([sys.executable, "-m", "comfygate.simulator"], folder, REPOSITORY, "simulator") as target:
        yield target


@contextlib.contextmanager
def real(folder: Path) -> Iterator[Target]:
    home = Path(os.environ["COMFYUI_HOME"])
    with running([real_python(), "main.py", "--disable-api-nodes"], folder, home, "real") as target:
        yield target


def real_python() -> str:
    """The Python that runs the real ComfyUI."""
    inside = Path(os.environ["COMFYUI_HOME"], "venv", "bin", "python")
    return os.environ.get("COMFYUI_PYTHON") or str(inside if inside.exists() else sys.executable)


@contextlib.contextmanager
def daemon(folder: Path, comfyui: str, python: str) -> Iterator[gateway.Gateway]:
    """One GPU, its port and the hub; its ComfyUI is started as the direct targets are."""
    config = (
        f"comfyui = {comfyui}\npython = {python}\ndevices = cpu*1\nrate = 0\nmax_prompt = 2M\n"
        f"input_dir = {folder / 'input'}\noutput_dir = {folder / 'output'}\narguments = --max-upload-size 2\n"
    )
    for each in ("input", "output"):
        (folder / each).mkdir()
    with gateway.running(folder, config, gpus=1) as started:
        yield started


@contextlib.contextmanager
def gate(folder: Path, comfyui: str = "simulator", python: str = sys.executable) -> Iterator[Target]:
    """A GPU's port."""
    with daemon(folder, comfyui, python) as started:
        yield Target("gate", f"http://127.0.0.1:{started.ports[0]}", gpu_id=0)


@contextlib.contextmanager
def hub(folder: Path, comfyui: str = "simulator", python: str = sys.executable) -> Iterator[Target]:
    """The hub, over one GPU: what runs when can be foreseen."""
    with daemon(folder, comfyui, python) as started:
        yield Target("hub", f"http://127.0.0.1:{started.hub}", gpu_id=0, merges=True)


@contextlib.contextmanager
def real_gate(folder: Path) -> Iterator[Target]:
    with gate(folder, os.environ["COMFYUI_HOME"], real_python()) as target:
        yield target


@contextlib.contextmanager
def real_hub(folder: Path) -> Iterator[Target]:
    with hub(folder, os.environ["COMFYUI_HOME"], real_python()) as target:
        yield target


Start = Callable[[Path], contextlib.AbstractContextManager[Target]]

DIRECT: dict[str, Start] = {"simulator": simulator}
"""ComfyUIs themselves."""
if os.environ.get("COMFYUI_HOME"):
    DIRECT["real"] = real

TARGETS: dict[str, Start] = {**DIRECT, "gate": gate, "hub": hub}
"""Everything that must look like one."""
if os.environ.get("COMFYUI_HOME"):
    TARGETS.update({"real-gate": real_gate, "real-hub": real_hub})


@pytest.fixture(scope="session", params=list(TARGETS))
def target(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with TARGETS[request.param](tmp_path_factory.mktemp(request.param)) as started:
        yield started


@pytest.fixture
def comfyui(target: Target) -> Target:
    """A target with nothing running and nothing waiting."""
    target.idle()
    return target


@pytest.fixture
def direct(comfyui: Target) -> Target:
    """The same, for what a gate is there to prevent or to answer by itself."""
    if comfyui.is_gate:
        pytest.skip("a gate answers this by itself")
    return comfyui
