"""What the daemon and its ComfyUIs said."""

from __future__ import annotations

from typing import Any

from rich.text import Text

from comfygate.ctl.client import Client
from comfygate.ctl.screen import Screen, print_json_line
from comfygate.ctl.words import moment, plain, plain_lines

_STYLES = {"warn": "yellow", "error": "bold red", "critical": "bold red"}


def logs(client: Client, screen: Screen, gpu: int | None, *, count: int, follow: bool, as_json: bool) -> None:
    """Print the newest lines, and those that come, until the daemon ends."""
    for line in client.lines("GET", "logs", gpu=gpu, lines=count, follow=1 if follow else None):
        if as_json:
            print_json_line(line)
        else:
            screen.show(_shown(line))


def _shown(line: dict[str, Any]) -> Text:
    if "lost" in line:
        return Text(f"… {plain(line['lost'])} lines are left out: they came faster than they were read", style="dim")
    if "gpu_id" in line:
        return Text(plain(str(line["text"]).expandtabs(), 8000))
    level = plain(line["level"])
    text = Text(f"{moment(line['time'])} ", style="dim")
    return text.append(f"{level:<8} ", style=_STYLES.get(level, "dim")).append(
        plain_lines(line["text"]), style="default"
    )
