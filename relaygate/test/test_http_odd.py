"""Odd clients and odd backends of HTTP: what each hears, and what never meets anybody else."""

from __future__ import annotations

import re
from typing import Any

from twisted.internet.task import LoopingCall

from relaygate import httpwatch
from relaygate.test.httppeers import GET, OK, HTTPCase, exchange, parts
from relaygate.test.smuggling import AMBIGUOUS, CLEAR, HIDDEN
from relaygate.test.test_sessions_http import CLOSE
from relaygate.test.wire import lines, logged, until

_R = b"HTTP/1.1 200 OK\r\n"
_POISON = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nPOISON"

# Answers of a backend's that are none: the client hears 502 at once, and is served on.
NO_ANSWERS = {
    "greeting of another protocol": b"220 ready\r\n",
    "identification of SSH": b"SSH-2.0-x\r\n",
    "alert of TLS": b"\x15\x03\x03\x00\x02\x02\x46",
    "page without a head": b"<html>hello</html>",
    "HTTP/2": b"HTTP/2 200 OK\r\n\r\n",
    "HTTP/1.2": b"HTTP/1.2 200 OK\r\nContent-Length: 0\r\n\r\n",
    "status of two digits": b"HTTP/1.1 99 x\r\n\r\n",
    "status of zeros": b"HTTP/1.1 000 x\r\nContent-Length: 0\r\n\r\n",
    "status of four digits": b"HTTP/1.1 1000 x\r\nContent-Length: 0\r\n\r\n",
    "protocol that nobody asked for": b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\n"
    b"Connection: Upgrade\r\n\r\nPOISON",
    "interim answers without end": b"HTTP/1.1 100 C\r\n\r\n" * 300,
    "length and chunks": _R + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two equal lengths": _R + b"Content-Length: 2\r\nContent-Length: 2\r\n\r\nok",
    "negative length": _R + b"Content-Length: -2\r\n\r\nok",
    "another coding": _R + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    "chunks in HTTP/1.0": b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "bare LF": b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
    "folded field": _R + b"X: a\r\n b\r\nContent-Length: 2\r\n\r\nok",
    "blank before a colon": _R + b"Content-Length : 2\r\n\r\nok",
    "NUL": _R + b"X: \0\r\nContent-Length: 2\r\n\r\nok",
    "control byte in the reason": b"HTTP/1.1 200 O\x01K\r\nContent-Length: 2\r\n\r\nok",
    "too large a head": _R + b"X: " + b"a" * 70_000 + b"\r\n\r\n",
    "too many fields": _R + b"X: a\r\n" * 300 + b"\r\n",
    "reset": b"",
}
# Answers with something behind them, which is for nobody.
TOO_MUCH = {
    "two answers": (200, OK + _POISON),
    "chunks and more": (
        200,
        _R + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n" + _POISON,
    ),
    "204 with a body": (204, b"HTTP/1.1 204 N\r\nContent-Length: 6\r\n\r\nPOISON"),
    "304 with a body": (304, b"HTTP/1.1 304 N\r\nContent-Length: 6\r\n\r\nPOISON"),
    "early hints with a length": (
        103,
        b"HTTP/1.1 103 E\r\nContent-Length: 6\r\n\r\n" + OK + _POISON,
    ),
}
# Answers that break off: the client must not take them for whole.
TOO_LITTLE = {
    "length": _R + b"Content-Length: 20\r\nConnection: close\r\n\r\nok",
    "chunks": _R + b"Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n2\r\nok\r\n",
    "no chunks": _R + b"Transfer-Encoding: chunked\r\n\r\n2\r\nok\r\nzz\r\n",
    "nothing more": _R + b"Content-Length: 20\r\n\r\nok",
}


