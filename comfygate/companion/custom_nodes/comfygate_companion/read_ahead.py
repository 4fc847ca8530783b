"""``POST /comfygate/read_ahead``: has the kernel read model files before the prompt runs that loads them.

ComfyGate says which prompts are next.  Reading goes on in the kernel
(posix_fadvise(2), POSIX_FADV_WILLNEED); the thread here only asks for it, piece
by piece, and stops before memory becomes scarce.  What was asked for last
counts, and nothing else.
"""

from __future__ import annotations

import importlib
import logging
import os
import threading
from collections.abc import Callable, Iterable
from typing import Any

MOST_FILES = 16
"""Files of one request."""

PIECE = 128 * 1024
"""Bytes asked for at once: of a larger piece Linux reads only as much as the disk's read_ahead_kb says (128)."""

LOOK_EVERY = 64 * 1024 * 1024
"""Bytes after which memory is looked at again."""

PART = 0.5
"""The part of the memory that can be had which one file may fill."""

MARGIN = 2 * 1024**3
"""Bytes that are always left."""

MEMINFO = "/proc/meminfo"
CGROUP = "/sys/fs/cgroup"


class Reader:
    """Reads ahead what is wanted, in a thread that ends when it has.

    :param find: the path of a model file, if there is one of that name.
    :param available: bytes of memory that may be filled.
    :param advise: as :func:`os.posix_fadvise`.
    """

    def __init__(
        self,
        find: Callable[[str], str | None],
        available: Callable[[], int],
        advise: Callable[[int, int, int, int], None] = os.posix_fadvise,
    ) -> None:
        self._find = find
        self._available = available
        self._advise = advise
        self._wanted: tuple[str, ...] = ()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def want(self, names: Iterable[Any]) -> None:
        """Read these, the first one first, instead of what was wanted before."""
        wanted = [name for name in names if isinstance(name, str)][:MOST_FILES]
        with self._lock:
            self._wanted = tuple(wanted)
            if wanted and self._thread is None:
                self._thread = threading.Thread(target=self._run, name="comfygate read ahead", daemon=True)
                self._thread.start()

    def wait(self, seconds: float) -> None:
        """Wait until nothing is wanted any more."""
        thread = self._thread
        if thread is not None:
            thread.join(seconds)

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._wanted:
                    self._thread = None
                    return
                name = self._wanted[0]
            try:
                self._read(name)
            except OSError as error:
                logging.getLogger("comfygate").warning("[comfygate] %s is not read ahead: %s", name, error)
            with self._lock:
                if self._wanted[:1] == (name,):
                    self._wanted = self._wanted[1:]

    def _read(self, name: str) -> None:
        path = self._find(name)
        if path is None:
            return
        file = os.open(path, os.O_RDONLY)
        try:
            size = os.fstat(file).st_size
            if size > PART * self._available():
                return
            for begin in range(0, size, LOOK_EVERY):
                if name not in self._wanted or self._available() < LOOK_EVERY:
                    return
                for piece in range(begin, min(size, begin + LOOK_EVERY), PIECE):
                    self._advise(file, piece, PIECE, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(file)


def available_bytes(meminfo: str = MEMINFO, cgroup: str = CGROUP) -> int:
    """Bytes of memory that files may fill without pushing out what is in use.

    Of what the kernel could make available, what processes have mapped is left
    out (models that ComfyUIs run from), and :data:`MARGIN`; never more than a
    limit of a container allows.
    """
    with open(meminfo, encoding="ascii") as file:
        facts = {line.partition(":")[0]: line.partition(":")[2].split()[0] for line in file}
    free = 1024 * (int(facts["MemAvailable"]) - int(facts["Mapped"]))
    try:
        with open(os.path.join(cgroup, "memory.max"), encoding="ascii") as file:
            most = file.read().strip()
        with open(os.path.join(cgroup, "memory.stat"), encoding="ascii") as file:
            stat = dict(line.split() for line in file)
        with open(os.path.join(cgroup, "memory.current"), encoding="ascii") as file:
            used = int(file.read())
        if most != "max":
            free = min(free, int(most) - used + int(stat["inactive_file"]))
    except (OSError, KeyError, ValueError):
        pass  # no such limit
    return max(0, free - MARGIN)


def install(parts: list[str]) -> None:
    """Add the route.

    :param parts: the companion's parts; not used.
    :raises Exception: of any kind, if this ComfyUI is not like those known.
    """
    web = importlib.import_module("aiohttp.web")
    folders: Any = importlib.import_module("folder_paths")
    instance = importlib.import_module("server").PromptServer.instance
    get_full_path = folders.get_full_path
    available_bytes()  # fails where this is not Linux

    def find(name: str) -> str | None:
        for folder in list(folders.folder_names_and_paths):
            path = None if folder in {"custom_nodes", "configs"} else get_full_path(folder, name)
            if path is not None:
                return str(path)
        return None

    reader = Reader(find, available_bytes)

    async def post_read_ahead(request: Any) -> Any:
        models = (await request.json()).get("models")
        reader.want(models if isinstance(models, list) else ())
        return web.json_response({})

    instance.routes.post("/comfygate/read_ahead")(post_read_ahead)
