from __future__ import annotations

from pathlib import Path

import pytest

from comfygate.errors import JournalError
from comfygate.journal.inspection import inspect
from tests.journals import fill, opened
from tests.unit.test_store import change


def test_a_journal_in_use_can_be_looked_into(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    store = opened(path)
    store.load()
    written = fill(store, 60)
    store.set_setting("drained", "[1]")
    found = inspect(str(path), 5)
    assert found.counts == {"waiting": 40, "running": 10, "done": 10}
    assert (found.version, found.records, found.settings) == (1, 10, {"drained": "[1]"})
    assert found.size > 100_000
    assert [one.job.prompt_id for one in found.unfinished] == [job.prompt_id for job in written.jobs[:5]]
    assert [one.prompt_id for one in found.finished] == [job.prompt_id for job in reversed(written.done[-5:])]
    assert (found.quarantine, found.aside) == ((), ())
    store.close()


def test_losses_are_shown(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    store = opened(path)
    store.load()
    written = fill(store, 60)
    store.close()
    change(path, "UPDATE jobs SET gate = 'hob' WHERE sequence = ?", written.jobs[0].sequence)
    assert len(inspect(str(path)).unfinished) == 49  # nothing is mended by looking
    store = opened(path)
    store.load()
    store.close()
    with path.open("r+b") as file:
        file.write(b"?")
    opened(path).close()
    found = inspect(str(path))
    assert [one.source for one in found.quarantine] == ["file"]
    assert len(found.aside) == 1
    assert found.quarantine[0].content == repr(found.aside[0])


def test_rows_in_quarantine_are_shown(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    store = opened(path)
    store.load()
    written = fill(store, 60)
    store.close()
    change(path, "UPDATE jobs SET gate = 'hob' WHERE sequence = ?", written.jobs[0].sequence)
    store = opened(path)
    store.load()
    store.close()
    found = inspect(str(path)).quarantine
    assert [(one.source, one.why) for one in found] == [
        ("bodies", "what belongs to it is missing"),
        ("jobs", "the checksum is wrong"),
    ]
    assert "hob" in (found[1].content or "")


@pytest.mark.parametrize("content", [None, b"no SQLite file" * 1000])
def test_what_cannot_be_read_is_told(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "journal.sqlite"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(JournalError, match=r"journal\.sqlite"):
        inspect(str(path))
    assert path.exists() == (content is not None)
