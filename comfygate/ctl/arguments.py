"""The command line of comfygatectl."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import comfygate

STATES = (
    "waiting",
    "sent",
    "unclear",
    "pending",
    "running",
    "stranded",
    "done",
    "failed",
    "cancelled",
    "unknown",
)
"""States of prompts in the journal."""

_EPILOG = """\
Which daemon: without --socket, --state-dir or --config it is the one that twistd comfygate would start here without a
configuration ($STATE_DIRECTORY; for root /var/lib/comfygate; else ~/.local/state/comfygate), or that of the system.

Examples:
  comfygatectl status                          one look at all GPUs
  comfygatectl --config etc/demo.ini top       the same, live, of the daemon with that configuration
  comfygatectl move 3f2a --to gpu-1 --front    let the prompt whose id begins with 3f2a run next on GPU 1
  comfygatectl restart --all                   start all ComfyUIs again, one after the other; no prompt is lost

Exit status: 0 done; 1 the daemon refused, or it failed; 2 a mistake in the command line; 3 there is no daemon, or it
is another user's.  comfygatectl COMMAND --help says more of each command.
"""

_EXAMPLES = {
    "status": "comfygatectl status\n  comfygatectl status --json | jq .totals",
    "top": "comfygatectl top\n  comfygatectl top --json | jq --unbuffered .totals.pending",
    "queue": "comfygatectl queue\n  comfygatectl queue 0 1\n  comfygatectl queue hub",
    "move": "comfygatectl move 3f2a --to gpu-1\n  comfygatectl move 3f2a --to hub --front",
    "cancel": "comfygatectl cancel 3f2a 77b0\n  comfygatectl cancel --all --gpu 2",
    "drain": "comfygatectl drain 2\n  comfygatectl drain --all",
    "undrain": "comfygatectl undrain 2",
    "restart": "comfygatectl restart 2\n  comfygatectl restart --all --now",
    "reload": "comfygatectl reload",
    "logs": "comfygatectl logs -f\n  comfygatectl logs 2 -n 500",
    "journal": "comfygatectl journal --finished --state failed\n  comfygatectl journal show 3f2a",
}

_HELP = {
    "status": "show all GPUs, once",
    "top": "show all GPUs, live; q or Ctrl-C ends",
    "queue": "list every prompt that runs or waits",
    "move": "let a waiting prompt wait at another port, or in front",
    "cancel": "stop prompts, whether they run or wait",
    "drain": "hand GPUs no further prompts; what runs there goes on",
    "undrain": "hand GPUs prompts again",
    "restart": "start ComfyUIs again, one after the other; no prompt is lost",
    "reload": "have the daemon read its configuration again",
    "logs": "what the daemon said, or what a GPU's ComfyUI printed",
    "journal": "what is written down on disk",
}


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; a mistake ends the program with status 2.

    :return: `command`, the options that all commands have (`socket`,
        `state_dir`, `config`, `timeout`, `json`), and those of the command.
    """
    options = argparse.ArgumentParser(
        prog="comfygatectl",
        description="Shows a running ComfyGate, and tells it what to do, over its control socket.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_common(options, again=False)
    options.add_argument("--version", action="version", version=f"comfygatectl {comfygate.__version__}")
    commands = options.add_subparsers(dest="command", metavar="COMMAND", required=True, title="commands")
    made = {name: _command(commands, name) for name in _HELP}
    _add_job_options(made)
    _add_gpu_options(made)
    _add_reading_options(made)
    chosen = options.parse_args(arguments)
    _check(chosen, made[chosen.command])
    return chosen


def _add_common(options: argparse.ArgumentParser, *, again: bool) -> None:
    """Options that may stand before the command and after it; what stands after it counts."""
    group = options.add_argument_group("which daemon, and how it is shown")

    def add(name: str, default: object, **more: object) -> None:
        group.add_argument(name, default=argparse.SUPPRESS if again else default, **more)  # type: ignore[arg-type]

    add("--socket", None, metavar="PATH", help="its control socket")
    add("--state-dir", None, metavar="DIR", help="the folder with its control socket")
    add("--config", None, metavar="FILE", help="its configuration, which names that folder")
    wait = "longest wait for an answer, in seconds (10); a minute at least where something has to be done for it"
    add("--timeout", 10.0, type=_seconds, metavar="S", help=wait)
    add("--json", False, action="store_true", help="for programs; what goes on has an object in each line")


def _command(commands: argparse._SubParsersAction[argparse.ArgumentParser], name: str) -> argparse.ArgumentParser:
    made = commands.add_parser(
        name,
        help=_HELP[name],
        description=f"{_HELP[name][0].upper()}{_HELP[name][1:]}.",
        epilog=f"Examples:\n  {_EXAMPLES[name]}\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    _add_common(made, again=True)
    return made


def _add_job_options(made: dict[str, argparse.ArgumentParser]) -> None:
    prompt = "a prompt_id, or its first four characters or more"
    made["queue"].add_argument("only", nargs="*", metavar="GPU|PORT", help="only of these: 0, hub, …")
    made["move"].add_argument("prompt", metavar="PROMPT_ID", help=prompt)
    made["move"].add_argument("--to", required=True, metavar="PORT", help="gpu-0, gpu-1, …, hub, or the name of a gate")
    made["move"].add_argument("--front", action="store_true", help="before everything else that waits")
    made["cancel"].add_argument("prompts", nargs="*", metavar="PROMPT_ID", help=prompt)
    made["cancel"].add_argument("--all", action="store_true", help="everything that runs or waits")
    made["cancel"].add_argument("--gpu", type=_gpu, metavar="N", help="with --all: only on this GPU")


def _add_gpu_options(made: dict[str, argparse.ArgumentParser]) -> None:
    for name in ("drain", "undrain", "restart"):
        made[name].add_argument("gpus", nargs="*", type=_gpu, metavar="GPU", help="counted from 0")
        made[name].add_argument("--all", action="store_true", help="all GPUs")
    restart = made["restart"].add_argument
    restart(
        "--now", action="store_true", help="cut running prompts off, to run again, instead of waiting for their end"
    )
    restart("--no-wait", action="store_true", help="end as soon as the restart has begun")


def _add_reading_options(made: dict[str, argparse.ArgumentParser]) -> None:
    logs, journal = made["logs"].add_argument, made["journal"].add_argument
    logs("gpu", nargs="?", type=_gpu, metavar="GPU", help="whose ComfyUI; without it, the daemon itself")
    logs("-f", "--follow", action="store_true", help="go on with what comes")
    logs("-n", "--lines", type=_count(10_000), default=50, metavar="N", help="how many of the newest (50)")
    journal("show", nargs="*", metavar="show PROMPT_ID", help="tell all about this one prompt")
    journal("--finished", action="store_true", help="list what has ended, too")
    journal("--state", metavar="S", choices=STATES, help="list only what is waiting, running, done, failed, …")
    journal("--limit", type=_count(100_000), default=100, metavar="N", help="how many are listed (100)")


def _check(chosen: argparse.Namespace, command: argparse.ArgumentParser) -> None:
    """Refuse what argparse does not."""
    if sum(one is not None for one in (chosen.socket, chosen.state_dir, chosen.config)) > 1:
        command.error("--socket, --state-dir and --config name one daemon each; give only one of them")
    named = getattr(chosen, "gpus", None) if hasattr(chosen, "gpus") else getattr(chosen, "prompts", None)
    if named is not None:
        what = "prompts" if hasattr(chosen, "prompts") else "GPUs"
        if named and chosen.all:
            command.error(f"--all names all {what} already; leave the others out")
        if not named and not chosen.all:
            command.error(f"name {what}, or --all")
    if getattr(chosen, "prompts", None) and chosen.gpu is not None:
        command.error("--gpu goes with --all only")
    if chosen.command == "journal" and chosen.show and (len(chosen.show) != 2 or chosen.show[0] != "show"):
        command.error("write: comfygatectl journal show PROMPT_ID")


def _seconds(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = 0.0
    if not 0 < found <= 86_400:
        raise argparse.ArgumentTypeError(f"must be a number of seconds above 0, not {text!r}")
    return found


def _gpu(text: str) -> int:
    digits = text.removeprefix("gpu-")
    if not (digits.isascii() and digits.isdigit() and len(digits) < 7):
        raise argparse.ArgumentTypeError(f"a GPU is meant by its number, counted from 0, not {text!r}")
    return int(digits)


class _count:  # noqa: N801 - argparse shows a type's name
    """A whole number up to a bound."""

    def __init__(self, most: int) -> None:
        self._most = most

    def __call__(self, text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) <= self._most):
            raise argparse.ArgumentTypeError(f"must be a whole number from 0 to {self._most}, not {text!r}")
        return int(text)
