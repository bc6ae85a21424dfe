"""Tests of TLS between the nodes, on real loopback sockets, with OpenSSL at both ends."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import timedelta
from typing import Any

from OpenSSL import SSL
from twisted.internet import reactor
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Factory
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from relaygate.commands import ALPN_CHANNEL, ALPN_UPLINK
from relaygate.gatewaylink import GatewayLink
from relaygate.identity import Identity, Role
from relaygate.lobby import Lobby
from relaygate.test.wire import CA, NOW, Listening, Peer, authority, identity, lines, logged, until
from relaygate.tls import (
    HYBRID_GROUP,
    PeerNotAllowed,
    client_context,
    key_exchange,
    peer_name,
    server_context,
    uplink_secrets,
)

ALPN = [ALPN_UPLINK, ALPN_CHANNEL]
DMZ = identity("dmz", Role.DMZ)
NODE = identity("node-a", Role.INTERNAL)


def dmz_context(who: Identity = DMZ) -> SSL.Context:
    """The DMZ node's context, as the node makes it."""
    return server_context(who, ALPN, lambda offered: None)


@implementer(IHandshakeListener)
class ServerPeer(Peer):
    """The accepting end of a TLS connection."""

    context: SSL.Context

    def connectionMade(self) -> None:
        self.leg.start_tls(self.context, server=True)


class Server(Factory):
    """Accepts TLS with one context and keeps its ends."""

    noisy = False

    def __init__(self, context: SSL.Context) -> None:
        self._context = context
        self.peers: list[ServerPeer] = []

    def buildProtocol(self, addr: object) -> ServerPeer:
        peer = ServerPeer()
        peer.context = self._context
        self.peers.append(peer)
        return peer


