"""Debian's Chromium, driven over its own debugging protocol: type, click, read, as a person at the page does."""

import base64
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import connect
from websockets.sync.connection import Connection

from forkyard.waiting import wait_for

_ARGUMENTS = (
    "--headless",
    "--no-sandbox",  # the tests run as root, which Chromium's sandbox refuses
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--window-size=1100,900",
    "--remote-debugging-port=0",
)


@dataclass(slots=True)
class Page:
    """One tab."""

    socket: Connection
    number: int = 0

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:  # noqa: ANN401 - the protocol's JSON
        """Make one call of the protocol."""
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            said = json.loads(self.socket.recv(timeout=20))
            if said.get("id") == self.number:
                assert "error" not in said, said
                return dict(said["result"])

    def run(self, script: str) -> Any:  # noqa: ANN401 - whatever the script gives
        """Run JavaScript in the page and give its value."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def open(self, url: str) -> None:
        """Go to an address."""
        self.call("Page.enable")
        self.call("Page.navigate", url=url)

    def until(self, script: str, *, seconds: float = 10) -> None:
        """Wait until the script's value is true."""
        wait_for(lambda: self.run(script) or None, what=script, timeout=timedelta(seconds=seconds))

    def press(self, selector: str) -> None:
        """Click, with a real mouse event in the element's middle; the last one that the selector finds."""
        found = f"[...document.querySelectorAll({json.dumps(selector)})].at(-1)"
        self.until(f"!!{found}")
        self.run(f"{found}.scrollIntoView({{block: 'center'}})")
        box = wait_for(
            lambda: self._settled_box(found), what=f"{selector} to stand still", timeout=timedelta(seconds=10)
        )
        place = {"x": box[0] + box[2] / 2, "y": box[1] + box[3] / 2, "button": "left", "clickCount": 1}
        self.call("Input.dispatchMouseEvent", type="mousePressed", **place)
        self.call("Input.dispatchMouseEvent", type="mouseReleased", **place)

    def _settled_box(self, found: str) -> list[float] | None:
        """Where the element is, once it is at the same place in two frames: a click into a page that moves misses."""
        frame = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
        where = f"(() => {{ const b = {found}.getBoundingClientRect(); return [b.x, b.y, b.width, b.height] }})()"
        before, after = self.run(f"(async () => {{ const a = {where}; await {frame}; return [a, {where}] }})()")
        return list(after) if before == after else None

    def type(self, selector: str, text: str) -> None:
        """Type a text into a field and press Enter."""
        self.press(selector)
        self.call("Input.insertText", text=text)
        key = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13, "text": "\r"}
        self.call("Input.dispatchKeyEvent", type="keyDown", **key)
        self.call("Input.dispatchKeyEvent", type="keyUp", **key)

    def choose(self, selector: str, value: str) -> None:
        """Choose from a menu."""
        event = "new Event('change', {bubbles: true})"
        found = f"document.querySelector({json.dumps(selector)})"
        self.run(f"{found}.value = {json.dumps(value)}; {found}.dispatchEvent({event})")

    def draw(self, path: Path) -> None:
        """Keep a picture of the page."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))


@contextmanager
def running_browser(directory: Path) -> Iterator[Page]:
    """Start a browser with one tab; end it whatever happens."""
    directory.mkdir(parents=True, exist_ok=True)
    port_file = directory / "DevToolsActivePort"
    with (directory / "log").open("wb") as log:
        argv = ["chromium", *_ARGUMENTS, f"--user-data-dir={directory}", "about:blank"]
        process = subprocess.Popen(argv, stdout=log, stderr=log)
    try:

        def port() -> str | None:
            assert process.poll() is None, (directory / "log").read_text(errors="replace")
            return port_file.read_text().split()[0] if port_file.exists() and port_file.read_text() else None

        found = wait_for(port, what="the browser", timeout=timedelta(seconds=30))
        tabs = httpx.get(f"http://127.0.0.1:{found}/json/list", trust_env=False).json()
        tab = next(one for one in tabs if one["type"] == "page")
        with connect(tab["webSocketDebuggerUrl"], max_size=64 << 20, proxy=None) as socket:
            yield Page(socket)
    finally:
        process.terminate()
        process.wait(timeout=15)
