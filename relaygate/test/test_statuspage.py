"""Tests of the status page and its metrics, and of ``relaygate ban`` against a real node."""

from __future__ import annotations

import re
import socket
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase

from relaygate import statuspage
from relaygate.addresses import HostPort
from relaygate.metrics import Families
from relaygate.protocols.statushttp import (
    MAX_REQUEST,
    BadRequest,
    Request,
    RequestReader,
    Response,
)
from relaygate.statuspage import MAX_CONNECTIONS
from relaygate.test.parsercases import ParserCases
from relaygate.test.ports import free_port
from relaygate.test.properties import given, st
from relaygate.test.test_admin import socket_path
from relaygate.test.test_cli import call
from relaygate.test.test_sessions import Echo, SessionCase
from relaygate.test.wire import logged, until

CASES: ParserCases[RequestReader] = ParserCases(
    make=RequestReader,
    receive=lambda reader, data: reader.receive(data),
    found=lambda reader: reader.found,
    violation=BadRequest,
)
SAMPLE = re.compile(r"[a-z_]+(\{([a-z]+=\"[^\"]*\"(,|(?=\})))+\})? -?[0-9.e+]+")


class RequestTests(SynchronousTestCase):
    """The reader of requests."""

    def test_requests(self) -> None:
        """GET and HEAD are read, with any fields, and a query is left out."""
        for data, expected in (
            (b"GET /live HTTP/1.1\r\nHost: x\r\n\r\n", Request("/live", True)),
            (b"HEAD /ready?x=1 HTTP/1.0\r\n\r\n", Request("/ready", False)),
        ):
            self.assertEqual(CASES.check(data).found, expected)

    def test_others(self) -> None:
        """Other methods, other versions, no request at all, and too long ones are refused."""
        for line in (b"POST / HTTP/1.1", b"GET / HTTP/2.0", b"GET  / HTTP/1.1", b"GET x HTTP/1.1"):
            self.assertIn("neither", CASES.check(line + b"\r\n\r\n").error or "")
        long = CASES.outcome([b"GET / HTTP/1.1\r\n" + b"x" * MAX_REQUEST])
        self.assertIn("too long", long.error or "")

    @given(st.binary(max_size=200) | st.just(b"GET / HTTP/1.1\r\n\r\n"))
    def test_any_bytes(self, data: bytes) -> None:
        """Any bytes are a request, refused, or too few, however they are cut."""
        CASES.check(data)


class FormatTests(SynchronousTestCase):
    """The text format."""

    def test_labels(self) -> None:
        """What stands in a label cannot break out of it."""
        made = Families()
        made.add("x", "gauge", "An x.", 1, name='a"b\\c\nd')
        made.add("x", "gauge", "An x.", 2.5)
        self.assertEqual(
            bytes(made).decode(),
            "# HELP relaygate_x An x.\n# TYPE relaygate_x gauge\n"
            'relaygate_x{name="a\\"b\\\\c\\nd"} 1\nrelaygate_x 2.5\n',
        )


class SharedTests(SynchronousTestCase):
    """A page that costs something, asked for by many (Lesson 28)."""

    def setUp(self) -> None:
        self.clock: Any = Clock()
        self.made: list[Deferred[Response]] = []
        self.page = statuspage.shared(self.make, self.clock)

    async def make(self) -> Response:
        self.made.append(Deferred())
        return await self.made[-1]

    def ask(self) -> Deferred[Response]:
        return Deferred.fromCoroutine(self.page())

    def test_once_for_all(self) -> None:
        """It is made once for all who ask, and rests for four times as long as that took."""
        asking = [self.ask(), self.ask()]
        self.clock.advance(0.5)
        asking.append(self.ask())
        self.assertEqual(len(self.made), 1)
        first = Response(200, b"1")
        self.made[0].callback(first)
        self.assertEqual([self.successResultOf(each) for each in asking], [first] * 3)
        self.clock.advance(1.9)
        self.assertIs(self.successResultOf(self.ask()), first)
        self.clock.advance(0.1)
        self.assertNoResult(self.ask())
        self.assertEqual(len(self.made), 2)

    def test_longest_rest(self) -> None:
        """A DMZ node that does not answer makes no page older than a few seconds."""
        asking = self.ask()
        self.clock.advance(60.0)
        self.made[0].callback(Response(200, b"1"))
        self.successResultOf(asking)
        self.clock.advance(statuspage.LONGEST_REST_S)
        self.assertNoResult(self.ask())

    def test_failure(self) -> None:
        """One that fails, fails for all who wait, and is made again for the next."""
        asking = [self.ask(), self.ask()]
        self.made[0].errback(ValueError())
        for each in asking:
            self.failureResultOf(each, ValueError)
        self.assertNoResult(self.ask())


class StatusCase(SessionCase):
    """Both nodes with their pages."""

    async def begin(self, backend: Any = Echo, **more: Any) -> None:
        """Start both nodes."""
        self.dmz_page, self.inside_page = free_port(), free_port()
        self.policy = {"status_listen": HostPort("127.0.0.1", self.dmz_page)}
        self.inside = {"status_listen": HostPort("127.0.0.1", self.inside_page)}
        await self.start("tcp", backend, **more)

    async def is_reset(self, asking: socket.socket) -> None:
        """Wait for a reset."""
        with self.assertRaises(ConnectionResetError):
            await deferToThread(asking.recv, 1)

    async def get(self, port: int, path: str, method: str = "GET") -> tuple[int, str]:
        """The status and the body of one request."""

        def work() -> bytes:
            with socket.create_connection(("127.0.0.1", port), 10) as connection:
                connection.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                with connection.makefile("rb") as stream:
                    return stream.read()

        head, _, body = (await deferToThread(work)).partition(b"\r\n\r\n")
        return int(head.split()[1]), body.decode()


