"""One client's stream, made of what several ComfyUIs say to it.

What a single ComfyUI says is one story after the other: a prompt begins, its
nodes run, it ends, the next begins.  Clients count on that, more than they know.
So this is what they are told: while one prompt's story is told, those of others
wait on a shelf.  A client that says that it can follow several gets all as it
comes.

A prompt's last event is held back until its history can be read, which is when
its ComfyUI says that nothing runs any more, or when the ledger knows how it
ended.  And if nobody tells a prompt's end, because its ComfyUI died or the
connection to it, it is told from the ledger.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Protocol

from attrs import define, field, frozen

from comfygate.outbox import MIB, Message
from comfygate.stream.shelf import Shelf
from comfygate.stream.spoken import Role, Spoken, as_preview, read, with_prompt_id

HOLD = 2.0
"""Seconds for which a prompt's last event is held back at most."""

LEARN = 10.0
"""Seconds that the ledger may take to learn how a prompt ended of which only that was missed."""

GRACE = 1.0
"""Seconds that a prompt's events may take to arrive after the ledger knows that it has ended."""

NOWHERE = -1
"""In a GPU's place: of no ComfyUI that is known."""

_MOST_TOLD = 256
_MOST_SHELVED = 256
_MOST_UNCONFIRMED = 64
_MOST_UNCONFIRMED_BYTES = MIB
_LONGEST_STATE = 64 * 1024


class Prompts(Protocol):
    """Which prompts are the client's."""

    def owns(self, prompt_id: str) -> bool:
        """Whether this one is, and has not ended."""

    def runs(self, gpu_id: int) -> str | None:
        """The one that runs on a GPU, if it is the client's."""


@frozen
class _End:
    """The last messages about a prompt."""

    prompt_id: str
    messages: tuple[Message, ...]


@define(eq=False)
class _Story:
    """What is told of one prompt.

    :ivar last: its last event and what came behind it, held back.
    :ivar said_last: the last event, once it was told.
    :ivar idle: that nothing of it runs any more, held back for want of a last event.
    :ivar ending: what there is to tell of its end, once the ledger knows.
    :ivar due: when to wait no longer.
    :ivar state: the newest messages that say how far it is.
    """

    prompt_id: str
    gpu_id: int
    last: list[Message] = field(factory=list)
    said_last: Message | None = None
    idle: Message | None = None
    ending: Sequence[Message] | None = None
    due: float | None = None
    state: dict[bytes, Message] = field(factory=dict)


