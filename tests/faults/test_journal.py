"""The journal's disk: full, and full of errors."""

from __future__ import annotations

import contextlib
import os
import random
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.verdict import Answer
from tests.faults.witness import FOREVER, Witness, witnessed
from tests.gateway import Gateway, eventually, request

WAITING = 25
FINISHED = 10
SEED = 20261124


def test_a_damaged_journal_costs_little_and_is_reported(tmp_path: Path) -> None:
    chance = random.Random(SEED)
    with witnessed(tmp_path, gpus=1) as (gateway, witness):
        finished = [witness.accepted(gateway.ports[0]) for _ in range(FINISHED)]
        witness.wait_idle()
        blocking = witness.accepted(gateway.ports[0], FOREVER)
        waiting = [blocking, *(witness.accepted(gateway.ports[0], 0.01) for _ in range(WAITING))]
        eventually(lambda: witness.begun(blocking))
        gateway.kill()
        saved = {path: path.read_bytes() for path in gateway.journal.parent.glob(gateway.journal.name + "*")}
        for name, damage in DAMAGES.items():
            restore(saved, gateway)
            told = len(gateway.log.read_text())
            damage(gateway, chance)
            gateway.start()
            eventually(lambda: lists(gateway))
            kept = gateway.queues()[0]["queue_running"] + gateway.queues()[0]["queue_pending"]
            missing = set(waiting) - {item[1] for item in kept}
            said = gateway.log.read_text()[told:]
            # All the small rows that say where prompts stand may be in one page.
            assert name != FLIPPED or len(missing) <= WAITING // 2, (missing, said)
            for prompt_id in missing:
                entry = witness.history(prompt_id, gateway.ports[0])
                assert entry is None or entry["status"]["status_str"] == "error", (name, entry)
                assert entry is not None or name in UNSEEN, (name, prompt_id, said)
            assert sum(witness.history(one, gateway.hub) is not None for one in finished) >= FINISHED - 3, (name, said)
            if missing:
                assert "damaged" in said, (name, said)
            assert request(gateway.hub, "GET", "/queue").status == 200
            new = witness.submit(gateway.ports[0])
            assert new.answer is Answer.ACCEPTED, (name, new)
            gateway.kill()
        # And what was written down runs, after all of that.
        restore(saved, gateway)
        gateway.start()
        gateway.wait_ready()
        eventually(lambda: witness.begun(blocking) > 1)
        assert witness.interrupt(blocking) == "running"
        witness.sent = {one: sent for one, sent in witness.sent.items() if one in (*finished, *waiting)}
        verdict = witness.end(most_runs=9)
    ends = [verdict.ends[prompt_id].how for prompt_id in (*finished, *waiting)]
    assert ends == ["done"] * FINISHED + ["cancelled"] + ["done"] * WAITING, verdict.report()


def flip(path: Path, chance: random.Random) -> None:
    """Flip one bit, not in the first page, which is the file's own description."""
    content = bytearray(path.read_bytes())
    place = chance.randrange(4096, len(content))
    content[place] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def log_of(gateway: Gateway) -> Path:
    return gateway.journal.with_name(gateway.journal.name + "-wal")


def checkpoint(gateway: Gateway) -> None:
    """Bring everything into the file itself, as a daemon does from time to time."""
    with contextlib.closing(sqlite3.connect(gateway.journal)) as journal:
        journal.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def flip_in_file(gateway: Gateway, chance: random.Random) -> None:
    checkpoint(gateway)
    flip(gateway.journal, chance)


def flip_in_log(gateway: Gateway, chance: random.Random) -> None:
    flip(log_of(gateway), chance)


def truncate_file(gateway: Gateway, chance: random.Random) -> None:
    checkpoint(gateway)
    os.truncate(gateway.journal, int(gateway.journal.stat().st_size * 0.8))


def truncate_log(gateway: Gateway, chance: random.Random) -> None:
    os.truncate(log_of(gateway), int(log_of(gateway).stat().st_size * 0.9))


FLIPPED = "a bit of the file"
UNSEEN = ("the end of the file", "the end of the log")
"""Here a prompt may be gone as a whole, so that nobody can say that it failed."""

DAMAGES: dict[str, Callable[[Gateway, random.Random], None]] = {
    FLIPPED: flip_in_file,
    "a bit of the log": flip_in_log,
    "the end of the file": truncate_file,
    "the end of the log": truncate_log,
}


def restore(saved: dict[Path, bytes], gateway: Gateway) -> None:
    for path in gateway.journal.parent.glob(gateway.journal.name + "*"):
        path.unlink()
    for path, content in saved.items():
        path.write_bytes(content)


def lists(gateway: Gateway) -> bool:
    assert gateway.process.poll() is None, gateway.log.read_text()
    try:
        return request(gateway.hub, "GET", "/queue/all").status == 200
    except OSError:
        return False


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a disk of 8 MiB."""
    folder = tmp_path / "state"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=8m", "comfygate-test", str(folder)]
    try:
        mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if mounted.returncode:
        pytest.skip(f"no disk of its own can be mounted: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_refuses_new_prompts_and_loses_none(tmp_path: Path, small_disk: Path) -> None:
    config = f"output_dir = {tmp_path / 'output'}\ninput_dir = {tmp_path / 'input'}\n"
    for name in ("output", "input"):
        (tmp_path / name).mkdir()
    with witnessed(tmp_path, config, gpus=2) as (gateway, witness):
        before = [witness.accepted(port, 2.0) for port in gateway.ports]
        before += [witness.accepted(port, 0.05) for port in gateway.ports for _ in range(3)]
        eventually(lambda: all(witness.begun(prompt_id) for prompt_id in before[:2]))
        ballast = small_disk / "ballast"
        fill(ballast)
        refused = eventually(lambda: refusal(witness, gateway))
        assert refused.said.startswith("503"), refused
        assert "space" in refused.said, refused
        # What runs goes on, and is told to its client.
        eventually(lambda: all(witness.events[prompt_id]["execution_success"] for prompt_id in before[:2]))
        for target in ("/queue", "/history", "/comfygate/status"):
            assert request(gateway.hub, "GET", target).status == 200
        assert witness.submit(gateway.hub).answer is not Answer.ACCEPTED
        ballast.unlink()
        after = [witness.accepted(port) for port in (*gateway.ports, gateway.hub)]
        verdict = witness.check()
    assert [verdict.ends[prompt_id].how for prompt_id in (*before, *after)] == ["done"] * 11
    assert not verdict.reruns


def fill(path: Path) -> None:
    """Take all the space that there is."""
    with path.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while file.write(b"x" * size):
                    pass
            except OSError:
                continue


def refusal(witness: Witness, gateway: Gateway) -> object:
    """The first prompt that is not accepted; what there was room for is refused space by now."""
    sent = witness.submit(gateway.ports[0])
    return sent if sent.answer is Answer.REFUSED else None
