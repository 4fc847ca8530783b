"""Where files lie."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from comfygate.backend.fleet import Fleet
from comfygate.errors import BackendUnreachable
from comfygate.files import FileName
from comfygate.gate import places as module
from comfygate.gate.places import Places
from comfygate.model import BackendState, JobState
from comfygate.testing import job
from tests.unit.fakes import FakeBackend, raising

PREVIEW = FileName("temp", "", "a.png")


class Folders:
    def __init__(self) -> None:
        self.clock = Clock()
        self.backends = [FakeBackend(n) for n in range(3)]
        fleet = Fleet(self.backends)  # type: ignore[arg-type]
        self.places = Places(fleet, self.clock)  # type: ignore[arg-type]
        fleet.subscribe(self.places)

    def put(self, gpu_id: int, name: FileName = PREVIEW, modified: float = 1.0) -> None:
        self.backends[gpu_id].client.folder[name.target] = modified

    def find(self, name: FileName = PREVIEW) -> int | None:
        found: Any = self.places.find(name, self.backends)  # type: ignore[arg-type]
        if isinstance(found, Deferred):
            assert found.called, "it waits"
            found = found.result
        return None if found is None else found.gpu_id

    @property
    def asked(self) -> int:
        return sum(len(backend.client.asked) for backend in self.backends if backend.client)

    def ends(self, gpu_id: int, *names: FileName) -> None:
        images = [{"filename": one.filename, "type": one.place, "subfolder": one.subfolder} for one in names]
        record = orjson.dumps({"outputs": {"9": {"images": images}}})
        self.places.job_changed(job(), JobState.DONE, gpu_id, None, record)


def test_the_one_that_has_it_is_found_and_remembered_for_a_while() -> None:
    folders = Folders()
    folders.put(1)
    assert folders.find() == 1 and folders.asked == 3
    assert folders.find() == 1 and folders.asked == 3
    folders.clock.advance(module.KEPT)
    assert folders.find() == 1 and folders.asked == 6


def test_of_several_the_newest() -> None:
    folders = Folders()
    for gpu_id, modified in enumerate((5.0, 7.0, 0.0)):
        folders.put(gpu_id, modified=modified)
    assert folders.find() == 1


def test_nobody_has_it() -> None:
    folders = Folders()
    folders.backends[0].client.before["HEAD " + PREVIEW.target] = raising(BackendUnreachable("refused"))
    assert folders.find() == 1 and folders.asked == 3  # the first that has said so
    assert folders.find() == 1 and folders.asked == 6


def test_shared_files_are_with_everybody_unless_somebody_has_folders_of_their_own() -> None:
    folders = Folders()
    saved = FileName("output", "", "a.png")
    assert folders.find(saved) is None and folders.asked == 0
    folders.backends[2].owned = False
    folders.put(2, saved)
    assert folders.find(saved) == 2
    assert [len(backend.client.asked) for backend in folders.backends] == [1, 0, 1]


def test_where_somebody_has_folders_of_their_own_a_prompt_says_whose_file_it_is() -> None:
    folders = Folders()
    saved = FileName("output", "", "a.png")
    folders.ends(1, saved)
    assert folders.find(saved) is None  # everybody has it
    folders.backends[2].owned = False
    for gpu_id in (0, 2):
        folders.put(gpu_id, saved)
    folders.ends(2, saved)
    assert folders.find(saved) == 2
    folders.ends(1, saved)
    assert folders.find(saved) == 0 and folders.asked == 0  # which has what GPU 1 has


def test_a_prompt_that_ended_has_said_what_it_left() -> None:
    folders = Folders()
    folders.ends(2, PREVIEW, FileName("output", "", "b.png"))
    assert folders.find() == 2 and folders.asked == 0
    folders.clock.advance(1000)
    assert folders.find() == 2
    folders.ends(0, PREVIEW)
    assert folders.find() == 0
    folders.backends[0].become(BackendState.DOWN)
    folders.backends[0].become(BackendState.READY)
    assert folders.asked == 0 and folders.find() == 0 and folders.asked == 3  # its folder was emptied
    folders.places.job_changed(job(), JobState.DONE, 1, None, b'"temp" and no JSON')
    folders.places.job_changed(job(), JobState.CANCELLED, None, None, None)


def test_no_more_is_remembered_than_is_bearable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REMEMBERED", 2)
    folders = Folders()
    names = [FileName("temp", "", f"{n}.png") for n in range(3)]
    folders.ends(1, *names)
    assert folders.find(names[2]) == 1 and folders.asked == 0
    assert folders.find(names[0]) == 0 and folders.asked == 3


def test_a_gpu_that_does_not_answer_delays_nobody_for_long() -> None:
    folders = Folders()
    folders.put(1)
    folders.backends[2].client.pause = Deferred()
    found: Any = folders.places.find(PREVIEW, folders.backends)  # type: ignore[arg-type]
    assert not found.called
    folders.clock.advance(module.REST)
    assert found.result.gpu_id == 1
