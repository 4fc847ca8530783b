"""What a new configuration changes: a table of old, new and what is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from comfygate.changes import Changes, Run, compare, run_of
from comfygate.config.effects import EFFECTS, Effect
from comfygate.config.settings import ConfigError, parse
from comfygate.model import Device
from comfygate.plan import Plan, make_plan
from tests.unit.test_config import sentence

BASE = "[comfygate]\ncomfyui = simulator\ndevices = cpu*3\nstate_dir = /s\n"
FAST = "[gate:fast]\nport = 8190\ngpus = 0,1\n"


def plan(text: str) -> Plan:
    return make_plan(parse(text, filename="gpus.ini", environ={"HOME": "/h"}, here="/"))


def changes(old: str, new: str) -> Changes:
    return compare(plan(BASE + old), plan(BASE + new))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("", "", ["nothing changed"]),
        (FAST, FAST + "rate = 20\n", ["port 8190 (fast): rate 10 → 20"]),
        ("rate = 5\n" + FAST, FAST + "rate = 5\n", ["port 8181 (gpu-0), port 8182 (gpu-1), port 8183 (gpu-2), "
         "port 8188 (hub): rate 5 → 10"]),
        (FAST, FAST.replace("0,1", "1,2"), ["port 8190 (fast): gpus 0,1 → 1,2"]),
        (FAST, FAST + "policy = round-robin\n", ["port 8190 (fast): policy affinity → round-robin"]),
        (FAST, FAST + "metered = GET /queue\n", ["port 8190 (fast): metered changed"]),
        (FAST, FAST + "metered =\nlimit_by = client\nmax_wait = 2.5\nburst = 1\n",
         ["port 8190 (fast): burst 20 → 1, limit_by port → client, max_wait 0 → 2.5, metered changed"]),
        ("", FAST, ["port 8190 (fast) opens for GPUs 0, 1"]),
        (FAST, "", ["port 8190 (fast) closes"]),
        (FAST, FAST.replace("8190", "8191"), ["fast moves from port 8190 to port 8191"]),
        (FAST, FAST.replace("8190", "8191") + "rate = 1\n",
         ["fast moves from port 8190 to port 8191", "port 8191 (fast): rate 10 → 1"]),
        ("", "hub_port = 0\n", ["port 8188 (hub) closes"]),
        ("", "interface = 0.0.0.0\n", ["all ports move from 127.0.0.1 to 0.0.0.0"]),
        ("", "[gpu:1]\nname = the big one\n", ["GPU 1 is called the big one"]),
        ("", "[gpu:1]\narguments = --lowvram\n", ["GPU 1 restarts: arguments changed"]),
        ("", "arguments = --lowvram\nlog_size = 1M\n", ["GPUs 0, 1, 2 restart: arguments and log_size changed"]),
        ("[gpu:1]\narguments = --a\n", "arguments = --a\n", ["GPUs 0, 2 restart: arguments changed"]),
        ("", "[gpu:3]\nurl = http://h:1\n",
         ["port 8184 (gpu-3) opens for GPU 3", "GPU 3 (http://h:1) is added", "port 8188 (hub): gpus 0,1,2 → 0,1,2,3"]),
        ("", "[gpu:2]\nurl = http://h:1\n", ["GPU 2 restarts: url changed"]),
        ("", "start_timeout = 60\nmax_pending_bytes = 2G\n",
         ["max_pending_bytes 1073741824 → 2147483648", "start_timeout 600 → 60"]),
        ("cors_origins = null\n", "cors_origins = *\n", ["cors_origins null → *"]),
        ("interrupt_policy = ledger\n", "interrupt_policy = ask-all\n", ["interrupt_policy ledger → ask-all"]),
    ],
)  # fmt: skip
def test_what_is_said(old: str, new: str, said: list[str]) -> None:
    assert sorted(changes(old, new).sentences()) == sorted(said)


def test_ports_that_listen_elsewhere_are_opened_before_the_old_ones_are_closed() -> None:
    assert changes(FAST, FAST + "rate = 1\nmax_wait = 3\n") == Changes(
        said=("port 8190 (fast): rate 10 → 1, max_wait 0 → 3",)
    )
    moved = changes(FAST, FAST.replace("8190", "8191"))
    assert (moved.opened, moved.closed) == (("fast",), ("fast",))
    renamed = changes(FAST, FAST.replace("fast", "slow"))
    assert (renamed.opened, renamed.closed) == (("slow",), ("fast",))
    everything = changes(FAST, FAST.replace("[gate", "interface = ::1\n[gate"))
    assert everything.opened == everything.closed == ("gpu-0", "gpu-1", "gpu-2", "hub", "fast")


def test_gpus_come_go_restart_and_become_someone_elses() -> None:
    fewer = compare(plan(BASE), plan(BASE.replace("cpu*3", "cpu*1")))
    assert (fewer.removed, fewer.closed) == ((1, 2), ("gpu-1", "gpu-2"))
    assert "GPU 2 is removed when what it runs has ended" in fewer.said
    more = compare(plan(BASE), plan(BASE.replace("cpu*3", "cpu*4")))
    assert (more.added, more.opened) == ((3,), ("gpu-3",))
    assert changes("", "[gpu:1]\narguments = --a\n").restarted == (1,)
    assert changes("", "log_files = 5\n").restarted == (0, 1, 2)
    assert changes("[gpu:1]\nurl = http://h:1\n", "[gpu:1]\nurl = http://h:2\n").exchanged == (1,)
    # Someone else's ComfyUI has none of our arguments.
    assert changes("[gpu:1]\nurl = http://h:1\n", "arguments = --a\n[gpu:1]\nurl = http://h:1\n").restarted == (0, 2)


def test_what_did_not_restart_when_it_should_have_is_restarted_now() -> None:
    one, two = plan(BASE), plan(BASE + "arguments = --wrong\n")
    assert compare(one, two).restarted == (0, 1, 2)
    # Only GPU 0 was tried, and did not start.
    runs = {0: run_of(two, 0), 1: run_of(one, 1), 2: run_of(one, 2)}
    assert compare(two, one, runs).restarted == (0,)
    assert compare(two, two, runs).restarted == (1, 2)


def test_devices_that_belong_to_another_gpu_now_change_hands_in_turn() -> None:
    def on(*uuids: str) -> Plan:
        devices = {
            n: Device(gpu_id=n, label=uuid, name="card", environment={"CUDA_VISIBLE_DEVICES": uuid})
            for n, uuid in enumerate(uuids)
        }
        text = BASE.replace("cpu*3", f"cpu*{len(uuids)}")
        found = plan(text)
        return Plan(
            config=found.config,
            devices=devices,
            gpu_ids=found.gpu_ids,
            gates=found.gates,
            routings=found.routings,
            interrupt_policy=found.interrupt_policy,
        )

    assert compare(on("GPU-a", "GPU-b", "GPU-c"), on("GPU-a", "GPU-c")).in_turn
    assert not compare(on("GPU-a", "GPU-b"), on("GPU-a", "GPU-b", "GPU-c")).in_turn
    assert not compare(on("GPU-a", "GPU-b"), on("GPU-a", "GPU-d")).in_turn
    assert compare(on("GPU-a", "GPU-b"), on("GPU-a", "GPU-d")).restarted == (1,)
    assert not compare(plan(BASE), plan(BASE.replace("cpu*3", "cpu*2"))).in_turn


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("", "journal = off\n", "journal: cannot change from on to off while ComfyGate runs; restart it"),
        ("", "state_dir = /t\n", "state_dir: cannot change from /s to /t while ComfyGate runs; restart it"),
    ],
)
def test_what_needs_a_restart_of_the_daemon_is_refused_by_name(old: str, new: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compare(
            plan(BASE + old), plan((BASE if "state_dir" not in new else BASE.replace("state_dir = /s\n", "")) + new)
        )
    assert words in sentence(caught.value)


def test_a_temporary_folder_stays_the_same(tmp_path: Path) -> None:
    text = BASE.replace("/s", "temporary")
    one, two = plan(text), plan(text + "prefetch = 3\n")
    assert one.config.state_dir != two.config.state_dir
    second = two.succeeding(one)
    assert second.config.state_dir == one.config.state_dir
    assert second.config.output_dir == one.config.output_dir
    assert compare(one, second).sentences() == ["prefetch 2 → 3"]
    with pytest.raises(ConfigError, match="state_dir"):
        compare(one, plan(BASE).succeeding(one))


def test_policies_are_made_anew_only_where_another_one_is_named() -> None:
    one = plan(BASE + FAST)
    two = plan(BASE + "interrupt_policy = ask-all\n" + FAST.replace("gpus = 0,1", "gpus = 2\npolicy = round-robin"))
    second = two.succeeding(one)
    before = {routing.name: routing.policy for routing in one.routings}
    after = {routing.name: routing for routing in second.routings}
    assert after["hub"].policy is before["hub"]
    assert after["fast"].policy is not before["fast"]
    assert after["fast"].gpu_ids == (2,)
    assert second.interrupt_policy is two.interrupt_policy
    assert one.succeeding(one).interrupt_policy is one.interrupt_policy


VALUES = {
    # Another value for every key, so that each is seen to be compared.
    "devices": "cpu*2", "comfyui": None, "python": "/bin/sh", "interface": "::1", "first_port": "9001",
    "hub_port": "9000", "state_dir": "/t", "input_dir": "/tmp", "output_dir": "/tmp", "arguments": "--a",
    "policy": "round-robin", "interrupt_policy": "ask-all", "cors_origins": "null", "limit_by": "client",
    "metered": "GET /queue", "journal": "off", "when_down": "refuse", "max_pending_bytes": "2G", "max_prompt": "1M",
    "max_body": "1M", "log_size": "1M", "retries": "0", "name": "other", "url": "http://h:1", "port": "9100",
    "read_ahead": "off", "gpus": "2", "start_timeout": "7.5", "backend_timeout": "7.5",
}  # fmt: skip
SECTIONS = [(section, key) for section, keys in EFFECTS.items() for key in keys if VALUES.get(key, "7")]


@pytest.mark.parametrize(("section", "key"), SECTIONS)
def test_another_value_of_any_key_is_a_change(section: str, key: str) -> None:
    line = f"{key} = {VALUES.get(key, '7')}\n"
    base = BASE.replace("devices = cpu*3\n", "") if key == "devices" else BASE
    base = base.replace("state_dir = /s\n", "") if key == "state_dir" else base
    parts = {"comfygate": base, "gpu": "[gpu:1]\n", "gate": FAST}
    if section == "gate" and key in ("port", "gpus"):
        parts["gate"] = "".join(one + "\n" for one in FAST.splitlines() if not one.startswith(key))
    parts[section] += line
    new = "".join(parts.values())
    old = BASE + "[gpu:1]\n" + FAST
    if EFFECTS[section][key] is Effect.NEVER:
        with pytest.raises(ConfigError, match=key):
            compare(plan(old), plan(new))
        return
    found = compare(plan(old), plan(new))
    assert found.sentences() != ["nothing changed"]
    if EFFECTS[section][key] in (Effect.GATE, Effect.NAME, Effect.DAEMON):
        assert found == Changes(said=found.said), "no connection ends, and nothing restarts"


def test_what_people_call_a_device_is_no_reason_to_restart() -> None:
    def run(label: str) -> Run:
        found = plan(BASE)
        devices = {0: Device(gpu_id=0, label=label, name=label, environment={"CUDA_VISIBLE_DEVICES": "GPU-a"})}
        return run_of(
            Plan(
                config=found.config,
                devices=devices,
                gpu_ids=(0,),
                gates=found.gates,
                routings=found.routings,
                interrupt_policy=found.interrupt_policy,
            ),
            0,
        )

    assert run("0").differences(run("GPU-a")) == []
