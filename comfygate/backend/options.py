"""Which options the installed ComfyUI knows: asked of its ``--help``, once."""

from __future__ import annotations

from pathlib import Path

from twisted.internet.defer import CancelledError, Deferred, DeferredLock
from twisted.internet.interfaces import IReactorProcess

from comfygate.backend.commandline import Program, StartError, inherited_environment, known_options
from comfygate.backend.process import Command, launch

HELP_TIME = 60.0
"""Seconds that ``--help`` may take."""

HELP_SIZE = 1024 * 1024


class Options:
    """The options of each ComfyUI that this daemon runs.

    A failure is not remembered: the next start asks again, since somebody may
    have mended it.

    :param folder: the daemon's own, where the answers lie meanwhile: one that is killed leaves nothing elsewhere.
    """

    def __init__(self, reactor: IReactorProcess, folder: str) -> None:
        self._reactor = reactor
        self._log = Path(folder, "help.log")
        self._known: dict[Program, frozenset[str]] = {}
        self._lock = DeferredLock()

    async def of(self, program: Program) -> frozenset[str]:
        """List the options that `program` knows.

        :raises StartError: if it does not say.
        """
        await self._lock.acquire()
        try:
            if program not in self._known:
                self._known[program] = await self._ask(program)
            return self._known[program]
        finally:
            self._lock.release()

    async def _ask(self, program: Program) -> frozenset[str]:
        program.check()
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._log.unlink(missing_ok=True)
        try:
            reason = await self._run(program, self._log)
            text = self._log.read_text(errors="replace") if self._log.exists() else ""
        finally:
            self._log.unlink(missing_ok=True)
        if reason != "exit status 0":
            raise StartError(f"{' '.join(program.argv)} --help failed ({reason}): {last_line(text)}")
        options = known_options(text)
        if "--port" not in options:
            raise StartError(f"{' '.join(program.argv)} --help lists no --port; is that ComfyUI?")
        return options

    async def _run(self, program: Program, log: Path) -> str:
        # The width keeps argparse from wrapping the list of options.
        quiet = {"NO_COLOR": "1", "TERM": "dumb", "COLUMNS": "200", "CUDA_VISIBLE_DEVICES": ""}
        command = Command(
            argv=(*program.argv, "--help"),
            folder=program.folder,
            environment={**inherited_environment(), **quiet},
            log_path=str(log),
            log_size=HELP_SIZE,
            log_files=1,
        )
        process = launch(self._reactor, command)
        late = self._reactor.callLater(HELP_TIME, process.kill)  # type: ignore[attr-defined]
        ended: Deferred[str] = Deferred()
        process.exited.addBoth(ended.callback)
        answered: Deferred[str] = Deferred(lambda _: process.kill())
        ended.addCallback(_pass_on, answered)
        try:
            return await answered
        except CancelledError:
            # The next one writes to the same log.
            await ended
            raise
        finally:
            if late.active():
                late.cancel()


def _pass_on(reason: str, answered: Deferred[str]) -> None:
    if not answered.called:
        answered.callback(reason)


def last_line(text: str) -> str:
    """The last line of `text` that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it printed nothing"
