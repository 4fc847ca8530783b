"""Reading ahead: which files, how much, and when not."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
from attrs import evolve

from comfygate.companion.custom_nodes.comfygate_companion.read_ahead import (
    LOOK_EVERY,
    MARGIN,
    MOST_FILES,
    PIECE,
    Reader,
    available_bytes,
)
from comfygate.control.read_ahead import AGAIN, PAUSE, ReadAhead
from comfygate.errors import BackendUnusable
from comfygate.model import BackendState, Job
from comfygate.routing.affinity import Affinity
from comfygate.routing.assignment import GateRouting
from comfygate.testing import job
from tests.unit.fakes import House, raising

# -- what the daemon asks for


class Reading(House):
    """Two GPUs under affinity, of which a test looks at the first."""

    def __init__(self) -> None:
        super().__init__()
        self.books.gates = {"hub": GateRouting("hub", (0, 1), Affinity())}
        self.ahead = ReadAhead(self.books)
        self.backends[1].become(BackendState.DOWN)

    def send(self, *models: str) -> Job:
        one = job(models=models, targets=[0], expected=0)
        fields = {"prompt_id": one.prompt_id, "number": one.number, "prompt": {}}
        one = evolve(one, submission=orjson.dumps(fields))
        self.ledger.accept(one)
        self.books.changed()
        self.turn()
        return one

    def look(self, seconds: float = PAUSE) -> list[list[str]]:
        """What has been asked for since the last look."""
        self.clock.advance(seconds)
        self.turn()
        read = self.backends[0]._client.read
        found = list(read)
        read.clear()
        return found


def test_the_files_of_the_next_jobs_are_asked_for_once() -> None:
    house = Reading()
    house.send("a")
    assert house.look() == []  # it loads that itself by now
    house.send("b", "c")
    house.send("d")
    assert [one.models for one in house.ahead.next_jobs(0)] == [{"b", "c"}]  # the policy gives it no job to load b yet
    assert house.look() == [["b", "c"]]
    house.send("e")
    assert house.look() == []
    house.clock.advance(AGAIN)
    house.books.changed()
    house.turn()
    assert house.look() == [["b", "c"]]


def test_a_job_that_it_holds_comes_before_the_one_that_it_would_get() -> None:
    house = Reading()
    house.books.gates = {"hub": house.hub}  # in order
    for model in ("a", "b", "c", "d"):
        house.send(model)
    assert [sorted(one.models) for one in house.ahead.next_jobs(0)] == [["b"], ["c"]]
    assert house.look() == [["b", "c"]]


def test_what_is_loaded_is_not_read() -> None:
    house = Reading()
    house.send("a")
    house.send("a")
    house.send("a", "b")
    assert house.look() == [["b"]]


@pytest.mark.parametrize("way", ["off", "not ours", "no companion", "stopped", "stopping"])
def test_when_nothing_is_read(way: str) -> None:
    house = Reading()
    if way == "off":
        house.ahead.wanted = False
    elif way == "not ours":
        house.backends[0].owned = False
    elif way == "no companion":
        house.backends[0].has_companion = False
    house.send("a")
    house.send("b")
    if way == "stopped":
        house.ahead.stop()
    elif way == "stopping":
        house.books.close(1.0)
    assert house.look() == []


def test_a_companion_that_cannot_is_not_asked_again_until_it_is_another() -> None:
    house = Reading()
    house.backends[0].client.before["read_ahead"] = raising(BackendUnusable("404"))
    house.send("a")
    house.send("b")
    assert house.look() == []
    del house.backends[0].client.before["read_ahead"]
    house.clock.advance(AGAIN)
    house.send("c")
    assert house.look() == []
    house.backends[0].become(BackendState.DOWN)
    house.turn()
    house.look()
    house.clock.advance(AGAIN)
    house.backends[0].become(BackendState.READY)
    house.turn()
    assert house.look() != []


def test_a_look_is_not_taken_while_one_is_under_way() -> None:
    house = Reading()
    house.send("a")
    for _ in range(20):
        house.books.changed()
        house.turn()
    assert sum(call.func == house.ahead._look for call in house.clock.getDelayedCalls()) == 1


# -- what the companion does


class Files:
    """Model files, memory, and what the kernel was asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.available = 100 * LOOK_EVERY
        self.pieces: list[int] = []
        self.during: Callable[[], None] = lambda: None
        self.reader = Reader(self.find, lambda: self.available, self.advise)

    def make(self, name: str, size: int) -> None:
        with (self.folder / name).open("wb") as file:
            file.truncate(size)

    def find(self, name: str) -> str | None:
        path = self.folder / name
        return str(path) if path.exists() else None

    def advise(self, file: int, begin: int, length: int, advice: int) -> None:
        assert (length, advice) == (PIECE, os.POSIX_FADV_WILLNEED)
        self.pieces.append(begin)
        self.during()

    def read(self, *names: object) -> list[int]:
        self.reader.want(names)
        self.reader.wait(10)
        return self.pieces


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_a_file_is_asked_for_piece_by_piece(files: Files) -> None:
    files.make("a", 3 * PIECE + 1)
    assert files.read("missing", 5, "a") == [0, PIECE, 2 * PIECE, 3 * PIECE]
    assert len(files.read("a")) == 8


