"""ComfyUI's own web page, as the tests use it: what a person does is done to its buttons and keys."""

from __future__ import annotations

import base64
from typing import Any

from attrs import frozen
from selenium.webdriver import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.browser.window import Window
from tests.gateway import eventually

Prompt = dict[str, Any]

UPLOAD = """
// As if the picture had been pasted on the node: what follows is the page's own upload.
const bytes = Uint8Array.from(atob(arguments[1]), (one) => one.charCodeAt(0));
const file = new File([bytes], arguments[2], { type: "image/png" });
app.graph.getNodeById(arguments[0]).pasteFiles([file]);
"""

LISTEN = """
// What the page itself is told, beside what it makes of it.
window.told = [];
const kinds = ["execution_start", "progress_state", "executing", "executed", "execution_success",
  "execution_interrupted", "b_preview", "b_preview_with_metadata", "promptQueued"];
for (const kind of kinds) app.api.addEventListener(kind, (event) => window.told.push([kind, event.detail]));
"""


@frozen
class StockPage:
    """The page in a window."""

    window: Window

    def open(self, port: int) -> None:
        """Load it from a port, and wait until it can be used."""
        self.window.open(f"http://127.0.0.1:{port}/")
        self.wait_loaded()

    def wait_loaded(self) -> None:
        """Wait until its menu is there and it is connected."""
        ready = "return !!(window.app?.graph && app.api.clientId && document.querySelector('.comfyui-queue-button'))"
        eventually(lambda: self.window.run(ready))
        self.window.run(LISTEN)

    def load(self, prompt: Prompt, name: str = "test") -> None:
        """Put a workflow on the canvas, as if its file had been dropped there."""
        self.window.run("app.loadApiJson(arguments[0], arguments[1])", prompt, name)
        # A node loads its picture when it is drawn: the whole of the workflow has to be in sight.
        self.window.run("app.extensionManager.command.execute('Comfy.Canvas.FitView')")

    def queue(self) -> None:
        """Press the button that runs the workflow; until that is sent, a change to the canvas would be sent too."""
        before = len(self.told("promptQueued"))
        self.window.find(".comfyui-queue-button button").click()
        eventually(lambda: len(self.told("promptQueued")) > before, seconds=30)

    def interrupt(self) -> None:
        """Press the button that stops what runs."""
        self.window.find(".execution-actions button[aria-label*='Cancel']").click()

    def clear_pending(self) -> None:
        """Press the button that forgets what waits."""
        self.window.find(".execution-actions button[aria-label*='Clear']").click()

    def show(self, tab: str) -> None:
        """Open a panel at the side."""
        self.window.find(f".{tab}-tab-button").click()

    def tasks(self) -> list[str]:
        """What the queue panel says of each prompt, newest first."""
        return self.window.texts(".task-item")

    def pictures(self) -> list[str]:
        """Addresses of the pictures in the queue panel that could be shown."""
        script = """return [...document.querySelectorAll(".task-item img")].filter(
            (one) => one.complete && one.naturalWidth > 0).map((one) => one.src)"""
        found: list[str] = self.window.run(script)
        return found

    def badge(self) -> str:
        """The number of prompts that it shows at the queue panel's button, or nothing."""
        return self.window.text(".queue-tab-button .p-badge")

    def saved(self, node: int) -> list[dict[str, str]]:
        """The files that a node has on the canvas."""
        found: list[dict[str, str]] = self.window.run("return app.nodeOutputs[arguments[0]]?.images ?? []", str(node))
        return found

    def shown(self, node: int) -> int:
        """How many pictures a node shows on the canvas."""
        count: int = self.window.run("return app.graph.getNodeById(arguments[0]).imgs?.length ?? 0", node)
        return count

    def running(self) -> str | None:
        """The node that it shows at work."""
        node: str | None = self.window.run("return app.runningNodeId")
        return node

    def told(self, kind: str) -> list[Any]:
        """What it was told of one kind."""
        found: list[Any] = self.window.run("return window.told.filter((one) => one[0] === arguments[0])", kind)
        return [detail for _, detail in found]

    def upload(self, node: int, content: bytes, name: str) -> str:
        """Paste a picture on a node, and the value that the node has then."""
        value = "return app.graph.getNodeById(arguments[0]).widgets[0].value"
        before = self.window.run(value, node)
        self.window.run(UPLOAD, node, base64.b64encode(content).decode(), name)
        eventually(lambda: self.window.run(value, node) != before, seconds=20)
        uploaded: str = self.window.run(value, node)
        return uploaded

    def save(self, name: str) -> None:
        """Save the workflow under a name, by keyboard."""
        ActionChains(self.window.driver).key_down(Keys.CONTROL).send_keys("s").key_up(Keys.CONTROL).perform()
        field = eventually(lambda: self.window.driver.find_elements(By.CSS_SELECTOR, ".p-dialog input"))[0]
        field.clear()
        field.send_keys(name, Keys.ENTER)

    def client_id(self) -> str:
        """The id that it has on the gate."""
        found: str = self.window.run("return app.api.clientId")
        return found