class StatusTests(StatusCase):
    """What is told, and to whom (Lesson 28)."""

    async def test_truth(self) -> None:
        """Both nodes are live, and ready as long as the service leads somewhere."""
        await self.begin()
        for port in (self.dmz_page, self.inside_page):
            self.assertEqual(await self.get(port, "/live"), (200, "ok\n"))
            self.assertEqual(await self.get(port, "/ready"), (200, "ok\n"))
            self.assertEqual(await self.get(port, "/ready", "HEAD"), (200, ""))
        self.assertEqual((await self.get(self.dmz_page, "/metrics"))[0], 404)
        (link,) = self.node.links.values()
        link._declaration.refused = {"svc": "no"}
        self.assertEqual(await self.get(self.inside_page, "/ready"), (503, "svc: no gateway\n"))
        stopping = self.node.stopService()
        await until(lambda: not list(self.dmz.listeners))
        self.assertEqual(await self.get(self.dmz_page, "/ready"), (503, "no internal node\n"))
        self.assertEqual((await self.get(self.dmz_page, "/live"))[0], 200)
        await stopping

    async def test_no_backend(self) -> None:
        """A node whose service has no backend left is not ready, and says which service."""
        await self.begin()
        (member,) = self.node.published["svc"].backends.group.members
        member.drained = True
        self.assertEqual(await self.get(self.inside_page, "/ready"), (503, "svc: no backend\n"))

    async def test_metrics(self) -> None:
        """Every line is one of the format, and bytes are counted while a session runs, on both
        nodes (Lesson 11).
        """
        await self.begin()
        client = await self.client(b"hello")
        await self.got(client, b"hello")
        status, body = await self.get(self.inside_page, "/metrics")
        self.assertEqual(status, 200)
        for line in body.splitlines():
            self.assertTrue(line.startswith("# ") or SAMPLE.fullmatch(line), line)
        for expected in (
            'relaygate_sessions{service="svc"} 1',
            'relaygate_bytes_total{service="svc",direction="in"} 5',
            'relaygate_gateway_up{gateway="dmz"} 1',
            'relaygate_dmz_sessions{gateway="dmz"} 1',
            'relaygate_dmz_service_bytes_total{gateway="dmz",service="svc",direction="out"} 5',
            'relaygate_dmz_turned_away_total{gateway="dmz",reason="banned"} 0',
            'relaygate_dmz_second_nodes_asked_total{gateway="dmz"} 0',
        ):
            self.assertIn(f"\n{expected}\n", body)
        client.transport.loseConnection()  # type: ignore[union-attr]
        await until(lambda: not self.node.sessions)
        _, body = await self.get(self.inside_page, "/metrics")
        self.assertIn('relaygate_bytes_total{service="svc",direction="in"} 5\n', body)

    async def test_quiet_and_bounded(self) -> None:
        """Checks leave no line; who says nothing, or nonsense, or comes too often, is dropped."""
        self.patch(statuspage, "REQUEST_LIMIT_S", 0.2)
        with logged() as events:
            await self.begin()
            for _ in range(5):
                await self.get(self.dmz_page, "/ready")
            for says in (b"", b"NONSENSE / HTTP/1.1\r\n\r\n"):
                with socket.create_connection(("127.0.0.1", self.dmz_page), 10) as asking:
                    asking.sendall(says)
                    await self.is_reset(asking)
        page_lines = [each for each in events if each["log_namespace"] == statuspage.__name__]
        self.assertEqual(page_lines, [])
        page = self.dmz._status
        assert page is not None
        page.connections |= {object() for _ in range(MAX_CONNECTIONS)}  # type: ignore[misc]
        self.assertIsNone(page.buildProtocol(None))
        page.connections.clear()


class BanCommandTests(SessionCase):
    """The command line's side of bans."""

    async def test_commands(self) -> None:
        """``ban``, ``bans`` and ``unban`` do what they say, and refuse in words."""
        self.admin_socket = socket_path(self)
        await self.start("tcp", Echo)
        where = ("--socket", str(self.admin_socket))
        ran = await deferToThread(call, "ban", "192.0.2.0/24", "2001:db8::1", "--for", "2h", *where)
        self.assertEqual(ran, (0, "banned: 2, for 7200 s\ndmz: ok\n", ""))
        status, out, _ = await deferToThread(call, "bans", *where)
        self.assertEqual(status, 0)
        self.assertRegex(out, r"192\.0\.2\.0/24 +7[12][0-9]{2}\n2001:db8::1 +7[12][0-9]{2}\n")
        ran = await deferToThread(call, "unban", "192.0.2.0/24", *where)
        self.assertEqual(ran, (0, "lifted: 1\ndmz: ok\n", ""))
        ran = await deferToThread(call, "unban", "--all", *where)
        self.assertEqual(ran, (0, "lifted: 1\ndmz: ok\n", ""))
        self.assertEqual(len(self.dmz.book.bans), 0)
        for wrong in (("ban", "192.0.2.1/24"), ("ban", "192.0.2.1", "--for", "0"), ("unban",)):
            status, _, err = await deferToThread(call, *wrong, *where)
            self.assertNotEqual((status, err), (0, ""), wrong)
