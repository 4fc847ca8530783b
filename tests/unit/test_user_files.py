"""The companion's part that writes the user folder: what is left when a process dies in the middle."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from comfygate.backend.commandline import COMPANION
from comfygate.companion.custom_nodes.comfygate_companion.user_files import (
    TEMPORARY,
    Users,
    merging,
    open_for_replacement,
    remove_leftovers,
)

MODULE = COMPANION / "comfygate_companion" / "user_files.py"
OLD = json.dumps({"Comfy.Old": "x" * 100_000})

DIES = """
import importlib.util, json, os, signal, sys
spec = importlib.util.spec_from_file_location("user_files", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
# What ComfyUI does in AppSettings.save_settings, and death at the point that is asked for.
with module.open_for_replacement(sys.argv[2], "w") as file:
    if sys.argv[3] == "before":
        os.kill(os.getpid(), signal.SIGKILL)
    file.write(json.dumps({"Comfy.New": 1}))
    if sys.argv[3] == "amid":
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(("when", "left"), [("before", OLD), ("amid", OLD), ("after", '{"Comfy.New": 1}')])
def test_a_process_that_is_killed_leaves_the_old_or_the_new(tmp_path: Path, when: str, left: str) -> None:
    settings = tmp_path / "comfy.settings.json"
    settings.write_text(OLD)
    child = subprocess.run([sys.executable, "-c", DIES, str(MODULE), str(settings), when], timeout=30, check=False)
    assert child.returncode == -signal.SIGKILL
    assert settings.read_text() == left
    remove_leftovers(str(tmp_path))
    assert os.listdir(tmp_path) == ["comfy.settings.json"]


def test_what_another_process_is_writing_is_no_leftover(tmp_path: Path) -> None:
    path = tmp_path / TEMPORARY.format(pid=os.getppid(), number=0)
    path.touch()
    remove_leftovers(str(tmp_path))
    assert path.exists()


def test_what_a_process_of_the_same_id_left_is_a_leftover(tmp_path: Path) -> None:
    """In a container that is started again, ComfyUI has the id that it had before."""
    (tmp_path / TEMPORARY.format(pid=os.getpid(), number=0)).touch()
    remove_leftovers(str(tmp_path))
    assert os.listdir(tmp_path) == []


def test_the_old_content_is_there_until_the_file_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with open_for_replacement(str(path), "wb") as file:
        file.write(b"new")
        file.flush()
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    text = open_for_replacement(path, "w", encoding="utf-16")
    text.write("ä")
    text.close()
    text.close()
    assert path.read_text(encoding="utf-16") == "ä"
    open_for_replacement(path, "w").write("nobody closed it")
    assert path.read_text() == "nobody closed it"
    assert os.listdir(tmp_path) == ["a.json"]


def test_nothing_changes_if_writing_fails(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("old")
    with pytest.raises(TypeError), open_for_replacement(path, "w") as file:
        json.dump({"a": 1, "b": object()}, file)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_names_that_no_file_can_have_are_refused_as_ever(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("x" * 300, "missing/a", "folder"):
        with pytest.raises(OSError), open_for_replacement(tmp_path / name, "wb") as file:
            file.write(b"x")
    assert os.listdir(tmp_path) == ["folder"]


def test_the_mode_of_a_file_is_kept_and_a_new_one_has_that_of_any_new_file(tmp_path: Path) -> None:
    path, plain = tmp_path / "a", tmp_path / "b"
    path.touch(0o600)
    path.chmod(0o640)
    plain.touch()
    for each in (path, tmp_path / "new"):
        with open_for_replacement(each, "w") as file:
            file.write("1")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert (tmp_path / "new").stat().st_mode == plain.stat().st_mode


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "elsewhere" / "a"
    target.write_text("old")
    link = tmp_path / "link"
    link.symlink_to(target)
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "elsewhere" / "new")
    for each in (link, dangling):
        with open_for_replacement(each, "w") as file:
            file.write("1")
        assert each.is_symlink() and each.read_text() == "1"
    assert target.read_text() == "1"


def test_what_cannot_be_replaced_is_written_as_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_for_replacement(os.devnull, "w") as file:
        assert file.write("1") == 1
    path = tmp_path / "a"
    path.write_text("old")
    with open_for_replacement(path) as file:
        assert file.read() == "old"
    with open_for_replacement(path, "a") as file:
        file.write("er")
    assert path.read_text() == "older"
    if os.geteuid():  # root may do everything
        tmp_path.chmod(0o500)
        with open_for_replacement(path, "w") as file:
            file.write("1")
        tmp_path.chmod(0o700)
        assert path.read_text() == "1"


class AppSettings:
    """ComfyUI's, with settings in the memory."""

    def __init__(self) -> None:
        self.stored: dict[str, Any] = {"kept": 0}

    def get(self, request: Any) -> dict[str, Any]:
        return dict(self.stored)

    def save(self, request: Any, settings: dict[str, Any]) -> None:
        self.stored = settings


async def post_settings(settings: Any, name: str, body: asyncio.Future[Any]) -> None:
    """As ComfyUI does it: what is read before the body has come is written after it."""
    get, save = merging(AppSettings.get, AppSettings.save)
    request: dict[str, Any] = {}
    read = get(settings, request)
    read[name] = await body
    save(settings, request, read)


def test_settings_that_come_at_one_time_do_not_undo_each_other() -> None:
    async def both() -> dict[str, Any]:
        settings = AppSettings()
        bodies = [asyncio.get_running_loop().create_future() for _ in range(2)]
        posts = [asyncio.ensure_future(post_settings(settings, f"s{n}", body)) for n, body in enumerate(bodies)]
        await asyncio.sleep(0)
        for n, body in enumerate(bodies):
            body.set_result(n)
        await asyncio.gather(*posts)
        return settings.stored

    assert asyncio.run(both()) == {"kept": 0, "s0": 0, "s1": 1}


def test_a_request_that_is_none_of_aiohttps_is_served_as_ever() -> None:
    get, save = merging(AppSettings.get, AppSettings.save)
    settings = AppSettings()
    save(settings, object(), {**get(settings, object()), "new": 1})
    assert settings.stored == {"kept": 0, "new": 1}
    save(settings, {}, {"only": 1})
    assert settings.stored == {"only": 1}


def test_a_setting_may_be_taken_out() -> None:
    get, save = merging(AppSettings.get, AppSettings.save)
    settings, request = AppSettings(), dict[str, Any]()
    read = get(settings, request)
    settings.stored["meanwhile"] = 1
    del read["kept"]
    save(settings, request, read)
    assert settings.stored == {"meanwhile": 1}


def test_users_that_another_process_adds_are_known(tmp_path: Path) -> None:
    path = tmp_path / "users.json"
    users = Users(str(path))
    assert users.now() == {}
    for names in ({"a": "A"}, {"a": "A", "b": "B"}):
        with open_for_replacement(path, "w") as file:
            json.dump(names, file)
        assert users.now() == names
