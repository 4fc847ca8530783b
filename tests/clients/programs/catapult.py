"""comfy-catapult, as its README shows it."""

from __future__ import annotations

import asyncio

from comfy_catapult.api_client import ComfyAPIClient
from comfy_catapult.catapult import ComfyCatapult
from exchange import Prompt, done, task


async def run(client: ComfyAPIClient, catapult: ComfyCatapult, number: int, prompt: Prompt) -> list[bytes]:
    _, future = await catapult.Catapult(
        job_id=f"job-{number}", prepared_workflow=prompt, important=["9"], use_future_api=True
    )
    history = await future
    return [
        await client.GetView(folder_type=image["type"], subfolder=image["subfolder"], filename=image["filename"])
        for image in history["outputs"]["9"]["images"]
    ]


async def main() -> None:
    url, prompts, together = task()
    async with ComfyAPIClient(url) as client, ComfyCatapult(client, debug_path=None) as catapult:
        # Its first look at the queue must not find a prompt whose answer is still on the way: it would give that up.
        await client.GetSystemStats()
        jobs = [run(client, catapult, number, prompt) for number, prompt in enumerate(prompts)]
        done(await asyncio.gather(*jobs) if together else [await job for job in jobs])


asyncio.run(main())
