"""Settings, users and saved workflows: files under the user folder."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from functools import partial
from types import ModuleType
from typing import Any
from urllib.parse import unquote

from aiohttp import web

from comfygate.simulator.companion import Companion
from comfygate.simulator.folders import is_inside
from comfygate.simulator.machine import Machine

SETTINGS = "comfy.settings.json"
USERS = "users.json"


class UserData:
    """The routes below /settings, /users and /userdata.

    Files are emptied before they are written, settings are written as they were
    when the request came, and users are read once, unless the companion is there.
    """

    def __init__(self, machine: Machine, companion: Companion | None = None) -> None:
        self._root = machine.folders.user
        self._many = machine.options.multi_user
        self._known: dict[str, str] = {} if self._many else {"default": "default"}
        if self._many and os.path.isfile(os.path.join(self._root, USERS)):
            self._known = _read_json(os.path.join(self._root, USERS))
        self._disk_seconds = machine.options.sim_disk_seconds
        self._open: Any = open
        self._load_settings, self._save_settings = self._load, self._save
        self._registry: Any = None
        if companion is not None:
            self._install(companion.module("user_files"))
            companion.parts.append("user_files")

    def _install(self, user_files: ModuleType) -> None:
        self._open = user_files.open_for_replacement
        load, save = user_files.merging(UserData._load, UserData._save)
        self._load_settings, self._save_settings = partial(load, self), partial(save, self)
        self._registry = user_files.Users(os.path.join(self._root, USERS)) if self._many else None
        user_files.remove_leftovers(self._root)

    @property
    def _users(self) -> dict[str, str]:
        return self._known if self._registry is None else dict(self._registry.now())

    def routes(self) -> list[web.RouteDef]:
        """All of them."""
        return [
            web.get("/settings", self._settings),
            web.get("/settings/{id}", self._setting),
            web.post("/settings", self._change_settings),
            web.post("/settings/{id}", self._change_setting),
            web.get("/users", self._show_users),
            web.post("/users", self._add_user),
            web.get("/userdata", self._list),
            web.get("/v2/userdata", self._list_tree),
            web.get("/userdata/{file}", self._read),
            web.post("/userdata/{file}", self._write),
            web.delete("/userdata/{file}", self._delete),
            web.post("/userdata/{file}/move/{dest}", self._move),
        ]

    def _home(self, request: web.Request) -> str:
        user = request.headers.get("comfy-user", "default") if self._many else "default"
        if user not in self._users:
            raise KeyError(f"Unknown user: {user}")
        return os.path.join(self._root, user)

    def _path(self, request: web.Request, name: str) -> str | None:
        """Where `name` lies, None if outside of the user's folder; makes the folder for it."""
        home = self._home(request)
        path = os.path.abspath(os.path.join(home, unquote(name)))
        if not is_inside(home, path):
            return None
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return path

    # Settings: read, change and write again, with nothing to keep two processes apart.

    def _load(self, request: web.Request) -> dict[str, Any]:
        try:
            path = self._path(request, SETTINGS)
        except KeyError as error:
            raise web.HTTPUnauthorized from error
        return _read_json(path) if path else {}

    def _save(self, request: web.Request, settings: dict[str, Any]) -> None:
        with self._open(os.path.join(self._home(request), SETTINGS), "w", encoding="utf-8") as file:
            time.sleep(self._disk_seconds)
            file.write(json.dumps(settings, indent=4))

    async def _settings(self, request: web.Request) -> web.Response:
        return web.json_response(self._load_settings(request))

    async def _setting(self, request: web.Request) -> web.Response:
        return web.json_response(self._load_settings(request).get(request.match_info["id"]))

    async def _change_settings(self, request: web.Request) -> web.Response:
        settings = self._load_settings(request)
        self._save_settings(request, {**settings, **await request.json()})
        return web.Response()

    async def _change_setting(self, request: web.Request) -> web.Response:
        settings = self._load_settings(request)
        settings[request.match_info["id"]] = await request.json()
        self._save_settings(request, settings)
        return web.Response()

    async def _show_users(self, request: web.Request) -> web.Response:
        if self._many:
            return web.json_response({"storage": "server", "users": self._users})
        return web.json_response({"storage": "server", "migrated": os.path.exists(self._home(request))})

    async def _add_user(self, request: web.Request) -> web.Response:
        name = (await request.json())["username"]
        if name in self._users.values():
            return web.json_response({"error": "Duplicate username."}, status=400)
        user = re.sub("[^a-zA-Z0-9-_]+", "-", name.strip()) + "_" + str(uuid.uuid4())
        users = self._users
        users[user] = name.strip()
        with self._open(os.path.join(self._root, USERS), "w", encoding="utf-8") as file:
            time.sleep(self._disk_seconds)
            json.dump(users, file)
        return web.json_response(user)

    async def _list(self, request: web.Request) -> web.Response:
        query = request.query
        if not query.get("dir"):
            return web.Response(status=400, text="Directory not provided")
        path = self._path(request, query["dir"])
        if path is None:
            return web.Response(status=403, text="Invalid directory")
        if not os.path.exists(path):
            return web.Response(status=404, text="Directory not found")
        found: list[Any] = list(_walk(path) if _is_true(query.get("recurse")) else _plain_files(path))
        if _is_true(query.get("full_info")):
            found = [_info(os.path.join(path, name), path) for name in found]
        elif _is_true(query.get("split")):
            found = [[name, *name.split("/")] for name in found]
        return web.json_response(found)

    async def _list_tree(self, request: web.Request) -> web.Response:
        home = self._home(request)
        path = os.path.abspath(os.path.join(home, unquote(request.query.get("path", ""))))
        if not is_inside(home, path):
            return web.Response(status=400, text="Invalid path requested")
        if not os.path.exists(path):
            missing_home = path == home
            return web.json_response([]) if missing_home else web.Response(status=404, text="Requested path not found")
        if not os.path.isdir(path):
            return web.Response(status=400, text="Requested path is not a directory")
        entries = sorted(_tree(path, home), key=lambda entry: (entry["type"] == "file", entry["name"].lower()))
        return web.json_response(entries)

    def _named(self, request: web.Request, part: str = "file", must_exist: bool = True) -> str | web.Response:
        path = self._path(request, request.match_info[part])
        if path is None:
            return web.Response(status=403)
        return path if os.path.exists(path) or not must_exist else web.Response(status=404)

    async def _read(self, request: web.Request) -> web.StreamResponse:
        path = self._named(request)
        return web.FileResponse(path) if isinstance(path, str) else path

    async def _write(self, request: web.Request) -> web.Response:
        path = self._named(request, must_exist=False)
        if not isinstance(path, str):
            return path
        if request.query.get("overwrite") == "false" and os.path.exists(path):
            return web.Response(status=409, text="File already exists")
        body = await request.read()
        try:
            with self._open(path, "wb") as file:
                time.sleep(self._disk_seconds)
                file.write(body)
        except OSError:
            return web.Response(status=400, reason="Invalid filename")
        return self._saved(request, path)

    async def _delete(self, request: web.Request) -> web.Response:
        path = self._named(request)
        if not isinstance(path, str):
            return path
        os.remove(path)
        return web.Response(status=204)

    async def _move(self, request: web.Request) -> web.Response:
        source, target = self._named(request), self._named(request, "dest", must_exist=False)
        if not isinstance(source, str):
            return source
        if not isinstance(target, str):
            return target
        if request.query.get("overwrite") == "false" and os.path.exists(target):
            return web.Response(status=409, text="File already exists")
        shutil.move(source, target)
        return self._saved(request, target)

    def _saved(self, request: web.Request, path: str) -> web.Response:
        home = self._home(request)
        full = _is_true(request.query.get("full_info"))
        return web.json_response(_info(path, home) if full else os.path.relpath(path, home))


