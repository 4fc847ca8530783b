"""How the configuration wants a backend to run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from twisted.internet.task import Clock

from comfygate.backend.managed import ManagedBackend
from comfygate.backend.remote import RemoteBackend
from comfygate.setups import make_backends, make_setup
from tests.unit.test_changes import BASE, plan


def test_arguments_are_those_of_all_and_then_its_own() -> None:
    found = plan(BASE + "arguments = --a\nhang_timeout = 7\n[gpu:1]\narguments = --b\nname = the other\n")
    assert make_setup(found, 0).arguments == ("--a",)
    setup = make_setup(found, 1)
    assert setup.arguments == ("--a", "--b")
    assert (setup.device.name, setup.device.label) == ("the other", "cpu")
    assert setup.folders.own == Path("/s/gpu-1")
    assert setup.hang_timeout == 7


def test_someone_elses_are_only_watched() -> None:
    reactor: Any = Clock()
    options: Any = None
    ours, others = make_backends(reactor, plan(BASE.replace("cpu*3", "cpu*1") + "[gpu:1]\nurl = http://h:1\n"), options)
    assert isinstance(ours, ManagedBackend)
    assert isinstance(others, RemoteBackend)
    assert others.name == "http://h:1"


def test_limits_and_names_hold_at_once_and_the_rest_from_the_next_start_on() -> None:
    reactor: Any = Clock()
    options: Any = None
    (backend,) = make_backends(reactor, plan(BASE.replace("cpu*3", "cpu*1")), options)
    assert isinstance(backend, ManagedBackend)
    later = plan(BASE.replace("cpu*3", "cpu*1") + "stop_grace = 60\nstart_timeout = 7\n[gpu:0]\nname = the one\n")
    backend.reconfigure(make_setup(later, 0))
    assert backend.name == "the one"
    assert backend._record.stop_grace == 60
    assert backend._record.start_timeout == 600
