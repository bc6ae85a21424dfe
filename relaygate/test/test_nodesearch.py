"""Tests of the search for the internal node that serves a client."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relaygate.addresses import HostPort
from relaygate.errors import NoBackend, NoNode, TooMany, TooSlow, TurnedAway
from relaygate.hedging import HedgeBudget
from relaygate.listeners import Listener, Offer
from relaygate.nodesearch import ALONE_S, OPEN_LIMIT_S, NodeSearch
from relaygate.pool import NoAnswer, PooledChannel
from relaygate.protocols.preamble import SessionReply, SessionStart
from relaygate.test.wire import lines, logged


class Channel:
    """A data channel whose answer the test gives."""

    def __init__(self) -> None:
        self.ended: list[str] = []
        self.leg = SimpleNamespace(
            abortConnection=lambda: self.ended.append("reset"),
            loseConnection=lambda: self.ended.append("closed"),
        )
        self.answer: Deferred[SessionReply] = Deferred()

    async def start(self, message: SessionStart, clock: Any, patience_s: float) -> SessionReply:
        """As a real one: it is gone if nobody waits any more."""
        self.message = message
        try:
            return await self.answer.addTimeout(patience_s, clock, lambda *_: self._late())
        except CancelledError:
            self.leg.abortConnection()
            raise

    def _late(self) -> SessionReply:
        raise NoAnswer


class Node:
    """An internal node that gives channels."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.channels: list[Channel] = []

    def declare_again(self) -> None:
        raise AssertionError("nobody has refused it anything")

    async def channel(self, tls: bool, patience_s: float, address: str) -> PooledChannel:
        self.channels.append(Channel())
        return cast(PooledChannel, self.channels[-1])

    def answers(self, code: int = 0) -> None:
        """Let the newest session be taken, or refused."""
        self.channels[-1].answer.callback(SessionReply(code))


