"""
Tests of FTP data connections on their way: a client, the DMZ node's half, and an internal node's.

Uplink, channels, ports and dials are real, on loopback; only the control connection is pretended.
"""

from __future__ import annotations

import random
import socket
from typing import Any

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.trial.unittest import TestCase

from relaygate.addresses import ListenRule
from relaygate.commands import ALPN_CHANNEL, ALPN_UPLINK, CloseTransfer, OpenPassive
from relaygate.dataway import ARRIVAL_LIMIT_S, TransferFailed, TransferHandle
from relaygate.enrolled import NodeBook
from relaygate.gatewaylink import GatewayLink
from relaygate.identity import Role
from relaygate.legs import Leg
from relaygate.listeners import Listeners
from relaygate.lobby import Lobby
from relaygate.outcome import Cause, Outcome, Phase
from relaygate.passive import LISTEN_LIMIT_S, PassivePorts
from relaygate.pipes import PipeShelf
from relaygate.pool import NoChannel
from relaygate.test.farend import LOOPBACK, Ending, Peer, fails, payload, reactor, until
from relaygate.test.ports import free_span
from relaygate.test.test_listeners import FakePort
from relaygate.test.test_passive import MovedReactor
from relaygate.test.wire import Listening, identity, lines, logged
from relaygate.tls import client_context, server_context
from relaygate.transfer import MEET_LIMIT_S, Control
from relaygate.transfers import MAX_TRANSFERS, Transfers

SESSION = "0123456789abcdef"
SPAN = free_span(LOOPBACK)
STRANGER = "127.0.0.2"


class WayCase(TestCase):
    """Both halves, with one session between them."""

    timeout = 180

    async def setUp(self) -> None:  # type: ignore[override]
        self.moved = MovedReactor()
        self.shelf = PipeShelf()
        rules = [ListenRule.parse(f"{LOOPBACK}:{SPAN[0]}-{SPAN[1]}")]
        self.ports = PassivePorts(self.moved, rules, random.Random(7).sample)
        self.transfers = Transfers(self.moved, self.shelf, self.ports)
        pretended: Any = lambda listener: FakePort()  # noqa: E731 - a stand-in for a bound method
        self.book = NodeBook(reactor, Listeners(pretended, rules), "dmz 1.0", self.transfers)
        self.lobby = Lobby(self.book, reactor, lambda: self.context, ["node-a", "node-b"])
        self.context = server_context(
            identity("dmz", Role.DMZ), [ALPN_UPLINK, ALPN_CHANNEL], self.lobby.mismatch
        )
        self.listening = Listening(self, self.lobby)
        self.taken: list[Leg] = []
        self.link = await self.start("node-a")
        self.admit(SESSION)

    async def start(self, name: str) -> GatewayLink:
        """An internal node's link, which is up."""
        node = identity(name, Role.INTERNAL)
        made = GatewayLink(
            reactor,
            self.listening.address,
            "dmz",
            2,
            (),
            {False, True},
            lambda protocol: client_context(node, protocol),
            lambda link, channel, start: self.fail("no session was started"),
            lambda: 0.001,
            "internal 1.0",
        )
        made.startService()
        self.addCleanup(self.stop, made)
        await until(lambda: made.up, "the uplink")
        return made

    async def stop(self, link: GatewayLink) -> None:
        """End everything."""
        self.transfers.stop("the test is over")
        for leg in self.taken:
            leg.abortConnection()
        if link.running:
            await link.stopService()
        await until(lambda: not any(leg.connected for leg in self.taken), "the legs' end")
        self.shelf.close()

    def admit(self, session: str, node: str = "node-a") -> None:
        """A session begins on *node*."""
        self.transfers.admit(Control(session, node, (LOOPBACK, 40_000), (LOOPBACK, 21)))

    async def offer(
        self, *, tls: bool = False, session: str = SESSION, peers: tuple[str, ...] = ()
    ) -> TransferHandle:
        """Ask for a passive one."""
        return await self.link.dataway.offer_passive(session, SPAN, peers, tls)

    def connect(self, port: int, source: str = LOOPBACK) -> Peer:
        """A client's data connection."""
        peer = Peer(socket.create_connection((LOOPBACK, port), 5, (source, 0)))
        self.addCleanup(peer.close)
        return peer

    async def arrival(self, transfer: TransferHandle) -> Peer:
        """The inside's end of a data connection that arrives."""
        leg = await transfer.arrived
        self.taken.append(leg)
        # From here on the test reads the socket itself, so that the leg must not be closed by it.
        assert leg.tls is None
        peer = Peer(socket.socket(fileno=socket.dup(leg.socket.fileno())))
        self.addCleanup(peer.close)
        return peer

    async def nothing_left(self) -> None:
        """Wait until the DMZ has given all back."""
        await until(lambda: not (self.transfers.prepared or self.transfers.running), "the end")
        self.assertEqual(self.ports.bound, set())
        self.assertEqual(self.transfers._count, {})
        # A socket is closed in the turn after.
        await until(lambda: not any(map(self.is_bound, range(SPAN[0], SPAN[1] + 1))), "all closed")

    def is_bound(self, number: int) -> bool:
        """Whether anybody listens on port *number*."""
        with socket.socket() as skt:
            return skt.connect_ex((LOOPBACK, number)) == 0

    async def refused(self, asked: Any, *words: str) -> None:
        """Check that a wish fails, in these words."""
        error = await fails(asked, TransferFailed)
        for word in words:
            self.assertIn(word, str(error))


