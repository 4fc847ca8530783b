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
    :ivar gpu_ids: the GPUs behind it.
    :ivar is_starting: whether it is a GPU's port, and that GPU's ComfyUI has not started yet.
    """

    base: str
    port: int
    name: str
    gpu_id: int | None = None
    gpu_ids: frozenset[int] = frozenset()
    is_starting: bool = False


async def find_targets(client: Client) -> list[Target]:
    """Ask a port which others there are: the GPUs', then those over several GPUs.

    :raises UnexpectedError: the answer is not ComfyGate's.
    """
    gpus = await find_gpus(client)
    every = [gpu.gpu_id for gpu in gpus]
    found = gpus + [_over_several(client, gate["port"], gate["name"], gate["gpus"]) for gate in await _gates(client)]
    asked = urlsplit(client.base).port or 80
    found.append(_over_several(client, asked, "hub", every))
    return list({target.port: target for target in reversed(found)}.values())[::-1]


async def find_gpus(client: Client) -> list[Target]:
    """Ask a port for the GPUs' own ports.

    :raises UnexpectedError: the answer is not ComfyGate's.
    """
    reply = await client.ask("GET", "/queue/all")
    if reply.status != 200:
        raise UnexpectedError(f"{reply.status}, {reply.complaint}")
    try:
        return [_of_gpu(client, queue) for queue in reply.object()["queues"]]
    except (LookupError, TypeError, ValueError):
        raise UnexpectedError(shown(reply.body)) from None


async def _gates(client: Client) -> Iterable[dict[str, Any]]:
    """The ports over several GPUs that the status tells of, if it does."""
    try:
        gates = (await client.ask("GET", "/comfygate/status")).object()["gates"]
        return [gate for gate in gates if _is_gate(gate)]
    except (UnexpectedError, LookupError, TypeError):
        return []


def _is_gate(gate: Any) -> bool:
    types = {"port": int, "name": str, "gpus": list}
    return isinstance(gate, dict) and all(isinstance(gate.get(key), kind) for key, kind in types.items())


def _of_gpu(client: Client, queue: dict[str, Any]) -> Target:
    port, gpu_id = queue["port"], queue["gpu_id"]
    if not isinstance(port, int) or not isinstance(gpu_id, int):
        raise ValueError(queue)
    return Target(
        base=_base(client, port),
        port=port,
        name=f"GPU {gpu_id}",
        gpu_id=gpu_id,
        gpu_ids=frozenset((gpu_id,)),
        is_starting=queue.get("state") == "starting",
    )


def _over_several(client: Client, port: int, name: str, gpu_ids: Iterable[Any]) -> Target:
    behind = frozenset(gpu_id for gpu_id in gpu_ids if isinstance(gpu_id, int))
    return Target(base=_base(client, port), port=port, name=name, gpu_ids=behind)


def _base(client: Client, port: int) -> str:
    host = urlsplit(client.base).hostname or ""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
