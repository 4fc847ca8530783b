"""A program that behaves like ComfyUI to every client, without models or a GPU.

Start it with ``python -m comfygate.simulator [ComfyUI options]``.  It is a
program of its own: nothing of ComfyGate imports it, and it imports nothing of
ComfyGate but the version.
"""
