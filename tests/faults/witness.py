"""A client that writes down what it was promised, and looks afterwards what became of it."""

from __future__ import annotations

import http.client
import sqlite3
import threading
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson
from attrs import evolve
from PIL import Image

from tests.faults.verdict import Answer, Entry, Evidence, Sent, Verdict, judge
from tests.faults.watch import Watch, merged
from tests.gateway import PATIENCE, Gateway, Response, eventually, request, running, workflow

FOREVER = 600.0
"""Seconds that a prompt takes that is not meant to end by itself."""

UNCLEAR = (500, 502)
"""Answers to POST /prompt after which the prompt may be queued all the same."""


class Witness:
    """Sends prompts to one daemon, and judges in the end; any thread may send.

    :ivar watches: a WebSocket on each port; the events of a prompt come on that to which it was sent.
    """

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.sent: dict[str, Sent] = {}
        self.histories: dict[str, Mapping[str, Any]] = {}
        self.removed: set[str] = set()
        self.client_id = f"witness-{uuid.uuid4().hex[:8]}"
        self.watches = [Watch(port, self.client_id) for port in gateway.ports]
        self.watches.append(Watch(gateway.hub, self.client_id, several=True))
        self._lock = threading.Lock()

    def close(self) -> None:
        """Hang up."""
        for watch in self.watches:
            watch.close()

    # While things happen.

    def submit(self, port: int, prompt: dict[str, Any] | None = None, headers: Any = None, **more: Any) -> Sent:
        """Send a prompt with an id of its own, and note what came of it.

        :param more: further fields of the body.
        """
        prompt_id = str(uuid.uuid4())
        prompt = prompt or workflow()
        # The prompt stands in the file that it makes, and so does its id.
        next(iter(prompt.values()))["_meta"] = {"title": prompt_id}
        body = {"prompt": prompt, "prompt_id": prompt_id, "client_id": self.client_id, **more}
        sent = self._answered(prompt_id, port, self._ask(port, body, headers))
        with self._lock:
            self.sent[prompt_id] = sent
        return sent

    def accepted(self, port: int, seconds: float = 0.0, headers: Any = None, **work: Any) -> str:
        """Send a prompt that takes so long until one is accepted; the id of that one."""

        def once() -> Sent | None:
            sent = self.submit(port, workflow(seconds, **work), headers)
            return sent if sent.answer is Answer.ACCEPTED else None

        found: Sent = eventually(once, every=0.1)
        return found.prompt_id

    def _ask(self, port: int, body: dict[str, Any], headers: Any) -> Response | Exception:
        try:
            return request(port, "POST", "/prompt", body, headers)
        except (OSError, http.client.HTTPException) as error:
            return error

    @staticmethod
    def _answered(prompt_id: str, port: int, answer: Response | Exception) -> Sent:
        if isinstance(answer, ConnectionRefusedError):
            return Sent(prompt_id, port, Answer.REFUSED, said="nobody listens")
        if isinstance(answer, Exception):
            return Sent(prompt_id, port, Answer.UNANSWERED, said=repr(answer))
        if answer.status == 200:
            told = answer.json()
            assert told["prompt_id"] == prompt_id, told
            return Sent(prompt_id, port, Answer.ACCEPTED, told["gpu_id"])
        kind = Answer.UNANSWERED if answer.status in UNCLEAR else Answer.REFUSED
        return Sent(prompt_id, port, kind, said=f"{answer.status} {answer.body[:200]!r}")

    def interrupt(self, prompt_id: str) -> str:
        """Stop a prompt, and say where it was found."""
        answer = request(self.gateway.hub, "POST", "/interrupt", {"prompt_id": prompt_id})
        assert answer.status == 200, answer
        state = str(answer.json()["state"])
        if state == "pending":
            self.removed.add(prompt_id)
        return state

    def end_second_run(self, *prompt_ids: str) -> None:
        """Wait until these prompts have begun a second time, and interrupt them."""
        eventually(lambda: all(self.begun(prompt_id) == 2 for prompt_id in prompt_ids))
        for prompt_id in prompt_ids:
            assert self.interrupt(prompt_id) == "running"

    def of(self, *answers: Answer) -> list[Sent]:
        """The prompts that got such an answer."""
        with self._lock:
            return [sent for sent in self.sent.values() if sent.answer in answers]

    def begun(self, prompt_id: str) -> int:
        """How often a prompt began, as far as its client was told."""
        return sum(watch.events[prompt_id]["execution_start"] for watch in self.watches)

    @property
    def events(self) -> dict[str, Counter[str]]:
        """How often each event of a prompt happened, as far as the client was told."""
        return merged(self.watches)

    # Afterwards.

    def collect(self) -> list[str]:
        """Look for the ends of all prompts that may have one; the accepted ones that have none yet."""
        missing = []
        for sent in self.of(Answer.ACCEPTED, Answer.UNANSWERED):
            if sent.prompt_id in self.histories or sent.prompt_id in self.removed:
                continue
            entry = self.history(sent.prompt_id, sent.port)
            if entry is not None:
                self.histories[sent.prompt_id] = entry
            elif sent.answer is Answer.ACCEPTED:
                missing.append(sent.prompt_id)
        return missing

    def skim(self, newest: int) -> None:
        """Look for ends among the newest of each GPU's history, which costs less than to ask for each."""
        for port in self.gateway.ports:
            answer = request(port, "GET", f"/history?max_items={newest}")
            if answer.status == 200:
                self.histories.update((id, entry) for id, entry in answer.json().items() if id in self.sent)

    def history(self, prompt_id: str, port: int) -> dict[str, Any] | None:
        """A prompt's entry in GET /history/{id}, where there is one."""
        answer = request(port, "GET", f"/history/{prompt_id}")
        found: dict[str, Any] | None = answer.json().get(prompt_id) if answer.status == 200 else None
        return found

    def wait_idle(self, seconds: float = PATIENCE) -> None:
        """Wait until nothing runs or waits anywhere."""
        eventually(lambda: not self._left(), seconds, every=0.05)

    def _left(self) -> int:
        try:
            totals = self.gateway.status()["totals"]
        except (OSError, http.client.HTTPException, ValueError):
            return -1
        return int(totals["running"] + totals["pending"])

    def end(self, seconds: float = PATIENCE, most_runs: int = 2, *, journal: bool = True) -> Verdict:
        """Wait until every prompt has ended, end the daemon, and judge.

        :param seconds: how long to wait for the end of all.
        :param most_runs: how often a prompt may be begun.
        :param journal: whether the journal must still know all of them.
        """
        # Whatever is missing after that is for the judge to say.
        with suppress(AssertionError):
            self.wait_idle(seconds)
        with suppress(AssertionError):
            eventually(lambda: not self.collect(), min(seconds, 5.0), every=0.2)
        left, listed = self._left(), self._listed()
        self.close()
        self.gateway.stop()
        evidence = self._evidence(left, listed)
        return judge(evidence if journal else evolve(evidence, journal=None), most_runs)

    def check(self, seconds: float = PATIENCE, most_runs: int = 2) -> Verdict:
        """The same; fails with a report unless every accepted prompt ended exactly once."""
        verdict = self.end(seconds, most_runs)
        assert not verdict.problems, f"{verdict.report()}\n{self._log_of(verdict)}"
        return verdict

    def _evidence(self, left: int, listed: Mapping[str, list[int]]) -> Evidence:
        journal, unfinished = read_journal(self.gateway.journal)
        with self._lock:
            return Evidence(
                sent=list(self.sent.values()),
                removed=frozenset(self.removed),
                events=self.events,
                histories=self.histories,
                listed=listed,
                files=files_by_prompt(self.gateway.output),
                journal=journal,
                unfinished=unfinished,
                left=left,
            )

    def _listed(self) -> dict[str, list[int]]:
        found: defaultdict[str, list[int]] = defaultdict(list)
        for gpu_id, port in enumerate(self.gateway.ports):
            answer = request(port, "GET", "/history")
            for prompt_id in answer.json() if answer.status == 200 else ():
                found[prompt_id].append(gpu_id)
        return found

    def _log_of(self, verdict: Verdict) -> str:
        """What the daemon wrote about the prompts that have problems."""
        ids = {prompt_id for prompt_id, _ in verdict.problems if prompt_id}
        lines = self.gateway.log.read_text(errors="replace").splitlines()
        return "\n".join(line for line in lines if any(prompt_id in line for prompt_id in ids))[-20_000:]


