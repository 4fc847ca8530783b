"""Which id of a client backends, ports and the journal know."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
from twisted.internet.task import Clock

from comfygate.control.dispatch import Dispatcher
from comfygate.control.recovery import recover
from comfygate.journal.inspection import inspect
from comfygate.journal.records import Journalled, body_row, job_row, read_job_head, with_body
from comfygate.journal.store import Store
from comfygate.model import Job, JobState
from comfygate.persistence import Opened, Persistence
from comfygate.routing.assignment import GateRouting
from tests.unit.fakes import House, body
from tests.unit.test_control import accept, now, submit
from tests.unit.test_histories import one
from tests.unit.test_recovery import made


def queued(house: House, gate: GateRouting) -> list[str]:
    queue = orjson.loads(b"".join(house.listings.queue(gate)))
    return [item[3].get("client_id") for item in (*queue["queue_running"], *queue["queue_pending"])]


def test_a_gpus_own_port_passes_the_clients_id_on_and_the_hub_an_alias() -> None:
    house = House(gpus=1)
    submit(house, house.gates[0], client_id="me")
    submit(house, house.hub, client_id="me")
    submit(house, house.hub)
    submit(house, house.hub, client_id="")
    submit(house, house.hub, extra_data={"client_id": "me", "a": 1})
    for _ in range(4):
        house.finish(0)
    alias = house.books.aliases.inside("me")
    told = [one.get("client_id") for one in house.backends[0].client.bodies]
    assert told == ["me", alias, None, "", alias]


def test_a_queue_shows_clients_their_own_ids_only_on_a_gpus_port() -> None:
    house = House(gpus=1)
    for gate, client_id in ((house.gates[0], "me"), (house.hub, "me"), (house.hub, "you")):
        submit(house, gate, client_id=client_id)
    assert queued(house, house.gates[0]) == ["me", "me", "you"]
    shown = [house.books.aliases.shown(one) for one in ("me", "me", "you")]
    assert queued(house, house.hub) == shown
    everything = orjson.loads(b"".join(house.listings.all()))["queues"][0]
    assert [item[3]["client_id"] for item in (*everything["queue_running"], *everything["queue_pending"])] == shown


def ended(house: House, gate: GateRouting, **fields: Any) -> str:
    """A prompt whose entry ComfyUI writes with the id that it knows."""
    prompt_id: str = submit(house, gate, **fields)["prompt_id"]
    client = house.backends[0].client
    known = client.bodies[-1].get("client_id")
    extra = {} if known is None else {"client_id": known}
    client.items.pop(0)
    client.done[prompt_id] = {"prompt": [1, prompt_id, {}, extra, ["9"]], "status": {"status_str": "success"}}
    return prompt_id


@pytest.mark.parametrize("noted", [False, True])
def test_a_history_shows_clients_their_own_ids_only_on_a_gpus_port(noted: bool) -> None:
    house = House(gpus=1)
    prompt_id = ended(house, house.hub, client_id="me")
    if noted:
        house.backends[0].tell()
        house.turn()
        assert house.ledger.ended(prompt_id) is not None
    mine = one(house, house.gates[0], prompt_id)[prompt_id]["prompt"][3]
    shown = one(house, house.hub, prompt_id)[prompt_id]["prompt"][3]
    assert mine == {"client_id": "me"}
    assert shown == {"client_id": house.books.aliases.shown("me")}
    if noted:
        listed = orjson.loads(b"".join(now(house.histories.newest(house.hub, None, None))))
        assert listed[prompt_id]["prompt"][3] == shown


def test_what_the_hub_accepted_before_it_merged_is_put_under_an_alias_after_a_restart() -> None:
    house = House(gpus=1)
    old = [
        made(targets=frozenset({0}), client_id="me", submission=body(client_id="me"), gate=gate)
        for gate in ("hub", "gpu-0")
    ]
    recover(house.books, [Journalled(job, JobState.WAITING, None) for job in old], ())
    kept = [orjson.loads(house.ledger.waiting.get(job.prompt_id).submission)["client_id"] for job in old]
    assert kept == [house.books.aliases.inside("me"), "me"]


def test_the_journal_lists_a_job_with_its_clients_own_id() -> None:
    house = House(gpus=1)
    submit(house, house.hub, client_id="me")
    [job] = house.journal.accepted
    noted = Journalled(job, JobState.WAITING, None)
    assert with_body(read_job_head(job_row(noted)), body_row(job)) == noted
    assert orjson.loads(job.item)[3] == {"client_id": "me"}


def test_a_job_waits_until_its_client_hears_the_gpu_and_nobody_waits_for_it() -> None:
    house = House(gpus=1)
    del house.books._watchers[:]
    deaf = {"me"}

    def hears(job: Job, gpu_id: int) -> bool:
        return job.client_id not in deaf

    house.dispatcher = Dispatcher(house.books, house.reconciler, house.journal, hears=hears)
    first = accept(house, house.hub, client_id="me")["prompt_id"]
    second = accept(house, house.hub, client_id="you")["prompt_id"]
    house.turn()
    assert house.backends[0].client.submitted == [second]
    deaf.clear()
    house.books.changed()
    house.turn()
    assert house.backends[0].client.submitted == [second, first]


def test_a_job_goes_where_its_client_hears_it() -> None:
    house = House(gpus=2)
    del house.books._watchers[:]
    asked: list[int] = []

    def hears(job: Job, gpu_id: int) -> bool:
        asked.append(gpu_id)
        return gpu_id == 1

    house.dispatcher = Dispatcher(house.books, house.reconciler, house.journal, hears=hears)
    first = accept(house, house.hub, client_id="me")["prompt_id"]
    house.turn()
    assert house.backends[1].client.submitted == [first]
    assert asked == [0, 1]


def test_all_that_can_go_goes_while_some_clients_hear_nothing() -> None:
    house = House(gpus=2)
    del house.books._watchers[:]
    asked: list[tuple[str | None, int]] = []

    def hears(job: Job, gpu_id: int) -> bool:
        asked.append((job.client_id, gpu_id))
        return job.client_id == "you"

    house.dispatcher = Dispatcher(house.books, house.reconciler, house.journal, hears=hears)
    for client_id in ("me", "me", "her", "her"):
        accept(house, house.hub, client_id=client_id)
    sent = {accept(house, house.hub, client_id="you")["prompt_id"] for _ in range(2)}
    house.turn()
    assert {one for backend in house.backends for one in backend.client.submitted} == sent
    assert len(house.ledger.waiting.of_gate(house.hub.name)) == 4
    asked.clear()
    house.books.changed()
    assert sorted(asked) == sorted(set(asked))  # each is asked about once


class Config:
    keep_finished, keep_days = 10, 1.0


class Reactor(Clock):
    def callFromThread(self, act: Any, *values: Any) -> None:
        raise AssertionError("nothing is done by the thread")


def test_the_secret_of_aliases_is_kept_with_the_journal(tmp_path: Path) -> None:
    def aliases(store: Store | None) -> str:
        opened = None if store is None else Opened(store, store.load())
        return Persistence(opened, Reactor(), Config, lambda gpu_id: False).aliases().inside("me")  # type: ignore[arg-type]

    first = Store.open(str(tmp_path / "journal.sqlite"))
    alias = aliases(first)
    first.close()
    second = Store.open(str(tmp_path / "journal.sqlite"))
    assert aliases(second) == alias
    assert "secret" not in repr(inspect(second.path).settings)
    second.close()
    assert aliases(None) != aliases(None)