class PassiveTests(WayCase):
    """The client connects."""

    async def test_both_ways(self) -> None:
        """Bytes and ends pass both ways, whole, and then nothing is left (Requirement 21)."""
        data, answer = payload(3_000_000, 1), payload(2_000_000, 2)
        transfer = await self.offer()
        self.assertEqual(self.transfers.prepared, 1)
        client = self.connect(transfer.port)
        inside = await self.arrival(transfer)
        await until(lambda: self.transfers.running, "the relay")
        self.assertEqual(self.transfers.prepared, 0)
        client.send(data)
        client.finish()
        inside.send(answer)
        inside.finish()
        await inside.got(data)
        await client.got(answer)
        await self.nothing_left()

    async def test_tls_channel(self) -> None:
        """A clear data connection crosses between the nodes under TLS where that is asked for."""
        transfer = await self.offer(tls=True)
        client = self.connect(transfer.port)
        leg = await transfer.arrived
        self.taken.append(leg)
        self.assertIsNotNone(leg.tls)
        leg.write(b"hello")
        await client.has(5)
        leg.abortConnection()
        await client.is_reset()
        await self.nothing_left()

    async def test_unread_until_taken(self) -> None:
        """What a client sends at once waits for whoever takes the connection (Requirement 29)."""
        for data in (b"early", b""):
            transfer = await self.offer()
            client = self.connect(transfer.port)
            client.send(data)
            client.finish()
            inside = await self.arrival(transfer)
            await inside.got(data)
            inside.finish()
            await client.got(b"")
            await self.nothing_left()

    async def test_resets_stay_resets(self) -> None:
        """A reset on either side is one on the other, never an end (Requirement 28)."""
        for first in (0, 1):
            transfer = await self.offer()
            ends = self.connect(transfer.port), await self.arrival(transfer)
            ends[first].send(b"half a file")
            await ends[1 - first].has(11)
            if first:
                self.taken[-1].abortConnection()
                ends[1].close()
            else:
                ends[0].reset()
            await ends[1 - first].is_reset()
            self.taken[-1].abortConnection()
            await self.nothing_left()

    async def test_strangers(self) -> None:
        """A stranger is closed and the client still gets in (Requirement 22)."""
        transfer = await self.offer()
        stranger = self.connect(transfer.port, STRANGER)
        self.assertIs(await stranger.ended(), Ending.RESET)
        self.assertFalse(transfer.arrived.called)
        self.connect(transfer.port)
        await self.arrival(transfer)

    async def test_peers(self) -> None:
        """Members of a network that is named get in as well (Requirement 22)."""
        transfer = await self.offer(peers=("192.0.2.0/24", "127.0.0.2/31", "2001:db8::/32"))
        self.connect(transfer.port, STRANGER)
        await self.arrival(transfer)

    async def test_peers_that_are_none(self) -> None:
        """What is no network is refused, and nothing is opened."""
        await self.refused(self.offer(peers=("partner.example",)), "not a network")
        await self.nothing_left()

    async def test_withdrawn(self) -> None:
        """What is not wanted any more is given back (Requirement 21)."""
        transfer = await self.offer()
        failed = fails(transfer.arrived, CancelledError)
        waiting = Deferred.fromCoroutine(failed)
        transfer.withdraw()
        transfer.withdraw()
        await waiting
        await self.nothing_left()
        self.assertEqual(len(self.link.dataway), 0)

    async def test_cancelled(self) -> None:
        """Who stops waiting gives it back as well."""
        transfer = await self.offer()
        transfer.arrived.addErrback(lambda failure: failure.trap(CancelledError) and None)
        transfer.arrived.cancel()
        await self.nothing_left()

    async def test_nobody_comes(self) -> None:
        """After a minute the port is given back, and a while later the inside is told so."""
        now = reactor.seconds()
        transfer = await self.offer()
        assert transfer.limit is not None
        self.assertLess(abs(transfer.limit.getTime() - now - ARRIVAL_LIMIT_S), 2)
        self.moved.clock.advance(LISTEN_LIMIT_S)
        await self.nothing_left()
        self.link.dataway._expire((SESSION, 1))
        await self.refused(transfer.arrived, "nobody has come")
        self.assertFalse(transfer.limit.active())

    async def test_range_used_up(self) -> None:
        """A range without a free port is an error at once, not a wait (Requirement 21)."""
        for number in range(20):
            self.admit(f"{number:016x}")
            for _ in range(2):
                made = await self.offer(session=f"{number:016x}")
                made.arrived.addErrback(lambda _: None)
        await self.refused(self.offer(), "OpenPassive was refused", "is free")
        self.transfers.stop("enough")
        await self.nothing_left()

    async def test_policy(self) -> None:
        """The DMZ's own policy is asked each time (Lesson 10)."""
        asked = self.link.dataway.offer_passive(SESSION, (30_000, 30_010), (), False)
        await self.refused(asked, "policy.listen permits none")

    async def test_lines(self) -> None:
        """A transfer's life stands in the DMZ's log at debug level, with its bytes."""
        with logged() as events:
            transfer = await self.offer()
            client = self.connect(transfer.port)
            inside = await self.arrival(transfer)
            client.send(b"12345")
            client.finish()
            inside.finish()
            await inside.got(b"12345")
            await self.nothing_left()
        (over,) = lines(events, f"transfer {SESSION}/1 is over")
        self.assertIn("way=passive outcome='done/relay' bytes_in=5 bytes_out=0", over)
        self.assertEqual(
            {event["log_level"].name for event in events if "transfer" in event}, {"debug"}
        )