def read_journal(path: Path) -> tuple[dict[str, list[Entry]] | None, frozenset[str]]:
    """Read what the journal holds, without writing to it.

    :return: the finished prompts and the ids of the others; ``None`` for the
        former if there is no journal.
    """
    if not path.exists():
        return None, frozenset()
    entries: defaultdict[str, list[Entry]] = defaultdict(list)
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as journal:
        for prompt_id, state, reason, attempts in journal.execute(
            "SELECT prompt_id, state, reason, attempts FROM finished"
        ):
            entries[prompt_id].append(Entry(state, reason, attempts))
        unfinished = frozenset(prompt_id for (prompt_id,) in journal.execute("SELECT prompt_id FROM jobs"))
    return dict(entries), unfinished


def files_by_prompt(folder: Path) -> dict[str, list[str]]:
    """Which prompts made the files of a folder, by what is written in them.

    :return: file names by prompt_id; those under "" no prompt of ours made.
        What its writer did not live to end is left out.
    """
    found: defaultdict[str, list[str]] = defaultdict(list)
    with ThreadPoolExecutor(4) as threads:
        paths = sorted(folder.glob("*.png"))
        for path, prompt_id in zip(paths, threads.map(_prompt_of, paths), strict=True):
            if prompt_id is not None:
                found[prompt_id].append(path.name)
    return dict(found)


def _prompt_of(path: Path) -> str | None:
    try:
        with Image.open(path) as image:
            image.load()
            nodes: Iterable[dict[str, Any]] = orjson.loads(getattr(image, "text", {}).get("prompt", "{}")).values()
    except (OSError, SyntaxError):  # what Pillow says of a torn file
        return None
    return next((str(node["_meta"]["title"]) for node in nodes if "_meta" in node), "")


@contextmanager
def witnessed(folder: Path, config: str = "", *, rate: float = 0, **more: Any) -> Iterator[tuple[Gateway, Witness]]:
    """Run a daemon with simulated GPUs, without a limit of requests where none is named, and a witness."""
    with running(folder, f"rate = {rate}\n{config}", **more) as gateway:
        witness = Witness(gateway)
        try:
            yield gateway, witness
        finally:
            witness.close()
