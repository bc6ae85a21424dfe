"""Tests of the internal node's data channels: how many it dials, and when (Lessons 6 and 8)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relaygate import supply
from relaygate import tls as tls_module
from relaygate.addresses import HostPort
from relaygate.dial import DialFailed
from relaygate.protocols.preamble import (
    ChannelOpen,
    MessageReader,
    OpenReader,
    SerialWindow,
    SessionReply,
    SessionStart,
    UplinkKeys,
    seal,
)
from relaygate.supply import (
    MAX_AGE_S,
    MAX_DEMANDED,
    MAX_DIALS,
    MIN_AGE_S,
    ChannelSupply,
    Start,
    SuppliedChannel,
)
from relaygate.test.wire import MemoryLeg
from relaygate.tls import PeerNotAllowed

KEYS = UplinkKeys(b"i" * 16, b"s" * 32)
GATEWAY = HostPort("192.0.2.1", 9999)
START = SessionStart("0123456789abcdef", "sftp", ("192.0.2.9", 40_000), ("192.0.2.1", 22), 20_000)
CONTEXT: Any = object()


class SupplyCase(SynchronousTestCase):
    """A supply by the clock; its dials end when the test says so."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.dials: list[Deferred[Any]] = []
        self.legs: list[MemoryLeg] = []
        self.started: list[tuple[SuppliedChannel, Start]] = []
        self.draw = 0.5
        self.patch(supply, "dial", self.dial)

    async def dial(self, reactor: object, address: HostPort, timeout_s: float) -> Any:
        """Stands for the real dialling."""
        self.assertEqual(address, GATEWAY)
        dialling: Deferred[Any] = Deferred()
        self.dials.append(dialling)
        return await dialling

    def make(self, size: int) -> ChannelSupply:
        """Make a supply of *size* channels of each kind."""
        made = ChannelSupply(
            self.clock,
            GATEWAY,
            "dmz",
            KEYS,
            lambda: CONTEXT,
            size,
            lambda channel, start: self.started.append((channel, start)),
            lambda: self.draw,
        )
        self.addCleanup(made.close)
        return made

    def connect(self, count: int | None = None) -> list[MemoryLeg]:
        """Let the oldest *count* dials succeed (all that are there now, if None)."""
        ready = self.dials[:count]
        del self.dials[: len(ready)]
        legs = [MemoryLeg() for _ in ready]
        self.legs += legs
        for dialling, leg in zip(ready, legs, strict=True):
            dialling.callback(leg)
        return legs

    def refuse(self) -> None:
        """Let all dials that are there now fail."""
        ready, self.dials = self.dials, []
        for dialling in ready:
            dialling.errback(DialFailed("Connection refused"))

    def opening(self, leg: MemoryLeg) -> ChannelOpen:
        """What was said on *leg* to open it."""
        (message,) = OpenReader().receive(leg.take())
        return message

    def start(self, leg: MemoryLeg, rest: bytes = b"", message: Start = START) -> bytes:
        """Start a session on *leg*; return the channel's key."""
        key = KEYS.channel_key(self.opening(leg).serial)
        leg.protocol.dataReceived(seal(message, key) + rest)
        return key


