"""Tests of the edge through both nodes in this process: lists, rates, bans, PROXY headers."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectError
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater

from relaygate import intake
from relaygate.config import BackendTLSConfig, BansConfig, HealthConfig, HTTPConfig
from relaygate.mapped import MappedPorts, Mapping
from relaygate.networks import NetworkSet, network_of
from relaygate.pki import make_ca
from relaygate.protocols.proxyheader import LOCAL, header_for
from relaygate.test.ports import free_port
from relaygate.test.test_sessions import (
    FTP,
    Echo,
    End,
    SessionCase,
    SSHServer,
    twisted,
)
from relaygate.test.wire import lines, logged, until

LOOPBACK = NetworkSet.of([network_of("127.0.0.0/8")])
ELSEWHERE = NetworkSet.of([network_of("192.0.2.0/24"), network_of("2001:db8::/32")])


def header(client: str, version: str = "v2", reached: str = "198.51.100.1") -> bytes:
    """A balancer's header for a client's connection."""
    return header_for(version, (client, 40_000), (reached, 22), "from-balancer")


class Counting(Factory):
    """Makes servers of a kind and keeps them."""

    def __init__(self, kind: type[End] = Echo) -> None:
        self.made: list[End] = []
        self._kind = kind

    def buildProtocol(self, addr: object) -> End:
        made = self._kind()
        self.made.append(made)
        return made


class Refusing(End):
    """An FTP server that knows nobody."""

    greeting = b"220 ready\r\n"

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        reply = b"331 and?\r\n" if data.startswith(b"USER") else b"530 no\r\n"
        self.transport.write(reply)  # type: ignore[union-attr]


class Unauthorised(End):
    """A web server that knows nobody."""

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        if self.data.endswith(b"\r\n\r\n"):
            answer = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n"
            self.transport.write(answer)  # type: ignore[union-attr]


class EdgeCase(SessionCase):
    """What tests of the edge share."""

    timeout = 60

    async def begin(self, protocol: Any = "tcp", kind: type[End] = Echo, **more: Any) -> None:
        """Start both nodes and a backend that counts its connections."""
        self.backend = Counting(kind)
        await self.start(protocol, self.backend, **more)

    async def served(self, says: bytes = b"hello", before: bytes = b"") -> End:
        """A client that is served."""
        client = await self.client(before + says)
        await self.got(client, says)
        return client

    async def heard(self, end: bytes) -> None:
        """Wait until the first backend's connection has brought *end*."""
        made = self.backend.made
        await until(lambda: made and made[0].data.endswith(end))

    async def dropped(self, says: bytes = b"") -> None:
        """A client that is dropped without a word, and that the inside never hears of."""
        before = len(self.backend.made)
        try:
            client = await self.client(says)
        except ConnectError:
            # The reset may come before the reactor has looked whether the connection stands.
            pass
        else:
            await self.over(client)
            self.assertEqual(client.data, b"")
        self.assertEqual(len(self.backend.made), before)

    async def command(self, **request: Any) -> dict[str, Any]:
        """The answer of the internal node to an operator."""
        answer: dict[str, Any] = json.loads(
            await self.node.commands.answer(json.dumps(request).encode())
        )
        return answer


