"""Routes that several GPUs answer as one, over fake backends."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from twisted.internet.defer import Deferred, maybeDeferred

from comfygate.control.merged.gpus import AskedGpus
from comfygate.control.merged.job_routes import JobRoutes
from comfygate.control.merged.jobs import JobList
from comfygate.control.merged.masks import Masks
from comfygate.control.merged.object_info import ObjectInfo
from comfygate.control.merged.routes import STATS, MergedRoutes
from comfygate.errors import BackendUnreachable, GateError
from comfygate.gate.places import Places
from comfygate.gate.uploads import UploadRoom
from comfygate.model import BackendAnswer, BackendState
from tests.unit.fakes import House, raising
from tests.unit.test_control import later, now
from tests.unit.test_jobs import FakeRequest


class Desk:
    def __init__(self) -> None:
        self.house = House(gpus=3)
        books, clock, fleet = self.house.books, self.house.clock, self.house.books.fleet
        gpus = AskedGpus(books)
        places, room = Places(fleet, clock), UploadRoom(clock)  # type: ignore[arg-type]
        self.routes = MergedRoutes(
            gpus=gpus,
            object_info=ObjectInfo(books, maybeDeferred),
            jobs=JobRoutes(gpus, JobList(books, self.house.histories), self.house.interrupts, books.noted),
            masks=Masks(fleet, places, room, clock),  # type: ignore[arg-type]
            alias=books.aliases.inside,
        )

    def say(self, path: str, *answers: BackendAnswer) -> None:
        for backend, answer in zip(self.house.backends, answers, strict=True):
            backend.client.says[path] = answer

    def begin(self, method: str, path: str, body: bytes = b"") -> Any:
        endpoint = self.routes.endpoint(method.encode(), path.removeprefix("/api").encode())
        assert endpoint is not None
        return endpoint(self.house.hub, FakeRequest(method, path, body))  # type: ignore[arg-type]

    def ask(self, method: str, path: str, body: bytes = b"") -> Any:
        return now(self.begin(method, path, body))


def said(value: Any) -> BackendAnswer:
    return BackendAnswer(200, orjson.dumps(value), "application/json")


def devices(reply: Any) -> list[int]:
    return [device["gpu_id"] for device in orjson.loads(reply.pieces[0])["devices"]]


def test_a_client_hears_the_logs_of_all_under_its_other_name() -> None:
    desk = Desk()
    desk.say("/internal/logs/subscribe", *(BackendAnswer(200, b"", "") for _ in range(3)))
    reply = desk.ask("PATCH", "/internal/logs/subscribe", b'{"clientId": "me", "enabled": true}')
    assert reply.status == 200
    for backend in desk.house.backends:
        (body,) = backend.client.bodies
        assert orjson.loads(body) == {"clientId": desk.house.books.aliases.inside("me"), "enabled": True}


def test_stats_of_those_that_answer_in_time() -> None:
    desk = Desk()
    desk.say("/system_stats", *(said({"system": {}, "devices": [{"index": 0}]}) for _ in range(3)))
    assert devices(desk.ask("GET", "/system_stats")) == [0, 1, 2]
    desk.house.backends[0].client.pause = Deferred()
    _, results = later(desk.begin("HEAD", "/system_stats"))
    desk.house.clock.advance(STATS)
    assert devices(results[0]) == [1, 2]
    desk.say("/system_stats", BackendAnswer(500, b"{}"), BackendAnswer(200, b"nonsense"), said([]))
    desk.house.backends[0].client.pause = None
    with pytest.raises(GateError) as caught:
        desk.ask("GET", "/system_stats")
    assert caught.value.status == 504


def test_all_free_their_memory_or_those_that_do_not_are_named() -> None:
    desk = Desk()
    desk.say("/free", *(BackendAnswer(200) for _ in range(3)))
    assert desk.ask("POST", "/free", b"{}").status == 200
    desk.house.backends[1].become(BackendState.DOWN)
    assert desk.ask("POST", "/free", b"{}").status == 200
    desk.house.backends[1].become(BackendState.READY)
    desk.house.backends[2].client.before["POST /free"] = raising(BackendUnreachable("refused"))
    with pytest.raises(GateError) as caught:
        desk.ask("POST", "/free", b"{}")
    assert (caught.value.status, caught.value.extra_info) == (502, {"gpu_ids": [1, 2]})
    assert "GPU 1: answered 404; GPU 2: refused" in caught.value.details


def test_what_one_says_of_a_body_without_sense_all_say() -> None:
    desk = Desk()
    desk.say("/free", *(BackendAnswer(500, b"trouble", "text/plain") for _ in range(3)))
    reply = desk.ask("POST", "/free", b"nonsense")
    assert (reply.status, reply.pieces, reply.headers) == (500, (b"trouble",), ((b"Content-Type", b"text/plain"),))


def test_there_are_no_others() -> None:
    desk = Desk()
    for method, path in ((b"PUT", b"/free"), (b"GET", b"/jobsx"), (b"POST", b"/object_info"), (b"DELETE", b"/jobs/x")):
        assert desk.routes.endpoint(method, path) is None
