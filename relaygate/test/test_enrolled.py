"""Tests of what the DMZ node keeps of its internal nodes, and of a newer uplink's arrival."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relaygate import commands
from relaygate.addresses import ListenRule
from relaygate.enrolled import NodeBook
from relaygate.listeners import Listeners
from relaygate.passive import PassivePorts
from relaygate.pool import NoChannel
from relaygate.protocols.preamble import PreambleError, UplinkKeys
from relaygate.test.test_listeners import FakePort
from relaygate.test.wire import InternalEnd, MemoryLeg, MemoryTLS, lines, logged
from relaygate.tls import uplink_secrets
from relaygate.transfers import Transfers
from relaygate.uplink import PING_INTERVAL_S, SILENT_PINGS, Uplink, UplinkFailed


def service(name: str = "sftp", port: int = 22, **changed: Any) -> dict[str, Any]:
    """A service as a node declares it."""
    made: dict[str, Any] = {
        "name": name,
        "protocol": "ssh",
        "host": "0.0.0.0",
        "port": port,
        "tls_channel": False,
        "max_sessions": 0,
        "max_sessions_per_address": 0,
    }
    return made | changed


class Inside:
    """An internal node's end of an uplink to the book, in memory."""

    def __init__(self, book: NodeBook, clock: Clock, name: str, group: str) -> None:
        self.settled = 0
        tls: Any = MemoryTLS(group)
        self.leg = MemoryLeg(tls=tls)
        self.role = InternalEnd()
        self.uplink = Uplink(self.role, clock, "internal 1.0")
        self._leg = MemoryLeg()
        self._leg.carry(self.uplink)
        self.keys = UplinkKeys(*uplink_secrets(tls))
        leg: Any = self.leg
        book.make_uplink(name, leg, self._settle)

    def _settle(self) -> None:
        self.settled += 1

    def flush(self) -> None:
        """Carry bytes both ways until both are quiet."""
        while self.leg.written or self._leg.written:
            self.uplink.dataReceived(self.leg.take())
            if self.leg.connected:
                self.leg.protocol.dataReceived(self._leg.take())

    def ask(self, command: Any, **arguments: Any) -> Deferred[dict[str, Any]]:
        """Ask the DMZ node."""
        answer = Deferred.fromCoroutine(self.uplink.ask(command, **arguments))
        self.flush()
        return answer


class BookCase(SynchronousTestCase):
    """A book with pretended sockets."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.ports: list[FakePort] = []
        self.listeners = Listeners(self.bind, [ListenRule.parse("0.0.0.0:1-60000")])
        reactor: Any = self.clock
        shelf: Any = None
        ports = PassivePorts(reactor, (), lambda whole, count: list(whole))
        self.transfers = Transfers(reactor, shelf, ports)
        self.book = NodeBook(reactor, self.listeners, "dmz 1.0", self.transfers)

    def bind(self, listener: object) -> Any:
        """Open a pretended socket."""
        self.ports.append(FakePort())
        return self.ports[-1]

    def enrol(self, name: str = "node-a", group: str = "X25519MLKEM768") -> Inside:
        """Node *name* brings an uplink and says hello."""
        inside = Inside(self.book, self.clock, name, group)
        hello = {"major": commands.MAJOR, "minor": 0, "software": "internal 1.0"}
        self.generation = self.successResultOf(inside.ask(commands.Hello, **hello))["generation"]
        return inside

    def declare(self, inside: Inside, *services: dict[str, Any]) -> list[dict[str, str]]:
        """Declare all of *services* on one page; return what was refused."""
        answer = inside.ask(commands.Declare, page=0, last=True, services=list(services))
        refused: list[dict[str, str]] = self.successResultOf(answer)["refused"]
        return refused

    def bring(self, inside: Inside, serial: int, name: str | None = None) -> MemoryLeg:
        """A channel with *inside*'s proof arrives, under TLS if there is a *name*."""
        leg = MemoryLeg(tls=name and MemoryTLS())
        given: Any = leg
        self.book.take_channel(inside.keys.open(serial), name, given)
        return leg

    def take(self, tls: bool = False) -> Deferred[Any]:
        """Take a channel of the first node of the first listener."""
        (listener, *_) = self.listeners
        return Deferred.fromCoroutine(listener.nodes[0].channel(tls, 10.0, "192.0.2.1"))

    def taken(self, tls: bool = False) -> Any:
        """The leg of a channel that is ready."""
        return self.successResultOf(self.take(tls)).leg


