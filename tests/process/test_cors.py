"""Pages of other origins, as their browsers ask: the whole daemon, real sockets."""

from __future__ import annotations

import base64
import http.client
import http.server
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from attrs import frozen
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.remote.webdriver import WebDriver

from tests.gateway import Gateway, eventually, running, workflow

TOOL = "http://localhost:3000"
FOREIGN = "http://evil.example"
CONFIG = f"""rate = 0
cors_origins = {TOOL}, null
comfyui = simulator
devices = cpu*1

[gpu:1]
url = http://127.0.0.1:{{spare}}

[gate:few]
port = {{few}}
gpus = 0
rate = 0.1
burst = 2
"""


@frozen
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def all(self, name: str) -> list[str]:
        return [value for found, value in self.headers if found.lower() == name]

    @property
    def access(self) -> dict[str, str]:
        """Every field that only pages of other origins are sent; each at most once."""
        found = [(name.lower(), value) for name, value in self.headers if name.lower().startswith("access-control-")]
        assert len(dict(found)) == len(found), found
        return dict(found)


def ask(port: int, line: str, origin: str | None = None, body: bytes | None = None, **headers: str) -> Answer:
    method, target = line.split()
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, target, body, fields | ({} if origin is None else {"Origin": origin}))
        answer = connection.getresponse()
        return Answer(answer.status, answer.getheaders(), answer.read())
    finally:
        connection.close()


def preflight(port: int, origin: str, target: str = "/prompt", **headers: str) -> Answer:
    return ask(port, f"OPTIONS {target}", origin, Access_Control_Request_Method="POST", **headers)


def upgrade(port: int, origin: str) -> int:
    """The status that a WebSocket's handshake is answered with."""
    key = base64.b64encode(os.urandom(16)).decode()
    lines = [
        "GET /ws HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Origin: {origin}",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {key}",
    ]
    with socket.create_connection(("127.0.0.1", port), 30) as wire:
        wire.sendall("".join(f"{line}\r\n" for line in [*lines, ""]).encode())
        return int(wire.makefile("rb").readline().split()[1])


@frozen
class House:
    """A GPU of ours, one of a ComfyUI that lets every page in by itself, a port with a tight limit, and the hub."""

    gateway: Gateway
    few: int

    @property
    def ports(self) -> tuple[int, ...]:
        return (*self.gateway.ports, self.gateway.hub)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("cors")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        few = probe.getsockname()[1]
    config = CONFIG.replace("{few}", str(few))
    with (
        running(folder, config, gpus=2, ready=False) as gateway,
        open_comfyui(gateway.spare, folder / "other") as other,
    ):
        try:
            gateway.wait_ready()
            yield House(gateway, few)
        finally:
            other.terminate()


def open_comfyui(port: int, folder: Path) -> subprocess.Popen[bytes]:
    folder.mkdir()
    command = [sys.executable, "-m", "comfygate.simulator", "--cpu", "--port", str(port)]
    options = ["--enable-cors-header", "*", "--base-directory", str(folder)]
    with (folder / "log").open("wb") as log:
        return subprocess.Popen([*command, *options], stdin=subprocess.DEVNULL, stdout=log, stderr=log)


@pytest.mark.parametrize("origin", [TOOL, "null"])
def test_an_allowed_page_reads_every_port(house: House, origin: str) -> None:
    for port in house.ports:
        for target in ("/queue/all", "/queue", "/prompt", "/system_stats", "/", "/api/queue/all", "/view?filename=x"):
            answer = ask(port, f"GET {target}", origin, Sec_Fetch_Site="cross-site")
            assert answer.status == (404 if "view" in target else 200)
            assert answer.access == {
                "access-control-allow-origin": origin,
                "access-control-expose-headers": "*",
            }
            assert "Origin" in answer.all("vary")


def test_an_allowed_page_sends_a_prompt(house: House) -> None:
    body = orjson.dumps({"prompt": workflow()})
    for port in house.ports:
        answer = ask(port, "POST /prompt", TOOL, body)
        assert answer.status == 200
        assert answer.access["access-control-allow-origin"] == TOOL


@pytest.mark.parametrize("origin", [FOREIGN, "http://localhost:3001", "https://localhost:3000"])
def test_another_page_is_refused_and_told_nothing(house: House, origin: str) -> None:
    for port in house.ports:
        refused = (ask(port, "GET /queue/all", origin), ask(port, "POST /prompt", origin, b"{}"))
        for answer in (*refused, preflight(port, origin)):
            assert (answer.status, answer.access) == (403, {})
            assert orjson.loads(answer.body)["error"]["type"] == "forbidden_origin"


def test_of_the_ports_own_page_and_of_programs_only_caches_are_told(house: House) -> None:
    port = house.gateway.ports[0]
    for origin in (None, f"http://127.0.0.1:{port}"):
        for target in ("/queue/all", "/system_stats"):
            answer = ask(port, f"GET {target}", origin)
            assert (answer.status, answer.access, answer.all("vary")) == (200, {}, ["Origin"])


def test_preflights_are_granted_and_cost_nothing(house: House) -> None:
    for _ in range(10):
        answer = preflight(
            house.few,
            TOOL,
            Access_Control_Request_Headers="content-type, x-target-gpu",
            Access_Control_Request_Private_Network="true",
        )
        assert (answer.status, answer.body, answer.all("content-length")) == (204, b"", [])
        assert answer.access["access-control-allow-origin"] == TOOL
        assert answer.access["access-control-allow-headers"] == "content-type, x-target-gpu"
        assert "POST" in answer.access["access-control-allow-methods"].split(", ")
        assert answer.access["access-control-allow-private-network"] == "true"
        assert "access-control-allow-credentials" not in answer.access
    assert ask(house.few, "GET /queue", TOOL).status == 200


