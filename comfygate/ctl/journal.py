"""The journal: what is on disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import orjson
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from comfygate.ctl.client import Client
from comfygate.ctl.jobs import resolve
from comfygate.ctl.screen import Screen, add_row, columns, print_json, state
from comfygate.ctl.words import is_number, moment, number, plain, size

_MOST = 100_000
_FULL_IDS = 116


def journal(client: Client, screen: Screen, *, finished: bool, only: str | None, limit: int, as_json: bool) -> None:
    """Tell of the file, and list its jobs.

    :param finished: whether jobs that have ended are listed, too.
    :param only: the one state that is listed.
    """
    found = client.get("journal", finished=1 if finished else None, state=only, limit=limit)
    if as_json:
        print_json(found)
        return
    for part in _about(found):
        screen.show(part)
    jobs = found.get("jobs") or []
    if jobs:
        screen.show(Text())
        screen.show(_table(jobs, screen.width))


def show(client: Client, screen: Screen, prompt: str, *, as_json: bool) -> None:
    """Tell all about one job."""
    found = client.get("journal", prompt_id=_resolved(client, prompt))
    if as_json:
        print_json(found)
        return
    for label, value in found.items():
        screen.show(_fact(label, _shown(label, value)))


def _resolved(client: Client, prompt: str) -> str:
    if len(prompt) >= 36:
        return prompt
    jobs = client.get("journal", finished=1, limit=_MOST)["jobs"]
    return resolve(prompt, [job["prompt_id"] for job in jobs], "in the journal")


def _about(found: dict[str, Any]) -> Iterator[RenderableType]:
    for label, value in found.items():
        if label == "jobs":
            continue
        if isinstance(value, dict):
            yield _fact(label, ", ".join(f"{_shown(name, count)} {plain(name)}" for name, count in value.items()))
        elif not isinstance(value, list):
            yield _fact(label, _shown(label, value))
        else:
            yield _fact(label, str(len(value)) if value else "none")
            for one in value:
                yield Text(f"  {_line(one)}")


def _line(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{plain(name)} {_shown(name, one)}" for name, one in value.items() if one is not None)
    return plain(value)


def _fact(label: str, text: str) -> Text:
    return Text(f"{plain(label).replace('_', ' '):<12} ", style="dim").append(text, style="default")


def _shown(label: str, value: Any) -> str:
    if label in ("accepted", "ended", "begun", "created", "updated"):
        return moment(value) or "-"
    if label.endswith("size") or label.endswith("bytes"):
        return size(value) or "-"
    if is_number(value):
        return number(value)
    if isinstance(value, dict | list):
        return orjson.dumps(value).decode()
    return plain(value) or "-"


def _table(jobs: Iterable[dict[str, Any]], width: int) -> Table:
    headings: Sequence[tuple[str, str]] = (
        ("PROMPT", "left"),
        ("STATE", "left"),
        ("GATE", "name"),
        ("GPU", "right"),
        ("NUMBER", "right"),
        ("TRIES", "right"),
        ("ACCEPTED", "left"),
        ("REASON", "name"),
    )
    table = columns(*headings)
    for job in jobs:
        prompt_id = plain(job.get("prompt_id"))
        cells: list[Text | str] = [
            prompt_id if width >= _FULL_IDS else prompt_id[:13],
            state(plain(job.get("state"))),
            plain(job.get("gate")) or "-",
            number(job.get("gpu_id")) or "-",
            number(job.get("number")),
            number(job["attempts"]) if job.get("attempts") else "-",
            moment(job.get("accepted")) if width >= _FULL_IDS else moment(job.get("accepted"))[5:16],
            plain(job.get("reason")),
        ]
        add_row(table, cells)
    return table
