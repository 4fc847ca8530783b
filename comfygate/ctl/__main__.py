"""``python -m comfygate.ctl``: the same as comfygatectl."""

from __future__ import annotations

from comfygate.ctl.command import main

if __name__ == "__main__":
    main()
