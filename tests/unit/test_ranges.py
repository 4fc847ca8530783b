"""The registry of output numbers, shared by real processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from comfygate.companion.custom_nodes.comfygate_companion import ranges
from comfygate.companion.custom_nodes.comfygate_companion.ranges import Range, Registry, Unavailable, key_of

KEY = key_of("/out", "ComfyUI")

HOLD = """
import sys
from comfygate.companion.custom_nodes.comfygate_companion.ranges import Registry
registry, key = Registry(sys.argv[1]), sys.argv[2]
with registry.locked(key):
    registry.reserve(key, 1, 8, -1)
    if sys.argv[3] == "locked":
        print(registry.owner, flush=True)
        input()
print(registry.owner, flush=True)
input()
"""


class Holder:
    """Another process that holds the numbers 1 to 8, and the lock if so asked."""

    def __init__(self, folder: Path, how: str = "") -> None:
        arguments = [sys.executable, "-c", HOLD, str(folder), KEY, how]
        self.process = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert self.process.stdout is not None
        self.owner = self.process.stdout.readline().strip()
        assert self.owner

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def holders(tmp_path: Path) -> Iterator[list[Holder]]:
    made: list[Holder] = []
    yield made
    for holder in made:
        holder.kill()


def live(registry: Registry, key: str = KEY) -> list[Range]:
    with registry.locked(key):
        return registry.live(key)


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*/*") if path.parent.name != "owners")


def test_a_range_is_known_to_all_until_it_is_given_up(tmp_path: Path) -> None:
    one, other = Registry(str(tmp_path)), Registry(str(tmp_path))
    made = one.reserve(KEY, 5, 8, -1)
    (found,) = live(other)
    assert (found.start, found.end, found.seen, found.owner) == (5, 13, -1, one.owner)
    assert live(other, key_of("/out", "other")) == []
    one.release(made)
    one.release(made)
    assert live(other) == []
    assert files(tmp_path) == []


def test_a_range_shows_in_its_files() -> None:
    assert [Range(KEY, 5, 8, -1, 0.0, "x").shows(number) for number in (4, 5, 7, 8)] == [False, True, True, False]
    assert [Range(KEY, 5, 8, 3, 0.0, "x").shows(number) for number in (3, 4, 9)] == [False, True, True]


def test_a_killed_process_holds_nothing(tmp_path: Path, holders: list[Holder]) -> None:
    registry = Registry(str(tmp_path))
    holders.append(Holder(tmp_path))
    assert [found.owner for found in live(registry)] == [holders[0].owner]
    holders[0].kill()
    assert live(registry) == []
    assert files(tmp_path) == []
    assert len(list((tmp_path / "owners").iterdir())) == 2
    newest = Registry(str(tmp_path))
    assert {path.name for path in (tmp_path / "owners").iterdir()} == {registry.owner, newest.owner}


def test_a_process_killed_while_it_chose_leaves_no_lock(tmp_path: Path, holders: list[Holder]) -> None:
    registry = Registry(str(tmp_path))
    holders.append(Holder(tmp_path, "locked"))
    holders[0].kill()
    assert live(registry) == []


def test_a_stopped_process_holds_nobody_up_for_long(
    tmp_path: Path, holders: list[Holder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "PATIENCE", 0.05)
    registry = Registry(str(tmp_path))
    holders.append(Holder(tmp_path, "locked"))
    os.kill(holders[0].process.pid, signal.SIGSTOP)
    with pytest.raises(Unavailable, match="cannot be used"):
        live(registry)


def test_threads_of_one_process_wait_for_each_other(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path))
    order: list[str] = []

    def second() -> None:
        with registry.locked(KEY):
            order.append("second")

    thread = threading.Thread(target=second)
    with registry.locked(KEY):
        thread.start()
        thread.join(0.05)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


@pytest.mark.parametrize("name", ["", ".1.2.-1.0", ".one.2.-1.0.x", ".1.2.-1.0.nobody", ".1.2.-1.0.x.y"])
def test_what_is_no_range_of_a_living_process_is_not_counted(tmp_path: Path, name: str) -> None:
    registry = Registry(str(tmp_path))
    made = registry.reserve(KEY, 1, 1, -1)
    bucket = next(path.parent for path in tmp_path.glob(f"*/{made.name}"))
    bucket.joinpath(KEY + name).write_bytes(b"garbage")
    bucket.joinpath("..." + name).write_bytes(b"\0")
    assert live(registry) == [Range.parse(made.name)]
    Registry(str(tmp_path))
    assert files(tmp_path) == [made.name]


def test_many_names(tmp_path: Path) -> None:
    one, other = Registry(str(tmp_path)), Registry(str(tmp_path))
    keys = [key_of("/out", f"name {number}") for number in range(500)]
    made = [one.reserve(key, 1, 1, -1) for key in keys]
    assert [len(live(other, key)) for key in keys] == [1] * len(keys)
    for reserved in made:
        one.release(reserved)
    assert files(tmp_path) == []


def test_a_folder_that_somebody_removes_is_made_again(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path / "names"))
    (tmp_path / "names").rename(tmp_path / "gone")
    with registry.locked(KEY):
        registry.reserve(KEY, 1, 1, -1)
    assert [found.owner for found in live(Registry(str(tmp_path / "names")))] == [registry.owner]


def test_a_range_read_again_has_the_name_that_it_was_read_from() -> None:
    # 16545.816 * 1000 is 16545815.999…
    for milliseconds in range(16_545_000, 16_546_000):
        name = f"{KEY}.1.9.-1.{milliseconds}.1-ab"
        found = Range.parse(name)
        assert found is not None and found.name == name


def test_an_empty_folder_that_somebody_removes_is_made_again(tmp_path: Path) -> None:
    registry = Registry(str(tmp_path))
    kept = registry.reserve(KEY, 1, 8, -1)
    for bucket in set(tmp_path.iterdir()) - {tmp_path / "owners"}:
        if not any(bucket.iterdir()):
            bucket.rmdir()
    others = [key_of("/out", str(number)) for number in range(9)]
    made = [registry.reserve(other, 1, 8, -1) for other in others if live(registry, other) == []]
    assert len(made) == len(others)
    assert [[found.name for found in live(registry, one.key)] for one in (kept, *made)] == [
        [one.name] for one in (kept, *made)
    ]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError):
        Registry(str(tmp_path / "file"))


def test_paths_to_one_folder_have_one_key(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert key_of(str(tmp_path / "link"), "x") == key_of(str(tmp_path / "." / "real"), "x")
    assert key_of(str(tmp_path), "x") != key_of(str(tmp_path), "X")
    assert key_of(str(tmp_path), "\udcff")


FORK = """
import os, sys
from comfygate.companion.custom_nodes.comfygate_companion.ranges import Registry
registry = Registry(sys.argv[1])
with registry.locked(sys.argv[2]):
    if not os.fork():
        sys.stdin.read()
        os._exit(0)
print("forked", flush=True)
sys.stdin.read()
"""


def test_a_child_that_was_forked_under_the_lock_does_not_keep_it(tmp_path: Path) -> None:
    """Another thread's node may fork worker processes, which inherit every open file."""
    arguments = [sys.executable, "-c", FORK, str(tmp_path), KEY]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "forked\n"
        assert live(Registry(str(tmp_path))) == []


def test_who_signs_in_while_another_sweeps_keeps_its_numbers(tmp_path: Path) -> None:
    """It is on no list that was made before."""
    late: list[Registry] = []

    class Sweeping(Registry):
        def _is_alive(self, owner: str) -> bool:
            if not late:
                late.append(Registry(str(tmp_path)))
                late[0].reserve(KEY, 1, 8, -1)
            return super()._is_alive(owner)

    first = Registry(str(tmp_path))
    Sweeping(str(tmp_path))
    assert [one.owner for one in live(first)] == [late[0].owner]
