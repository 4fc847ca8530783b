"""A ComfyUI that does not say clearly what became of a prompt, or of those that it is asked about."""

from __future__ import annotations

from pathlib import Path

from tests.faults.witness import witnessed

PROMPTS = 6

FAULTS = (
    "--sim-prompt-fault=die:2",
    "--sim-prompt-fault=die_before:2",
    "--sim-prompt-fault=queue_500:*2",
    "--sim-prompt-fault=queue_500_before:*4",
    "--sim-prompt-fault=garbage:*2 --sim-prompt-fault=garbage_before:*5",
    "--sim-prompt-fault=half_head:*2 --sim-prompt-fault=half_head_before:*5",
    "--sim-prompt-fault=short_body:*2 --sim-prompt-fault=short_body_before:*5",
    "--sim-prompt-fault=garbage:*2 --sim-look-fault=garbage:*5 --sim-look-fault=half_head:*7 "
    "--sim-look-fault=short_body:*11",
)
DEADLY = 2
"""The first so many kill their ComfyUI."""


def test_nothing_is_lost_or_run_twice_whatever_comfyui_answers(tmp_path: Path) -> None:
    sections = "".join(f"[gpu:{gpu_id}]\narguments = {fault}\n" for gpu_id, fault in enumerate(FAULTS))
    config = f"restart_delay = 0.1\n{sections}"
    with witnessed(tmp_path, config, gpus=len(FAULTS)) as (gateway, witness):
        ids = [[witness.accepted(port, 0.05) for _ in range(PROMPTS)] for port in gateway.ports]
        verdict = witness.check()
    for gpu_id, of_one in enumerate(ids):
        ends = [verdict.ends[prompt_id] for prompt_id in of_one]
        assert [end.how for end in ends] == ["done"] * PROMPTS, (FAULTS[gpu_id], ends)
        again = [prompt_id for prompt_id in of_one if verdict.runs[prompt_id] > 1]
        assert len(again) <= (gpu_id < DEADLY), (FAULTS[gpu_id], verdict.report())
        files = [len(verdict.evidence.files[prompt_id]) for prompt_id in of_one]
        assert sum(files) <= PROMPTS + (gpu_id < DEADLY), (FAULTS[gpu_id], files)
    log = gateway.log.read_text()
    assert all(f"GPU {gpu_id} " in log for gpu_id in range(len(FAULTS)))
