"""A report in a real browser: nothing fails, every figure is to be seen, at the width of a telephone and of a desk.

Chromium is spoken to by the DevTools protocol over a pipe. Where there is none the tests are skipped;
FERCORE_REQUIRE_BROWSER=1 makes that an error.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import fercore
from fercore.reporting import report as making

pytestmark = pytest.mark.slow

BOXES = """(() => {
  const box = e => e.getBoundingClientRect();
  const figures = [...document.querySelectorAll("figure svg, .faces img")];
  const texts = svg => [...svg.querySelectorAll("text")];
  const out = [...document.querySelectorAll("figure svg")].flatMap(svg => texts(svg).filter(text => {
    const a = box(text), b = box(svg);
    return a.left < b.left - 3 || a.right > b.right + 3 || a.top < b.top - 3 || a.bottom > b.bottom + 3;
  })).map(text => text.textContent);
  return {n: figures.length, unseen: figures.filter(e => box(e).width < 50 || box(e).height < 50).length, out,
          broken: [...document.images].filter(e => !e.naturalWidth).length,
          wide: document.documentElement.scrollWidth, back: getComputedStyle(document.documentElement).backgroundColor};
})()"""


class Browser:
    """A page in Chromium; what goes wrong in it is kept in `faults`."""

    def __init__(self, commands: int, answers: int) -> None:
        self._to, self._from = os.fdopen(commands, "wb", buffering=0), os.fdopen(answers, "rb")
        self._last, self._session = 0, None
        self.faults: list[Any] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> Any:
        """Give an order and return what it gave."""
        self._last += 1
        order = {"id": self._last, "method": method, "params": params}
        order |= {} if self._session is None else {"sessionId": self._session}
        self._to.write(json.dumps(order).encode() + b"\0")
        return self._until(lambda said: said.get("id") == self._last)["result"]

    def _until(self, wanted) -> Any:
        while True:
            text = bytearray()
            while (byte := self._from.read(1)) != b"\0":
                assert byte, "the browser ended"
                text += byte
            said = json.loads(text)
            assert "error" not in said, said
            kind, params = said.get("method"), said.get("params", {})
            if kind in ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"):
                self.faults.append(params)
            if kind == "Network.requestWillBeSent" and not params["request"]["url"].startswith(("file:", "data:")):
                self.faults.append(params["request"]["url"])
            if wanted(said):
                return said

    def show(self, path: Path, width: int, scheme: str) -> dict[str, Any]:
        """Load a page and return what is to be seen of it."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Page.navigate", url=path.as_uri())
        self._until(lambda said: said.get("method") == "Page.loadEventFired")
        return self.value(BOXES)

    def value(self, script: str) -> Any:
        """Return what a line of JavaScript gives."""
        return self.call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def press(self, key: str, code: int) -> None:
        """Press a key."""
        for kind in ("rawKeyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, windowsVirtualKeyCode=code)


@contextmanager
def started(program: str, home: Path) -> Iterator[Browser]:
    (read, commands), (answers, write) = os.pipe(), os.pipe()
    flags = f"--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run --user-data-dir={home}"
    line = f"exec {program} {flags} --remote-debugging-pipe 3<&{read} 4>&{write}"
    process = subprocess.Popen(["bash", "-c", line], pass_fds=(read, write), stdout=-3, stderr=-3)
    os.close(read)
    os.close(write)
    try:
        yield Browser(commands, answers)
    finally:
        process.terminate()
        process.wait(30)


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[Browser]:
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        assert os.environ.get("FERCORE_REQUIRE_BROWSER") != "1", "no Chromium here: apt-get install chromium"
        pytest.skip("no Chromium here")
    with started(program, tmp_path_factory.mktemp("browser")) as browser:
        yield browser


@pytest.fixture(scope="module", params=["finished", "compared"])
def file(request, tmp_path_factory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(making, "POINTS", 20)
        source = request.getfixturevalue(request.param)
        return fercore.report(source, out=tmp_path_factory.mktemp("shown") / "report.html")


def test_everything_is_to_be_seen_at_every_width_by_day_and_by_night(browser, file, page_of):
    browser.faults.clear()
    page, backs = page_of(file), set()
    for width in (400, 1280):
        for scheme in ("light", "dark"):
            seen = browser.show(file, width, scheme)
            assert seen["n"] == len(page.all("figure")) + len(page.all("img")) > 10
            assert (seen["unseen"], seen["broken"], seen["out"]) == (0, 0, [])
            assert seen["wide"] <= width
            backs.add((scheme, seen["back"]))
    assert len(backs) == 2
    assert len({back for _, back in backs}) == 2
    assert browser.faults == []


def test_a_page_is_read_with_the_keyboard_and_printed(browser, file):
    browser.show(file, 1280, "light")
    browser.press("Tab", 9)
    assert browser.value("document.activeElement.className") == "skip"
    shut = browser.value("document.querySelectorAll('details:not([open])').length")
    browser.value("document.querySelector('summary').focus()")
    for kind in ("keyDown", "keyUp"):
        browser.call("Input.dispatchKeyEvent", type=kind, key="Enter", windowsVirtualKeyCode=13, text="\r")
    assert browser.value("document.querySelectorAll('details:not([open])').length") == shut - 1
    focusable = browser.value("[...document.querySelectorAll('pre, .wide')].every(e => e.tabIndex === 0)")
    assert focusable
    browser.call("Emulation.setEmulatedMedia", media="print", features=[])
    settings = "[...document.querySelectorAll('details.card td')].every(e => e.getBoundingClientRect().height > 5)"
    assert browser.value(settings)
    assert browser.value("getComputedStyle(document.querySelector('nav')).display") == "none"
    browser.call("Emulation.setEmulatedMedia", media="", features=[])
