"""GPUs that have not started yet are waited for: what they answer until then says nothing about them."""

from __future__ import annotations

from collections.abc import Callable, Collection

from comfygate.smoke.client import Client
from comfygate.smoke.targets import Target, find_targets

POLL = 0.5  #: seconds; the port that is asked has its limit, too


async def wait_started(
    client: Client, targets: Collection[Target], seconds: float, tell: Callable[[Collection[Target]], None]
) -> None:
    """Wait until none of the GPUs that are starting is any more, whatever became of it.

    :param targets: the ports to be checked, as found just now.
    :param seconds: the longest wait.
    :param tell: told what is waited for, if anything is.
    :raises UnexpectedError: nobody tells of the GPUs any more.
    """
    waiting = {target.port: target for target in targets if target.is_starting}
    if waiting:
        tell(waiting.values())
    clock = client.reactor
    until = clock.seconds() + seconds
    while waiting and clock.seconds() < until:
        await client.pause(min(POLL, until - clock.seconds()))
        still = {target.port for target in await find_targets(client) if target.is_starting}
        # One that fails is started again and again: once is enough.
        waiting = {port: target for port, target in waiting.items() if port in still}
