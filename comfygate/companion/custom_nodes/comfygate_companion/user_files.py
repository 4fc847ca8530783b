"""The user folder survives what happens to the process that writes it.

ComfyUI opens settings and workflows with mode "w", which empties them at once:
killed before it has written, it loses all that was there.  It reads the
settings, waits for the request's body, and writes what it read with the change,
so that of two requests at one time one is lost.  And it reads the list of users
only when it starts, so that it overwrites those that another process added.

Of ComfyUI it needs ``app.user_manager`` and ``app.app_settings`` (their ``open``,
``UserManager.users``, ``AppSettings.get_settings`` and ``save_settings``).
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import os
import re
import stat
from collections.abc import Callable
from typing import IO, Any

BASE = "comfygate.settings"
"""Where a request keeps the settings that it has read."""

# A leading dot: ComfyUI's /userdata does not list such files, nor those in such folders.
TEMPORARY = ".comfygate-{pid}-{number}.tmp"
_TEMPORARY = re.compile(r"\.comfygate-([0-9]+)-[0-9]+\.tmp")
_numbers = itertools.count()

Get = Callable[[Any, Any], dict[str, Any]]
Save = Callable[[Any, Any, dict[str, Any]], None]


def install(parts: list[str]) -> None:
    """Change how ComfyUI writes below its user folder.

    :raises Exception: of any kind, if this ComfyUI is not like those known.
    """
    folder_paths = importlib.import_module("folder_paths")
    users = importlib.import_module("app.user_manager")
    settings = importlib.import_module("app.app_settings")
    manager, kept = users.UserManager, settings.AppSettings
    merged = merging(kept.get_settings, kept.save_settings)
    folder = folder_paths.get_user_directory()
    if users.args.multi_user:
        known = Users(os.path.join(folder, "users.json"))
        manager.users = property(lambda _: known.now(), lambda _, found: None)
    # A name of the module's own goes before the built-in one.
    for module in (users, settings):
        module.open = open_for_replacement  # type: ignore[attr-defined]
    kept.get_settings, kept.save_settings = merged
    remove_leftovers(folder)


# Files.


def open_for_replacement(file: Any, mode: str = "r", *arguments: Any, **more: Any) -> Any:
    """Like the built-in ``open``, but a file opened with "w" keeps its old content until it is closed.

    Then the new content takes its place at once, or never, if the ``with`` block
    raised.  The file's mode is kept, and a link stays one.  Where that is not
    possible (the folder takes no new files, or it is no plain file), the file is
    opened as ever.
    """
    if "w" in mode and isinstance(file, str | os.PathLike):
        target = os.path.realpath(file)
        if not os.path.lexists(target) or os.path.isfile(target):
            try:
                return Replacement(os.fspath(target), mode, *arguments, **more)
            except PermissionError:
                pass
    return open(file, mode, *arguments, **more)


class Replacement:
    """A file that is written beside its target and put into its place when it is closed.

    :param target: its path, absolute and without links.
    :raises OSError: if it cannot be written.
    """

    def __init__(self, target: str, mode: str, *arguments: Any, **more: Any) -> None:
        self._closed = True  # until it is open
        self._target = target
        name = TEMPORARY.format(pid=os.getpid(), number=next(_numbers))
        self._path = os.path.join(os.path.dirname(target), name)
        self._file: IO[Any] = open(self._path, mode.replace("w", "x"), *arguments, **more)  # noqa: SIM115
        self._closed = False
        try:
            os.chmod(self._path, stat.S_IMODE(os.stat(target).st_mode))
        except FileNotFoundError:
            pass  # a new file: its mode is that of every new file
        except BaseException:
            self.discard()
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, data: Any) -> int:
        """Write to the new file, which must not be closed before for want of anyone who holds it."""
        return int(self._file.write(data))

    def __enter__(self) -> Replacement:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def __del__(self) -> None:
        # Python closes a file that nobody closed, too.
        self.close()

    def close(self) -> None:
        """Put what was written into the target's place.

        :raises OSError: if that is not possible; the target is as it was.
        """
        if self._closed:
            return
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self._path, self._target)
            self._closed = True
        finally:
            self.discard()

    def discard(self) -> None:
        """Leave the target as it was."""
        if not self._closed:
            self._closed = True
            try:
                self._file.close()
            finally:
                os.unlink(self._path)


def remove_leftovers(folder: str) -> None:
    """Remove what killed processes were writing; /v2/userdata would list it.

    To be called before this process has written anything.
    """
    for path, _, names in os.walk(folder):
        for name in names:
            found = _TEMPORARY.fullmatch(name)
            # Ours is the id of one before us: a container hands out the same ones each time it starts.
            if found is not None and (int(found[1]) == os.getpid() or not _is_alive(int(found[1]))):
                with contextlib.suppress(OSError):  # another process was faster
                    os.unlink(os.path.join(path, name))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


# Settings.


def merging(get: Get, save: Save) -> tuple[Get, Save]:
    """Make ``get_settings`` and ``save_settings`` save only what a request changed of the settings that it read.

    So a request may wait between reading and saving without undoing what others
    saved meanwhile.
    """

    def get_settings(self: Any, request: Any) -> dict[str, Any]:
        found = get(self, request)
        _note(request, dict(found))
        return found

    def save_settings(self: Any, request: Any, settings: dict[str, Any]) -> None:
        base = _noted(request)
        if base is not None:
            changed = {name: value for name, value in settings.items() if name not in base or base[name] != value}
            gone = base.keys() - settings.keys()
            present = get(self, request)
            settings = {name: value for name, value in present.items() if name not in gone} | changed
            _note(request, dict(settings))
        save(self, request, settings)

    return get_settings, save_settings


def _note(request: Any, settings: dict[str, Any]) -> None:
    with contextlib.suppress(TypeError):  # not aiohttp's, but something that a custom node made up
        request[BASE] = settings


def _noted(request: Any) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] | None = request.get(BASE)
    except AttributeError:
        return None
    return found


# Users.


class Users:
    """The users in ``users.json``, by id, read again whenever another process has written it."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._mark: tuple[int, ...] | None = None
        self._users: dict[str, str] = {}

    def now(self) -> dict[str, str]:
        """Those there are now; users added to it are lost unless they are saved."""
        try:
            facts = os.stat(self._path)
        except FileNotFoundError:
            return self._users
        mark = (facts.st_ino, facts.st_mtime_ns, facts.st_size)
        if mark != self._mark:
            with open(self._path, encoding="utf-8") as file:
                self._users = json.load(file)
            self._mark = mark
        return self._users
