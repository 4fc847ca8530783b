"""How output names are chosen, with the simulator's get_save_image_path."""

from __future__ import annotations

import logging
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from comfygate.companion.custom_nodes.comfygate_companion import names as part
from comfygate.companion.custom_nodes.comfygate_companion.names import VARIABLE, Names
from comfygate.companion.custom_nodes.comfygate_companion.ranges import Registry
from comfygate.simulator.folders import save_path
from tests.process.programs import name_saver

EXECUTOR: dict[str, Any] = {"__name__": "executor"}
exec("def execute(node, *inputs):\n    return node(*inputs)", EXECUTOR)
execute = EXECUTOR["execute"]
"""Calls a node as ComfyUI does: from a module whose variables don't count."""


class Gpu:
    """One process's protected function, and nodes that use it."""

    def __init__(self, folder: Path, original: Callable[..., Any] = save_path) -> None:
        self.root = folder / "output"
        self.call = object()
        self.names = Names(
            Registry(str(folder / "names")), original, lambda: str(folder / "temp"), "executor", lambda: self.call
        )
        self.get_save_image_path = self.names.get_save_image_path

    def ask(self, images: list[bytes], prefix: str = "x", root: Path | None = None) -> int:
        """Be handed a number, for as many pictures, and save nothing."""

        def node(images: list[bytes]) -> int:
            _, _, counter, _, _ = self.get_save_image_path(prefix, str(root or self.root), 8, 8)
            return int(counter) + 0

        self.call = object()
        number: int = execute(node, images)
        return number

    def save(self, images: list[bytes], prefix: str = "x") -> list[str]:
        """Save as SaveImage does."""

        def node(images: list[bytes]) -> list[str]:
            folder, filename, counter, _, _ = self.get_save_image_path(prefix, str(self.root), 8, 8)
            names = []
            for index, _ in enumerate(images):
                names.append(f"{filename.replace('%batch_num%', str(index))}_{counter:05}_.png")
                Path(folder, names[-1]).touch(exist_ok=False)
                counter += 1
            return names

        names: list[str] = execute(node, images)
        return names

    def find(self, images: list[bytes]) -> int:
        """Have a node save that lists the folder by itself, up to the number that it finds."""

        def node(images: list[bytes]) -> int:
            folder, _, _, _, _ = self.get_save_image_path("x", str(self.root), 8, 8)
            return max([int(path.stem.split("_")[1]) for path in Path(folder).iterdir()], default=0) + 1

        number: int = execute(node, images)
        return number


@pytest.fixture
def gpus(tmp_path: Path) -> tuple[Gpu, Gpu]:
    return Gpu(tmp_path), Gpu(tmp_path)


ONE = [b""]


def test_numbers_start_at_one_and_have_no_gaps(gpus: tuple[Gpu, Gpu]) -> None:
    one, other = gpus
    assert one.save(ONE * 2) == ["x_00001_.png", "x_00002_.png"]
    assert other.save(ONE) == ["x_00003_.png"]
    assert one.save(ONE) == ["x_00004_.png"]


def test_what_another_may_still_use_is_left_to_it(gpus: tuple[Gpu, Gpu]) -> None:
    one, other = gpus
    assert one.ask(ONE * 8) == 1
    assert other.ask(ONE, "y") == 1
    assert other.ask(ONE * 3) == 9
    one.names.release()
    other.names.release()
    assert one.ask(ONE) == 1


def test_a_second_node_of_the_prompt_goes_on_where_the_first_ended(gpus: tuple[Gpu, Gpu]) -> None:
    """Also where the first used fewer numbers than it might have."""
    one, other = gpus
    assert [one.ask(ONE * 50), one.ask(ONE * 50), other.ask(ONE)] == [1, 1, 51]


def test_a_node_that_asks_twice_may_still_use_the_first(gpus: tuple[Gpu, Gpu]) -> None:
    one, _ = gpus

    def node(images: list[bytes]) -> list[int]:
        _, _, first, _, _ = one.get_save_image_path("x", str(one.root), 8, 8)
        _, _, second, _, _ = one.get_save_image_path("x", str(one.root), 8, 8)
        return [first + 0, second + 0]

    assert execute(node, ONE * 2) == [1, 3]


