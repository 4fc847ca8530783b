"""What the page makes of every state, in a real browser over a scripted gate."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.by import By

from comfygate.control.assets import FOLDER
from tests.browser.stage import Stage, gpu, job, snapshot, staged
from tests.browser.window import Window, open_browser
from tests.gateway import eventually

ERROR = "It ended with status 1, 5 times in a row before it was ready:\nRuntimeError: No CUDA GPUs are available"
MIXED = ["busy", "full", "idle", "failed"]
EVERY = ["idle", "busy", "full", "starting", "down", "failed", "stopping", "stopped"]
HOSTILE = "<img src=x onerror=alert(1)><script>document.title='hacked'</script>"

CONTRAST = """
// The lowest contrast of any text to what lies behind it (WCAG 2.2, section 1.4.3), and whose that is.
const brush = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
const channels = (color) => {
  brush.clearRect(0, 0, 1, 1);
  brush.fillStyle = color;
  brush.fillRect(0, 0, 1, 1);
  return [...brush.getImageData(0, 0, 1, 1).data];
};
const luminance = (color) => {
  const [r, g, b] = channels(color).map((one) => one / 255).map(
    (one) => (one <= 0.04045 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const behind = (node) => {
  const color = getComputedStyle(node).backgroundColor;
  return channels(color)[3] === 255 ? color : behind(node.parentElement);
};
let lowest = [21, ""];
for (const node of document.body.querySelectorAll("*")) {
  const reads = [...node.childNodes].some((one) => one.nodeType === 3 && one.data.trim());
  if (!node.checkVisibility() || !(reads || node.matches(".gpu .icon"))) continue;
  const [a, b] = [luminance(getComputedStyle(node).color), luminance(behind(node))].sort((a, b) => b - a);
  const contrast = (a + 0.05) / (b + 0.05);
  if (contrast < lowest[0]) lowest = [contrast, `${node.parentElement.className} ${node.tagName}: ${node.textContent}`];
}
return lowest;
"""


@pytest.fixture
def stage() -> Iterator[Stage]:
    with staged(mixed()) as one:
        yield one


def mixed() -> dict[str, Any]:
    gpus = [
        gpu(0, "busy", pending_count=1),
        gpu(1, "full", job=job(node_type="VAEDecode", value=None, max=None, nodes_done=6)),
        gpu(2, "idle", memory={"used": 2**30, "total": 24 * 2**30}),
        gpu(3, "failed", last_error=ERROR, restarts=5),
    ]
    errors = [
        {"time": time.time() - 754, "gpu_id": 3, "prompt_id": None, "message": ERROR},
        {"time": time.time() - 3000, "gpu_id": 1, "prompt_id": job()["prompt_id"], "message": "OutOfMemoryError"},
    ]
    return snapshot(gpus, errors=errors, failed=1)


def crowd() -> dict[str, Any]:
    """Sixteen GPUs in every state, with everything as long as it gets."""
    gpus = [
        gpu(
            n,
            EVERY[n % len(EVERY)],
            name="A GPU with a very long name " * 6 if n % 3 else "N" * 200,
            last_error="x" * 500 if n % 2 else "It went wrong again. " * 23,
            pending_count=1_234_567,
            restarts=1_000,
        )
        for n in range(16)
    ]
    for one in gpus:
        if one["job"]:
            one["job"].update(node_type="SamplerCustomAdvanced" * 10, value=1e6 - 0.25, max=1e6, nodes_total=1000)
    errors = [{"time": time.time(), "gpu_id": 1, "prompt_id": "p" * 300, "message": "y" * 500}] * 20
    return snapshot(gpus, errors=errors)


def shown(window: Window, stage: Stage, query: str = "") -> Window:
    window.open(stage.page + query)
    eventually(window.looks, seconds=20)
    return window


def test_the_machine_in_one_look(window: Window, stage: Stage, screenshots: Path) -> None:
    shown(window, stage)
    assert window.driver.title == "3/4 · 2 running, 16 pending – ComfyGate"
    assert window.text("h1") == "3 of 4 GPUs ready"
    assert window.texts("#looks li") == ["1 Failed", "1 Full", "1 Busy", "1 Idle"]
    assert window.looks() == MIXED
    assert window.texts(".gpu h3") == ["GPU 0 Busy", "GPU 1 Full", "GPU 2 Idle", "GPU 3 Failed"]
    assert window.texts(".gpu .counts") == ["Running 1 Pending 1", "Running 1 Pending 15", *["Running 0 Pending 0"] * 2]
    assert [link.get_attribute("href") for link in window.driver.find_elements(By.CSS_SELECTOR, ".gpu .port")] == [
        f"http://127.0.0.1:{port}/" for port in range(8181, 8185)
    ]
    window.picture(screenshots / "status-page.png")
    assert not window.complaints()


def test_all_that_is_known_of_a_job(window: Window, stage: Stage) -> None:
    shown(window, stage)
    first, second = window.driver.find_elements(By.CSS_SELECTOR, ".job")[:2]
    assert "KSampler" in first.text
    assert "14 / 20" in first.text
    assert "4 of 7 nodes" in first.text
    assert "Prompt 0b9ffb0b" in first.text
    bars = first.find_elements(By.TAG_NAME, "progress")
    assert [bar.get_property("position") for bar in bars] == [pytest.approx(4 / 7), 0.7]
    assert [bar.accessible_name for bar in bars] == ["Nodes done", "Progress of the node"]
    assert "/ 20" not in second.text
    assert window.texts(".gpu:first-child .gauge") == ["Memory 12.3 / 24.0 GiB", "Utilisation 97%", "Temperature 64 °C"]


def test_durations_go_on_without_the_network(window: Window, stage: Stage) -> None:
    shown(window, stage)
    before = window.text(".job .line .value")
    assert before.startswith("1m 1")
    eventually(lambda: window.text(".job .line .value") != before, seconds=5)
    assert stage.streams == 1


def test_only_changes_of_state_are_announced(window: Window, stage: Stage) -> None:
    shown(window, stage)
    stage.say(snapshot([gpu(0, "idle"), gpu(1), gpu(2, "busy"), gpu(3, "failed")]))
    window.wait_for(["idle", "idle", "busy", "failed"])
    assert window.run("return document.getElementById('announcement').textContent") == ""
    stage.say(snapshot([gpu(0, "down"), gpu(1), gpu(2, "busy"), gpu(3, "starting")]))
    window.wait_for(["down", "idle", "busy", "starting"])
    assert window.run("return document.getElementById('announcement').textContent") == "GPU 0: Down, GPU 3: Starting"
    assert window.find("#announcement").aria_role == "status"


def test_a_change_leaves_alone_what_did_not_change(window: Window, stage: Stage) -> None:
    shown(window, stage)
    window.run("document.querySelector('.gpu .port').focus(); document.querySelector('.gpu').mark = 1")
    stage.say(snapshot([gpu(n) for n in range(4)]))
    window.wait_for(["idle"] * 4)
    assert window.run("return document.querySelector('.gpu').mark") == 1
    assert window.run("return document.activeElement.textContent") == ":8181"


def test_a_gate_that_is_lost_and_comes_back(window: Window, screenshots: Path) -> None:
    with staged(mixed()) as stage:
        shown(window, stage)
        port = stage.port
    eventually(lambda: window.text("#lost-title") == "No connection to the gate", seconds=10)
    assert window.driver.title == "No connection – ComfyGate"
    assert window.text("#link") == "Connection lost"
    assert "ago. It is tried again by itself" in window.text("#lost-since")
    assert window.looks() == MIXED
    frozen = window.text(".job .line .value")
    before = window.text("#lost-since")
    eventually(lambda: window.text("#lost-since") != before, seconds=5)
    assert window.text(".job .line .value") == frozen
    window.picture(screenshots / "lost-light.png")
    with staged(snapshot([gpu(0), gpu(1, "busy")]), port):
        window.wait_for(["idle", "busy"])
        assert window.text("#link") == "Live"
        assert not window.text("#lost")
        assert window.driver.title == "2/2 · 1 running, 0 pending – ComfyGate"
        assert window.run("return document.getElementById('announcement').textContent") == "The gate is back."


def test_a_stream_that_ends_is_opened_again(window: Window, stage: Stage) -> None:
    shown(window, stage)
    stage.hang_up()
    eventually(lambda: stage.streams == 2, seconds=10)
    eventually(lambda: window.text("#link") == "Live", seconds=5)


@pytest.mark.parametrize("dark", [False, True])
def test_every_state_is_told_by_shape_word_and_enough_contrast(window: Window, dark: bool) -> None:
    window.look(1280, dark=dark, still=True)
    with staged(snapshot([gpu(n, look, last_error=ERROR) for n, look in enumerate(EVERY)])) as stage:
        shown(window, stage)
        assert window.looks() == EVERY
        assert window.texts(".look") == [look.capitalize() for look in EVERY]
        shapes = window.run("""return [...document.querySelectorAll('.tile use')].map(
            (one) => document.querySelector(one.getAttribute('href')).getAttribute('d'))""")
        assert len(set(shapes)) == len(EVERY)
        contrast, where = window.run(CONTRAST)
        assert contrast >= 4.5, where
        assert window.run("return document.getAnimations().length") == 0


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_overflows(window: Window, width: int) -> None:
    window.look(width)
    with staged(crowd()) as stage:
        shown(window, stage)
        assert len(window.looks()) == 16
        assert window.overflow() == 0
        wider = window.run("""
            const parts = document.querySelectorAll(".gpu, .gpu > *, .panel, .panel td, h1, footer");
            return [...parts].filter(
                (one) => one.getBoundingClientRect().right > innerWidth || one.scrollWidth > one.clientWidth + 1
            ).map((one) => one.className || one.tagName)""")
        assert not wider


def test_one_gpu(window: Window, screenshots: Path) -> None:
    bare = gpu(0, name="CPU", memory=None, utilisation=None, temperature=None, process_memory=300 * 2**20)
    with staged(snapshot([bare])) as stage:
        shown(window, stage)
        assert window.text("h1") == "The GPU is ready"
        assert window.texts(".gauge") == ["Process 300 MiB"]
        assert window.text("#no-errors") == "None."


def test_names_and_errors_are_text(window: Window) -> None:
    gpus = [gpu(0, "busy", name=HOSTILE, job=job(node_type=HOSTILE)), gpu(1, "failed", last_error=HOSTILE)]
    errors = [{"time": time.time(), "gpu_id": 0, "prompt_id": HOSTILE, "message": HOSTILE}]
    with staged(snapshot(gpus, errors=errors)) as stage:
        shown(window, stage)
        for selector in (".name", ".what", ".gpu .error", "#errors .message"):
            assert HOSTILE in window.texts(selector)
        assert not window.driver.find_elements(By.CSS_SELECTOR, "main img, main script")
        assert "hacked" not in window.driver.title
        assert not window.complaints()


def test_a_script_that_gets_in_does_nothing(window: Window, stage: Stage) -> None:
    """The policy refuses what textContent would not have stopped."""
    shown(window, stage)
    with pytest.raises(Exception, match="TrustedHTML"):
        window.run("document.body.innerHTML = '<b>x</b>'")


def test_nothing_is_asked_of_anyone_else(window: Window, stage: Stage) -> None:
    shown(window, stage)
    asked = window.requested()
    assert f"{stage.page}events" in asked
    assert [address for address in asked if not address.startswith(stage.page)] == []
    weight = sum(path.stat().st_size for path in FOLDER.rglob("*.*"))
    assert weight < 40_000


def test_on_a_phone_in_the_dark(window: Window, stage: Stage, screenshots: Path) -> None:
    window.look(360, height=740, dark=True, scale=2)
    shown(window, stage)
    assert window.overflow() == 0
    assert window.run("return getComputedStyle(document.body).backgroundColor") == "rgb(16, 19, 23)"
    window.picture(screenshots / "mixed-phone-dark.png")


def test_the_language_can_be_chosen_and_is_kept(window: Window, stage: Stage) -> None:
    shown(window, stage)
    assert window.run("return document.documentElement.lang") == "en"
    window.find("#language").click()
    assert window.text("h1") == "4 个 GPU 中 3 个就绪"
    assert window.run("return document.documentElement.lang") == "zh-CN"
    shown(window, stage)
    assert window.text("#language") == "English"
    window.find("#language").click()
    assert window.text("h1") == "3 of 4 GPUs ready"


def test_a_browser_in_chinese(programs: tuple[str, str], stage: Stage, tmp_path: Path, screenshots: Path) -> None:
    with open_browser(*programs, tmp_path, languages="zh-CN,zh,en") as driver:
        window = Window(driver)
        window.look(1280)
        shown(window, stage)
        assert window.run("return document.documentElement.lang") == "zh-CN"
        assert window.texts(".gpu h3") == ["GPU 0 忙碌", "GPU 1 已满", "GPU 2 空闲", "GPU 3 故障"]
        assert driver.title == "3/4 · 运行 2，排队 16 – ComfyGate"
        assert "" not in window.run(
            "return [...document.querySelectorAll('[data-text]')].map((one) => one.textContent)"
        )
        window.picture(screenshots / "mixed-chinese.png")


def test_both_languages_say_everything(window: Window, stage: Stage) -> None:
    shown(window, stage)
    english, chinese = window.run("return [Object.keys(TEXTS.en), Object.keys(TEXTS.zh)]")
    assert english == chinese


def test_from_a_file(window: Window, stage: Stage) -> None:
    window.open(f"{(FOLDER / 'index.html').as_uri()}?hub=http://127.0.0.1:{stage.port}")
    window.wait_for(MIXED)
    assert window.find(".gpu .port").get_attribute("href") == "http://127.0.0.1:8181/"
    assert not window.complaints()


def test_from_another_gate(window: Window, stage: Stage) -> None:
    with staged(snapshot([gpu(0)])) as other:
        shown(window, other, f"?hub=http://127.0.0.1:{stage.port}")
        window.wait_for(MIXED)
        assert window.text("#hub") == f"127.0.0.1:{stage.port}"
        assert not window.complaints()


@pytest.mark.parametrize("hub", ["javascript:alert(1)", "nonsense"])
def test_an_address_that_is_none(window: Window, stage: Stage, hub: str) -> None:
    window.open(f"{stage.page}?hub={hub}")
    assert window.text("#lost-title") == "hub= must be the address of a gate, such as http://localhost:8188."
    assert not window.text("#link")
    assert stage.streams == 0