class ListTests(EdgeCase):
    """Lists of networks (Lesson 25)."""

    async def test_denied(self) -> None:
        """Who is denied is dropped in the DMZ, before anything inside is touched
        (Requirements 86 and 89, Lesson 25).
        """
        with logged() as events:
            await self.begin(deny=LOOPBACK)
            await self.dropped()
        (line,) = lines(events, "connection dropped")
        self.assertIn('client=127.0.0.1 reason="not allowed by the service\'s lists"', line)
        self.assertEqual(self.dmz.figures()["turned_away_not_allowed"], 1)
        self.assertEqual(self.node.published["svc"].tally.refused, 0)

    async def test_allowed(self) -> None:
        """Who is allowed is served, and nobody else; deny wins."""
        await self.begin(allow=LOOPBACK, deny=ELSEWHERE)
        await self.served()
        await self.begin(allow=ELSEWHERE)
        await self.dropped()
        await self.begin(allow=LOOPBACK, deny=NetworkSet.of([network_of("127.0.0.1")]))
        await self.dropped()

    async def test_a_long_list(self) -> None:
        """A hundred thousand networks cross the uplink in pages, and are the same there."""
        many = [network_of(f"{ip_address(0x0B000000 + 512 * n)}/24") for n in range(99_000)]
        six = 0x20010DB8 << 96
        many += [network_of(f"{ip_address(six + (n << 65))}/64") for n in range(2000)]
        deny = NetworkSet.of(many)
        await self.begin(deny=deny)
        await self.served()
        (listener,) = self.dmz.listeners
        self.assertEqual(listener.offer.deny, deny)
        self.assertEqual(list(self.dmz.book.lists), [deny.name])

    async def test_the_inside_asks_too(self) -> None:
        """A DMZ node that lets everybody through opens nothing (Lesson 21)."""
        with logged() as events:
            await self.begin(deny=LOOPBACK)
            (listener,) = self.dmz.listeners
            object.__setattr__(listener.offer, "deny", None)
            await self.dropped()
            ended = await self.ends(events)
        self.assertTrue(all("outcome=policy/open" in line for line in ended), ended)


class RateTests(EdgeCase):
    """New sessions a second."""

    async def test_of_the_service(self) -> None:
        """A burst passes, then an address is dropped, and the figures say so (Requirement 86)."""
        await self.begin(max_rate_per_address=1)
        for _ in range(10):
            client = await self.served()
            client.transport.loseConnection()  # type: ignore[union-attr]
        await self.dropped()
        self.assertEqual(self.dmz.figures()["turned_away_too_often"], 1)

    async def test_of_the_node(self) -> None:
        """The DMZ's own policy bounds the rate whatever services wish for."""
        self.policy = {"max_rate": 1}
        await self.begin()
        for _ in range(10):
            await self.served()
        await self.dropped()


