"""Tests of the DMZ node's data channels and of the pool of idle ones (Lesson 6)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relaygate.pool import (
    MAX_IDLE,
    ChannelLost,
    ChannelPool,
    NoAnswer,
    NoChannel,
    PooledChannel,
)
from relaygate.protocols.preamble import (
    MessageReader,
    SessionReply,
    SessionStart,
    UplinkKeys,
    seal,
)
from relaygate.test.wire import MemoryLeg

KEYS = UplinkKeys(b"i" * 16, b"s" * 32)
START = SessionStart("id", "sftp", ("192.0.2.9", 40_000), ("192.0.2.1", 22), 20_000)


class StrictClock(Clock):
    """A clock that, as the real reactor does, takes no call for a time that is over."""

    def callLater(
        self,
        delay: float,
        callable: Callable[..., object],  # noqa: A002 - Twisted's name
        *args: object,
        **kw: object,
    ) -> IDelayedCall:
        assert delay >= 0, f"{delay} is over"
        return super().callLater(delay, callable, *args, **kw)


class PoolCase(SynchronousTestCase):
    """A pool by the clock."""

    def setUp(self) -> None:
        self.clock = StrictClock()
        self.asked: list[int] = []
        self.pool = ChannelPool(self.clock, self.asked.append)
        self._serial = 0

    def arrive(self) -> MemoryLeg:
        """A proven channel comes; its serial is the number of channels so far."""
        self._serial += 1
        leg: Any = MemoryLeg()
        self.pool.arrived(leg, KEYS.channel_key(self._serial))
        arrived: MemoryLeg = leg
        return arrived

    def take(self, patience_s: float = 10.0, address: str = "192.0.2.1") -> Deferred[PooledChannel]:
        """Take a channel."""
        return Deferred.fromCoroutine(self.pool.take(patience_s, address))

    def taken(self, taking: Deferred[PooledChannel]) -> Any:
        """The leg of the channel that *taking* has got."""
        return self.successResultOf(taking).leg


class PoolTests(PoolCase):
    """Who gets which channel, and when."""

    def test_idle_channels_in_order(self) -> None:
        """Idle channels are taken at once, and nothing is asked for."""
        legs = [self.arrive() for _ in range(3)]
        self.assertEqual(self.pool.idle, 3)
        self.assertEqual([self.taken(self.take()) for _ in legs], legs)
        self.clock.advance(1)
        self.assertEqual(self.asked, [])

    def test_dead_channel_leaves_at_once(self) -> None:
        """An idle channel that is lost leaves the pool, wherever it stands in it."""
        first, second, third = (self.arrive() for _ in range(3))
        second.lose()
        self.assertEqual(self.pool.idle, 2)
        self.assertEqual([self.taken(self.take()) for _ in range(2)], [first, third])

    def test_idle_channel_that_speaks(self) -> None:
        """An idle channel that speaks is no longer trusted: it ends."""
        leg = self.arrive()
        leg.protocol.dataReceived(seal(SessionReply(0), KEYS.channel_key(1)))
        self.assertTrue(leg.aborted)
        leg.lose()
        self.assertEqual(self.pool.idle, 0)

    def test_waiting_clients_in_order(self) -> None:
        """Clients that found none get the channels that arrive in the order in which they came."""
        waiting = [self.take() for _ in range(3)]
        legs = [self.arrive() for _ in range(3)]
        self.assertEqual([self.taken(taking) for taking in waiting], legs)
        self.assertEqual(self.pool.idle, 0)

    def test_addresses_take_turns(self) -> None:
        """A crowd from one address waits behind the one client of another."""
        crowd = [self.take() for _ in range(3)]
        other = self.take(address="192.0.2.2")
        legs = [self.arrive() for _ in range(4)]
        served = [self.taken(taking) for taking in (crowd[0], other, *crowd[1:])]
        self.assertEqual(served, legs)

    def test_asked_once_a_turn(self) -> None:
        """All clients of one turn are asked for in one message, those of the next in another."""
        for clients in (5, 2):
            for _ in range(clients):
                self.take().addErrback(lambda failure: failure.trap(NoChannel))
            self.clock.advance(0)
        self.assertEqual(self.asked, [5, 2])

    def test_wait_that_is_over(self) -> None:
        """A client that has waited long enough is told so, and its channel goes to the next."""
        first = self.take(1.0)
        second = self.take(2.0)
        self.clock.advance(1.0)
        self.failureResultOf(first, NoChannel)
        leg = self.arrive()
        self.assertIs(self.taken(second), leg)
        self.assertEqual(self.arrive().aborted, False)
        self.assertEqual(self.pool.idle, 1)

    def test_wait_that_is_cancelled(self) -> None:
        """A client that has gone gives its place to the next."""
        first, second = self.take(), self.take()
        first.cancel()
        self.failureResultOf(first)
        self.assertIs(self.arrive(), self.taken(second))

    def test_ended_waits_leave_nothing(self) -> None:
        """Waits that ended without a channel take no memory, though none ever arrives."""
        for _ in range(50):
            taking = self.take(1.0)
            self.clock.advance(1.0)
            self.failureResultOf(taking, NoChannel)
        self.assertFalse(self.pool._waiting)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_patience_that_is_used_up(self) -> None:
        """A client whose time is over already gets no channel, and causes no error."""
        taking = self.take(-0.001)
        self.clock.advance(0)
        self.failureResultOf(taking, NoChannel)

    def test_bound(self) -> None:
        """A node that brings channels without end has a bound."""
        legs = [self.arrive() for _ in range(MAX_IDLE + 5)]
        self.assertEqual(self.pool.idle, MAX_IDLE)
        self.assertEqual([leg.aborted for leg in legs[MAX_IDLE:]], [True] * 5)

    def test_close(self) -> None:
        """With its uplink the pool goes: idle channels, waiting clients, and those that come."""
        idle = self.arrive()
        taken = self.arrive()
        self.assertIs(self.taken(self.take()), idle)
        self.assertIs(self.taken(self.take()), taken)
        idle = self.arrive()
        self.pool.close()
        self.assertTrue(idle.aborted)
        self.assertFalse(taken.aborted)
        self.failureResultOf(self.take(), NoChannel)
        self.assertTrue(self.arrive().aborted)
        self.assertEqual(self.pool.idle, 0)

    def test_close_while_waited_for(self) -> None:
        """Clients that wait learn of the uplink's end at once; nothing is asked for any more."""
        waiting = [self.take() for _ in range(3)]
        self.pool.close()
        for taking in waiting:
            self.failureResultOf(taking, NoChannel)
        self.clock.advance(60)
        self.assertEqual(self.asked, [])
        self.assertEqual(self.clock.getDelayedCalls(), [])


