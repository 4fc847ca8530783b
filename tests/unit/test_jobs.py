"""/api/jobs over several GPUs."""

from __future__ import annotations

from io import BytesIO
from typing import Any

import orjson
import pytest

from comfygate.control.merged import jobs as module
from comfygate.control.merged.gpus import AskedGpus
from comfygate.control.merged.job_routes import JobRoutes
from comfygate.control.merged.jobs import JobList
from comfygate.errors import GateError
from comfygate.ledger import Stranger
from comfygate.model import BackendAnswer, BackendState, JobState
from tests.unit.fakes import House, new_id
from tests.unit.test_control import now, submit


class FakeRequest:
    """As much of a request as the routes look at."""

    def __init__(self, method: str, target: str, body: Any) -> None:
        self.method = method.encode()
        self.uri = target.encode()
        self.path, _, query = self.uri.partition(b"?")
        self.args = {pair.partition(b"=")[0]: [pair.partition(b"=")[2]] for pair in query.split(b"&") if pair}
        self.content = BytesIO(body if isinstance(body, bytes) else orjson.dumps(body))


class Office:
    """Three GPUs of which the second has /api/jobs."""

    def __init__(self, offered: bool = True) -> None:
        self.house = House(gpus=3)
        self.jobs = JobList(self.house.books, self.house.histories)
        self.house.ledger.subscribe(self.jobs)
        self.routes = JobRoutes(AskedGpus(self.house.books), self.jobs, self.house.interrupts, self.house.books.noted)
        if offered:
            self.house.backends[1].client.says["/api/jobs"] = BackendAnswer(200, b'{"jobs": []}')

    def ask(self, target: str, method: str = "GET", body: Any = None) -> Any:
        return now(self.routes.answer(self.house.hub, FakeRequest(method, target, body)))  # type: ignore[arg-type]

    def json(self, target: str, method: str = "GET", body: Any = None) -> Any:
        reply = self.ask(target, method, body)
        assert reply.status == 200, reply
        return orjson.loads(b"".join(reply.pieces))

    def listed(self, query: str = "") -> list[tuple[str, str]]:
        return [(job["id"], job["status"]) for job in self.json(f"/api/jobs{query}")["jobs"]]

    def submit(self, created: int, workflow: str | None = None) -> str:
        self.house.books.wall_clock = lambda: created
        extra = {"extra_pnginfo": {"workflow": {"id": workflow}}} if workflow else {}
        prompt_id: str = submit(self.house, self.house.hub, extra_data=extra)["prompt_id"]
        return prompt_id

    def finish(self, prompt_id: str, *, start: int = 0, end: int = 0, state: str = "success") -> None:
        messages = [["execution_start", {"timestamp": start}], [f"execution_{state}", {"timestamp": end}]]
        status = {"status_str": "success" if state == "success" else "error", "messages": messages}
        held = self.house.ledger.held(prompt_id)
        assert held is not None
        entry = {"prompt": orjson.loads(held.job.item), "outputs": {}, "status": status}
        self.house.ledger.end(prompt_id, JobState.DONE, None, orjson.dumps(entry))


def test_where_no_comfyui_has_it_it_is_not_there() -> None:
    office = Office(offered=False)
    for _ in range(2):
        reply = office.ask("/api/jobs")
        assert (reply.status, reply.pieces) == (404, (b"404: Not Found",))
    assert office.ask("/api/jobs/cancel", "POST", {}).status == 404


def test_nobody_can_be_asked_whether_it_is_there() -> None:
    office = Office()
    for backend in office.house.backends:
        backend.become(BackendState.DOWN)
    with pytest.raises(GateError) as caught:
        office.ask("/api/jobs")
    assert caught.value.status == 503


def test_whether_it_is_there_is_asked_once_for_each_start() -> None:
    office = Office()
    for _ in range(3):
        office.listed()
    assert len(office.house.backends[1].client.asked) == 1
    office.house.books.fleet.subscribe(office.routes)
    office.house.backends[1].become(BackendState.DOWN)
    assert office.ask("/api/jobs").status == 404


def test_what_waits_runs_and_has_ended_the_newest_first() -> None:
    office = Office()
    before = office.submit(1)
    office.finish(before, start=900)
    ids = [office.submit(2 + n) for n in range(7)]
    office.finish(ids[0], start=1900, state="interrupted")
    office.house.turn()
    found = office.listed()
    assert [prompt_id for prompt_id, _ in found] == [*reversed(ids), before]
    states = dict(found)
    assert (states[before], states[ids[0]], states[ids[1]], states[ids[6]]) == (
        "completed",
        "cancelled",
        "in_progress",
        "pending",
    )
    page = office.json("/api/jobs?limit=2&offset=1")
    assert [job["id"] for job in page["jobs"]] == [ids[5], ids[4]]
    assert page["pagination"] == {"offset": 1, "limit": 2, "total": 8, "has_more": True}
    assert office.json("/api/jobs?offset=-3")["pagination"] == {
        "offset": 0,
        "limit": None,
        "total": 8,
        "has_more": False,
    }
    oldest, _, *others = office.json("/api/jobs?sort_order=asc")["jobs"]
    assert [job["create_time"] for job in others] == [1000 * n for n in range(3, 9)]
    assert oldest["id"] == before and "create_time" not in oldest  # an older daemon's ComfyUI did not say it
    assert office.listed("?status=completed,%20cancelled".replace("%20", "")) == [
        (ids[0], "cancelled"),
        (before, "completed"),
    ]


