"""FTP that passes unopened: a range of ports that leads to the server's own, and nobody else's."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relaygate import mapped, mappeddata
from relaygate.addresses import ListenRule
from relaygate.balance import Group, Member
from relaygate.config import load_internal
from relaygate.dial import dial
from relaygate.errors import NoNode
from relaygate.listeners import Listeners
from relaygate.listshelf import ListShelf
from relaygate.mapped import MappedPorts, Mapping
from relaygate.offers import offer_of
from relaygate.protocols.preamble import SessionReply
from relaygate.test.farend import Ending, payload, reactor, until
from relaygate.test.ftpnodes import BACKEND, CLIENT, GATE, INSIDE, SPAN, STRANGER, FTPCase
from relaygate.test.ftppeers import Door, Line
from relaygate.test.test_config import FileCase
from relaygate.test.test_config_ftp import FTP, FTPS, HEAD, KEYS, PORTS
from relaygate.test.test_listeners import ListenersCase, Node, offer
from relaygate.test.wire import lines, logged

PORT = SPAN[0] + 7


def noted(case: SynchronousTestCase) -> Callable[[], list[str]]:
    """Note the log from now on; the answer gives its lines."""
    noting = logged()
    events = noting.__enter__()
    case.addCleanup(noting.__exit__, None, None, None)
    return lambda: lines(events)


class PassingCase(FTPCase):
    """A client whose control connection passes, and a port that the server has named in it."""

    async def begin_passing(self, **more: Any) -> None:
        """Start all."""
        self.patch(mapped, "LINGER_S", 0.2)
        self.came: list[Line] = []
        await self.begin(pass_through=True, **more)
        self.door = Door(BACKEND, self._came, PORT)
        self.addCleanup(self.door.close)

    def _came(self, skt: socket.socket) -> None:
        self.came.append(Line(skt))
        self.addCleanup(self.came[-1].close)

    async def joined(self, source: str = CLIENT) -> tuple[Line, Line]:
        """Both ends of a data connection."""
        count = len(self.came)
        data = self.connect(PORT, source=source)
        await until(lambda: len(self.came) > count, "the data connection at the server")
        return data, self.came[-1]

    @property
    def open_ports(self) -> set[int]:
        """Ports of the range that are open at the gate."""
        return {number for _, number in self.dmz.transfers.ranges.bound}


class WayTests(PassingCase):
    """What passes."""

    async def test_unopened(self) -> None:
        """Not one byte of the control connection is changed, whatever it says (Requirement 88)."""
        await self.begin_passing()
        client = self.client()
        await client.reply(220)
        control = await self.backend.control()
        client.say(b"PASV\0 \xff\xf4", b"GET / HTTP/1.1", b"x" * 40_000)
        await until(lambda: len(control.received) > 40_000, "all of it")
        self.assertTrue(control.received.startswith(b"PASV\0 \xff\xf4\r\nGET / HTTP/1.1\r\nxxx"))
        control.say(b"227 Entering (127,0,0,2,87,123)")
        self.assertEqual(await client.reply(), b"227 Entering (127,0,0,2,87,123)\r\n")

    async def test_both_ways(self) -> None:
        """A port of the range leads to the server's of that number, whole, both ways."""
        await self.begin_passing()
        client = self.client()
        await client.reply(220)
        data, server = await self.joined()
        data.send(payload(300_000))
        server.send(payload(200_000, 1))
        await until(lambda: len(server.received) == 300_000, "the upload")
        await until(lambda: len(data.received) == 200_000, "the download")
        self.assertEqual(server.received, payload(300_000))
        self.assertEqual(data.received, payload(200_000, 1))
        data.finish()
        self.assertIs(await server.ended(), Ending.END)
        server.finish()
        self.assertIs(await data.ended(), Ending.END)

    async def test_resets_stay_resets(self) -> None:
        """A reset on either side is one on the other (Requirement 28)."""
        await self.begin_passing()
        await self.client().reply(220)
        for first in (0, 1):
            pair = await self.joined()
            pair[first].reset()
            self.assertIs(await pair[1 - first].ended(), Ending.RESET)

    async def test_source(self) -> None:
        """Data reaches the server from the address that its control has (Requirement 23)."""
        await self.begin_passing()
        await self.client().reply(220)
        _, server = await self.joined()
        control = await self.backend.control()
        known = control.socket.getpeername()[0]
        self.assertEqual(server.socket.getpeername()[0], known)
        self.assertEqual(known, INSIDE)

    async def test_line(self) -> None:
        """Each data connection is a line of the log: its port, its bytes, how it ended."""
        await self.begin_passing()
        told = noted(self)
        await self.client().reply(220)
        data, server = await self.joined()
        data.send(b"12345")
        await until(lambda: server.received, "the bytes")
        data.finish()
        server.finish()
        await until(lambda: any(" data: " in line for line in told()), "the line")
        [line] = [line for line in told() if " data: " in line]
        self.assertIn(f"port={PORT} bytes_in=5 bytes_out=0 ", line)
        self.assertIn("outcome=done", line)