class UplinkTests(BookCase):
    """One uplink's life."""

    def test_hello(self) -> None:
        """Hello settles the uplink, and leaves a line with all that an operator asks for."""
        with logged() as events:
            inside = self.enrol()
        self.assertEqual(inside.settled, 1)
        self.assertEqual(self.generation, 1)
        (line,) = lines(events, "uplink open")
        for part in ("node=node-a", "address=192.0.2.7", "generation=1", "X25519MLKEM768"):
            self.assertIn(part, line)

    def test_classical_key_exchange_is_a_warning(self) -> None:
        """A key exchange that is not the hybrid one is a warning in the log."""
        for group, level in (("X25519MLKEM768", "info"), ("x25519", "warn")):
            with logged() as events:
                self.enrol(group=group)
            (event,) = (e for e in events if "uplink open" in str(e.get("log_format")))
            self.assertEqual(event["log_level"].name, level)

    def test_declare(self) -> None:
        """What is declared listens; what is refused is answered with its reason."""
        inside = self.enrol()
        refused = self.declare(
            inside, service(), service("x", 60_001), service("y", 23, host="dmz.example")
        )
        self.assertEqual({row["name"] for row in refused}, {"x", "y"})
        self.assertEqual(
            [str(listener.offer.listen) for listener in self.listeners], ["0.0.0.0:22"]
        )

    def test_pages(self) -> None:
        """A wish on several pages counts as a whole, when its last page has come."""
        inside = self.enrol()
        for page, last in ((0, False), (1, False), (2, True)):
            self.assertEqual(len(self.ports), 0)
            rows = [service(f"s{page}", 22 + page)]
            self.successResultOf(inside.ask(commands.Declare, page=page, last=last, services=rows))
        self.assertEqual(len(self.ports), 3)

    def test_pages_out_of_order(self) -> None:
        """A page that is not due is refused and changes nothing; the wish may begin again."""
        inside = self.enrol()
        self.declare(inside, service())
        for pages in ((1,), (0, 2), (0, 1, 1), (0, 10)):
            for page in pages[:-1]:
                self.successResultOf(
                    inside.ask(commands.Declare, page=page, last=False, services=[])
                )
            answer = inside.ask(commands.Declare, page=pages[-1], last=True, services=[])
            failure = self.failureResultOf(answer, UplinkFailed)
            self.assertIn("was due", failure.getErrorMessage())
            self.assertTrue(self.ports[0].open)
        self.assertEqual(self.declare(inside, service()), [])
        self.assertEqual(len(self.ports), 1)

    def test_long_reasons_fit(self) -> None:
        """A page of services with the longest names is refused within AMP's bounds."""
        inside = self.enrol()
        longest = "\N{OLD ITALIC LETTER A}" * 63
        rows = [service(f"{number:03}" + longest[3:], 22) for number in range(100)]
        self.assertEqual(len(self.declare(inside, *rows)), 100)

    def test_names_that_are_none(self) -> None:
        """A name that could pass for something else in a log is refused, and opens nothing."""
        inside = self.enrol()
        for name in ("", "a b", "h ok protocol=ssh node=node-b", "UP", "a.b", "\u00e9"):
            ((refused),) = self.declare(inside, service(name))
            self.assertIn("a service's name", refused["reason"])
        self.assertEqual(len(self.ports), 0)

    def test_answers_that_change(self) -> None:
        """A node hears when it would be answered otherwise, since another one has gone or since the
        policy has changed; and it does not hear of what stays.
        """
        first, other = self.enrol(), self.enrol("node-b")
        self.declare(first, service())
        self.assertEqual(len(self.declare(other, service(max_sessions=9))), 1)
        first.leg.lose()
        other.flush()
        self.assertEqual(other.role.stale, 1)
        self.assertEqual(self.declare(other, service(max_sessions=9)), [])
        for rule, stale in (("0.0.0.0:1-60000", 1), ("0.0.0.0:23", 2), ("0.0.0.0:22", 3)):
            self.listeners.rules = [ListenRule.parse(rule)]
            self.book.check_again(["node-b"])
            other.flush()
            self.assertEqual(other.role.stale, stale)

    def test_lost(self) -> None:
        """With a node's only uplink its listeners close, and its channels go (Lesson 23)."""
        inside = self.enrol()
        self.declare(inside, service())
        idle = self.bring(inside, 1)
        inside.leg.lose()
        self.assertFalse(self.ports[0].open)
        self.assertTrue(idle.aborted)
        self.assertRaises(PreambleError, self.bring, inside, 2)
        self.assertEqual(inside.settled, 2)

    def test_silent_node(self) -> None:
        """A node that went without a word has no listener after the pings' time (Lesson 2)."""
        inside = self.enrol()
        self.declare(inside, service())
        self.clock.pump([PING_INTERVAL_S] * (SILENT_PINGS + 1))
        self.assertTrue(inside.leg.aborted)
        inside.leg.lose()
        self.assertFalse(self.ports[0].open)

    def test_lost_before_hello(self) -> None:
        """An uplink that goes before hello takes nothing with it."""
        standing = self.enrol()
        self.declare(standing, service())
        early = Inside(self.book, self.clock, "node-a", "x25519")
        early.leg.lose()
        self.assertEqual(early.settled, 1)
        self.assertTrue(self.ports[0].open)

    def test_stop(self) -> None:
        """At its end the DMZ node says farewell to every node, with the reason."""
        nodes = [self.enrol("node-a"), self.enrol("node-b")]
        self.book.stop("shutting down")
        for inside in nodes:
            self.assertTrue(inside.leg.closing)
            inside.flush()
            self.assertEqual(inside.role.farewells, [("shutting down", False)])


