"""comfy-api-simplified, as its README shows it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from comfy_api_simplified import ComfyApiWrapper, ComfyWorkflowWrapper
from exchange import Prompt, done, task


def run(prompt: Prompt) -> list[bytes]:
    return list(api.queue_and_wait_images(ComfyWorkflowWrapper(prompt), "Save Image").values())


url, prompts, together = task()
api = ComfyApiWrapper(url)
with ThreadPoolExecutor(len(prompts) if together else 1) as pool:
    done(list(pool.map(run, prompts)))
