"""GET /object_info of several GPUs, and which of them can run a prompt."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from twisted.internet.defer import Deferred, maybeDeferred

from comfygate.control.merged import object_info as module
from comfygate.control.merged.object_info import ObjectInfo
from comfygate.errors import BackendUnreachable, GateError
from comfygate.model import BackendAnswer, BackendState
from tests.unit.fakes import FakeBackend, House, raising
from tests.unit.test_control import later, now

HUB = (0, 1, 2)


def classes(*names: str) -> dict[str, Any]:
    return {name: {"input": {"required": {}}} for name in names}


class Fleet:
    """Three GPUs, and what they say."""

    def __init__(self) -> None:
        self.house = House(gpus=3)
        self.compared = 0
        self.info = ObjectInfo(self.house.books, self.in_thread)
        for backend in self.house.backends:
            self.say(backend, classes("Same"))

    def in_thread(self, function: Any) -> Deferred[Any]:
        self.compared += 1
        return maybeDeferred(function)

    def say(self, backend: FakeBackend, info: Any, path: str = "/object_info") -> None:
        backend.client.says[path] = BackendAnswer(200, orjson.dumps(info), "application/json")

    def all(self) -> Any:
        return orjson.loads(now(self.info.all(HUB)))

    @property
    def asked(self) -> list[int]:
        return [len(backend.client.asked) for backend in self.house.backends]

    def suitable(self, *names: str) -> tuple[int, ...]:
        return self.info.suitable(HUB, {str(n): {"class_type": name} for n, name in enumerate(names)})


def test_where_all_say_the_same_nothing_is_compared() -> None:
    fleet = Fleet()
    assert list(fleet.all()) == ["Same"]
    assert fleet.compared == 0 and fleet.asked == [1, 1, 1]
    assert fleet.suitable("Same", "Unknown") == HUB


def test_what_differs_is_united_once_and_asked_for_every_time() -> None:
    fleet = Fleet()
    fleet.say(fleet.house.backends[1], classes("Same", "Mine"))
    for _ in range(3):
        assert list(fleet.all()) == ["Same", "Mine"]
    assert fleet.compared == 1 and fleet.asked == [3, 3, 3]
    assert fleet.suitable("Same") == HUB
    assert fleet.suitable("Mine", "Same") == (1,)
    fleet.say(fleet.house.backends[2], classes("Mine"))
    assert fleet.suitable("Mine") == (1,)
    fleet.all()
    assert fleet.suitable("Mine") == (1, 2) and fleet.suitable("Same", "Mine") == (1,)
    fleet.say(fleet.house.backends[1], classes("Same"))
    fleet.all()
    assert fleet.suitable("Same", "Mine") == HUB  # none has both: ComfyUI says so


def test_one_that_is_silent_counts_with_what_it_said_before() -> None:
    fleet = Fleet()
    fleet.say(fleet.house.backends[1], classes("Same", "Mine"))
    fleet.all()
    fleet.house.backends[1].client.pause = Deferred()
    _, results = later(fleet.info.all(HUB))
    fleet.house.clock.advance(module.REST)
    assert list(orjson.loads(results[0])) == ["Same", "Mine"]
    fleet.house.backends[1].become(BackendState.DOWN)
    assert list(fleet.all()) == ["Same"]


def test_nobody_answers() -> None:
    fleet = Fleet()
    for backend in fleet.house.backends:
        backend.client.before["GET /object_info"] = raising(BackendUnreachable("refused"))
    with pytest.raises(GateError) as caught:
        fleet.all()
    assert caught.value.status == 504 and "GPU 2: refused" in caught.value.details
    for backend in fleet.house.backends:
        backend.become(BackendState.DOWN)
    with pytest.raises(GateError) as caught:
        fleet.all()
    assert caught.value.status == 503


def test_nonsense_is_told_as_such() -> None:
    fleet = Fleet()
    fleet.say(fleet.house.backends[1], ["nonsense"])
    with pytest.raises(GateError) as caught:
        fleet.all()
    assert caught.value.status == 502


def test_one_class() -> None:
    fleet = Fleet()
    path = "/object_info/Mine"
    for backend, names in zip(fleet.house.backends, ((), ("Mine",), ()), strict=True):
        fleet.say(backend, classes(*names), path)
    answer = now(fleet.info.one(HUB, path))
    assert list(orjson.loads(answer.body)) == ["Mine"] and answer.content_type == "application/json"
    assert now(fleet.info.one(HUB, "/object_info/Other")).status == 404


def test_each_is_asked_when_it_is_ready_and_the_others_only_if_it_differs() -> None:
    fleet = Fleet()
    fleet.house.books.fleet.subscribe(fleet.info)
    for backend in fleet.house.backends:
        fleet.info.backend_changed(backend)  # type: ignore[arg-type]
    assert fleet.asked == [1, 1, 1]
    victim = fleet.house.backends[1]
    victim.become(BackendState.DOWN)
    victim._client.says["/object_info"] = BackendAnswer(200, orjson.dumps(classes("Same", "Mine")))
    victim.become(BackendState.READY)
    assert fleet.asked[0] == fleet.asked[2] == 2
    assert fleet.suitable("Mine") == (1,)


def test_gpus_that_share_no_port_are_not_asked() -> None:
    fleet = Fleet()
    del fleet.house.books.gates["hub"]
    fleet.info.learn(HUB)
    assert fleet.asked == [0, 0, 0]


def test_the_names_of_model_files_are_learnt_once_from_every_answer_that_differs() -> None:
    fleet = Fleet()
    for backend, name in zip(fleet.house.backends, ("a", "a", "odd"), strict=True):
        choices = [["known.safetensors", name], {}]
        fleet.say(backend, {"Loader": {"input": {"required": {"file": choices}}}})
    fleet.info.learn(HUB)
    assert fleet.house.books.experience.files == {"known.safetensors", "a", "odd"}
    read = fleet.compared
    fleet.info.learn(HUB)
    assert fleet.compared == read


def test_what_is_being_learnt_is_given_up_at_the_end() -> None:
    fleet = Fleet()
    fleet.house.backends[0].client.pause = Deferred()
    fleet.info.learn((0,))
    fleet.info.learn((1,))
    fleet.info.stop()
    assert not [call for call in fleet.house.clock.getDelayedCalls() if call.getTime() < 100 and "_end" in str(call)]


def test_a_gpu_that_is_gone_is_forgotten() -> None:
    fleet = Fleet()
    fleet.say(fleet.house.backends[1], classes("Mine"))
    fleet.all()
    fleet.house.books.fleet.remove(1)
    assert list(orjson.loads(now(fleet.info.all((0, 2))))) == ["Same"]
    assert fleet.info.suitable((0, 2), {"1": {"class_type": "Mine"}}) == (0, 2)


def test_wrong_prompts_do_not_have_everybody_asked_again_and_again() -> None:
    fleet = Fleet()
    for _ in range(3):
        fleet.info.doubt(HUB)
    assert fleet.asked == [1, 1, 1]
    fleet.house.clock.advance(module.AGAIN)
    fleet.info.doubt(HUB)
    assert fleet.asked == [2, 2, 2]


def test_gpus_are_alike_unless_they_have_said_otherwise() -> None:
    fleet = Fleet()
    assert fleet.info.alike(0, (1, 2))
    fleet.say(fleet.house.backends[1], classes("Mine"))
    fleet.all()
    assert fleet.info.alike(0, (2,)) and not fleet.info.alike(0, (1,)) and not fleet.info.alike(0, (1, 2))
    assert fleet.info.alike(7, (1,)) and fleet.info.alike(0, (7,))
