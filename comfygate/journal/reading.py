"""Long answers, read a piece at a time, so that nobody who writes waits for all of them."""

from __future__ import annotations

from collections.abc import Sequence

from comfygate.journal.archive import Entry
from comfygate.journal.store import Store
from comfygate.journal.thread import InThread

MOST_READ = 64 * 2**20
"""Bytes of entries that are read for one question; older ones are left out."""

_PIECE = 50
_IDS = 500


async def histories(store: Store, asked: InThread, gpu_ids: Sequence[int], newest: int | None) -> list[Entry]:
    """The entries of jobs that ended on these GPUs, the newest first; see :data:`MOST_READ`.

    :param newest: how many at most; ``None`` for all.
    """
    found: list[Entry] = []
    size = 0
    before: int | None = None
    while size < MOST_READ and (newest is None or len(found) < newest):
        most = _PIECE if newest is None else min(_PIECE, newest - len(found))
        page = await asked(lambda before=before, most=most: store.histories(gpu_ids, before, most))  # type: ignore[misc]
        found += page.entries
        size += sum(len(entry.record) for entry in page.entries)
        before = page.before
        if before is None:
            break
    return found


async def forget_histories(
    store: Store, asked: InThread, gpu_ids: Sequence[int], prompt_ids: Sequence[str] | None
) -> None:
    """Drop the entries of these jobs, or of all, that ended on these GPUs."""
    groups: list[Sequence[str] | None] = [None]
    if prompt_ids is not None:
        groups = [prompt_ids[start : start + _IDS] for start in range(0, len(prompt_ids), _IDS)]
    for ids in groups:
        while await asked(lambda ids=ids: store.forget_histories(gpu_ids, ids)):  # type: ignore[misc]
            pass
