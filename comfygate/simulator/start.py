"""Start-up, serving and the end of the process."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

from aiohttp import web

from comfygate.simulator.console import Console
from comfygate.simulator.folders import from_options
from comfygate.simulator.image_nodes import add_image_node
from comfygate.simulator.machine import Machine
from comfygate.simulator.models import FILES, ModelMemory
from comfygate.simulator.server import Server


class StartFailed(Exception):  # noqa: N818
    """The port cannot be opened."""


def run(options: argparse.Namespace, arguments: list[str]) -> NoReturn:
    """Serve until SIGINT (status 0), a fault, or a failed start (status 1).

    :param arguments: the command line, for /system_stats.
    """
    folders = from_options(options)
    for path in [path for paths in options.extra_model_paths_config for path in paths]:
        if not os.path.isfile(path):
            sys.exit(f"--extra-model-paths-config: no such file: {path}")
    # Before the port is known to be free: a second ComfyUI on the same folder does this to the first.
    folders.wipe_temp()
    folders.create()
    _pass_start(options, Path(folders.temp).parent)
    _add_models_and_nodes(options)
    console = Console(sys.stdout if options.log_stdout else sys.stderr)
    memory = ModelMemory(options.sim_memory, options.sim_model_seconds, dict(options.sim_load))
    machine = Machine(options, folders, console, memory, arguments=arguments)
    # A shell starts its background jobs deaf to SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        asyncio.run(_serve(machine))
    except KeyboardInterrupt:
        console.say("\nStopped server")
    except StartFailed as error:
        sys.exit(str(error))
    folders.wipe_temp()
    # The worker may be in the middle of a node; it ends with the process.
    os._exit(0)


def _add_models_and_nodes(options: argparse.Namespace) -> None:
    """What this one has and others may not have."""
    for model in options.sim_model:
        folder, _, name = model.partition("/")
        if folder not in FILES or not name:
            sys.exit(f"--sim-model: {model} is not FOLDER/NAME with one of the folders {', '.join(FILES)}")
        FILES[folder].append(name)
    for name in options.sim_node:
        add_image_node(name)


async def _serve(machine: Machine) -> None:
    server = Server(machine)
    runner = web.AppRunner(server.application(), access_log=None)
    await runner.setup()
    server.worker.start()
    await _listen(machine, runner)
    _plan_faults(machine.options)
    await server.sockets.publish()


async def _listen(machine: Machine, runner: web.AppRunner) -> None:
    machine.console.say("Starting server\n")
    port = machine.options.port
    for address in machine.options.listen.split(","):
        shown = f"http://{f'[{address}]' if ':' in address else address}:{port}"
        try:
            await web.TCPSite(runner, address, port).start()
        except OSError as error:
            raise StartFailed(f"Cannot listen on {shown}: {error.strerror}") from error
        machine.console.say(f"To see the GUI go to: {shown}")


def _plan_faults(options: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    if options.sim_exit_after is not None:
        loop.call_later(options.sim_exit_after, os._exit, 1)
    if options.sim_hang_after is not None:
        loop.call_later(options.sim_hang_after, os.kill, os.getpid(), signal.SIGSTOP)


def _pass_start(options: argparse.Namespace, memory: Path) -> None:
    """Take the time that a start takes, and fail if this one is to fail; the count is kept in `memory`."""
    time.sleep(options.sim_start_seconds)
    if not options.sim_fail_start:
        return
    counter = memory / "simulator-starts"
    starts = int(counter.read_text()) if counter.exists() else 0
    counter.write_text(str(starts + 1))
    if options.sim_fail_start < 0 or starts < options.sim_fail_start:
        sys.stderr.write("A failed start was asked for.\n")
        sys.exit(options.sim_fail_status)
