"""One stream made of several: what goes to the client, and when."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest

from comfygate.outbox import Message
from comfygate.stream.merge import GRACE, HOLD, LEARN, Merger
from comfygate.stream.shelf import Shelf

JPEG, PNG = b"\0\0\0\1\0\0\0\1", b"\0\0\0\1\0\0\0\2"


class Own:
    """A client's prompts."""

    def __init__(self, *prompt_ids: str) -> None:
        self.prompts = set(prompt_ids)
        self.running: dict[int, str] = {}

    def owns(self, prompt_id: str) -> bool:
        return prompt_id in self.prompts

    def runs(self, gpu_id: int) -> str | None:
        return self.running.get(gpu_id)


def message(kind: str, **data: Any) -> Message:
    return Message(json.dumps({"type": kind, "data": data}).encode())


def start(prompt_id: str) -> Message:
    return message("execution_start", prompt_id=prompt_id, timestamp=1)


def executing(prompt_id: str, node: str | None = "1") -> Message:
    return message("executing", node=node, prompt_id=prompt_id)


def progress(prompt_id: str, value: int = 1) -> Message:
    return message("progress", value=value, max=9, prompt_id=prompt_id, node="1")


def executed(prompt_id: str) -> Message:
    return message("executed", node="9", output={}, prompt_id=prompt_id)


def success(prompt_id: str) -> Message:
    return message("execution_success", prompt_id=prompt_id, timestamp=2)


def error(prompt_id: str) -> Message:
    return message("execution_error", prompt_id=prompt_id, exception_message="no")


def idle(prompt_id: str) -> Message:
    return executing(prompt_id, None)


def picture(head: bytes = JPEG, content: bytes = b"x") -> Message:
    return Message(head + content, True)


def with_metadata(prompt_id: str, kind: str = "image/jpeg", content: bytes = b"\xff\xd8x") -> Message:
    metadata = json.dumps({"prompt_id": prompt_id, "node_id": "1", "image_type": kind}).encode()
    return Message(b"\0\0\0\4" + len(metadata).to_bytes(4, "big") + metadata + content, True)


def story(prompt_id: str, *between: Message) -> list[Message]:
    return [start(prompt_id), executing(prompt_id), *between, executed(prompt_id), success(prompt_id), idle(prompt_id)]


def hear(merger: Merger, gpu_id: int, messages: Iterable[Message], now: float = 0.0) -> list[Message]:
    return [out for one in messages for out in merger.hear(gpu_id, one, now)]


def merger(own: Own, several: bool = False) -> Merger:
    made = Merger(own)
    made.negotiate(0.0, features=several, metadata=several, several=several)
    return made


ENDING = (success("a"), idle("a"))


def test_a_story_of_one_passes_in_order() -> None:
    one = merger(Own("a"))
    said = story("a", progress("a"), picture(), progress("a", 2))
    assert hear(one, 0, said) == said
    assert not one.waits(["a"]) and one.due is None


@pytest.mark.parametrize("several", [False, True])
def test_what_is_about_others_is_dropped(several: bool) -> None:
    one = merger(Own("a"), several)
    said = [progress("b"), picture(), message("execution_interrupted", prompt_id="b"), with_metadata("b")]
    assert hear(one, 0, said) == []
    assert hear(one, 0, [start("a"), picture()]) == [start("a"), picture()]
    assert hear(one, 0, [progress("b"), picture(PNG)]) == []
    assert hear(one, 1, [picture()]) == []  # nobody knows whose


def test_what_names_no_prompt_passes() -> None:
    one = merger(Own("a"))
    logs, custom = message("logs", entries=[]), message("impact-node-feedback", node_id="1", value=2)
    assert hear(one, 0, [logs, custom, Message(b"no json"), Message(b"[]")]) == [
        logs,
        custom,
        Message(b"no json"),
        Message(b"[]"),
    ]
    foreign = message("custom", prompt_id="b")
    assert hear(one, 0, [foreign]) == []
    assert hear(one, 0, [message("status", status={}), message("feature_flags")]) == []


def test_other_binary_types_are_for_those_that_negotiate() -> None:
    text, unknown = Message(b"\0\0\0\3\0\0\0\1" + b"1" + b"hello", True), Message(b"\0\0\0\x09x", True)
    short = Message(b"\0\0", True)
    one = merger(Own("a"))
    hear(one, 0, [start("a")])
    assert hear(one, 0, [text, unknown, short]) == []
    one.negotiate(0.0, features=True, metadata=False, several=False)
    assert hear(one, 0, [text, unknown, short]) == [text, unknown, short]


