"""``comfygatectl COMMAND …``: one function for each command, and how the program ends.

What a command needs is imported when it is carried out, so that help and
mistakes cost nothing.
"""

# ruff: noqa: PLC0415

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from comfygate.ctl.arguments import parse
from comfygate.ctl.errors import CtlError, UsageError

if TYPE_CHECKING:
    from comfygate.ctl.client import Client
    from comfygate.ctl.screen import Screen

Command = Callable[["Client", "Screen", argparse.Namespace], None]


def main() -> None:
    """Run, and exit with a status that says how it went."""
    options = parse()
    try:
        _run(options)
        sys.stdout.flush()
    except CtlError as error:
        _end(error)
    except KeyboardInterrupt:
        # As a shell expects of a program that was interrupted.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BrokenPipeError:
        # Whoever read has read enough; nothing more can be written, also not at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(options: argparse.Namespace) -> None:
    from comfygate.ctl.client import Client
    from comfygate.ctl.find import explain, find_socket
    from comfygate.ctl.screen import screen

    path = find_socket(options.socket, options.state_dir, options.config, os.environ)
    client = Client(path, options.timeout, lambda path, error: explain(path, error, os.environ))
    _COMMANDS[options.command](client, screen(os.environ), options)


def _status(client: Client, screen: Screen, options: argparse.Namespace) -> None:
    from comfygate.ctl.fleet import picture
    from comfygate.ctl.screen import print_json

    found = client.get("/comfygate/status")
    if options.json:
        print_json(found)
    else:
        screen.show(picture(found, screen.width))


def _top(client: Client, screen: Screen, options: argparse.Namespace) -> None:
    if options.json:
        from comfygate.ctl.screen import print_json_line

        for status in client.statuses():
            print_json_line(status)
        return
    if not (sys.stdin.isatty() and screen.is_terminal):
        raise UsageError("top needs a terminal; comfygatectl status and comfygatectl top --json do not")
    from comfygate.ctl.top import watch

    watch(client, screen)


def _queue(client: Client, screen: Screen, options: argparse.Namespace) -> None:
    from comfygate.ctl.jobs import queue

    queue(client, screen, options.only, as_json=options.json)


def _move(client: Client, screen: Screen, options: argparse.Namespace) -> None:
    from comfygate.ctl.jobs import move

    move(client, screen, options.prompt, options.to, front=options.front, as_json=options.json)


def _cancel(client: Client, screen: Screen, options: argparse.Namespace) -> None:
    from comfygate.ctl.jobs import cancel

    cancel(client, screen, options.prompts, options.gpu, as_json=options.json)


def _drain(client: Client, screen: Screen, options: argparse.Namespace) -> None:
    from comfygate.ctl.gpus import drain

    drain(client, screen, options.gpus, undrain=options.command == "undrain", as_json=options.json)


def _restart(client: Client, screen: Screen, options: argparse.Namespace) -> None:
    from comfygate.ctl.gpus import restart

    restart(client, screen, options.gpus, now=options.now, wait=not options.no_wait, as_json=options.json)


def _reload(client: Client, screen: Screen, options: argparse.Namespace) -> None:
    from comfygate.ctl.gpus import reload

    reload(client, screen, as_json=options.json)


def _logs(client: Client, screen: Screen, options: argparse.Namespace) -> None:
    from comfygate.ctl.logs import logs

    logs(client, screen, options.gpu, count=options.lines, follow=options.follow, as_json=options.json)


def _journal(client: Client, screen: Screen, options: argparse.Namespace) -> None:
    from comfygate.ctl.journal import journal, show

    if options.show:
        show(client, screen, options.show[1], as_json=options.json)
        return
    finished, only = options.finished, options.state
    journal(client, screen, finished=finished, only=only, limit=options.limit, as_json=options.json)


_COMMANDS: dict[str, Command] = {
    "status": _status,
    "top": _top,
    "queue": _queue,
    "move": _move,
    "cancel": _cancel,
    "drain": _drain,
    "undrain": _drain,
    "restart": _restart,
    "reload": _reload,
    "logs": _logs,
    "journal": _journal,
}


def _end(error: CtlError) -> NoReturn:
    sys.stderr.write(f"comfygatectl: {str(error).rstrip('.')}.\n")
    raise SystemExit(error.status)
