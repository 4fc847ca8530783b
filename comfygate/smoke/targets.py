"""Which ports a gate has."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from attrs import frozen

from comfygate.smoke.client import Client, shown
from comfygate.smoke.outcome import UnexpectedError


@frozen(kw_only=True)
class Target:
    """One port.

    :ivar base: its address, such as ``http://127.0.0.1:8181``.
    :ivar gpu_id: the GPU whose port it is; None for one over several.
    :ivar is_starting: whether that GPU's ComfyUI has not started yet.
    """

    base: str
    port: int
    name: str
    gpu_id: int | None = None
    is_starting: bool = False


async def find_targets(client: Client) -> list[Target]:
    """Ask a port which others there are: the GPUs', then those over several GPUs.

    :raises UnexpectedError: the answer is not ComfyGate's.
    """
    reply = await client.ask("GET", "/queue/all")
    if reply.status != 200:
        raise UnexpectedError(f"{reply.status}, {reply.complaint}")
    try:
        found = [
            _target(client.base, queue["port"], f"GPU {queue['gpu_id']}", queue["gpu_id"], queue.get("state"))
            for queue in reply.object()["queues"]
        ]
    except (LookupError, TypeError, ValueError):
        raise UnexpectedError(shown(reply.body)) from None
    found += [_target(client.base, gate["port"], gate["name"]) for gate in await _gates(client)]
    asked = urlsplit(client.base).port or 80
    found.append(_target(client.base, asked, "hub"))
    return list({target.port: target for target in reversed(found)}.values())[::-1]


async def _gates(client: Client) -> Iterable[dict[str, Any]]:
    """The ports over several GPUs that the status tells of, if it does."""
    try:
        gates = (await client.ask("GET", "/comfygate/status")).object()["gates"]
        return [gate for gate in gates if _is_gate(gate)]
    except (UnexpectedError, LookupError, TypeError):
        return []


def _is_gate(gate: Any) -> bool:
    return isinstance(gate, dict) and isinstance(gate.get("port"), int) and isinstance(gate.get("name"), str)


def _target(base: str, port: Any, name: str, gpu_id: Any = None, state: Any = None) -> Target:
    if not isinstance(port, int) or not (gpu_id is None or isinstance(gpu_id, int)):
        raise ValueError(port)
    host = urlsplit(base).hostname or ""
    shown_host = f"[{host}]" if ":" in host else host
    return Target(
        base=f"http://{shown_host}:{port}", port=port, name=name, gpu_id=gpu_id, is_starting=state == "starting"
    )