def test_a_node_that_asks_for_each_file_leaves_no_gaps(gpus: tuple[Gpu, Gpu], tmp_path: Path) -> None:
    """Nor does it hold more and more."""
    one, other = gpus

    def node(images: list[bytes]) -> list[str]:
        names = []
        for _ in images:
            folder, filename, counter, _, _ = one.get_save_image_path("x", str(one.root), 8, 8)
            names.append(f"{filename}_{counter + 0:05}_.png")
            Path(folder, names[-1]).touch(exist_ok=False)
        held.append(len([path for path in (tmp_path / "names").glob("*/*") if path.parent.name != "owners"]))
        return names

    held: list[int] = []
    assert execute(node, ONE * 3) == ["x_00001_.png", "x_00002_.png", "x_00003_.png"]
    assert held == [1]
    assert other.save(ONE) > ["x_00003_.png"]


def test_many_names_held_do_not_make_the_next_one_slow(gpus: tuple[Gpu, Gpu]) -> None:
    """Each of these is held until the node ends, since none of its files is there."""
    one, _ = gpus

    def node(count: int) -> float:
        for number in range(count):
            one.get_save_image_path(f"x{number}", str(one.root), 8, 8)
        began = time.process_time()
        for number in range(count, count + 20):
            one.get_save_image_path(f"x{number}", str(one.root), 8, 8)
        return time.process_time() - began

    assert execute(node, 900) < 0.4  # 0.03 here; 1.6 where each is compared with each


