"""What the tests of published clients share: where those are installed, and a gateway."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.driving import Installation
from tests.gateway import Gateway, running

FOLDER = Path(os.environ.get("COMFYGATE_CLIENTS") or Path(__file__).parents[2] / "build" / "clients")


@pytest.fixture(scope="session")
def installation() -> Installation:
    """The clients that `make clients` has installed."""
    if not FOLDER.is_dir():
        pytest.skip("no clients are installed here: make clients does that")
    return Installation(FOLDER, shutil.which("node"))


@pytest.fixture(scope="session")
def gateway(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Four GPUs and the hub, without a limit."""
    with running(tmp_path_factory.mktemp("clients"), "rate = 0\narguments = --sim-step-seconds 0.3\n") as one:
        yield one


@pytest.fixture(scope="session")
def previewing(installation: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Two GPUs that send a preview with every step."""
    config = "rate = 0\narguments = --sim-step-seconds 0.3 --preview-method auto\n"
    with running(tmp_path_factory.mktemp("previews"), config, gpus=2) as one:
        yield one


@pytest.fixture(params=["gpu", "hub"])
def port(request: pytest.FixtureRequest, gateway: Gateway) -> int:
    """A GPU's port, then the hub."""
    return gateway.hub if request.param == "hub" else gateway.ports[1]
