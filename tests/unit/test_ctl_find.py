"""Where the control socket is looked for, and why nobody answers there."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from comfygate.config.paths import SYSTEM_STATE_DIR
from comfygate.ctl import find
from comfygate.ctl.errors import AbsentError, UsageError
from comfygate.ctl.find import explain, find_socket, temporary_state_dirs


def listening(path: Path) -> socket.socket:
    path.parent.mkdir(exist_ok=True)
    one = socket.socket(socket.AF_UNIX)
    one.bind(str(path))
    one.listen()
    return one


def test_what_is_named_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert find_socket("here.sock", None, None, {}) == f"{tmp_path}/here.sock"
    assert find_socket(None, "state", None, {}) == f"{tmp_path}/state/control.sock"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("state_dir = state", "{here}/state"),
        ("state_dir = $BASE/x", "/base/x"),
        ("state_dir = ~/y", "/home/me/y"),
        ("", "/home/me/.local/state/comfygate"),
        ("rate = a mistake elsewhere\nstate_dir = /z", "/z"),
    ],
)
def test_a_configuration_names_the_folder_whatever_else_it_says(
    line: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    config = tmp_path / "gpus.ini"
    config.write_text(f"[comfygate]\n{line}\n[gpu:0]\nname = x\n")
    found = find_socket(None, None, str(config), {"HOME": "/home/me", "BASE": "/base"})
    assert found == expected.format(here=tmp_path) + "/control.sock"


@pytest.mark.parametrize("text", ["no section", "[comfygate]\nstate_dir = $NOT_SET/x\n", "[comfygate]\nstate_dir =\n"])
def test_a_configuration_that_does_not_name_it(text: str, tmp_path: Path) -> None:
    (tmp_path / "gpus.ini").write_text(text)
    with pytest.raises(UsageError, match=r"gpus\.ini"):
        find_socket(None, None, str(tmp_path / "gpus.ini"), {})
    with pytest.raises(UsageError, match="cannot be read"):
        find_socket(None, None, str(tmp_path / "missing.ini"), {})


def test_without_a_name_it_is_where_the_daemon_would_make_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find, "SYSTEM_STATE_DIR", str(tmp_path / "system"))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    environ = {"HOME": str(tmp_path)}
    own = tmp_path / ".local" / "state" / "comfygate"
    assert find_socket(None, None, None, environ) == f"{own}/control.sock"
    (tmp_path / "system").mkdir()
    assert find_socket(None, None, None, environ) == f"{tmp_path}/system/control.sock"
    assert find_socket(None, None, None, {}) == f"{tmp_path}/system/control.sock"
    own.mkdir(parents=True)
    assert find_socket(None, None, None, environ) == f"{own}/control.sock"
    assert find_socket(None, None, None, {**environ, "STATE_DIRECTORY": str(tmp_path)}) == f"{tmp_path}/control.sock"


def test_the_systems_folder_is_what_root_gets() -> None:
    assert SYSTEM_STATE_DIR == "/var/lib/comfygate"


def test_a_temporary_folder_is_found_where_there_is_one(tmp_path: Path) -> None:
    config = tmp_path / "demo.ini"
    config.write_text("[comfygate]\nstate_dir = temporary\n")
    environ = {"TMPDIR": str(tmp_path)}
    (tmp_path / "comfygate-left").mkdir()
    with pytest.raises(AbsentError, match="no ComfyGate of yours runs with a temporary folder"):
        find_socket(None, None, str(config), environ)
    first = listening(tmp_path / "comfygate-1" / "control.sock")
    assert find_socket(None, None, str(config), environ) == f"{tmp_path}/comfygate-1/control.sock"
    second = listening(tmp_path / "comfygate-2" / "control.sock")
    with pytest.raises(AbsentError, match=f"name one with --state-dir: {tmp_path}/comfygate-1, {tmp_path}/comfygate-2"):
        find_socket(None, None, str(config), environ)
    first.close()
    second.close()


def test_a_strangers_temporary_folder_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = listening(tmp_path / "comfygate-1" / "control.sock")
    monkeypatch.setattr(os, "geteuid", lambda: 12_345)
    assert temporary_state_dirs({"TMPDIR": str(tmp_path)}) == []
    one.close()


def failure(path: Path) -> OSError:
    """Why one cannot connect to it."""
    with socket.socket(socket.AF_UNIX) as one, pytest.raises(OSError) as caught:
        one.connect(str(path))
    return caught.value


def why(path: Path, tmp_path: Path) -> str:
    error = explain(str(path), failure(path), {"TMPDIR": str(tmp_path)})
    assert error.status == 3
    return str(error)


def test_nobody_there(tmp_path: Path) -> None:
    assert why(tmp_path / "no" / "control.sock", tmp_path).startswith(f"there is no folder {tmp_path}/no; start")
    sentence = why(tmp_path / "control.sock", tmp_path)
    assert sentence.startswith(f"no ComfyGate runs in {tmp_path}; start it, or name its folder")
    one = listening(tmp_path / "comfygate-1" / "control.sock")
    assert f"--state-dir {tmp_path}/comfygate-1 is one that runs" in why(tmp_path / "control.sock", tmp_path)
    one.close()


def test_a_socket_that_was_left_behind_and_one_that_is_none(tmp_path: Path) -> None:
    listening(tmp_path / "control.sock").close()
    assert "the ComfyGate that made it has ended" in why(tmp_path / "control.sock", tmp_path)
    (tmp_path / "file").touch()
    assert f"{tmp_path}/file is not a socket" in why(tmp_path / "file", tmp_path)
    assert "there is no folder" in why(tmp_path / "file" / "control.sock", tmp_path)
