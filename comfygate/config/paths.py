"""Where things are: the configuration's folders and programs as absolute paths."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from collections.abc import Callable, Mapping
from typing import Any

from comfygate.config.keys import MAIN
from comfygate.config.text import Section, read_file, read_sections
from comfygate.config.values import expand

SIMULATOR = "simulator"
TEMPORARY = "temporary"
TEMPORARY_NAME = "comfygate-"
"""How the name of a temporary state_dir begins."""

SYSTEM_STATE_DIR = "/var/lib/comfygate"
CONTROL_SOCKET = "control.sock"
MAX_SOCKET_PATH = 107
"""Bytes of sun_path without its final NUL, unix(7)."""


def settle_paths(
    main: Section, values: dict[str, Any], environ: Mapping[str, str], here: str, exists: Callable[[str], bool]
) -> None:
    """Make the values of path keys absolute, and fill in those that are missing.

    :param main: the section that they are from.
    :param values: its values by key, changed in place; gets ``temporary`` too.
    :raises ConfigError: for an unset variable, a missing ``comfyui``, a
        ``python`` that is not on the PATH, and a ``state_dir`` that is too long.
    """

    def settle(name: str, default: str = "") -> str:
        try:
            return os.path.normpath(os.path.join(here, expand(values[name] or default, environ)))
        except ValueError as error:
            raise main.mistake(name, error) from None

    if values["comfyui"] != SIMULATOR:
        if "comfyui" not in main.text and not environ.get("COMFYUI_HOME"):
            message = f"is not set; name ComfyUI's folder here or in $COMFYUI_HOME, or write {SIMULATOR}"
            raise main.mistake("comfyui", message)
        values["comfyui"] = settle("comfyui")
    values["temporary"] = values["state_dir"] == TEMPORARY
    if values["temporary"]:
        values["state_dir"] = _temporary_dir(environ)
    values["state_dir"] = settle("state_dir", default_state_dir(environ))
    if len(os.fsencode(os.path.join(values["state_dir"], CONTROL_SOCKET))) > MAX_SOCKET_PATH:
        bound = f"{MAX_SOCKET_PATH} bytes with /{CONTROL_SOCKET}"
        message = f"is too long for a UNIX socket in it ({bound}); choose a shorter path"
        raise main.mistake("state_dir", message)
    home = values["state_dir"] if values["comfyui"] == SIMULATOR else values["comfyui"]
    values["input_dir"] = settle("input_dir", os.path.join(home, "input"))
    values["output_dir"] = settle("output_dir", os.path.join(home, "output"))
    if values["python"] and "/" not in values["python"]:
        found = shutil.which(values["python"], path=environ.get("PATH"))
        if found is None:
            raise main.mistake("python", f"there is no {values['python']} on the PATH; write where it is, from / on")
        values["python"] = found
    values["python"] = settle("python", _default_python(values["comfyui"], environ, exists))


def _temporary_dir(environ: Mapping[str, str]) -> str:
    # Only the name: nobody can guess it, and making it fails if it is there.
    return os.path.join(temporary_folder(environ), f"{TEMPORARY_NAME}{secrets.token_hex(8)}")


def temporary_folder(environ: Mapping[str, str]) -> str:
    """Where temporary state_dirs are."""
    return environ.get("TMPDIR") or "/tmp"  # noqa: S108


def state_dir_in(path: str, environ: Mapping[str, str]) -> str:
    """What a configuration file says of state_dir, whatever else it says.

    :return: an absolute path, or :data:`TEMPORARY`.
    :raises ConfigError: for a file that cannot be read, and for a mistake in this key.
    """
    text = read_sections(read_file(path), path).get("comfygate", {})
    keys = tuple(key for key in MAIN if key.name == "state_dir")
    section = Section(path, "comfygate", keys, {key: value for key, value in text.items() if key == "state_dir"})
    given: str | None = section.values()["state_dir"]
    if given == TEMPORARY:
        return TEMPORARY
    try:
        found = expand(given or default_state_dir(environ), environ)
    except ValueError as error:
        raise section.mistake("state_dir", error) from None
    return os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(path)), found))


def default_state_dir(environ: Mapping[str, str]) -> str:
    """Where state_dir is if nobody says so; may begin with ``~``."""
    given = environ.get("STATE_DIRECTORY", "").partition(":")[0]  # systemd.exec(5)
    if given:
        return given
    if os.geteuid() == 0:
        return SYSTEM_STATE_DIR
    return os.path.join(environ.get("XDG_STATE_HOME") or "~/.local/state", "comfygate")


def _default_python(comfyui: str, environ: Mapping[str, str], exists: Callable[[str], bool]) -> str:
    if comfyui == SIMULATOR:
        return sys.executable
    inside = [os.path.join(comfyui, folder, "bin", "python") for folder in ("venv", ".venv")]
    return environ.get("COMFYUI_PYTHON") or next((path for path in inside if exists(path)), sys.executable)