class KeepTests(SupplyCase):
    """How many there are."""

    def test_fills(self) -> None:
        """The supply dials as many clear channels as it is to keep, and opens each."""
        kept = self.make(3)
        kept.keep([False])
        self.assertEqual(len(self.dials), 3)
        legs = self.connect()
        self.assertEqual(kept.idle(False), 3)
        self.assertEqual(kept.idle(True), 0)
        openings = [self.opening(leg) for leg in legs]
        self.assertTrue(all(KEYS.proves(message) for message in openings))
        self.assertTrue(all(leg.reading for leg in legs))
        window = SerialWindow()
        self.assertTrue(all(window.take(message.serial) for message in openings))

    def test_kinds(self) -> None:
        """Only the kinds that services need are kept."""
        kept = self.make(2)
        kept.keep([])
        self.assertEqual(self.dials, [])
        kept.keep([True])
        legs = self.connect()
        self.assertEqual([leg.tls for leg in legs], [CONTEXT, CONTEXT])
        self.assertEqual(kept.idle(True), 0)
        self.patch(tls_module, "peer_name", lambda tls, names: names[0])
        for leg in legs:
            self.assertEqual(leg.take(), b"")
            leg.protocol.handshakeCompleted()
            self.assertTrue(KEYS.proves(self.opening(leg)))
        self.assertEqual(kept.idle(True), 2)

    def test_wrong_gateway(self) -> None:
        """A TLS channel to somebody who is not the DMZ node is given up before a word is said."""

        def stranger(tls: object, names: object) -> str:
            raise PeerNotAllowed("somebody else")

        self.patch(tls_module, "peer_name", stranger)
        self.make(1).keep([True])
        (leg,) = self.connect()
        leg.protocol.handshakeCompleted()
        self.assertTrue(leg.aborted)
        self.assertEqual(leg.take(), b"")

    def test_taken_is_replaced_at_once(self) -> None:
        """A channel that a session takes is replaced before the session does anything."""
        self.make(2).keep([False])
        leg, _ = self.connect()
        self.start(leg)
        self.assertEqual(len(self.dials), 1)
        ((channel, start),) = self.started
        self.assertEqual(start, START)
        self.assertIs(channel.leg, leg)

    def test_session_keeps_its_channel(self) -> None:
        """A started channel is the session's: neither old age nor the uplink's end touches it."""
        kept = self.make(1)
        kept.keep([False])
        (leg,) = self.connect()
        self.start(leg)
        self.clock.advance(MAX_AGE_S + 1)
        kept.close()
        self.assertFalse(leg.ending)
        leg.lose()

    def test_demand(self) -> None:
        """Clients that wait get channels beside those that are kept."""
        kept = self.make(2)
        kept.keep([False])
        self.connect()
        kept.demand(False, 3)
        self.assertEqual(len(self.dials), 3)
        self.connect()
        self.assertEqual(kept.idle(False), 5)
        for leg in self.legs[:3]:
            self.start(leg)
        self.assertEqual(self.dials, [])

    def test_dials_under_way_are_bounded(self) -> None:
        """However many are demanded, few are dialled at the same time (Lesson 8)."""
        kept = self.make(2)
        kept.keep([False])
        kept.demand(False, 1000)
        self.assertEqual(len(self.dials), MAX_DIALS)
        self.connect(10)
        self.assertEqual(len(self.dials), MAX_DIALS)

    def test_demand_is_bounded(self) -> None:
        """A taken-over DMZ node cannot make the node dial without end, however it asks."""
        kept = self.make(2)
        kept.keep([False])
        for _ in range(100):
            for tls in (False, True):
                kept.demand(tls, 1024)
            self.connect()
        while self.dials:
            self.connect()
        self.assertLessEqual(len(self.legs), 2 * (MAX_DEMANDED + MAX_DIALS + 2))


