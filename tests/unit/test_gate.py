"""What one port decides about each request."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import pytest
from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from comfygate.backend.fleet import Fleet
from comfygate.backend.writer import UserWriter
from comfygate.errors import GateError
from comfygate.gate.gate import CONTENT_TYPE_HEADER, GATE_HEADER, Gate, GateFacts
from comfygate.gate.places import Places
from comfygate.gate.site import Relay, Upgrade
from comfygate.gate.uploads import UploadRoom
from comfygate.gate.upstreams import Upstreams
from comfygate.http1 import RequestHead, parse_request_head
from comfygate.model import BackendState
from comfygate.routes import DEFAULT_METERED
from tests.unit.fakes import FakeBackend

FACTS = GateFacts(
    name="gpu-1",
    gpu_ids=(1,),
    rate=10,
    burst=2,
    by_client=False,
    max_wait=0,
    metered=DEFAULT_METERED,
    max_prompt=1000,
    max_body=0,
    backend_timeout=300,
)


class FakePool:
    """Notes that it was closed."""

    def __init__(self, address: tuple[str, int] | None, name: str) -> None:
        self.address = address
        self.name = name
        self.closed = False

    def close(self) -> None:
        self.closed = True


class FakeBridges:
    """Notes what a WebSocket asked for."""

    def accept(self, head: RequestHead, home: Callable[[], int]) -> Any:
        self.home = home()
        return head.target


class Port:
    """A gate over fake backends."""

    def __init__(self, **facts: Any) -> None:
        self.clock = Clock()
        self.backends = [FakeBackend(n) for n in range(3)]
        for n, backend in enumerate(self.backends):
            backend.address = ("127.0.0.1", 9000 + n)
        self.control = FakePool(None, "control")
        self.upstreams = Upstreams(FakePool)  # type: ignore[arg-type]
        for backend in self.backends:
            backend.subscribe(self.upstreams)  # type: ignore[arg-type]
        fleet = Fleet(self.backends)  # type: ignore[arg-type]
        self.gate = Gate(
            evolve(FACTS, **facts),
            fleet=fleet,
            upstreams=self.upstreams,
            control=self.control,  # type: ignore[arg-type]
            bridges=FakeBridges(),  # type: ignore[arg-type]
            uploads=UploadRoom(self.clock),  # type: ignore[arg-type]
            writer=UserWriter(fleet),
            places=Places(fleet, self.clock),  # type: ignore[arg-type]
            clock=self.clock,  # type: ignore[arg-type]
        )

    def ask(self, line: str, peer: str = "192.0.2.1", **headers: str) -> Any:
        fields = {"Host": "localhost:8182", **headers}
        text = f"{line} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in fields.items()) + "\r\n"
        return self.gate.admit(parse_request_head(text.encode()), peer)

    def refusal(self, line: str, **headers: str) -> GateError:
        with pytest.raises(GateError) as caught:
            self.ask(line, **headers)
        return caught.value


def test_what_must_be_understood_goes_to_the_control_plane_under_this_gates_name() -> None:
    port = Port()
    decision = port.ask("POST /prompt")
    assert isinstance(decision, Relay)
    assert decision.pool is port.control
    assert decision.extra_headers == ((GATE_HEADER, b"gpu-1"),)
    assert decision.max_body == 1000
    assert decision.only_headers == {b"accept", b"content-length", b"expect", b"if-none-match", b"x-target-gpu"}
    assert port.refusal("POST /prompt", **{"Content-Encoding": "gzip"}).status == 415
    assert isinstance(port.ask("POST /interrupt", **{"Content-Encoding": "identity"}), Relay)


def test_everything_else_goes_to_the_gates_backend_with_a_host_that_it_accepts() -> None:
    port = Port()
    decision = port.ask("GET /view?filename=x")
    assert isinstance(decision, Relay)
    assert decision.pool.name == "GPU 1"
    assert decision.host == b"127.0.0.1:9001"
    assert decision.max_body is None
    assert {b"x-comfygate-gate", b"origin"} <= decision.drop_headers
    assert port.ask("GET /").pool is decision.pool


def test_on_the_hub_a_client_comes_to_one_gpu_as_long_as_that_is_there() -> None:
    port = Port(name="hub", gpu_ids=(0, 1, 2))
    agents = [f"browser {n}" for n in range(30)]

    def homes() -> dict[str, str]:
        return {agent: port.ask("GET /mine", **{"User-Agent": agent}).pool.name for agent in agents}

    before = homes()
    assert homes() == before
    assert set(before.values()) == {"GPU 0", "GPU 1", "GPU 2"}
    port.backends[0].become(BackendState.DOWN)
    moved = homes()
    assert {agent for agent in agents if moved[agent] != before[agent]} == {
        agent for agent in agents if before[agent] == "GPU 0"
    }
    port.backends[0].become(BackendState.READY)
    assert homes() == before
    assert len({port.ask("GET /mine", peer=f"192.0.2.{n}").pool.name for n in range(30)}) == 3
    for agent in agents:
        port.ask("GET /mine", **{"User-Agent": agent, "Upgrade": "websocket", "Connection": "upgrade"})
        assert f"GPU {port.gate.bridges.home}" == before[agent]  # type: ignore[attr-defined]


def test_what_several_gpus_answer_together_goes_to_the_control_plane_of_the_hub_alone() -> None:
    hub, port = Port(name="hub", gpu_ids=(0, 1, 2), rate=0), Port(rate=0)
    for line in (
        "GET /system_stats",
        "HEAD /api/object_info",
        "GET /object_info/KSampler",
        "GET /features",
        "POST /free",
        "GET /api/jobs?limit=3",
        "GET /api/jobs/x",
        "POST /api/jobs/x/cancel",
        "POST /api/jobs/cancel",
        "POST /upload/mask",
    ):
        assert hub.ask(line).pool is hub.control, line
        assert port.ask(line).pool.name == "GPU 1", line
    for line in (
        "GET /jobs",
        "POST /jobs/cancel",
        "POST /object_info",
        "GET /free",
        "POST /api/jobs/a/b",
        "GET /jobsx",
    ):
        assert hub.ask(line).pool is not hub.control, line


def test_a_mask_is_as_large_as_an_upload_and_says_what_it_is_without_being_parsed() -> None:
    port = Port(name="hub", gpu_ids=(0, 1, 2), max_body=5000)
    relay = port.ask("POST /upload/mask", **{"Content-Type": "multipart/form-data; boundary=x"})
    assert relay.max_body == 5000 and b"content-type" not in relay.only_headers
    assert (CONTENT_TYPE_HEADER, b"multipart/form-data; boundary=x") in relay.extra_headers


def test_a_temporary_file_is_asked_of_the_gpu_that_has_it() -> None:
    port = Port(name="hub", gpu_ids=(0, 1, 2))
    port.backends[2].client.folder["/view?filename=a.png&type=temp&subfolder="] = 5.0
    for line in ("GET /view?filename=a.png&type=temp", "HEAD /api/view?preview=x&type=temp&filename=a.png"):
        decision = port.ask(line)
        if isinstance(decision, Deferred):
            decision = decision.result
        assert decision.pool.name == "GPU 2"
    home = port.ask("GET /view?filename=a.png").pool.name
    assert home == port.ask("GET /").pool.name
    assert port.ask("GET /view?filename=b.png&type=temp").result.pool.name == "GPU 0"
    assert port.ask("GET /history/x").pool is port.control


@pytest.mark.parametrize("path", ["/settings", "/settings/Comfy.X", "/users", "/userdata/a%2Fb", "/v2/userdata"])
@pytest.mark.parametrize("prefix", ["", "/api"])
def test_the_user_folder_has_one_writer(path: str, prefix: str) -> None:
    port = Port()
    for method in ("GET", "HEAD", "POST", "DELETE", "PUT", "OPTIONS"):
        assert Port(rate=0).ask(f"{method} {prefix}{path}").pool.name == "GPU 0"
    port.backends[0].become(BackendState.DOWN)
    assert port.ask(f"GET {prefix}{path}").pool.name == "GPU 1"


def test_only_uploads_to_backends_of_ours_take_turns() -> None:
    port = Port()
    for line in ("POST /upload/image", "POST /api/upload/mask"):
        turn = port.ask(line).turn
        assert turn is not None and turn.gpu_id == 1
    for line in ("GET /upload/image", "GET /view?filename=upload", "GET /settings"):
        assert port.ask(line).turn is None
    port = Port()
    port.backends[1].owned = False
    assert port.ask("POST /upload/image").turn is None


def test_a_websocket_is_bridged_wherever_it_asks_to_go() -> None:
    port = Port()
    upgrade = {"Upgrade": "websocket", "Connection": "upgrade"}
    for path in ("/ws?clientId=x", "/api/ws", "/a-custom-node"):
        decision = port.ask(f"GET {path}", **upgrade)
        assert isinstance(decision, Upgrade)
        assert decision.accept == path.encode()  # type: ignore[comparison-overlap]


def test_a_pool_ends_with_its_backend_and_another_begins_with_the_next() -> None:
    port = Port()
    first = port.ask("GET /").pool
    port.backends[1].become(BackendState.DOWN)
    port.gate.backend_changed()
    assert first.closed
    error = port.refusal("GET /")
    assert (error.status, error.type, error.retry_after) == (503, "backend_down", 3.0)
    port.backends[1].address = ("127.0.0.1", 9999)
    port.backends[1].become(BackendState.READY)
    port.gate.backend_changed()
    second = port.ask("GET /").pool
    assert (second.address, second.closed) == (("127.0.0.1", 9999), False)
    port.upstreams.close()
    assert second.closed


def test_no_closed_pool_is_handed_out_whoever_was_told_of_the_backend_first() -> None:
    port = Port()
    port.ask("GET /")
    port.backends[1].become(BackendState.DOWN)
    port.backends[1].become(BackendState.READY)
    assert not port.ask("GET /").pool.closed


def test_an_era_that_is_over_holds_no_pool() -> None:
    port = Port()
    pool = port.ask("GET /").pool
    port.gate.backend_changed()
    assert not [found for found in gc.get_referrers(pool) if isinstance(found, Relay)]


def test_a_burst_and_then_the_rate() -> None:
    port = Port()
    for _ in range(2):
        port.ask("GET /queue")
    error = port.refusal("GET /queue")
    assert (error.status, error.type) == (429, "rate_limited")
    assert error.retry_after == pytest.approx(0.1)
    for line in ("GET /", "GET /view?filename=x", "POST /interrupt", "GET /queue/all"):
        port.ask(line)
    port.clock.advance(0.11)
    port.ask("GET /queue")
    assert port.refusal("POST /upload/image").status == 429


def test_each_client_may_have_a_bucket_of_its_own() -> None:
    port = Port(by_client=True)
    for peer in ("192.0.2.1", "192.0.2.2"):
        for _ in range(2):
            port.ask("GET /queue", peer)
        with pytest.raises(GateError):
            port.ask("GET /queue", peer)


def test_a_request_may_wait_for_its_token() -> None:
    port = Port(max_wait=0.15)
    for _ in range(2):
        port.ask("GET /queue")
    waiting = port.ask("GET /queue")
    assert isinstance(waiting, Deferred)
    assert port.refusal("GET /queue").status == 429
    decided: list[Any] = []
    waiting.addCallback(decided.append)
    port.clock.advance(0.05)
    assert not decided
    port.clock.advance(0.06)
    assert decided[0].pool is port.control


def test_a_page_from_elsewhere_is_refused_before_it_costs_a_token() -> None:
    port = Port(burst=1)
    for origin in ("http://evil.example", "null", "http://localhost:8181"):
        assert port.refusal("POST /prompt", Origin=origin).type == "forbidden_origin"
    upgrade = {"Upgrade": "websocket", "Connection": "upgrade", "Origin": "http://evil.example"}
    assert port.refusal("GET /ws", **upgrade).status == 403
    assert isinstance(port.ask("POST /prompt", Origin="http://localhost:8182"), Relay)


# What may be decided the same again.


def test_what_is_relayed_without_a_token_is_decided_once() -> None:
    port = Port()
    for line in ("GET /", "GET /view?filename=x", "HEAD /embeddings", "GET /settings", "GET /mine"):
        era = port.ask(line).era
        assert era is not None and not era.over and port.ask(line).era is era, line
    assert Port(rate=0).ask("POST /mine").era is not None
    hub = Port(name="hub", gpu_ids=(0, 1, 2))
    assert hub.ask("GET /mine").era is not None


def test_what_costs_a_token_or_is_looked_at_is_decided_each_time() -> None:
    port = Port(burst=100)
    for line in ("POST /mine", "GET /history", "DELETE /userdata/a", "POST /prompt", "GET /queue", "POST /interrupt"):
        assert port.ask(line).era is None, line
    hub = Port(name="hub", gpu_ids=(0, 1, 2))
    hub.backends[2].client.folder["/view?filename=a.png&type=temp&subfolder="] = 5.0
    for line in ("GET /view?filename=a.png&type=temp", "GET /view?filename=a.png", "GET /system_stats"):
        decision = hub.ask(line)
        assert (decision.result if isinstance(decision, Deferred) else decision).era is None, line


@pytest.mark.parametrize("line", ["GET /mine", "GET /settings"])
@pytest.mark.parametrize("gpu_id", [0, 1, 2])
def test_an_era_ends_with_every_change_of_a_backend(line: str, gpu_id: int) -> None:
    port = Port(name="hub", gpu_ids=(0, 1, 2))
    for state in (BackendState.DOWN, BackendState.STARTING, BackendState.READY):
        era = port.ask(line).era
        port.backends[gpu_id].become(state)
        port.gate.backend_changed()  # as its port does
        assert era.over and not port.ask(line).era.over


def test_an_era_ends_with_the_values_that_it_began_with() -> None:
    port = Port()
    for change in ({"rate": 5}, {"max_body": 5}, {"backend_timeout": 5}, {"gpu_ids": (2,)}, {}):
        era = port.ask("GET /mine").era
        port.gate.behave(evolve(port.gate.facts, **change))
        assert era.over
        assert not port.ask("GET /mine").era.over


def test_what_waited_for_its_token_is_of_no_era() -> None:
    """Other origins may be allowed by the time it goes on, and its token may cost nothing any more."""
    port = Port(max_wait=10, burst=1)
    port.ask("POST /mine")
    waiting = port.ask("POST /mine")
    port.gate.behave(evolve(port.gate.facts, rate=0))
    decided: list[Any] = []
    waiting.addCallback(decided.append)
    port.clock.advance(10)
    assert decided[0].era is None
