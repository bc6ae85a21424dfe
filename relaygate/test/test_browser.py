"""The dashboard in a real browser: a live session, ended and drained by the keyboard alone."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import axe_core_python
from twisted.internet import reactor

from relaygate.addresses import HostPort
from relaygate.config import DashboardConfig
from relaygate.config.forward import ForwardConfig
from relaygate.dashboard import Dashboard
from relaygate.destinations import DestinationRule
from relaygate.test.browser import Browser
from relaygate.test.farend import payload
from relaygate.test.ftpnodes import FTPCase
from relaygate.test.ports import free_port
from relaygate.test.programs import new_folder

HOST = "127.0.0.7"
TOKEN = "correcthorsebatterystaple1"
TAB, ENTER = "\ue004", "\ue007"
MOVED = "return sessions.length > 0 && sessions[0].bytes_in + sessions[0].bytes_out"
# Focus moves on by Tab until it is where a person would stop.
FOCUSED = "return (document.activeElement.getAttribute('aria-label') || document.activeElement.id)"


class BrowserTests(FTPCase):
    """A real gateway with an FTP session, and its page in Chromium."""

    timeout = 300

    async def show(self) -> Browser:
        """Start all, and open the page."""
        await self.begin()
        token = new_folder(self) / "token"
        token.touch(0o600)
        token.write_text(TOKEN)
        port = free_port(HOST)
        board = Dashboard(DashboardConfig(HostPort(HOST, port), token), self.node.commands, reactor)
        board.startService()
        self.addCleanup(board.stopService)
        self.entry = ForwardConfig(
            "out",
            "socks5",
            HostPort(HOST, free_port(HOST)),
            destinations=(DestinationRule.parse("sftp.partner.example:22"),),
        )
        self.node.reload(replace(self.node._config, forwards=(self.entry,)))
        browser = Browser(self)
        await browser.open()
        await browser.go(f"http://{HOST}:{port}/")
        return browser

    async def tab_to(self, browser: Browser, what: str) -> None:
        """Press Tab until *what* has the focus."""
        seen = []
        for _ in range(60):
            await browser.press(TAB)
            seen.append(await browser.run(FOCUSED))
            if what in seen[-1]:
                return
        self.fail(f"{what!r} is not reached by the keyboard: {seen}")

    async def test_by_keyboard_alone(self) -> None:
        """A transfer is seen to move; its session is ended, and the node drained and resumed."""
        browser = await self.show()
        # The token is asked for, in a dialog that has the focus.
        await browser.until("return document.querySelector('dialog').open", "the question")
        await browser.press(TOKEN + ENTER)
        await browser.until("return document.body.dataset.live", "the first look")
        client, _ = await self.logged_in()
        data, inner = await self.transfer(client, b"RETR big")
        inner.send(payload(3_000_000))
        rows = "return document.querySelectorAll('#sessions tbody tr').length"
        await browser.until(rows, "the session's row")
        # FTP counts what went through the data connection too, while it goes.
        await browser.until(f"{MOVED} >= 3000000", "the bytes so far")
        row = "return document.querySelector('#sessions tbody tr').innerText"
        cell = "return document.querySelector('#sessions tbody tr').cells[7].innerText"
        first = await browser.run(cell)
        self.assertIn("download", await browser.run(row))
        inner.send(payload(3_000_000))
        await browser.until(f"{MOVED} >= 6000000", "more bytes, while it runs")
        self.assertNotEqual(await browser.run(cell), first)
        self.assertIn("svc", await browser.run(row))
        await browser.until(
            "return document.querySelector('#services tbody').innerText.includes('svc')", "services"
        )
        entries = await browser.run("return document.querySelector('#entries').innerText")
        for word in ("out", "socks5", str(self.entry.listen), "what its list has"):
            self.assertIn(word, entries)
        before = await browser.run("return shown.now")
        await browser.until(f"return shown.now > {before}", "the next look by itself")
        picture = os.environ.get("RELAYGATE_PICTURE")
        if picture:
            await browser.picture(Path(picture))
        await self.tab_to(browser, "End the session of")
        await browser.press(ENTER)
        await browser.until("return document.querySelector('dialog').open", "the question")
        await browser.press(ENTER)
        await browser.until(
            "return document.querySelectorAll('#sessions tbody tr').length === 0", "the end"
        )
        await browser.until(
            "return document.querySelector('#recent tbody').innerText.includes('operator')",
            "why it ended",
        )
        data.close()
        client.close()
        await browser.run("document.body.focus()")
        await self.tab_to(browser, "drain-node")
        await browser.press(ENTER)
        await browser.until("return document.querySelector('dialog').open", "the question")
        await browser.press(ENTER)
        await browser.until(
            "return document.getElementById('state').innerText.includes('done')", "the drain"
        )
        self.assertTrue(self.node.draining)
        await self.tab_to(browser, "resume-node")
        await browser.press(ENTER)
        await browser.until(
            "return document.getElementById('state').innerText.includes('done: resume')"
            " || shown.status.state === 'running'",
            "the node's return",
        )
        self.assertFalse(self.node.draining)
        for kind, drained in (
            ("service", lambda: "svc" in self.node.drained),
            ("backend", lambda: self.node.published["svc"].backends.group.members[0].drained),
        ):
            await self.tab_to(browser, f"Drain {kind} ")
            await browser.press(ENTER)
            await browser.until("return document.querySelector('dialog').open", "the question")
            await browser.press(ENTER)
            # The button has become its opposite, and the focus stayed on it.
            label = "return document.activeElement.dataset.label"
            await browser.until(
                f"{label}?.startsWith('Resume {kind} ')", f"the button to resume the {kind}"
            )
            self.assertTrue(drained())
            await browser.press(ENTER)
            await browser.until(f"{label}?.startsWith('Drain {kind} ')", "the button to drain")
            self.assertFalse(drained())
        ends = "return document.querySelector('#certificates tbody').innerText"
        certificates = await browser.run(ends)
        self.assertIn(self.node.identity.not_after.isoformat()[:10], certificates)
        self.assertIn("DMZ node", certificates)
        # Nothing came from elsewhere, and nothing was kept from the page.
        own = await browser.run(
            "return performance.getEntriesByType('resource').every("
            "(each) => each.name.startsWith(location.origin))"
        )
        self.assertTrue(own)
        await self.fits(browser)

    async def fits(self, browser: Browser) -> None:
        """axe-core finds nothing, on a screen and on a phone, in light and in dark."""
        axe = Path(axe_core_python.__file__).with_name("axe.min.js")
        await browser.run(axe.read_text())
        backs = []
        for scheme in ("light", "dark"):
            features = [{"name": "prefers-color-scheme", "value": scheme}]
            await browser.command("Emulation.setEmulatedMedia", features=features)
            back = "return getComputedStyle(document.body).backgroundColor"
            backs.append(await browser.run(back))
            for width, height in ((1280, 1400), (390, 844)):
                await browser.command(
                    "Emulation.setDeviceMetricsOverride",
                    width=width,
                    height=height,
                    deviceScaleFactor=1,
                    mobile=width < 1000,
                )
                await browser.until(f"return window.innerWidth === {width}", "the window's width")
                # The curves are drawn anew.
                wide = "return document.documentElement.scrollWidth"
                await browser.until(f"{wide} <= {width}", f"all of it in {width} pixels")
                await browser.run(
                    "window.found = null;"
                    "axe.run().then((all) => { window.found = all.violations; })"
                )
                await browser.until("return window.found !== null", "axe-core")
                wrong = await browser.run(
                    "return window.found.map((each) => each.id + ': ' + each.nodes"
                    ".map((node) => node.html.slice(0, 80)))"
                )
                self.assertEqual(wrong, [], (scheme, width))
        self.assertNotEqual(*backs)
