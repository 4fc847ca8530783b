"""One stream for a client of several ComfyUIs: what is told of which prompt, and when."""
