"""Tests of the question whether an internal node is there at all."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relaygate.legs import Leg
from relaygate.liveness import DOUBT_S, FRESH_S, TURN_S, TURNS, Liveness
from relaygate.pool import ChannelPool, NoAnswer, NoChannel
from relaygate.protocols.preamble import SessionStart
from relaygate.test.wire import MemoryLeg
from relaygate.uplink import SILENCE_LIMIT_S


class LivenessCase(SynchronousTestCase):
    """A node whose pings the test answers."""

    def setUp(self) -> None:
        self.clock: Any = Clock()
        self.pings: list[Deferred[object]] = []
        self.liveness = Liveness(self.clock, self.ping)

    async def ping(self) -> object:
        self.pings.append(Deferred())
        return await self.pings[-1]

    def ask(self) -> Deferred[bool]:
        """Somebody asks."""
        return Deferred.fromCoroutine(self.liveness.there())

    def pass_time(self) -> None:
        """Let the time for a ping pass, turn by turn."""
        self.clock.pump([TURN_S] * TURNS)


class LivenessTests(LivenessCase):
    """Who is there (Requirement 82)."""

    def test_answer(self) -> None:
        """All who ask at one time share a ping, and for a moment its answer."""
        asking = [self.ask() for _ in range(3)]
        self.assertEqual(len(self.pings), 1)
        self.pings[0].callback({})
        self.assertEqual([self.successResultOf(each) for each in asking], [True] * 3)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertTrue(self.successResultOf(self.ask()))
        self.clock.advance(FRESH_S)
        self.assertNoResult(self.ask())
        self.assertEqual(len(self.pings), 2)

    def test_silence(self) -> None:
        """Who does not answer is not there."""
        asking = [self.ask(), self.ask()]
        self.clock.advance(TURN_S)
        self.assertNoResult(asking[0])
        self.clock.advance(TURN_S)
        self.assertEqual([self.successResultOf(each) for each in asking], [False] * 2)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_stated_times(self) -> None:
        """Nobody waits for a node that is gone for longer than operators are told."""
        self.assertLessEqual(DOUBT_S + TURN_S * TURNS, 6.0)
        self.assertLessEqual(SILENCE_LIMIT_S, 15.0)

    def test_refusal(self) -> None:
        """A ping that cannot be sent, since the uplink is gone, is an answer at once."""
        asking = self.ask()
        self.pings[0].errback(ValueError())
        self.assertFalse(self.successResultOf(asking))

    def test_stopped_ourselves(self) -> None:
        """Where this process was stopped, one late turn says nothing."""
        asking = self.ask()
        self.clock.advance(60.0)
        self.assertNoResult(asking)
        self.pings[0].callback({})
        self.assertTrue(self.successResultOf(asking))

    def test_late_answer(self) -> None:
        """An answer that comes too late brings the node back for who asks next."""
        asking = self.ask()
        self.pass_time()
        self.assertFalse(self.successResultOf(asking))
        self.pings[0].callback({})
        self.assertTrue(self.successResultOf(self.ask()))


class PoolTests(LivenessCase):
    """Clients that wait for a node behind a cut wire."""

    def setUp(self) -> None:
        super().setUp()
        self.pool = ChannelPool(self.clock, lambda count: None, self.liveness.there)

    def take(self) -> Deferred[Any]:
        """A client comes."""
        return Deferred.fromCoroutine(self.pool.take(20.0, "192.0.2.1"))

    def test_no_channel(self) -> None:
        """Who waits for a channel of a node that is gone is told so in seconds."""
        taking = self.take()
        self.clock.advance(DOUBT_S)
        self.pass_time()
        self.failureResultOf(taking, NoChannel)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_no_channel_yet(self) -> None:
        """Who waits for a slow node goes on waiting."""
        taking = self.take()
        self.clock.advance(DOUBT_S)
        self.pings[0].callback({})
        self.clock.pump([1.0] * 17)
        self.assertNoResult(taking)
        self.clock.advance(1.0)
        self.failureResultOf(taking, NoChannel)

    def started(self) -> tuple[MemoryLeg, Deferred[Any]]:
        """A channel on which a session was started."""
        leg = MemoryLeg()
        self.pool.arrived(cast(Leg, leg), b"k" * 32)
        channel = self.successResultOf(self.take())
        where = ("192.0.2.1", 4)
        message = SessionStart("0" * 16, "svc", where, where, 20_000)
        return leg, Deferred.fromCoroutine(channel.start(message, self.clock, 20.0))

    def test_no_answer(self) -> None:
        """A session that was started behind a cut wire is given up in seconds."""
        leg, answer = self.started()
        self.clock.advance(DOUBT_S)
        self.pass_time()
        self.failureResultOf(answer, NoAnswer)
        self.assertTrue(leg.aborted)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_no_answer_yet(self) -> None:
        """One on a node that is there has all its time, since its backends may be slow."""
        leg, answer = self.started()
        self.clock.advance(DOUBT_S)
        self.pings[0].callback({})
        self.clock.pump([1.0] * 17)
        self.assertNoResult(answer)
        self.clock.advance(1.0)
        self.failureResultOf(answer, NoAnswer)
        self.assertTrue(leg.aborted)
