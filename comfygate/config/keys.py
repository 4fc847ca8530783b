"""Every key of the configuration, declared once: its name, kind, default and explanation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attrs import frozen

from comfygate.config import values
from comfygate.routes import DEFAULT_METERED


@frozen(kw_only=True)
class Key:
    """One key of a section.

    :ivar read: turns text into the value; raises ValueError.
    :ivar default: as it would be written in the file; empty where there is no
        fixed one.
    :ivar otherwise: what holds where there is no fixed default, in words.
    :ivar help: what it means, for people.
    :ivar path: whether it names a folder or a program, so that ``~`` and
        ``$VARIABLE`` are replaced.
    :ivar lines: whether it may go on in further, indented lines.
    :ivar blank: whether it may be empty.
    """

    name: str
    read: Callable[[str], Any]
    default: str = ""
    otherwise: str = ""
    help: str
    path: bool = False
    lines: bool = False
    blank: bool = False


def _limits(inherited: bool) -> tuple[Key, ...]:
    """Keys that the main section gives for all ports, and others for one port."""

    def key(name: str, read: Callable[[str], Any], default: str, help: str, lines: bool = False) -> Key:
        otherwise = "as in [comfygate]" if inherited else ""
        return Key(
            name=name,
            read=read,
            default="" if inherited else default,
            otherwise=otherwise,
            help=help,
            lines=lines,
            blank=lines,
        )

    return (
        key("rate", values.number(0, 1_000_000), "10", "metered requests per second and port; 0: no limit"),
        key("burst", values.integer(1, 1_000_000), "20", "metered requests that may come at once after a pause"),
        key(
            "limit_by",
            values.one_of("port", "client"),
            "port",
            "who shares a limit: all of a port, or each client address",
        ),
        key(
            "max_wait", values.number(0, 600), "0", "seconds that a request may wait for its turn before it gets a 429"
        ),
        key(
            "metered",
            values.metered,
            ", ".join(DEFAULT_METERED),
            "requests that count, as METHOD /path, METHOD /path* or METHOD *; /interrupt never does",
            lines=True,
        ),
    )


MAIN = (
    Key(
        name="comfyui",
        read=values.line,
        default="$COMFYUI_HOME",
        help='folder with main.py, or "simulator" for the built-in stand-in',
        path=True,
    ),
    Key(
        name="python",
        read=values.line,
        otherwise="$COMFYUI_PYTHON, else venv/bin/python or .venv/bin/python in ComfyUI's folder, else ComfyGate's own",
        help="the Python that has what ComfyUI needs",
        path=True,
    ),
    Key(
        name="devices",
        read=values.devices,
        default="all",
        help='"all" (NVML), "0,1,3", UUIDs, "cpu*4", or "none"',
    ),
    Key(name="interface", read=values.address, default="127.0.0.1", help="where the ports listen; 0.0.0.0: everywhere"),
    Key(
        name="first_port",
        read=values.port,
        default="8181",
        help="the n-th GPU listens on first_port + n; hub_port is left out",
    ),
    Key(name="hub_port", read=values.port_or_none, default="8188", help="the port over all GPUs; 0: no hub"),
    Key(
        name="state_dir",
        read=values.line,
        otherwise="$STATE_DIRECTORY (systemd), /var/lib/comfygate for root, else ~/.local/state/comfygate",
        help='logs, control socket, per-GPU temp and database; "temporary": a new one that is removed at the end',
        path=True,
    ),
    Key(
        name="input_dir",
        read=values.line,
        otherwise="input in ComfyUI's folder; with the simulator, in state_dir",
        help="shared by all GPUs",
        path=True,
    ),
    Key(
        name="output_dir",
        read=values.line,
        otherwise="output in ComfyUI's folder; with the simulator, in state_dir",
        help="shared by all GPUs",
        path=True,
    ),
    Key(
        name="arguments",
        read=values.arguments,
        help="extra ComfyUI arguments, such as --preview-method auto",
        lines=True,
        blank=True,
    ),
    Key(name="policy", read=values.policy, default="affinity", help="which GPU runs a prompt sent to the hub"),
    Key(
        name="interrupt_policy",
        read=values.policy,
        default="ledger",
        help="where a prompt that is to be interrupted is looked for",
    ),
    Key(
        name="cors_origins",
        read=values.origins,
        help="whose pages may use the ports besides a port's own, such as http://localhost:3000, "
        "https://tools.example; null: pages opened from a file, and any that hide their origin; *: all pages",
        lines=True,
        blank=True,
    ),
    *_limits(inherited=False),
    Key(
        name="prefetch",
        read=values.integer(1, 100),
        default="2",
        help="prompts that a ComfyUI is handed at once: the running one and the next",
    ),
    Key(
        name="read_ahead",
        read=values.one_of("on", "off"),
        default="on",
        help="whether the model files of the next prompts are read into memory, where that is free, before they run",
    ),
    Key(
        name="journal",
        read=values.one_of("on", "off"),
        default="on",
        help="whether prompts are written to state_dir before they are accepted; off: they end with the daemon",
    ),
    Key(
        name="retries",
        read=values.integer(0, 1),
        default="1",
        help="how often a prompt is tried again whose ComfyUI died while it ran; after two deaths it has failed",
    ),
    Key(
        name="when_down",
        read=values.one_of("queue", "refuse"),
        default="queue",
        help="whether prompts are accepted for a GPU that is down and will be back, to wait for it, or get a 503",
    ),
    Key(
        name="keep_finished",
        read=values.integer(0, 10_000_000),
        default="10000",
        help="finished prompts whose history is kept on disk",
    ),
    Key(
        name="keep_days",
        read=values.number(0, 36_500),
        default="30",
        help="days that the history of a finished prompt is kept",
    ),
    Key(
        name="max_pending",
        read=values.integer(1, 10_000_000),
        default="10000",
        help="prompts that may wait in all; then 503 with Retry-After",
    ),
    Key(
        name="max_pending_bytes",
        read=values.size(2**20, 2**40),
        default="1G",
        help="memory that waiting prompts may hold in all",
    ),
    Key(
        name="max_prompt",
        read=values.size(2**10, 2**30),
        default="32M",
        help="largest body of a request that ComfyGate answers itself, such as POST /prompt",
    ),
    Key(
        name="max_body",
        read=values.size(0, 2**50),
        default="0",
        help="largest body that is passed on; 0: no limit but ComfyUI's own (--max-upload-size)",
    ),
    Key(
        name="max_connections",
        read=values.integer(1, 1_000_000),
        default="1024",
        help="clients that may be connected to one port at once",
    ),
    Key(
        name="backend_timeout",
        read=values.number(0.1, 86_400),
        default="120",
        help="seconds that a ComfyUI may take to begin an answer; then 504",
    ),
    Key(
        name="start_timeout",
        read=values.number(1, 86_400),
        default="600",
        help="seconds that a ComfyUI may take to start",
    ),
    Key(
        name="restart_delay",
        read=values.number(0, 3_600),
        default="1",
        help="seconds between the death of a ComfyUI and its next start; doubled after each further death in a row",
    ),
    Key(
        name="restart_delay_max",
        read=values.number(0, 86_400),
        default="60",
        help="seconds that restart_delay grows to at most",
    ),
    Key(
        name="hang_timeout",
        read=values.number(0, 86_400),
        default="90",
        help="seconds without an answer and without processor time after which a ComfyUI is restarted; 0: never",
    ),
    Key(
        name="stall_timeout",
        read=values.number(0, 86_400),
        default="1800",
        help="seconds that a prompt may run without an event and without processor time before its ComfyUI is "
        "restarted; 0: any time",
    ),
    Key(
        name="shutdown_grace",
        read=values.number(0, 86_400),
        default="10",
        help="seconds that running prompts are given to end when the daemon stops; what has not is run after its next "
        "start",
    ),
    Key(
        name="stop_grace",
        read=values.number(0, 3_600),
        default="5",
        help="seconds that a ComfyUI is given to end by itself before it is killed",
    ),
    Key(
        name="fast_path",
        read=values.one_of("on", "off"),
        default="on",
        help="whether requests and bodies take the shorter way through Twisted; off only to find out whether a fault "
        "lies there",
    ),
    Key(name="log_size", read=values.size(2**12, 2**40), default="10M", help="size of one file of a ComfyUI's output"),
    Key(
        name="log_files", read=values.integer(1, 1000), default="3", help="files that are kept of each ComfyUI's output"
    ),
)

GPU = (
    Key(name="port", read=values.port, otherwise="counted from first_port", help="where this GPU listens"),
    Key(name="name", read=values.line, otherwise="the device's own", help="what people call this GPU"),
    Key(
        name="arguments",
        read=values.arguments,
        help="further ComfyUI arguments, after those of [comfygate]",
        lines=True,
        blank=True,
    ),
    Key(
        name="weight",
        read=values.number(0.01, 1000),
        default="1",
        help="with the policy weighted: its share of the prompts, relative to other GPUs",
    ),
    Key(
        name="url",
        read=values.url,
        otherwise="a ComfyUI that ComfyGate starts",
        help="http://host:port of a ComfyUI that someone else runs: proxied, watched, never started or stopped",
    ),
    *_limits(inherited=True),
)

GATE = (
    Key(name="port", read=values.port, otherwise="has to be given", help="where this gate listens"),
    Key(name="gpus", read=values.gpu_ids, default="all", help="the GPUs behind it, such as 0,1"),
    Key(name="policy", read=values.policy, otherwise="as in [comfygate]", help="which of them runs a prompt"),
    *_limits(inherited=True),
)
