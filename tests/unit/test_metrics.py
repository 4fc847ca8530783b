"""What is shown to Prometheus: names, labels, series that are there from the start, and figures."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from comfygate.control.durations import BOUNDS, Durations
from comfygate.control.metrics import Metrics
from comfygate.model import BackendState, JobState, RestartCause
from comfygate.routes import Kind
from tests.unit.telemetry import Observed

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"


@pytest.fixture
def observed() -> Observed:
    return Observed()


class Scrape:
    """One answer, read by Prometheus's own parser."""

    def __init__(self, observed: Observed, accept: str = "") -> None:
        body, self.content_type = Metrics(observed.telemetry).text(accept)
        self.text = body.decode()
        parse: Any = parse_openmetrics if b"openmetrics" in self.content_type else text_string_to_metric_families
        self.families = {family.name: family for family in parse(self.text)}

    def value(self, name: str, **labels: str) -> float:
        found = [one.value for one in self.samples() if one.name == name and one.labels == labels]
        assert len(found) == 1, (name, labels, found)
        return float(found[0])

    def samples(self) -> Iterator[Any]:
        for family in self.families.values():
            yield from family.samples


def test_every_series_is_there_from_the_start(observed: Observed) -> None:
    scrape = Scrape(observed)
    for gpu in ("0", "1"):
        for outcome in ("done", "failed", "cancelled", "unknown", "refused"):
            assert scrape.value("comfygate_jobs_ended_total", gpu=gpu, outcome=outcome) == 0
        for state in ("waiting", "pending", "running"):
            assert scrape.value("comfygate_jobs", gpu=gpu, state=state) == 0
        for one in BackendState:
            ready = one is BackendState.READY
            assert scrape.value("comfygate_backend_state", gpu=gpu, state=one.value) == ready
        for cause in RestartCause:
            assert scrape.value("comfygate_backend_restarts_total", gpu=gpu, cause=cause.value) == 0
        assert scrape.value("comfygate_job_run_seconds_count", gpu=gpu) == 0
    for gate in ("gpu-0", "gpu-1", "hub"):
        assert scrape.value("comfygate_jobs_accepted_total", gate=gate) == 0
        assert scrape.value("comfygate_rate_limited_total", gate=gate) == 0
        for kind in Kind:
            assert scrape.value("comfygate_http_requests_total", gate=gate, route=kind.value, status="200") == 0


def test_names_follow_prometheus_conventions(observed: Observed) -> None:
    scrape = Scrape(observed)
    for family in scrape.families.values():
        if not family.name.startswith("comfygate_"):
            continue
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", family.name)
        assert family.documentation.endswith("."), family.name
        assert not re.search(r"_(ms|kb|mb|percent|milliseconds|minutes|count|sum|bucket)$", family.name)
        for sample in family.samples:
            if family.type == "counter":
                assert sample.name.endswith("_total")
            assert not set(sample.labels) & {"name", "job", "instance"}
    assert {"process_resident_memory_bytes", "python_info"} <= set(scrape.families)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
        ("text/plain;version=x", "text/plain"),
        ("application/openmetrics-text;version=1.0.0,text/plain;q=0.5", "application/openmetrics-text; version=1.0.0"),
        ("application/openmetrics-text;version=9.x;escaping=?", ""),
        ("application/openmetrics-text;version=\xe9", "text/plain"),
    ],
)
def test_the_format_is_negotiated(observed: Observed, accept: str, kind: str) -> None:
    scrape = Scrape(observed, accept)
    assert scrape.content_type.decode().startswith(kind)
    assert scrape.value("comfygate_jobs", gpu="0", state="running") == 0


def test_jobs_are_followed(observed: Observed) -> None:
    observed.accept("a", "b", "c", gate="hub")
    observed.clock.advance(3)
    held = observed.ledger.assign("a", 1)
    assert Scrape(observed).value("comfygate_jobs", gpu="0", state="waiting") == 2
    observed.ledger.hold(held.job, 1, JobState.RUNNING)
    assert Scrape(observed).value("comfygate_jobs", gpu="1", state="running") == 1
    observed.clock.advance(40)
    observed.ledger.end("a", JobState.DONE)
    observed.ledger.end("b", JobState.CANCELLED)
    scrape = Scrape(observed)
    assert scrape.value("comfygate_jobs_accepted_total", gate="hub") == 3
    assert scrape.value("comfygate_jobs_ended_total", gpu="1", outcome="done") == 1
    assert scrape.value("comfygate_jobs_ended_total", gpu="0", outcome="cancelled") == 1
    assert scrape.value("comfygate_job_queue_seconds_sum", gpu="1") == 3
    assert scrape.value("comfygate_job_run_seconds_sum", gpu="1") == 40
    assert scrape.value("comfygate_job_run_seconds_bucket", gpu="1", le="30.0") == 0
    assert scrape.value("comfygate_job_run_seconds_bucket", gpu="1", le="60.0") == 1
    assert scrape.value("comfygate_job_run_seconds_bucket", gpu="1", le="+Inf") == 1


def test_requests_are_read_where_they_are_counted(observed: Observed) -> None:
    tally = observed.tallies["hub"]
    tally.requests[Kind.PROMPT, 200] += 4
    tally.requests[Kind.PROMPT, 429] += 2
    tally.requests[Kind.QUEUE, 429] += 1
    tally.received += 100
    tally.sent += 200
    scrape = Scrape(observed)
    assert scrape.value("comfygate_http_requests_total", gate="hub", route="prompt", status="429") == 2
    assert scrape.value("comfygate_rate_limited_total", gate="hub") == 3
    assert scrape.value("comfygate_http_received_bytes_total", gate="hub") == 100
    assert scrape.value("comfygate_http_sent_bytes_total", gate="hub") == 200
    assert scrape.value("comfygate_websocket_clients", gate="hub") == 7


def test_what_is_not_known_has_no_series(observed: Observed) -> None:
    observed.devices.found = {0: observed.reading}
    observed.refresh()
    scrape = Scrape(observed)
    assert scrape.value("comfygate_gpu_memory_used_bytes", gpu="0") == 5_000
    assert scrape.value("comfygate_gpu_utilisation_ratio", gpu="0") == 0.5
    assert {one.labels["gpu"] for one in scrape.families["comfygate_gpu_memory_used_bytes"].samples} == {"0"}


def test_drained_gpus(observed: Observed) -> None:
    observed.books.draining.add(1)
    scrape = Scrape(observed)
    assert [scrape.value("comfygate_gpu_draining", gpu=gpu) for gpu in "01"] == [0, 1]


def test_durations() -> None:
    durations = Durations()
    for seconds in (0, 0.05, 0.06, 20_000):
        durations.add(seconds)
    found = dict(durations.cumulative())
    assert (found[0.05], found[0.1], found[BOUNDS[-1]], found[float("inf")]) == (2, 3, 3, 4)


def test_the_docs_list_them_all(observed: Observed) -> None:
    listed = {
        (cells[1].strip(" `"), cells[2].strip(), tuple(re.findall(r"`(\w+)`", cells[3])), cells[4].strip())
        for line in DOCS.read_text(encoding="utf-8").splitlines()
        if (cells := line.split("|"))[1:] and cells[1].startswith(" `")
    }
    observed.devices.found = {0: observed.reading}
    observed.refresh()
    there = set()
    for family in Scrape(observed).families.values():
        if family.name.startswith("comfygate_"):
            name = f"{family.name}_total" if family.type == "counter" else family.name
            labels = tuple(label for label in family.samples[0].labels if label != "le")
            there.add((name, family.type, labels, family.documentation))
    assert listed == there