def test_by_workflow_and_by_duration() -> None:
    office = Office()
    office.listed()
    one, two, three = office.submit(1, "w"), office.submit(2), office.submit(3, "w")
    assert office.listed("?workflow_id=w") == [(three, "in_progress"), (one, "in_progress")]
    office.finish(one, start=10, end=30)
    office.finish(two, start=10, end=20)
    found = office.listed("?sort_by=execution_duration&status=completed")
    assert [prompt_id for prompt_id, _ in found] == [one, two]
    assert office.listed("?workflow_id=w&status=completed") == [(one, "completed")]


def test_strangers_are_listed_too_and_other_ports_prompts_are_not() -> None:
    office = Office()
    office.house.ledger.meet(2, (Stranger("x", 7.0, True, b'[7, "x", {}, {"create_time": 9}, []]'),))
    assert office.listed() == [("x", "in_progress")]
    reply = now(office.routes.answer(office.house.gates[1], FakeRequest("GET", "/api/jobs", b"")))  # type: ignore[arg-type]
    assert orjson.loads(b"".join(reply.pieces))["jobs"] == []


def test_one_with_all_that_is_known() -> None:
    office = Office()
    prompt_id = office.submit(1)
    job = office.json(f"/api/jobs/{prompt_id}")
    assert job["status"] == "in_progress" and "9" in job["workflow"]["prompt"] and job["create_time"] == 1000
    office.listed()
    office.finish(prompt_id, start=1, end=2)
    job = office.json(f"/api/jobs/{prompt_id}")
    assert (job["status"], job["create_time"], job["execution_end_time"]) == ("completed", 1000, 2)
    reply = office.ask(f"/api/jobs/{new_id()}")
    assert (reply.status, reply.pieces) == (404, (b'{"error":"Job not found"}',))


def test_what_is_dropped_from_the_history_is_gone() -> None:
    office = Office()
    ids = [office.submit(n) for n in range(3)]
    office.listed()
    for prompt_id in ids:
        office.finish(prompt_id)
    now(office.house.histories.forget(office.house.hub, [ids[0]]))
    assert len(office.listed()) == 2
    now(office.house.histories.forget(office.house.hub, None))
    assert office.listed() == []


def test_no_more_is_kept_than_is_bearable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", 2)
    office = Office()
    ids = [office.submit(n) for n in range(6)]
    assert len(office.listed()) == 6
    office.house.turn()
    for prompt_id in ids[:3]:
        office.finish(prompt_id)
    assert [prompt_id for prompt_id, _ in office.listed("?status=completed")] == [ids[2], ids[1]]


def test_cancelling() -> None:
    office = Office()
    ids = [office.submit(n) for n in range(8)]
    assert office.json(f"/api/jobs/{ids[7]}/cancel", "POST") == {"cancelled": True}
    assert office.json(f"/api/jobs/{ids[7]}/cancel", "POST") == {"cancelled": False}
    assert office.json("/api/jobs/cancel", "POST", {"job_ids": [ids[6], new_id()]}) == {"cancelled": True}
    assert office.json("/api/jobs/cancel", "POST", {"job_ids": []}) == {"cancelled": False}
    assert len(office.listed()) == 6


def test_one_that_cannot_be_stopped_keeps_no_other_from_it() -> None:
    office = Office()
    ids = [office.submit(n) for n in range(7)]
    office.house.backends[0].client.deaf = True
    assert office.json("/api/jobs/cancel", "POST", {"job_ids": [ids[0], ids[6]]}) == {"cancelled": True}
    with pytest.raises(GateError) as caught:
        office.ask(f"/api/jobs/{ids[0]}/cancel", "POST")
    assert caught.value.status == 504


@pytest.mark.parametrize(
    ("target", "method", "body", "error"),
    [
        ("/api/jobs?status=done", "GET", b"", "Invalid status value(s): done. Valid values: pending, in_progress, "),
        ("/api/jobs?sort_by=x", "GET", b"", "sort_by must be 'created_at' or 'execution_duration'"),
        ("/api/jobs?sort_order=x", "GET", b"", "sort_order must be 'asc' or 'desc'"),
        ("/api/jobs?limit=x", "GET", b"", "limit must be an integer"),
        ("/api/jobs?limit=0", "GET", b"", "limit must be a positive integer"),
        ("/api/jobs?offset=x", "GET", b"", "offset must be an integer"),
        ("/api/jobs/cancel", "POST", b"x", "Request body must be valid JSON"),
        ("/api/jobs/cancel", "POST", [], "job_ids must be a list"),
        ("/api/jobs/cancel", "POST", {"job_ids": [3, "x"]}, "job_ids contains invalid id(s)"),
        ("/api/jobs/cancel", "POST", {"job_ids": [new_id()] * 1001}, "job_ids may hold 1000 ids at most"),
    ],
)
def test_mistakes_are_told_in_comfyuis_words(target: str, method: str, body: Any, error: str) -> None:
    reply = Office().ask(target, method, body)
    assert reply.status == 400
    assert orjson.loads(b"".join(reply.pieces))["error"].startswith(error)
