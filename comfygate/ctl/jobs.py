"""Prompts: what runs and waits, and how one of them is moved or stopped."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from comfygate.ctl.client import Client, in_words
from comfygate.ctl.errors import RefusedError
from comfygate.ctl.screen import Screen, add_row, columns, print_json, print_json_line, state
from comfygate.ctl.words import number, plain, since

SHORTEST = 4
"""Characters of a prompt_id that may stand for all of it."""

_WHOLE = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_FULL_IDS = 116
"""Columns from which on there is room for whole ids."""

Job = dict[str, Any]


def resolve(text: str, prompt_ids: Iterable[str], where: str = "in the queue") -> str:
    """The prompt that is meant by the beginning of its id.

    :param where: what the others are, for messages.

    :raises RefusedError: if there is none, or several.
    """
    if len(text) < SHORTEST:
        raise RefusedError(f"{plain(text)!r} is too short for a prompt; give {SHORTEST} characters of its id at least")
    found = sorted({one for one in prompt_ids if one.startswith(text.lower()) or one == text})
    if text in found:
        return text
    if not found:
        raise RefusedError(f"no prompt {where} has an id that begins with {plain(text)}")
    if len(found) > 1:
        few = ", ".join(map(plain, found[:3])) + (", …" if len(found) > 3 else "")
        raise RefusedError(
            f"{len(found)} prompts {where} have an id that begins with {plain(text)}: {few}; give more of it"
        )
    return found[0]


def resolve_all(client: Client, texts: Sequence[str]) -> list[str]:
    """The prompts that are meant; the daemon is asked only where an id is not whole."""
    if all(_WHOLE.fullmatch(text) for text in texts):
        return list(texts)
    prompt_ids = [job["prompt_id"] for job in client.get("queue")["jobs"]]
    return [text if _WHOLE.fullmatch(text) else resolve(text, prompt_ids) for text in texts]


def select(queue: dict[str, Any], wanted: Sequence[str]) -> list[Job]:
    """The jobs of these GPUs (by number) and ports (by name); all, where none is named.

    :raises RefusedError: for a GPU or port that there is not.
    """
    known = {str(gpu_id) for gpu_id in queue["gpus"]} | set(queue["gates"])
    for one in wanted:
        if one not in known:
            there = f"GPUs are {', '.join(map(str, queue['gpus']))}; ports are {', '.join(queue['gates'])}"
            raise RefusedError(f"there is no GPU or port {plain(one)!r}; {there}")
    return [job for job in queue["jobs"] if not wanted or {str(job["gpu_id"]), job["gate"]} & set(wanted)]


def queue(client: Client, screen: Screen, wanted: Sequence[str], *, as_json: bool) -> None:
    """List every job that has not ended."""
    found = client.get("queue")
    jobs = select(found, wanted)
    if as_json:
        print_json({**found, "jobs": jobs})
    elif jobs:
        screen.show(table(jobs, found["time"], screen.width))
    else:
        screen.show(Text("Nothing runs, and nothing waits."))


def table(jobs: Iterable[Job], now: Any, width: int) -> Table:
    """Jobs as a table."""
    whole = width >= _FULL_IDS
    headings = [("#", "right"), ("PROMPT", "left"), ("GATE", "name"), ("GPU", "right"), ("STATE", "left")]
    headings += [("NUMBER", "right"), ("TRIES", "right"), ("CLIENT", "name"), ("AGE", "right")]
    shown = columns(*headings)
    for job in jobs:
        prompt_id = plain(job["prompt_id"])
        cells: list[Text | str] = [
            str(job["place"]),
            prompt_id if whole else prompt_id[:13],
            plain(job["gate"]) or "-",
            number(job["gpu_id"]) or "-",
            state(plain(job["state"])),
            number(job["number"]),
            number(job["attempts"]) if job["attempts"] else "-",
            plain(job["client_id"]) or "-",
            since(job["accepted"], now) or "-",
        ]
        add_row(shown, cells)
    return shown


def move(client: Client, screen: Screen, prompt: str, to: str, *, front: bool, as_json: bool) -> None:
    """Let a waiting prompt wait elsewhere."""
    (prompt_id,) = resolve_all(client, [prompt])
    moved = client.post("move", {"prompt_id": prompt_id, "to": to, "front": front})
    if as_json:
        print_json(moved)
        return
    where = "in front of everything" if front else "in its old order"
    text = (
        f"{plain(moved['prompt_id'])} waits at {plain(moved['gate'])} now, {where}; GPU {moved['gpu_id']} is expected"
    )
    screen.show(Text(f"{text} to run it."))


def cancel(client: Client, screen: Screen, prompts: Sequence[str], gpu: int | None, *, as_json: bool) -> None:
    """Stop prompts.

    :param prompts: none stands for all.
    :param gpu: only those of this GPU, where all are meant.
    :raises RefusedError: if one of them was not stopped.
    """
    prompt_ids = resolve_all(client, prompts) if prompts else _all(client, gpu)
    if not prompt_ids:
        if not as_json:
            screen.show(Text("Nothing runs, and nothing waits."))
        return
    missed = 0
    for line in client.lines("POST", "cancel", {"prompt_ids": prompt_ids}):
        if "done" in line:
            _check_end(line)
            break
        missed += line["error"] is not None
        _tell_cancelled(screen, line, as_json)
    else:
        raise RefusedError("the daemon ended before it had stopped all")
    if missed:
        raise RefusedError(f"{missed} of {len(prompt_ids)} prompts were not stopped")


def _all(client: Client, gpu: int | None) -> list[str]:
    """Every prompt, what runs last: or else the next would begin just to be stopped."""
    jobs = select(client.get("queue"), [] if gpu is None else [str(gpu)])
    return [job["prompt_id"] for job in sorted(jobs, key=lambda job: job["place"] == 0)]


def _tell_cancelled(screen: Screen, line: dict[str, Any], as_json: bool) -> None:
    prompt_id = plain(line["prompt_id"])
    if as_json:
        print_json_line(line)
    elif line["error"] is not None:
        screen.file.flush()
        sys.stderr.write(f"comfygatectl: {prompt_id}: {in_words(line['error'])}\n")
    else:
        was = "ran" if line["state"] == "running" else "waited"
        screen.show(Text(f"{prompt_id} is stopped; it {was} on GPU {line['gpu_id']}."))


def _check_end(line: dict[str, Any]) -> None:
    if not line["done"]:
        raise RefusedError(in_words(line["error"]))
