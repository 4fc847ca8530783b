"""The wall clock jumps by an hour, there and back, while jobs run.

The real clock is nobody's to touch: the processes of the test read theirs
through :mod:`tests.faults.clock.sitecustomize`.
"""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from pathlib import Path

from tests.faults.witness import Witness, witnessed
from tests.gateway import eventually

HOUR = 3600.0


def test_an_hour_there_and_back(tmp_path: Path) -> None:
    clock = tmp_path / "clock"
    clock.write_text("0")
    environment = {"PYTHONPATH": str(Path(__file__).with_name("clock")), "COMFYGATE_TEST_CLOCK": str(clock)}
    # A ComfyUI that says nothing for 30 s is replaced; one that is said to have been silent for an hour must not be.
    config = "hang_timeout = 30\nstall_timeout = 60\nrestart_delay = 0.2\nkeep_days = 0.02\n"
    with witnessed(tmp_path, config, gpus=2, environment=environment) as (gateway, witness):
        assert abs(gateway.status()["time"] - time.time()) < 60
        ids = []
        for offset in (HOUR, -HOUR, 0.0):
            running = [witness.accepted(port, 0.8) for port in gateway.ports]
            ids += running
            ids += [witness.accepted(gateway.hub, 0.05) for _ in range(4)]
            eventually(partial(all_begun, witness, running))
            clock.write_text(str(offset))
            assert abs(gateway.status()["time"] - time.time() - offset) < 60
            ids.append(witness.accepted(gateway.hub))
            if offset < 0:
                # Its delay and its start pass while the clock has jumped.
                os.kill(gateway.backend_pid(0), signal.SIGKILL)
                eventually(lambda: gateway.states()[0] != "ready")
                gateway.wait_ready()
        witness.wait_idle()
        for prompt_id in ids:
            assert witness.history(prompt_id, gateway.hub) is not None, prompt_id
        verdict = witness.check()
    assert [verdict.ends[prompt_id].how for prompt_id in ids] == ["done"] * len(ids)
    assert len(verdict.reruns) <= 1
    log = gateway.log.read_text()
    assert log.count("went down") == 1, log
    assert "Traceback" not in log


def all_begun(witness: Witness, prompt_ids: list[str]) -> bool:
    return all(map(witness.begun, prompt_ids))
