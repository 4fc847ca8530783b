"""GPUs that have not started yet are waited for: what they answer until then says nothing about them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from comfygate.smoke.client import Client
from comfygate.smoke.outcome import SilentError
from comfygate.smoke.targets import Target, find_gpus

POLL = 0.5  #: seconds


async def wait_started(
    client: Client, gpus: Iterable[Target], seconds: float, tell: Callable[[list[Target]], None]
) -> None:
    """Wait until none of the GPUs that are starting is any more, whatever became of it.

    :param gpus: their ports, as found just now.
    :param seconds: the longest wait, but for the last answer.
    :param tell: told what is waited for, if anything is.
    :raises UnexpectedError: nobody tells of the GPUs any more.
    """
    waiting = [gpu for gpu in gpus if gpu.is_starting]
    if waiting:
        tell(waiting)
    clock = client.reactor
    until = clock.seconds() + seconds
    while waiting and clock.seconds() < until:
        await client.pause(min(POLL, until - clock.seconds()))
        try:
            still = {gpu.port for gpu in await find_gpus(client) if gpu.is_starting}
        except SilentError:
            continue  # one answer that is late says nothing yet
        # One that fails is started again and again: once is enough.
        waiting = [gpu for gpu in waiting if gpu.port in still]
