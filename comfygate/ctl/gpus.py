"""GPUs: drained, used again, started again; and the configuration read again."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

from rich.text import Text

from comfygate.ctl.client import Client, in_words
from comfygate.ctl.errors import RefusedError
from comfygate.ctl.screen import Screen, print_json, print_json_line, state
from comfygate.ctl.words import gpus, plain


def drain(client: Client, screen: Screen, gpu_ids: Sequence[int], *, undrain: bool, as_json: bool) -> None:
    """Hand GPUs no further prompts, or hand them prompts again.

    :param gpu_ids: none stands for all.
    """
    found = client.post("undrain" if undrain else "drain", _which(gpu_ids))
    if as_json:
        print_json(found)
        return
    for gpu in found["gpus"]:
        what = "gets prompts again" if not gpu["draining"] else "gets no further prompts"
        text = Text(f"GPU {gpu['gpu_id']} {what}; it is ")
        screen.show(text.append_text(state(plain(gpu["state"]))).append("."))


def restart(client: Client, screen: Screen, gpu_ids: Sequence[int], *, now: bool, wait: bool, as_json: bool) -> None:
    """Start ComfyUIs again, one after the other, and show how far it is.

    :raises RefusedError: if one does not come back.
    """
    fields = {**_which(gpu_ids), "now": now, "wait": wait}
    if not wait:
        begun = client.post("restart", fields)
        if as_json:
            print_json(begun)
        else:
            screen.show(Text(f"The restart of {gpus(begun['gpu_ids'])} has begun; comfygatectl top shows it."))
        return
    try:
        _show_steps(client, screen, fields, as_json)
    except KeyboardInterrupt:
        sys.stderr.write("comfygatectl: the restart goes on without you; comfygatectl top shows it\n")
        raise


def _show_steps(client: Client, screen: Screen, fields: dict[str, Any], as_json: bool) -> None:
    began = time.monotonic()
    for line in client.lines("POST", "restart", fields):
        if as_json:
            print_json_line(line)
        if "done" in line:
            if not line["done"]:
                raise RefusedError(in_words(line["error"]))
            return
        if not as_json and "step" in line:
            screen.show(_step(line, time.monotonic() - began))
    raise RefusedError("the daemon ended before the restart did")


def _step(line: dict[str, Any], seconds: float) -> Text:
    text = Text(f"{seconds:6.1f} s  GPU {line['gpu_id']}  ")
    text.append_text(state(plain(line["step"])))
    detail = plain(line["detail"])
    return text.append(f": {detail}" if detail else "")


def reload(client: Client, screen: Screen, *, as_json: bool) -> None:
    """Have the daemon read its configuration again."""
    found = client.post("reload", {})
    if as_json:
        print_json(found)
        return
    for change in found["changes"] or ["nothing has changed"]:
        screen.show(Text(plain(change)))


def _which(gpu_ids: Sequence[int]) -> dict[str, Any]:
    return {"gpu_ids": list(gpu_ids)} if gpu_ids else {}