def test_a_page_may_read_that_it_was_refused(house: House) -> None:
    limited = eventually(lambda: (answer := ask(house.few, "GET /queue", TOOL)).status == 429 and answer)
    assert limited.access["access-control-allow-origin"] == TOOL
    assert int(limited.all("retry-after")[0]) >= 1
    nonsense = ask(house.gateway.hub, "POST /prompt", TOOL, b"nonsense")
    assert (nonsense.status, nonsense.access["access-control-allow-origin"]) == (400, TOOL)
    strange = preflight(house.gateway.hub, TOOL, Access_Control_Request_Headers="a b")
    assert (strange.status, strange.access["access-control-allow-origin"]) == (400, TOOL)


def test_websockets_open_for_allowed_pages_only(house: House) -> None:
    for port in house.ports:
        own = f"http://127.0.0.1:{port}"
        found = {origin: upgrade(port, origin) for origin in (TOOL, "null", own, FOREIGN)}
        assert found == {TOOL: 101, "null": 101, own: 101, FOREIGN: 403}


def test_any_page_and_none(tmp_path: Path) -> None:
    (tmp_path / "any").mkdir()
    with running(tmp_path / "any", "rate = 0\ncors_origins = *\n", gpus=1) as gateway:
        for origin in (FOREIGN, "null", TOOL):
            for port in (*gateway.ports, gateway.hub):
                assert ask(port, "GET /queue/all", origin).access["access-control-allow-origin"] == origin
                assert preflight(port, origin).status == 204
                assert upgrade(port, origin) == 101
    (tmp_path / "none").mkdir()
    with running(tmp_path / "none", "rate = 0\n", gpus=1) as gateway:
        for port in (*gateway.ports, gateway.hub):
            assert ask(port, "GET /queue/all", TOOL).status == 403
            assert preflight(port, TOOL).status == 403
            own = ask(port, "GET /queue/all", f"http://127.0.0.1:{port}")
            assert (own.status, own.access, own.all("vary")) == (200, {}, [])


# -- a real browser

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
WANTED = os.environ.get("COMFYGATE_BROWSER") == "required"
PAGE = """<!doctype html><meta charset="utf-8"><pre id="said">nothing</pre><script>
const hub = "http://127.0.0.1:{hub}";
async function look() {{
  const all = await (await fetch(hub + "/queue/all")).json();
  const stats = await fetch("http://127.0.0.1:{gpu}/system_stats", {{headers: {{"X-Target-GPU": "0"}}}});
  const refused = await fetch(hub + "/prompt", {{method: "POST", body: "nonsense",
    headers: {{"Content-Type": "application/json"}}}});
  const socket = new WebSocket("ws://127.0.0.1:{gpu}/ws?clientId=page");
  const first = await new Promise((resolve, reject) => {{
    socket.onmessage = (event) => resolve(JSON.parse(event.data).type);
    socket.onerror = () => reject(new Error("no WebSocket"));
  }});
  return ["queues", all.queues.length, stats.status, (await refused.json()).error.type, first].join(" ");
}}
look().then((text) => document.getElementById("said").textContent = text,
            (error) => document.getElementById("said").textContent = "failed: " + error);
</script>"""


@pytest.fixture
def page(house: House, tmp_path: Path) -> Path:
    path = tmp_path / "page.html"
    path.write_text(PAGE.format(hub=house.gateway.hub, gpu=house.gateway.ports[0]), encoding="utf-8")
    return path


@pytest.fixture
def elsewhere(page: Path) -> Iterator[str]:
    """The page's address on another port; its origin is not allowed."""

    class Files(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments, directory=str(page.parent))  # type: ignore[arg-type]

        def log_message(self, format: str, *arguments: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/page.html"
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[WebDriver]:
    if CHROMIUM is None or DRIVER is None:
        missing = "there is no chromium with a chromedriver"
        if WANTED:
            pytest.fail(f"{missing}, and COMFYGATE_BROWSER says that they are required")
        pytest.skip(missing)
    options = ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in FLAGS.split():
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path / 'profile'}")
    with Chrome(options=options, service=Service(DRIVER)) as one:
        yield one


def read(browser: WebDriver, address: str) -> str:
    """What the page says in the end."""
    browser.get(address)
    said = browser.find_element("id", "said")
    return str(eventually(lambda: said.text != "nothing" and said.text))


def test_a_page_opened_from_a_file_uses_every_port(page: Path, browser: WebDriver) -> None:
    assert read(browser, page.as_uri()) == "queues 2 200 invalid_json status"


def test_a_page_of_another_port_may_do_nothing(elsewhere: str, browser: WebDriver) -> None:
    assert read(browser, elsewhere) == "failed: TypeError: Failed to fetch"


def test_a_page_of_another_port_uses_every_port_where_any_may(
    elsewhere: str, page: Path, browser: WebDriver, tmp_path: Path
) -> None:
    with running(tmp_path, "cors_origins = *\n", gpus=1) as gateway:
        page.write_text(PAGE.format(hub=gateway.hub, gpu=gateway.ports[0]), encoding="utf-8")
        assert read(browser, elsewhere) == "queues 1 200 invalid_json status"