def test_a_client_without_metadata_gets_plain_previews() -> None:
    one = merger(Own("a"))
    hear(one, 0, [start("a")])
    assert hear(one, 0, [with_metadata("a")]) == [Message(JPEG + b"\xff\xd8x", True)]
    assert hear(one, 0, [with_metadata("a", "image/png", b"\x89PNG")]) == [Message(PNG + b"\x89PNG", True)]
    assert hear(one, 0, [Message(b"\0\0\0\4\0\0\0\5{", True), Message(b"\0\0\0\4\xff\xff\xff\xff", True)]) == []
    one.negotiate(0.0, features=True, metadata=True, several=False)
    assert hear(one, 0, [with_metadata("a")]) == [with_metadata("a")]


def test_the_last_event_waits_until_the_history_is_written() -> None:
    one = merger(Own("a"))
    hear(one, 0, [start("a")])
    assert hear(one, 0, [success("a")]) == []
    assert one.waits(["a"])
    assert hear(one, 0, [idle("a")]) == [success("a"), idle("a")]


def test_the_last_event_waits_no_longer_than_it_must() -> None:
    one = merger(Own("a"))
    hear(one, 0, [start("a"), success("a")], now=5.0)
    assert one.due == 5.0 + HOLD
    assert one.wake(5.0 + HOLD) == [success("a")]
    assert one.due is None
    assert hear(one, 0, [idle("a")]) == [idle("a")]


def test_the_ledgers_word_releases_the_last_event() -> None:
    one = merger(Own("a"))
    hear(one, 0, [start("a"), success("a")])
    assert one.end("a", ENDING, 1.0, audible=True) == [success("a")]
    assert one.wake(1.0 + GRACE) == [idle("a")]
    assert hear(one, 0, [idle("a"), success("a"), start("a")]) == []


def test_an_end_that_no_comfyui_tells_is_told_all_the_same() -> None:
    one = merger(Own("a"))
    hear(one, 0, [start("a")])
    assert one.end("a", (error("a"), idle("a")), 1.0, audible=False) == [error("a"), idle("a")]
    assert one.end("a", ENDING, 1.0, audible=False) == []


def test_an_end_that_may_still_be_heard_is_waited_for() -> None:
    one = merger(Own("a"))
    hear(one, 0, [start("a")])
    assert one.end("a", ENDING, 1.0, audible=True) == []
    assert hear(one, 0, [executed("a"), success("a"), idle("a")], 1.5) == [executed("a"), success("a"), idle("a")]
    assert one.wake(9.0) == []


def test_a_missed_last_event_is_told_before_that_nothing_runs() -> None:
    one = merger(Own("a"))
    hear(one, 0, [start("a")])
    assert hear(one, 0, [idle("a")]) == []
    assert one.end("a", ENDING, 1.0, audible=True) == list(ENDING)
    two = merger(Own("a"))
    hear(two, 0, [start("a"), idle("a")])
    assert two.wake(LEARN) == [idle("a")]


def test_one_that_never_began_ends_in_silence() -> None:
    one = merger(Own("a"))
    assert one.end("a", (), 0.0, audible=True) == []
    assert one.end("b", (error("b"), idle("b")), 0.0, audible=False) == [error("b"), idle("b")]


def test_the_second_waits_for_the_first() -> None:
    one = merger(Own("a", "b"))
    first, second = story("a"), story("b", progress("b"), picture(), picture(content=b"y"))
    out = hear(one, 0, first[:2]) + hear(one, 1, second[:-2]) + hear(one, 0, first[2:])
    newest = [each for each in second[:-2] if each != picture()]
    assert out == first + newest
    assert hear(one, 1, second[-2:]) == second[-2:]


def test_a_second_that_has_ended_is_told_whole_behind_the_first() -> None:
    one = merger(Own("a", "b", "c"))
    out = hear(one, 0, story("a")[:1]) + hear(one, 1, story("b")) + hear(one, 2, story("c"))
    assert one.end("b", (success("b"), idle("b")), 0.0, audible=True) == []
    out += hear(one, 0, story("a")[1:])
    assert out == [*story("a"), *story("b"), *story("c")]


def test_a_client_that_follows_several_gets_all_at_once() -> None:
    one = merger(Own("a", "b"), several=True)
    mixed = [each for pair in zip(story("a"), story("b"), strict=True) for each in pair]
    out = [each for n, said in enumerate(mixed) for each in one.hear(n % 2, said, 0.0)]
    last = [success("a"), idle("a"), success("b"), idle("b")]
    assert out == mixed[:-4] + last


def test_one_that_turns_out_to_follow_several_gets_what_was_kept() -> None:
    one = merger(Own("a", "b"))
    hear(one, 0, [start("a")])
    assert hear(one, 1, story("b")[:-1]) == []
    assert one.negotiate(0.0, features=True, metadata=False, several=True) == story("b")[:-2]
    assert hear(one, 1, [idle("b")]) == [success("b"), idle("b")]
    assert one.negotiate(0.0, features=True, metadata=False, several=False) == []
    assert hear(one, 0, story("a")[1:]) == story("a")[1:]


