"""One ComfyUI: its process, its life, and what can be asked of it."""