class StartTests(PoolCase):
    """From a taken channel to the internal node's answer."""

    def setUp(self) -> None:
        super().setUp()
        self.leg = self.arrive()
        self.channel = self.successResultOf(self.take())

    def start(self, patience_s: float = 10.0) -> Deferred[SessionReply]:
        """Start a session on the channel."""
        return Deferred.fromCoroutine(self.channel.start(START, self.clock, patience_s))

    def test_start_and_reply(self) -> None:
        """The start is written under the channel's key; the reply ends our reading of it."""
        starting = self.start()
        reader = MessageReader([SessionStart], KEYS.channel_key(1))
        self.assertEqual(reader.receive(self.leg.take()), [START])
        self.leg.protocol.dataReceived(seal(SessionReply(3), KEYS.channel_key(1)) + b"SSH-2.0-x")
        self.assertEqual(self.successResultOf(starting), SessionReply(3))
        self.assertEqual(self.channel.rest, b"SSH-2.0-x")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stale_channel(self) -> None:
        """A channel that dies before its reply is found so at once; the next one serves."""
        starting = self.start()
        self.leg.lose()
        self.failureResultOf(starting, ChannelLost)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        next_leg = self.arrive()
        self.assertIs(self.taken(self.take()), next_leg)

    def test_lost_before_it_is_started(self) -> None:
        """A channel that died on its way to the client is found so at once, not by waiting."""
        self.leg.lose()
        self.failureResultOf(self.start(), ChannelLost)

    def test_no_answer(self) -> None:
        """A node that does not answer in time costs the channel."""
        starting = self.start(3.0)
        self.clock.advance(2.99)
        self.assertNoResult(starting)
        self.clock.advance(0.01)
        self.failureResultOf(starting, NoAnswer)
        self.assertTrue(self.leg.aborted)

    def test_patience_that_is_used_up(self) -> None:
        """A start whose time is over already gets no answer, and causes no error."""
        starting = self.start(-0.001)
        self.clock.advance(0)
        self.failureResultOf(starting, NoAnswer)

    def test_wrong_answers(self) -> None:
        """What is not the node's answer on this channel ends it (Requirement 85)."""
        for data in (
            b"garbage",
            seal(SessionReply(0), KEYS.channel_key(2)),
            seal(START, KEYS.channel_key(1)),
        ):
            self.setUp()
            starting = self.start()
            self.leg.protocol.dataReceived(data)
            self.assertTrue(self.leg.aborted)
            self.assertNoResult(starting)
            self.leg.lose()
            self.failureResultOf(starting, ChannelLost)
