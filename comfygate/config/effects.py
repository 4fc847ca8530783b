"""What has to happen for a key's new value to hold, key by key."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

_LIMITS = ("rate", "burst", "limit_by", "max_wait", "metered")


class Effect(Enum):
    """What has to happen for a key's new value to hold."""

    GATE = "ports take it on, and no connection ends"
    PORT = "a port listens elsewhere, and its own connections end"
    PROCESS = "ComfyUIs are started again, each when its running prompt has ended"
    NAME = "it is said from now on"
    DAEMON = "it is used from now on"
    NEVER = "the daemon itself has to be started again"


EFFECTS: Mapping[str, Mapping[str, Effect]] = {
    "comfygate": {
        **dict.fromkeys(("comfyui", "python", "devices", "input_dir", "output_dir", "arguments"), Effect.PROCESS),
        **dict.fromkeys(("log_size", "log_files"), Effect.PROCESS),
        **dict.fromkeys(("interface", "first_port", "hub_port"), Effect.PORT),
        **dict.fromkeys(("policy", *_LIMITS), Effect.GATE),
        **dict.fromkeys(("state_dir", "journal", "fast_path"), Effect.NEVER),
        **dict.fromkeys(
            (
                "interrupt_policy",
                "cors_origins",
                "prefetch",
                "read_ahead",
                "retries",
                "when_down",
                "keep_finished",
                "keep_days",
                "max_pending",
                "max_pending_bytes",
                "max_prompt",
                "max_body",
                "max_connections",
                "backend_timeout",
                "start_timeout",
                "restart_delay",
                "restart_delay_max",
                "hang_timeout",
                "stall_timeout",
                "shutdown_grace",
                "stop_grace",
            ),
            Effect.DAEMON,
        ),
    },
    "gpu": {
        "port": Effect.PORT,
        "name": Effect.NAME,
        "arguments": Effect.PROCESS,
        "url": Effect.PROCESS,
        "weight": Effect.DAEMON,
        **dict.fromkeys(_LIMITS, Effect.GATE),
    },
    "gate": {"port": Effect.PORT, "gpus": Effect.GATE, **dict.fromkeys(("policy", *_LIMITS), Effect.GATE)},
}
"""Every key of :mod:`comfygate.config.keys`, by section."""
