"""The folders that the configuration names: checked before anything starts, made, and removed."""

from __future__ import annotations

import os
import shutil

from comfygate.config import Config


def check_folders(config: Config) -> None:
    """Look whether what the configuration names is there and can be used; changes nothing.

    :raises ConfigError: for the first that is missing.
    """
    if not config.simulated:
        _check_comfyui(config)
    if not (os.path.isfile(config.python) and os.access(config.python, os.X_OK)):
        raise config.mistake(
            "python", f"{config.python} is not a program; name the Python that ComfyUI is installed for"
        )
    for key, path in (("input_dir", config.input_dir), ("output_dir", config.output_dir)):
        if key in config.given and not os.path.isdir(path):
            raise config.mistake(key, f"there is no folder {path}; make it, or correct the path")
        _check_writable(config, key, path)
    _check_writable(config, "state_dir", config.state_dir)


def _check_comfyui(config: Config) -> None:
    if not os.path.isdir(config.comfyui):
        raise config.mistake("comfyui", f"there is no folder {config.comfyui}; name the one with ComfyUI's main.py")
    if not os.path.isfile(os.path.join(config.comfyui, "main.py")):
        raise config.mistake("comfyui", f"there is no main.py in {config.comfyui}; name the folder that ComfyUI is in")


def _check_writable(config: Config, key: str, path: str) -> None:
    nearest = path
    while not os.path.lexists(nearest):
        nearest = os.path.dirname(nearest)
    if not os.path.isdir(nearest):
        raise config.mistake(key, f"{nearest} is not a folder; name another")
    if not os.access(nearest, os.R_OK | os.W_OK | os.X_OK):
        what = "be used" if nearest == path else f"be made in {nearest}"
        raise config.mistake(key, f"{path} cannot {what} by this user; give it the right to, or name another")


def make_folders(config: Config) -> None:
    """Make `state_dir`, for this user's eyes only, and the shared folders.

    :raises ConfigError: if that fails.
    """
    for key, path in (
        ("state_dir", config.state_dir),
        ("input_dir", config.input_dir),
        ("output_dir", config.output_dir),
    ):
        private = key == "state_dir"
        try:
            os.makedirs(path, mode=0o700 if private else 0o777, exist_ok=not (private and config.temporary))
        except OSError as error:
            raise config.mistake(key, f"{path} cannot be made ({error.strerror}); name another") from None


def remove_temporary(config: Config) -> None:
    """Remove `state_dir` if it was made for this run only."""
    if config.temporary:
        shutil.rmtree(config.state_dir, ignore_errors=True)
