"""The status page's files, read once and answered from memory.

The folder ``web`` looks as the addresses below ``/comfygate/`` do, so that the
page's relative links also hold when a browser opens ``web/index.html`` itself.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import parse_qs

from attrs import frozen
from twisted.web.http import Request

from comfygate.control.replies import Reply
from comfygate.routes import plain_path
from comfygate.routing.assignment import GateRouting

FOLDER = Path(__file__).parent / "web"
ROOT = b"/comfygate/"

_TYPES = {
    ".css": b"text/css; charset=utf-8",
    ".html": b"text/html; charset=utf-8",
    ".js": b"text/javascript; charset=utf-8",
    ".svg": b"image/svg+xml",
}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'{also}; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = (
    (b"Cache-Control", b"no-cache"),
    (b"Referrer-Policy", b"no-referrer"),
    (b"X-Content-Type-Options", b"nosniff"),
)
_ORIGIN = re.compile(r"https?://(?:[a-z0-9._-]+|\[[0-9a-f:.]+\])(?::\d{1,5})?(?=/|$)", re.IGNORECASE)


@frozen
class Asset:
    """One file.

    :ivar etag: changes with the content (RFC 9110, section 8.8.3).
    """

    content_type: bytes
    body: bytes
    etag: bytes

    @classmethod
    def read(cls, path: Path) -> Asset:
        """Read a file whose kind is known by the end of its name."""
        body = path.read_bytes()
        return cls(_TYPES[path.suffix], body, b'"%s"' % hashlib.sha256(body).hexdigest()[:24].encode("ascii"))


@frozen
class StatusPage:
    """The page at ``/comfygate/`` and what it is made of.

    :ivar assets: by path.
    """

    assets: Mapping[bytes, Asset]

    @classmethod
    def load(cls, folder: Path = FOLDER) -> StatusPage:
        """Read all of it."""
        return cls(dict(_assets(folder)))

    def __contains__(self, path: bytes) -> bool:
        """Whether GET of `path` is answered here."""
        return path in self.assets or path == ROOT[:-1]

    async def get(self, gate: GateRouting, request: Request) -> Reply:
        """GET /comfygate/ and the files that it names, the same on every port."""
        path, query = plain_path(request.path), request.uri.partition(b"?")[2]
        if path not in self.assets:
            return Reply(308, (), ((b"Location", b"comfygate/" + (b"?" + query if query else b"")),))
        return _reply(self.assets[path], request.getHeader(b"If-None-Match"), content_security_policy(query))


def content_security_policy(query: bytes) -> bytes:
    """What the page may do: load its own files, and read the status of its own gate.

    :param query: the page's; the gate that ``hub=URL`` names may be read too.
    """
    hub = parse_qs(query.decode("ascii", "replace")).get("hub", [""])[0]
    origin = _ORIGIN.match(hub)
    return _POLICY.format(also=f" {origin[0]}" if origin else "").encode("ascii")


def _assets(folder: Path) -> Iterator[tuple[bytes, Asset]]:
    for path in sorted(folder.rglob("*")):
        if path.suffix in _TYPES:
            name = path.relative_to(folder).as_posix()
            yield ROOT + (b"" if name == "index.html" else name.encode("ascii")), Asset.read(path)


def _reply(asset: Asset, known: bytes | str | None, policy: bytes) -> Reply:
    headers = (*_HEADERS, (b"ETag", asset.etag), (b"Content-Security-Policy", policy))
    if known is not None and _matches(known.encode("latin-1") if isinstance(known, str) else known, asset.etag):
        return Reply(304, (), headers)
    return Reply(200, (asset.body,), ((b"Content-Type", asset.content_type), *headers))


def _matches(known: bytes, etag: bytes) -> bool:
    """Compare weakly, as If-None-Match wants it (RFC 9110, section 13.1.2)."""
    return known.strip() == b"*" or etag in [one.strip().removeprefix(b"W/") for one in known.split(b",")]