def _is_true(value: str | None) -> bool:
    return (value or "").lower() == "true"


def _read_json(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            return dict(json.load(file))
    except (OSError, ValueError):
        return {}


def _info(path: str, home: str) -> dict[str, Any]:
    facts = os.stat(path)
    times = {"modified": facts.st_mtime, "created": facts.st_ctime}
    return {"path": os.path.relpath(path, home), "size": facts.st_size, **times}


def _plain_files(path: str) -> Iterator[str]:
    for name in sorted(os.listdir(path)):
        if os.path.isfile(os.path.join(path, name)) and not name.startswith("."):
            yield name


def _walk(path: str) -> Iterator[str]:
    for folder, _, names in os.walk(path):
        for name in sorted(names):
            yield os.path.relpath(os.path.join(folder, name), path)


def _tree(path: str, home: str) -> Iterator[dict[str, Any]]:
    for folder, folders, names in os.walk(path):
        for name in folders:
            yield {"name": name, "path": os.path.relpath(os.path.join(folder, name), home), "type": "directory"}
        for name in names:
            full = os.path.join(folder, name)
            facts = os.stat(full)
            what = {"name": name, "path": os.path.relpath(full, home), "type": "file"}
            yield what | {"size": facts.st_size, "modified": facts.st_mtime}
