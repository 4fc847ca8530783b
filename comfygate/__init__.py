"""ComfyGate: N GPUs as N complete ComfyUI servers, and one hub over them all."""

__version__ = "0.1.0"
