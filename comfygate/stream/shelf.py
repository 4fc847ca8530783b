"""Messages about prompts whose turn at the client has not come yet, within bounds for all of them together."""

from __future__ import annotations

from attrs import define, field, frozen

from comfygate.outbox import MIB, Kind, Message, classify

_DROPPED_FIRST = (Kind.MINOR, Kind.PROGRESS, Kind.PREVIEW, Kind.EVENT)


@frozen
class _Kept:
    message: Message
    kind: Kind
    precious: bool


@define
class _Story:
    kept: dict[int, _Kept] = field(factory=dict)  # in the order in which they came
    preview: int | None = None


class Shelf:
    """Keeps messages by prompt, in order.

    Of pictures of work in progress only the newest of a prompt is kept.  Over
    the bound, what a client can do without is dropped, the oldest first, and
    then other events; one that is precious never is.

    :param bound: bytes that may be kept, results and precious ones not counted.
    :param results_bound: bytes of results that may be kept besides.
    """

    def __init__(self, bound: int = 4 * MIB, results_bound: int = 64 * MIB) -> None:
        self._bound = bound
        self._results_bound = results_bound
        self._stories: dict[str, _Story] = {}
        self._sequence = 0
        self.size = 0  #: bytes of what may be dropped
        self.results = 0  #: bytes of results

    def __contains__(self, prompt_id: str) -> bool:
        return prompt_id in self._stories

    def __len__(self) -> int:
        return len(self._stories)

    def put(self, prompt_id: str, message: Message, *, precious: bool = False) -> None:
        """Keep a message behind the others about its prompt.

        :param precious: whether it must not be dropped, as the end of a prompt.
        """
        story = self._stories.setdefault(prompt_id, _Story())
        kind = classify(message)[0]
        self._sequence += 1
        if kind is Kind.PREVIEW:
            if story.preview is not None:
                self._remove(story, story.preview)
            story.preview = self._sequence
        story.kept[self._sequence] = _Kept(message, kind, precious)
        self._count(story.kept[self._sequence], 1)
        if self.size > self._bound:
            self._drop(_DROPPED_FIRST, self._bound // 2)
        if self.results > self._results_bound:
            self._drop((Kind.RESULT,), self._results_bound // 2)

    def take(self, prompt_id: str) -> list[Message]:
        """Remove and return what is kept about a prompt, the oldest first."""
        story = self._stories.pop(prompt_id, None)
        if story is None:
            return []
        for kept in story.kept.values():
            self._count(kept, -1)
        return [kept.message for kept in story.kept.values()]

    def _count(self, kept: _Kept, sign: int) -> None:
        if kept.kind is Kind.RESULT:
            self.results += sign * kept.message.cost
        elif not kept.precious:
            self.size += sign * kept.message.cost

    def _remove(self, story: _Story, sequence: int) -> None:
        self._count(story.kept.pop(sequence), -1)
        if story.preview == sequence:
            story.preview = None

    def _drop(self, kinds: tuple[Kind, ...], until: int) -> None:
        """Drop messages of these kinds until half of the bound is free, so that this is seldom."""
        found = [
            (kinds.index(kept.kind), sequence, story)
            for story in self._stories.values()
            for sequence, kept in story.kept.items()
            if kept.kind in kinds and not kept.precious
        ]
        found.sort(key=lambda one: one[:2])
        for _, sequence, story in found:
            if (self.results if kinds == (Kind.RESULT,) else self.size) <= until:
                return
            self._remove(story, sequence)