def test_nobody_waits_for_a_gpu_that_is_away() -> None:
    one = merger(Own("a", "b"))
    hear(one, 0, [start("a")])
    assert hear(one, 1, story("b")[:2]) == []
    assert one.lose(1, 0.0) == []
    assert one.lose(0, 0.0) == story("b")[:2]
    assert one.again("a", 0.0) == []
    assert hear(one, 2, story("a")) == []  # it runs again, elsewhere, and waits for its turn
    assert hear(one, 1, story("b")[2:]) == [*story("b")[2:], *story("a")]


def test_a_prompt_that_runs_again_begins_anew() -> None:
    one = merger(Own("a"))
    assert hear(one, 0, [start("a"), progress("a")]) == [start("a"), progress("a")]
    one.lose(0, 0.0)
    one.again("a", 0.0)
    assert hear(one, 1, story("a")) == story("a")


def test_what_was_kept_of_a_lost_run_is_not_told() -> None:
    one = merger(Own("a", "b"))
    hear(one, 0, [start("a")])
    hear(one, 1, story("b")[:3])
    one.again("b", 0.0)
    assert hear(one, 0, story("a")[1:]) == story("a")[1:]
    assert hear(one, 1, story("b")) == story("b")


def test_a_first_that_is_taken_back_lets_the_second_go_on() -> None:
    one = merger(Own("a", "b"))
    hear(one, 0, [start("a")])
    hear(one, 1, story("b"))
    assert one.end("a", (), 0.0, audible=True) == story("b")


def test_a_node_without_a_prompt_is_that_of_what_runs() -> None:
    own = Own("a")
    one = merger(own)
    named = message("executing", node="7")
    assert hear(one, 0, [named]) == []
    own.running[0] = "a"
    [out] = hear(one, 0, [named])
    assert json.loads(out.payload) == {"type": "executing", "data": {"node": "7", "prompt_id": "a"}}
    assert hear(one, 0, [picture()]) == [picture()]


def test_a_new_socket_is_told_how_far_it_all_is() -> None:
    one = merger(Own("a", "b"))
    state = message("progress_state", prompt_id="a", nodes={})
    hear(one, 0, [start("a"), executing("a", "1"), progress("a"), state, executing("a", "2")])
    hear(one, 1, [start("b"), executing("b")])
    assert sorted(map(repr, one.recall())) == sorted(map(repr, [executing("a", "2"), state]))


def test_a_new_socket_is_told_ends_until_they_are_confirmed() -> None:
    one = merger(Own("a", "b"))
    hear(one, 0, story("a"))
    hear(one, 0, story("b"))
    assert one.recall() == [success("a"), idle("a"), success("b"), idle("b")]
    one.confirm(1)
    assert one.recall() == [success("b"), idle("b")]
    assert one.untold() == [("b", (success("b"), idle("b")))]
    one.confirm(2**64)
    assert one.recall() == [] and not one.unsure


def test_missed_ends_are_told_once_more() -> None:
    one = merger(Own())
    one.miss([("a", ENDING)])
    assert one.unsure and one.recall() == list(ENDING)
    assert one.end("a", ENDING, 0.0, audible=False) == []


def test_ends_that_nobody_confirms_are_bounded() -> None:
    one = merger(Own(*map(str, range(1000))))
    for n in range(1000):
        hear(one, 0, story(str(n)))
    assert len(one.recall()) == 2 * 64
    big = message("execution_error", prompt_id="x", exception_message="x" * 2**20)
    another = merger(Own("x"))
    for _ in range(3):
        another.miss([("x", (big, idle("x")))])
    assert len(another.recall()) == 2


def test_what_waits_behind_a_long_prompt_is_bounded() -> None:
    one = merger(Own("long", *map(str, range(600))))
    hear(one, 0, [start("long")])
    out: Counter[str] = Counter()
    for n in range(600):
        for each in hear(one, 1, story(str(n))):
            out[json.loads(each.payload)["data"]["prompt_id"]] += 1
    assert len(out) > 256
    assert set(out.values()) == {5}
    rest = hear(one, 0, story("long")[1:])
    told = Counter(json.loads(each.payload)["data"]["prompt_id"] for each in rest)
    assert out + told == Counter({"long": 4, **{str(n): 5 for n in range(600)}})


