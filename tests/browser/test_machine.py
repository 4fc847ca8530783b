"""The page of a whole daemon with simulated GPUs, in a real browser."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium.webdriver.common.by import By

from comfygate.control.assets import FOLDER
from tests.browser.window import Window
from tests.gateway import Gateway, eventually, request, running, workflow

QUICK = "rate = 0\n"
FAILING = QUICK + "\n[gpu:3]\narguments = --sim-fail-start -1\n"


@pytest.fixture(scope="module")
def shared(programs: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Four GPUs and the hub, without a limit."""
    with running(tmp_path_factory.mktemp("gateway"), QUICK) as one:
        yield one


@pytest.fixture(scope="module", autouse=True)
def failing(shared: Gateway, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Four GPUs, one of which never starts; it takes 15 s to be given up, while other tests run."""
    with running(tmp_path_factory.mktemp("failing"), FAILING, ready=False) as one:
        one.wait_ready(0, 1, 2)
        yield one


@pytest.fixture
def gateway(shared: Gateway) -> Iterator[Gateway]:
    """The same, with nothing to do."""
    yield shared
    stop_everything(shared)


def stop_everything(gateway: Gateway) -> None:
    request(gateway.hub, "POST", "/queue", {"clear": True})
    request(gateway.hub, "POST", "/interrupt")
    eventually(lambda: all(not queue["running_count"] + queue["pending_count"] for queue in gateway.queues()))


def submit(port: int, seconds: float, count: int = 1) -> None:
    for _ in range(count):
        assert request(port, "POST", "/prompt", {"prompt": workflow(seconds), "client_id": "page"}).status == 200


@pytest.fixture
def page(window: Window, gateway: Gateway) -> Window:
    """The hub's page."""
    return opened(window, gateway.hub, gpus=4)


def opened(window: Window, port: int, gpus: int) -> Window:
    window.open(f"http://127.0.0.1:{port}/comfygate/")
    eventually(lambda: len(window.looks()) == gpus, seconds=20)
    return window


def pictured(window: Window, screenshots: Path, name: str) -> None:
    """Save how it looks on a desk and on a phone in the dark."""
    window.picture(screenshots / f"{name}-light.png")
    window.look(360, height=740, dark=True, scale=2)
    assert window.overflow() == 0
    window.picture(screenshots / f"{name}-phone-dark.png")
    window.look(1280)


def test_idle_busy_and_full_as_it_happens(page: Window, gateway: Gateway, screenshots: Path) -> None:
    page.wait_for(["idle"] * 4)
    assert page.text("h1") == "All 4 GPUs ready"
    assert page.texts(".gpu .counts") == ["Running 0 Pending 0"] * 4
    pictured(page, screenshots, "idle")
    page.run("window.loadedOnce = true")

    for port in gateway.ports:
        submit(port, 30)
    page.wait_for(["busy"] * 4)
    assert page.driver.title == "4/4 · 4 running, 0 pending – ComfyGate"
    eventually(lambda: page.texts(".job .what") == ["SimulatedWork"] * 4, seconds=10)
    before = page.texts(".job")
    eventually(lambda: page.texts(".job") != before, seconds=10)
    assert all("1 of 3 nodes" in text for text in page.texts(".job"))
    pictured(page, screenshots, "busy")

    for port in gateway.ports:
        submit(port, 30, count=3)
    page.wait_for(["full"] * 4)
    eventually(lambda: page.driver.title == "4/4 · 4 running, 12 pending – ComfyGate", seconds=10)
    assert page.texts(".gpu .counts") == ["Running 1 Pending 3"] * 4
    pictured(page, screenshots, "full")

    stop_everything(gateway)
    page.wait_for(["idle"] * 4)
    assert page.run("return window.loadedOnce")
    assert page.overflow() == 0
    assert not page.complaints()
    asked = page.requested()
    assert {address.split("/comfygate/")[0] for address in asked} == {f"http://127.0.0.1:{gateway.hub}"}


def test_each_link_leads_to_its_port(page: Window, gateway: Gateway) -> None:
    links = page.driver.find_elements(By.CSS_SELECTOR, ".gpu .port")
    assert [link.get_attribute("href") for link in links] == [f"http://127.0.0.1:{port}/" for port in gateway.ports]
    links[2].click()
    eventually(lambda: page.driver.title == "Simulated ComfyUI", seconds=10)
    assert page.driver.current_url == f"http://127.0.0.1:{gateway.ports[2]}/"


def test_links_are_on_the_name_by_which_the_page_was_reached(window: Window, gateway: Gateway) -> None:
    window.open(f"http://localhost:{gateway.ports[0]}/comfygate")
    window.wait_for(["idle"] * 4)
    assert window.driver.current_url == f"http://localhost:{gateway.ports[0]}/comfygate/"
    assert window.find(".gpu .port").get_attribute("href") == f"http://localhost:{gateway.ports[0]}/"


def test_the_ports_are_listed(page: Window, gateway: Gateway) -> None:
    eventually(lambda: len(page.texts("#gates tr")) == 5, seconds=10)
    assert page.texts("#gates tr")[0].startswith(f":{gateway.hub} hub GPU 0–3")
    page.find("#to-status").click()
    eventually(lambda: '"gpus"' in page.text("body"), seconds=10)


def test_a_killed_gpu_is_seen_to_go_and_to_come_back(page: Window, gateway: Gateway) -> None:
    os.kill(gateway.backend_pid(1), signal.SIGKILL)
    eventually(lambda: page.looks()[1] in ("down", "starting"), seconds=20)
    assert [page.looks()[n] for n in (0, 2, 3)] == ["idle"] * 3
    page.wait_for(["idle"] * 4)
    assert "Restarts 1" in page.texts(".gpu .facts")[1]
    assert page.texts("#errors li")


def test_from_a_file_that_the_gate_does_not_allow(window: Window, gateway: Gateway) -> None:
    window.open(f"{(FOLDER / 'index.html').as_uri()}?hub=http://127.0.0.1:{gateway.hub}")
    eventually(lambda: window.text("#lost-hint").endswith("cors_origins of the gate must allow null."), seconds=10)


def test_from_a_file_where_the_gate_allows_it(window: Window, tmp_path: Path) -> None:
    with running(tmp_path, "cors_origins = null\n", gpus=2) as gateway:
        window.open(f"{(FOLDER / 'index.html').as_uri()}?hub=http://127.0.0.1:{gateway.hub}")
        window.wait_for(["idle", "idle"])
        assert window.find(".gpu .port").get_attribute("href") == f"http://127.0.0.1:{gateway.ports[0]}/"


def test_one_that_fails_and_a_gate_that_is_stopped(window: Window, failing: Gateway, screenshots: Path) -> None:
    page = opened(window, failing.hub, gpus=4)
    page.wait_for(["idle", "idle", "idle", "failed"])
    assert page.driver.title.startswith("3/4 · ")
    assert "Given up: a person has to look at it." in page.texts(".gpu .hint")[3]
    assert page.texts(".gpu .error")
    submit(failing.ports[0], 30)
    submit(failing.ports[1], 30, count=9)
    page.wait_for(["busy", "full", "idle", "failed"])
    pictured(page, screenshots, "failed")
    page.find("#language").click()
    page.picture(screenshots / "failed-chinese.png")
    page.find("#language").click()
    assert not page.complaints()

    failing.stop()
    eventually(lambda: page.text("#lost-title") == "No connection to the gate", seconds=10)
    assert page.driver.title == "No connection – ComfyGate"
    page.picture(screenshots / "stopped-light.png")
    failing.start()
    eventually(lambda: page.text("#link") == "Live", seconds=30)
    # What ran and waited is kept, and goes on where it was.
    eventually(lambda: page.looks()[:3] == ["busy", "full", "idle"], seconds=30)
    assert not page.text("#lost")