class ActiveTests(WayCase):
    """The DMZ node dials the client."""

    async def test_dialled(self) -> None:
        """The client is dialled from the address that it reached (Requirement 25)."""
        with socket.create_server((LOOPBACK, 0)) as server:
            port = server.getsockname()[1]
            transfer = await self.link.dataway.dial_active(SESSION, port, 0, False)
            skt, source = server.accept()
        self.assertEqual(source[0], LOOPBACK)
        client = Peer(skt)
        self.addCleanup(client.close)
        inside = await self.arrival(transfer)
        inside.send(b"listing")
        inside.finish()
        client.finish()
        await client.got(b"listing")
        await inside.got(b"")
        await self.nothing_left()

    async def test_source_port(self) -> None:
        """It is dialled from a source port, one time after the other (Requirement 25)."""
        for _ in range(3):
            with socket.create_server((LOOPBACK, 0)) as server:
                port = server.getsockname()[1]
                transfer = await self.link.dataway.dial_active(SESSION, port, 22_220, False)
                skt, source = server.accept()
            self.assertEqual(source, (LOOPBACK, 22_220))
            client = Peer(skt)
            self.addCleanup(client.close)
            inside = await self.arrival(transfer)
            inside.finish()
            await client.got(b"")
            client.finish()
            await inside.got(b"")
            await self.nothing_left()

    async def test_not_reached(self) -> None:
        """A client that refuses is told to the inside, with the reason (Requirement 25)."""
        with socket.create_server((LOOPBACK, 0)) as server:
            port = server.getsockname()[1]
        asked = self.link.dataway.dial_active(SESSION, port, 0, False)
        await self.refused(asked, "DialActive was refused", "Connection refused")
        await self.nothing_left()
        self.assertEqual(len(self.link.dataway), 0)

    async def test_low_ports(self) -> None:
        """A port below 1024 is not dialled (Requirement 24)."""
        await fails(self.link.dataway.dial_active(SESSION, 1023, 0, False), TransferFailed)
        await self.nothing_left()


