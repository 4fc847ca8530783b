"""comfygate-smoke: what it says, how long it waits, and what it takes for a good answer."""

from __future__ import annotations

import io
from typing import Any

import orjson
import pytest
from attrs import evolve
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from comfygate.smoke.client import PATIENCE, Client, Reply, shown
from comfygate.smoke.judge import has_prompt_id, has_queues, image_in_history, is_part, is_picture
from comfygate.smoke.outcome import Outcome, SilentError, UnexpectedError, UnreachableError, Verdict
from comfygate.smoke.record import GivenUpError, Patience, Record
from comfygate.smoke.report import Report
from comfygate.smoke.samples import picture
from comfygate.smoke.starting import wait_started
from comfygate.smoke.targets import Target, find_gpus
from comfygate.smoke.websocket import Socket, is_last_of


def outcome(verdict: Verdict = Verdict.PASSED, note: str = "") -> Outcome:
    return Outcome(
        port=8181, name="GPU 0", gpu_id=0, method="POST", path="/prompt", verdict=verdict, status=200, note=note
    )


class Terminal(io.TextIOWrapper):
    """Takes text in some encoding."""

    def __init__(self, encoding: str = "utf-8", tty: bool = False) -> None:
        self.raw_bytes = io.BytesIO()
        self.tty = tty
        super().__init__(self.raw_bytes, encoding=encoding)

    def isatty(self) -> bool:
        return self.tty

    @property
    def text(self) -> str:
        return self.raw_bytes.getvalue().decode(self.encoding)


# -- the report


@pytest.mark.parametrize(
    ("tty", "environ", "colored"),
    [
        (True, {}, True),
        (True, {"NO_COLOR": "1"}, False),
        (True, {"NO_COLOR": ""}, True),
        (True, {"TERM": "dumb"}, False),
        (False, {}, False),
    ],
)
def test_colors_are_for_terminals_that_want_them(tty: bool, environ: dict[str, str], colored: bool) -> None:
    stream = Terminal(tty=tty)
    Report(stream, ["GPU 0"], environ).lines([outcome()])
    assert ("\x1b[32m" in stream.text) is colored


def test_a_line_for_each_check() -> None:
    stream = Terminal()
    report = Report(stream, ["GPU 0", "a-long-name"], {})
    report.lines([outcome(), outcome(Verdict.FAILED, "expected 200; came 503")])
    assert stream.text == (
        "✓ 200 8181  GPU 0        POST /prompt\n"
        "✗ 200 8181  GPU 0        POST /prompt                expected 200; came 503\n"
    )


def test_a_server_cannot_give_the_terminal_orders() -> None:
    evil = "\x1b]0;title\x07\x1b[2J\x9b31m\u202e\rall\nis well"
    stream = Terminal()
    one = evolve(outcome(Verdict.FAILED, f"came {evil}{'x' * 1000}"), name=evil)
    report = Report(stream, [evil], {})
    report.lines([one])
    assert stream.text.endswith("x…\n")
    assert stream.text[:-1].isprintable()
    assert len(stream.text) < 700


def test_letters_that_the_terminal_does_not_know() -> None:
    stream = Terminal("ascii")
    Report(stream, ["GPU 0"], {}).lines([outcome(Verdict.FAILED, "came Störung")])
    assert stream.text.startswith("FAIL 200 8181 ")
    assert stream.text.endswith("came St?rung\n")


@pytest.mark.parametrize(
    ("verdicts", "text"),
    [
        ([Verdict.PASSED, Verdict.PASSED], "2 checks of 1 port in 1.5 s: all is well."),
        ([Verdict.PASSED, Verdict.FAILED], "2 checks of 1 port in 1.5 s: 1 failed."),
        ([Verdict.FAILED, Verdict.SKIPPED], "2 checks of 1 port in 1.5 s: 1 failed, 1 not tried."),
    ],
)
def test_the_summary(verdicts: list[Verdict], text: str) -> None:
    stream = Terminal()
    Report(stream, [], {}).summary([outcome(verdict) for verdict in verdicts], 1.5)
    assert stream.text == f"\n{text}\n"


# -- answers


def reply(body: Any, status: int = 200, **headers: str) -> Reply:
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(status, fields, body if isinstance(body, bytes) else orjson.dumps(body))


