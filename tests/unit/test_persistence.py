"""What outlives the daemon."""

from __future__ import annotations

from pathlib import Path

import pytest
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from comfygate.config.settings import Config, ConfigError, parse
from comfygate.errors import JournalError
from comfygate.persistence import Persistence, open_store


def config(folder: Path) -> Config:
    text = f"[comfygate]\ncomfyui = simulator\nstate_dir = {folder}\n"
    return parse(text, filename="gpus.ini", environ={}, here="/")


class Disk:
    """A journal whose disk may be full."""

    def __init__(self) -> None:
        self.full = True
        self.written: list[str] = []

    def set_setting(self, name: str, value: str) -> Deferred[None]:
        if self.full:
            return fail(JournalError("the disk is full"))
        self.written.append(value)
        return succeed(None)


def test_drained_gpus_that_could_not_be_written_down_are_when_there_is_room_again(tmp_path: Path) -> None:
    clock, disk = Clock(), Disk()
    persistence = Persistence(None, clock, config(tmp_path), lambda gpu_id: True)
    persistence.journal = disk  # type: ignore[assignment]
    persistence.remember_drained({2, 0})
    persistence.remember_drained({2, 1})
    clock.advance(30)
    disk.full = False
    clock.advance(30)
    assert disk.written == ["[1,2]"]
    assert not clock.getDelayedCalls()


def test_a_journal_that_cannot_be_read_is_blamed_on_its_folder(tmp_path: Path) -> None:
    (tmp_path / "journal.sqlite").mkdir()
    with pytest.raises(ConfigError, match=r"^gpus.ini, \[comfygate\] state_dir: "):
        open_store(config(tmp_path))
