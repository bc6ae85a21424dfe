"""Tests of clients that want too much, do not read, or are gone."""

from __future__ import annotations

import errno
import socket

from relaygate import dataway, ftprelay, handshake, passive
from relaygate.ftpcontrol import TURN_EVENTS
from relaygate.protocols.ftpeffects import Wait
from relaygate.test.farend import Ending, Peer, payload, unchanged, until
from relaygate.test.ftpnodes import CLIENT, GATE, STRANGER, FTPCase
from relaygate.test.ftppeers import BackendLine, Line


class AddressTests(FTPCase):
    """Data connections that a client may not have."""

    async def test_bounce(self) -> None:
        """PORT and EPRT to others or to low ports reach nobody (Requirement 24; CVE-1999-0017)."""
        await self.begin()
        self.backend.answers[b"RETR"] = b"425 no address"
        client, backend = await self.logged_in()
        before = list(backend.commands)
        with socket.create_server((STRANGER, 0)) as victim:
            victim.settimeout(0.1)
            port = victim.getsockname()[1]
            high, low = divmod(port, 256)
            for line in (
                f"PORT {STRANGER.replace('.', ',')},{high},{low}",
                f"EPRT |1|{STRANGER}|{port}|",
                f"PORT {CLIENT.replace('.', ',')},0,22",
                f"EPRT |1|{CLIENT}|1023|",
                f"PORT 127,0,0,1,{high},{low}",
                "EPRT |2|::1|2000|",
                "LPRT 4,4,127,0,0,5,2,8,1",
            ):
                reply = await client.ask(line.encode())
                self.assertIn(reply[:1], b"5", line)
                await client.ask(b"RETR x", 425)
            with self.assertRaises(TimeoutError):
                victim.accept()
        # No address of whatever kind; a command without one is the backend's to refuse.
        self.assertEqual([each for each in backend.commands if each != b"RETR x"], before)
        await self.nothing_left()

    async def test_flood_of_ports(self) -> None:
        """However many ports are asked for, one is open at a time (Requirement 21)."""
        await self.begin()
        client, _ = await self.logged_in()
        client.say(*([b"PASV"] * 100 + [b"EPSV"] * 100))
        for number in range(200):
            await client.reply(227 if number < 100 else 229)
            self.assertLessEqual(len(self.bound), 2)
            self.assertLessEqual(len(self.running[0]._transfers), 2)
        await until(lambda: len(self.bound) == 1, "the last port alone")
        self.assertEqual(len(self.running[0]._transfers), 1)
        self.backend.answers[b"ABOR"] = b"225 nothing"
        await client.ask(b"ABOR", 225)
        await self.nothing_left()
        await client.ask(b"NOOP", 200)

    async def test_flood_of_connections(self) -> None:
        """Ports that are connected to and not used are given back as well (Requirement 21)."""
        await self.begin()
        client, _ = await self.logged_in()
        peers = [self.connect(await self.passive(client, b"PASV")) for _ in range(20)]
        for peer in peers[:-1]:
            self.assertIs(await peer.ended(), Ending.RESET)
        data = peers[-1]
        inner = await self.backend.data()
        await client.ask(b"RETR x", 150)
        inner.send(b"it")
        inner.finish()
        await data.got(b"it")
        data.close()
        (await self.backend.control()).say(b"226 done")
        await client.reply(226)
        await self.nothing_left()

    async def test_stranger(self) -> None:
        """Nobody else gets a client's data, and the client still does (Requirement 22)."""
        await self.begin()
        client, backend = await self.logged_in()
        port = await self.passive(client)
        stranger = self.connect(port, source=STRANGER)
        self.assertIs(await stranger.ended(), Ending.RESET)
        data = self.connect(port)
        inner = await self.backend.data()
        await client.ask(b"RETR x", 150)
        inner.send(b"secret")
        inner.finish()
        await data.got(b"secret")
        data.close()
        backend.say(b"226 done")
        await client.reply(226)
        self.assertEqual(stranger.count, 0)
        await self.nothing_left()

    async def test_second_connection(self) -> None:
        """A port takes one connection (Requirement 21)."""
        await self.begin()
        client, _ = await self.logged_in()
        port = await self.passive(client)
        self.connect(port)

        def refused() -> bool:
            with socket.socket() as skt:
                return skt.connect_ex((GATE, port)) == errno.ECONNREFUSED

        await until(refused, "the port's end")
        self.assertEqual(self.bound, set())

    async def test_nobody_connects(self) -> None:
        """A transfer to which nobody connects ends in 425 (Requirement 8, 21)."""
        self.patch(passive, "LISTEN_LIMIT_S", 0.1)
        self.patch(dataway, "ARRIVAL_LIMIT_S", 0.3)
        await self.begin()
        client, backend = await self.logged_in()
        await self.passive(client)
        inner = await self.backend.data()
        await client.ask(b"RETR x", 150)
        self.assertIs(await inner.ended(), Ending.RESET)
        backend.say(b"426 lost you")
        await client.reply(425)
        await self.nothing_left()
        await self.passive(client)
        await self.nothing_left()
        await client.ask(b"RETR x", 425)

    async def test_silent_handshake(self) -> None:
        """A protected data connection that says nothing ends in time (Requirement 34)."""
        self.patch(handshake, "HANDSHAKE_LIMIT_S", 0.3)
        await self.begin("allow")
        client, backend = await self.logged_in(tls=True)
        client.context = None
        data, inner = await self.transfer(client, b"RETR x")
        self.assertIs(await data.ended(), Ending.RESET)
        self.assertIs(await inner.ended(), Ending.RESET)
        backend.say(b"426 lost you")
        await client.reply(425)
        await self.nothing_left()

    async def test_active_not_reached(self) -> None:
        """A client that does not listen where it said gets 425 (Requirement 25)."""
        await self.begin()
        client, backend = await self.logged_in()
        with socket.create_server((CLIENT, 0)) as closed:
            port = closed.getsockname()[1]
        await client.ask(b"EPRT |1|%s|%d|" % (CLIENT.encode(), port), 200)
        client.say(b"RETR x")
        inner = await self.backend.data()
        self.assertIs(await inner.ended(), Ending.RESET)
        backend.say(b"426 lost you")
        await client.reply(425)
        await self.nothing_left()