class HandshakeTests(TestCase):
    """Handshakes that succeed, and what comes out of them."""

    async def join(
        self,
        server: Server,
        context: SSL.Context,
        listening: Listening | None = None,
        session: SSL.Session | None = None,
    ) -> tuple[Any, Any]:
        """Make one connection to *server*; return both ends when the handshake is over."""
        listening = listening or Listening(self, server)
        came = len(server.peers)
        peer = implementer(IHandshakeListener)(Peer)()
        client = await listening.connect(context, peer, session=session)
        await until(lambda: len(server.peers) > came)
        await until(lambda: server.peers and (server.peers[-1].secured or server.peers[-1].over))
        await until(lambda: client.secured or client.over)
        return server.peers[-1], client

    async def test_good_peers(self) -> None:
        """Two nodes of one CA meet under TLS 1.3, and each finds the other's name."""
        server, client = await self.join(Server(dmz_context()), client_context(NODE, ALPN_UPLINK))
        for end in (server, client):
            self.assertEqual(end.leg.tls.get_protocol_version_name(), "TLSv1.3")
            self.assertEqual(end.leg.tls.get_alpn_proto_negotiated(), ALPN_UPLINK)
        self.assertEqual(peer_name(server.leg.tls, ["node-b", "node-a"]), "node-a")
        self.assertEqual(peer_name(client.leg.tls, ["dmz"]), "dmz")

    async def test_hybrid_key_exchange(self) -> None:
        """The key exchange is the hybrid post-quantum one, without any setting."""
        for end in await self.join(Server(dmz_context()), client_context(NODE, ALPN_UPLINK)):
            self.assertEqual(key_exchange(end.leg.tls), HYBRID_GROUP)

    async def test_names_that_are_not_allowed(self) -> None:
        """A name that is not asked for is refused, also one that only looks like it."""
        server, _ = await self.join(Server(dmz_context()), client_context(NODE, ALPN_UPLINK))
        for allowed in ([], ["node-b"], ["node"], ["node-a.example"]):
            with self.assertRaises(PeerNotAllowed) as caught:
                peer_name(server.leg.tls, allowed)
            self.assertIn("node-a", str(caught.exception))

    async def test_secrets(self) -> None:
        """Both ends export the same id and secret, and each session others (Requirement 85)."""
        server = Server(dmz_context())
        listening = Listening(self, server)
        context = client_context(NODE, ALPN_UPLINK)
        found: list[bytes] = []
        for _ in range(3):
            ends = await self.join(server, context, listening)
            ours, theirs = (uplink_secrets(end.leg.tls) for end in ends)
            self.assertEqual(ours, theirs)
            self.assertEqual([len(part) for part in ours], [16, 32])
            found += ours
        self.assertEqual(len(set(found)), 6)
        self.assertFalse(any(found[n + 1].startswith(found[n]) for n in range(0, 6, 2)))

    async def test_channels_resume(self) -> None:
        """
        A session that was met before is resumed, however its connection ended; names are checked.

        A new context, which a new identity brings, knows nothing of it: a full handshake follows.
        """
        server = Server(dmz_context())
        listening = Listening(self, server)
        context = client_context(NODE, ALPN_CHANNEL)

        async def meet(session: SSL.Session | None, resumed: bool) -> SSL.Session:
            ours, theirs = await self.join(server, context, listening, session)
            for end, name in ((ours, "node-a"), (theirs, "dmz")):
                self.assertEqual(was_resumed(end.leg.tls), resumed)
                self.assertEqual(peer_name(end.leg.tls, [name]), name)
            ours.leg.write(b"x")
            await until(lambda: theirs.data)
            found: SSL.Session = theirs.leg.tls.get_session()
            theirs.leg.abortConnection()
            await until(lambda: theirs.over is not None)
            return found

        session = await meet(None, resumed=False)
        session = await meet(await meet(session, resumed=True), resumed=True)
        renewed = Server(dmz_context())
        ours, _ = await self.join(renewed, context, Listening(self, renewed), session)
        self.assertFalse(was_resumed(ours.leg.tls))

    async def test_tls_12_is_refused(self) -> None:
        """A client or a server that speaks no more than TLS 1.2 is refused, in OpenSSL's words."""
        old_client = client_context(NODE, ALPN_UPLINK)
        old_server = dmz_context()
        for context in (old_client, old_server):
            context.set_min_proto_version(SSL.TLS1_2_VERSION)
            context.set_max_proto_version(SSL.TLS1_2_VERSION)
        server, client = await self.join(Server(dmz_context()), old_client)
        self.assertFalse(server.secured or client.secured)
        self.assertIn("unsupported protocol", server.over)
        self.assertIn("version", client.over)
        server, client = await self.join(Server(old_server), client_context(NODE, ALPN_UPLINK))
        self.assertFalse(server.secured or client.secured)
        self.assertIn("version", server.over + client.over)

    async def test_no_certificate(self) -> None:
        """A client without a certificate is refused."""
        bare = SSL.Context(SSL.TLS_METHOD)
        bare.set_alpn_protos([ALPN_UPLINK])
        server, client = await self.join(Server(dmz_context()), bare)
        await until(lambda: client.over is not None)
        self.assertFalse(server.secured)
        self.assertIn("did not return a certificate", server.over)
        self.assertIn("certificate required", client.over)


def was_resumed(connection: SSL.Connection) -> bool:
    """Whether the handshake resumed a session; pyOpenSSL has no public word for it."""
    return bool(SSL._lib.SSL_session_reused(connection._ssl))  # type: ignore[attr-defined]


class Nobody:
    """A host that takes nothing; a peer that reaches it has come too far."""

    def make_uplink(self, name: str, leg: Any, settled: Callable[[], None]) -> None:
        raise AssertionError(f"{name} brought an uplink")

    def take_channel(self, message: object, name: str | None, leg: Any) -> None:
        raise AssertionError(f"{name} brought a channel")


def refused(
    dmz_says: str, node_says: str, **changed: Any
) -> Callable[[Any], Coroutine[Any, Any, None]]:
    """Make a test in which the nodes, *changed*, do not come together, and both logs say why."""

    async def test(case: WordsTests) -> None:
        await case.check(dmz_says, node_says, **changed)

    wrong = ", ".join(changed)
    test.__doc__ = f"The wrong {wrong}: the DMZ's log says {dmz_says!r}, the node's {node_says!r}."
    return test


def trusting(stranger: Identity) -> Identity:
    """The identity of a *stranger* that trusts our CA: only its own certificate is wrong."""
    return replace(stranger, ca_pem=authority(CA).certificate_pem)