class BanTests(EdgeCase):
    """Bans that the inside sets (Lesson 25)."""

    async def test_by_command(self) -> None:
        """A banned address is dropped in the DMZ, until the ban is lifted."""
        await self.begin()
        running = await self.served()
        answer = await self.command(command="ban", networks=["127.0.0.0/8"], seconds=1000)
        self.assertEqual(answer["result"]["gateways"], {"dmz": "ok"})
        await self.dropped()
        running.transport.write(b" still")  # type: ignore[union-attr]
        await self.got(running, b"hello still")
        answer = await self.command(command="bans")
        (ban,) = answer["result"]["bans"]
        self.assertEqual(ban["network"], "127.0.0.0/8")
        self.assertEqual((await self.command(command="unban"))["result"]["lifted"], 1)
        await self.served()

    async def test_runs_out(self) -> None:
        """A ban ends by itself, on both nodes."""
        await self.begin()
        await self.command(command="ban", networks=["127.0.0.1"], seconds=1)
        await self.dropped()
        await until(lambda: not self.node.guard.rows())
        await until(lambda: not self.dmz.book.bans.rows(twisted.seconds()))
        await self.served()

    async def test_told_again(self) -> None:
        """A DMZ node that has forgotten is told again when the uplink comes back."""
        await self.begin()
        await self.command(command="ban", networks=["127.0.0.1"], seconds=1000)
        self.dmz.book.bans.remove(network_of("127.0.0.1"))
        (link,) = self.node.links.values()
        uplink = link._uplink
        assert uplink is not None
        uplink.end("cut")
        await until(lambda: len(self.dmz.book.bans))
        await until(lambda: list(self.dmz.listeners))
        await self.dropped()

    async def test_by_rule(self) -> None:
        """Who guesses passwords hears 421 at last, and is dropped when coming again
        (Requirement 87).
        """
        self.inside = {"bans": BansConfig(ftp_failures=3)}
        with logged() as events:
            await self.begin("ftp", Refusing, ftp=FTP)
            client = await self.client()
            await until(lambda: client.data)
            await self.guess(client, 3)
            await self.over(client)
            self.assertIn(b"\r\n421 ", client.data)
            await until(lambda: len(self.dmz.book.bans))
            await self.dropped()
        (line,) = lines(events, "banned: network=127.0.0.1")
        self.assertIn("reason='too many refused FTP logins'", line)

    async def test_guessing_in_parallel(self) -> None:
        """Who guesses in several sessions at once is not banned in one of them only: each ends with
        its next guess; one that does not guess goes on (Requirement 87).
        """
        self.inside = {"bans": BansConfig(ftp_failures=2)}
        await self.begin("ftp", Refusing, ftp=FTP)
        first, second, quiet = [await self.client() for _ in range(3)]
        for client in (first, second, quiet):
            await until(lambda: client.data)  # noqa: B023
        await self.guess(first, 2)
        await self.over(first)
        await until(lambda: len(self.dmz.book.bans))
        await self.guess(second, 1)
        await self.over(second)
        self.assertIn(b"\r\n421 ", second.data)
        quiet.transport.write(b"USER a\r\n")  # type: ignore[union-attr]
        await until(lambda: b"331" in quiet.data)

    async def guess(self, client: End, times: int) -> None:
        """Try a wrong password, so often."""
        for number in range(1, times + 1):
            client.transport.write(b"USER a\r\n")  # type: ignore[union-attr]
            await until(lambda: client.data.count(b"331") == number)  # noqa: B023
            client.transport.write(b"PASS b\r\n")  # type: ignore[union-attr]
            await until(lambda: client.data.count(b"530") == number)  # noqa: B023

    async def test_by_rule_of_http(self) -> None:
        """Who guesses passwords of HTTP is banned, too (Requirement 87)."""
        self.inside = {"bans": BansConfig(http_failures=2)}
        await self.begin("http", Unauthorised, http=HTTPConfig())
        ask = b"GET / HTTP/1.1\r\nHost: x.example\r\nAuthorization: Basic eDp5\r\n\r\n"
        for _ in range(2):
            client = await self.client(ask)
            await until(lambda: b" 401 " in client.data)  # noqa: B023
            client.transport.loseConnection()  # type: ignore[union-attr]
        await until(lambda: len(self.dmz.book.bans))
        await self.dropped(ask)

    async def test_never(self) -> None:
        """Who is never to be banned is not, by rule or by command."""
        self.inside = {"bans": BansConfig(ftp_failures=1, never=LOOPBACK)}
        await self.begin("ftp", Refusing, ftp=FTP)
        client = await self.client(b"USER a\r\n")
        await until(lambda: b"331" in client.data)
        client.transport.write(b"PASS b\r\n")  # type: ignore[union-attr]
        await until(lambda: b"530" in client.data)
        for network in ("127.0.0.1", "0.0.0.0/0"):
            answer = await self.command(command="ban", networks=[network])
            self.assertIn("bans.never", answer["error"])
        self.assertEqual(self.node.guard.rows(), [])

    async def test_mistakes(self) -> None:
        """What is no network is refused in words, and nothing is banned."""
        await self.begin()
        for networks in (["127.0.0.1/8"], ["host"], []):
            answer = await self.command(command="ban", networks=networks)
            self.assertIn("networks: ", answer["error"])
        self.assertEqual(self.node.guard.rows(), [])


