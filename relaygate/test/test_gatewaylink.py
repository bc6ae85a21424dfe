"""Tests of a whole link between two nodes: real TLS, a real lobby and book, on loopback."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from relaygate import commands
from relaygate.addresses import ListenRule
from relaygate.commands import ALPN_CHANNEL, ALPN_UPLINK
from relaygate.enrolled import NodeBook
from relaygate.gatewaylink import SUPERSEDED_WAIT_S, GatewayLink
from relaygate.identity import Role
from relaygate.listeners import Listeners
from relaygate.lobby import Lobby
from relaygate.passive import PassivePorts
from relaygate.test.test_enrolled import service
from relaygate.test.test_listeners import FakePort
from relaygate.test.wire import Listening, identity, lines, logged, until
from relaygate.tls import client_context, server_context
from relaygate.transfers import Transfers


class LinkTests(TestCase):
    """A DMZ node's half, whose listeners alone are pretended, and the links that dial it."""

    def setUp(self) -> None:
        self.ports: list[FakePort] = []
        self.listeners = Listeners(self.bind, [ListenRule.parse("0.0.0.0:1-60000")])
        shelf: Any = None
        transfers = Transfers(reactor, shelf, PassivePorts(reactor, (), lambda ports, count: []))
        self.book = NodeBook(reactor, self.listeners, "dmz 1.0", transfers)
        self.lobby = Lobby(self.book, reactor, lambda: self.context, ["node-a"])
        protocols = [ALPN_UPLINK, ALPN_CHANNEL]
        self.context = server_context(identity("dmz", Role.DMZ), protocols, self.lobby.mismatch)
        self.listening = Listening(self, self.lobby)
        self.node = identity("node-a", Role.INTERNAL)

    def bind(self, listener: object) -> Any:
        """Open a pretended socket."""
        self.ports.append(FakePort())
        return self.ports[-1]

    def link(self, *services: dict[str, Any]) -> GatewayLink:
        """A link of node-a that offers *services*, and is stopped after the test."""
        made = GatewayLink(
            reactor,
            self.listening.address,
            "dmz",
            2,
            services,
            {service["tls_channel"] for service in services},
            lambda protocol: client_context(self.node, protocol),
            lambda link, channel, start: None,
            lambda: 0.001,
            "internal 1.0",
        )
        made.startService()

        async def stop() -> None:
            if made.running:
                await made.stopService()

        self.addCleanup(stop)
        return made

    def pools(self) -> list[tuple[int, int]]:
        """How many clear and TLS channels are ready, for each node that stands."""
        return [
            (node._pools[False].idle, node._pools[True].idle)
            for node in self.book._by_name.values()
        ]

    async def opened(self, count: int) -> None:
        """Wait until so many have been opened in all."""
        await until(lambda: len(self.ports) == count, f"listener {count}")

    async def test_comes_up(self) -> None:
        """A link declares all its services, on pages, and fills the pools of both kinds."""
        many = [service(f"s{port}", port, tls_channel=port == 999) for port in range(900, 1100)]
        link = self.link(*many)
        await until(lambda: len(self.ports) == 200, "the listeners")
        await until(lambda: self.pools() == [(2, 2)], "both pools")
        self.assertTrue(link.up)
        self.assertEqual(len(self.lobby), 0)

    async def test_stops(self) -> None:
        """A link that is stopped says farewell; its listeners close and its channels go."""
        link = self.link(service())
        await until(lambda: self.pools() == [(2, 0)], "the pool")
        with logged() as events:
            await link.stopService()
            await until(lambda: not self.ports[0].open, "the listener's end")
        self.assertEqual(len(lines(events, "reason='the internal node is shutting down'")), 2)
        self.assertFalse(link.up)

    async def test_comes_back(self) -> None:
        """A link whose uplink is cut comes back by itself, with everything it offers."""
        link = self.link(service())
        for round_ in range(1, 4):
            await until(lambda: self.pools() == [(2, 0)], "the pool")
            await self.opened(round_)
            (node,) = self.book._by_name.values()
            node.uplink.end("cut by the test")
            # It is dialled again at once: the next listener may be open before we look.
            await self.opened(round_ + 1)
            self.assertEqual([port.open for port in self.ports], [False] * round_ + [True])
        await until(lambda: self.pools() == [(2, 0)], "the pool")
        self.assertTrue(link.up)

    async def test_gateway_stops(self) -> None:
        """A DMZ node that says farewell takes its idle channels along, and no line warns of it."""
        link = self.link(service())
        await until(lambda: self.pools() == [(2, 0)], "the pool")
        supply = link._supply
        assert supply is not None
        (node,) = self.book._by_name.values()
        with logged() as events:
            node.uplink.tell(commands.Farewell, reason="shutting down", superseded=False)
            await until(lambda: lines(events, "says farewell"), "the farewell")
            # They may be seen to end before the uplink is.
            node._pools[False].close()
            await until(lambda: supply.idle(False) == 0, "the end of the channels")
            node.uplink.end("shutting down")
            await until(lambda: lines(events, "uplink lost: gateway=dmz"), "the end of the uplink")
        self.assertEqual(lines(events, "a data channel"), [])

    async def test_superseded(self) -> None:
        """Of two processes with one name the newer serves, and the older one keeps away a while."""
        older = self.link(service())
        await until(lambda: self.pools() == [(2, 0)], "the older one's pool")
        with logged() as events:
            newer = self.link(service())
            await until(lambda: newer.up and not older.up, "the change")
            await until(lambda: self.pools() == [(2, 0)], "the newer one's pool")
        self.assertEqual(len(lines(events, "dmz says farewell: 'uplink 2 of the same node")), 1)
        self.assertEqual(len(lines(events, "uplink lost: node=node-a generation=1")), 1)
        self.assertEqual([port.open for port in self.ports], [True])
        waits = [call.getTime() - reactor.seconds() for call in reactor.getDelayedCalls()]
        self.assertTrue(any(SUPERSEDED_WAIT_S - 5 < wait <= SUPERSEDED_WAIT_S for wait in waits))

    async def test_superseded_while_ending(self) -> None:
        """
        A process that is to end leaves its place to the newer one of its name for good, whichever
        came first; an uplink that was only cut it dials again.
        """
        oldest = self.link(service())
        await until(lambda: self.pools() == [(2, 0)], "the pool")
        oldest.yield_to_newer()
        (node,) = self.book._by_name.values()
        node.uplink.end("cut by the test")
        await self.opened(2)
        older = self.link(service())
        await until(lambda: older.up and not oldest.up, "the first change")
        self.assertFalse(oldest._dialler.running)
        newer = self.link(service())
        await until(lambda: newer.up and not older.up, "the second change")
        self.assertTrue(older._dialler.running)
        older.yield_to_newer()
        self.assertFalse(older._dialler.running)

    async def test_retired(self) -> None:
        """A link that is retired while it has no uplink does not get one any more."""
        link = self.link(service())
        link.hold()
        link.retire()
        self.assertFalse(link._dialler.running)

    async def test_one_line_for_an_absent_gateway(self) -> None:
        """A DMZ node that is not there is one line in the log, however often it is dialled."""
        closed = self.listening.port.stopListening()
        if closed is not None:
            await closed
        with logged() as events:
            self.link(service())
            await until(
                lambda: sum("Scheduling retry" in str(e.get("log_format")) for e in events) > 5,
                "some tries",
            )
        (line,) = lines(events)
        self.assertIn("no uplink to dmz at 127.0.0.1", line)
        self.assertIn("Connection refused", line)
