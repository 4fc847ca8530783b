"""The README's examples, run as printed against a gateway that listens where they say."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gateway import Gateway, eventually, running, twistd

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
POLICIES = (ROOT / "docs" / "policies.md").read_text(encoding="utf-8")


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Four GPUs and the hub."""
    with running(tmp_path_factory.mktemp("readme")) as one:
        yield one


def moved(example: str, gateway: Gateway) -> str:
    """The example with the ports of this test's gateway, since 8181 may be in use."""
    ports = {8181 + n: port for n, port in enumerate(gateway.ports)} | {8188: gateway.hub}
    return re.sub(r"(?<=127\.0\.0\.1:)\d{4}", lambda match: str(ports[int(match.group())]), example)


def images(gateway: Gateway, prefix: str) -> list[str]:
    return sorted(path.name for path in (gateway.folder / "state" / "output").glob(f"{prefix}_*.png"))


def curl(gateway: Gateway, words: str) -> str:
    """Run the example for the shell that contains `words`; what it printed."""
    (example,) = [block for block in blocks(README, "sh") if "curl" in block and words in block]
    done = subprocess.run(
        ["sh", "-ec", moved(example, gateway)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl")
def test_the_examples_for_watching(gateway: Gateway) -> None:
    printed = curl(gateway, "/comfygate/status")
    assert '"totals":{"gpus":4,' in printed
    assert 'comfygate_jobs{gpu="0",state="running"}' in printed


def test_the_examples_for_looking_after_it(gateway: Gateway) -> None:
    (example,) = [block for block in blocks(README, "sh") if "comfygatectl" in block]
    here = {".venv/bin/comfygatectl": f"{sys.executable} -m comfygate.ctl", "etc/demo.ini": str(gateway.config)}
    for shown, there in here.items():
        assert shown in example
        example = example.replace(shown, there)
    done = subprocess.run(["sh", "-ec", example], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    for words in (
        "4 of 4 ready",
        "GPU 1 gets no further",
        "GPU 1  ready",
        "GPU 1 gets prompts again",
        "schema version",
    ):
        assert words in done.stdout


@pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl")
def test_the_examples_for_the_shell(gateway: Gateway) -> None:
    printed = curl(gateway, "/interrupt")
    for words in ('"gpu_id":0', '"gpu_id":2', '"total_pending":', '"state":"unknown"'):
        assert words in printed
    eventually(lambda: len(images(gateway, "hello")) == 2)


def test_the_example_for_python(gateway: Gateway, tmp_path: Path) -> None:
    (example,) = blocks(README, "python")
    (tmp_path / "example.py").write_text(moved(example, gateway))
    done = subprocess.run(
        [sys.executable, "example.py"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"made {images(gateway, 'python')[0]}" in done.stdout


@pytest.mark.skipif(not shutil.which("node"), reason="there is no node")
def test_the_example_for_javascript(gateway: Gateway, tmp_path: Path) -> None:
    (example,) = blocks(README, "js")
    (tmp_path / "example.mjs").write_text(moved(example, gateway))
    done = subprocess.run(
        ["node", "example.mjs"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"made {images(gateway, 'javascript')[0]} image/png" in done.stdout


def test_the_configuration_shown_is_a_configuration(tmp_path: Path) -> None:
    (example,) = blocks(README, "ini")
    comfyui = tmp_path / "ComfyUI"
    (tmp_path / "output").mkdir()
    comfyui.mkdir()
    (comfyui / "main.py").touch()
    replaced = {
        "/opt/ComfyUI/venv/bin/python": sys.executable,
        "/opt/ComfyUI": str(comfyui),
        "/srv/comfy/output": str(tmp_path / "output"),
        "0,1,3 ": "cpu*3 ",  # this machine may have no GPUs
    }
    for shown, here in replaced.items():
        assert shown in example
        example = example.replace(shown, here)
    (tmp_path / "gpus.ini").write_text(example)
    done = twistd("comfygate", "--check", "--config", "gpus.ini", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "gpu-3 on 8184" in done.stdout
    assert "fast on 8190" in done.stdout


def test_the_policy_shown_in_the_docs_works(tmp_path: Path) -> None:
    plugin, module, test = blocks(POLICIES, "python")
    folder = tmp_path / "mine"
    (folder / "twisted" / "plugins").mkdir(parents=True)
    (folder / "twisted" / "plugins" / "smallest_first_plugin.py").write_text(plugin)
    (folder / "smallest_first.py").write_text(module)
    (folder / "test_smallest_first.py").write_text(test)
    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_smallest_first.py"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert tested.returncode == 0, tested.stdout
    (tmp_path / "gpus.ini").write_text(
        "[comfygate]\ncomfyui = simulator\ndevices = cpu*2\npolicy = smallest-first:most=3\n"
    )
    environment = {"PYTHONPATH": str(folder)}
    done = twistd("comfygate", "--check", "--config", "gpus.ini", folder=tmp_path, environment=environment)
    assert (done.returncode, done.stderr) == (0, "")
