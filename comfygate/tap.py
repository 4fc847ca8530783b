"""``twistd comfygate``: options in, a service out.  The only module that knows the reactor."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from typing import Any, NoReturn

from twisted.application.service import IService
from twisted.python import usage

import comfygate
from comfygate.claims import StateFolder, claim_ports, raise_file_limit
from comfygate.config.settings import ConfigError, load
from comfygate.footprint import settle, without_openssl
from comfygate.hangups import Hangups
from comfygate.plan import Plan, make_plan


class Options(usage.Options):
    """The command line behind ``twistd comfygate``."""

    synopsis = "[--config FILE] [--check]"
    longdesc = (
        "Starts one ComfyUI for each GPU, each on a port of its own, and a hub over all of them. "
        "Without a file, all NVIDIA GPUs are served with the ComfyUI in $COMFYUI_HOME."
    )
    optParameters = [["config", "c", None, "the configuration, an INI file"]]
    optFlags = [["check", None, "only say whether the configuration is right, and start nothing"]]

    plan: Plan
    hangups: Hangups

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        """Read the command line; a mistake in it is one sentence and exit status 2."""
        try:
            super().parseOptions(options)  # type: ignore[no-untyped-call]
        except usage.UsageError as error:
            _refuse(f"{str(error).rstrip('.')}; see twistd comfygate --help")

    def parseArgs(self, *words: str) -> None:
        """Take no words without an option."""
        if words:
            raise usage.UsageError(f"{words[0]!r} is not an option; a configuration is named with --config {words[0]}")

    def opt_version(self) -> NoReturn:
        """Print the version and exit."""
        sys.stdout.write(f"comfygate {comfygate.__version__}\n")
        raise SystemExit(0)

    def postOptions(self) -> None:
        """Read and check the configuration."""
        # twistd may go to another folder later, and a relative name must mean the same file then.
        self._here = os.getcwd()
        self.hangups = Hangups()
        if not self["check"]:
            self.hangups.listen()
        try:
            self.plan = self.read()
        except ConfigError as error:
            _refuse(str(error))
        if self["check"]:
            ports = ", ".join(f"{gate.name} on {gate.port}" for gate in self.plan.gates)
            sys.stdout.write(f"{self.plan.config.filename}: all is well; it would serve {ports}\n")
            raise SystemExit(0)

    def read(self) -> Plan:
        """Read and check the configuration as it is now.

        :raises ConfigError: for any mistake.
        """
        return make_plan(load(self["config"], os.environ, self._here))


def makeService(options: Options) -> IService:
    """Claim folder and ports, and make the daemon.

    What can fail fails here, while twistd still has its terminal.
    """
    without_openssl()
    from twisted.internet import reactor  # noqa: PLC0415 - importing it installs it

    # Twisted's timers follow the wall clock; ours must not jump with it.
    reactor.seconds = time.monotonic  # type: ignore[method-assign]
    _exit_cleanly(reactor)
    from comfygate.daemon import Daemon  # noqa: PLC0415 - --check and --help need none of it
    from comfygate.gate.fast_path.loop import spin  # noqa: PLC0415
    from comfygate.persistence import open_store  # noqa: PLC0415

    plan = options.plan
    if plan.config.is_fast:
        spin(reactor)
    raise_file_limit()
    try:
        folder = StateFolder(plan.config)
        try:
            sockets = claim_ports(plan.config, plan.gates)
            opened = open_store(plan.config)
        except ConfigError:
            folder.release()
            raise
    except ConfigError as error:
        _refuse(str(error))
    daemon = Daemon(reactor, plan, folder, sockets, opened, options.read)
    if opened is not None:
        # twistd forks to become a daemon, and SQLite loses its locks in that; the service opens the file again.
        opened.store.close()
    options.hangups.connect(reactor, daemon.reload)
    reactor.addSystemEventTrigger("after", "shutdown", options.hangups.ignore)
    reactor.callWhenRunning(settle)
    return daemon


def _exit_cleanly(reactor: Any) -> None:
    """Let a stop by a signal end with status 0, as init systems expect.

    twistd would end by the same signal once more.
    """

    def forget() -> None:
        reactor._exitSignal = None

    reactor.addSystemEventTrigger("after", "shutdown", forget)


def _refuse(sentence: str) -> NoReturn:
    sys.stderr.write(f"comfygate: {sentence}\n")
    raise SystemExit(2)
