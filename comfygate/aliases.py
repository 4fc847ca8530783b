"""Client ids as backends and strangers are told them, where a gate stands for several GPUs.

Whoever knows a clientId gets its events: ComfyUI asks for nothing else.  So the
backends of such a gate know its clients by ids that nobody can guess, and its
listings show yet others, by which at most two prompts can be told to be of one
client.
"""

from __future__ import annotations

import hmac
import re
from collections import OrderedDict
from typing import Any

import orjson

_PREFIX = "gate-"  # not "comfygate-": to clients with such ids the companion tells our own news
_DIGITS = 40  # of SHA-256's 64; 160 bits
_MOST = 10_000
_LONGEST = 200  # characters of an id that is remembered

_KEY = b'"client_id"'
_REST = re.compile(rb'\s*:\s*("(?:[^"\\]|\\.)*")(?=\s*\}\s*,\s*\[)', re.DOTALL)
_FIELD = re.compile(rb'"client_id"\s*:\s*"(?:[^"\\]|\\.)*"', re.DOTALL)


class Aliases:
    """The other names of clients.

    :param secret: of at least 16 bytes; with the same one, ids get the same
        aliases.
    """

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._inside: OrderedDict[str, str] = OrderedDict()
        self._outside: dict[str, str] = {}

    def inside(self, client_id: str) -> str:
        """The id under which backends know a client; nobody's (``""``) stays nobody's."""
        if not client_id:
            return client_id
        alias = self._inside.get(client_id)
        if alias is not None:
            self._inside.move_to_end(client_id)
            return alias
        alias = self._digest("inside", client_id)
        if len(client_id) <= _LONGEST:
            self._inside[client_id], self._outside[alias] = alias, client_id
            if len(self._inside) > _MOST:
                self._outside.pop(self._inside.popitem(last=False)[1], None)
        return alias

    def outside(self, alias: str) -> str:
        """The client that backends know as `alias`; what is no alias, or a forgotten one, stays as it is."""
        return self._outside.get(alias, alias)

    def shown(self, client_id: str) -> str:
        """What everybody may see in a client's place; good for nothing."""
        client_id = self.outside(client_id)
        return self._digest("shown", client_id) if client_id else client_id

    def owner(self, entry: dict[str, Any]) -> str | None:
        """Whose an entry of ``/history`` is, as ComfyUI answers; ``None`` if it does not say."""
        client_id = _extra_data(entry).get("client_id")
        return self.outside(client_id) if isinstance(client_id, str) else None

    def is_aliased(self, client_id: str | None, submission: bytes) -> bool:
        """Whether a prompt is known to backends as that of the client's alias.

        :param submission: see :class:`comfygate.model.Job`.
        """
        return bool(client_id) and b'"%b"' % self.inside(client_id or "").encode() in submission

    def under_alias(self, client_id: str | None, submission: bytes) -> bytes:
        """A submission as that of the client's alias; as it is, if it is that already or nobody's."""
        if not client_id or self.is_aliased(client_id, submission):
            return submission
        return orjson.dumps({**orjson.loads(submission), "client_id": self.inside(client_id)})

    def concealed(self, text: bytes) -> bytes:
        """An item of a queue, or an entry of a history, in JSON, that shows nobody's id.

        In both, the id is in ComfyUI's ``[number, prompt_id, prompt,
        extra_data, outputs]``, and in most it is the only one, and the last
        field of ``extra_data``: the rest of the text need not be read then.
        """
        at = text.find(_KEY)
        if at < 0:
            return text
        rest = _REST.match(text, at + len(_KEY))
        # Within a string, the quotation mark would have a backslash before it.
        if rest is None or text.find(_KEY, rest.end()) >= 0 or text[at - 1 : at] == b"\\":
            return self._concealed(text)
        return text[: rest.start(1)] + orjson.dumps(self.shown(orjson.loads(rest[1]))) + text[rest.end(1) :]

    def _concealed(self, text: bytes) -> bytes:
        try:
            value = orjson.loads(text)
        except orjson.JSONDecodeError:  # it has numbers that are no JSON: what we wrote ourselves has none
            return _FIELD.sub(b'"client_id": ""', text)
        extra = _extra_data(value)
        if isinstance(extra.get("client_id"), str):
            extra["client_id"] = self.shown(extra["client_id"])
        return orjson.dumps(value)

    def _digest(self, purpose: str, client_id: str) -> str:
        text = f"{purpose} {client_id}".encode(errors="surrogatepass")
        return _PREFIX + hmac.digest(self._secret, text, "sha256").hex()[:_DIGITS]


def with_owner(entry: dict[str, Any], client_id: str | None) -> dict[str, Any]:
    """An entry of ``/history`` with the client's own id, where the backend knows another.

    :param entry: as ComfyUI answers; changed in place.
    """
    extra = _extra_data(entry)
    if client_id is not None and "client_id" in extra:
        extra["client_id"] = client_id
    return entry


def _extra_data(value: Any) -> dict[str, Any]:
    """That of a queue's item, or of a history's entry."""
    item = value.get("prompt") if isinstance(value, dict) else value
    extra = item[3] if isinstance(item, list) and len(item) > 3 else None
    return extra if isinstance(extra, dict) else {}
