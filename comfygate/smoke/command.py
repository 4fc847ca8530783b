"""The command line: ``comfygate-smoke [--hub URL] [--port N] …``."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Coroutine, Sequence
from functools import partial
from typing import Any, NoReturn
from urllib.parse import urlsplit

from twisted.internet.defer import Deferred
from twisted.internet.task import react

import comfygate
from comfygate.smoke.checks import check_port
from comfygate.smoke.client import Client
from comfygate.smoke.outcome import Outcome, SilentError, UnexpectedError, UnreachableError, Verdict
from comfygate.smoke.record import Patience, Record
from comfygate.smoke.report import Report, all_well, as_json
from comfygate.smoke.starting import wait_started
from comfygate.smoke.targets import Target, find_targets

HUB = "http://127.0.0.1:8188"
FAILED, NOT_STARTED = 1, 2  #: exit statuses


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; a mistake ends the program with status 2."""
    options = argparse.ArgumentParser(
        prog="comfygate-smoke",
        description="Asks every port of a running ComfyGate for everything once, and says what works. "
        "A tiny prompt runs on each; two small pictures stay in the input folder.",
        epilog="Exit status: 0 all is well, 1 something failed, 2 there is no ComfyGate, or a mistake in the options.",
    )
    add = options.add_argument
    where = options.add_mutually_exclusive_group()
    where.add_argument("--hub", type=_url, default=HUB, metavar="URL", help=f"any port; it tells of all ({HUB})")
    where.add_argument("--url", type=_url, metavar="URL", help="check only this port")
    add("--port", type=int, action="append", metavar="N", help="check only this port; may be given several times")
    add("--timeout", type=_seconds, default=10.0, metavar="S", help="longest wait for an answer (10)")
    add("--prompt-timeout", type=_seconds, default=60.0, metavar="S", help="longest wait for a prompt to end (60)")
    add("--start-timeout", type=_seconds, default=120.0, metavar="S", help="longest wait for GPUs that start (120)")
    add("--no-limit", action="store_true", help="do not find out whether too many requests are refused")
    add("--json", action="store_true", help="report for programs")
    add("--version", action="version", version=f"comfygate-smoke {comfygate.__version__}")
    chosen = options.parse_args(arguments)
    if chosen.url is not None:
        if chosen.port:
            options.error("--url names one port already; leave --port out")
        chosen.hub, chosen.port = chosen.url, [urlsplit(chosen.url).port or 80]
    return chosen


def _url(text: str) -> str:
    try:
        parts = urlsplit(text)
        right = parts.scheme == "http" and parts.hostname and parts.path in ("", "/") and parts.port != 0
    except ValueError:
        right = False
    if not right or parts.query or parts.fragment or parts.username is not None:
        raise argparse.ArgumentTypeError(f"must be written http://host:port, not {text!r}")
    return text.rstrip("/")


def _seconds(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found <= 86_400:
        raise argparse.ArgumentTypeError(f"must be a number of seconds above 0, not {text!r}")
    return found


def main() -> None:
    """Run, and exit with a status that says how it went."""
    options = parse()
    react(lambda reactor: Deferred.fromCoroutine(_run(reactor, options)))


async def _run(reactor: Any, options: argparse.Namespace) -> None:
    began = time.monotonic()
    client = Client(reactor, options.hub, options.timeout)
    try:
        targets = await find_targets(client)
        checked = _chosen(options, targets)
        behind = frozenset().union(*(target.gpu_ids for target in checked))
        gpus = [target for target in targets if target.gpu_id in behind]
        await wait_started(client, gpus, options.start_timeout, partial(_tell_wait, options.start_timeout))
    except (UnreachableError, SilentError) as error:
        _refuse(f"{options.hub} cannot be reached ({error}); start ComfyGate, or name one of its ports with --hub URL")
    except UnexpectedError as error:
        outcomes = [_no_gate(options.hub, error)]
        _tell_end(options, Report(sys.stdout, ["hub"], os.environ), outcomes, began)
    report = Report(sys.stdout, [target.name for target in checked], os.environ)
    outcomes = await _check_all(reactor, options, checked, report)
    _tell_end(options, report, outcomes, began)


async def _check_all(
    reactor: Any, options: argparse.Namespace, targets: Sequence[Target], report: Report
) -> list[Outcome]:
    """Check all ports at the same time, and tell of them in their order."""
    patience = Patience(answer=options.timeout, prompt=options.prompt_timeout)
    checking = [
        _started(
            check_port(
                Record(Client(reactor, target.base, options.timeout), target, patience), limit=not options.no_limit
            )
        )
        for target in targets
    ]
    outcomes: list[Outcome] = []
    for check in checking:
        found = await check
        if not options.json:
            report.lines(found)
        outcomes += found
    return outcomes


def _started(check: Coroutine[Deferred[Any], Any, list[Outcome]]) -> Deferred[list[Outcome]]:
    return Deferred.fromCoroutine(check)


def _no_gate(hub: str, error: UnexpectedError) -> Outcome:
    note = f"expected the queues of a ComfyGate; came {error}"
    return Outcome(
        port=urlsplit(hub).port or 80,
        name="hub",
        gpu_id=None,
        method="GET",
        path="/queue/all",
        verdict=Verdict.FAILED,
        status=error.status,
        note=note,
    )


def _tell_end(options: argparse.Namespace, report: Report, outcomes: Sequence[Outcome], began: float) -> NoReturn:
    seconds = time.monotonic() - began
    if options.json:
        sys.stdout.write(as_json(options.hub, outcomes, seconds).decode())
    else:
        if len(outcomes) == 1:
            report.lines(outcomes)
        report.summary(outcomes, seconds)
    raise SystemExit(0 if all_well(outcomes) else FAILED)


def _chosen(options: argparse.Namespace, targets: Sequence[Target]) -> Sequence[Target]:
    for port in options.port or ():
        if port not in [target.port for target in targets]:
            ports = ", ".join(str(target.port) for target in targets)
            _refuse(f"{options.hub} knows no port {port}; it knows {ports}")
    return [target for target in targets if not options.port or target.port in options.port]


def _tell_wait(seconds: float, targets: Sequence[Target]) -> None:
    names = ", ".join(target.name for target in targets)
    sys.stderr.write(f"comfygate-smoke: waiting for {names} to start, for at most {seconds:g} s (--start-timeout)\n")


def _refuse(sentence: str) -> NoReturn:
    sys.stderr.write(f"comfygate-smoke: {sentence}\n")
    raise SystemExit(NOT_STARTED)
