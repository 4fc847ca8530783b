"""What sends and receives the WebSocket messages of benchmarks/proxy, and ComfyGate between them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.proxy import messages
from benchmarks.proxy.scenario import DIRECT, OURS, Behind, MeasuringError, Target
from benchmarks.proxy.websockets import EMITTER, Stream, ask, listening
from tests.gateway import running


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Behind]:
    with EMITTER.start(tmp_path_factory.mktemp("emitter")) as behind:
        yield behind


def direct(behind: Behind, folder: Path) -> Target:
    return Target(DIRECT, behind.port, (), folder, behind)


@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize(("kind", "rate"), [(messages.JSON, 500.0), (messages.PREVIEW, 50.0), (messages.JSON, 0.0)])
def test_straight_from_the_emitter(behind: Behind, tmp_path: Path, kind: str, rate: float, deflate: bool) -> None:
    clients = 1 if not rate else 3
    found = Stream(kind, clients, rate, deflate).measure(direct(behind, tmp_path), 0.2)
    assert 0 < found["p50 µs"] <= found["p99 µs"] if rate else found["messages/s"] > 0
    assert ask(behind.port, "/state")["running"] is False


def test_through_comfygate(behind: Behind, tmp_path: Path) -> None:
    config = f"rate = 0\ncomfyui = simulator\ndevices = none\n[gpu:0]\nurl = http://127.0.0.1:{behind.port}\n"
    with running(tmp_path, config, gpus=1) as gateway:
        target = Target(OURS, gateway.ports[0], (gateway.pid,), tmp_path, behind)
        for kind, rate, deflate in (
            (messages.JSON, 500.0, False),
            (messages.PREVIEW, 50.0, True),
            (messages.JSON, 0.0, False),
        ):
            found = Stream(kind, 3 if rate else 1, rate, deflate).measure(target, 0.2)
            assert found["CPU µs/message"] > 0
        with listening(target.port, 2, deflate=True, group="offering"):
            said = ask(behind.port, "/state", group="offering")
            assert (said["clients"], said["deflating"]) == (2, 0)  # the offer is not passed on


def test_an_offer_of_deflate_is_accepted(behind: Behind) -> None:
    with listening(behind.port, 2, deflate=True, group="offering"):
        said = ask(behind.port, "/state", group="offering")
        assert (said["clients"], said["deflating"]) == (2, 2)


def test_a_refused_connection_is_told(tmp_path: Path, behind: Behind) -> None:
    with pytest.raises(MeasuringError, match="the listeners ended"), listening(1, 1):
        pass