class BoundsTests(PassingCase):
    """Who gets in, and for how long."""

    async def test_only_while_a_session_runs(self) -> None:
        """The range is bound with the first session and closed behind the last (Requirement 21)."""
        await self.begin_passing()
        self.assertEqual(self.open_ports, set())
        first, second = self.client(), self.client()
        await first.reply(220)
        await second.reply(220)
        self.assertEqual(self.open_ports, set(range(SPAN[0], SPAN[1] + 1)))
        first.reset()
        await until(lambda: len(self.dmz.desk) == 1, "the end of one session")
        self.assertEqual(len(self.open_ports), SPAN[1] - SPAN[0] + 1)
        second.reset()
        await until(lambda: not self.open_ports, "the end of the range")
        await until(self.refused, "the port closed")
        await self.all_over()

    def refused(self) -> bool:
        """Whether nothing listens on the port any more."""
        try:
            self.connect(PORT)
        except ConnectionRefusedError:
            return True
        return False

    async def test_data_outlives_its_session(self) -> None:
        """What runs when the control connection ends goes on to its own end."""
        await self.begin_passing()
        client = self.client()
        await client.reply(220)
        data, server = await self.joined()
        client.finish()
        (await self.backend.control()).finish()
        await until(lambda: not self.open_ports, "the end of the range")
        server.send(payload(100_000))
        server.finish()
        data.finish()
        self.assertIs(await data.ended(), Ending.END)
        self.assertEqual(data.received, payload(100_000))
        await self.all_over()

    async def test_session_that_ends_beside_it(self) -> None:
        """
        Of two sessions of a client the newer one ends while data come: they may be the other's,
        and get through, whether the inside had heard of the end by then or not.
        """
        await self.begin_passing()
        for heard in (False, True):
            older = self.client()
            await older.reply(220)
            [first] = self.node._sessions
            newer = self.client()
            await newer.reply(220)
            [session] = self.node._sessions - {first}
            assert session._mapped is not None
            dialled: list[int] = []

            async def slow(*args: Any, newer: Line = newer, dialled: list[int] = dialled) -> Any:
                newer.reset()
                await until(lambda: len(self.dmz.desk) == 1, "the newer session's end")
                dialled.append(1)
                return await dial(*args)

            slowly = self.patch(mappeddata, "dial", dial if heard else slow)
            if heard:
                session._mapped.close(abort=False)
            data, server = await self.joined()
            self.assertEqual(len(dialled), 0 if heard else 1)
            slowly.restore()
            server.send(b"a list")
            server.finish()
            data.finish()
            self.assertIs(await data.ended(), Ending.END)
            self.assertEqual(data.received, b"a list")
            for client in (older, newer):
                client.reset()
            await until(lambda: not self.node._sessions, "the end of both sessions")
        await self.all_over()

    async def test_stranger(self) -> None:
        """Who has no session is reset, logged, and not led inside (Requirement 22)."""
        await self.begin_passing()
        told = noted(self)
        await self.client().reply(220)
        stranger = self.connect(PORT, source=STRANGER)
        self.assertIs(await stranger.ended(), Ending.RESET)
        self.assertEqual(self.came, [])
        self.assertTrue(any("stranger closed on a passive port" in line for line in told()))
        await self.joined()

    async def test_peers(self) -> None:
        """Of a network of peers, one has the session and another the data (Requirement 22)."""
        await self.begin_passing(peers=("127.0.0.4/31",))
        await self.client().reply(220)
        await self.joined(source=STRANGER)
        other = self.connect(PORT, source="127.0.0.9")
        await other.ended()
        self.assertEqual(len(self.came), 1)

    async def test_so_many(self) -> None:
        """A client has a few data connections for each session, and no more (Requirement 86)."""
        await self.begin_passing()
        await self.client().reply(220)
        for _ in range(4):
            await self.joined()
        fifth = self.connect(PORT)
        await fifth.ended()
        self.assertEqual(len(self.came), 4)

    async def test_nobody_there(self) -> None:
        """A port that the server has not opened ends the connection (Requirement 8)."""
        await self.begin_passing()
        await self.client().reply(220)
        data = self.connect(PORT + 1)
        self.assertIs(await data.ended(), Ending.RESET)
        await until(lambda: not self.dmz.transfers._mapped, "the end of the transfer")
        self.assertEqual(self.dmz.transfers.prepared, 0)

    async def test_port_outside_the_range(self) -> None:
        """A DMZ node that names another port of the server is not obeyed (Requirement 88)."""
        await self.begin_passing()
        await self.client().reply(220)
        [session] = self.node._sessions
        taken: list[int | str] = []

        class Channel:
            leg = session._channel.leg

            def reply(self, reply: SessionReply) -> None:
                taken.append(reply.code)

        def ends() -> None:
            taken.append("end")

        self.patch(Channel, "leg", type("Leg", (), {"tls": None, "loseConnection": ends}))
        assert session._mapped is not None
        for port in (SPAN[0] - 1, SPAN[1] + 1, 22):
            session._mapped._came(Channel(), port)  # type: ignore[arg-type]
        self.assertEqual(taken, [7, "end"] * 3)

    async def test_same_node(self) -> None:
        """Where a client has a session, its next one goes too, or servers refuse its data."""
        await self.begin_passing()
        wishes: list[str | None] = []
        pick = Group.pick

        def noted_pick(group: Group[Any], *args: Any) -> Member[Any] | None:
            # Backends are picked by the same class.
            if group.members[0].name == "node-a":
                wishes.extend(args[3:4])
            return pick(group, *args)

        self.patch(Group, "pick", noted_pick)
        for source in (CLIENT, CLIENT, STRANGER):
            await self.client(source).reply(220)
        self.assertEqual(wishes, [None, "node-a", None])

    async def test_policy_that_changes(self) -> None:
        """A DMZ node that is told of a narrower policy closes what it forbids (Lesson 10)."""
        await self.begin_passing()
        await self.client().reply(220)
        self.assertTrue(self.open_ports)
        config = self.dmz._config
        self.dmz.reload(replace(config, listen=(ListenRule.parse(f"{GATE}:{self.port}"),)))
        self.assertEqual(self.open_ports, set())

    async def test_no_commands(self) -> None:
        """An internal node cannot have more opened for such a session."""
        await self.begin_passing()
        await self.client().reply(220)
        [(session, control)] = self.dmz.transfers._controls.items()
        node = self.dmz.book._by_name[control.node]
        with self.assertRaisesRegex(Exception, "no FTP session of this id"):
            self.dmz.transfers.open_passive(node, session, 1, SPAN, (), False)


