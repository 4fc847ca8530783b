"""What is asked about prompts: one that runs, one that is interrupted, one that cannot run."""

from __future__ import annotations

import random
import time
import uuid
from typing import Any

from comfygate.smoke.judge import (
    answers_interrupt,
    has_prompt_id,
    image_in_history,
    is_json,
    is_not_queued,
    is_rejection,
)
from comfygate.smoke.outcome import UnexpectedError
from comfygate.smoke.record import Record
from comfygate.smoke.samples import PREVIEW_NODE, bad_workflow, workflow
from comfygate.smoke.websocket import Socket, is_last_of

EVENTS = frozenset({"execution_start", "executed", "execution_success"})


async def check_prompts(record: Record) -> dict[str, str] | None:
    """Send prompts and follow them.

    :return: the image that one made, on its GPU's own port, where it can be seen.
    """
    client_id = uuid.uuid4().hex
    sockets = [await _socket(record, "/ws", f"?clientId={client_id}"), await _socket(record, "/api/ws", "")]
    try:
        await record.post("/prompt", is_rejection, 400, json={"prompt": bad_workflow()}, note="one that cannot run")
        image = await _run(record, client_id, sockets[0])
        await _interrupt(record)
    finally:
        for socket in filter(None, sockets):
            socket.close()
    # What is only shown lies in the temp folder of its GPU.
    return image if record.target.gpu_id is not None else None


async def _run(record: Record, client_id: str, socket: Socket | None) -> dict[str, str] | None:
    """Let a prompt run to its end; give the image that it made."""
    own = record.target.gpu_id
    prompt_id = await record.post("/prompt", has_prompt_id(own), json=_prompt(client_id))
    if prompt_id is None:
        record.skip("GET", "/history/{id}", "no prompt was queued")
        return None
    deadline = time.monotonic() + record.patience.prompt
    if own is not None and socket is not None:
        await record.check("GET", "/ws", lambda: _events(socket, prompt_id, deadline))
    judge = image_in_history(prompt_id, PREVIEW_NODE)

    async def ended() -> tuple[dict[str, str], int, str]:
        seconds = max(0.0, deadline - time.monotonic())
        image, status = await record.until(f"/history/{prompt_id}", judge, seconds, "the prompt had not ended")
        return image, status, "the prompt has ended"

    image: dict[str, str] | None = await record.check("GET", "/history/{id}", ended)
    if image is None:
        await _withdraw(record, prompt_id)
        return None
    await record.get(f"/api/history/{prompt_id}", judge, called="/api/history/{id}")
    await record.get("/history?max_items=1", is_json)
    return image


async def _interrupt(record: Record) -> None:
    unknown = str(uuid.uuid4())
    judge = answers_interrupt(unknown, "unknown")
    await record.post("/interrupt", judge, json={"prompt_id": unknown}, note="one that is not there")
    prompt_id = await record.post("/api/prompt", has_prompt_id(record.target.gpu_id), json=_prompt())
    if prompt_id is None:
        record.skip("POST", "/api/interrupt", "no prompt was queued")
        return
    # It may have ended already, and is unknown then.
    judge = answers_interrupt(prompt_id, "running", "pending", "unknown")
    await record.post("/api/interrupt", judge, json={"prompt_id": prompt_id}, note="the one just queued")

    async def gone() -> tuple[None, int, str]:
        judge = is_not_queued(prompt_id)
        _, status = await record.until("/queue", judge, record.patience.answer, "the interrupted prompt was there")
        return None, status, "the interrupted prompt is gone"

    await record.check("GET", "/queue", gone)


async def _socket(record: Record, path: str, query: str) -> Socket | None:
    seconds = record.patience.answer
    socket = Socket(record.client.reactor, record.target.base, path + query, seconds)

    async def first() -> tuple[Socket, int | None, str]:
        try:
            await socket.open()
            await socket.wait_for(lambda message: message.get("type") == "status", seconds)
        except UnexpectedError as error:
            socket.close()
            error.status = socket.status
            raise
        return socket, socket.status, "a WebSocket; it tells the status first"

    opened: Socket | None = await record.check("GET", path, first)
    return opened


async def _events(socket: Socket, prompt_id: str, deadline: float) -> tuple[None, int | None, str]:
    try:
        await socket.wait_for(is_last_of(prompt_id), max(0.0, deadline - time.monotonic()))
    except UnexpectedError as error:
        # It may be the prompt that takes its time: the port itself is not silent.
        raise UnexpectedError(f"expected the events of the prompt; {error}", socket.status) from None
    types = socket.types(prompt_id)
    missing = sorted(EVENTS - set(types))
    if missing:
        raise UnexpectedError(f"the events of the prompt lack {' and '.join(missing)}", socket.status)
    return None, socket.status, f"the {len(types)} events of the prompt"


async def _withdraw(record: Record, prompt_id: str) -> None:
    """Leave no prompt behind that nobody waits for."""
    try:
        await record.client.ask_once("POST", "/interrupt", json={"prompt_id": prompt_id})
    except UnexpectedError:
        return  # the report says already that this port does not answer


def _prompt(client_id: str | None = None) -> dict[str, Any]:
    prompt = {"prompt": workflow(random.randrange(2**24))}
    return prompt if client_id is None else {**prompt, "client_id": client_id}