class SearchTests(SynchronousTestCase):
    """Two or three nodes, of which some say nothing (Lesson 13; requirement 83)."""

    def setUp(self) -> None:
        self.clock: Any = Clock()
        self.budget = HedgeBudget(self.clock.seconds)
        offer = Offer("svc", "tcp", HostPort("127.0.0.1", 7), False, 0, 0, persistence=300)
        self.listener = Listener(offer)
        self.a, self.b = Node("node-a"), Node("node-b")
        for node in (self.a, self.b):
            self.listener.join(node)

    def search(self, address: str = "192.0.2.1") -> Deferred[PooledChannel]:
        """A client comes."""
        self.looking = NodeSearch(
            self.listener, address, self.start, self.clock, self.budget, self.clock.seconds()
        )
        return Deferred.fromCoroutine(self.looking.find())

    @staticmethod
    def start(patience_s: float) -> SessionStart:
        client = ("192.0.2.1", 4)
        return SessionStart("0" * 16, "svc", client, client, int(patience_s * 1000))

    def counted(self) -> list[int]:
        """How many sessions each is counted to have."""
        return [member.sessions for member in self.listener.group.members]

    def states(self) -> list[str]:
        """How each is."""
        return [member.health.state for member in self.listener.group.members]

    def test_silent_node(self) -> None:
        """A node that says nothing costs a client two seconds, and no other client any: it is
        passed over from then on.
        """
        with logged() as events:
            found = self.search()
            self.clock.advance(ALONE_S)
            self.assertNoResult(found)
            self.b.answers()
        self.assertIs(self.successResultOf(found), cast(Any, self.b.channels[0]))
        self.assertEqual((self.a.channels[0].ended, self.b.channels[0].ended), (["reset"], []))
        self.assertEqual((self.looking.name, self.counted()), ("node-b", [0, 1]))
        self.assertEqual(self.states(), ["marked", "up"])
        self.assertEqual(len(lines(events, "node passed over for a while: node=node-a")), 1)
        self.search("192.0.2.2")
        self.assertEqual((len(self.a.channels), len(self.b.channels)), (1, 2))
        self.looking.release()
        self.assertEqual(self.counted(), [0, 1])

    def test_memory_goes_with_the_winner(self) -> None:
        """Who was served by another keeps that one (persistence)."""
        self.search()
        self.clock.advance(ALONE_S)
        self.b.answers()
        self.clock.advance(100.0)
        found = self.search()
        self.assertEqual(len(self.b.channels), 2)
        self.b.answers()
        self.successResultOf(found)

    def test_slow_but_first(self) -> None:
        """A node that answers before the second one has the client, and no mark."""
        found = self.search()
        self.clock.advance(ALONE_S)
        self.a.answers()
        self.successResultOf(found)
        self.assertEqual(self.b.channels[0].ended, ["reset"])
        self.assertEqual((self.counted(), self.states()), ([1, 0], ["up", "up"]))

    def test_both_refuse(self) -> None:
        """When all have said no the last word is the client's."""
        found = self.search()
        self.clock.advance(ALONE_S)
        self.b.answers(NoBackend.code)
        self.assertNoResult(found)
        self.a.answers(TooMany.code)
        self.failureResultOf(found, TooMany)
        self.assertEqual(self.counted(), [0, 0])

    def test_nobody_answers(self) -> None:
        """Two silent nodes are over with the client's twenty seconds; each had its share."""
        found = self.search()
        self.assertEqual(self.a.channels[0].message.patience_ms, OPEN_LIMIT_S * 1000 / 2)
        self.clock.advance(ALONE_S)
        self.assertEqual(self.b.channels[0].message.patience_ms, (OPEN_LIMIT_S - ALONE_S) * 1000)
        self.clock.pump([0.5] * int(2 * (OPEN_LIMIT_S - ALONE_S) - 1))
        self.assertNoResult(found)
        self.clock.advance(0.5)
        self.failureResultOf(found, TooSlow)
        self.assertEqual((self.counted(), self.states()), ([0, 0], ["marked", "marked"]))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_one_that_is_out(self) -> None:
        """One that is out already is not asked beside another."""
        self.listener.group.members[1].health.down = True
        found = self.search()
        self.clock.pump([ALONE_S] * 3)
        self.assertEqual(len(self.b.channels), 0)
        self.a.answers()
        self.successResultOf(found)

    def test_caps_are_no_fault(self) -> None:
        """A node that has too many sessions, or does not want one client, is not passed over."""
        self.listener.part(self.b)
        for number in range(10):
            found = self.search(f"192.0.2.{number}")
            refusal = (TooMany, TurnedAway)[number % 2]
            self.a.answers(refusal.code)
            self.failureResultOf(found, refusal)
        self.assertEqual((self.counted(), self.states()), ([0], ["up"]))

    def test_newer_uplink(self) -> None:
        """A node that has come back is asked again by its newer uplink, and counted once."""
        found = self.search()
        newer = Node("node-a")
        self.listener.replace(self.a, newer)
        self.a.answers(NoBackend.code)
        self.b.answers(NoBackend.code)
        newer.answers()
        self.successResultOf(found)
        self.assertEqual(self.counted(), [1, 0])
        self.looking.release()
        self.assertEqual(self.counted(), [0, 0])

    def test_session_that_is_over(self) -> None:
        """A session that was ended meanwhile is counted for nobody, and marks nobody."""
        found = self.search()
        self.clock.advance(ALONE_S)
        self.looking.release()
        self.assertEqual(self.counted(), [0, 0])
        self.b.answers()
        self.successResultOf(found)
        self.assertEqual((self.counted(), self.states()), ([0, 0], ["up", "up"]))

    def test_no_node(self) -> None:
        """Without any node there is nobody to ask."""
        for node in (self.a, self.b):
            self.listener.part(node)
        self.failureResultOf(self.search(), NoNode)