def test_what_a_server_says_is_made_fit_for_a_line() -> None:
    assert shown(b"a\r\n\x1b[31mb\0\xff") == "a [31mb \ufffd"
    assert shown(b"") == "nothing"
    assert shown(b"x" * 100) == "x" * 80 + "…"


def test_a_refusal_says_what_was_expected_and_what_came() -> None:
    refused = reply({"error": {"type": "backend_down", "message": "GPU 1 is down"}}, 503)
    with pytest.raises(UnexpectedError, match=r"^expected 200; came backend_down: GPU 1 is down$") as caught:
        is_picture(refused)
    assert caught.value.status == 503


@pytest.mark.parametrize(
    "bad",
    [
        {"queues": [{"gpu_id": 0, "running_count": 1, "pending_count": 0}], "total_running": 2, "total_pending": 0},
        {"queues": 5, "total_running": 0, "total_pending": 0},
        {},
        [],
    ],
)
def test_totals_that_are_no_sums(bad: Any) -> None:
    with pytest.raises(UnexpectedError, match=r"^expected the queue of every GPU, and the totals; came "):
        has_queues(reply(bad))


def test_the_prompt_of_another_gpu() -> None:
    assert has_prompt_id(1)(reply({"prompt_id": "a", "gpu_id": 1})) == "a"
    assert has_prompt_id(None)(reply({"prompt_id": "a", "gpu_id": 3})) == "a"
    with pytest.raises(UnexpectedError, match="gpu_id 1"):
        has_prompt_id(1)(reply({"prompt_id": "a", "gpu_id": 0}))


def test_a_part_of_the_picture() -> None:
    part = picture()[1:4]
    is_part(reply(part, 206, content_range="bytes 1-3/68"), 206)
    with pytest.raises(UnexpectedError):
        is_part(reply(part, 206, content_range="bytes 0-2/68"), 206)
    with pytest.raises(UnexpectedError):
        is_part(reply(picture(), 206, content_range="bytes 1-3/68"), 206)


def test_a_prompt_that_has_not_ended_and_one_that_failed() -> None:
    judge = image_in_history("a", "2")
    assert judge(reply({})) is None
    with pytest.raises(UnexpectedError, match="a prompt that ended well"):
        judge(reply({"a": {"status": {"status_str": "error"}, "outputs": {}}}))


# -- waiting


class Refusing(Client):
    """Is told to come back, some times."""

    def __init__(self, clock: Clock, times: int, pause: str) -> None:
        super().__init__(clock, "http://127.0.0.1:1", 5)
        self.left = times
        self.headers = {"retry-after": pause}

    async def ask_once(self, method: str, path: str, **more: Any) -> Reply:
        self.left -= 1
        return Reply(429 if self.left >= 0 else 200, self.headers, b"")


@pytest.mark.parametrize(
    ("times", "pause", "status", "waited"),
    [(0, "1", 200, 0), (2, "1", 200, 2), (1, "soon", 429, 0), (100, "7", 429, 28), (1, "31", 429, 0)],
)
def test_it_comes_back_when_told_but_not_for_ever(times: int, pause: str, status: int, waited: int) -> None:
    assert PATIENCE == 30
    clock = Clock()
    found: list[Reply] = []
    Deferred.fromCoroutine(Refusing(clock, times, pause).ask("GET", "/")).addCallback(found.append)
    while not found:
        clock.advance(1)
    assert (found[0].status, clock.seconds()) == (status, waited)


class Told(Client):
    """Says how GPUs are, one answer after the other; the last one stays."""

    def __init__(self, *answers: list[str] | Exception) -> None:
        self.clock = Clock()
        super().__init__(self.clock, "http://127.0.0.1:1", 5)
        self.answers = list(answers)

    async def ask_once(self, method: str, path: str, **more: Any) -> Reply:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        queues = [{"gpu_id": n, "port": 8181 + n, "state": state} for n, state in enumerate(answer)]
        return reply({"queues": queues})


