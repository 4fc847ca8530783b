"""Answers that break, seen from the socket."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from tests.process.test_simulator import LIMIT, Started, run, simulator, work


def raw(comfyui: Started, method: str, target: str, body: bytes = b"") -> bytes:
    """Everything that comes back until the connection ends."""
    name, _, port = comfyui.host.partition(":")
    with socket.create_connection((name, int(port)), timeout=LIMIT) as connection:
        head = f"{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        received = b""
        while piece := connection.recv(65536):
            received += piece
        return received


def submit(comfyui: Started, prompt_id: str) -> bytes:
    return raw(comfyui, "POST", "/prompt", json.dumps({"prompt": work(), "prompt_id": prompt_id}).encode())


FRAGMENTS = {"garbage": b"not HTTP", "half_head": b"HTTP/1.1 200 OK", "short_body": b"Content-Length: 1000"}


@pytest.mark.parametrize("kind", ["queue_500", *FRAGMENTS])
def test_a_prompt_is_queued_or_not_whatever_is_answered(tmp_path: Path, kind: str) -> None:
    options = [f"--sim-prompt-fault={kind}:2", f"--sim-prompt-fault={kind}_before:3"]
    with simulator(tmp_path, *options) as comfyui:
        assert submit(comfyui, "first").startswith(b"HTTP/1.1 200")
        for prompt_id in ("second", "third"):
            answer = submit(comfyui, prompt_id)
            if kind == "queue_500":
                assert answer.startswith(b"HTTP/1.1 500")
            else:
                assert FRAGMENTS[kind] in answer
                assert len(answer) < 200
        assert submit(comfyui, "fourth").startswith(b"HTTP/1.1 200")
        for prompt_id in ("first", "second", "fourth"):
            comfyui.wait(prompt_id)
        assert sorted(comfyui.get("/history").json) == ["first", "fourth", "second"]


@pytest.mark.parametrize("kind", ["die", "die_before"])
def test_it_dies_in_place_of_an_answer_once_for_all_its_lives(tmp_path: Path, kind: str) -> None:
    option = f"--sim-prompt-fault={kind}"
    with simulator(tmp_path, option) as comfyui:
        assert submit(comfyui, "first") == b""
        assert comfyui.ended() == 1
    with simulator(tmp_path, option) as comfyui:
        assert submit(comfyui, "first").startswith(b"HTTP/1.1 200")


def test_it_stays_silent_to_one_and_answers_the_others(tmp_path: Path) -> None:
    with simulator(tmp_path, "--sim-prompt-fault=silent") as comfyui:
        name, _, port = comfyui.host.partition(":")
        body = json.dumps({"prompt": work(), "prompt_id": "first"}).encode()
        with socket.create_connection((name, int(port)), timeout=0.3) as connection:
            connection.sendall(b"POST /prompt HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
            with pytest.raises(TimeoutError):
                connection.recv(1)
            comfyui.wait("first")


@pytest.mark.parametrize("target", ["/queue", "/history", "/history/first", "/api/queue"])
def test_looks_break_too_and_nothing_else_does(tmp_path: Path, target: str) -> None:
    with simulator(tmp_path, "--sim-look-fault=half_head:*2") as comfyui:
        assert submit(comfyui, "first").startswith(b"HTTP/1.1 200")
        found = [raw(comfyui, "GET", target) for _ in range(4)]
        assert [b"\r\n\r\n" in answer for answer in found] == [True, False, True, False]
        assert comfyui.post("/queue", {"clear": True}).status == 200


def test_an_unknown_kind_is_refused_with_those_that_are_known() -> None:
    told = run("--sim-prompt-fault", "explode")
    assert told.returncode == 2
    assert "short_body" in told.stderr
