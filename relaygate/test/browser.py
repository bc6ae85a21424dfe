"""
A headless Chromium for tests, by WebDriver (W3C), with nothing but the standard library.

Calls block, so tests make them beside the reactor (``peers.in_thread``).
"""

from __future__ import annotations

import base64
import json
import time
import urllib.request
from pathlib import Path
from typing import Any, Final

from twisted.trial.unittest import TestCase

from relaygate.test.netns import require_program
from relaygate.test.peers import in_thread
from relaygate.test.programs import Program, new_folder

ELEMENT: Final = "element-6066-11e4-a52e-4f735466cecf"
_ANSWER_S: Final = 60.0


class Browser:
    """One window; it ends with the test."""

    def __init__(self, case: TestCase) -> None:
        require_program("chromium")
        driver = require_program("chromedriver")
        self._folder = new_folder(case)
        self._program = Program(case, "chromedriver", [driver, "--port=0"])
        self._base = ""
        self._session = ""
        case.addCleanup(self.close)

    async def open(self, *arguments: str) -> None:
        """Start it, with further *arguments*."""
        self._program.start()
        match = await self._program.logged(r"started successfully on port (\d+)", timeout=60)
        self._base = f"http://127.0.0.1:{match[1]}"
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        flags += ["--window-size=1280,1400", f"--user-data-dir={self._folder}", *arguments]
        wish = {"browserName": "chrome", "goog:chromeOptions": {"args": flags}}
        answer = await in_thread(
            self._call, "POST", "/session", {"capabilities": {"alwaysMatch": wish}}
        )
        self._session = f"/session/{answer['sessionId']}"

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        request = urllib.request.Request(  # noqa: S310 - our own driver
            self._base + path,
            None if body is None else json.dumps(body).encode(),
            {"Content-Type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=_ANSWER_S) as answer:  # noqa: S310
            return json.load(answer)["value"]

    async def go(self, address: str) -> None:
        """Open a page."""
        await in_thread(self._call, "POST", f"{self._session}/url", {"url": address})

    async def run(self, script: str, *arguments: Any) -> Any:
        """What the function body *script* returns in the page."""
        body = {"script": script, "args": list(arguments)}
        return await in_thread(self._call, "POST", f"{self._session}/execute/sync", body)

    async def press(self, keys: str) -> None:
        """Press *keys* one after the other, as a keyboard does, wherever the focus is."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        body = {"actions": [{"type": "key", "id": "keyboard", "actions": actions}]}
        await in_thread(self._call, "POST", f"{self._session}/actions", body)

    async def _element(self, selector: str) -> str:
        body = {"using": "css selector", "value": selector}
        found = await in_thread(self._call, "POST", f"{self._session}/element", body)
        return f"{self._session}/element/{found[ELEMENT]}"

    async def type(self, selector: str, text: str) -> None:
        """Type *text* where the CSS *selector* says; into a choice of files it is a path."""
        where = await self._element(selector)
        await in_thread(self._call, "POST", f"{where}/value", {"text": text})

    async def click(self, selector: str) -> None:
        """Click on what the CSS *selector* says."""
        await in_thread(self._call, "POST", f"{await self._element(selector)}/click", {})

    async def cookie(self, name: str) -> dict[str, Any]:
        """What is kept as the cookie *name*, one that scripts do not see as well."""
        found: dict[str, Any] = await in_thread(self._call, "GET", f"{self._session}/cookie/{name}")
        return found

    async def until(self, script: str, what: str, within_s: float = 60.0) -> Any:
        """Wait until *script* returns what is true; raises AssertionError."""
        end = time.monotonic() + within_s
        while time.monotonic() < end:
            found = await self.run(script)
            if found:
                return found
            await in_thread(time.sleep, 0.2)
        text = await self.run("return document.body.innerText")
        raise AssertionError(f"{what} did not come about; the page:\n{' '.join(text.split())}")

    async def command(self, name: str, **params: Any) -> None:
        """Have Chromium do *name* of its DevTools protocol."""
        body = {"cmd": name, "params": params}
        await in_thread(self._call, "POST", f"{self._session}/goog/cdp/execute", body)

    async def picture(self, file: Path) -> None:
        """Write a PNG of the window."""
        data = await in_thread(self._call, "GET", f"{self._session}/screenshot")
        await in_thread(file.write_bytes, base64.b64decode(data))

    async def close(self) -> None:
        """End it."""
        if self._session:
            session, self._session = self._session, ""
            await in_thread(self._call, "DELETE", session)
