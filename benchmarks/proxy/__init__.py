"""ComfyGate beside nginx and HAProxy: what a proxy in front of ComfyUI costs."""