class LossTests(SupplyCase):
    """Channels that go, and dials that fail."""

    def test_failed_dial(self) -> None:
        """After a failed dial there is a pause, and after more failures a longer one."""
        self.draw = 0.999
        self.make(2).keep([False])
        pauses = []
        for _ in range(8):
            self.assertEqual(len(self.dials), 2)
            self.refuse()
            self.assertEqual(self.dials, [])
            began = self.clock.seconds()
            while not self.dials:
                self.clock.advance(0.01)
            pauses.append(self.clock.seconds() - began)
        self.assertEqual(pauses, sorted(pauses))
        self.assertGreater(pauses[-1], 4)
        self.assertLess(pauses[-1], 6)

    def test_gateway_that_takes_and_drops(self) -> None:
        """A DMZ node that accepts channels and closes them at once is not hammered (Lesson 8)."""
        self.draw = 0.999
        self.make(4).keep([False])
        for _ in range(6000):
            for leg in self.connect():
                leg.lose()
            self.clock.advance(0.01)
        self.assertLess(len(self.legs), 200)

    def test_pauses_are_drawn(self) -> None:
        """The pause is drawn from zero on: nodes that lost a gateway together come back apart."""
        self.draw = 0.0
        self.make(1).keep([False])
        self.refuse()
        self.clock.advance(0)
        self.assertEqual(len(self.dials), 1)

    def test_success_ends_the_pauses(self) -> None:
        """A channel that served a session shows that all is well: pauses are short again."""
        self.draw = 0.999
        self.make(1).keep([False])
        for _ in range(8):
            self.refuse()
            self.clock.advance(6)
        (leg,) = self.connect()
        self.start(leg)
        self.refuse()
        self.clock.advance(0.2)
        self.assertEqual(len(self.dials), 1)

    def test_old_age(self) -> None:
        """An idle channel is replaced at an age between two bounds, drawn for each."""
        self.draw = 0.25
        self.make(1).keep([False])
        (leg,) = self.connect()
        age = MIN_AGE_S + 0.25 * (MAX_AGE_S - MIN_AGE_S)
        self.clock.advance(age - 0.01)
        self.assertFalse(leg.closing)
        self.clock.advance(0.01)
        self.assertTrue(leg.closing)
        self.assertFalse(leg.aborted)
        leg.lose()
        self.assertEqual(len(self.dials), 1)

    def test_garbage_from_the_gateway(self) -> None:
        """What is not a start under the channel's key ends the channel (Requirement 85)."""
        for data in (b"garbage", seal(START, b"x" * 32), seal(SessionReply(0), b"x" * 32)):
            self.setUp()
            self.make(1).keep([False])
            (leg,) = self.connect()
            leg.protocol.dataReceived(data)
            self.assertTrue(leg.aborted)
            self.assertEqual(self.started, [])

    def test_bytes_behind_the_start(self) -> None:
        """A client's bytes that come before we said that we can take them end the channel."""
        self.make(1).keep([False])
        (leg,) = self.connect()
        self.start(leg, b"SSH-2.0-early")
        self.assertTrue(leg.aborted)
        self.assertEqual(self.started, [])

    def test_second_start(self) -> None:
        """A DMZ node that says more before the reply loses the channel; one session was begun."""
        for more in (None, b"S", b"x"):
            self.dials = []
            self.make(1).keep([False])
            (leg,) = self.connect()
            key = self.start(leg)
            leg.protocol.dataReceived(more or seal(START, key))
            self.assertTrue(leg.aborted)
            self.assertEqual(len(self.started), 1)
            self.started.clear()

    def test_start_with_a_forged_id(self) -> None:
        """A session's id that could pass for other fields of a log line starts nothing."""
        for forged in ("", "5f21", "0123456789ABCDEF", "a" * 15 + "\n"):
            self.dials = []
            self.make(1).keep([False])
            (leg,) = self.connect()
            self.start(leg, message=replace(START, session=forged))
            self.assertTrue(leg.aborted)
            self.assertEqual(self.started, [])

    def test_lost_while_opening(self) -> None:
        """A session whose channel is lost while a backend is dialled is told so, once."""
        self.make(1).keep([False])
        (leg,) = self.connect()
        self.start(leg)
        ((channel, _),) = self.started
        cancelled: list[bool] = []
        channel.when_lost(lambda: cancelled.append(True))
        leg.lose()
        self.assertEqual(cancelled, [True])

    def test_lost_after_the_reply(self) -> None:
        """What has been answered is not given up for the channel's sake."""
        self.make(1).keep([False])
        (leg,) = self.connect()
        self.start(leg)
        ((channel, _),) = self.started
        channel.when_lost(lambda: self.fail("given up"))
        channel.reply(SessionReply(0))
        leg.lose()

    def test_reply(self) -> None:
        """The answer is written under the channel's own key."""
        self.make(1).keep([False])
        (leg,) = self.connect()
        key = self.start(leg)
        ((channel, _),) = self.started
        channel.reply(SessionReply(4))
        self.assertEqual(MessageReader([SessionReply], key).receive(leg.take()), [SessionReply(4)])

    def test_close(self) -> None:
        """With its uplink the supply ends: idle channels, dials under way, pauses, all of it."""
        kept = self.make(3)
        kept.keep([False])
        legs = self.connect(2)
        (dialling,) = self.dials
        kept.close()
        self.assertTrue(all(leg.aborted for leg in legs))
        self.assertTrue(dialling.called)
        for leg in legs:
            leg.lose()
        kept.demand(False, 5)
        self.clock.advance(2 * MAX_AGE_S)
        self.assertEqual(self.dials, [dialling])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_close_in_a_pause(self) -> None:
        """A supply that is closed while it pauses dials no more."""
        kept = self.make(1)
        kept.keep([False])
        self.refuse()
        kept.close()
        self.assertEqual(self.clock.getDelayedCalls(), [])
