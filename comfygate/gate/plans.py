"""Requests that were decided about before.

Whoever polls sends the same bytes again and again, and the answer to "what is
to be done with them" is the same as long as nothing changes for the gate.
"""

from __future__ import annotations

from attrs import field, frozen

from comfygate.gate.rewriting import Translation
from comfygate.gate.site import Era, Relay
from comfygate.http1 import Length, NoBody, RequestHead

MOST = 256
"""Plans that a port keeps; the oldest goes first."""

MOST_ONCE = 1024
"""Requests that came once, by their hashes: only what comes again is worth a plan, or one page would drive all out.

When there are more, all are forgotten.
"""

MAX_HEAD = 1024
"""Bytes of a head that is worth a plan."""

MOST_ANSWERS = 4
"""Heads of answers that are kept for each plan."""

MAX_BODY = 64 * 1024
"""Bytes of a body that comes with its head; one that doesn't takes the long way."""


@frozen(eq=False)
class Plan:
    """What to do with a request, worked out.

    :ivar raw: its head, as it comes.
    :ivar head: the request's, parsed and checked.
    :ivar relay: what the gate decided.
    :ivar request: the head for the upstream.
    :ivar size: bytes of body.
    """

    raw: bytes
    head: RequestHead
    relay: Relay
    era: Era
    request: bytes
    size: int
    _answers: list[Translation] = field(factory=list)  # the last learned first

    def recognise(self, data: bytes) -> Translation | None:
        """Give the head of a whole answer, if one like it was relayed before.

        A backend's answers to one request differ in little but their Date, which stands for a second.
        """
        for told in self._answers:  # at most one, for each ends with its only empty line
            if data.startswith(told.raw):
                return told if told.size == len(data) - len(told.raw) else None
        return None

    def learn(self, told: Translation) -> None:
        """Remember what became of an answer's head, if both connections go on after it."""
        answer = told.answer
        if len(told.raw) > MAX_HEAD or answer.status < 200 or not (told.keep_alive and answer.keep_alive):
            return
        self._answers[:] = [told, *(other for other in self._answers if other.raw != told.raw)][:MOST_ANSWERS]


class Plans:
    """The plans of one port, by client address and the bytes of the head.

    :param most: plans at most; with 0, every request is thought about.
    :param at_once: whether a request is worth a plan that came only once: for tests.
    """

    def __init__(self, most: int = MOST, *, at_once: bool = False) -> None:
        self._most = most
        self._at_once = at_once
        self._plans: dict[tuple[str, bytes], Plan] = {}
        self._once: set[int] = set()

    def find(self, peer: str, raw: bytes) -> Plan | None:
        """The plan for this request, if there is one that still holds."""
        plan = self._plans.get((peer, raw))
        if plan is None or not plan.era.over:
            return plan
        del self._plans[peer, raw]
        return None

    def keep(self, peer: str, raw: bytes, head: RequestHead, relay: Relay, request: bytes) -> None:
        """Remember what became of a request, if it may become of the next one, too."""
        era, framing = relay.era, head.framing
        if era is None or len(raw) > MAX_HEAD or not self._most or head.expects_continue or relay.turn is not None:
            return
        if not isinstance(framing, (Length, NoBody)):
            return
        size = framing.size if isinstance(framing, Length) else 0
        if size > MAX_BODY or (relay.max_body is not None and size > relay.max_body):
            return
        known = self._plans.pop((peer, raw), None)
        if known is not None and known.era is era:  # there was no connection ready for it
            self._plans[peer, raw] = known
            return
        if not self._at_once and self._first_time(hash((peer, raw))):
            return
        if len(self._plans) >= self._most:
            del self._plans[next(iter(self._plans))]
        self._plans[peer, raw] = Plan(raw, head, relay, era, request, size)

    def _first_time(self, mark: int) -> bool:
        """Whether it is that, as far as is remembered; it is from now on."""
        if mark in self._once:
            return False
        if len(self._once) >= MOST_ONCE:
            self._once.clear()
        self._once.add(mark)
        return True

    def __len__(self) -> int:
        return len(self._plans)
