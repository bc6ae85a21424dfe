"""Sessions of one client that pass unopened and arrive together: all go to one internal node."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from relaygate import nodesearch
from relaygate.errors import NoBackend, Refusal
from relaygate.frontsession import FrontSession
from relaygate.hedging import HedgeBudget
from relaygate.listeners import Listener
from relaygate.mapped import Mapping
from relaygate.test.ftpnodes import CLIENT, GATE, STRANGER
from relaygate.test.test_listeners import Node, offer
from relaygate.transfer import Control
from relaygate.transfers import Transfers

MAPPING = Mapping("ftp", 2000, 2009, (), False)
NODES = ("node-a", "node-b", "node-c")


class TogetherTests(SynchronousTestCase):
    """Three nodes, none of which has answered yet."""

    def setUp(self) -> None:
        self.patch(nodesearch, "meet", self.meet)
        self.listener = Listener(offer(protocol="ftp-mapped", mapping=MAPPING))
        for name in NODES:
            self.listener.join(Node(name))
        ports = SimpleNamespace(allowed=lambda *_: [], intake=None)
        self.clock = Clock()
        self.transfers = Transfers(self.clock, cast(Any, None), cast(Any, ports))
        # Whom each attempt asks, and its answer.
        self.asked: list[tuple[str, Deferred[Any]]] = []
        self.sessions = 0

    async def meet(self, node: Node, *_: object) -> object:
        """Ask *node*, whose answer is the test's to give."""
        answer: Deferred[Any] = Deferred()
        self.asked.append((node.name, answer))
        return await answer

    def arrives(self, client: str = CLIENT) -> tuple[FrontSession, Deferred[Any]]:
        """A session, and when it is open."""
        self.sessions += 1
        number = str(self.sessions)
        leg = SimpleNamespace(
            getPeer=lambda: SimpleNamespace(host=client, port=4000),
            getHost=lambda: SimpleNamespace(host=GATE, port=21),
        )
        hedges = HedgeBudget(self.clock.seconds)
        desk: Any = SimpleNamespace(new_id=lambda: number, clock=self.clock, hedges=hedges)
        session = FrontSession(cast(Any, leg), self.listener, desk, self.transfers)
        return session, Deferred.fromCoroutine(session._open())

    @property
    def nodes(self) -> list[str]:
        """Who was asked, in order."""
        return [name for name, _ in self.asked]

    def fails(self, attempt: int, error: Refusal | None = None) -> None:
        """An attempt fails."""
        self.asked[attempt][1].errback(error or NoBackend())

    def test_one_node(self) -> None:
        """All of one client's ask the same node before it has answered; another's go on."""
        opened = [self.arrives()[1] for _ in range(4)]
        self.assertEqual(self.nodes, ["node-a"] * 4)
        self.arrives(STRANGER)
        self.assertEqual(self.nodes[4], "node-b")
        for (_, answer), result in zip(self.asked, opened, strict=False):
            answer.callback("channel")
            self.assertEqual(self.successResultOf(result), "channel")

    def test_failing_over(self) -> None:
        """Where the first one has no backend they meet at the next one."""
        for _ in range(3):
            self.arrives()
        for attempt in range(3):
            self.fails(attempt)
        self.assertEqual(self.nodes, ["node-a"] * 3 + ["node-b"] * 3)
        self.fails(4)
        self.assertEqual(self.nodes[6:], ["node-c"])
        self.arrives()
        self.assertEqual(self.nodes[7:], ["node-b"])

    def test_nothing_stays(self) -> None:
        """What is open, or refused, heads nowhere any more; what runs is followed."""
        session, opened = self.arrives()
        _, refused = self.arrives()
        self.fails(1)
        self.fails(2)
        self.fails(3)
        self.failureResultOf(refused, NoBackend)
        self.asked[0][1].callback("channel")
        self.successResultOf(opened)
        self.assertEqual(self.transfers._heading, {})
        control = Control(session.id, "node-a", session.client, (GATE, 21), MAPPING)
        self.transfers.admit(control)
        self.arrives()
        self.assertEqual(self.nodes[4:], ["node-a"])
