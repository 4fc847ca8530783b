"""A port that pages of some other origins may use, too.

It stands in front of the gate, which knows pages of its own origin only; a
port that is open to no others does without it.
"""

from __future__ import annotations

from attrs import evolve
from twisted.internet.defer import Deferred
from zope.interface import implementer

from comfygate.cors import ANSWER_FIELDS, VARY, Origins, answer_headers, is_preflight, preflight_headers
from comfygate.gate.site import Answer, Decision, IGateSite, Relay
from comfygate.http1 import Headers, RequestHead

# Newer ComfyUIs refuse what a browser says comes from another site.
_NOT_TOLD = frozenset({b"origin", b"sec-fetch-site"})


@implementer(IGateSite)
class CrossOriginSite:
    """Lets allowed pages through to another site, and lets them read the answers.

    :param site: who decides; it never sees the Origin of an allowed page.
    """

    def __init__(self, site: IGateSite, origins: Origins) -> None:
        self._site = site
        self._origins = origins

    def admit(self, head: RequestHead, peer: str) -> Decision | Deferred[Decision]:
        """See :class:`comfygate.gate.site.IGateSite`; a preflight is answered at once and costs no token."""
        origin = self._origins.foreign(head)
        if origin is not None and is_preflight(head):
            return Answer(status=204, headers=preflight_headers(origin, head))
        if origin is not None:
            head = evolve(head, headers=_without(head.headers))
        decision = self._site.admit(head, peer)
        if isinstance(decision, Deferred):
            return decision.addCallback(_shared, origin)
        return _shared(decision, origin)

    def error_headers(self, head: RequestHead) -> Headers:
        """See :class:`comfygate.gate.site.IGateSite`: a page may read a refusal, too."""
        origin = self._origins.foreign(head)
        ours = VARY if origin is None else answer_headers(origin)
        return (*self._site.error_headers(head), *ours)


def _without(headers: Headers) -> Headers:
    return tuple([header for header in headers if header[0].lower() not in _NOT_TOLD])


def _shared(decision: Decision, origin: bytes | None) -> Decision:
    """Let a page of `origin` read the answer; None: the port's own page, or no page."""
    ours = VARY if origin is None else answer_headers(origin)
    if isinstance(decision, Answer):
        return evolve(decision, headers=(*decision.headers, *ours))
    if not isinstance(decision, Relay):
        return decision  # a WebSocket: browsers read it without being told that they may
    decision = evolve(decision, answer_headers=(*decision.answer_headers, *ours))
    if origin is None:
        return decision
    return evolve(
        decision,
        drop_headers=decision.drop_headers | _NOT_TOLD,
        withheld=decision.withheld | ANSWER_FIELDS,
    )
