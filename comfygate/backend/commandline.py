"""How a ComfyUI is started: program, arguments, environment and folders."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import orjson
from attrs import frozen

import comfygate
from comfygate.model import Device

SIMULATOR = "simulator"
"""What the ``comfyui`` key says for the built-in stand-in."""

COMPANION = Path(__file__).parent.parent / "companion" / "custom_nodes"
"""Folder of custom nodes that our backends load."""

COMPANION_NAME = "comfygate_companion"


class StartError(Exception):
    """A ComfyUI cannot be started; the message says why and what to do."""


@frozen
class Program:
    """Which ComfyUI to run.

    :ivar comfyui: its folder, or ``simulator``.
    :ivar python: the Python that runs it; the simulator is run by our own.
    """

    comfyui: str
    python: str = sys.executable

    @property
    def argv(self) -> tuple[str, ...]:
        """The program, without options."""
        if self.comfyui == SIMULATOR:
            return (sys.executable, "-m", "comfygate.simulator")
        return (self.python, str(Path(self.comfyui, "main.py")))

    @property
    def folder(self) -> str:
        """Its working directory."""
        if self.comfyui == SIMULATOR:
            # python -m finds the package there, installed or not.
            return str(Path(comfygate.__file__).parent.parent)
        return self.comfyui

    def check(self) -> None:
        """See that its files are there.

        :raises StartError: if one is missing.
        """
        if self.comfyui != SIMULATOR and not Path(self.comfyui, "main.py").is_file():
            raise StartError(f"there is no main.py in {self.comfyui}; the key comfyui names the folder that holds it")


@frozen(kw_only=True)
class Folders:
    """Where one backend keeps its files; those that are ``None`` are ComfyUI's own.

    :ivar own: the GPU's own folder, for its log, temp and database.
    """

    own: Path
    input: Path | None = None
    output: Path | None = None
    user: Path | None = None

    @property
    def log(self) -> Path:
        """The newest file of what the process printed."""
        return self.own / "comfyui.log"

    @property
    def names(self) -> Path:
        """Where the companions of all GPUs agree on the names of output files."""
        return self.own.parent / "names"

    @property
    def companion_paths(self) -> Path:
        """The file that makes ComfyUI load the companion."""
        return self.own / "companion.yaml"

    def prepare(self) -> None:
        """Make the GPU's own folder and what belongs into it.

        :raises OSError: if that is not possible.
        """
        self.own.mkdir(parents=True, exist_ok=True)
        if self.user is not None:
            # ComfyUI makes the other folders by itself, but refuses to start without this one.
            self.user.mkdir(parents=True, exist_ok=True)
        # JSON strings are YAML strings.
        path = orjson.dumps(str(COMPANION)).decode()
        self.companion_paths.write_text(f"comfygate:\n  custom_nodes: {path}\n", encoding="utf-8")


def known_options(help_text: str) -> frozenset[str]:
    """Read the options that a ``--help`` in argparse's format lists."""
    listed = re.findall(r"^ {1,4}(-\S.*?)(?:  |$)", help_text, re.MULTILINE)
    return frozenset(option for line in listed for option in re.findall(r"(?<![\w-])--[\w-]+", line))


def arguments(
    options: frozenset[str], device: Device, folders: Folders, port: int, extra: Iterable[str] = ()
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Write the arguments of one backend.

    :param options: what the installed ComfyUI knows.
    :param extra: the user's own arguments; they win over ours, but not over
        where it listens.
    :return: the arguments, and those of our options that it does not know.
    """
    extra = tuple(extra)
    ours = [*_folders(folders), ("--disable-auto-launch",), *((argument,) for argument in device.arguments)]
    if "--disable-all-custom-nodes" in extra and "--whitelist-custom-nodes" not in extra:
        ours.append(("--whitelist-custom-nodes", COMPANION_NAME))
    listen = [("--listen", "127.0.0.1"), ("--port", str(port))]
    unknown = tuple(option[0] for option in (*ours, *listen) if option[0] not in options)

    def known(wanted: Iterable[tuple[str, ...]]) -> list[str]:
        return [word for option in wanted if option[0] in options for word in option]

    return (*known(ours), *extra, *known(listen)), unknown


def _folders(folders: Folders) -> Iterable[tuple[str, ...]]:
    # Absolute, since ComfyUI runs in a folder of its own.
    yield "--temp-directory", str(folders.own.absolute())
    yield "--database-url", f"sqlite:///{folders.own.absolute() / 'comfyui.db'}"
    yield "--extra-model-paths-config", str(folders.companion_paths.absolute())
    shared = {
        "--output-directory": folders.output,
        "--input-directory": folders.input,
        "--user-directory": folders.user,
    }
    for option, folder in shared.items():
        if folder is not None:
            yield option, str(folder.absolute())


def environment(inherited: Mapping[str, str], device: Device, folders: Folders) -> dict[str, str]:
    """Write the environment of one backend."""
    kept = {name: value for name, value in inherited.items() if name not in ("NOTIFY_SOCKET", "PYTHONUNBUFFERED")}
    ours = {"COMFYGATE_VERSION": comfygate.__version__, "COMFYGATE_NAMES": str(folders.names.absolute())}
    return {**kept, "PYTHONUNBUFFERED": "1", **ours, **device.environment}


def inherited_environment() -> dict[str, str]:
    """The daemon's own environment."""
    return dict(os.environ)
