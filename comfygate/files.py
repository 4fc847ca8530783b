"""Which file a request is about, and which files a prompt has left."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode

from attrs import frozen

SHARED = frozenset({"input", "output"})
"""Types of files that lie in folders which all ComfyUIs of ours have in common."""

_TYPES = ("output", "input", "temp")


@frozen
class FileName:
    """A file as ComfyUI's ``/view`` and ``/view_metadata`` name it.

    :ivar place: ``input``, ``output``, ``temp``, or the path of ``/view_metadata/{folder}``.
    """

    place: str
    subfolder: str
    filename: str

    @property
    def target(self) -> str:
        """Path and query that ask for the file as it is."""
        if self.place.startswith("/"):
            return f"{self.place}?{urlencode({'filename': self.filename})}"
        named = {"filename": self.filename, "type": self.place, "subfolder": self.subfolder}
        return f"/view?{urlencode(named)}"

    @property
    def shared(self) -> bool:
        """Whether every ComfyUI of ours has it, if one does."""
        return self.place in SHARED


def file_of_request(target: bytes) -> FileName | None:
    """The file that a GET of ``/view`` or ``/view_metadata/{folder}`` is about.

    :param target: path and query as received.
    :return: ``None`` if it names none; whoever is asked answers the same then.
    """
    path, _, query = target.partition(b"?")
    try:
        pairs = parse_qsl(query.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=100)
        place = path.decode("ascii")
    except ValueError:
        return None
    fields: dict[str, str] = {}
    for name, value in pairs:
        fields.setdefault(name, value)  # ComfyUI takes the first
    if place.startswith("/api/"):
        place = place[len("/api") :]
    if place.startswith("/view_metadata/"):
        return FileName(place, "", fields["filename"]) if fields.get("filename") else None
    return file_of(fields)


def file_of(fields: Mapping[str, Any]) -> FileName | None:
    """The file that ``{"filename", "type", "subfolder"}`` names, as queries, outputs and ``original_ref`` do.

    ``x.png [temp]`` names a file of that type, whatever else is said (ComfyUI: ``folder_paths.annotated_filepath``).
    """
    filename, subfolder = fields.get("filename"), fields.get("subfolder") or ""
    place = fields.get("type") or "output"
    if not isinstance(filename, str) or not isinstance(subfolder, str) or place not in _TYPES or not filename:
        return None
    for kind in _TYPES:
        if filename.endswith(f"[{kind}]"):
            place, filename = kind, filename[: -len(kind) - 3]
    return FileName(place, subfolder, filename)


def files_left(entry: Mapping[str, Any]) -> Iterator[FileName]:
    """The files that a prompt has left.

    :param entry: its entry in ComfyUI's ``/history``.
    """
    outputs = entry.get("outputs")
    for shown in outputs.values() if isinstance(outputs, dict) else ():
        for items in shown.values() if isinstance(shown, dict) else ():
            for item in items if isinstance(items, list) else ():
                name = file_of(item) if isinstance(item, dict) else None
                if name is not None:
                    yield name