class WordsTests(TestCase):
    """
    A real lobby and a real dialler that are not to come together.

    Each test has one wrong thing, and looks for its reason in the logs of both sides.
    """

    async def check(
        self,
        dmz_says: str,
        node_says: str,
        *,
        dmz: Identity = DMZ,
        node: Identity = NODE,
        alpn: bytes = ALPN_UPLINK,
        gateway: str = "dmz",
    ) -> None:
        """Dial once, and look for the words in the log."""
        context = dmz_context(dmz)
        lobby = Lobby(Nobody(), reactor, lambda: context, ["node-a"])
        context = server_context(dmz, ALPN, lobby.mismatch)
        listening = Listening(self, lobby)
        link = GatewayLink(
            reactor,
            listening.address,
            gateway,
            0,
            [],
            (),
            lambda protocol: client_context(node, alpn),
            lambda link, channel, start: None,
            lambda: 0.999,
            "test",
        )
        with logged() as events:
            link.startService()
            try:
                await until(lambda: lines(events, "no uplink to"), "the node's line")
                if dmz_says:
                    await until(
                        lambda: lines(events, "turned away") + lines(events, "uplink refused"),
                        "the DMZ node's line",
                    )
            finally:
                await link.stopService()
        self.assertFalse(link.up)
        words = lines(events)
        inside = [line for line in words if line.startswith("no uplink to")]
        outside = [line for line in words if line not in inside]
        self.assertTrue(any(node_says in line for line in inside), words)
        self.assertTrue(any(dmz_says in line for line in outside) or not dmz_says, words)

    test_node_of_another_ca = refused(
        "the peer's certificate is of another CA",
        "unknown ca",
        node=trusting(identity("node-a", Role.INTERNAL, ca="stranger")),
    )
    test_expired_node = refused(
        "the peer's certificate has expired",
        "expired",
        node=identity("node-a", Role.INTERNAL, now=NOW - timedelta(days=60)),
    )
    test_node_not_yet_valid = refused(
        "the peer's certificate is not yet valid",
        "certificate",
        node=identity("node-a", Role.INTERNAL, now=NOW + timedelta(days=2)),
    )
    test_node_with_the_dmz_role = refused(
        "the peer's certificate is for the other role",
        "unsupported certificate",
        node=identity("node-a", Role.DMZ),
    )
    test_node_that_may_not_enrol = refused(
        "which is not in uplink.nodes",
        "",
        node=identity("node-x", Role.INTERNAL),
    )
    test_dmz_of_another_ca = refused(
        "unknown ca",
        "the peer's certificate is of another CA",
        dmz=trusting(identity("dmz", Role.DMZ, ca="stranger")),
    )
    test_expired_dmz = refused(
        "expired",
        "the peer's certificate has expired",
        dmz=identity("dmz", Role.DMZ, now=NOW - timedelta(days=60)),
    )
    test_dmz_not_yet_valid = refused(
        "certificate",
        "the peer's certificate is not yet valid",
        dmz=identity("dmz", Role.DMZ, now=NOW + timedelta(days=2)),
    )
    test_dmz_with_the_node_role = refused(
        "unsupported certificate",
        "the peer's certificate is for the other role",
        dmz=identity("dmz", Role.INTERNAL),
    )
    test_other_major_version = refused(
        "the node offers ['relaygate/99']",
        "no application protocol",
        alpn=b"relaygate/99",
    )

    async def test_dmz_of_another_name(self) -> None:
        """A DMZ node of our CA under another name gets no hello, and the node's log says why."""
        arrived: list[str] = []

        class Host(Nobody):
            def make_uplink(self, name: str, leg: Any, settled: Callable[[], None]) -> None:
                arrived.append(name)
                leg.protocol = Peer()
                leg.protocol.makeConnection(leg)
                self.peer = leg.protocol
                settled()

        host = Host()
        self.patch(Nobody, "make_uplink", lambda _, *all: host.make_uplink(*all))
        await self.check("", "the DMZ node is not 'other'", gateway="other")
        await until(lambda: arrived and host.peer.over is not None)
        self.assertEqual(host.peer.data, b"")