class ReloadTests(EdgeCase):
    """What changes while the nodes run (Lesson 14)."""

    async def test_inside(self) -> None:
        """New lists and rules hold from the reload on, and running sessions live on."""
        await self.begin()
        running = await self.served()
        config = self.node._config
        services = (replace(config.services[0], deny=LOOPBACK, max_rate=7),)
        changed = replace(config, services=services, bans=BansConfig(ftp_failures=9))
        told = self.node.reload(changed)
        self.assertIn("bans: changed", told)
        (listener,) = self.dmz.listeners
        await until(lambda: listener.offer.deny == LOOPBACK)
        self.assertEqual(listener.rated.rates.total, 7)
        await self.dropped()
        running.transport.write(b" still")  # type: ignore[union-attr]
        await self.got(running, b"hello still")
        self.node.reload(config)
        await until(lambda: listener.offer.deny is None)
        await self.served()
        self.assertEqual(len(self.dmz.book.lists), 0)

    async def test_dmz(self) -> None:
        """New balancers are believed from the reload on, and new rates hold."""
        await self.begin()
        await self.served()
        config = self.dmz._config
        self.dmz.reload(replace(config, trusted_proxies=LOOPBACK, max_rate=1))
        for _ in range(10):
            await self.served(before=header("203.0.113.9"))
        await self.dropped(header("203.0.113.9"))
        self.dmz.reload(config)
        await self.served()


