"""The queue of prompts, the running one, and the history."""

from __future__ import annotations

import copy
import heapq
import threading
from collections.abc import Callable
from typing import Any

MOST_HISTORY = 10_000
SECRETS = ("auth_token_comfy_org", "api_key_comfy_org")

Item = tuple[Any, str, Any, Any, list[str]]
"""Number, prompt id, prompt, extra data, outputs to execute: compared in this order, as ComfyUI's heap does."""


class Jobs:
    """What waits, runs and ran.  Any thread may call.

    :param changed: called whenever the number of unfinished jobs may have changed.
    :ivar ending: called when a job is about to be moved to the history.
    """

    def __init__(self, changed: Callable[[], None]) -> None:
        self.ending: Callable[[], None] = lambda: None
        self.history: dict[str, dict[str, Any]] = {}
        self.interrupted = threading.Event()
        self._changed = changed
        self._heap: list[Item] = []
        self._running: dict[int, Item] = {}
        self._flags: dict[str, Any] = {}
        self._started = 0
        self._lock = threading.RLock()
        self._wake = threading.Condition(self._lock)

    @property
    def remaining(self) -> int:
        """How many jobs wait or run."""
        with self._lock:
            return len(self._heap) + len(self._running)

    def put(self, item: Item) -> None:
        """Queue a job.

        :raises TypeError: another job has its number and id; it is queued all
            the same, as in ComfyUI.
        """
        with self._lock:
            heapq.heappush(self._heap, item)
            self._changed()
            self._wake.notify()

    def take(self, timeout: float) -> tuple[int, Item] | None:
        """Wait for the next job, or for a flag; None when there is no job."""
        with self._wake:
            if not self._heap and not self._flags:
                self._wake.wait(timeout)
            if not self._heap:
                return None
            item = heapq.heappop(self._heap)
            key, self._started = self._started, self._started + 1
            self._running[key] = copy.deepcopy(item)
            self._changed()
            return key, item

    def finish(self, key: int, result: dict[str, Any], status: dict[str, Any]) -> None:
        """Move a job from running to history."""
        self.ending()
        with self._lock:
            item = self._running.pop(key)
            for secret in SECRETS:
                if secret in item[3]:
                    item[3].pop(secret)
            if len(self.history) > MOST_HISTORY:
                del self.history[next(iter(self.history))]
            self.history[item[1]] = {"prompt": item, "outputs": {}, "status": copy.deepcopy(status), **result}
            self._changed()

    def listing(self) -> tuple[list[Item], list[Item]]:
        """Running and waiting jobs; the latter in heap order."""
        with self._lock:
            return list(self._running.values()), list(self._heap)

    def clear(self) -> None:
        """Forget all that wait."""
        with self._lock:
            self._heap = []
            self._changed()

    def delete(self, prompt_id: Any) -> None:
        """Forget one that waits, if it does."""
        with self._lock:
            for index, item in enumerate(self._heap):
                if item[1] == prompt_id:
                    del self._heap[index]
                    heapq.heapify(self._heap)
                    self._changed()
                    return

    def interrupt(self, prompt_id: Any = None) -> None:
        """Interrupt what runs, or only the prompt that is named."""
        running, _ = self.listing()
        if not prompt_id or any(item[1] == prompt_id for item in running):
            self.interrupted.set()

    def raise_flag(self, name: str, value: Any) -> None:
        """Ask the worker to free something once it is idle."""
        with self._wake:
            self._flags[name] = value
            self._wake.notify()

    def take_flags(self) -> dict[str, Any]:
        """What the worker was asked."""
        with self._lock:
            flags, self._flags = self._flags, {}
            return flags

    def past(self, max_items: int | None, offset: int) -> dict[str, Any]:
        """A part of the history: from `offset`, or the newest where that is negative."""
        with self._lock:
            entries = list(self.history.items())
        if offset < 0 and max_items is not None:
            offset = len(entries) - max_items
        chosen = entries[max(offset, 0) :]
        return dict(chosen if max_items is None else chosen[: max(max_items, 1)])
