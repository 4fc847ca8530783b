"""Start the stand-in ComfyUI: ``python -m comfygate.simulator [options]``."""

from __future__ import annotations

import importlib
import importlib.util
import sys

from comfygate.simulator import options

NEEDED = ("aiohttp", "PIL")


def main(arguments: list[str]) -> None:
    """Read the options, see that the libraries are there, and run."""
    chosen = options.parse(arguments)
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        sys.exit(f"The simulator needs {' and '.join(missing)}: pip install 'comfygate[simulator]'")
    importlib.import_module("comfygate.simulator.start").run(chosen, arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