class HeaderInTests(EdgeCase):
    """PROXY headers of load balancers in front of the DMZ node."""

    def setUp(self) -> None:
        self.policy = {"trusted_proxies": LOOPBACK}

    async def test_real_address(self) -> None:
        """The client of the header is the client, on both nodes; what follows is its own
        (Requirements 72 and 73, Lesson 12).
        """
        for version in ("v1", "v2"):
            with logged() as events:
                await self.begin()
                client = await self.served(before=header("203.0.113.9", version))
                opened = lines(events, " open: service=svc ")
                client.transport.loseConnection()  # type: ignore[union-attr]
                await self.ends(events)
            self.assertEqual(len(opened), 2)
            self.assertTrue(all("client=203.0.113.9:40000" in line for line in opened), opened)

    async def test_in_pieces(self) -> None:
        """A header may come byte by byte, and a second one is payload
        (Requirements 73 and 76).
        """
        await self.begin()
        for version in ("v1", "v2"):
            whole = header("203.0.113.9", version)
            client = await self.client()
            for at in range(len(whole)):
                client.transport.write(whole[at : at + 1])  # type: ignore[union-attr]
                await deferLater(twisted, 0)
            client.transport.write(whole + b"hello")  # type: ignore[union-attr]
            await self.got(client, whole + b"hello")

    async def test_no_header(self) -> None:
        """A balancer's connection without a right header is reset, and reaches nobody
        (Requirement 72).
        """
        with logged() as events:
            await self.begin()
            short = b"PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n"
            for says in (b"SSH-2.0-x\r\n", short, header("::1")[:13] + b"x" * 9):
                client = await self.client(says)
                self.assertEqual(await self.over(client), "reset")
        self.assertEqual(self.backend.made, [])
        self.assertEqual(len(lines(events, "connection without PROXY header reset")), 3)
        self.assertEqual(self.dmz.figures()["proxy_headers_failed"], 3)

    async def test_too_slow(self) -> None:
        """A header has a deadline, which dripping does not prolong (Requirements 72 and 86)."""
        self.assertTrue(3.0 <= intake.HEADER_LIMIT_S <= 10.0)
        self.patch(intake, "HEADER_LIMIT_S", 0.2)
        await self.begin()
        client = await self.client(header("203.0.113.9")[:20])
        self.assertEqual(await self.over(client), "reset")
        self.assertEqual(len(self.dmz.intake), 0)

    async def test_balancers_look(self) -> None:
        """A balancer that only looks whether the port is open leaves no line."""
        with logged() as events:
            await self.begin()
            client = await self.client()
            await until(lambda: len(self.dmz.intake) == 1)
            client.transport.loseConnection()  # type: ignore[union-attr]
            await until(lambda: len(self.dmz.intake) == 0)
        self.assertEqual(lines(events, "PROXY header"), [])

    async def test_balancers_look_with_header(self) -> None:
        """A look that begins with LOCAL and ends reaches no backend; one that waits for a server's
        greeting gets it (Requirements 47 and 75).
        """
        with logged() as events:
            await self.begin("ssh", SSHServer)
            for version in ("v1", "v2"):
                client = await self.client(LOCAL[version])
                client.transport.loseConnection()  # type: ignore[union-attr]
                await self.over(client)
            await until(lambda: len(self.dmz.intake) == 0)
            self.assertEqual(self.backend.made, [])
            client = await self.client(LOCAL["v2"])
            await until(lambda: client.data == SSHServer.greeting)
        self.assertEqual(lines(events, "PROXY header"), [])

    async def test_local(self) -> None:
        """LOCAL and UNKNOWN are sessions of the balancer itself (Requirement 75)."""
        with logged() as events:
            await self.begin()
            for version in ("v1", "v2"):
                await self.served(before=LOCAL[version])
            opened = lines(events, " open: service=svc ")
        self.assertTrue(all("client=127.0.0.1:" in line for line in opened), opened)

    async def test_from_elsewhere(self) -> None:
        """From anybody else a header is payload: its address is not believed
        (Requirement 72).
        """
        self.policy = {"trusted_proxies": ELSEWHERE}
        with logged() as events:
            await self.begin()
            whole = header("203.0.113.9")
            await self.served(whole + b"hello")
            opened = lines(events, " open: service=svc ")
        self.assertTrue(all("client=127.0.0.1:" in line for line in opened), opened)

    async def test_lists_caps_and_bans(self) -> None:
        """Lists, caps and bans see the header's client (Requirements 72, 87 and 89)."""
        await self.begin(deny=ELSEWHERE, max_sessions_per_address=1)
        await self.served(before=header("203.0.113.1"))
        await self.served(before=header("203.0.113.2"))
        for denied in ("192.0.2.7", "2001:db8::7", "203.0.113.2"):
            await self.dropped(header(denied))
        await self.command(command="ban", networks=["203.0.113.3"], seconds=1000)
        await self.dropped(header("203.0.113.3"))
        await self.served(before=header("203.0.113.4"))

    async def test_one_customer_of_ipv6(self) -> None:
        """Clients of one /64 count as one, of another /64 as others (Requirement 86)."""
        await self.begin(max_sessions_per_address=1)
        await self.served(before=header("2001:db8:1:1::1", reached="2001:db8::1"))
        await self.dropped(header("2001:db8:1:1:ffff::2", reached="2001:db8::1"))
        await self.served(before=header("2001:db8:1:2::1", reached="2001:db8::1"))

    async def test_data_connections(self) -> None:
        """A data connection that a proxy passes on is its header's client's, and nobody else's
        (Requirement 22).
        """
        await self.begin()
        came: list[Any] = []

        def expects(address: str) -> bool:
            return address == "203.0.113.9"

        ports = self.dmz._ports
        passive = ports.open("127.0.0.1", (50_000, 50_999), expects, came.append, lambda: None)
        number = free_port()
        mapping = Mapping("svc", number, number, (), False)
        ranges = MappedPorts(
            twisted, ports.allowed, lambda _, __, leg: came.append(leg), self.dmz.intake
        )
        self.addCleanup(ranges.stop)
        ranges.begin("0123456789abcdef", "203.0.113.9", "127.0.0.1", mapping)
        for self.port in (passive.number, number):
            for stranger in (b"x" * 20, header("203.0.113.8"), LOCAL["v2"]):
                self.assertEqual(await self.over(await self.client(stranger)), "reset")
            self.assertEqual(came, [])
            await self.client(header("203.0.113.9") + b"data")
            await until(lambda: came)
            leg = came.pop()
            self.assertEqual(leg.socket.recv(10), b"data")
            leg.abortConnection()

    async def test_many_wait(self) -> None:
        """Connections that wait for a header are bounded, and the others go on."""
        self.policy = {"trusted_proxies": LOOPBACK, "max_pending": 2}
        await self.begin()
        waiting = [await self.client() for _ in range(2)]
        await until(lambda: len(self.dmz.intake) == 2)
        await self.dropped()
        for client in waiting:
            client.transport.abortConnection()  # type: ignore[union-attr]
        await until(lambda: len(self.dmz.intake) == 0)
        await self.served(before=header("203.0.113.9"))

    async def test_stopped(self) -> None:
        """A DMZ node that stops leaves no connection waiting for a header."""
        await self.begin()
        client = await self.client()
        await until(lambda: len(self.dmz.intake) == 1)
        stopping: Deferred[None] | None = self.dmz.stopService()
        self.assertEqual(await self.over(client), "reset")
        assert stopping is not None
        await stopping