class FloodTests(FTPCase):
    """Commands without end, replies that nobody reads."""

    async def test_pipelined(self) -> None:
        """A hundred commands at once are answered in their order (Requirement 5)."""
        await self.begin()
        self.backend.answers[b"SITE"] = lambda line, command: line.say(b"200 " + command)
        client, backend = await self.logged_in()
        commands = [b"SITE %d" % number for number in range(100)]
        client.say(*commands)
        for command in commands:
            self.assertEqual(await client.reply(200), b"200 " + command + b"\r\n")
        await backend.heard(*commands)

    async def test_flood_of_lines(self) -> None:
        """A flood of short lines leaves the others their turns (Requirement 3)."""
        await self.begin()
        client, backend = await self.logged_in()
        control = self.running[0]._client
        client.send(b"\n" * 5000 + b"NOOP\r\n")
        await until(lambda: control._events, "lines that wait for their turn")
        left = len(control._events)
        await until(lambda: len(control._events) < left, "the next turn")
        self.assertGreaterEqual(len(control._events), left - 4 * TURN_EVENTS)
        for _ in range(5000):
            await client.reply(500)
        await client.reply(200)
        await backend.heard(b"NOOP")

    async def test_replies_unread(self) -> None:
        """Who does not read replies is not served, and costs no memory (Requirement 80)."""
        await self.begin()
        reply = b"211-x\r\n" + b" line\r\n" * 15_000 + b"211 x"
        self.backend.answers[b"STAT"] = reply
        client, backend = await self.logged_in()
        client.pause()
        client.send(b"STAT\r\n" * 4000)
        count = await unchanged(lambda: len(backend.commands), 0.5)
        self.assertLess(count, 400)
        (relay,) = self.running
        self.assertLess(relay._client.leg.unsent, 3 * len(reply))
        self.assertLess(len(relay._session._waiting), 4001)
        # What is not read of its commands waits in kernels.
        client.keep = False
        client.resume()
        total = client.count + (len(reply) + 2) * (count - 2)
        await until(lambda: client.count >= total, "the replies that were kept")

    async def test_our_own_replies_unread(self) -> None:
        """Nor is it read on, for replies that the gateway makes itself (Requirement 80)."""
        await self.begin()
        client, backend = await self.logged_in()
        (relay,) = self.running
        # As Twisted does it when too much waits to be written to the client.
        brake = relay._client.leg.producer
        brake.pauseProducing()
        client.say(b"PBSZ 0", b"NOOP")
        seen = relay.bytes_in
        await unchanged(lambda: relay.bytes_in)
        self.assertEqual(relay.bytes_in, seen)
        # A backend that does not read is another reason, which does not undo this one.
        other = relay._backend.leg.producer
        other.pauseProducing()
        other.resumeProducing()
        await unchanged(lambda: relay.bytes_in)
        self.assertEqual(relay.bytes_in, seen)
        brake.resumeProducing()
        await client.reply(503)
        await client.reply(200)
        await backend.heard(b"NOOP")

    async def test_replies_unread_by_a_backend(self) -> None:
        """A backend that does not read its commands holds no more than a few (Requirement 80)."""
        await self.begin()
        client, backend = await self.logged_in()
        backend.pause()
        client.send(b"SITE x\r\n" * 500_000)
        (relay,) = self.running
        moved = await unchanged(lambda: relay.bytes_in, 0.5)
        self.assertLess(moved, 200_000)
        self.assertLess(relay._backend.leg.unsent, 1000)


