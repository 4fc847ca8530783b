"""One port, the requests to it, and what became of each."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

from attrs import frozen

from comfygate.smoke.client import Client
from comfygate.smoke.judge import Judge
from comfygate.smoke.outcome import Outcome, SilentError, UnexpectedError, Verdict
from comfygate.smoke.targets import Target

MAX_SILENCES, IN_A_ROW = 4, 2
"""After so many answers that did not come in time, in all or in a row, a port is asked for no more."""

POLL = 0.25  #: seconds

Check = Callable[[], Awaitable[tuple[Any, int | None, str]]]
"""Gives a result, an HTTP status and a note, or raises UnexpectedError."""


@frozen(kw_only=True)
class Patience:
    """Bounds on waiting, in seconds: for an answer, and for a prompt to end."""

    answer: float
    prompt: float


class GivenUpError(Exception):
    """The port is silent; to ask it for more would only take time."""


class Record:
    """What was asked of one port.

    :ivar outcomes: one for each check, in order.
    """

    def __init__(self, client: Client, target: Target, patience: Patience) -> None:
        self.outcomes: list[Outcome] = []
        self.client = client
        self.target = target
        self.patience = patience
        self._silences = 0
        self._in_a_row = 0

    async def get(self, path: str, judge: Judge, status: int = 200, **more: Any) -> Any:
        """Check a GET; see :meth:`request`."""
        return await self.request("GET", path, judge, status, **more)

    async def post(self, path: str, judge: Judge, status: int = 200, **more: Any) -> Any:
        """Check a POST; see :meth:`request`."""
        return await self.request("POST", path, judge, status, **more)

    async def request(
        self, method: str, path: str, judge: Judge, status: int, *, called: str = "", note: str = "", **more: Any
    ) -> Any:
        """Check one request.

        :param called: the path as the report names it, if not in full.
        :param more: as treq takes them.
        :return: what `judge` made of the answer; None if it is not as it should be.
        """

        async def once() -> tuple[Any, int, str]:
            reply = await self.client.ask(method, path, **more)
            return judge(reply, status), reply.status, note

        return await self.check(method, called or path, once)

    async def check(self, method: str, path: str, check: Check) -> Any:
        """Carry a check out and note what it found.

        :return: its result; None if it failed.
        :raises GivenUpError: the port was silent before.
        """
        if self._silences >= MAX_SILENCES or self._in_a_row >= IN_A_ROW:
            self.skip("", "everything else", "this port is silent")
            raise GivenUpError
        began = time.monotonic()
        result, verdict = None, Verdict.PASSED
        try:
            result, status, note = await check()
        except UnexpectedError as error:
            verdict, status, note = Verdict.FAILED, error.status, str(error)
            silent = isinstance(error, SilentError)
            self._silences += silent
            self._in_a_row = self._in_a_row + 1 if silent else 0
        else:
            self._in_a_row = 0
        self._note(method, path, verdict, status, note, time.monotonic() - began)
        return result

    async def until(self, path: str, judge: Judge, seconds: float, missing: str) -> tuple[Any, int]:
        """Ask again and again until `judge` finds something.

        :return: what it found, and the status.
        :raises UnexpectedError: it did not in time.
        """
        deadline = time.monotonic() + seconds
        while True:
            reply = await self.client.ask("GET", path)
            found = judge(reply)
            if found:
                return found, reply.status
            if time.monotonic() >= deadline:
                raise UnexpectedError(f"{missing} after {seconds:.0f} s", reply.status)
            await self.client.pause(POLL)

    def skip(self, method: str, path: str, reason: str) -> None:
        """Note that something could not be tried."""
        self._note(method, path, Verdict.SKIPPED, None, f"not tried: {reason}", 0.0)

    def _note(self, method: str, path: str, verdict: Verdict, status: int | None, note: str, seconds: float) -> None:
        target = self.target
        self.outcomes.append(
            Outcome(
                port=target.port,
                name=target.name,
                gpu_id=target.gpu_id,
                method=method,
                path=path,
                verdict=verdict,
                status=status,
                note=note,
                seconds=seconds,
            )
        )