class TakeoverTests(BookCase):
    """A newer uplink of the same node (Lesson 1)."""

    def test_listeners_are_handed_over(self) -> None:
        """The sockets stay open through the change, and serve over the newer uplink."""
        older = self.enrol()
        self.declare(older, service(), service("b", 23))
        newer = self.enrol()
        # Rules that change meanwhile find no wish of the newer one's, which has not said any yet.
        self.book.check_again(["node-a"])
        older.leg.lose()
        self.assertEqual(self.declare(newer, service(), service("b", 23)), [])
        self.assertEqual([port.open for port in self.ports], [True, True])
        channel = self.bring(newer, 1)
        self.assertIs(self.taken(), channel)

    def test_older_is_ended_at_once(self) -> None:
        """The older uplink is told and ended; its channels go; nothing waits for it."""
        older = self.enrol()
        self.declare(older, service())
        idle = self.bring(older, 1)
        newer = self.enrol()
        self.assertEqual(self.generation, 2)
        self.assertTrue(older.leg.closing)
        self.assertTrue(idle.aborted)
        older.flush()
        self.assertEqual(older.role.farewells, [("uplink 2 of the same node took over", True)])
        self.assertRaises(PreambleError, self.bring, older, 2)
        self.assertFalse(newer.leg.ending)

    def test_half_dead_older_one(self) -> None:
        """An older uplink whose peer reads nothing is ended by the clock, and takes nothing."""
        older = self.enrol()
        self.declare(older, service())
        self.enrol()
        self.clock.pump([1.0] * 30)
        self.assertTrue(older.leg.aborted)
        older.leg.lose()
        self.assertTrue(self.ports[0].open)

    def test_older_one_cannot_declare(self) -> None:
        """What the older uplink still says changes nothing."""
        older = self.enrol()
        self.declare(older, service())
        self.enrol()
        answer = older.ask(commands.Declare, page=0, last=True, services=[])
        self.failureResultOf(answer, UplinkFailed)
        self.assertTrue(self.ports[0].open)

    def test_many_times(self) -> None:
        """After 500 uplinks of one node there is one, and the same socket (Lesson 1)."""
        for _ in range(500):
            inside = self.enrol()
            self.declare(inside, service())
        self.assertEqual(len(self.ports), 1)
        self.assertEqual(self.generation, 500)
        (listener,) = self.listeners
        self.assertEqual(len(listener.nodes), 1)
        self.assertEqual((len(self.book._by_name), len(self.book._by_id)), (1, 1))

    def test_other_nodes_are_not_touched(self) -> None:
        """Another node's uplink, listeners and channels stay as they are."""
        other = self.enrol("node-b")
        self.declare(other, service("b", 23))
        channel = self.bring(other, 1)
        self.declare(self.enrol(), service())
        self.declare(self.enrol(), service())
        self.assertFalse(other.leg.ending or channel.ending)


