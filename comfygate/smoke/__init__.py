"""``comfygate-smoke``: asks a running ComfyGate for everything once, and says what works."""