def test_what_is_held_is_bounded(gpus: tuple[Gpu, Gpu], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(part, "MOST_HELD", 10)
    for _ in range(30):
        gpus[0].get_save_image_path("x", str(gpus[0].root), 8, 8)
    assert len([path for path in (tmp_path / "names").glob("*/*") if path.parent.name != "owners"]) == 11


def test_threads_of_one_process(gpus: tuple[Gpu, Gpu]) -> None:
    one, _ = gpus
    found: list[int] = []
    # A thread that has ended has saved what it was to save.
    all_asked = threading.Barrier(4, timeout=10)

    def ask() -> None:
        found.append(one.ask(ONE * 4))
        all_asked.wait()

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [1, 5, 9, 13]


def test_the_batch_number_in_the_name(gpus: tuple[Gpu, Gpu]) -> None:
    one, other = gpus
    assert one.save(ONE * 2, "%batch_num%of") == ["0of_00001_.png", "1of_00002_.png"]
    assert other.save(ONE * 2, "%batch_num%of") == ["0of_00003_.png", "1of_00004_.png"]


def test_sizes_and_times_in_the_name(gpus: tuple[Gpu, Gpu]) -> None:
    one, other = gpus
    assert one.ask(ONE, "%width%x%year%/y") == 1
    year = time.localtime().tm_year
    assert other.ask(ONE, f"8x{year}/y") == 2


def test_folders_with_two_names_are_one(gpus: tuple[Gpu, Gpu], tmp_path: Path) -> None:
    one, other = gpus
    one.root.mkdir()
    (tmp_path / "link").symlink_to(one.root)
    assert one.ask(ONE) == 1
    assert other.ask(ONE, root=tmp_path / "link") == 2


def test_temp_is_left_alone(gpus: tuple[Gpu, Gpu], tmp_path: Path) -> None:
    one, other = gpus
    assert [gpu.ask(ONE * 9, root=tmp_path / "temp") for gpu in (one, other)] == [1, 1]
    assert [gpu.ask(ONE * 9, root=tmp_path / "temporary") for gpu in (one, other)] == [1, 10]


def test_errors_of_the_original_are_the_nodes(gpus: tuple[Gpu, Gpu], caplog: pytest.LogCaptureFixture) -> None:
    one, _ = gpus
    with pytest.raises(Exception, match="only be saved in the output folder"):
        one.ask(ONE, "../../x")
    assert one.ask(ONE) == 1
    assert caplog.messages == []


def test_a_node_that_lists_by_itself_waits_for_the_first_file_of_another(gpus: tuple[Gpu, Gpu]) -> None:
    one, other = gpus
    found: list[int] = []
    assert one.find(ONE) == 1
    thread = threading.Thread(target=lambda: found.append(other.find(ONE)))
    thread.start()
    thread.join(0.1)
    assert found == []
    (one.root / "x_00001.mp4").touch()
    thread.join()
    assert found == [2]


def test_it_waits_no_longer_than_that(gpus: tuple[Gpu, Gpu], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part, "FIRST_FILE", 0.05)
    one, other = gpus
    assert (one.find(ONE), other.find(ONE)) == (1, 1)


def test_nodes_that_use_the_number_never_wait(gpus: tuple[Gpu, Gpu], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(part, "FIRST_FILE", 1e9)
    one, other = gpus
    assert (one.ask(ONE), other.ask(ONE)) == (1, 2)


def test_without_the_registry_a_save_goes_on_with_one_warning(
    gpus: tuple[Gpu, Gpu], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one, _ = gpus
    shutil.rmtree(tmp_path / "names")
    (tmp_path / "names").touch()
    assert [one.save(ONE) for _ in range(3)] == [["x_00001_.png"], ["x_00002_.png"], ["x_00003_.png"]]
    assert len(caplog.messages) == 1
    assert "two GPUs may choose the same output name" in caplog.text
    (tmp_path / "names").unlink()
    one.save(ONE)
    assert len(caplog.messages) == 1


def test_another_form_of_the_answer_is_passed_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    gpu = Gpu(tmp_path, lambda *arguments: "something new")
    assert gpu.get_save_image_path("x", str(tmp_path)) == "something new"
    assert "a form that is not known" in caplog.text


def test_a_node_that_cannot_be_looked_at_saves_all_the_same(
    gpus: tuple[Gpu, Gpu], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(part, "look", lambda *arguments: 1 / 0)
    one, other = gpus
    assert one.save(ONE) == ["x_00001_.png"]
    assert other.save(ONE) == ["x_00101_.png"]
    assert caplog.records[0].levelno == logging.WARNING


def test_installed_in_a_comfyui(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also for a custom node that has imported the function already; what a prompt held is free when it ends."""
    folder_paths, execution, node = ModuleType("folder_paths"), ModuleType("execution"), ModuleType("node")
    done: list[Any] = []

    class PromptQueue:
        def task_done(self, item_id: int, *more: Any, **names: Any) -> None:
            done.append((item_id, more, names))

    def original(filename_prefix: str, output_dir: str) -> Any:
        return save_path(filename_prefix, output_dir, 8, 8)

    vars(folder_paths).update(get_save_image_path=original, get_temp_directory=lambda: str(tmp_path / "temp"))
    vars(execution).update(PromptQueue=PromptQueue)
    vars(node).update(mine=original)
    for module in (folder_paths, execution, node):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "names"))
    part.install([])
    ask = vars(node)["mine"]
    assert ask is vars(folder_paths)["get_save_image_path"] is not original
    assert ask("x", str(tmp_path / "output"))[2] == 1
    assert ask(output_dir=str(tmp_path / "output"), filename_prefix="x")[2] > 1
    PromptQueue().task_done(5, {}, status=None)
    assert done == [(5, ({},), {"status": None})]
    assert ask("x", str(tmp_path / "output"))[2] == 1


def test_a_comfyui_that_comfygate_did_not_start_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(RuntimeError, match="COMFYGATE_NAMES"):
        part.registry()


def save_at_once(folder: Path, state: str, node: str, processes: int, count: int) -> tuple[list[str], int]:
    """Have processes save at once: the names, and how many of the processes found a name taken."""
    arguments = [sys.executable, "-m", name_saver.__name__, str(folder), state, node, str(count)]
    savers = [
        subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for _ in range(processes)
    ]
    for saver in savers:
        assert saver.stdin is not None
        saver.stdin.write("\n")
        saver.stdin.flush()
    printed = [saver.communicate(timeout=60)[0].split() for saver in savers]
    return [name for names in printed for name in names], sum(saver.returncode != 0 for saver in savers)


@pytest.mark.parametrize(("node", "count", "files"), [("counting", 200, 600), ("listing", 150, 150)])
def test_processes_that_save_at_once(tmp_path: Path, node: str, count: int, files: int) -> None:
    saved, failed = save_at_once(tmp_path, str(tmp_path / "names"), node, 3, count)
    assert failed == 0
    assert len(set(saved)) == len(saved) == 3 * files


@pytest.mark.parametrize("node", ["counting", "listing"])
def test_they_would_take_each_others_names_without_it(tmp_path: Path, node: str) -> None:
    assert any(save_at_once(tmp_path / str(attempt), "", node, 3, 300)[1] for attempt in range(5))
