"""Tests of :mod:`comfygate.footprint`, and of what a daemon does not load at all."""

from __future__ import annotations

import gc
import subprocess
import sys

from comfygate.footprint import settle

NEEDLESS = ["autobahn.twisted", "autobahn.wamp.auth", "cryptography", "rich", "aiohttp", "sqlalchemy"]
LOOK = (
    "import sys; from comfygate.footprint import without_openssl; without_openssl(); "
    "from twisted.internet import reactor; import comfygate.daemon; "
    "print(*[name for name in sys.argv[1:] if name in sys.modules])"
)


def test_what_is_loaded_is_out_of_the_way() -> None:
    try:
        settle()
        assert gc.get_freeze_count() > 10_000
    finally:
        gc.unfreeze()


def test_what_the_daemon_does_not_load() -> None:
    found = subprocess.run(
        [sys.executable, "-c", LOOK, *NEEDLESS], capture_output=True, text=True, timeout=60, check=True
    )
    assert found.stdout.split() == []