@pytest.mark.parametrize(
    ("answers", "told", "waited"),
    [
        ([["ready", "down", "failed"]], [], 0.0),
        ([["starting", "ready"], ["starting", "ready"], ["ready", "ready"]], ["GPU 0"], 1.0),
        ([["starting", "starting"], ["down", "starting"], ["starting", "ready"]], ["GPU 0", "GPU 1"], 1.0),
        ([["starting"], SilentError("late"), ["ready"]], ["GPU 0"], 1.0),
        ([["starting"], ["starting"]], ["GPU 0"], 7.0),
    ],
)
def test_gpus_that_start_are_waited_for(answers: list[Any], told: list[str], waited: float) -> None:
    client, named, ended = Told(*answers), [], []

    async def wait() -> None:
        gpus = await find_gpus(client)
        await wait_started(client, gpus, 7.0, lambda waiting: named.extend(gpu.name for gpu in waiting))

    Deferred.fromCoroutine(wait()).addCallback(lambda _: ended.append(client.clock.seconds()))
    for _ in range(20):
        client.clock.advance(0.5)
    assert (named, ended) == (told, [waited])


def test_nobody_is_there_any_more() -> None:
    client, failures = Told(["starting"], UnreachableError("refused")), []

    async def wait() -> None:
        await wait_started(client, await find_gpus(client), 7.0, lambda waiting: None)

    Deferred.fromCoroutine(wait()).addErrback(failures.append)
    client.clock.advance(0.5)
    assert failures[0].check(UnreachableError)


def record() -> Record:
    target = Target(base="http://127.0.0.1:1", port=1, name="GPU 0", gpu_id=0)
    return Record(Client(Clock(), target.base, 5), target, Patience(answer=5, prompt=5))


def carry_out(record: Record, check: Any) -> Any:
    found: list[Any] = []
    Deferred.fromCoroutine(record.check("GET", "/", check)).addBoth(found.append)
    return found[0]


async def silent() -> tuple[None, None, str]:
    raise SilentError("no answer")


async def fine() -> tuple[int, int, str]:
    return 5, 200, ""


@pytest.mark.parametrize("answers", [[silent, silent], [fine, silent, fine, silent, fine, silent, fine, silent]])
def test_a_silent_port_is_given_up(answers: list[Any]) -> None:
    one = record()
    for answer in answers:
        assert carry_out(one, answer) == (5 if answer is fine else None)
    assert carry_out(one, fine).check(GivenUpError)
    assert [found.verdict for found in one.outcomes][-2:] == [Verdict.FAILED, Verdict.SKIPPED]


def test_a_port_that_was_silent_for_a_moment_is_not() -> None:
    one = record()
    for answer in (silent, fine, silent, fine):
        carry_out(one, answer)
    assert carry_out(one, fine) == 5


# -- the WebSocket


def said(*messages: Any) -> Socket:
    socket = Socket(Clock(), "http://127.0.0.1:1", "/ws", 5)
    socket.opened()
    for message in messages:
        socket.said(message if isinstance(message, bytes) else orjson.dumps(message))
    return socket


def test_the_last_message_about_a_prompt() -> None:
    wanted = is_last_of("a")
    assert wanted({"type": "executing", "data": {"node": None, "prompt_id": "a"}})
    for other in (
        {"type": "executing", "data": {"node": None, "prompt_id": "b"}},
        {"type": "executing", "data": {"node": "1", "prompt_id": "a"}},
        {"type": "executed", "data": {"node": None, "prompt_id": "a"}},
        {"type": "executing", "data": None},
        {},
    ):
        assert not wanted(other)


@pytest.mark.parametrize("early", [True, False])
def test_a_message_that_came_or_comes(early: bool) -> None:
    message = {"type": "executed", "data": {"prompt_id": "a"}}
    socket = said({"type": "status"}, *([message] if early else []))
    found: list[Any] = []
    Deferred.fromCoroutine(socket.wait_for(lambda one: one["type"] == "executed", 5)).addCallback(found.append)
    if not early:
        socket.said(orjson.dumps(message))
    assert found == [message]
    assert socket.types("a") == ["executed"]


@pytest.mark.parametrize("message", [b"no JSON", b"[]"])
def test_a_message_that_is_none(message: bytes) -> None:
    found: list[Any] = []
    Deferred.fromCoroutine(said(message).wait_for(lambda one: True, 5)).addErrback(found.append)
    assert "no JSON object" in str(found[0].value)


def test_a_message_that_does_not_come() -> None:
    clock = Clock()
    found: list[Any] = []
    socket = Socket(clock, "http://127.0.0.1:1", "/ws", 5)
    Deferred.fromCoroutine(socket.wait_for(lambda one: True, 5)).addErrback(found.append)
    clock.advance(5)
    assert found[0].check(SilentError)