class EndTests(PassingCase):
    """How it ends otherwise."""

    async def test_idle(self) -> None:
        """No session ends while its file moves, and an idle one does (Requirement 15)."""
        await self.begin_passing(idle_timeout_s=0.8)
        client = self.client()
        await client.reply(220)
        data, server = await self.joined()
        for number in range(20):
            data.send(b"x")
            await until(lambda n=number: len(server.received) > n, "a byte")  # type: ignore[misc]
            await self.later(0.1)
        self.assertIsNone(client.ending)
        self.assertIs(await client.ended(), Ending.RESET)
        await until(lambda: not self.dmz.desk._running, "the end")

    async def later(self, seconds: float) -> None:
        """Let the reactor work for a while."""
        began = self.node._reactor.seconds()
        await until(lambda: self.node._reactor.seconds() - began > seconds, "a while")

    async def test_stopped_inside(self) -> None:
        """A node that stops leaves no half file that looks whole (Requirement 28)."""
        await self.begin_passing()
        await self.client().reply(220)
        data, server = await self.joined()
        server.send(b"half")
        await until(lambda: data.received, "the bytes")
        stopping = self.node.stopService()
        self.assertIs(await data.ended(), Ending.RESET)
        self.assertIs(await server.ended(), Ending.RESET)
        await stopping

    async def test_stopped_dmz(self) -> None:
        """So does a DMZ node, which closes the range as well."""
        await self.begin_passing()
        await self.client().reply(220)
        data, server = await self.joined()
        stopping = self.dmz.stopService()
        self.assertEqual(self.open_ports, set())
        self.assertIs(await data.ended(), Ending.RESET)
        self.assertIs(await server.ended(), Ending.RESET)
        await cast("Deferred[None]", stopping)

    async def test_no_backend(self) -> None:
        """Where there is no server the client is told in FTP's words (Requirement 7)."""
        await self.begin_passing()
        self.backend.close()
        client = self.client()
        await client.reply(421)
        self.assertEqual(self.open_ports, set())

    async def test_silent_server(self) -> None:
        """A data connection in which nothing moves ends in time (Requirement 15)."""
        self.patch(mappeddata, "STALL_LIMIT_S", 0.2)
        await self.begin_passing()
        await self.client().reply(220)
        data, _ = await self.joined()
        self.assertIs(await data.ended(), Ending.RESET)


