"""Metrics of a whole daemon, after traffic that is known."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.contract.comfyui_client import Listener
from tests.gateway import eventually, request, running, workflow


class Scraped:
    def __init__(self, port: int, target: str = "/metrics") -> None:
        answer = request(port, "GET", target)
        assert answer.status == 200, answer
        assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert answer.headers["cache-control"] == "no-store"
        self._values = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(answer.body.decode())
            for sample in family.samples
        }

    def __call__(self, name: str, **labels: object) -> float:
        return self._values["comfygate_" + name, frozenset((key, str(value)) for key, value in labels.items())]


def test_known_traffic(tmp_path: Path) -> None:
    with running(tmp_path, "burst = 5\nrate = 0.001\n[gate:some]\nport = {spare}\ngpus = 1\n", gpus=2) as gateway:
        gpu = gateway.ports[0]
        sizes = [len(request(gpu, "POST", "/prompt", {"prompt": workflow(0.2)}).body) for _ in range(4)]
        refused = [request(gpu, "POST", "/prompt", {"prompt": workflow()}).status for _ in range(4)]
        assert refused == [200, 429, 429, 429]
        assert request(gpu, "GET", "/queue").status == 429
        for _ in range(7):
            request(gpu, "GET", "/view?filename=nothing.png")
        eventually(lambda: Scraped(gateway.spare)("jobs_ended_total", gpu=0, outcome="done") == 5)
        found = Scraped(gpu, "/comfygate/metrics")
        assert found("jobs_accepted_total", gate="gpu-0") == 5
        assert found("jobs_accepted_total", gate="hub") == 0
        assert found("http_requests_total", gate="gpu-0", route="prompt", status=200) == 5
        assert found("http_requests_total", gate="gpu-0", route="prompt", status=429) == 3
        assert found("http_requests_total", gate="gpu-0", route="queue", status=429) == 1
        assert found("http_requests_total", gate="gpu-0", route="view", status=404) == 7
        assert found("rate_limited_total", gate="gpu-0") == 4
        assert found("rate_limited_total", gate="gpu-1") == 0
        assert found("http_sent_bytes_total", gate="gpu-0") > sum(sizes)
        assert found("job_run_seconds_count", gpu=0) == found("job_queue_seconds_count", gpu=0) == 5
        assert 0.8 <= found("job_run_seconds_sum", gpu=0) < 5
        assert found("jobs", gpu=0, state="running") == 0
        assert found("backend_state", gpu=1, state="ready") == 1
        assert found("backend_resident_memory_bytes", gpu=1) > 10_000_000
        with pytest.raises(KeyError):
            found("gpu_temperature_celsius", gpu=1)
        # A GPU's own port has no /metrics of ours.
        assert request(gpu, "GET", "/metrics").status == 404


def test_websockets_and_their_bytes(tmp_path: Path) -> None:
    with running(tmp_path, "rate = 0\n", gpus=1) as gateway:
        before = Scraped(gateway.hub)
        with Listener.open(f"127.0.0.1:{gateway.ports[0]}", "/ws?clientId=me") as client:
            assert client.next() is not None
            during = Scraped(gateway.hub)
            assert during("websocket_clients", gate="gpu-0") == 1
            assert during("http_requests_total", gate="gpu-0", route="websocket", status=101) == 1
            flood = "/simulator/flood?client_id=me&messages=10&size=10000&kind=progress"
            assert request(gateway.ports[0], "GET", flood).json() == {"sent": 10}
            while client.next() and Scraped(gateway.hub)("http_sent_bytes_total", gate="gpu-0") < 100_000:
                pass
        eventually(lambda: Scraped(gateway.hub)("websocket_clients", gate="gpu-0") == 0)
        assert before("websocket_clients", gate="gpu-0") == 0
