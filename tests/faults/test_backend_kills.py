"""ComfyUIs are killed, once and again and again."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from tests.faults.verdict import Answer
from tests.faults.witness import FOREVER, Witness, witnessed
from tests.gateway import Gateway, eventually

QUICK = "restart_delay = 0.1\nrestart_delay_max = 0.2\n"


def test_killed_with_one_running_and_twenty_pending(tmp_path: Path) -> None:
    with witnessed(tmp_path, QUICK, gpus=2) as (gateway, witness):
        first = witness.accepted(gateway.ports[0], FOREVER)
        ids = [witness.accepted(gateway.ports[0], 0.02) for _ in range(20)]
        eventually(lambda: witness.begun(first))
        assert (gateway.queues()[0]["running_count"], gateway.queues()[0]["pending_count"]) == (1, 20)
        os.kill(gateway.backend_pid(0), signal.SIGKILL)
        eventually(lambda: gateway.states()[0] != "ready")
        assert gateway.queues()[0]["pending_count"] == 21
        witness.end_second_run(first)
        verdict = witness.check()
        assert verdict.count("done") == 20
        assert verdict.reruns == {first: 2}
        # In their old order: that of the events, and of the files' numbers.
        told = [prompt_id for prompt_id, events in witness.events.items() if events["execution_success"]]
        assert told == ids
        files = verdict.evidence.files
        assert sorted(ids, key=lambda prompt_id: files[prompt_id][-1]) == ids


KILLS = 50
JOBS = 1000
SEED = 20261124


def test_fifty_kills_during_a_thousand_jobs(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    moments = sorted(chance.sample(range(JOBS * 9 // 10), KILLS))
    with witnessed(tmp_path, QUICK) as (gateway, witness), ThreadPoolExecutor(4) as threads:
        sending = [threads.submit(send, witness, chance.randrange(2**32)) for _ in range(4)]
        for moment in moments:
            eventually(partial(so_many_ended, gateway, moment))
            eventually(partial(kill_a_ready_one, gateway, chance))
        for one in sending:
            one.result()
        verdict = witness.check()
    assert len(witness.of(Answer.ACCEPTED)) == JOBS
    assert verdict.count("done") + verdict.count("failed") == JOBS
    # What runs while two ComfyUIs die is poison for all that anybody can tell.
    assert verdict.count("failed") <= KILLS // 2
    assert verdict.reruns


def send(witness: Witness, seed: int) -> None:
    """Send a quarter of the jobs, to all ports."""
    chance = random.Random(seed)
    ports = (*witness.gateway.ports, witness.gateway.hub)
    for _ in range(JOBS // 4):
        witness.accepted(chance.choice(ports), chance.choice((0.0, 0.03, 0.06)))


def so_many_ended(gateway: Gateway, count: int) -> bool:
    totals = gateway.status()["totals"]
    return sum(int(totals[how]) for how in ("done", "failed", "cancelled", "unknown")) >= count


def kill_a_ready_one(gateway: Gateway, chance: random.Random) -> bool:
    """Kill one of those that work, unless it died by itself meanwhile."""
    time.sleep(chance.uniform(0, 0.05))
    working = [gpu["gpu_id"] for gpu in gateway.status()["gpus"] if gpu["state"] == "ready" and gpu["running_count"]]
    with contextlib.suppress(AssertionError, IndexError, ProcessLookupError):
        os.kill(gateway.backend_pid(chance.choice(working)), signal.SIGKILL)
        return True
    return False
