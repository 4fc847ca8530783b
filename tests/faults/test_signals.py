"""SIGTERM with jobs running, and SIGHUP while many listen."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from tests.faults.verdict import Answer
from tests.faults.watch import Watch
from tests.faults.witness import FOREVER, Witness, witnessed
from tests.gateway import Gateway, eventually


def test_sigterm_lets_prompts_end_or_run_again(tmp_path: Path) -> None:
    with witnessed(tmp_path, "shutdown_grace = 30\nstop_grace = 1\n", gpus=2) as (gateway, witness):
        ended, waiting = load(gateway, witness, 1.5)
        assert terminate(gateway, witness) < 15
        edit(gateway, "shutdown_grace = 30", "shutdown_grace = 0.3")
        gateway.start()
        gateway.wait_ready()
        witness.wait_idle()
        cut, also_waiting = load(gateway, witness, FOREVER)
        terminate(gateway, witness)
        gateway.start()
        witness.end_second_run(*cut)
        verdict = witness.check()
    assert verdict.count("done") == len((*ended, *waiting, *also_waiting))
    assert set(verdict.reruns) == set(cut)


def load(gateway: Gateway, witness: Witness, seconds: float) -> tuple[list[str], list[str]]:
    """One running prompt on each GPU, and three that wait behind it."""
    running = [witness.accepted(port, seconds) for port in gateway.ports]
    waiting = [witness.accepted(port, 0.02) for port in gateway.ports for _ in range(3)]
    eventually(lambda: all(map(witness.begun, running)))
    return running, waiting


def terminate(gateway: Gateway, witness: Witness) -> float:
    """End the daemon, which takes no more prompts from then on; the seconds that it took."""
    began = time.monotonic()
    gateway.process.send_signal(signal.SIGTERM)
    eventually(lambda: witness.submit(gateway.hub).answer is not Answer.ACCEPTED)
    assert gateway.process.wait(30) == 0
    return time.monotonic() - began


def edit(gateway: Gateway, old: str, new: str) -> None:
    text = gateway.config.read_text()
    assert old in text
    gateway.config.write_text(text.replace(old, new))


SOCKETS = 100


def test_sighup_cuts_nobody_off(tmp_path: Path) -> None:
    with witnessed(tmp_path, "max_pending = 1000\n", gpus=2) as (gateway, witness):
        ports = (*gateway.ports, gateway.hub)
        watches = [Watch(ports[n % len(ports)], f"listener-{n}") for n in range(SOCKETS)]
        try:
            eventually(lambda: all(watch.statuses for watch in watches))
            ids = [witness.accepted(port, 0.3) for port in ports for _ in range(4)]
            eventually(lambda: witness.begun(ids[0]))
            edit(gateway, "max_pending = 1000", "max_pending = 1001")
            assert "reloaded" in hang_up(gateway)
            assert gateway.status()["totals"]["max_pending"] == 1001
            for broken in ("max_pending = few", "max_pendign = 7", "max_pending = 7\n[gpu:9]\nport = 1"):
                whole = gateway.config.read_text()
                edit(gateway, "max_pending = 1001", broken)
                assert "was not applied" in hang_up(gateway)
                gateway.config.write_text(whole)
            assert gateway.status()["totals"]["max_pending"] == 1001
            told = [watch.statuses for watch in watches]
            ids += [witness.accepted(port) for port in ports]
            eventually(lambda: all(watch.statuses > before for watch, before in zip(watches, told, strict=True)))
            witness.wait_idle()
            assert [watch.cuts for watch in (*watches, *witness.watches)] == [0] * (SOCKETS + 3)
        finally:
            for watch in watches:
                watch.close()
        verdict = witness.check(most_runs=1)
    assert [verdict.ends[prompt_id].how for prompt_id in ids] == ["done"] * len(ids)


def hang_up(gateway: Gateway) -> str:
    """Send SIGHUP; what the log says of it."""
    before = len(said(gateway))
    gateway.process.send_signal(signal.SIGHUP)
    eventually(lambda: len(said(gateway)) > before)
    return said(gateway)[before]


def said(gateway: Gateway) -> list[str]:
    lines = gateway.log.read_text().splitlines()
    return [line for line in lines if "] reloaded " in line or " was not applied, " in line]
