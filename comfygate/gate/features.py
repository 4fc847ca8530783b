"""What a client and a ComfyUI tell each other first: which features they know.

ComfyUI takes a client's feature flags only from a socket's first message.  So
they are kept, and said again on every further backend leg.
"""

from __future__ import annotations

from comfygate.outbox import text_type

FEATURE_FLAGS = b"feature_flags"


class Features:
    """One client's.

    :ivar flags: the client's message, if its first was about that.
    """

    __slots__ = ("_answer", "_silent", "flags")

    def __init__(self) -> None:
        self.flags: bytes | None = None
        self._silent = True
        self._answer: bytes | None = None

    def client_said(self, payload: bytes, binary: bool) -> bool:
        """The client sent a message; tell whether it is its :attr:`flags`."""
        silent, self._silent = self._silent, False
        if silent and not binary and text_type(payload) == FEATURE_FLAGS:
            self.flags = payload
            return True
        return False

    def is_new(self, answer: bytes) -> bool:
        """The backend answered; tell whether the client has yet to know."""
        new = answer != self._answer
        self._answer = answer
        return new
