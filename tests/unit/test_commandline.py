"""How a ComfyUI is started."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import comfygate
from comfygate.backend.commandline import (
    COMPANION,
    Folders,
    Program,
    StartError,
    arguments,
    environment,
    known_options,
)
from comfygate.model import Device

CPU = Device(gpu_id=0, label="cpu", name="CPU", environment={"CUDA_VISIBLE_DEVICES": ""}, arguments=("--cpu",))
CARD = Device(gpu_id=1, label="0", name="Card", environment={"CUDA_VISIBLE_DEVICES": "GPU-1"})
FOLDERS = Folders(own=Path("/state/gpu-0"), input=Path("/in"), output=Path("/out"))

HELP = """\
usage: main.py [-h] [--listen [IP]] [--port PORT]

options:
  -h, --help            show this help message and exit
  --listen [IP]         Specify the IP address. See --nowhere for more.
  --port PORT           Set the listen port.
  -o DIR, --output-directory DIR
                        Set the output directory. Overrides
                        --base-directory.
  --temp-directory TEMP_DIRECTORY
  --input-directory INPUT_DIRECTORY
  --extra-model-paths-config PATH [PATH ...]
  --disable-auto-launch
                        Disable auto launching the browser.
  --database-url DATABASE_URL
  --cpu                 To use the CPU for everything (slow).
  --disable-all-custom-nodes
  --whitelist-custom-nodes WHITELIST_CUSTOM_NODES [WHITELIST_CUSTOM_NODES ...]
"""
OPTIONS = known_options(HELP)


def test_known_options() -> None:
    assert {"--help", "--listen", "--port", "--output-directory", "--cpu", "--database-url"} <= OPTIONS
    assert "--base-directory" not in OPTIONS
    assert "--nowhere" not in OPTIONS
    assert known_options("Traceback (most recent call last):\n  File x\nImportError: --port") == frozenset()


def test_everything() -> None:
    found, unknown = arguments(OPTIONS, CPU, FOLDERS, 8181, ("--preview-method", "auto"))
    assert unknown == ()
    assert found == (
        *("--temp-directory", "/state/gpu-0"),
        *("--database-url", "sqlite:////state/gpu-0/comfyui.db"),
        *("--extra-model-paths-config", "/state/gpu-0/companion.yaml"),
        *("--output-directory", "/out"),
        *("--input-directory", "/in"),
        "--disable-auto-launch",
        "--cpu",
        *("--preview-method", "auto"),
        *("--listen", "127.0.0.1"),
        *("--port", "8181"),
    )


def test_only_what_the_installed_one_knows() -> None:
    found, unknown = arguments(OPTIONS - {"--database-url", "--cpu"}, CPU, FOLDERS, 8181)
    assert unknown == ("--database-url", "--cpu")
    assert "--cpu" not in found
    assert not any("comfyui.db" in word for word in found)


def test_folders_that_are_not_ours_to_choose() -> None:
    found, unknown = arguments(OPTIONS, CARD, Folders(own=Path("/state/gpu-1")), 8182)
    assert not {"--output-directory", "--input-directory", "--user-directory", "--cpu"} & set(found)
    assert unknown == ()


def test_relative_folders_are_made_absolute() -> None:
    found, _ = arguments(OPTIONS, CPU, Folders(own=Path("state"), output=Path("out")), 8181)
    assert found[found.index("--output-directory") + 1] == str(Path.cwd() / "out")
    assert found[found.index("--temp-directory") + 1] == str(Path.cwd() / "state")


def test_the_user_wins_but_for_where_it_listens() -> None:
    found, _ = arguments(
        OPTIONS, CPU, FOLDERS, 8181, ("--listen", "0.0.0.0", "--port", "1", "--output-directory", "/x")
    )
    assert found[-4:] == ("--listen", "127.0.0.1", "--port", "8181")
    assert found.index("/x") > found.index("/out")


def test_the_companion_survives_a_ban_on_custom_nodes() -> None:
    found, _ = arguments(OPTIONS, CPU, FOLDERS, 8181, ("--disable-all-custom-nodes",))
    assert found[found.index("--whitelist-custom-nodes") + 1] == "comfygate_companion"
    found, _ = arguments(
        OPTIONS, CPU, FOLDERS, 8181, ("--disable-all-custom-nodes", "--whitelist-custom-nodes", "mine")
    )
    assert "comfygate_companion" not in found


def test_environment() -> None:
    found = environment({"PATH": "/bin", "NOTIFY_SOCKET": "/run/x", "CUDA_VISIBLE_DEVICES": "7"}, CARD, FOLDERS)
    assert found == {
        "PATH": "/bin",
        "PYTHONUNBUFFERED": "1",
        "COMFYGATE_VERSION": comfygate.__version__,
        "COMFYGATE_NAMES": "/state/names",
        "CUDA_VISIBLE_DEVICES": "GPU-1",
    }


def test_program(tmp_path: Path) -> None:
    program = Program(str(tmp_path), "/usr/bin/python3")
    assert program.argv == ("/usr/bin/python3", str(tmp_path / "main.py"))
    assert program.folder == str(tmp_path)
    with pytest.raises(StartError, match=r"no main\.py"):
        program.check()
    (tmp_path / "main.py").touch()
    program.check()


def test_simulator() -> None:
    program = Program("simulator", "/not/used")
    program.check()
    assert program.argv == (sys.executable, "-m", "comfygate.simulator")
    assert Path(program.folder, "comfygate", "__init__.py").is_file()


def test_prepared_folder(tmp_path: Path) -> None:
    folders = Folders(own=tmp_path / 'a "b" ü' / "gpu-0", user=tmp_path / "user")
    folders.prepare()
    folders.prepare()
    assert folders.companion_paths.read_text() == f'comfygate:\n  custom_nodes: "{COMPANION}"\n'
    assert (tmp_path / "user").is_dir()
    assert (COMPANION / "comfygate_companion" / "__init__.py").is_file()
