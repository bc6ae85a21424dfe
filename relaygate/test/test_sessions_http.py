"""Tests of HTTP through both nodes in this process: exchanges, as client and backend see them."""

from __future__ import annotations

import errno
import re
import socket
import struct
import time
from typing import Any, ClassVar

from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater

from relaygate import bodypump, httppool, httprelay, httpwatch, relay
from relaygate.backends import Backends
from relaygate.config import HTTPConfig
from relaygate.dial import DialFailed
from relaygate.handshake import HandshakeFailed
from relaygate.test.httppeers import (
    GET,
    OK,
    HTTPCase,
    exchange,
    parts,
    read_all,
    read_answer,
)
from relaygate.test.peers import in_thread
from relaygate.test.test_sessions import twisted
from relaygate.test.wire import lines, logged, until

CLOSE = GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
BIG = 3_000_000


def post(body: bytes, *fields: bytes) -> bytes:
    """A whole POST with *body*, on a connection that closes behind it."""
    head = (b"POST /in HTTP/1.1", b"Host: a.example", b"Connection: close", *fields)
    length = b"Content-Length: %d" % len(body)
    return b"\r\n".join((*head, length)) + b"\r\n\r\n" + body


class ExchangeTests(HTTPCase):
    """Requests and their responses."""

    async def test_one(self) -> None:
        """
        A request reaches the backend, its answer the client, and one line tells of it
        (Requirement 57: what is said of the client is ours alone).
        """
        await self.serve()
        lying = (
            b"\r\nX-Forwarded-For: 1.2.3.4\r\nForwarded: for=1.2.3.4\r\nX_Forwarded_For: 9\r\n\r\n"
        )
        with logged() as events:
            status, fields, body = parts(await self.ask(CLOSE[:-4] + lying))
            ended = await self.ends(events)
        self.assertEqual((status, body), (200, b"ok"))
        self.assertEqual(fields[b"via"], b"1.1 relaygate")
        self.assertEqual(
            self.script.heard,
            b"GET / HTTP/1.1\r\nHost: files.example\r\n"
            b"Forwarded: for=127.0.0.1;host=files.example;proto=http\r\n"
            b"X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\n"
            b"X-Forwarded-Host: files.example\r\nX-Real-IP: 127.0.0.1\r\n"
            b"Via: 1.1 relaygate\r\n\r\n",
        )
        (line,) = lines(events, " request: ")
        for part in ("method=GET", "path=/ ", "status=200", "bytes_in=0", "bytes_out=2"):
            self.assertIn(part, line)
        self.assertTrue(all("outcome=done/relay" in line for line in ended), ended)

    async def test_kept_alive(self) -> None:
        """A connection serves many requests, and so does one to the backend."""
        script = await self.serve()

        def client() -> list[bytes]:
            with socket.create_connection(("127.0.0.1", self.port), 20) as one:
                found = []
                for _ in range(5):
                    one.sendall(GET)
                    found.append(read_answer(one))
                return found

        answers = await in_thread(client)
        self.assertEqual([parts(each)[0] for each in answers], [200] * 5)
        self.assertEqual(len(script.connections), 1)
        self.assertEqual(len(script.requests), 5)

    async def test_shared(self) -> None:
        """Another client's request goes out on the connection that the first one has left."""
        script = await self.serve()
        for _ in range(3):
            await self.ask(CLOSE)
        self.assertEqual((len(script.connections), len(script.requests)), (1, 3))

    async def test_pipelined(self) -> None:
        """Requirement 60: answers to requests that were sent at once come in their order."""
        replies = [b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % each for each in range(3)]
        await self.serve(*replies)
        said = await self.ask(GET + GET + CLOSE)
        self.assertEqual(re.findall(rb"\r\n\r\n([0-9])", said), [b"0", b"1", b"2"])

    async def test_half_closed(self) -> None:
        """Requirement 61: who ends its direction behind its requests gets all answers."""
        await self.serve()
        said = await self.ask(GET + GET, ends=True)
        self.assertEqual(said.count(b"200 OK"), 2)
        self.assertNotIn(b"reset", said)

    async def test_http10(self) -> None:
        """A client of HTTP/1.0 gets what it can read, and the end of the connection."""
        chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
        await self.serve(chunked)
        status, fields, body = parts(await self.ask(b"GET / HTTP/1.0\r\n\r\n"))
        self.assertEqual((status, body, fields[b"connection"]), (200, b"ok", b"close"))
        self.assertNotIn(b"transfer-encoding", fields)
        host = f"Host: 127.0.0.1:{self.port}\r\n".encode()
        self.assertIn(host, self.script.heard)

    async def test_chunked(self) -> None:
        """Requirement 53: chunks are written anew both ways, trailers among them but for some."""
        await self.serve(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"1;x\r\no\r\n1\r\nk\r\n0\r\nX-Sum: 7\r\nSet-Cookie: a=b\r\n\r\n"
        )
        body = b"3;ext=1\r\nabc\r\n2\r\nde\r\n0\r\nHost: b\r\nX-T: 1\r\n\r\n"
        said = await self.ask(CHUNKED, body)
        self.assertTrue(said.endswith(b"\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 7\r\n\r\n"), said)
        self.assertTrue(
            self.script.heard.endswith(b"\r\n\r\n5\r\nabcde\r\n0\r\nX-T: 1\r\n\r\n"),
            self.script.heard,
        )

    async def test_close_delimited(self) -> None:
        """Requirement 60: a body that ends with the connection stays one."""
        body = b"x" * 200_000
        await self.serve(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + body)
        status, fields, found = parts(await self.ask(GET))
        self.assertEqual((status, found == body), (200, True))
        self.assertNotIn(b"transfer-encoding", fields)
        self.assertNotIn(b"content-length", fields)

    async def test_cut_short(self) -> None:
        """A response that breaks off is a reset for the client, never a whole one."""
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 900000\r\nConnection: close\r\n\r\n"
        await self.serve(head + b"abc")
        with logged() as events:
            said = await self.ask(GET)
            await self.ends(events)
        self.assertTrue(said.endswith(b"<reset>"), said)
        (line,) = lines(events, " request: ")
        self.assertIn("bytes_out=3 ", line)
        self.assertIn("broke off", line)

    async def no_body(self, line: bytes, answer: bytes) -> None:
        """Ask twice on one connection what is answered without a body."""
        script = await self.serve(answer)
        first = line + b"\r\nHost: a\r\n\r\n"
        said = await self.ask(first, first[:-2] + b"Connection: close\r\n\r\n")
        self.assertEqual(said.count(b"HTTP/1.1 "), 2, said)
        self.assertEqual(len(script.connections), 1)

    async def test_head(self) -> None:
        """Requirement 60: the answer to HEAD has no body, whatever it says of one."""
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n"
        await self.no_body(b"HEAD / HTTP/1.1", answer)

    async def test_not_modified(self) -> None:
        """Requirement 60: neither has a 304."""
        answer = b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n"
        await self.no_body(b"GET / HTTP/1.1", answer)

    async def test_no_content(self) -> None:
        """Requirement 60: nor a 204."""
        await self.no_body(b"DELETE /x HTTP/1.1", b"HTTP/1.1 204 No Content\r\n\r\n")

    async def test_big(self) -> None:
        """Large bodies pass by the HTTP code, both ways, and their bytes are all there."""
        body = bytes(range(256)) * (BIG // 256)
        taken: list[Any] = []
        whole = bodypump.make_body_pump

        def note(*arguments: Any) -> Any:
            taken.append(arguments[-1])
            return whole(*arguments)

        self.patch(httprelay, "make_body_pump", note)
        await self.serve(
            lambda request: b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
        )
        with logged() as events:
            said = await self.ask(post(body))
            await self.ends(events)
        self.assertEqual(parts(said)[2] == body, True)
        self.assertTrue(self.script.heard.endswith(body))
        self.assertEqual(len(taken), 2)
        self.assertGreater(sum(taken), 2 * BIG - 400_000)
        (line,) = lines(events, " request: ")
        self.assertIn(f"bytes_in={len(body)} bytes_out={len(body)} ", line)
        # Another request on the same connections: nothing was left behind.
        self.assertEqual(parts(await self.ask(post(b"x")))[0], 200)


class ContinueTests(HTTPCase):
    """Requirement 58: a client that asks before it sends its body."""

    EXPECTS = (
        b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\nExpect: 100-continue\r\n"
        b"Connection: close\r\n\r\n"
    )

    async def test_asked(self) -> None:
        """The backend's 100 is passed on, and then the body."""
        # Ours would come much later.
        script = await self.serve(continue_timeout_s=600.0)

        def client() -> bytes:
            with socket.create_connection(("127.0.0.1", self.port), 20) as one:
                one.sendall(self.EXPECTS)
                said = read_answer(one)
                one.sendall(b"body")
                return said + read_all(one)

        work = self.asking(client)
        await until(lambda: b"Expect: 100-continue\r\n" in script.heard, "the request's head")
        transport: Any = script.connections[-1].transport
        transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        said = await work
        self.assertTrue(said.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK"), said)
        self.assertTrue(script.heard.endswith(b"\r\n\r\nbody"))

    async def test_refused(self) -> None:
        """A final answer is passed on at once, and the connection ends: nobody reads the body."""
        script = await self.serve()
        work = self.asking(exchange, self.port, self.EXPECTS)
        await until(lambda: b"Expect: 100-continue\r\n" in script.heard, "the request's head")
        transport: Any = script.connections[-1].transport
        transport.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")
        status, fields, body = parts(await work)
        self.assertEqual((status, fields[b"connection"], body), (401, b"close", b""))

    async def test_silent(self) -> None:
        """A backend that says nothing gets the body after a while."""
        await self.serve(continue_timeout_s=0.2)

        def client() -> bytes:
            with socket.create_connection(("127.0.0.1", self.port), 20) as one:
                one.sendall(self.EXPECTS)
                said = read_answer(one)
                one.sendall(b"body")
                return said + read_all(one)

        said = await in_thread(client)
        self.assertTrue(said.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK"), said)
        self.assertTrue(self.script.heard.endswith(b"\r\n\r\nbody"))

    async def test_unknown(self) -> None:
        """Another expectation is answered 417."""
        await self.serve()
        said = await self.ask(CLOSE[:-2] + b"Expect: wonders\r\n\r\n")
        self.assertEqual(parts(said)[0], 417)
        self.assertEqual(self.script.requests, [])


class BackendTests(HTTPCase):
    """Backends that fail."""

    async def test_none(self) -> None:
        """No backend at all: the client of a node that has none hears 503, of nothing inside."""
        await self.start("http", None, http=HTTPConfig())
        said = await self.ask(GET)
        status, fields, body = parts(said)
        self.assertEqual((status, body), (503, b"503 Service Unavailable\n"))
        self.assertEqual(fields[b"connection"], b"close")

    async def test_repeated(self) -> None:
        """What only reads is asked again where the backend closed without a word."""
        script = await self.serve(b"", OK)
        self.assertEqual(parts(await self.ask(CLOSE))[0], 200)
        self.assertEqual(len(script.requests), 2)
        script.answers = [b""]
        self.assertEqual(parts(await self.ask(CLOSE))[0], 502)

    async def test_never_repeated(self) -> None:
        """A POST is never sent twice (lesson 16)."""
        script = await self.serve(b"", OK)
        with logged() as events:
            status, fields, body = parts(await self.ask(post(b"order")))
        self.assertEqual((status, body), (502, b"502 Bad Gateway\n"))
        self.assertEqual(len(script.requests), 1)
        self.assertEqual(fields[b"server"], b"relaygate")
        self.assertEqual(len(lines(events, "status=502")), 1)

    async def test_slow(self) -> None:
        """A backend that does not answer: 504."""
        await self.serve(None, response_timeout_s=0.3)
        self.assertEqual(parts(await self.ask(CLOSE))[0], 504)

    async def test_asked_for_silence(self) -> None:
        """
        A client whose requests are never answered, because they are such, takes the service from
        nobody: a server that accepts connections is there (Requirement 83).
        """
        script = await self.serve(*[b""] * 12)
        with logged() as events:
            for _ in range(6):
                self.assertEqual(parts(await self.ask(post(b"x")))[0], 502)
            (backend,) = self.node.published["svc"].backends.group.members
            self.assertEqual(backend.health.state, "marked")
            self.assertEqual(self.node.lacking(), [])
            script.answers = [OK]
            self.assertEqual(parts(await self.ask(CLOSE))[0], 200)
        self.assertEqual(lines(events, "listener closed"), [])
        self.assertEqual(backend.health.state, "up")
        # One that takes no connections is not.
        self.node.published["svc"].backends.failed(backend, "silence", costly=True, reached=True)
        self.assertEqual(self.node.offer_state("svc"), "offered")
        self.node.published["svc"].backends.failed(backend, "refused")
        self.assertEqual(self.node.offer_state("svc"), "down")

    async def test_not_reached(self) -> None:
        """A backend that no connection leads to: 504 if it is silent, in its handshake too."""
        await self.serve()
        self.patch(httppool, "PROOF_S", 3600.0)
        self.assertEqual(parts(await self.ask(CLOSE))[0], 200)

        failures = [
            HandshakeFailed("no TLS"),
            HandshakeFailed("nothing came", late=True),
            DialFailed("refused", errno.ECONNREFUSED),
            DialFailed("nobody is there", errno.ETIMEDOUT),
        ]

        async def fail(*_: object) -> Any:
            raise failures.pop(0)

        costly: list[bool] = []
        self.patch(httppool.BackendPool, "take", lambda *_, **__: None)
        self.patch(httppool.BackendPool, "get", fail)
        self.patch(Backends, "failed", lambda *_, **how: costly.append(how["costly"]))
        found = [parts(await self.ask(CLOSE))[0] for _ in range(4)]
        self.assertEqual(found, [503, 504, 503, 504])
        self.assertEqual(costly, [False, True, False, True])

    async def test_as2_slow(self) -> None:
        """Requirement 62: AS2 has a deadline of its own, for receipts that take minutes."""
        script = await self.serve(None, response_timeout_s=0.2, receipt_timeout_s=30.0)
        work = self.asking(exchange, self.port, post(b"edi", b"AS2-From: a", b"AS2-To: b"))
        await until(lambda: script.requests, "the message")
        await deferLater(twisted, 0.6)
        transport: Any = script.connections[-1].transport
        transport.write(OK)
        self.assertEqual(parts(await work)[0], 200)

    async def test_early_answer(self) -> None:
        """An answer before the body is whole is passed on, and then the connection ends."""
        script = await self.serve(None)

        def client() -> bytes:
            with socket.create_connection(("127.0.0.1", self.port), 20) as one:
                one.sendall(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\nabc")
                return read_all(one)

        work = self.asking(client)
        await until(lambda: script.heard.endswith(b"abc"), "the body's begin")
        transport: Any = script.connections[-1].transport
        transport.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig")
        status, fields, body = parts(await work)
        self.assertEqual((status, fields[b"connection"], body), (413, b"close", b"big"))

    async def test_leftover(self) -> None:
        """Requirement 60: what comes behind an answer never meets another request."""
        stray = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nstolen"
        script = await self.serve(OK + stray, OK)
        for _ in range(2):
            self.assertEqual(parts(await self.ask(CLOSE))[2], b"ok")
        self.assertEqual(len(script.connections), 2)

    async def test_unasked(self) -> None:
        """Requirement 60: a backend that speaks on an idle connection loses it."""
        script = await self.serve()
        await self.ask(CLOSE)
        transport: Any = script.connections[0].transport
        transport.write(OK)
        await until(lambda: script.connections[0].over is not None, "the idle connection's end")
        self.assertEqual(parts(await self.ask(CLOSE))[2], b"ok")

    async def test_idle_ends(self) -> None:
        """An idle connection to a backend ends by itself."""
        self.patch(httppool, "IDLE_LIMIT_S", 0.2)
        script = await self.serve()
        await self.ask(CLOSE)
        await until(lambda: script.connections[0].over is not None, "the idle connection's end")

    async def test_two_lengths(self) -> None:
        """Requirement 60: an answer that can be read in two ways is a 502."""
        both = b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
        await self.serve(b"HTTP/1.1 200 OK\r\n" + both)
        self.assertEqual(parts(await self.ask(CLOSE))[0], 502)

    async def test_bound_connection(self) -> None:
        """A connection that NTLM has made one client's own is never another's."""
        answer = (
            b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: NTLM abc\r\nContent-Length: 0\r\n\r\n"
        )
        script = await self.serve(answer)

        def client() -> None:
            with socket.create_connection(("127.0.0.1", self.port), 20) as one:
                for _ in range(3):
                    one.sendall(GET)
                    read_answer(one)

        await in_thread(client)
        # One proves that the backend is there, and is taken for the first request.
        self.assertEqual(len(script.connections), 1)
        await in_thread(client)
        self.assertEqual(len(script.connections), 2)


class UpgradeTests(HTTPCase):
    """Requirement 59: changes of protocol."""

    ASKS = (
        b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\n"
        b"Upgrade: websocket\r\n\r\n"
    )
    SWITCHES = (
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    )

    async def test_tunnel(self) -> None:
        """Behind the backend's 101 bytes pass both ways, those sent too early as well."""
        script = await self.serve(self.SWITCHES + b"hello", None)

        def client() -> bytes:
            with socket.create_connection(("127.0.0.1", self.port), 20) as one:
                one.sendall(self.ASKS + b"early")
                said = bytearray()
                while not said.endswith(b"hello"):
                    said += one.recv(4096)
                one.sendall(b" late")
                return bytes(said) + read_all(one)

        with logged() as events:
            work = self.asking(client)
            await until(lambda: script.heard.endswith(b"early late"), "the client's bytes")
            transport: Any = script.connections[-1].transport
            transport.write(b"bye")
            transport.loseConnection()
            said = await work
            await self.ends(events)
        self.assertTrue(said.startswith(b"HTTP/1.1 101 "), said)
        self.assertTrue(said.endswith(b"\r\n\r\nhellobye"), said)
        self.assertIn(b"Upgrade: websocket\r\nConnection: Upgrade\r\n", script.heard)
        self.assertEqual(len(lines(events, "status=101")), 1)

    async def test_refused(self) -> None:
        """A refused change ends the connection."""
        await self.serve(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        status, fields, _ = parts(await self.ask(self.ASKS))
        self.assertEqual((status, fields[b"connection"]), (400, b"close"))

    async def test_other_token(self) -> None:
        """A 101 for another protocol, or that nobody asked for, is a 502."""
        await self.serve(self.SWITCHES.replace(b"websocket", b"h2c"))
        self.assertEqual(parts(await self.ask(self.ASKS))[0], 502)
        self.assertEqual(parts(await self.ask(CLOSE))[0], 502)

    async def test_not_let_through(self) -> None:
        """A protocol that is not let through is not asked for, nor is any with a body."""
        script = await self.serve()
        asks = self.ASKS.replace(b"websocket", b"h2c").replace(b"\r\n\r\n", b"\r\nA: b\r\n\r\n")
        await self.ask(asks.replace(b"keep-alive", b"close"))
        await self.ask(post(b"x", b"Upgrade: websocket", b"Connection: Upgrade"))
        self.assertNotIn(b"upgrade", script.heard.lower())


class RefusalTests(HTTPCase):
    """What is refused, and what an operator sees of it."""

    async def test_ambiguous(self) -> None:
        """Requirements 50 to 54: what can be read in two ways is a 400, and the end."""
        await self.serve()
        for raw in (
            CHUNKED.replace(b"Host: a", b"Host: a\r\nContent-Length: 4"),
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4, 4\r\n\r\n",
            b"GET / HTTP/1.1\nHost: a\n\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n",
            b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
        ):
            with logged() as events:
                said = await self.ask(raw + b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
                await self.ends(events)
            self.assertEqual(said.count(b"HTTP/1.1 "), 1, said)
            self.assertEqual(parts(said)[0], 400, raw)
            (line,) = lines(events, " request: ")
            self.assertIn("status=400", line)
        self.assertEqual(self.script.requests, [])

    async def test_chunks(self) -> None:
        """Requirement 53: a body with bad chunks is broken off before the backend has it."""
        script = await self.serve()
        said = await self.ask(CHUNKED, b"5\r\nhello\n0\r\n\r\n")
        self.assertEqual(parts(said)[0], 400)
        self.assertEqual(script.requests, [])

    async def test_methods(self) -> None:
        """CONNECT and TRACE are not for a gateway."""
        await self.serve()
        for line in (b"CONNECT a:443 HTTP/1.1", b"TRACE / HTTP/1.1"):
            raw = line + b"\r\nHost: a:443\r\nConnection: close\r\n\r\n"
            self.assertEqual(parts(await self.ask(raw))[0], 405)
        self.assertEqual(self.script.requests, [])

    async def test_too_large(self) -> None:
        """A body over the limit is a 413: announced, or found out."""
        script = await self.serve(max_body=1000)
        self.assertEqual(parts(await self.ask(post(b"x" * 1001)))[0], 413)
        body = b"1f4\r\n" + b"x" * 500 + b"\r\n"
        self.assertEqual(parts(await self.ask(CHUNKED, body * 3))[0], 413)
        self.assertEqual(script.requests, [])
        self.assertEqual(parts(await self.ask(post(b"x" * 1000)))[0], 200)

    async def test_max_requests(self) -> None:
        """A connection ends with its last request that is allowed."""
        await self.serve(max_requests=3)
        said = await self.ask(GET * 5)
        self.assertEqual(said.count(b"200 OK"), 3)
        self.assertEqual(said.count(b"Connection: close"), 1)

    async def test_log(self) -> None:
        """Requirement 90: no request forges a line, and no query, cookie or password is in one."""
        await self.serve()
        raw = (
            b"GET /%0a'status=200?password=secret HTTP/1.1\r\nHost: a\r\nCookie: s=secret\r\n"
            b"Authorization: Basic secret\r\nConnection: close\r\n\r\n"
        )
        with logged() as events:
            await self.ask(raw)
            await self.ends(events)
        (line,) = lines(events, " request: ")
        self.assertNotIn("secret", "".join(lines(events)))
        self.assertEqual(line.count("status=200"), 2)
        self.assertIn('path="/%0a\'status=200"', line)


class Deaf(Protocol):
    """A backend that reads nothing."""

    # The reactor does not hold what it does not read.
    held: ClassVar[list[Deaf]] = []

    def connectionMade(self) -> None:
        self.held.append(self)
        self.transport.pauseProducing()  # type: ignore[union-attr]
        # The reactor forgets who is not read, and what nobody knows is collected as garbage.
        vars(self.factory).setdefault("kept", []).append(self)


class LimitTests(HTTPCase):
    """Requirement 86: time."""

    async def test_slow_head(self) -> None:
        """A head has to be there in time, however many bytes drip: 408."""
        await self.serve(header_timeout_s=0.5)

        def client() -> bytes:
            with socket.create_connection(("127.0.0.1", self.port), 20) as one:
                one.settimeout(0.05)
                said = bytearray()
                one.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n")
                for _ in range(400):
                    try:
                        one.sendall(b"A: b\r\n")
                        data = one.recv(4096)
                    except TimeoutError:
                        continue
                    except OSError:
                        break
                    if not data:
                        break
                    said += data
                return bytes(said)

        self.assertEqual(parts(await in_thread(client))[0], 408)

    async def test_silence(self) -> None:
        """Who says nothing at all is closed without a word."""
        await self.serve(header_timeout_s=0.3)
        self.assertEqual(await self.ask(), b"")

    async def test_idle(self) -> None:
        """Between requests there is a limit as well."""
        await self.serve(keepalive_timeout_s=0.3)
        said = await self.ask(GET)
        self.assertEqual(parts(said)[2], b"ok")

    async def test_slow_body(self) -> None:
        """A body that comes too slowly is a 408, and the backend's connection is reset."""
        self.patch(httpwatch, "LOOK_S", 0.3)
        script = await self.serve(body_min_rate=100_000)
        said = await self.ask(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 900000\r\n\r\nabc")
        self.assertEqual(parts(said)[0], 408)
        await until(lambda: script.connections[-1].over is not None, "the backend's end")

    async def test_unread(self) -> None:
        """A client that does not read what it asked for is cut off, on both nodes."""
        self.patch(httpwatch, "LOOK_S", 0.2)
        self.patch(httpwatch, "UNREAD_LIMIT_S", 0.6)
        self.patch(relay, "UNREAD_LOOK_S", 0.2)
        body = b"x" * 60_000_000
        await self.serve(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        with logged() as events:
            client = socket.create_connection(("127.0.0.1", self.port), 20)
            self.addCleanup(client.close)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.sendall(GET)
            await self.ends(events)
        self.assertIn("moved too slowly", "".join(lines(events, " request: ")))

    async def test_gone_unread(self) -> None:
        """A client that resets while it is not read, for its backend takes nothing, is noticed."""
        self.patch(httpwatch, "LOOK_S", 0.2)
        self.patch(relay, "UNREAD_LOOK_S", 0.2)
        self.addCleanup(Deaf.held.clear)
        await self.serve(body_min_rate=0, over=lambda _script: Factory.forProtocol(Deaf))
        with logged() as events, socket.create_connection(("127.0.0.1", self.port), 20) as client:
            client.setblocking(False)
            client.send(b"PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 90000000\r\n\r\n")
            data = b"x" * 1_000_000

            def stuck() -> bool:
                try:
                    client.send(data)
                except BlockingIOError:
                    return True
                return False

            # More than once, since what is full in front may still flow on behind.
            for _ in range(20):
                await until(stuck, "a full way")
                await in_thread(time.sleep, 0.05)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            ended = await self.ends(events)
        self.assertIn("client lost", "".join(lines(events, " request: ")))
        self.assertEqual(sum("outcome=client/relay" in line for line in ended), 2)

    async def test_gone_ahead(self) -> None:
        """So is one that has sent so much ahead of its turn that it is not read."""
        self.patch(httpwatch, "LOOK_S", 0.2)
        script = await self.serve(None)
        with logged() as events, socket.create_connection(("127.0.0.1", self.port), 20) as client:
            await in_thread(client.sendall, GET * 5000)
            await until(lambda: script.requests, "a request")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
            await self.ends(events)
        self.assertIn("client lost", "".join(lines(events, " request: ")))
