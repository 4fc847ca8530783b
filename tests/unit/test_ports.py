"""What each listening port is made of."""

from __future__ import annotations

import contextlib
import socket
from types import SimpleNamespace
from typing import Any

from comfygate.backend.fleet import Fleet
from comfygate.config.settings import GateConfig, PolicySpec
from comfygate.gate.server import GateFactory
from comfygate.http1 import parse_request_head
from comfygate.ports import Ports
from comfygate.routes import DEFAULT_METERED
from tests.unit.fakes import FakeBackend


class Reactor:
    """Notes what was to listen."""

    def __init__(self) -> None:
        self.factories: list[GateFactory] = []

    def adoptStreamPort(self, number: int, family: int, factory: GateFactory) -> None:
        self.factories.append(factory)

    def seconds(self) -> float:
        return 0.0


def open_ports(*max_waits: float) -> list[GateFactory]:
    config: Any = SimpleNamespace(
        control_socket="/nowhere",
        interface="127.0.0.1",
        max_connections=10,
        max_prompt=1000,
        max_body=0,
        backend_timeout=300.0,
        cors_origins=(),
        is_fast=False,
    )
    gates = {
        f"gpu-{n}": GateConfig(
            name=f"gpu-{n}",
            port=1,
            gpu_ids=(n,),
            policy=PolicySpec("least-loaded", ""),
            rate=10.0,
            burst=20,
            limit_by="port",
            max_wait=max_wait,
            metered=DEFAULT_METERED,
        )
        for n, max_wait in enumerate(max_waits)
    }
    reactor = Reactor()
    fleet: Any = Fleet([FakeBackend(n) for n in range(len(gates))])  # type: ignore[list-item]
    status: Any = lambda gpu_ids: None  # noqa: E731
    with contextlib.ExitStack() as closing:
        sockets = {name: closing.enter_context(socket.socket()) for name in gates}
        Ports(reactor, config, fleet, status).open(gates, sockets)
    return reactor.factories


def test_no_port_can_use_up_the_connections_by_which_another_reaches_the_control_plane() -> None:
    head = parse_request_head(b"POST /prompt HTTP/1.1\r\nHost: x\r\n\r\n")
    pools: list[Any] = [factory.site.admit(head, "") for factory in open_ports(0, 0, 0)]
    assert len({id(relay.pool) for relay in pools}) == 3


def test_a_request_may_wait_for_its_token_as_long_as_the_configuration_says() -> None:
    for factory, max_wait in zip(open_ports(0, 600), (0, 600), strict=True):
        assert factory.limits.admit > max_wait
