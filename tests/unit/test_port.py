"""A port takes other values on while its clients stay."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from comfygate.backend.fleet import Fleet
from comfygate.config.settings import Config, GateConfig, parse
from comfygate.errors import GateError
from comfygate.gate.cross_origin import CrossOriginSite
from comfygate.gate.server import GateFactory
from comfygate.gate.site import Relay
from comfygate.http1 import parse_request_head
from comfygate.model import BackendState
from comfygate.ports import Ports
from tests.unit.fakes import FakeBackend

BASE = "[comfygate]\ncomfyui = simulator\nstate_dir = /s\nhub_port = 0\n[gate:fast]\nport = 8190\n"


class Reactor:
    """Notes what was to listen, and stands still."""

    def __init__(self) -> None:
        self.factories: dict[str, GateFactory] = {}
        self.now = 0.0

    def adoptStreamPort(self, number: int, family: int, factory: GateFactory) -> Reactor:
        self.factories[factory.name] = factory
        return self

    def stopListening(self) -> None: ...

    def seconds(self) -> float:
        return self.now

    def callLater(self, seconds: float, function: Any, *arguments: Any) -> Any:
        return None


class Stage:
    """The ports of one configuration after the other, over two GPUs."""

    def __init__(self, main: str = "") -> None:
        self.reactor = Reactor()
        _, gates = read("")
        config = parse_more(main)
        self.backends = [FakeBackend(0), FakeBackend(1)]
        fleet = Fleet(self.backends)
        self.counted: list[tuple[int, ...]] = []
        self.ports = Ports(self.reactor, config, fleet, self.status)
        self.sockets = contextlib.ExitStack()
        self.ports.open(gates, {name: self.socket() for name in gates})

    def status(self, gpu_ids: tuple[int, ...]) -> Any:
        self.counted.append(gpu_ids)

    def socket(self) -> socket.socket:
        return self.sockets.enter_context(socket.socket())

    def follow(self, text: str, closed: tuple[str, ...] = (), opened: tuple[str, ...] = ()) -> None:
        config, gates = read(text)
        self.ports.follow(config, gates, closed, {name: self.socket() for name in opened})

    def ask(self, name: str = "fast") -> Any:
        head = parse_request_head(b"GET /queue HTTP/1.1\r\nHost: x\r\n\r\n")
        return self.reactor.factories[name].site.admit(head, "1.2.3.4")

    def allowed(self, most: int = 50) -> int:
        """How many requests come through now."""
        for count in range(most):
            try:
                self.ask()
            except GateError:
                return count
        return most


def read(text: str) -> tuple[Config, dict[str, GateConfig]]:
    config = parse(BASE + text, filename="gpus.ini", environ={"HOME": "/h"}, here="/")
    return config, {gate.name: gate for gate in config.gates_for((0, 1))}


@pytest.fixture
def stage() -> Iterator[Stage]:
    one = Stage()
    with one.sockets:
        yield one


def test_a_rate_holds_at_once_and_what_was_used_stays_used_where_it_is_the_same(stage: Stage) -> None:
    assert stage.allowed() == 20
    stage.follow("gpus = 1\n")
    assert stage.allowed() == 0
    stage.follow("burst = 5\n")
    assert stage.allowed() == 5
    stage.follow("rate = 0\n")
    assert stage.allowed() == 50


def test_a_request_may_wait_as_long_as_the_new_values_say(stage: Stage) -> None:
    stage.allowed()
    stage.follow("max_wait = 300\n")
    waiting: list[Any] = []
    stage.reactor.callLater = lambda seconds, *_: waiting.append(seconds)  # type: ignore[method-assign]
    assert isinstance(stage.ask(), Deferred)
    assert 0 < waiting[0] <= 0.1
    assert stage.reactor.factories["fast"].limits.admit > 300


def test_the_set_is_another_for_requests_websockets_and_counts(stage: Stage) -> None:
    stage.follow("gpus = 1\n")
    assert stage.counted[-1] == (1,)
    assert [figures.gpu_ids for figures in stage.ports.figures()] == [(0,), (1,), (1,)]


def test_pages_of_other_origins_are_let_in_and_shut_out(stage: Stage) -> None:
    factory = stage.reactor.factories["fast"]
    config, gates = read("")
    stage.ports.follow(parse_more("cors_origins = *\n"), gates, (), {})
    assert isinstance(factory.site, CrossOriginSite)
    stage.ports.follow(config, gates, (), {})
    assert not isinstance(factory.site, CrossOriginSite)


def test_what_was_decided_before_a_reload_is_decided_anew(stage: Stage) -> None:
    factory = stage.reactor.factories["fast"]
    raw = b"GET /mine HTTP/1.1\r\nHost: x\r\nOrigin: http://x\r\n\r\n"
    head = parse_request_head(raw)
    _, gates = read("")
    for main in ("", "cors_origins = *\n", "cors_origins = http://y\n", ""):
        stage.ports.follow(parse_more(main), gates, (), {})
        assert factory.plans.find("", raw) is None
        relay = factory.site.admit(head, "")
        assert isinstance(relay, Relay)
        assert any(name == b"Vary" for name, _ in relay.answer_headers) is bool(main)
        for _ in range(2):  # what comes once is worth no plan
            factory.plans.keep("", raw, head, relay, b"")
        plan = factory.plans.find("", raw)
        assert plan is not None and plan.relay is relay


def test_what_was_decided_before_a_backend_changed_is_decided_anew(stage: Stage) -> None:
    head = parse_request_head(b"GET /mine HTTP/1.1\r\nHost: x\r\n\r\n")
    for state in (BackendState.STARTING, BackendState.READY):
        relays = [stage.reactor.factories[name].site.admit(head, "") for name in ("fast", "gpu-0")]
        eras = [relay.era for relay in relays if isinstance(relay, Relay)]
        assert [era is not None and not era.over for era in eras] == [True, True]
        stage.backends[1].become(state)
        assert [era is not None and era.over for era in eras] == [True, True]


def test_a_port_that_fails_keeps_no_other_from_hearing_of_a_backend(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = list(stage.ports._ports)
    told: list[str] = []

    def hear(name: str) -> None:
        told.append(name)
        raise RuntimeError("broken")

    for name in names:
        monkeypatch.setattr(stage.ports._ports[name], "backend_changed", lambda _, name=name: hear(name))
    stage.backends[1].become(BackendState.STARTING)
    assert len(names) > 1 and told == names


def test_nothing_is_decided_before_where_the_fast_path_is_off() -> None:
    for word, kept in (("on", 1), ("off", 0)):
        stage = Stage(f"fast_path = {word}\n")
        with stage.sockets:
            factory = stage.reactor.factories["fast"]
            head = parse_request_head(b"GET /mine HTTP/1.1\r\nHost: x\r\n\r\n")
            relay = factory.site.admit(head, "")
            assert isinstance(relay, Relay)
            for _ in range(2):
                factory.plans.keep("", b"", head, relay, b"")
            assert len(factory.plans) == kept


def parse_more(main: str) -> Config:
    text = BASE.replace("[gate", f"{main}[gate")
    return parse(text, filename="gpus.ini", environ={"HOME": "/h"}, here="/")


def test_a_closed_port_takes_no_more_and_a_moved_one_listens_elsewhere(stage: Stage) -> None:
    old = stage.reactor.factories["fast"]
    before = stage.ports.sockets
    config, gates = read("")
    moved = BASE.replace("8190", "8191")
    config = parse(moved, filename="gpus.ini", environ={"HOME": "/h"}, here="/")
    gates = {gate.name: gate for gate in config.gates_for((0, 1))}
    stage.ports.follow(config, gates, ("fast",), {"fast": stage.socket()})
    assert old.stopping
    assert before["127.0.0.1", 8190].fileno() == -1
    assert set(stage.ports.sockets) == {("127.0.0.1", 8181), ("127.0.0.1", 8182), ("127.0.0.1", 8191)}
    assert not stage.reactor.factories["fast"].stopping
    assert not stage.reactor.factories["gpu-0"].stopping
