"""The same request again and again on the same connection, while around it everything changes."""

from __future__ import annotations

import http.client
import os
import signal
from collections.abc import Iterator, Mapping
from typing import Any

import orjson
import pytest

from tests.gateway import Gateway, eventually, running

ECHO = "/simulator/echo"
PAGE = "http://page.example"
ALLOWS = "access-control-allow-origin"


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with running(tmp_path_factory.mktemp("repeated"), "rate = 1\nburst = 5\n", gpus=2) as one:
        yield one


class Client:
    """One connection."""

    def __init__(self, port: int, address: str = "127.0.0.1") -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, 30, source_address=(address, 0))
        self._connection.connect()
        self._socket = self._connection.sock

    def ask(
        self, method: str = "GET", body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, dict[str, str], Any]:
        """Make the request once more."""
        self._connection.request(method, ECHO, body, dict(headers or {}))
        answer = self._connection.getresponse()
        said = orjson.loads(answer.read())
        assert self._connection.sock is self._socket  # it was never closed
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, said

    def close(self) -> None:
        self._connection.close()


@pytest.fixture(params=["a GPU's port", "the hub"])
def port(request: pytest.FixtureRequest, gateway: Gateway) -> int:
    return gateway.hub if request.param == "the hub" else gateway.ports[0]


@pytest.fixture
def client(port: int) -> Iterator[Client]:
    one = Client(port)
    yield one
    one.close()


def told(said: Any, name: str) -> list[str]:
    return [value for field, value in said["headers"] if field.lower() == name]


def test_each_is_passed_on_with_its_own_body_and_its_own_client(port: int) -> None:
    clients = {address: Client(port, address) for address in ("127.0.0.1", "127.0.0.2", "127.0.0.3")}
    for n in range(5):
        for address, client in clients.items():
            status, _, said = client.ask("GET", b"%d" % n)
            assert (status, said["body"], told(said, "x-forwarded-for")) == (200, str(n), [address])
    for client in clients.values():
        client.close()


def test_each_of_those_that_are_limited_costs_a_token(gateway: Gateway) -> None:
    client = Client(gateway.ports[1])
    found = [client.ask("POST", b"x")[0] for _ in range(20)]
    client.close()
    assert found[:5] == [200] * 5 and 429 in found[5:7] and found.count(429) > 10


def test_pages_of_others_are_let_in_and_shut_out(gateway: Gateway, client: Client) -> None:
    before = gateway.config.read_text()

    def reload(text: str) -> None:
        count = gateway.log.read_text().count("] reloaded ")
        gateway.config.write_text(text)
        gateway.process.send_signal(signal.SIGHUP)
        eventually(lambda: gateway.log.read_text().count("] reloaded ") > count)

    def ask(**headers: str) -> tuple[int, str | None]:
        status, fields, _ = client.ask(headers=headers)
        return status, fields.get(ALLOWS)

    try:
        for _ in range(3):
            assert ask(Origin=PAGE) == (403, None) and ask() == (200, None)
        reload(before.replace("rate = 1", f"rate = 1\ncors_origins = {PAGE}"))
        for _ in range(3):
            assert ask(Origin=PAGE) == (200, PAGE) and ask() == (200, None)
    finally:
        reload(before)
    for _ in range(3):
        assert ask(Origin=PAGE) == (403, None) and ask() == (200, None)


def test_a_backend_is_killed_and_comes_back(gateway: Gateway) -> None:
    own, hub = Client(gateway.ports[0]), Client(gateway.hub)
    for _ in range(3):
        assert own.ask()[0] == hub.ask()[0] == 200
    os.kill(gateway.backend_pid(0), signal.SIGKILL)
    found = [own.ask()[0]]
    eventually(lambda: found.append(own.ask()[0]) or found[-1] == 200)
    assert set(found) <= {502, 503, 200}
    for _ in range(3):
        assert own.ask()[0] == hub.ask()[0] == 200
    own.close()
    hub.close()
