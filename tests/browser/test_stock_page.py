"""ComfyUI's own web page on the hub: two real ComfyUIs on this machine's processor, and a real browser."""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import orjson
import pytest
from PIL import Image

from tests.browser.stock_page import Prompt, StockPage
from tests.browser.window import Window
from tests.contract.conftest import real_python
from tests.contract.sample_prompts import node
from tests.gateway import Gateway, eventually, request, running

pytestmark = pytest.mark.skipif(
    not os.environ.get("COMFYUI_HOME"), reason="COMFYUI_HOME names no ComfyUI: the page is its own"
)


@pytest.fixture(scope="module")
def gateway(programs: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Two GPUs and the hub, whose limits have the page wait instead of refusing what it asks."""
    folder = tmp_path_factory.mktemp("stock")
    for name in ("input", "output", "user"):
        (folder / name).mkdir()
    config = (
        f"comfyui = {os.environ['COMFYUI_HOME']}\npython = {real_python()}\ndevices = cpu*2\n"
        f"input_dir = {folder / 'input'}\noutput_dir = {folder / 'output'}\n"
        f"max_wait = 5\narguments = --disable-api-nodes --user-directory {folder / 'user'}\n"
    )
    with running(folder, config, gpus=2) as one:
        # Else a tour covers the page when it is opened for the first time.
        answer = request(one.hub, "POST", "/settings", {"Comfy.TutorialCompleted": True})
        assert answer.status == 200
        yield one


@pytest.fixture
def page(window: Window, gateway: Gateway) -> Iterator[StockPage]:
    """The page on the hub, with nothing to do."""
    window.look(1440, height=900)
    page = StockPage(window)
    page.open(gateway.hub)
    yield page
    request(gateway.hub, "POST", "/queue", {"clear": True})
    request(gateway.hub, "POST", "/interrupt")
    eventually(lambda: all(not queue["running_count"] + queue["pending_count"] for queue in gateway.queues()))
    request(gateway.hub, "POST", "/history", {"clear": True})


_colors = (number * 0x5A3C77 & 0xFFFFFF for number in itertools.count(1))


def colored(size: int = 64) -> Prompt:
    """An EmptyImage whose colour no other has, and that looks unlike the others before it."""
    return node("EmptyImage", width=size, height=size, batch_size=1, color=next(_colors))


def saved(blurs: int = 1) -> Prompt:
    """One picture, saved; each blur takes a twelfth of a second or more."""
    prompt: Prompt = {"1": colored(512)}
    for number in range(blurs):
        before = str(9 + number) if number else "1"
        prompt[str(10 + number)] = node("ImageBlur", image=[before, 0], blur_radius=31, sigma=10.0)
    prompt["2"] = node("SaveImage", images=[str(9 + blurs), 0], filename_prefix="stock")
    return prompt


def color_of(gateway: Gateway, image: dict[str, str]) -> int:
    """The colour that a file's prompt asks for, which its pixels have, too."""
    answer = request(gateway.hub, "GET", "/view?" + urlencode(image))
    assert answer.status == 200, answer.body
    with Image.open(io.BytesIO(answer.body)) as picture:
        color: int = orjson.loads(picture.info["prompt"])["1"]["inputs"]["color"]
        pixel = picture.convert("RGB").getpixel((5, 5))
    assert all(abs(have - want) <= 2 for have, want in zip(pixel, color.to_bytes(3), strict=True))
    return color


def history_of(gateway: Gateway) -> dict[str, Any]:
    """The hub's history, once the page leaves something of the port's rate."""
    answer = eventually(lambda: (got := request(gateway.hub, "GET", "/history")).status == 200 and got, every=0.5)
    entries: dict[str, Any] = answer.json()
    return entries


def asked(prompt: Prompt) -> int:
    """The colour that a prompt asks for."""
    color: int = prompt["1"]["inputs"]["color"]
    return color


def backend_port(gateway: Gateway) -> int:
    """Where the first GPU's ComfyUI itself listens."""
    words = Path(f"/proc/{gateway.backend_pid(0)}/cmdline").read_bytes().split(b"\0")
    return int(words[words.index(b"--port") + 1])


def refused(page: StockPage) -> set[tuple[int, str]]:
    """What it asked for and did not get; a fresh ComfyUI lacks a few files."""
    answers = page.window.answers()
    assert len(answers) > 100
    return {(status, urlsplit(url).path) for status, url in answers if status >= 400}


def test_it_loads_as_from_comfyui_itself(page: StockPage, gateway: Gateway, screenshots: Path) -> None:
    on_the_hub = refused(page)
    classes = page.window.run("return Object.keys(LiteGraph.registered_node_types).sort()")
    assert "ComfyUI" in page.window.driver.title
    page.window.picture(screenshots / "stock-loaded.png")
    page.open(backend_port(gateway))
    assert refused(page) == on_the_hub
    assert page.window.run("return Object.keys(LiteGraph.registered_node_types).sort()") == classes


def test_a_workflow_runs_and_its_picture_is_shown(page: StockPage, gateway: Gateway, screenshots: Path) -> None:
    prompt = saved(blurs=12)
    page.load(prompt)
    page.show("queue")
    page.queue()
    eventually(lambda: page.running() is not None, seconds=20)
    eventually(lambda: any("Running" in task for task in page.tasks()), seconds=20)
    assert page.badge() == "1"
    page.window.picture(screenshots / "stock-running.png")
    eventually(lambda: page.shown(2) == 1)
    (image,) = page.saved(2)
    assert color_of(gateway, image) == asked(prompt)
    eventually(lambda: len(page.pictures()) == 1, seconds=20)
    (task,) = page.tasks()
    assert task.endswith("s")  # the seconds that it took
    eventually(lambda: page.badge() == "", seconds=10)
    assert page.running() is None
    page.window.picture(screenshots / "stock-done.png")


def test_six_prompts_run_on_both_gpus(page: StockPage, gateway: Gateway, screenshots: Path) -> None:
    page.window.look(1440, height=1600)  # the panel holds only as many as can be seen
    page.show("queue")
    colors = []
    for _ in range(6):
        prompt = saved(blurs=6)
        colors.append(asked(prompt))
        page.load(prompt)
        page.queue()
    eventually(lambda: len(page.tasks()) == 6, seconds=20)
    page.window.picture(screenshots / "stock-queue.png")
    eventually(lambda: len(page.pictures()) == 6, seconds=90)
    history = history_of(gateway)
    images = [entry["outputs"]["2"]["images"][0] for entry in history.values()]
    assert sorted(color_of(gateway, image) for image in images) == sorted(colors)
    assert len(page.told("execution_success")) == 6
    page.window.picture(screenshots / "stock-history.png")


def test_many_quick_prompts_leave_nothing_out(page: StockPage, gateway: Gateway) -> None:
    """It asks for queue and history with every status: four times as often as the rate allows, here."""
    page.window.look(1440, height=1600)
    page.show("queue")
    page.window.answers()
    for _ in range(6):
        page.load({"1": colored(), "2": node("SaveImage", images=["1", 0], filename_prefix="quick")})
        page.queue()
    eventually(lambda: len(page.told("execution_success")) == 6, seconds=30)
    eventually(lambda: page.badge() == "" and len(page.pictures()) == 6, seconds=30)
    assert {status for status, _ in page.window.answers()} == {200}


def test_pictures_on_the_way_are_shown(page: StockPage) -> None:
    prompt = saved()
    prompt["3"] = node("SaveImageWebsocket", images=["10", 0])
    page.load(prompt)
    page.queue()
    eventually(lambda: page.told("b_preview_with_metadata"), seconds=20)
    assert page.told("b_preview_with_metadata")[0]["nodeId"] == "3"


def test_what_runs_is_cancelled_and_what_waits_is_forgotten(page: StockPage, screenshots: Path) -> None:
    page.show("queue")
    for _ in range(4):
        page.load(saved(blurs=100))
        page.queue()
    eventually(lambda: page.badge() == "4", seconds=20)
    page.clear_pending()
    eventually(lambda: page.badge() == "2", seconds=20)
    for ended, left in enumerate(("1", "")):
        # The button stops what the page takes for running: for a moment, that may still be the one before.
        eventually(lambda ended=ended: len(page.told("execution_interrupted")) == ended, seconds=20)
        eventually(lambda ended=ended: len(page.told("execution_start")) > ended, seconds=20)
        eventually(lambda: page.running() is not None, seconds=20)
        page.interrupt()
        eventually(lambda left=left: page.badge() == left, seconds=20)
    eventually(lambda: page.tasks() and all("Cancelled" in task for task in page.tasks()), seconds=20)
    assert page.running() is None
    page.window.picture(screenshots / "stock-cancelled.png")


def test_an_uploaded_picture_is_there_for_every_gpu(page: StockPage, gateway: Gateway) -> None:
    content = io.BytesIO()
    Image.new("RGB", (40, 30), (10, 200, 90)).save(content, "PNG")
    for number in range(4):
        name = f"upload-{number}.png"
        page.load(
            {"1": node("LoadImage", image="example.png"), "2": node("SaveImage", images=["1", 0], filename_prefix="up")}
        )
        assert page.upload(1, content.getvalue(), name) == name
        page.queue()
    eventually(lambda: len(page.told("execution_success")) == 4, seconds=30)
    history = history_of(gateway)
    assert len(history) == 4
    for entry in history.values():
        answer = request(gateway.hub, "GET", "/view?" + urlencode(entry["outputs"]["2"]["images"][0]))
        with Image.open(io.BytesIO(answer.body)) as picture:
            assert picture.size == (40, 30)
            assert picture.getpixel((20, 15)) == (10, 200, 90)


def test_a_saved_workflow_is_there_on_every_port(page: StockPage, gateway: Gateway, screenshots: Path) -> None:
    prompt = saved()
    page.load(prompt)
    page.save("kept by a test")
    eventually(lambda: "kept by a test" in page.window.driver.title, seconds=20)
    for port in (*gateway.ports, gateway.hub):
        page.open(port)
        page.show("workflows")
        eventually(lambda: "kept by a test" in page.window.text(".workflows-sidebar-tab"), seconds=20)
    page.window.picture(screenshots / "stock-workflows.png")
    files = request(gateway.hub, "GET", "/userdata?dir=workflows").json()
    assert files == ["kept by a test.json"]


def test_two_tabs_at_once(page: StockPage, gateway: Gateway, screenshots: Path) -> None:
    driver = page.window.driver
    first = driver.current_window_handle
    driver.switch_to.new_window("tab")
    second = driver.current_window_handle
    try:
        page.window.look(1440, height=900)
        page.open(gateway.hub)
        prompts = {first: saved(blurs=12), second: saved(blurs=12)}
        clients = {}
        for tab, prompt in prompts.items():
            driver.switch_to.window(tab)
            clients[tab] = page.client_id()
            page.load(prompt)
        for tab in prompts:
            driver.switch_to.window(tab)
            page.queue()
        assert clients[first] != clients[second]
        for tab, prompt in prompts.items():
            driver.switch_to.window(tab)
            eventually(lambda: page.shown(2) == 1, seconds=60)
            (image,) = page.saved(2)
            assert color_of(gateway, image) == asked(prompt)
            eventually(lambda: len(page.told("execution_success")) == 1, seconds=10)  # behind the picture, by up to 2 s
            page.window.picture(screenshots / f"stock-tab-{1 + list(prompts).index(tab)}.png")
    finally:
        driver.switch_to.window(second)
        driver.close()
        driver.switch_to.window(first)
