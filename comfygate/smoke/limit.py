"""Whether too many requests are refused."""

from __future__ import annotations

from twisted.internet.defer import Deferred, FirstError, gatherResults

from comfygate.smoke.client import Client, Reply, retry_after
from comfygate.smoke.outcome import UnexpectedError

MOST = 60  #: requests, after which there seems to be no limit
AT_ONCE = 10
PATH = "/prompt"


async def check_limit(client: Client) -> tuple[None, int, str]:
    """Ask until the answer is 429.

    :return: nothing, the last status, and a note.
    :raises UnexpectedError: the refusal does not say when to come back.
    """
    asked = 0
    while asked < MOST:
        asking = [Deferred.fromCoroutine(client.ask_once("GET", PATH)) for _ in range(AT_ONCE)]
        replies = await _all(asking)
        asked += AT_ONCE
        for reply in replies:
            if reply.status == 429:
                return None, 429, _refusal(reply)
            if reply.status != 200:
                raise UnexpectedError(f"expected 200 or 429; came {reply.complaint}", reply.status)
    return None, 200, f"no limit was met in {asked} requests"


async def _all(asking: list[Deferred[Reply]]) -> list[Reply]:
    """Wait for all; raise what the first that failed raised."""
    try:
        return await gatherResults(asking, consumeErrors=True)
    except FirstError as error:
        error.subFailure.raiseException()
        raise


def _refusal(reply: Reply) -> str:
    pause = retry_after(reply)
    if pause is None or pause < 1:
        came = reply.headers.get("retry-after", "none")
        raise UnexpectedError(f"expected Retry-After in whole seconds; came {came}", 429)
    if not reply.complaint.startswith("rate_limited"):
        raise UnexpectedError(f"expected rate_limited; came {reply.complaint}", 429)
    return f"too many requests are refused, for {pause:g} s"