class GoneTests(FTPCase):
    """Clients that vanish, at each step."""

    async def step(self, number: int, *, tls: bool) -> tuple[Line, list[Peer]]:
        """Come so far; the client, and the data connections at the backend and at the client."""
        if number == 0:
            client = self.client()
            await until(lambda: len(self.dmz.desk), "the session")
            return client, []
        client, backend = await self.logged_in(tls=tls)
        self.backend.answers.pop(b"SYST", None)
        peers: list[Peer] = []
        if number == 1:
            client.say(b"SYST")
            await backend.heard(b"SYST")
        elif number == 2:
            await self.passive(client)
        elif number == 3:
            peers.append(self.connect(await self.passive(client)))
        elif number in (4, 5):
            data, inner = await self.transfer(client, (b"RETR x", b"STOR x")[number - 4])
            if not tls:
                source, sink = (inner, data) if number == 4 else (data, inner)
                source.send(b"half")
                await sink.has(4)
            peers += [data, inner]
        elif number == 6:
            client.say(b"EPSV")
        elif number == 7:
            with socket.create_server((CLIENT, 0)) as waiting:
                client.say(b"EPRT |1|%s|%d|" % (CLIENT.encode(), waiting.getsockname()[1]))
                await client.reply(200)
                client.say(b"RETR x")
                skt, _ = await self.accepted(waiting)
                peers.append(Peer(skt))
                self.addCleanup(peers[0].close)
        return client, peers

    async def accepted(self, server: socket.socket) -> tuple[socket.socket, object]:
        """Wait for a connection."""
        server.setblocking(False)
        found: list[tuple[socket.socket, object]] = []

        def accept() -> bool:
            try:
                found.append(server.accept())
            except BlockingIOError:
                return False
            return True

        await until(accept, "a connection")
        return found[0]

    async def test_vanish(self) -> None:
        """Whoever is gone leaves nothing, and no half file looks whole (Requirement 21, 28)."""
        self.patch(ftprelay, "LIMITS_S", ftprelay.LIMITS_S | {Wait.REPLY: 0.3})
        await self.begin("allow")
        for tls in (False, True):
            for number in range(8):
                for reset in (False, True):
                    client, peers = await self.step(number, tls=tls)
                    if reset:
                        client.reset()
                    else:
                        client.close()
                    await self.all_over()
                    for peer in peers:
                        self.assertIs(await peer.ended(), Ending.RESET, (number, reset, tls))
                        peer.close()

    async def test_half_closed_control(self) -> None:
        """Who sends all its commands and ends its stream has them answered (Requirement 77)."""
        await self.begin()
        client = self.client()
        client.say(b"USER mina", b"PASS sesame", b"TYPE I", b"NOOP")
        client.finish()
        for code in (220, 331, 230, 200, 200):
            await client.reply(code)
        await self.is_over(client)
        await self.all_over()