class OddClientTests(HTTPCase):
    """Clients."""

    async def test_corpora(self) -> None:
        """Requirements 50 to 55: each request is one to us, or none, and never two."""
        script = await self.serve(keepalive_timeout_s=0.2)
        for name, data in (AMBIGUOUS | CLEAR).items():
            said = await self.ask(data, ends=True)
            self.assertEqual(len(re.findall(rb"HTTP/1\.1 [2-5]", said)), 1, name)
            if name in AMBIGUOUS:
                self.assertRegex(said, rb"^HTTP/1\.1 (400|501|505) ", name)
        self.assertNotIn(b"GET " + HIDDEN, b"".join(each[:30] for each in script.requests))

    async def test_connect(self) -> None:
        """CONNECT is 405 with the target that it has everywhere else, too."""
        script = await self.serve()
        said = await self.ask(b"CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n")
        self.assertEqual(parts(said)[0], 405)
        self.assertEqual(script.requests, [])

    async def test_ahead_of_an_upgrade(self) -> None:
        """Requirement 59: what comes behind a change of protocol that is refused is not served."""
        script = await self.serve()
        ask = GET.replace(b"\r\n\r\n", b"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        said = await self.ask(ask + b"GET /second HTTP/1.1\r\nHost: a\r\n\r\n")
        self.assertEqual(said.count(b"HTTP/1.1 "), 1)
        self.assertEqual(len(script.requests), 1)

    async def test_never_its_body(self) -> None:
        """Requirement 58: who gets a 100 and does not send its body is told 408."""
        self.patch(httpwatch, "LOOK_S", 0.3)
        await self.serve(None, continue_timeout_s=0.1)
        said = await self.ask(
            b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        )
        self.assertRegex(said, rb"^HTTP/1\.1 100 Continue\r\n\r\nHTTP/1\.1 408 ")

    async def test_many_ranges(self) -> None:
        """Very many ranges are the backend's to judge, and arrive as they are."""
        script = await self.serve()
        ranges = b"Range: bytes=" + b",".join(b"%d-%d" % (n, n) for n in range(2000))
        await self.ask(CLOSE.replace(b"\r\n\r\n", b"\r\n" + ranges + b"\r\n\r\n"))
        self.assertIn(b"\r\n" + ranges + b"\r\n", script.requests[0])


class OddBackendTests(HTTPCase):
    """Backends."""

    async def after(self, answer: bytes) -> bytes:
        """What a client hears that asks twice, and whose first request is answered by *answer*."""
        self.script.answers = [lambda asked: answer if asked.startswith(b"GET / ") else OK]
        return await self.ask(GET + CLOSE.replace(b"GET / ", b"GET /second "))

    async def test_no_answers(self) -> None:
        """Requirement 60: what is no answer is a 502 at once, and the next request is served."""
        await self.serve(response_timeout_s=60.0)
        for name, answer in NO_ANSWERS.items():
            said = await self.after(answer)
            self.assertEqual(parts(said)[0], 502, name)
            self.assertRegex(said, rb"HTTP/1\.1 200 OK\r\n(.+\r\n)+\r\nok$", name)
            self.assertNotIn(b"POISON", said, name)

    async def test_too_much(self) -> None:
        """Requirement 60: what is behind an answer meets nobody, whoever asks next."""
        await self.serve()
        for name, (status, answer) in TOO_MUCH.items():
            for _ in range(3):
                said = await self.after(answer)
                self.assertEqual(parts(said)[0], status, name)
                self.assertTrue(said.endswith(b"\r\n\r\nok"), name)
                self.assertNotIn(b"POISON", said, name)

    async def test_too_little(self) -> None:
        """Requirement 60: an answer that breaks off, or stops, is a reset for the client."""
        self.patch(httpwatch, "LOOK_S", 0.2)
        await self.serve(response_timeout_s=0.5)
        for name, answer in TOO_LITTLE.items():
            with logged() as events:
                said = await self.after(answer)
                await self.ends(events)
            self.assertTrue(said.endswith(b"<reset>"), name)
            self.assertNotIn(b"/second", "".join(lines(events, " request: ")).encode(), name)

    async def test_trickle(self) -> None:
        """Requirement 86: fields that drip for ever do not prolong the wait for an answer: 504."""
        script = await self.serve(_R + b"X: 0\r\n", response_timeout_s=1.0)
        work = self.asking(self.once)
        await until(lambda: script.requests, "a request")
        transport: Any = script.connections[-1].transport
        drip = LoopingCall(transport.write, b"X: 1\r\n")
        dripping = drip.start(0.05)
        try:
            self.assertEqual(parts(await work)[0], 504)
        finally:
            drip.stop()
            await dripping

    def once(self) -> bytes:
        """Ask once."""
        return exchange(self.port, CLOSE)
