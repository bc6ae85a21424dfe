"""Tests of the entry that speaks HTTP, through both nodes."""

from __future__ import annotations

import base64

from relaygate.config.forward import UserConfig
from relaygate.test.farend import Ending
from relaygate.test.forwardnodes import EXIT, PARTNER, ForwardCase
from relaygate.test.programs import new_folder
from relaygate.test.wire import lines, logged

LENGTH = b"Content-Length: 1\r\n\r\n"


class ConnectTests(ForwardCase):
    """CONNECT: a tunnel."""

    async def test_tunnel(self) -> None:
        """Requirement 68: 200 follows the dial, without a length, and early bytes go along."""
        entry = self.entry("http-connect")
        partner = self.partner()
        await self.begin(entry)
        program = self.program(entry)
        host = f"{PARTNER}:{partner.port}"
        program.send(f"CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\nearly".encode())
        far = await partner.peer()
        await far.has(5)
        self.assertEqual(far.received, b"early")
        answer = b"HTTP/1.1 200 Connection established\r\n\r\n"
        await program.has(len(answer))
        self.assertEqual(program.received, answer)
        self.assertEqual(partner.sources[0][0], EXIT)
        await self.echoes(program, far)
        await self.all_over()

    async def test_refusals(self) -> None:
        """Requirement 68: 403, 502 and 504 say why, in a line of text, and close."""
        entry = self.entry("http-connect")
        await self.begin(entry)
        closed = self.partner()
        closed.close()
        self.names["private.partner.example"] = ["10.0.0.1"]
        with logged() as events:
            for target, status in (
                (f"{PARTNER}:{closed.port}", b"502"),
                ("no.partner.example:443", b"502"),
                ("private.partner.example:443", b"403"),
                ("127.0.0.9:443", b"403"),
            ):
                program = self.program(entry)
                program.send(f"CONNECT {target} HTTP/1.1\r\n\r\n".encode())
                self.assertIs(await program.ended(), Ending.END)
                head, _, body = bytes(program.received).partition(b"\r\n\r\n")
                self.assertTrue(head.startswith(b"HTTP/1.1 " + status), (target, head))
                self.assertTrue(body.startswith(b"relaygate: ") and body.endswith(b".\n"), body)
            await self.all_over()
        self.assertEqual(len(lines(events, " refused: entry=")), 4)

    async def test_what_is_no_request(self) -> None:
        """Requirements 50 to 54: what could be read in two ways is refused."""
        entry = self.entry("http-connect")
        await self.begin(entry)
        for words, status in (
            (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"400"),
            (b"GET ftp://x/ HTTP/1.1\r\n\r\n", b"501"),
            (b"CONNECT x HTTP/1.1\r\n\r\n", b"400"),
            (b"CONNECT x:0 HTTP/1.1\r\n\r\n", b"400"),
            (b"CONNECT x:70000 HTTP/1.1\r\n\r\n", b"400"),
            (b"CONNECT x:1 HTTP/1.1\r\nContent-Length: 1\r\n\r\n", b"400"),
            (b"\5\1\0\r\n\r\n", b"400"),
            (b"GET http://x/ HTTP/1.1\r\nA : b\r\n\r\n", b"400"),
            (b"GET http://x/ HTTP/1.1\r\n b\r\n\r\n", b"400"),
            (b"GET http://me@x/ HTTP/1.1\r\n\r\n", b"400"),
            (b"GET http://x/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"400"),
            (b"POST http://x/ HTTP/1.1\r\nTransfer-Encoding: chunked\r\n" + LENGTH, b"400"),
            (b"POST http://x/ HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\n", b"400"),
            (b"POST http://x/ HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", b"501"),
            (b"GET http://x/ HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n", b"431"),
            (b"A" * 40_000, b"431"),
        ):
            program = self.program(entry)
            program.send(words)
            await program.ended()
            self.assertEqual(program.received[9:12], status, words[:60])
        await self.all_over()

    async def test_users(self) -> None:
        """Requirement 71: without the right password the answer is 407."""
        file = new_folder(self) / "secret"
        file.touch(0o600)
        file.write_text("open:sesame\n")
        entry = self.entry("http-connect", users=(UserConfig("batch", file),))
        partner = self.partner()
        await self.begin(entry)
        host = f"{PARTNER}:{partner.port}"
        start = f"CONNECT {host} HTTP/1.1\r\n"
        for words, status in (
            ("", b"407"),
            ("batch:open", b"407"),
            ("nobody:", b"407"),
            ("batch:open:sesame", b"200"),
        ):
            coded = base64.b64encode(words.encode()).decode()
            field = f"Proxy-Authorization: Basic {coded}\r\n" if words else ""
            program = self.program(entry)
            program.send(f"{start}{field}\r\n".encode())
            await program.has(12)
            self.assertEqual(program.received[9:12], status, words)
            if status == b"407":
                await program.ended()
                self.assertIn(b"Proxy-Authenticate: Basic realm=", program.received)
            program.reset()


class AbsoluteTests(ForwardCase):
    """Requests with a whole URL."""

    async def test_request(self) -> None:
        """The partner gets a request of its own, without what is for the proxy or tells of it."""
        entry = self.entry("http-connect")
        partner = self.partner()
        await self.begin(entry)
        program = self.program(entry)
        program.send(
            f"POST http://{PARTNER}:{partner.port}/a?b HTTP/1.1\r\nHost: other.example\r\n"
            "User-Agent: test\r\nProxy-Connection: keep-alive\r\nConnection: X-Hop, Cookie\r\n"
            "X-Hop: 1\r\nCookie: c\r\nProxy-Authorization: Basic xxxx\r\n"
            "Content-Length: 4\r\n\r\nbody".encode()
        )
        far = await partner.peer()
        expected = (
            f"POST /a?b HTTP/1.1\r\nHost: {PARTNER}:{partner.port}\r\nUser-Agent: test\r\n"
            "Cookie: c\r\nContent-Length: 4\r\nConnection: close\r\n\r\nbody"
        ).encode()
        await far.has(len(expected))
        self.assertEqual(bytes(far.received), expected)
        far.send(b"HTTP/1.1 200 OK\r\n\r\nfine")
        far.finish()
        await program.got(b"HTTP/1.1 200 OK\r\n\r\nfine")
        program.close()
        await self.all_over()

    async def test_port_80(self) -> None:
        """Without a port it is 80, and that is what the policy is asked about."""
        entry = self.entry("http-connect")
        await self.begin(entry, connect=["*:443"])
        self.names["www.partner.example"] = ["203.0.113.9"]
        with logged() as events:
            program = self.program(entry)
            program.send(b"GET http://www.partner.example HTTP/1.0\r\n\r\n")
            await program.ended()
        self.assertEqual(program.received[9:12], b"403")
        self.assertTrue(lines(events, "does not permit www.partner.example:80"))