class RangeTests(ListenersCase):
    """Ranges as such."""

    def offered(self, **more: Any) -> dict[str, Any]:
        """A service as it comes over the uplink."""
        row = {"name": "ftp", "protocol": "ftp-mapped", "host": "0.0.0.0", "port": 21}
        row |= {"tls_channel": True, "max_sessions": 0, "max_sessions_per_address": 0}
        return row | {"map_first": 2000, "map_last": 2009} | more

    def test_offer(self) -> None:
        """What is to be mapped comes with the service."""
        made = offer_of(self.offered(map_peers="192.0.2.0/24", map_tls=True), ListShelf({}))
        self.assertEqual(made.mapping, Mapping("ftp", 2000, 2009, ("192.0.2.0/24",), True))
        self.assertIsNone(offer_of(self.offered(protocol="ftp"), ListShelf({})).mapping)

    def test_offers_that_are_none(self) -> None:
        """Too many ports, none, and peers that are no networks are refused."""
        for row in (
            self.offered(map_last=1999),
            self.offered(map_last=3000),
            self.offered(map_first=None),
            self.offered(map_peers="192.0.2.1/24"),
        ):
            with self.assertRaises(Exception):  # noqa: B017 - its text is another test's
                offer_of(row, ListShelf({}))

    def test_policy(self) -> None:
        """A range that the DMZ's policy does not permit whole is refused with the service."""
        within = Mapping("ftp", 24, 29, (), False)
        good = offer("ftp", "0.0.0.0:21", protocol="ftp-mapped", mapping=within)
        self.assertEqual(self.listeners.declare(Node("node-a"), [good]), {})
        for first, last in ((24, 30), (19, 22)):
            wider = Mapping("ftp", first, last, (), False)
            bad = offer("ftp", "0.0.0.0:21", protocol="ftp-mapped", mapping=wider)
            refused = self.listeners.declare(Node("node-b"), [bad])
            self.assertIn("does not permit 0.0.0.0:21 with the ports", refused["ftp"])

    def test_older_dmz_node(self) -> None:
        """A node that knows no mapping refuses the service by name, and opens nothing."""
        self.patch(Listeners, "_forbidden", lambda *_: "this DMZ node does not know the protocol")
        refused = self.listeners.declare(Node("node-a"), [offer(protocol="ftp-mapped")])
        self.assertEqual(list(refused), ["sftp"])
        self.assertEqual(self.open_ports(), 0)

    def test_words(self) -> None:
        """A refusal is told as to other clients of FTP."""
        self.assertEqual(NoNode().words("ftp-mapped"), NoNode().words("ftp"))
        self.assertEqual(NoNode().words("ftps-mapped"), NoNode().words("ftps"))

    def test_churn(self) -> None:
        """Who comes and goes in a loop has the range bound once, not each time."""
        clock = Clock()
        asked = []

        def allowed(host: str, ports: tuple[int, int]) -> list[int]:
            asked.append(host)
            return []

        ranges = MappedPorts(clock, allowed, lambda *_: None)
        mapping = Mapping("ftp", 2000, 2009, (), False)
        for number in range(50):
            ranges.begin(str(number), CLIENT, GATE, mapping)
            self.assertEqual(ranges.sessions_of(CLIENT, GATE, mapping), [str(number)])
            ranges.over(str(number))
            clock.advance(0.1)
        self.assertEqual(len(asked), 1)
        clock.advance(mapped.LINGER_S)
        self.assertEqual(ranges._ranges, {})
        self.assertEqual(clock.getDelayedCalls(), [])
        self.assertEqual(ranges._by_session, {})

    def test_port_in_use(self) -> None:
        """A port that somebody else holds is a gap, and a warning that names it."""
        told = noted(self)
        with socket.create_server((GATE, 0)) as held:
            number = held.getsockname()[1]
            ranges = MappedPorts(
                Clock(), lambda _, ports: range(ports[0], ports[1] + 1), lambda *_: None
            )
            ranges.begin("1", CLIENT, GATE, Mapping("ftp", number, number, (), False))
            self.addCleanup(ranges.stop)
        self.assertEqual(ranges.bound, set())
        self.assertTrue(any("range has gaps" in line and str(number) in line for line in told()))

    def test_narrower_policy(self) -> None:
        """What the policy does not permit any more is closed, the rest stays (Lesson 10)."""
        permitted = [PORT, PORT + 1]
        ranges = MappedPorts(reactor, lambda *_: permitted, lambda *_: None)
        self.addCleanup(ranges.stop)
        ranges.begin("1", CLIENT, GATE, Mapping("ftp", PORT, PORT + 1, (), False))
        self.assertEqual(ranges.bound, {(GATE, PORT), (GATE, PORT + 1)})
        permitted.pop()
        ranges.check_again()
        self.assertEqual(ranges.bound, {(GATE, PORT)})


