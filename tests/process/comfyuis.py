"""The ComfyUIs that whole daemons are tried with: the simulator, and a real one where COMFYUI_HOME names its folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.contract.conftest import real_python
from tests.gateway import Gateway, running

COMFYUIS = ["simulator", "real"] if os.environ.get("COMFYUI_HOME") else ["simulator"]


@contextmanager
def two_gpus(comfyui: str, folder: Path, arguments: str = "") -> Iterator[Gateway]:
    """Run a daemon over two GPUs, without a rate, that has its folders ``input``, ``output`` and ``user`` in `folder`.

    :param comfyui: one of ``COMFYUIS``.
    """
    for name in ("input", "output", "user"):
        (folder / name).mkdir()
    config = f"devices = cpu*2\nrate = 0\ninput_dir = {folder / 'input'}\noutput_dir = {folder / 'output'}\n"
    arguments = f"--user-directory {folder / 'user'} {arguments}"
    if comfyui == "real":
        config += f"comfyui = {os.environ['COMFYUI_HOME']}\npython = {real_python()}\narguments = {arguments}\n"
    else:
        # Time in which another process may come in between, or the process may be killed.
        config += f"comfyui = simulator\narguments = {arguments} --sim-disk-seconds 0.003\n"
    with running(folder, config, gpus=2) as gateway:
        yield gateway
