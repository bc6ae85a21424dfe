"""A real browser at a site behind the gateway, by HTTPS, with two backends and a cookie."""

from __future__ import annotations

import base64
import hashlib
import os
import sys

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from relaygate.addresses import HostPort
from relaygate.config import KeyFiles, PersistenceConfig, RouteConfig
from relaygate.stickiness import COOKIE
from relaygate.test import login_site
from relaygate.test.browser import Browser
from relaygate.test.peers import eventually, listening
from relaygate.test.ports import free_port
from relaygate.test.programs import Program
from relaygate.test.test_sessions_https import HTTPSCase
from relaygate.test.wire import lines, logged

HOST, HERE = "files.example", "127.0.0.1"
SAID = "return document.querySelector('#said').innerText"
CHAT = """
    window.heard = [];
    const chat = new WebSocket('wss://' + location.host + '/chat');
    chat.onopen = () => { chat.send('hello'); chat.send('there'); };
    chat.onmessage = async (event) => window.heard.push(
        event.data.text ? await event.data.text() : event.data);
"""


def key_digest(pair: KeyFiles) -> str:
    """What Chromium calls the key of a certificate."""
    key = x509.load_pem_x509_certificate(pair.certificate.read_bytes()).public_key()
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(hashlib.sha256(der).digest()).decode()


class SiteTests(HTTPSCase):
    """Chromium."""

    timeout = 300

    async def program(self, name: str, module: str, *arguments: str) -> tuple[HostPort, Program]:
        """Run a server of ours, and wait until it listens."""
        port = free_port()
        command = [sys.executable, "-m", f"relaygate.test.{module}", *arguments, HERE, str(port)]
        program = Program(self, name, command)
        program.start()
        await eventually(lambda: (HERE, port) in listening(program.pid), f"{name} listens")
        return HostPort(HERE, port), program

    async def open(self) -> Browser:
        """Two sites, an echo of WebSocket, the gateway before them, and the browser."""
        self.sites, targets = {}, []
        for name in ("north", "south"):
            target, self.sites[name] = await self.program(name, "login_site", name)
            targets.append(target)
        echo, _ = await self.program("echo", "web_echo")
        pair = self.pair(HOST)
        await self.serve(
            protocol="https",
            service={"tls": pair, "persistence": PersistenceConfig("cookie", 600.0)},
            routes=(RouteConfig((echo,), path="/chat"), RouteConfig(tuple(targets), path="/")),
        )
        browser = Browser(self)
        await browser.open(
            f"--host-resolver-rules=MAP {HOST} {HERE}",
            f"--ignore-certificate-errors-spki-list={key_digest(pair)}",
        )
        return browser

    async def log_in(self, browser: Browser) -> str:
        """Log in; returns which of the sites it is."""
        await browser.type("[name=user]", "mary")
        await browser.type("[name=password]", login_site.PASSWORD)
        await browser.click("button")
        await browser.until(f"{SAID}.includes('knows mary')", "being known")
        name: str = await browser.run("return document.title")
        return name

    async def upload(self, browser: Browser, data: bytes) -> None:
        """Send a file by the page's form, and see that it has come as it was."""
        file = self.folder / "order.bin"
        file.write_bytes(data)
        await browser.type("[name=file]", str(file))
        await browser.click("button")
        await browser.until(f"{SAID}.includes('got')", "the upload")
        said = await browser.run(SAID)
        self.assertIn(f"order.bin of mary: {len(data)} bytes", said)
        self.assertIn(hashlib.sha256(data).hexdigest(), said)

    async def test_balanced(self) -> None:
        """
        Requirement 88: a session stays with its backend by a cookie; when that one dies the next
        takes over, and the cookie moves.  WebSocket works beside it (Requirement 59).
        """
        with logged() as events:
            browser = await self.open()
            url = f"https://{HOST}:{self.port}/"
            await browser.go(url)
            first = await self.log_in(browser)
            kept = await browser.cookie(COOKIE.decode())
            self.assertTrue(kept["secure"] and kept["httpOnly"])
            self.assertEqual(kept["sameSite"], "Lax")
            for _ in range(6):
                await browser.go(url)
                self.assertEqual(await browser.run("return document.title"), first)
                self.assertIn("knows mary", await browser.run(SAID))
            await self.upload(browser, os.urandom(3_000_000))
            await browser.run(CHAT)
            await browser.until("return window.heard.length == 2", "two answers")
            self.assertEqual(await browser.run("return window.heard"), ["hello", "there"])

            await self.sites[first].stop()
            await browser.go(url)
            await browser.until(f"{SAID}.includes('who you are')", "the question")
            second = await self.log_in(browser)
            self.assertEqual({first, second}, {"north", "south"})
            moved = await browser.cookie(COOKIE.decode())
            self.assertNotEqual(moved["value"], kept["value"])
            await self.upload(browser, os.urandom(200_000))
            self.sites[first].start()
            await browser.go(url)
            self.assertEqual(await browser.run("return document.title"), second)
        requests = lines(events, " request: ")
        self.assertTrue(any("path=/upload status=200" in line for line in requests))
        self.assertTrue(any("path=/chat status=101" in line for line in requests))
