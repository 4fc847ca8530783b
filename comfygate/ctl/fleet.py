"""All GPUs at a glance: what ``status`` prints and ``top`` shows again and again."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from comfygate.ctl.screen import add_row, columns, state
from comfygate.ctl.words import gpus, is_number, number, plain, since

WIDE = 120
"""Columns from which on there is room for errors in the table, and for the node that runs."""

Status = dict[str, Any]


def picture(status: Status, width: int) -> RenderableType:
    """The table, and what stands below it.

    :param status: what GET /comfygate/status answers.
    :param width: columns of the screen.
    """
    wide = width >= WIDE
    parts: list[RenderableType] = [_table(status, wide), Text()]
    parts += [_hanging(*row) for row in _summary(status)]
    if not wide:
        parts += _errors(status)
    return Group(*parts)


def _table(status: Status, wide: bool) -> Table:
    headings = [("GPU", "right"), ("NAME", "name"), ("STATE", "left"), ("PORT", "right"), ("RUNNING", "left")]
    headings += [("PROGRESS", "left"), ("PENDING", "right"), ("SINCE", "right"), ("RESTARTS", "right")]
    if not wide:  # every column counts
        headings[6:] = [("PEND", "right"), ("SINCE", "right"), ("RST", "right")]
    table = columns(*headings, *([("LAST ERROR", "wrapped")] if wide else []))
    if not wide:
        table.padding = (0, 1, 0, 0)
    for gpu in status["gpus"]:
        job = gpu.get("job") or {}
        cells: list[Text | str] = [
            str(gpu["gpu_id"]),
            plain(gpu["name"]),
            state(_state(gpu)),
            str(gpu["port"]),
            plain(job.get("prompt_id"))[:8],
            _progress(job, wide),
            str(gpu["pending_count"] or "-"),
            since(gpu["since"], status["time"]),
            str(gpu["restarts"] or "-"),
        ]
        if wide:
            cells.append(plain(gpu["last_error"]))
        add_row(table, cells)
    return table


def _state(gpu: dict[str, Any]) -> str:
    found = plain(gpu["state"])
    if not gpu.get("draining"):
        return found
    return "draining" if found == "ready" else f"{found}, draining"


def _progress(job: dict[str, Any], wide: bool) -> str:
    share = done(job)
    percent = "" if share is None else f"{share * 100:3.0f}%"
    steps = ""
    if wide and is_number(job.get("value")) and is_number(job.get("max")):
        steps = f"{number(job['value'])}/{number(job['max'])}"
    node = plain(job.get("node_type"), 24 if wide else 11)
    return " ".join(part for part in (percent, node, steps) if part) or ("…" if job else "")


def done(job: dict[str, Any]) -> float | None:
    """How much of a prompt is done, from 0 to 1, as far as it tells."""
    nodes, total = job.get("nodes_done"), job.get("nodes_total")
    if not is_number(nodes) or not is_number(total) or not total:
        return None
    value, most = job.get("value"), job.get("max")
    within = value / most if is_number(value) and is_number(most) and most else 0.0
    return min(1.0, max(0.0, (nodes + min(1.0, within)) / total))


def _summary(status: Status) -> Iterator[tuple[str, str]]:
    totals = status["totals"]
    ready = f"{totals['ready']} of {totals['gpus']} ready"
    work = f"{totals['running']} running, {totals['pending']} pending ({totals['waiting']} of at most "
    work += f"{totals['max_pending']} wait with the gate)"
    ended = ", ".join(f"{totals[name]} {name}" for name in ("done", "failed", "cancelled") if name in totals)
    yield "totals", f"{ready}; {work}; {ended}"
    if (journal := status.get("journal")) is not None:
        yield "journal", _journal(journal)
    yield "ports", "; ".join(_ports(status))
    yield "daemon", f"ComfyGate {plain(status['version'])}, up {since(status['started'], status['time'])}"


def _journal(journal: Any) -> str:
    """``{"state", "error"}`` in words."""
    if not isinstance(journal, dict):
        return plain(journal)
    error = plain(journal.get("error"))
    return plain(journal.get("state")) + (f": {error}" if error else "")


def _ports(status: Status) -> Iterator[str]:
    """The ports over several GPUs; those of single GPUs stand in the table."""
    for gate in status["gates"]:
        if not gate["name"].startswith("gpu-"):
            yield f"{plain(gate['name'])} {gate['port']} ({gpus(gate['gpus'])})"
    clients = sum(gate["websocket_clients"] for gate in status["gates"])
    yield f"{clients} WebSocket client{'' if clients == 1 else 's'} on all"


def _errors(status: Status) -> Iterator[RenderableType]:
    for gpu in status["gpus"]:
        if gpu["last_error"]:
            yield _hanging(f"GPU {gpu['gpu_id']}", plain(gpu["last_error"]), style="red")


def _hanging(label: str, text: str, style: str = "") -> Table:
    """A label, and beside it a text that goes on below itself."""
    row = Table.grid(padding=(0, 1, 0, 0))
    row.add_column(width=8, no_wrap=True)
    row.add_column(overflow="fold")
    row.add_row(Text(label, style="dim"), Text(text, style=style))
    return row
