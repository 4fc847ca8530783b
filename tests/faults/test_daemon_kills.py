"""The daemon is killed: in the middle of its work, and at every step that its memory of a prompt hangs on."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

from comfygate.failpoints import VARIABLE
from tests.faults.verdict import Answer
from tests.faults.witness import FOREVER, witnessed
from tests.gateway import Gateway, eventually, request


def test_killed_with_four_running_and_forty_pending(tmp_path: Path) -> None:
    with witnessed(tmp_path) as (gateway, witness):
        done = [witness.accepted(port) for port in gateway.ports]
        witness.wait_idle()
        before = {prompt_id: witness.history(prompt_id, gateway.hub) for prompt_id in done}
        running = [witness.accepted(port, FOREVER) for port in gateway.ports]
        own = [[witness.accepted(port, 0.02) for _ in range(8)] for port in gateway.ports]
        shared = [witness.accepted(gateway.hub, 0.02) for _ in range(8)]
        eventually(lambda: all(map(witness.begun, running)))
        queues = gateway.queues()
        assert (sum(one["running_count"] for one in queues), sum(one["pending_count"] for one in queues)) == (4, 40)
        old = [[item[1] for item in one["queue_pending"]] for one in queues]
        gateway.kill()
        gateway.start()
        eventually(lambda: answers(gateway))
        # Before any ComfyUI is there again, the queue is, in its old order, with what ran at its head.
        listed = [[item[1] for item in one["queue_running"] + one["queue_pending"]] for one in gateway.queues()]
        assert [one[1 : 1 + 8] for one in listed] == [one[:8] for one in old]
        assert [one[0] for one in listed] == running
        witness.end_second_run(*running)
        assert {prompt_id: witness.history(prompt_id, gateway.hub) for prompt_id in done} == before
        verdict = witness.check()
    assert verdict.count("done") == 4 + 32 + 8
    assert all(verdict.ends[prompt_id].how == "done" for prompt_id in shared)
    assert set(verdict.reruns) == set(running)
    for prompt_ids in own:
        ended = sorted(prompt_ids, key=lambda prompt_id: verdict.evidence.files[prompt_id][-1])
        assert ended == prompt_ids


def answers(gateway: Gateway) -> bool:
    try:
        return request(gateway.hub, "GET", "/queue/all").status == 200
    except OSError:
        return False


FAILPOINTS = (
    "journal.accept.noted:3",
    "journal.batch.begun:4",
    "journal.batch.written:5",
    "journal.batch.committed:6",
    "accept.answered:3",
    "dispatch.before_send:2",
    "dispatch.after_send:3",
    "end.noted:2",
)
"""See :mod:`comfygate.failpoints`."""


def test_killed_at_every_step(tmp_path: Path) -> None:
    sent: dict[str, str] = {}
    with witnessed(tmp_path, gpus=1, environment={VARIABLE: FAILPOINTS[0]}) as (gateway, witness):
        for step, after in pairwise((*FAILPOINTS, "")):
            # From the second on, prompts are sent while the ComfyUI starts.
            with ThreadPoolExecutor(4) as threads:
                found = list(threads.map(lambda _: witness.submit(gateway.ports[0]), range(6)))
            sent.update((one.prompt_id, step) for one in found)
            assert gateway.wait_gone() == -signal.SIGKILL, f"{step} was not reached\n{gateway.log.read_text()}"
            gateway.start(**{VARIABLE: after})
            eventually(lambda: answers(gateway))
        last = witness.accepted(gateway.ports[0])
        # Each kill may cost the first in line another run, also one that had just ended.
        verdict = witness.end(most_runs=len(FAILPOINTS) + 1)
    blamed = {sent.get(prompt_id, "none") for prompt_id, _ in verdict.problems}
    assert not verdict.problems, f"sent before {blamed}:\n{verdict.report()}"
    assert verdict.ends[last].how == "done"
    assert verdict.count("failed") == 0
    # Who had no answer cannot know, but some of those prompts were written down in time.
    unanswered = {one.prompt_id for one in witness.of(Answer.UNANSWERED)}
    assert unanswered & verdict.ends.keys()
    assert unanswered - verdict.ends.keys()
