"""``python -m comfygate.smoke``: the same as comfygate-smoke."""

from __future__ import annotations

from comfygate.smoke.command import main

if __name__ == "__main__":
    main()