class HeaderOutTests(EdgeCase):
    """PROXY headers to the backends."""

    async def test_first_bytes(self) -> None:
        """The header goes first, with the client's address and the session's id
        (Requirement 76, Lesson 12).
        """
        for version in ("v1", "v2"):
            with logged() as events:
                await self.begin(kind=End, proxy_protocol=version)
                client = await self.client(b"hello")
                await self.heard(b"hello")
                (line, _) = lines(events, " open: service=svc ")
            session = line.split()[1]
            port = client.transport.getHost().port  # type: ignore[union-attr]
            expected = header_for(version, ("127.0.0.1", port), ("127.0.0.1", self.port), session)
            self.assertEqual(self.backend.made[0].data, expected + b"hello")
            self.assertEqual(session.encode() in expected, version == "v2")

    async def test_through_both(self) -> None:
        """What a balancer said of the client is what the backend hears (Lesson 12)."""
        self.policy = {"trusted_proxies": LOOPBACK}
        await self.begin(kind=End, proxy_protocol="v1")
        await self.client(header("203.0.113.9") + b"hello")
        await self.heard(b"hello")
        self.assertEqual(
            self.backend.made[0].data, b"PROXY TCP4 203.0.113.9 198.51.100.1 40000 22\r\nhello"
        )

    async def test_ftp_control(self) -> None:
        """An FTP backend gets it before the first command (Requirement 23)."""
        await self.begin("ftp", Refusing, ftp=FTP, proxy_protocol="v1")
        client = await self.client(b"USER a\r\n")
        await until(lambda: b"331" in client.data)
        first, _, rest = self.backend.made[0].data.partition(b"\r\n")
        self.assertTrue(first.startswith(b"PROXY TCP4 127.0.0.1 127.0.0.1 "), first)
        self.assertEqual(rest, b"USER a\r\n")

    def authority(self) -> Path:
        """A file with the authority of some backends."""
        file = Path(self.mktemp())
        file.write_bytes(make_ca("backends", datetime.now(UTC)).certificate_pem)
        return file

    async def test_before_tls(self) -> None:
        """The header comes in clear, before TLS towards the backend begins (Requirement 76)."""
        tls = BackendTLSConfig("on", self.authority())
        await self.begin("ftp", End, ftp=FTP, proxy_protocol="v1", backend_tls=tls)
        await self.client()
        await until(lambda: self.backend.made and b"\r\n\x16\x03" in self.backend.made[0].data)
        backend = self.backend.made[0]
        self.assertTrue(backend.data.startswith(b"PROXY TCP4 127.0.0.1 "))
        backend.transport.abortConnection()  # type: ignore[union-attr]
        await until(lambda: not (self.node.sessions or len(self.dmz.desk)))

    async def test_checks(self) -> None:
        """A check of a backend says that it speaks for nobody (Requirement 75)."""
        for version in ("v1", "v2"):
            health = HealthConfig(check="connect", interval_s=1.0)
            await self.begin(proxy_protocol=version, health=health)
            await self.heard(LOCAL[version])
            self.assertEqual(self.backend.made[0].data, LOCAL[version])