class ConfigTests(FileCase):
    """The key, and what does not go with it."""

    PASSING = PORTS + "pass_through = true\n"

    def test_good(self) -> None:
        """Explicit and implicit services need a range and no certificate."""
        for text in (FTP, FTPS):
            [service] = load_internal(self.write(HEAD + text + self.PASSING)).services
            self.assertEqual(service.mapped, (50_000, 50_999))

    def test_nothing_else(self) -> None:
        """What the gateway does when it opens FTP is not there."""
        found = self.problems(
            HEAD + FTP + KEYS + self.PASSING + 'tls = "allow"\npublic_address = "192.0.2.1"\n',
            load_internal,
        )
        self.assertEqual(len(found), 3, found)
        self.assertTrue(all("pass_through" in mistake for mistake in found), found)

    def test_range(self) -> None:
        """A range has its bound, and is one service's alone."""
        wide = self.PASSING.replace("50000-50999", "50000-51000")
        self.assertIn("1000 ports at most", self.problems(HEAD + FTP + wide, load_internal)[0])
        other = FTP.replace('"ftp"', '"other"', 1).replace("0.0.0.0:22", "0.0.0.0:23") + PORTS
        [found] = self.problems(HEAD + FTP + self.PASSING + other, load_internal)
        self.assertIn('shares ports with service "ftp"', found)

    def test_backends(self) -> None:
        """One server at a time: a data connection does not say to which it belongs."""
        two = FTP.replace('backends = ["', 'backends = ["10.0.0.9:21", "')
        [found] = self.problems(HEAD + two + self.PASSING, load_internal)
        self.assertIn('expected "failover"', found)
        failover = two.replace("backends = [", 'balance = "failover"\nbackends = [')
        load_internal(self.write(HEAD + failover + self.PASSING))