class Merger:
    """Decides what goes to one client, and when.

    Every method returns the messages that are to go out now, in order.

    :ivar ends: how many prompts' ends have been told.
    """

    def __init__(self, prompts: Prompts, shelf: Shelf | None = None) -> None:
        self._prompts = prompts
        self._shelf = Shelf() if shelf is None else shelf
        self._stories: dict[str, _Story] = {}  # in the order in which they began
        self._current: _Story | None = None  # only of clients that follow one at a time
        self._several = False
        self._features = False
        self._metadata = False
        self._speaking: dict[int, str] = {}
        self._told: OrderedDict[str, None] = OrderedDict()
        self._unconfirmed: OrderedDict[int, _End] = OrderedDict()
        self.ends = 0

    # What the client says.

    def negotiate(self, now: float, *, features: bool, metadata: bool, several: bool) -> list[Message]:
        """The client has said what it knows.

        :param features: whether it knows that there are features at all.
        :param metadata: whether it takes previews with metadata.
        :param several: whether it follows several prompts at once.
        """
        self._features, self._metadata = features, metadata
        if several == self._several:
            return []
        self._several, self._current = several, None
        out: list[Message] = []
        if several:
            for story in list(self._stories.values()):
                out += self._replay(story, now)
        return out + self._advance(now)

    def confirm(self, number: int) -> None:
        """The client has taken all messages up to that end."""
        for each in list(self._unconfirmed):
            if each > number:
                break
            del self._unconfirmed[each]

    # What happens.

    def hear(self, gpu_id: int, message: Message, now: float) -> list[Message]:
        """A ComfyUI said something to the client."""
        spoken = read(message)
        if spoken.role in (Role.STATUS, Role.FEATURES):
            return []
        prompt_id = self._about(gpu_id, spoken)
        if prompt_id is None:
            # Custom nodes' own messages are for whoever is connected.
            passes = not spoken.implied and (spoken.binary is None or self._features)
            return [message] if passes else []
        if spoken.implied and spoken.binary is None:
            message = Message(with_prompt_id(message.payload, prompt_id))
        self._note_speaker(gpu_id, spoken, prompt_id)
        story = self._story(prompt_id, gpu_id)
        fitting = self._fitting(message, spoken)
        if story is None or fitting is None:
            return []
        if self._has_turn(story):
            out = self._tell(story, fitting, spoken, now)
        else:
            self._shelf.put(prompt_id, fitting, precious=spoken.role in (Role.START, Role.LAST, Role.IDLE))
            out = []
            if len(self._shelf) > _MOST_SHELVED:
                self._current = None
        return out + self._advance(now)

    def end(self, prompt_id: str, ending: Sequence[Message], now: float, *, audible: bool) -> list[Message]:
        """The ledger knows that a prompt of the client has ended; its history can be read.

        :param ending: what to tell if no ComfyUI does: the last event, and that
            nothing runs; empty if that is nothing.
        :param audible: whether its ComfyUI may still be heard.
        """
        if prompt_id in self._told:
            return []
        story = self._stories.get(prompt_id)
        if not ending:
            if story is not None:
                self._drop(story)
            return self._advance(now)
        if story is None:
            story = self._stories[prompt_id] = _Story(prompt_id, NOWHERE)
        story.ending = ending
        story.due = now + GRACE if audible else now
        out: list[Message] = []
        if self._has_turn(story):
            out = self._tell_last(story)
            if story.idle is not None or story.due <= now:
                out += self._give_up(story)
        return out + self._advance(now)

    def again(self, prompt_id: str, now: float) -> list[Message]:
        """A prompt waits again; when it runs again, its story begins anew."""
        story = self._stories.get(prompt_id)
        if story is not None:
            self._drop(story)
        return self._advance(now)

    def lose(self, gpu_id: int, now: float) -> list[Message]:
        """A GPU is away: nobody waits for the story of what ran there."""
        self._speaking.pop(gpu_id, None)
        if self._current is not None and self._current.gpu_id == gpu_id:
            self._current = None
        return self._advance(now)

    @property
    def due(self) -> float | None:
        """When :meth:`wake` is to be called."""
        times = (one.due for one in self._stories.values() if one.due is not None and self._has_turn(one))
        return min(times, default=None)

    def wake(self, now: float) -> list[Message]:
        """Tell what has been waited for long enough."""
        out: list[Message] = []
        for story in list(self._stories.values()):
            if story.due is not None and story.due <= now and self._has_turn(story):
                out += self._give_up(story)
        return out + self._advance(now)

    # What another socket of the client has to be told.

    def miss(self, ends: Iterable[tuple[str, Sequence[Message]]]) -> None:
        """The client has missed these ends: :meth:`recall` tells them."""
        for prompt_id, messages in ends:
            self._note_end(prompt_id, messages)

    def recall(self) -> list[Message]:
        """What a new socket of the client is told: ends that an older one may have missed, and how far it all is."""
        out = [message for end in self._unconfirmed.values() for message in end.messages]
        for story in self._stories.values():
            if self._has_turn(story) and not story.last and story.said_last is None and story.ending is None:
                out += story.state.values()
        return out

    @property
    def unsure(self) -> bool:
        """Whether there are ends that the client may not know."""
        return bool(self._unconfirmed)

    def untold(self) -> list[tuple[str, Sequence[Message]]]:
        """Ends that the client may not know: what :meth:`miss` is to be given later."""
        found: list[tuple[str, Sequence[Message]]] = [
            (one.prompt_id, one.messages) for one in self._unconfirmed.values()
        ]
        found += [(one.prompt_id, one.ending) for one in self._stories.values() if one.ending]
        return found

    def waits(self, prompts: Iterable[str]) -> bool:
        """Whether the client has reason to wait for the end of a prompt.

        :param prompts: those of its own whose last event was not seen.
        """
        if self._shelf or any(one.ending or one.last or one.idle for one in self._stories.values()):
            return True
        return any(one not in self._told for one in prompts)

    # How.

    def _about(self, gpu_id: int, spoken: Spoken) -> str | None:
        if spoken.prompt_id is not None or not spoken.implied:
            return spoken.prompt_id
        return self._speaking.get(gpu_id) or self._prompts.runs(gpu_id)

    def _note_speaker(self, gpu_id: int, spoken: Spoken, prompt_id: str) -> None:
        if spoken.binary is not None:
            return
        if spoken.role is Role.IDLE:
            self._speaking.pop(gpu_id, None)
        else:
            self._speaking[gpu_id] = prompt_id

    def _story(self, prompt_id: str, gpu_id: int) -> _Story | None:
        """The story of one of the client's own prompts that has not been told to its end."""
        story = self._stories.get(prompt_id)
        if story is None:
            if prompt_id in self._told or not self._prompts.owns(prompt_id):
                return None
            story = self._stories[prompt_id] = _Story(prompt_id, gpu_id)
        else:
            story.gpu_id = gpu_id
        return story

    def _fitting(self, message: Message, spoken: Spoken) -> Message | None:
        """A message as the client knows such."""
        if spoken.binary is None or spoken.binary == 1:
            return message
        if spoken.binary == 4 and not self._metadata:
            plain = as_preview(message.payload)
            return None if plain is None else Message(plain, True)
        return message if self._features else None

    def _has_turn(self, story: _Story) -> bool:
        return self._current is None or self._current is story

    def _tell(self, story: _Story, message: Message, spoken: Spoken, now: float) -> list[Message]:
        if not self._several:
            self._current = story
        if spoken.role is Role.LAST:
            return self._hold_last(story, message, now)
        if spoken.role is Role.IDLE:
            return self._tell_idle(story, message, now)
        if story.last:
            story.last.append(message)
            return []
        if spoken.role is Role.START:
            story.state.clear()
        elif spoken.role is Role.STATE and len(message.payload) <= _LONGEST_STATE:
            story.state[spoken.kind] = message
        return [message]

    def _hold_last(self, story: _Story, message: Message, now: float) -> list[Message]:
        if story.last or story.said_last is not None:
            return []
        story.last = [message]
        if story.ending is not None:
            return self._tell_last(story)
        story.due = now + HOLD
        return []

    def _tell_idle(self, story: _Story, message: Message, now: float) -> list[Message]:
        out = self._tell_last(story)
        story.idle = message
        if story.said_last is None and story.ending is None:
            # Its last event was missed: the ledger will know in a moment.
            story.due = now + LEARN
            return out
        return out + self._give_up(story)

    def _tell_last(self, story: _Story) -> list[Message]:
        out, story.last = story.last, []
        if out:
            story.said_last = out[0]
        return out

    def _give_up(self, story: _Story) -> list[Message]:
        """Tell what is known, and wait no longer."""
        story.due = None
        out = self._tell_last(story)
        if story.said_last is None and story.ending is not None:
            story.said_last = story.ending[0]
            out.append(story.said_last)
        idle = story.idle or (None if story.ending is None else story.ending[-1])
        if idle is None:
            return out  # its history may be late, but its end has been told
        last = () if story.said_last is None else (story.said_last,)
        self._note_end(story.prompt_id, (*last, idle))
        self._drop(story)
        return [*out, idle]

    def _note_end(self, prompt_id: str, messages: Sequence[Message]) -> None:
        self._told[prompt_id] = None
        if len(self._told) > _MOST_TOLD:
            self._told.popitem(last=False)
        self.ends += 1
        self._unconfirmed[self.ends] = _End(prompt_id, tuple(messages))
        while len(self._unconfirmed) > _MOST_UNCONFIRMED or (
            len(self._unconfirmed) > 1 and sum(map(_size, self._unconfirmed.values())) > _MOST_UNCONFIRMED_BYTES
        ):
            self._unconfirmed.popitem(last=False)

    def _drop(self, story: _Story) -> None:
        del self._stories[story.prompt_id]
        self._shelf.take(story.prompt_id)
        if self._current is story:
            self._current = None

    def _advance(self, now: float) -> list[Message]:
        """Tell what has waited for its turn."""
        out: list[Message] = []
        while self._current is None and not self._several:
            waiting = (one for one in self._stories.values() if one.ending or one.prompt_id in self._shelf)
            story = next(waiting, None)
            if story is None:
                break
            self._current = story
            out += self._replay(story, now)
        return out

    def _replay(self, story: _Story, now: float) -> list[Message]:
        out: list[Message] = []
        for message in self._shelf.take(story.prompt_id):
            if self._stories.get(story.prompt_id) is story:
                out += self._tell(story, message, read(message), now)
        if self._stories.get(story.prompt_id) is story and story.due is not None and story.due <= now:
            out += self._give_up(story)
        return out


def _size(end: _End) -> int:
    return sum(message.cost for message in end.messages)