class BanTests(BookCase):
    """Bans of several nodes, who do not know of each other (Lesson 25)."""

    def ban(self, inside: Inside, seconds: int) -> None:
        """A node bans a network, or lifts its ban."""
        bans = [{"network": "192.0.2.0/24", "seconds": seconds}]
        self.assertEqual(self.successResultOf(inside.ask(commands.Ban, bans=bans)), {"full": 0})

    def left(self) -> list[float]:
        """The seconds for which a client of that network is turned away yet."""
        return [seconds for _, seconds in self.book.bans.rows(self.clock.seconds())]

    def test_the_longer_one_holds(self) -> None:
        """What one node says of a network, or says again with a new uplink, shortens no ban of
        another's; its own it may shorten.
        """
        first, other = self.enrol(), self.enrol("node-b")
        for inside, seconds, left in (
            (first, 1000, 1000),
            (other, 600, 1000),
            (first, 300, 600),
            (other, 200, 300),
            (other, 500, 500),
            (first, 400, 500),
        ):
            self.ban(inside, seconds)
            self.assertEqual(self.left(), [left])
        self.clock.advance(100)
        self.ban(self.enrol("node-b"), 350)
        self.assertEqual(self.left(), [350])
        self.ban(self.enrol("node-b"), 10)
        self.assertEqual(self.left(), [300])

    def test_lifted_by_any(self) -> None:
        """Any node lifts a ban; that of the one who set it comes back with its uplink."""
        first, other = self.enrol(), self.enrol("node-b")
        self.ban(first, 1000)
        self.ban(other, 0)
        self.assertEqual(self.left(), [])
        self.ban(self.enrol(), 900)
        self.assertEqual(self.left(), [900])
        self.ban(other, 30)
        self.assertEqual(self.left(), [900])


class ChannelTests(BookCase):
    """Whose channel is taken (Requirement 85)."""

    def setUp(self) -> None:
        super().setUp()
        self.inside = self.enrol()
        self.declare(self.inside, service())

    def test_kinds(self) -> None:
        """Clear and TLS channels are kept apart: neither stands for the other."""
        clear = self.bring(self.inside, 1)
        secured = self.bring(self.inside, 2, "node-a")
        self.assertIs(self.taken(tls=True), secured)
        self.assertIs(self.taken(tls=False), clear)

    def test_replay(self) -> None:
        """A proof works once, though the first channel of it is long gone."""
        self.bring(self.inside, 1).lose()
        self.assertRaises(PreambleError, self.bring, self.inside, 1)

    def test_wrong_proof_uses_nothing_up(self) -> None:
        """A wrong proof for a serial does not keep the right one out."""
        forged = UplinkKeys(self.inside.keys.uplink_id, b"x" * 32)
        leg: Any = MemoryLeg()
        self.assertRaises(PreambleError, self.book.take_channel, forged.open(1), None, leg)
        self.bring(self.inside, 1)

    def test_certificate_of_another_node(self) -> None:
        """A TLS channel of one node cannot carry another's proof."""
        self.enrol("node-b")
        self.assertRaises(PreambleError, self.bring, self.inside, 1, "node-b")
        self.bring(self.inside, 1, "node-a")

    def test_unknown_uplink(self) -> None:
        """A proof for an uplink that does not stand opens nothing."""
        stranger = UplinkKeys(b"x" * 16, b"y" * 32)
        leg: Any = MemoryLeg()
        self.assertRaises(PreambleError, self.book.take_channel, stranger.open(1), None, leg)

    def test_asked_for(self) -> None:
        """Clients that find no channel have the node asked for as many, of their kind."""
        waiting = [self.take(tls=True) for _ in range(3)]
        self.clock.advance(0)
        self.inside.flush()
        self.assertEqual(self.inside.role.asked, [(True, 3)])
        legs = [self.bring(self.inside, serial, "node-a") for serial in range(3)]
        self.assertEqual([self.successResultOf(taking).leg for taking in waiting], legs)

    def test_lost_while_waited_for(self) -> None:
        """Clients that wait for a node's channels learn at once that it is gone."""
        waiting = self.take()
        self.inside.leg.lose()
        self.failureResultOf(waiting, NoChannel)