def test_a_shelf_drops_what_is_missed_least_and_never_an_end() -> None:
    one = Merger(Own("a", "b"), Shelf(bound=20_000, results_bound=1_000_000))
    hear(one, 0, [start("a")])
    big = message("custom", prompt_id="b", text="x" * 2_000)
    result = picture(PNG, b"y" * 30_000)
    hear(one, 1, [start("b"), *[progress("b", n) for n in range(20)], result])
    for _ in range(50):
        hear(one, 1, [big])
    hear(one, 1, [success("b"), idle("b")])
    told = hear(one, 0, [success("a"), idle("a")])[2:]
    assert told[0] == start("b") and told[-2:] == [success("b"), idle("b")]
    assert result in told
    assert 0 < told.count(big) < 10
    assert progress("b", 3) not in told


class World:
    """Some GPUs run a client's prompts, and fail; everything happens in any order."""

    def __init__(self, seed: int, several: bool) -> None:
        self.chance = random.Random(seed)
        self.several = several
        self.waiting = [f"p{n}" for n in range(12)]
        self.own = Own(*self.waiting)
        self.merger = merger(self.own, several)
        self.now = 0.0
        self.out: list[Message] = []
        self.lines: dict[int, list[Message]] = {n: [] for n in range(4)}  # what a GPU has yet to say
        self.over: list[tuple[str, int]] = []  # ended, and the ledger has yet to learn it
        self.readable: set[str] = set()
        self.runs = Counter[str]()

    def begin(self, gpu_id: int) -> None:
        if not self.lines[gpu_id] and self.waiting and gpu_id not in self.own.running:
            prompt_id = self.waiting.pop(0)
            self.runs[prompt_id] += 1
            self.own.running[gpu_id] = prompt_id
            between = [progress(prompt_id, n) for n in range(self.chance.randrange(4))]
            self.lines[gpu_id] = story(prompt_id, *between)

    def speak(self, gpu_id: int) -> None:
        if not self.lines[gpu_id]:
            return
        said = self.lines[gpu_id].pop(0)
        prompt_id = self.own.running[gpu_id]
        if not self.lines[gpu_id]:
            self.readable.add(prompt_id)
            del self.own.running[gpu_id]
            self.over.append((prompt_id, gpu_id))
        if self.chance.random() < 0.9:  # else the connection was just lost
            self.out += self.merger.hear(gpu_id, said, self.now)

    def learn(self) -> None:
        if self.over:
            prompt_id, _ = self.over.pop(self.chance.randrange(len(self.over)))
            self.own.prompts.discard(prompt_id)
            ending = (success(prompt_id), idle(prompt_id))
            self.out += self.merger.end(prompt_id, ending, self.now, audible=self.chance.random() < 0.5)

    def die(self, gpu_id: int) -> None:
        self.out += self.merger.lose(gpu_id, self.now)
        prompt_id = self.own.running.pop(gpu_id, None)
        self.lines[gpu_id] = []
        if prompt_id is not None:
            self.waiting.insert(0, prompt_id)
            self.out += self.merger.again(prompt_id, self.now)

    def step(self) -> None:
        gpu_id = self.chance.randrange(4)
        what = self.chance.random()
        if what < 0.2:
            self.begin(gpu_id)
        elif what < 0.8:
            self.speak(gpu_id)
        elif what < 0.9:
            self.learn()
        elif what < 0.93:
            self.die(gpu_id)
        else:
            self.now += self.chance.random()
            if self.merger.due is not None and self.merger.due <= self.now:
                self.out += self.merger.wake(self.now)

    @property
    def done(self) -> bool:
        return not (self.waiting or self.own.running or self.over)


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("seed", range(150))
def test_whatever_happens_every_prompt_ends_once_and_in_order(seed: int, several: bool) -> None:
    world = World(seed, several)
    for _ in range(20_000):
        world.step()
        if world.done:
            break
    assert world.done
    for _ in range(10):
        world.now += 5.0
        world.out += world.merger.wake(world.now)
    told = [(one["type"], one["data"]) for one in (json.loads(each.payload) for each in world.out)]
    by_prompt: dict[str, list[str]] = {}
    for kind, data in told:
        by_prompt.setdefault(data["prompt_id"], []).append("idle" if data.get("node", "") is None else kind)
    assert by_prompt.keys() == world.runs.keys()
    for prompt_id, kinds in by_prompt.items():
        assert kinds.count("idle") == 1 and kinds[-1] == "idle", (prompt_id, kinds)
        assert kinds.count("execution_success") == 1
        assert kinds[-2] == "execution_success"
        assert kinds.count("execution_start") <= world.runs[prompt_id]
    if not several and set(world.runs.values()) == {1}:  # no two stories are mixed
        order = [data["prompt_id"] for _, data in told]
        assert len([n for n in range(1, len(order)) if order[n] != order[n - 1]]) == len(by_prompt) - 1
    assert world.merger.due is None and not world.merger.waits(())
