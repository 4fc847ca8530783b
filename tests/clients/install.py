"""Install the clients that are tried: ``python install.py FOLDER``.

Those of PyPI go into FOLDER/venv, those of npm into FOLDER/node_modules.  What
the registries lack, or npm itself, may be missing: a line says so, the status
is 0, and the tests of that client are skipped.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path

HERE = Path(__file__).parent
PATIENCE = 300.0
"""Seconds that one package may take."""
END = time.monotonic() + 900.0
"""When all of them have had time enough: a registry that hangs may not hold up whoever waits for the tests."""


def main(folder: Path) -> None:
    """Install whatever can be had."""
    folder.mkdir(parents=True, exist_ok=True)
    from_pypi(folder / "venv")
    from_npm(folder)


def from_pypi(folder: Path) -> None:
    """Install the Python clients, all at once or, where one is missing, one by one."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True, clear=True)
    install = [str(python), "-m", "pip", "--disable-pip-version-check", "--quiet", "install"]
    if not succeeds([*install, "--requirement", str(HERE / "requirements.txt")], quiet=True):
        lines = (HERE / "requirements.txt").read_text().splitlines()
        for line in filter(None, (line.partition("#")[0].strip() for line in lines)):
            tell(line, succeeds([*install, line]))


def from_npm(folder: Path) -> None:
    """Install the JavaScript clients, all at once or, where one is missing, one by one."""
    npm = shutil.which("npm")
    if npm is None:
        tell("what npm has", False)
        return
    shutil.copy(HERE / "package.json", folder)
    install = [npm, "install", "--prefix", str(folder), "--no-audit", "--no-fund", "--no-save", "--ignore-scripts"]
    if not succeeds(install, quiet=True):
        wanted = json.loads((HERE / "package.json").read_text())["dependencies"]
        (folder / "package.json").write_text('{"private": true}')
        for name, version in wanted.items():
            tell(name, succeeds([*install, f"{name}@{version}"]))


def succeeds(command: list[str], quiet: bool = False) -> bool:
    """Whether a command ends well within its time."""
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL} if quiet else {}
    seconds = min(PATIENCE, END - time.monotonic())
    try:
        return subprocess.run(command, timeout=max(seconds, 0.0), check=False, **streams).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def tell(name: str, installed: bool) -> None:
    """Say what is missing."""
    if not installed:
        print(f"Not installed: {name}. Its tests are skipped.", file=sys.stderr)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
