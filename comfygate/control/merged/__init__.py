"""What several ComfyUIs answer as one."""