def test_a_file_that_is_large_for_the_memory_is_left_alone(files: Files) -> None:
    files.make("large", 10 * PIECE)
    files.make("small", PIECE)
    files.available = 19 * PIECE
    assert files.read("large", "small") == []  # nothing at all when there is so little
    files.available = 2 * LOOK_EVERY
    files.make("large", LOOK_EVERY + 1)
    assert files.read("large", "small") == [0]


def test_it_stops_where_memory_becomes_scarce_and_where_something_else_is_wanted(files: Files) -> None:
    files.make("a", 3 * LOOK_EVERY)
    files.during = lambda: setattr(files, "available", LOOK_EVERY - 1)
    assert len(files.read("a")) == LOOK_EVERY // PIECE
    files.pieces.clear()
    files.available = 100 * LOOK_EVERY
    files.during = lambda: files.reader.want(["gone"])
    assert len(files.read("a")) == LOOK_EVERY // PIECE


def test_a_fault_in_one_file_stops_no_other(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    files.make("a", PIECE)
    (files.folder / "b").mkdir()
    files.during = lambda: None
    broken = Reader(lambda name: "/nowhere/x" if name == "x" else files.find(name), lambda: 2**40, files.advise)
    broken.want(["x", "a"])
    broken.wait(10)
    assert files.pieces == [0]
    assert "x is not read ahead" in caplog.text


def test_few_files_are_taken_from_one_request(files: Files) -> None:
    held = threading.Event()
    files.make("a", PIECE)
    files.during = lambda: bool(held.wait(10)) and None  # type: ignore[assignment, return-value]
    files.reader.want(["a", *(f"x{number}" for number in range(100))])
    assert len(files.reader._wanted) <= MOST_FILES
    held.set()
    files.reader.wait(10)


def memory(tmp_path: Path, available: int, mapped: int, **limits: str) -> int:
    (tmp_path / "meminfo").write_text(f"MemTotal: 9 kB\nMemAvailable: {available} kB\nMapped: {mapped} kB\nHuge: 0\n")
    for name, text in limits.items():
        (tmp_path / name.replace("_", ".")).write_text(text)
    return available_bytes(str(tmp_path / "meminfo"), str(tmp_path))


def test_what_runs_is_left_in_memory_and_a_margin_with_it(tmp_path: Path) -> None:
    gib = 2**20  # in kB
    assert memory(tmp_path, 10 * gib, 3 * gib) == 7 * 2**30 - MARGIN
    assert memory(tmp_path, 3 * gib, 2 * gib) == 0
    limits = {"memory_current": str(5 * 2**30), "memory_stat": f"anon 1\ninactive_file {2**30}\n"}
    assert memory(tmp_path, 100 * gib, 0, memory_max=str(8 * 2**30), **limits) == 4 * 2**30 - MARGIN
    assert memory(tmp_path, 10 * gib, 0, memory_max="max", **limits) == 10 * 2**30 - MARGIN


def test_this_machine_says_how_much_there_is() -> None:
    assert available_bytes() >= 0
