"""A ComfyUI that stops, and one that lives on without its worker."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from tests.faults.witness import witnessed
from tests.gateway import eventually, is_alive

QUICK = "restart_delay = 0.1\nrestart_delay_max = 0.2\n"


def test_one_that_stops_for_too_long_and_one_without_a_worker_are_replaced(tmp_path: Path) -> None:
    with witnessed(tmp_path, f"{QUICK}hang_timeout = 2\nretries = 1\n", gpus=3) as (gateway, witness):
        pids = [gateway.backend_pid(gpu_id) for gpu_id in range(3)]
        stopped = [witness.accepted(gateway.ports[0], 1.0), *(witness.accepted(gateway.ports[0]) for _ in range(5))]
        eventually(lambda: witness.begun(stopped[0]))
        os.kill(pids[0], signal.SIGSTOP)
        zombie = witness.accepted(gateway.ports[1], fault="zombie")
        behind = [witness.accepted(gateway.ports[1]) for _ in range(5)]
        others = [witness.accepted(gateway.ports[2], 0.3) for _ in range(10)]
        began = time.monotonic()
        verdict = witness.check()
        assert time.monotonic() - began < 30
        assert not is_alive(pids[0])
        assert not is_alive(pids[1])
    for prompt_id in (*stopped, *behind, *others):
        assert verdict.ends[prompt_id].how == "done", verdict.report()
    # It has taken two of them along.
    assert verdict.ends[zombie].how == "failed"
    assert all(verdict.runs[prompt_id] == 1 for prompt_id in others)
    assert verdict.runs[stopped[0]] == 2


def test_one_that_stops_for_a_while_goes_on(tmp_path: Path) -> None:
    with witnessed(tmp_path, f"{QUICK}hang_timeout = 30\n", gpus=1) as (gateway, witness):
        pid = gateway.backend_pid(0)
        ids = [witness.accepted(gateway.ports[0], 0.5), *(witness.accepted(gateway.ports[0]) for _ in range(5))]
        eventually(lambda: witness.begun(ids[0]))
        os.kill(pid, signal.SIGSTOP)
        time.sleep(5)  # this is the fault
        assert gateway.states() == ["ready"]
        os.kill(pid, signal.SIGCONT)
        verdict = witness.check()
        assert gateway.process.returncode == 0
    assert [verdict.ends[prompt_id].how for prompt_id in ids] == ["done"] * 6
    assert not verdict.reruns
    assert "went down" not in gateway.log.read_text()
