"""What waits for a client that reads slowly."""

import json
import random
from typing import Any

import pytest

from comfygate.outbox import OVERHEAD, Kind, Message, Outbox, OverflowingError, classify, text_type

JPEG = Message(b"\0\0\0\1\0\0\0\1" + b"j" * 992, True)
PNG = Message(b"\0\0\0\1\0\0\0\2" + b"p" * 992, True)
DESCRIBED = Message(b"\0\0\0\4\0\0\0\2{}" + b"j" * 990, True)
SAVED = Message(b"\0\0\0\4\0\0\0\2{}\x89PNG" + b"p" * 986, True)
NODE_TEXT = Message(b"\0\0\0\3\0\0\0\0013half way" + b" " * 980, True)


def text(kind: str, **data: Any) -> Message:
    return Message(json.dumps({"type": kind, "data": data}).encode())


def progress(value: int, node: str = "3", prompt: str = "p") -> Message:
    return text("progress", value=value, max=100, prompt_id=prompt, node=node)


def state(value: int, prompt: str = "p") -> Message:
    return text("progress_state", prompt_id=prompt, nodes={"3": {"value": value}})


def drain(box: Outbox) -> list[Message]:
    taken = []
    while (message := box.take()) is not None:
        taken.append(message)
    return taken


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (JPEG, Kind.PREVIEW),
        (DESCRIBED, Kind.PREVIEW),
        (PNG, Kind.RESULT),
        (SAVED, Kind.RESULT),
        (Message(b"\0\0\0\4\xff\xff\xff\xff", True), Kind.PREVIEW),
        (Message(b"\0\0\0\x09custom", True), Kind.RESULT),
        (Message(b"", True), Kind.RESULT),
        (NODE_TEXT, Kind.MINOR),
        (text("logs", entries=[]), Kind.MINOR),
        (progress(1), Kind.PROGRESS),
        (state(1), Kind.PROGRESS),
        (text("progress", value=1), Kind.PROGRESS),
        (Message(b'{"type": "progress", "data": 5}'), Kind.EVENT),
        (Message(b'{"type": "progress", "data"'), Kind.EVENT),
        (Message(b"not JSON"), Kind.EVENT),
        (Message(b'["type"]'), Kind.EVENT),
        *[
            (text(name), Kind.EVENT)
            for name in (
                "status",
                "executing",
                "executed",
                "execution_start",
                "execution_cached",
                "execution_success",
                "execution_error",
                "execution_interrupted",
                "feature_flags",
                "anything.custom",
            )
        ],
    ],
)
def test_kinds(message: Message, kind: Kind) -> None:
    assert classify(message)[0] is kind


def test_the_type_is_found_wherever_it_stands() -> None:
    assert text_type(b'{"type": "status", "data"') == b"status"
    assert text_type(b' {\n"type" :"status"}') == b"status"
    assert text_type(b'{"data": {"type": "no"}, "type": "logs"}') == b"logs"
    assert text_type(b'{"t\\u0079pe": "logs"}') == b"logs"
    assert text_type(b'{"type": 5}') == b""
    assert text_type(b"") == b""


def test_progress_is_about_a_prompt_and_a_node() -> None:
    assert classify(progress(1))[1] == classify(progress(2))[1]
    keys = {classify(message)[1] for message in (progress(1), progress(1, node="4"), progress(1, prompt="q"), state(1))}
    assert len(keys) == 4
    swapped = Message(b'{"type":"progress_state","data":{"nodes":{},"prompt_id":"p"}}')
    assert classify(swapped)[1] == classify(state(7))[1]


def test_nothing_is_dropped_within_the_bound() -> None:
    box = Outbox(bound=100_000)
    messages = [JPEG, progress(1), progress(2), text("status"), NODE_TEXT, JPEG, text("executed"), PNG]
    for message in messages:
        box.put(message)
    assert len(box) == 8
    assert drain(box) == messages
    assert box.dropped == 0
    assert box.size == 0
    assert not box


def test_old_previews_go_first() -> None:
    box = Outbox(bound=10 * (1000 + OVERHEAD))
    box.put(text("executed"))
    box.put(progress(1))
    for number in range(50):
        box.put(Message(JPEG.payload[:-2] + b"%02d" % number, True))
        assert box.size <= 10 * (1000 + OVERHEAD)
    taken = drain(box)
    assert taken[:2] == [text("executed"), progress(1)]
    assert taken[-1].payload.endswith(b"49")
    assert [message.payload for message in taken[2:]] == sorted(message.payload for message in taken[2:])


def test_then_progress_that_is_out_of_date() -> None:
    box = Outbox(bound=20_000)
    for number in range(200):
        box.put(progress(number, node=str(number % 2)))
        if number % 20 == 0:
            box.put(text("executing", node=number))
    taken = drain(box)
    values = [json.loads(message.payload)["data"]["value"] for message in taken if b"progress" in message.payload]
    assert values == sorted(values)
    assert values[-2:] == [198, 199]
    assert [m for m in taken if b"executing" in m.payload] == [text("executing", node=n) for n in range(0, 200, 20)]


def test_then_the_rest_that_can_be_done_without() -> None:
    size = len(text("executed", data="x" * 900).payload) + OVERHEAD
    box = Outbox(bound=10 * size)
    for message in (JPEG, NODE_TEXT, progress(1), state(1)):
        box.put(message)
    events = [text("executed", data="x" * 900) for _ in range(10)]
    for event in events:
        box.put(event)
    assert drain(box) == events
    assert box.dropped == 4


def test_too_much_that_counts() -> None:
    box = Outbox(bound=10_000)
    with pytest.raises(OverflowingError):
        for number in range(100):
            box.put(text("status", number=number))
    box.clear()
    assert (len(box), box.size, box.take()) == (0, 0, None)


def test_results_have_a_bound_of_their_own() -> None:
    box = Outbox(bound=2000, results_bound=10 * (1000 + OVERHEAD))
    box.put(text("executed"))
    for _ in range(10):
        box.put(PNG)
    with pytest.raises(OverflowingError):
        box.put(PNG)
    assert box.dropped == 0


def test_one_message_is_never_too_much() -> None:
    box = Outbox(bound=1000, results_bound=1000)
    event, result = Message(b"e" * 5000), Message(b"r" * 5000, True)
    box.put(event)
    box.put(result)
    assert drain(box) == [event, result]


def test_a_slow_client_leaves_no_traces() -> None:
    """What is remembered about messages goes with them."""
    box = Outbox(bound=50_000)
    chance = random.Random(7)
    expected: list[Message] = []
    taken: list[Message] = []
    for number in range(5000):
        event = text("executed", number=number)
        expected.append(event)
        for message in (progress(number, prompt=str(number // 10)), state(number, str(number // 10)), JPEG, event):
            box.put(message)
        for _ in range(chance.randrange(8)):
            oldest = box.take()
            taken += [oldest] if oldest is not None else []
        assert box.size <= 50_000
        assert len(box._about) + len(box._newest) + len(box._outdated) <= 3 * len(box)
        while len(box) > 100 and (oldest := box.take()) is not None:
            taken.append(oldest)
    taken += drain(box)
    assert [message for message in taken if b"executed" in message.payload] == expected
    assert not box._about
    assert not box._newest
    assert not box._outdated
