"""The files that come along are what they say they are."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from comfygate.config import reference
from comfygate.config.keys import GATE, GPU, MAIN
from comfygate.config.settings import LIMIT_NAMES, Config, load, parse
from comfygate.port import GRACE
from comfygate.simulator import options

ROOT = Path(__file__).parents[2]
ENVIRON = {"HOME": "/home/ann", "COMFYUI_HOME": "/opt/ComfyUI", "STATE_DIRECTORY": "/state"}
REMEDY = 'run "make docs"'


def test_the_annotated_file_is_up_to_date() -> None:
    assert (ROOT / "etc/gpus.ini").read_text(encoding="utf-8") == reference.annotated(), REMEDY


def test_the_tables_are_up_to_date() -> None:
    text = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    assert text == reference.filled(text), REMEDY
    for key in (*MAIN, *GPU, *GATE):
        assert f"| `{key.name}` |" in text


def test_the_sample_in_the_documentation_is_right() -> None:
    text = (ROOT / "docs/configuration.md").read_text(encoding="utf-8")
    sample = re.search(r"```ini\n(.*?)```", text, re.DOTALL)
    assert sample
    config = parse(sample[1], filename="sample", environ=ENVIRON, here="/")
    assert len(config.gates_for(config.gpu_ids(4))) == 7


def same(one: Config, other: Config) -> bool:
    def values(config: Config) -> dict[str, object]:
        return {key.name: getattr(config, key.name) for key in MAIN}

    return values(one) == values(other)


def test_the_annotated_file_changes_nothing() -> None:
    assert same(load(str(ROOT / "etc/gpus.ini"), ENVIRON), load(None, ENVIRON))


def test_the_annotated_file_shows_the_defaults() -> None:
    """With every "; " taken away, all keys are set, and to the same values."""
    kept = [line for line in reference.annotated().splitlines() if re.match(r"\[|; (\[|\w+ =)", line)]
    lines = [line.removeprefix("; ") for line in kept]
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",))
    parser.read_string("\n".join(lines))
    expected = {"comfygate": MAIN, "gpu:0": GPU, "gate:fast": GATE}
    assert {name: list(parser[name]) for name in parser.sections()} == {
        name: [key.name for key in keys] for name, keys in expected.items()
    }
    text = "\n".join(line for line in lines if not line.endswith("=")) + "\nport = 9000\n"
    assert same(parse(text, filename="", environ=ENVIRON, here="/"), load(None, ENVIRON))


def test_a_key_has_a_default_or_says_what_holds_otherwise() -> None:
    for key in (*MAIN, *GPU, *GATE):
        assert key.help
        assert bool(key.default) + bool(key.otherwise) + (key.name in ("arguments", "cors_origins")) == 1, key.name


def test_limits_are_the_same_everywhere() -> None:
    names = [{key.name for key in keys} for keys in (MAIN, GPU, GATE)]
    assert set(LIMIT_NAMES) <= names[0] & names[1] & names[2]


def test_the_demonstration_is_four_simulated_gpus_and_the_hub() -> None:
    config = load(str(ROOT / "etc/demo.ini"), {})
    assert config.simulated
    assert config.devices == "cpu*4"
    assert config.temporary
    gates = config.gates_for(config.gpu_ids(4))
    assert [gate.port for gate in gates] == [8181, 8182, 8183, 8184, 8188]


@pytest.mark.filterwarnings("default")
def test_the_simulator_knows_the_arguments_of_the_demonstration() -> None:
    config = load(str(ROOT / "etc/demo.ini"), {})
    understood = options.parse(config.arguments)
    assert understood.preview_method == "auto"


UNIT = ROOT / "etc/comfygate.service"


def unit_lines() -> list[str]:
    return [line for line in UNIT.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]


@pytest.mark.parametrize(
    "line",
    [
        "User=comfygate",
        "StateDirectory=comfygate",
        "ExecStart=/opt/comfygate/bin/twistd -n --pidfile= comfygate --config /etc/comfygate/gpus.ini",
        "ExecReload=/bin/kill -HUP $MAINPID",
        "Restart=on-failure",
        "RestartPreventExitStatus=2",
        "KillMode=mixed",
    ],
)
def test_the_unit_says(line: str) -> None:
    assert line in unit_lines()


def test_systemd_waits_for_as_long_as_the_end_may_take() -> None:
    (line,) = [line for line in unit_lines() if line.startswith("TimeoutStopSec=")]
    config = load(None, ENVIRON)
    assert float(line.partition("=")[2]) >= config.shutdown_grace + GRACE + config.stop_grace + 10


def test_a_mistake_is_found_by_the_daemon_itself() -> None:
    """systemd takes RestartPreventExitStatus from that alone: another program's 2 would be tried again for ever."""
    assert not [line for line in unit_lines() if line.startswith("ExecStartPre=") and "twistd" in line]


@pytest.mark.parametrize("option", ["PrivateDevices", "DevicePolicy", "MemoryDenyWriteExecute", "ProtectHome"])
def test_the_unit_leaves_cuda_alone(option: str) -> None:
    assert not [line for line in unit_lines() if line.startswith(option + "=")]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    copy = tmp_path / "comfygate.service"
    # It looks whether the programs are there, too.
    text = re.sub(r"/(opt|usr)/[^ ]*/(twistd|nvidia-\w+)", "/bin/true", UNIT.read_text(encoding="utf-8"))
    copy.write_text(text, encoding="utf-8")
    command = ["systemd-analyze", "verify", str(copy)]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
