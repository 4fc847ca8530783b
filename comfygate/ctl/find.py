"""Where the daemon's control socket is, and why nobody answers there."""

from __future__ import annotations

import glob
import os
import pwd
import stat
from collections.abc import Mapping

from comfygate.config.paths import (
    CONTROL_SOCKET,
    SYSTEM_STATE_DIR,
    TEMPORARY,
    TEMPORARY_NAME,
    default_state_dir,
    state_dir_in,
    temporary_folder,
)
from comfygate.config.text import ConfigError
from comfygate.config.values import expand
from comfygate.ctl.errors import AbsentError, UsageError

NAME_IT = "name its folder with --state-dir DIR, or its configuration with --config FILE"


def find_socket(socket: str | None, state_dir: str | None, config: str | None, environ: Mapping[str, str]) -> str:
    """The path of the control socket that is meant; whether anybody listens there, connecting tells.

    Without an option, it is where ``twistd comfygate`` would make it without a
    configuration; if there is no such folder, that of the system's service.

    :raises UsageError: for a configuration that cannot be read.
    :raises AbsentError: for a temporary folder that cannot be told from others.
    """
    if socket is not None:
        return os.path.abspath(socket)
    if state_dir is not None:
        return os.path.join(os.path.abspath(state_dir), CONTROL_SOCKET)
    if config is not None:
        return os.path.join(_configured(config, environ), CONTROL_SOCKET)
    try:
        folder = os.path.abspath(expand(default_state_dir(environ), environ))
    except ValueError:  # there is no $HOME
        folder = SYSTEM_STATE_DIR
    if not os.path.exists(folder) and os.path.exists(SYSTEM_STATE_DIR):
        folder = SYSTEM_STATE_DIR
    return os.path.join(folder, CONTROL_SOCKET)


def _configured(path: str, environ: Mapping[str, str]) -> str:
    try:
        found = state_dir_in(path, environ)
    except ConfigError as error:
        raise UsageError(str(error).rstrip(".")) from None
    if found != TEMPORARY:
        return found
    candidates = temporary_state_dirs(environ)
    if not candidates:
        raise AbsentError(f"{path} says state_dir = temporary, and no ComfyGate of yours runs with a temporary folder")
    if len(candidates) > 1:
        shown = ", ".join(candidates)
        raise AbsentError(f"several ComfyGates of yours have a temporary folder; name one with --state-dir: {shown}")
    return candidates[0]


def temporary_state_dirs(environ: Mapping[str, str]) -> list[str]:
    """The temporary folders of this user's running daemons: their names cannot be known, but looked for."""
    found = sorted(glob.glob(os.path.join(glob.escape(temporary_folder(environ)), f"{TEMPORARY_NAME}*")))
    return [folder for folder in found if _is_ours(folder)]


def _is_ours(folder: str) -> bool:
    try:
        # Anybody may make a folder of that name.
        own = os.lstat(folder).st_uid == os.geteuid()
        return own and stat.S_ISSOCK(os.stat(os.path.join(folder, CONTROL_SOCKET)).st_mode)
    except OSError:
        return False


def explain(path: str, error: OSError, environ: Mapping[str, str]) -> AbsentError:
    """Say why nobody could be reached at the socket `path`, and what to do."""
    folder = os.path.dirname(path)
    if isinstance(error, PermissionError):
        return AbsentError(_not_yours(path))
    if isinstance(error, ConnectionRefusedError):
        if not _is_socket(path):
            return AbsentError(f"{path} is not a socket; {NAME_IT}")
        return AbsentError(f"nobody answers at {path}: the ComfyGate that made it has ended; start it again")
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        if not os.path.isdir(folder):
            return AbsentError(f"there is no folder {folder}; start ComfyGate, or {NAME_IT}{_hint(environ)}")
        where = f"in {folder}" if os.path.basename(path) == CONTROL_SOCKET else f"at {path}"
        return AbsentError(f"no ComfyGate runs {where}; start it, or {NAME_IT}{_hint(environ)}")
    return AbsentError(f"{path} cannot be reached ({error.strerror or error}); {NAME_IT}")


def _hint(environ: Mapping[str, str]) -> str:
    found = temporary_state_dirs(environ)
    return f" (--state-dir {found[0]} is one that runs)" if found else ""


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return True


def _not_yours(path: str) -> str:
    """Name the owner of the outermost thing on the way that shuts this user out."""
    while True:
        try:
            owner = os.stat(path).st_uid
            break
        except OSError:
            path = os.path.dirname(path)
    try:
        name = pwd.getpwuid(owner).pw_name
    except KeyError:
        name = f"#{owner}"
    if owner == os.geteuid():
        return f"you may not use {path}, though it is yours; see to its permissions"
    quoted = f"'{name}'" if name.startswith("#") else name
    return f"{path} belongs to user {name}: run it as that user (sudo -u {quoted} comfygatectl …)"
