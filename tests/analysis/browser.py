"""Pages in headless chromium, driven over the pipe of its DevTools protocol: real keys, real clicks, no network.

Chromium reads commands at file descriptor 3 and answers at 4, JSON with a zero byte after each.
"""

import atexit
import base64
import contextlib
import fcntl
import functools
import itertools
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
    "--no-first-run",
)
KEYS = {"Enter": 13, "Escape": 27, "End": 35, "Home": 36, "ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39}
KEYS |= {"ArrowDown": 40, "Tab": 9, "Backspace": 8, "PageUp": 33, "PageDown": 34}
PATIENCE = 60  # seconds for an answer, on a machine that is busy


def find_chromium() -> str | None:
    """The path of an installed chromium or chrome; None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def dump_dom(path: str | Path, width: int = 1280) -> str:
    """The HTML of the page once its scripts have run."""
    with open_page(path, width=width) as page:
        return page.evaluate("document.documentElement.outerHTML")


def console_errors(path: str | Path) -> list[str]:
    """Uncaught errors, console errors and blocked or failed loads while the page opened."""
    with open_page(path) as page:
        return page.errors


@contextlib.contextmanager
def open_page(path: str | Path, *, width: int = 1280, height: int = 900, dark: bool = False):
    """A `Page` of a file, `path#fragment` allowed, after load and two idle frames."""
    page = Page(_browser(), width, height, dark)
    try:
        file, _, fragment = str(path).partition("#")
        page.go(Path(file).resolve().as_uri() + ("#" + fragment if fragment else ""))
        yield page
    finally:
        page.close()


class Page:
    """One tab, in a profile of its own. `errors`: what went wrong so far; `requests`: each address it asked for."""

    def __init__(self, browser: "_Browser", width: int, height: int, dark: bool):
        self.errors: list[str] = []
        self.requests: list[str] = []
        self._browser = browser
        self._context = browser.call("Target.createBrowserContext")["browserContextId"]  # with a storage of its own
        target = browser.call("Target.createTarget", url="about:blank", browserContextId=self._context)
        self._target = target["targetId"]
        self._session = browser.call("Target.attachToTarget", targetId=self._target, flatten=True)["sessionId"]
        browser.listeners[self._session] = self._hear
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self._call("Emulation.setDeviceMetricsOverride", **metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])

    def go(self, url: str) -> None:
        self._load("Page.navigate", url=url)

    def reload_until(self, condition: str) -> None:
        """Reloads until a JavaScript condition holds: Chromium may take a moment to show a new document what the one
        before it has put into the storage.
        """
        deadline = time.monotonic() + PATIENCE
        while True:
            self._load("Page.reload")
            if self.evaluate(condition) or time.monotonic() > deadline:
                return

    def _load(self, method: str, **parameters) -> None:
        self._loaded = False
        self._call(method, **parameters)
        deadline = time.monotonic() + PATIENCE
        while not self._loaded:
            self._browser.listen(deadline)
        self.settle()

    def before_scripts(self, code: str) -> None:
        """Runs `code` in every page from now on, before the page's own scripts."""
        self._call("Page.addScriptToEvaluateOnNewDocument", source=code)

    def settle(self) -> None:
        """Waits for the page's pending tasks: decoding of its data, and two frames."""
        self.evaluate(
            "(async () => { for (let i = 0; i < 2; i++) await new Promise(requestAnimationFrame);"
            " while (document.querySelector('[aria-busy=true]')) await new Promise((done) => setTimeout(done, 10)) })()"
        )

    def evaluate(self, code: str):
        """The value of a JavaScript expression, awaited, as JSON."""
        answer = self._call("Runtime.evaluate", expression=code, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in answer:
            raise AssertionError(answer["exceptionDetails"]["exception"].get("description", answer))
        return answer["result"].get("value")

    def text(self, selector: str) -> str:
        return self.evaluate(f"document.querySelector({json.dumps(selector)}).innerText")

    def click(self, selector: str) -> None:
        self.evaluate(f"document.querySelector({json.dumps(selector)}).click()")
        self.settle()

    def press(self, *keys: str) -> None:
        """Keys by their DOM name (`ArrowDown`, `a`), or several characters to type them."""
        for key in keys:
            for name in [key] if key in KEYS else key:
                code = KEYS.get(name, ord(name[0].upper()))
                typed = {} if name in KEYS else {"text": name}
                for kind in ("keyDown", "keyUp"):
                    event = {"type": kind, "key": name, "windowsVirtualKeyCode": code}
                    self._call("Input.dispatchKeyEvent", **event, **(typed if kind == "keyDown" else {}))
        self.settle()

    def screenshot(self, path: str | Path, *, whole: bool = True) -> None:
        answer = self._call("Page.captureScreenshot", captureBeyondViewport=whole)
        Path(path).write_bytes(base64.b64decode(answer["data"]))

    def close(self) -> None:
        self._browser.call("Target.closeTarget", targetId=self._target)
        self._browser.call("Target.disposeBrowserContext", browserContextId=self._context)
        self._browser.listeners.pop(self._session, None)

    def _call(self, method: str, **parameters):
        return self._browser.call(method, self._session, **parameters)

    def _hear(self, method: str, event: dict) -> None:
        if method == "Page.loadEventFired":
            self._loaded = True
        elif method == "Runtime.exceptionThrown":
            details = event["exceptionDetails"]
            self.errors.append(details.get("exception", {}).get("description", details["text"]))
        elif method == "Runtime.consoleAPICalled" and event["type"] in ("error", "assert"):
            self.errors.append(" ".join(str(item.get("value", item.get("description"))) for item in event["args"]))
        elif method == "Log.entryAdded" and event["entry"]["level"] == "error":
            self.errors.append(event["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(event["request"]["url"])


@functools.cache
def _browser() -> "_Browser":
    return _Browser(find_chromium())


class _Browser:
    def __init__(self, chromium: str):
        self._numbers = itertools.count(1)
        self._answers: dict[int, dict] = {}
        self._received = b""
        self.listeners = {}
        self._profile = tempfile.mkdtemp(prefix="hf-tti-chromium-")
        (commands, self._out), (self._in, answers) = os.pipe(), os.pipe()

        def pipes():
            first, second = (fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (commands, answers))
            os.dup2(first, 3)
            os.dup2(second, 4)

        self._process = subprocess.Popen(
            [chromium, *FLAGS, f"--user-data-dir={self._profile}", "about:blank"],
            preexec_fn=pipes,
            pass_fds=(3, 4),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(commands)
        os.close(answers)
        atexit.register(self._stop)

    def call(self, method: str, session: str | None = None, **parameters) -> dict:
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        os.write(self._out, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + PATIENCE
        while number not in self._answers:
            self.listen(deadline)
        answer = self._answers.pop(number)
        if "error" in answer:
            raise AssertionError(f"{method}: {answer['error']['message']}")
        return answer["result"]

    def listen(self, deadline: float) -> None:
        """Takes in one message or more."""
        if not select.select([self._in], [], [], max(0, deadline - time.monotonic()))[0]:
            raise TimeoutError("chromium does not answer")
        part = os.read(self._in, 1 << 20)
        if not part:
            raise AssertionError("chromium has ended")
        *messages, self._received = (self._received + part).split(b"\0")
        for message in map(json.loads, messages):
            if "id" in message:
                self._answers[message["id"]] = message
            elif (listener := self.listeners.get(message.get("sessionId"))) is not None:
                listener(message["method"], message["params"])

    def _stop(self) -> None:
        with contextlib.suppress(Exception):
            self.call("Browser.close")
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self._profile, ignore_errors=True)
