"""``comfygatectl``: shows a running daemon, and tells it what to do, over its control socket."""
