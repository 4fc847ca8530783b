"""Where things are: the configuration's folders and programs as absolute paths."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from collections.abc import Callable, Mapping
from typing import Any

from comfygate.config.text import Section
from comfygate.config.values import expand

SIMULATOR = "simulator"
TEMPORARY = "temporary"
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
    values["state_dir"] = settle("state_dir", _default_state_dir(environ))
    if len(os.fsencode(values["state_dir"] + "/control.sock")) > MAX_SOCKET_PATH:
        message = (
            f"is too long for a UNIX socket in it ({MAX_SOCKET_PATH} bytes with /control.sock); choose a shorter path"
        )
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
    return os.path.join(environ.get("TMPDIR") or "/tmp", f"comfygate-{secrets.token_hex(8)}")  # noqa: S108


def _default_state_dir(environ: Mapping[str, str]) -> str:
    given = environ.get("STATE_DIRECTORY", "").partition(":")[0]  # systemd.exec(5)
    if given:
        return given
    if os.geteuid() == 0:
        return "/var/lib/comfygate"
    return os.path.join(environ.get("XDG_STATE_HOME") or "~/.local/state", "comfygate")


def _default_python(comfyui: str, environ: Mapping[str, str], exists: Callable[[str], bool]) -> str:
    if comfyui == SIMULATOR:
        return sys.executable
    inside = [os.path.join(comfyui, folder, "bin", "python") for folder in ("venv", ".venv")]
    return environ.get("COMFYUI_PYTHON") or next((path for path in inside if exists(path)), sys.executable)