class BoundsTests(WayCase):
    """What a node may ask for, and when it ends."""

    async def test_other_sessions(self) -> None:
        """A node speaks for its own FTP sessions alone."""
        self.admit("f" * 16, node="node-b")
        for session in ("f" * 16, "0" * 16, ""):
            await self.refused(self.offer(session=session), "runs on this node")
        other = await self.start("node-b")
        transfer = await self.offer()
        transfer.arrived.addErrback(lambda _: None)
        uplink: Any = other._uplink
        await uplink.ask(CloseTransfer, session=SESSION, transfer=1)
        self.assertEqual(self.transfers.prepared, 1)

    async def test_two_at_most(self) -> None:
        """A session has two transfers at most, and may have another when one is over."""
        made = [await self.offer() for _ in range(MAX_TRANSFERS)]
        for transfer in made:
            transfer.arrived.addErrback(lambda _: None)
        await self.refused(self.offer(), f"has {MAX_TRANSFERS} transfers already")
        made[0].withdraw()
        (await self.offer()).arrived.addErrback(lambda _: None)
        self.transfers.stop("enough")
        await self.nothing_left()

    async def test_number_twice(self) -> None:
        """A number stands for one transfer."""
        transfer = await self.offer()
        transfer.arrived.addErrback(lambda _: None)
        uplink: Any = self.link._uplink
        again = {"session": SESSION, "transfer": 1, "first": SPAN[0], "last": SPAN[1]}
        error = await fails(uplink.ask(OpenPassive, peers=[], tls=False, **again), Exception)
        self.assertIn("has a transfer of this number", str(error))

    async def test_end_of_a_session(self) -> None:
        """With its session goes what is prepared; what runs ends by itself (Requirement 6)."""
        running = await self.offer()
        client = self.connect(running.port)
        inside = await self.arrival(running)
        prepared = await self.offer()
        prepared.arrived.addErrback(lambda _: None)
        self.transfers.over(SESSION, Outcome(Cause.DONE, Phase.RELAY))
        self.assertEqual((self.transfers.prepared, self.transfers.running), (0, 1))
        client.send(b"the rest")
        client.finish()
        await inside.got(b"the rest")
        inside.finish()
        await self.nothing_left()
        await self.refused(self.offer(), "runs on this node")

    async def test_aborted_session(self) -> None:
        """With a session that the DMZ node ends, its running transfer is reset (Requirement 28)."""
        transfer = await self.offer()
        client = self.connect(transfer.port)
        inside = await self.arrival(transfer)
        client.send(b"half")
        await inside.has(4)
        self.transfers.over(SESSION, Outcome(Cause.SHUTDOWN, Phase.RELAY))
        await client.is_reset()
        await inside.is_reset()
        await self.nothing_left()

    async def test_lost_uplink(self) -> None:
        """With the uplink goes what is prepared; what runs goes on, and new ones come again."""
        running = await self.offer()
        client = self.connect(running.port)
        inside = await self.arrival(running)
        prepared = await self.offer()
        lost = Deferred.fromCoroutine(fails(prepared.arrived, TransferFailed))
        (node,) = self.book._by_name.values()
        node.uplink.end("cut by the test")
        self.assertIn("the uplink is gone", str(await lost))
        await until(lambda: not self.transfers.prepared, "the port's end")
        await until(lambda: self.link.up, "the next uplink")
        client.send(b"still here")
        client.finish()
        await inside.got(b"still here")
        inside.finish()
        await self.nothing_left()
        transfer = await self.offer()
        self.connect(transfer.port)
        await self.arrival(transfer)

    async def test_without_an_uplink(self) -> None:
        """Without an uplink there is nobody to ask."""
        await self.link.stopService()
        await self.refused(self.offer(), "the uplink is gone")

    async def test_no_reply(self) -> None:
        """A client whose transfer the inside does not take is reset, in time (Requirement 8)."""
        transfer = await self.offer()
        transfer.arrived.addErrback(lambda _: None)
        self.link.dataway._waiting.clear()
        transfer.fail(TransferFailed("forgotten by the test"))
        client = self.connect(transfer.port)
        await client.is_reset()
        await self.nothing_left()

    async def test_no_channel(self) -> None:
        """A client for whom there is no channel is reset after ten seconds."""
        transfer = await self.offer()
        transfer.arrived.addErrback(lambda _: None)
        (node,) = self.book._by_name.values()

        async def channel(tls: bool, patience_s: float, address: str) -> Any:
            self.assertAlmostEqual(patience_s, MEET_LIMIT_S)
            waiting: Deferred[Any] = Deferred()
            try:
                return await waiting.addTimeout(patience_s, self.moved.clock)
            except TimeoutError:
                raise NoChannel from None

        self.patch(node, "channel", channel)
        client = self.connect(transfer.port)
        await until(lambda: not self.ports.bound, "the client's arrival")
        self.moved.clock.advance(MEET_LIMIT_S)
        await client.is_reset()
        await self.nothing_left()

    async def test_wrong_kind_of_channel(self) -> None:
        """What must cross under TLS is not taken from a clear channel, whatever the DMZ does."""
        transfer = await self.offer(tls=True)
        transfer.arrived.addErrback(lambda _: None)
        (made,) = self.transfers._all.values()
        made._tls = False
        client = self.connect(transfer.port)
        await client.is_reset()
        self.assertFalse(transfer.arrived.called)
        await self.nothing_left()

    async def test_stopped(self) -> None:
        """A DMZ node that stops leaves nothing open and resets what runs."""
        running = await self.offer()
        client = self.connect(running.port)
        await self.arrival(running)
        (await self.offer()).arrived.addErrback(lambda _: None)
        self.transfers.stop("the DMZ node is shutting down")
        await client.is_reset()
        await self.nothing_left()