class MeanwhileTests(FTPCase):
    """What a client says in a transfer."""

    async def test_abort(self) -> None:
        """ABOR passes at once, in every dress and with every answer (Requirement 2, 6)."""
        await self.begin()
        for said in (b"ABOR\r\n", b"\xff\xf4\xff\xf2ABOR\r\n", b"\xff\xf4\xf2abor\r\n"):
            for codes in ((426, 226), (226,), (225,), (426, 225), (226, 226)):
                self.backend.answers[b"ABOR"] = b"\r\n".join(b"%d so" % code for code in codes)
                client, backend = await self.logged_in()
                data, inner = await self.transfer(client, b"RETR x")
                inner.send(payload(100_000))
                await data.has(100_000)
                client.send(said)
                for code in codes:
                    await client.reply(code)
                self.assertIs(await data.ended(), Ending.RESET)
                self.assertIs(await inner.ended(), Ending.RESET)
                await client.ask(b"TYPE I", 200)
                self.assertEqual(backend.commands[-3:], [b"ABOR", b"NOOP", b"TYPE I"])
                await self.nothing_left()
                await self.fetch(client, backend)
                client.close()

    async def fetch(self, client: Line, backend: BackendLine) -> None:
        """Get a file, to see that the session works."""
        data, inner = await self.transfer(client, b"RETR y")
        inner.send(b"why")
        inner.finish()
        await data.got(b"why")
        data.close()
        backend.say(b"226 done")
        await client.reply(226)
        await self.nothing_left()

    async def test_abort_unanswered(self) -> None:
        """The data ends soon even if the backend does not answer ABOR (Requirement 6)."""
        self.patch(ftprelay, "LIMITS_S", ftprelay.LIMITS_S | {Wait.ABORT: 0.2})
        await self.begin()
        client, backend = await self.logged_in()
        data, inner = await self.transfer(client, b"STOR x")
        client.say(b"ABOR")
        self.assertIs(await data.ended(), Ending.RESET)
        self.assertIs(await inner.ended(), Ending.RESET)
        backend.say(b"426 gone", b"226 aborted")
        await client.reply(426)
        await client.reply(226)
        await self.nothing_left()

    async def test_abort_with_stalled_data(self) -> None:
        """ABOR is heard while neither side reads its data (Requirement 6)."""
        await self.begin()
        self.backend.answers[b"ABOR"] = b"426 so\r\n226 so"
        client, backend = await self.logged_in()
        data, inner = await self.transfer(client, b"RETR x", window=10_000)
        data.pause()
        inner.send(payload(1_000_000), 30)
        await unchanged(lambda: inner.sent)
        await client.ask(b"ABOR", 426)
        await client.reply(226)
        data.resume()
        self.assertIs(await data.ended(), Ending.RESET)
        await self.nothing_left()
        await self.fetch(client, backend)

    async def test_quit(self) -> None:
        """QUIT lets a transfer end first (Requirement 6)."""
        self.patch(ftprelay, "LIMITS_S", ftprelay.LIMITS_S | {Wait.QUIT: 0.1})
        await self.begin()
        for waits in (False, True):
            self.backend.answers[b"QUIT"] = b"221 bye"
            client, backend = await self.logged_in()
            data, inner = await self.transfer(client, b"RETR x")
            client.say(b"QUIT")
            if waits:
                self.backend.answers.pop(b"QUIT")
                await backend.heard(b"QUIT")
            inner.send(payload(2_000_000))
            inner.finish()
            await data.got(payload(2_000_000))
            data.close()
            backend.say(b"226 done", *([b"221 bye"] if waits else []))
            await client.reply(226)
            await client.reply(221)
            await self.is_over(client)
            await self.all_over()

    async def test_status(self) -> None:
        """STAT is answered in a transfer, which goes on (Requirement 6)."""
        await self.begin()
        self.backend.answers[b"STAT"] = b"211-status\r\n going\r\n211 on"
        client, backend = await self.logged_in()
        data, inner = await self.transfer(client, b"RETR x")
        for _ in range(3):
            await client.ask(b"STAT", 211)
        inner.send(b"all")
        inner.finish()
        await data.got(b"all")
        data.close()
        backend.say(b"226 done")
        await client.reply(226)
        await self.nothing_left()
