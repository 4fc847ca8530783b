"""The journal: what is on disk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import orjson
from rich.table import Table
from rich.text import Text

from comfygate.ctl.client import Client
from comfygate.ctl.jobs import resolve
from comfygate.ctl.screen import Screen, add_row, columns, print_json, state
from comfygate.ctl.words import moment, number, plain, size

_SEARCHED = 100_000
_FULL_IDS = 116

Facts = dict[str, Any]


def journal(client: Client, screen: Screen, *, finished: bool, only: str | None, limit: int, as_json: bool) -> None:
    """Tell of the file, and list its jobs.

    :param finished: whether jobs that have ended are listed, too.
    :param only: the one state that is listed.
    """
    found = client.get("journal", finished=1 if finished else None, state=only, limit=limit)
    if as_json:
        print_json(found)
        return
    screen.show(*_about(found))
    if found["jobs"]:
        screen.show(Text(), _table(found["jobs"], screen.width))


def show(client: Client, screen: Screen, prompt: str, *, as_json: bool) -> None:
    """Tell all about one job."""
    prompt_id = prompt
    if len(prompt) < len("00000000-0000-0000-0000-000000000000"):
        jobs = client.get("journal", finished=1, limit=_SEARCHED)["jobs"]
        prompt_id = resolve(prompt, [job["prompt_id"] for job in jobs], "in the journal")
    found = client.get("journal", prompt_id=prompt_id)
    if as_json:
        print_json(found)
        return
    screen.show(*(_fact(label, _shown(label, value)) for label, value in found.items()))


def _about(found: Facts) -> Iterator[Text]:
    yield _fact(
        "file", f"{plain(found['file'])}, {size(found['size'])}, schema version {plain(found['schema_version'])}"
    )
    yield _fact("state", f"cannot be written: {plain(found['trouble'])}" if found["trouble"] else "is written")
    counts = ", ".join(f"{number(count)} {plain(name)}" for name, count in found["counts"].items())
    kept = "1 history is kept" if found["histories"] == 1 else f"{number(found['histories'])} histories are kept"
    yield _fact("prompts", f"{counts or 'none'}; {kept}")
    yield from _listed(
        "stranded", found["stranded"], "prompts that no GPU is left for: comfygatectl move lets them run"
    )
    yield from _listed("damaged", map(_quarantined, found["quarantine"]), "records in quarantine, the newest first")
    yield from _listed("set aside", found["set_aside"], "damaged files, which were replaced")


def _listed(label: str, items: Iterable[Any], what: str) -> Iterator[Text]:
    listed = list(items)
    yield _fact(label, f"{len(listed)} {what}" if listed else "none")
    yield from (Text(f"  {plain(one)}") for one in listed)


def _quarantined(one: Facts) -> str:
    return f"{moment(one['found'])} {one['source']}: {one['why']}"


def _fact(label: str, text: str) -> Text:
    return Text(f"{plain(label).replace('_', ' '):<10} ", style="dim").append(text, style="default")


def _shown(label: str, value: Any) -> str:
    if label in ("accepted", "ended"):
        return moment(value) or "-"
    if isinstance(value, dict | list):
        return plain(orjson.dumps(value).decode(), 10_000)
    return number(value) or "-"


def _table(jobs: Iterable[Facts], width: int) -> Table:
    whole = width >= _FULL_IDS
    headings = [("PROMPT", "left"), ("STATE", "left"), ("GATE", "name"), ("GPU", "right"), ("TRIES", "right")]
    headings += [("ACCEPTED", "left"), ("ENDED", "left"), ("REASON", "name")]
    table = columns(*headings)
    for job in jobs:
        prompt_id = plain(job["prompt_id"])
        accepted, ended = (moment(job.get(name))[0 if whole else 5 :] or "-" for name in ("accepted", "ended"))
        cells: list[Text | str] = [
            prompt_id if whole else prompt_id[:13],
            state(plain(job["state"])),
            plain(job["gate"]) or "-",
            number(job["gpu_id"]) or "-",
            number(job["attempts"]) if job["attempts"] else "-",
            accepted,
            ended,
            plain(job.get("reason")),
        ]
        add_row(table, cells)
    return table
