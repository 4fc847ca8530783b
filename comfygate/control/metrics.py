"""GET /metrics: what is counted and measured, for Prometheus.

Nothing is counted here: the figures are read where they are kept, at the moment
of the question, so that the paths of requests and jobs know nothing of it.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

import comfygate
from comfygate.backend.readings import Reading
from comfygate.control.durations import Durations
from comfygate.control.status import Telemetry
from comfygate.gate.tally import GateFigures
from comfygate.interfaces import IBackend
from comfygate.model import BackendState, RestartCause
from comfygate.routes import Kind

_ALWAYS = tuple((kind, 200) for kind in Kind)
"""Requests that are counted from the start, so that each route has a series."""


class Metrics:
    """The registry, and how it is written.

    :ivar registry: what there is.
    """

    def __init__(self, telemetry: Telemetry) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(Figures(telemetry))
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)

    def text(self, accept: str) -> tuple[bytes, bytes]:
        """Everything as it is now.

        :param accept: the request's ``Accept``; decides between Prometheus's
            text format and OpenMetrics.
        :return: the body and its Content-Type.
        """
        try:
            encode, content_type = choose_encoder(accept)
            return encode(self.registry), content_type.encode("ascii")
        except (TypeError, ValueError):  # a version that is no version
            return generate_latest(self.registry), CONTENT_TYPE_PLAIN_0_0_4.encode("ascii")


class Figures(Collector):
    """Everything that is ours."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._books = telemetry.books

    def collect(self) -> Iterator[Metric]:
        """Read everything."""
        yield self._build()
        yield from self._jobs()
        yield from _requests(self._telemetry.gates())
        yield from self._backends()
        yield from self._devices()

    def _build(self) -> Metric:
        labels = {"version": comfygate.__version__, "python": platform.python_version()}
        build = GaugeMetricFamily("comfygate_build_info", "Always 1; the labels say what runs.", labels=list(labels))
        build.add_metric(list(labels.values()), 1)
        return build

    def _jobs(self) -> Iterator[Metric]:
        outcomes = self._telemetry.outcomes
        yield _counter(
            "comfygate_jobs_accepted",
            "Prompts that were accepted, by the port that they came to.",
            {(gate,): count for gate, count in outcomes.accepted.items()},
            "gate",
        )
        yield _counter(
            "comfygate_jobs_ended",
            "Prompts that are over; unknown: nobody can tell how; refused: ComfyUI did not take it after all.",
            {(str(gpu_id), name): count for (gpu_id, name), count in outcomes.ended.items()},
            "gpu",
            "outcome",
        )
        yield self._jobs_now()
        yield _histogram(
            "comfygate_job_queue_seconds", "From a prompt's acceptance to the start of its run.", outcomes.waited
        )
        yield _histogram("comfygate_job_run_seconds", "From the start of a prompt's run to its end.", outcomes.ran)

    def _jobs_now(self) -> Metric:
        jobs = GaugeMetricFamily(
            "comfygate_jobs",
            "Prompts now: waiting in the gate's queue, pending in ComfyUI's own, running.",
            labels=["gpu", "state"],
        )
        ledger = self._books.ledger
        for backend in self._books.fleet:
            view = self._books.view(backend.gpu_id)
            waiting = ledger.expected_count(backend.gpu_id)
            found = {"waiting": waiting, "pending": view.pending - waiting, "running": view.running}
            for state, count in found.items():
                jobs.add_metric([str(backend.gpu_id), state], count)
        return jobs

    def _backends(self) -> Iterator[Metric]:
        state = GaugeMetricFamily(
            "comfygate_backend_state",
            "1 for the state that a GPU's ComfyUI is in, 0 for others.",
            labels=["gpu", "state"],
        )
        restarts = CounterMetricFamily(
            "comfygate_backend_restarts",
            "How often a GPU's ComfyUI was started again, and why.",
            labels=["gpu", "cause"],
        )
        draining = GaugeMetricFamily(
            "comfygate_gpu_draining", "1 for a GPU that is to get no further prompts, 0 for others.", labels=["gpu"]
        )
        for backend in self._books.fleet:
            gpu = str(backend.gpu_id)
            draining.add_metric([gpu], float(backend.gpu_id in self._books.draining))
            for one in BackendState:
                state.add_metric([gpu, one.value], float(backend.state is one))
            for cause in RestartCause:
                restarts.add_metric([gpu, cause.value], backend.restart_causes.get(cause, 0))
        yield state
        yield restarts
        yield draining

    def _devices(self) -> Iterator[Metric]:
        readings = {str(backend.gpu_id): self._reading(backend) for backend in self._books.fleet}
        for name, text, figure in _DEVICE:
            family = GaugeMetricFamily(name, text, labels=["gpu"])
            for gpu, reading in readings.items():
                value = figure(reading)
                if value is not None:
                    family.add_metric([gpu], value)
            yield family

    def _reading(self, backend: IBackend) -> Reading:
        return self._telemetry.readings.of(backend.gpu_id)


_DEVICE: tuple[tuple[str, str, Callable[[Reading], float | None]], ...] = (
    ("comfygate_gpu_memory_used_bytes", "Memory of the device that is in use.", lambda one: one.memory_used),
    ("comfygate_gpu_memory_total_bytes", "Memory of the device.", lambda one: one.memory_total),
    (
        "comfygate_gpu_utilisation_ratio",
        "Share of the last moments in which the device was at work, from 0 to 1.",
        lambda one: one.utilisation,
    ),
    ("comfygate_gpu_temperature_celsius", "Temperature of the device.", lambda one: one.temperature),
    (
        "comfygate_backend_resident_memory_bytes",
        "Main memory of the ComfyUI process, without its children.",
        lambda one: one.process_memory,
    ),
)


def _requests(gates: Iterable[GateFigures]) -> Iterator[Metric]:
    requests = CounterMetricFamily(
        "comfygate_http_requests", "Requests that were answered.", labels=["gate", "route", "status"]
    )
    received = CounterMetricFamily(
        "comfygate_http_received_bytes", "Bytes from clients: heads, bodies, WebSocket frames.", labels=["gate"]
    )
    sent = CounterMetricFamily("comfygate_http_sent_bytes", "Bytes to clients, likewise.", labels=["gate"])
    limited = CounterMetricFamily(
        "comfygate_rate_limited", "Requests that were refused for want of a token.", labels=["gate"]
    )
    clients = GaugeMetricFamily("comfygate_websocket_clients", "WebSockets that are open.", labels=["gate"])
    for gate in gates:
        counts = dict.fromkeys(_ALWAYS, 0) | gate.tally.requests
        for (kind, status), count in counts.items():
            requests.add_metric([gate.name, kind.value, str(status)], count)
        received.add_metric([gate.name], gate.tally.received)
        sent.add_metric([gate.name], gate.tally.sent)
        limited.add_metric([gate.name], gate.tally.refused)
        clients.add_metric([gate.name], gate.websocket_clients)
    yield from (requests, received, sent, limited, clients)


def _counter(name: str, text: str, values: Mapping[tuple[str, ...], int], *labels: str) -> Metric:
    counter = CounterMetricFamily(name, text, labels=list(labels))
    for key, value in values.items():
        counter.add_metric(list(key), value)
    return counter


def _histogram(name: str, text: str, durations: Mapping[int, Durations]) -> Metric:
    histogram = HistogramMetricFamily(name, text, labels=["gpu"])
    for gpu_id, one in durations.items():
        buckets = [("+Inf" if bound == float("inf") else str(bound), count) for bound, count in one.cumulative()]
        histogram.add_metric([str(gpu_id)], buckets, one.total)
    return histogram
