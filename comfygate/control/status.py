"""GET /comfygate/status: everything at a glance, from memory alone."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson
from attrs import asdict, frozen

import comfygate
from comfygate.backend.readings import Reading, Readings
from comfygate.control.books import Books
from comfygate.control.chronicle import Chronicle
from comfygate.control.outcomes import OUTCOMES, Outcomes
from comfygate.gate.tally import GateFigures
from comfygate.interfaces import IBackend, IJournal
from comfygate.model import BackendState, BackendView, Progress

_COUNTED = ("running", "pending")

LONGEST_ID = 200
"""Characters of a client_id that are shown: clients choose it, and every viewer is sent it twice a second."""


@frozen(kw_only=True)
class Telemetry:
    """Where the figures come from.

    :ivar gates: every port as it is now.
    :ivar ports: the port that each GPU answers on.
    :ivar wall_clock: seconds since 1970.
    :ivar journal: whether there is a journal, and how it fares: ``{"state", "error"}``.
    """

    books: Books
    outcomes: Outcomes
    chronicle: Chronicle
    readings: Readings
    gates: Callable[[], Sequence[GateFigures]]
    ports: Mapping[int, int]
    wall_clock: Callable[[], float]
    journal: Callable[[], dict[str, Any]] = lambda: {"state": "off", "error": None}


class Status:
    """Puts the figures together; asks no backend."""

    def __init__(self, telemetry: Telemetry) -> None:
        self._telemetry = telemetry
        self._books = telemetry.books

    def facts(self) -> dict[str, Any]:
        """Everything but the time, so that two can be compared."""
        gpus = [self._gpu(backend) for backend in self._books.fleet]
        return {
            "version": comfygate.__version__,
            "started": self._telemetry.chronicle.started,
            "totals": self._totals(gpus),
            "journal": self._telemetry.journal(),
            "gates": [_gate(figures) for figures in self._telemetry.gates()],
            "gpus": gpus,
            "errors": [asdict(mishap) for mishap in self._telemetry.chronicle.mishaps],
        }

    def encoded(self) -> bytes:
        """Everything but the time, in JSON."""
        return orjson.dumps(self.facts())

    def dated(self, encoded: bytes) -> bytes:
        """What :meth:`encoded` gave, with the ``time`` that it is now."""
        return b'{"time":%.3f,' % self._telemetry.wall_clock() + encoded[1:]

    def _totals(self, gpus: list[dict[str, Any]]) -> dict[str, Any]:
        loads = [gpu["load"] for gpu in gpus]
        return {
            "gpus": len(gpus),
            "ready": sum(gpu["state"] == "ready" for gpu in gpus),
            **{load: loads.count(load) for load in ("idle", "busy", "full")},
            **{name: sum(gpu[f"{name}_count"] for gpu in gpus) for name in _COUNTED},
            "waiting": len(self._books.ledger.waiting),
            **{name: sum(gpu[name] for gpu in gpus) for name in OUTCOMES},
            "max_pending": self._books.ledger.waiting.max_jobs,
        }

    def _gpu(self, backend: IBackend) -> dict[str, Any]:
        gpu_id = backend.gpu_id
        view = self._books.view(gpu_id)
        outcomes = self._telemetry.outcomes
        return {
            "gpu_id": gpu_id,
            "name": backend.name,
            "device": backend.device,
            "port": self._telemetry.ports.get(gpu_id),
            "owned": backend.owned,
            "state": backend.state.value,
            "draining": gpu_id in self._books.draining,
            "since": self._telemetry.chronicle.since(gpu_id),
            "restarts": backend.restarts,
            "last_error": backend.last_error,
            "retry_after": float(math.ceil(backend.retry_after)),
            "load": load(view),
            "running_count": view.running,
            "pending_count": view.pending,
            **{name: outcomes.ended[gpu_id, name] for name in OUTCOMES},
            "job": self._job(backend),
            **_reading(self._telemetry.readings.of(gpu_id)),
        }

    def _job(self, backend: IBackend) -> dict[str, Any] | None:
        running = self._books.ledger.running(backend.gpu_id)
        if running is None:
            return None
        progress = backend.progress
        if progress is None or progress.prompt_id != running.prompt_id:
            progress = Progress(prompt_id=running.prompt_id)
        return {
            **asdict(progress),
            # Whoever knows a client's own id gets its events.
            "client_id": running.client_id and self._books.aliases.shown(running.client_id),
            "since": self._telemetry.outcomes.running_since(running.prompt_id),
        }


def journal_state(journal: IJournal) -> dict[str, Any]:
    """``{"state": "on" | "failing" | "off", "error": why nothing can be written now, in one line, or None}``."""
    if not journal.lasting:
        return {"state": "off", "error": None}
    error = getattr(journal, "trouble", None)
    return {"state": "failing" if error else "on", "error": error}


def load(view: BackendView) -> str | None:
    """How busy a GPU is.

    :return: ``idle``: nothing runs or waits there; ``busy``: it has room for
        more; ``full``: it holds as many prompts as it may; ``None`` unless READY.
    """
    if view.state is not BackendState.READY:
        return None
    if len(view.active) >= view.prefetch:
        return "full"
    return "busy" if view.running + view.pending else "idle"


def _gate(figures: GateFigures) -> dict[str, Any]:
    return {
        "name": figures.name,
        "port": figures.port,
        "gpus": figures.gpu_ids,
        "websocket_clients": figures.websocket_clients,
        "requests": figures.tally.answered,
        "refused": figures.tally.refused,
    }


def _reading(reading: Reading) -> dict[str, Any]:
    memory = None
    if reading.memory_used is not None and reading.memory_total is not None:
        memory = {"used": reading.memory_used, "total": reading.memory_total}
    return {
        "memory": memory,
        "utilisation": reading.utilisation,
        "temperature": reading.temperature,
        "process_memory": reading.process_memory,
    }
