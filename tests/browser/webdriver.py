"""A real Chromium, spoken to in the W3C's WebDriver protocol: JSON over HTTP, so nothing but httpx is needed.

Nothing is downloaded here: the browser and its driver are Debian's, of one version.
"""

import base64
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

START_S = 60.0
SWITCHES = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage", "--hide-scrollbars"),
    *("--disable-features=Translate,MediaRouter,OptimizationHints", "--force-device-scale-factor=1"),
)
KEYS = {"Tab": "\ue004", "Enter": "\ue007", "Space": " ", "Escape": "\ue00c"}


class Browser:
    """One window."""

    def __init__(self, client: httpx.Client, session: str) -> None:
        self._client = client
        self._session = session

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        answer = self._client.request(
            method, f"/session/{self._session}{path}", json=body if method == "POST" else None
        )
        value = answer.json()["value"]
        assert answer.status_code == 200, f"{path}: {value}"
        return value

    def open(self, url: str) -> None:
        self.ask("POST", "/url", {"url": url})

    def run(self, script: str, *arguments: object) -> Any:
        """What the body of a function returns; a promise is waited for."""
        return self.ask("POST", "/execute/sync", {"script": script, "args": list(arguments)})

    def press(self, *keys: str) -> None:
        """Keys by name, or a text letter by letter."""
        strokes = [KEYS.get(key, key) for key in keys]
        actions = [{"type": kind, "value": one} for one in strokes for kind in ("keyDown", "keyUp")]
        self.ask("POST", "/actions", {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]})

    def until(self, what: str, condition: str, patience_s: float = 60.0) -> None:
        """Waits until the expression is true in the page; what it was last is said otherwise."""
        deadline, found = time.monotonic() + patience_s, None
        while time.monotonic() < deadline:
            found = self.run(f"return {condition}")
            if found is True:
                return
            time.sleep(0.1)
        raise AssertionError(
            f"not within {patience_s:.0f} s: {what}; it says: {self.run('return document.body.innerText')}"
        )

    def devtools(self, command: str, **parameters: object) -> Any:
        return self.ask("POST", "/goog/cdp/execute", {"cmd": command, "params": parameters})

    def look(self, width: int, height: int, scheme: str = "light") -> None:
        """A window of this size (CSS pixels) for somebody who likes it "light" or "dark"."""
        self.devtools(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        self.devtools("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def picture(self, height: int) -> bytes:
        """The page from its top to `height`, as PNG, seen or not."""
        clip = {"x": 0, "y": 0, "width": self.run("return innerWidth"), "height": height, "scale": 1}
        shot = self.devtools("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)
        return base64.b64decode(shot["data"])

    def logged(self, kind: str) -> list[dict[str, Any]]:
        """What was logged since the last question: "browser" (the console) or "performance" (requests and more)."""
        entries: list[dict[str, Any]] = self.ask("POST", "/se/log", {"type": kind})
        return entries


def missing() -> str:
    """Why there can be no browser here; empty when there can. As root on Debian what is missing is installed."""
    if not all(map(shutil.which, ("chromium", "chromedriver"))):
        if shutil.which("apt-get") is None or os.geteuid() != 0:
            return "chromium and chromedriver are not installed here (Debian: apt-get install chromium chromium-driver)"
        words = ["apt-get", "install", "-y", "--no-install-recommends", "chromium", "chromium-driver"]
        environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=600, check=False)
        if done.returncode:  # perhaps the lists are old, or not there
            subprocess.run(["apt-get", "update"], env=environment, capture_output=True, timeout=300, check=False)
            done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=600, check=False)
        if done.returncode:
            return f"chromium cannot be installed: {done.stderr.strip()[-300:]}"
    return ""


@contextmanager
def chromium(directory: Path) -> Iterator[Browser]:
    """A browser with an empty profile in `directory`; it ends with the block."""
    log = directory / "chromedriver.log"
    driver = _start(log)
    try:
        address = f"http://127.0.0.1:{_port(driver, log)}"
        with httpx.Client(base_url=address, timeout=START_S, trust_env=False) as client:
            profile = directory / "profile"
            switches = [*SWITCHES, f"--user-data-dir={profile}", "--window-size=1440,900"]
            wanted = {
                "browserName": "chrome",
                "goog:chromeOptions": {"args": switches, "binary": shutil.which("chromium")},
                "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
            }
            answer = client.post("/session", json={"capabilities": {"alwaysMatch": wanted}})
            assert answer.status_code == 200, answer.text
            browser = Browser(client, answer.json()["value"]["sessionId"])
            try:
                yield browser
            finally:
                browser.ask("DELETE", "")
    finally:
        try:  # the group is ours alone; nothing of it is left after a good end but the driver
            os.killpg(driver.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        driver.wait()


def _start(log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as output:
        return subprocess.Popen(
            ["chromedriver", "--port=0"], stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )


def _port(driver: subprocess.Popen[bytes], log: Path) -> int:
    deadline = time.monotonic() + START_S
    while driver.poll() is None and time.monotonic() < deadline:
        found = re.search(r"started successfully on port (\d+)", log.read_text(errors="replace"))
        if found:
            return int(found[1])
        time.sleep(0.05)
    raise AssertionError(f"chromedriver did not start: {log.read_text(errors='replace')[-500:]}")
