"""Tests of the uplink port against peers that are nobody's internal node (Lesson 5)."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from OpenSSL import SSL
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface import implementer

from relaygate import lobby
from relaygate.commands import ALPN_CHANNEL, ALPN_UPLINK
from relaygate.legs import TLSFailed
from relaygate.lobby import (
    LOBBY_LIMIT_S,
    MAX_IN_LOBBY,
    MAX_IN_LOBBY_PER_ADDRESS,
    IHost,
    Lobby,
)
from relaygate.protocols.preamble import MAGIC, ChannelOpen, PreambleError, UplinkKeys
from relaygate.test.properties import given, st
from relaygate.test.wire import MemoryLeg, lines, logged
from relaygate.tls import PeerNotAllowed

KEYS = UplinkKeys(b"i" * 16, b"s" * 32)
HANDSHAKE = b"\x16"


@implementer(IHost)
class Host:
    """Takes over what comes, or refuses it with :attr:`refusal`."""

    def __init__(self) -> None:
        self.uplinks: list[tuple[str, MemoryLeg, Callable[[], None]]] = []
        self.channels: list[tuple[ChannelOpen, str | None, MemoryLeg]] = []
        self.refusal: PreambleError | None = None

    def make_uplink(self, name: str, leg: Any, settled: Callable[[], None]) -> None:
        self.uplinks.append((name, leg, settled))

    def take_channel(self, message: ChannelOpen, name: str | None, leg: Any) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.channels.append((message, name, leg))


class LobbyCase(SynchronousTestCase):
    """A lobby by the clock, and peers in memory."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.host = Host()
        self.context = SSL.Context(SSL.TLS_METHOD)
        self.lobby = Lobby(self.host, self.clock, lambda: self.context, ["node-a"])

    def visit(self, address: str = "192.0.2.7") -> MemoryLeg:
        """A peer connects from *address*."""
        leg = MemoryLeg(address)
        visitor = self.lobby.buildProtocol(SimpleNamespace(host=address))  # type: ignore[arg-type]
        leg.carry(visitor)
        return leg

    def say(self, leg: MemoryLeg, data: bytes) -> None:
        """The peer's first words: a look at the first byte, then the bytes, as a leg does it."""
        self.assertTrue(leg.peeking)
        leg.protocol.first_byte(data[:1])
        if not leg.ending and leg.tls is None:
            leg.protocol.dataReceived(data)

    def secure(self, leg: MemoryLeg, alpn: bytes, name: str | None = "node-a") -> None:
        """Bring the handshake of *leg* to its end, with a certificate for *name*."""

        def found(tls: object, allowed: object) -> str:
            if name is None:
                raise PeerNotAllowed("its certificate is for 'CN=stranger'")
            return name

        self.patch(lobby, "peer_name", found)
        leg.protocol.first_byte(HANDSHAKE)
        self.assertIs(leg.tls, self.context)
        leg.tls = SimpleNamespace(get_alpn_proto_negotiated=lambda: alpn)
        leg.protocol.handshakeCompleted()

    def assert_turned_away(self, leg: MemoryLeg) -> None:
        """Check that the peer is gone and was told nothing."""
        self.assertTrue(leg.aborted)
        self.assertEqual(leg.take(), b"")
        self.assertEqual(len(self.lobby), 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        leg.lose()


class TurnedAwayTests(LobbyCase):
    """Who does not come in."""

    def test_silence(self) -> None:
        """A peer that says nothing is gone after the limit, and not before."""
        leg = self.visit()
        self.clock.advance(LOBBY_LIMIT_S - 0.01)
        self.assertFalse(leg.aborted)
        self.clock.advance(0.01)
        self.assert_turned_away(leg)

    def test_drips(self) -> None:
        """A peer that sends a byte now and then gets no second more (Requirement 86)."""
        leg = self.visit()
        opening = bytes(KEYS.open(1))
        self.say(leg, opening[:1])
        for at in range(1, 10):
            self.clock.advance(LOBBY_LIMIT_S / 10)
            leg.protocol.dataReceived(opening[at : at + 1])
            self.assertFalse(leg.aborted)
        self.clock.advance(LOBBY_LIMIT_S / 10)
        self.assert_turned_away(leg)

    def test_slow_handshake(self) -> None:
        """A peer that begins TLS and goes no further is gone after the same limit."""
        leg = self.visit()
        self.clock.advance(LOBBY_LIMIT_S - 1)
        leg.protocol.first_byte(HANDSHAKE)
        self.clock.advance(1)
        self.assert_turned_away(leg)

    def test_handshake_without_a_word_after(self) -> None:
        """A channel that is secured and never opened is gone after the same limit."""
        leg = self.visit()
        self.secure(leg, ALPN_CHANNEL)
        self.clock.advance(LOBBY_LIMIT_S)
        self.assert_turned_away(leg)

    def test_uplink_without_hello(self) -> None:
        """An uplink that never says hello is gone after the same limit, certificate or not."""
        leg = self.visit()
        self.secure(leg, ALPN_UPLINK)
        self.clock.advance(LOBBY_LIMIT_S)
        self.assert_turned_away(leg)

    def test_garbage(self) -> None:
        """What is neither TLS nor a channel is turned away at its first byte."""
        for data in (b"GET / HTTP/1.1\r\n\r\n", b"SSH-2.0-x\r\n", b"\0", b"\x80\x2e\x01", b"\xff"):
            leg = self.visit()
            self.say(leg, data)
            self.assert_turned_away(leg)

    def test_garbage_behind_the_magic(self) -> None:
        """What only begins like a channel is turned away when it shows."""
        leg = self.visit()
        self.say(leg, MAGIC[:-1] + b"\x02")
        self.assert_turned_away(leg)

    def test_bytes_behind_the_opening(self) -> None:
        """A channel that speaks before it is spoken to is no channel of ours."""
        leg = self.visit()
        self.say(leg, bytes(KEYS.open(1)) + b"x")
        self.assert_turned_away(leg)
        self.assertEqual(self.host.channels, [])

    def test_wrong_proof(self) -> None:
        """A channel that the host refuses is turned away, with the reason in the log."""
        self.host.refusal = PreambleError("the channel's proof is wrong")
        leg = self.visit()
        with logged() as events:
            self.say(leg, bytes(KEYS.open(1)))
        self.assert_turned_away(leg)
        self.assertEqual(len(lines(events, "the channel's proof is wrong")), 1)

    def test_unknown_name(self) -> None:
        """The right CA is not enough: a name that may not enrol is turned away, and named."""
        leg = self.visit()
        with logged() as events:
            self.secure(leg, ALPN_UPLINK, name=None)
        self.assert_turned_away(leg)
        self.assertEqual(self.host.uplinks, [])
        (line,) = lines(events, "turned away")
        self.assertIn("address=192.0.2.7", line)
        self.assertIn("CN=stranger", line)

    def test_gone_by_itself(self) -> None:
        """A peer that goes by itself leaves nothing behind, and no line in the log."""
        leg = self.visit()
        with logged() as events:
            leg.lose()
        self.assertEqual(len(self.lobby), 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(lines(events), [])

    def test_failed_handshake(self) -> None:
        """A handshake that fails leaves OpenSSL's reason in the log."""
        leg = self.visit()
        leg.protocol.first_byte(HANDSHAKE)
        with logged() as events:
            leg.lose(TLSFailed("unsupported protocol"))
        self.assertEqual(len(lines(events, "TLS: unsupported protocol")), 1)
        self.assertEqual(len(self.lobby), 0)

    @given(st.lists(st.binary(min_size=1, max_size=70), min_size=1, max_size=4))
    def test_any_bytes(self, pieces: list[bytes]) -> None:
        """Any bytes are turned away, or waited for until the limit, without a word or an error."""
        self.setUp()
        self.host.refusal = PreambleError("the channel's proof is wrong")
        leg = self.visit()
        self.say(leg, pieces[0])
        for piece in pieces[1:]:
            if not leg.ending and leg.tls is None:
                leg.protocol.dataReceived(piece)
        self.clock.advance(LOBBY_LIMIT_S)
        self.assert_turned_away(leg)


class ComeInTests(LobbyCase):
    """Who comes in."""

    def test_clear_channel(self) -> None:
        """A clear channel leaves the lobby with its proof, and without a name."""
        leg = self.visit()
        self.say(leg, bytes(KEYS.open(5)))
        self.assertEqual(self.host.channels, [(KEYS.open(5), None, leg)])
        self.assertEqual(len(self.lobby), 0)
        self.clock.advance(LOBBY_LIMIT_S)
        self.assertFalse(leg.aborted)

    def test_tls_channel(self) -> None:
        """A channel under TLS leaves it with its proof and its certificate's name."""
        leg = self.visit()
        self.secure(leg, ALPN_CHANNEL)
        leg.protocol.dataReceived(bytes(KEYS.open(5)))
        self.assertEqual(self.host.channels, [(KEYS.open(5), "node-a", leg)])
        self.assertEqual(len(self.lobby), 0)

    def test_uplink(self) -> None:
        """An uplink counts as a peer of the lobby until it is settled."""
        leg = self.visit()
        self.secure(leg, ALPN_UPLINK)
        ((name, taken, settled),) = self.host.uplinks
        self.assertEqual((name, taken), ("node-a", leg))
        self.assertEqual(len(self.lobby), 1)
        settled()
        settled()
        self.assertEqual(len(self.lobby), 0)
        self.clock.advance(LOBBY_LIMIT_S)
        self.assertFalse(leg.aborted)

    def test_new_context(self) -> None:
        """A renewed certificate is used from the next connection on."""
        self.context = SSL.Context(SSL.TLS_METHOD)
        leg = self.visit()
        leg.protocol.first_byte(HANDSHAKE)
        self.assertIs(leg.tls, self.context)


class FloodTests(LobbyCase):
    """Many at once."""

    def test_full_lobby(self) -> None:
        """A full lobby turns its oldest peer away for each new one (256 in all)."""
        legs = [self.visit(f"192.0.2.{number // 8}") for number in range(MAX_IN_LOBBY + 3)]
        self.assertEqual(MAX_IN_LOBBY, 256)
        self.assertEqual(len(self.lobby), MAX_IN_LOBBY)
        self.assertEqual([leg.aborted for leg in legs[:4]], [True, True, True, False])
        self.assertEqual(sum(leg.aborted for leg in legs), 3)

    def test_full_of_one_address(self) -> None:
        """One address may have 64 peers in the lobby; its own oldest goes, nobody else's."""
        other = self.visit("198.51.100.1")
        legs = [self.visit() for _ in range(MAX_IN_LOBBY_PER_ADDRESS + 1)]
        self.assertEqual(MAX_IN_LOBBY_PER_ADDRESS, 64)
        self.assertEqual([leg.aborted for leg in legs[:2]], [True, False])
        self.assertFalse(other.aborted)

    def test_real_node_in_a_flood(self) -> None:
        """A node that needs no longer than others need to connect comes in during a flood."""
        for number in range(3 * MAX_IN_LOBBY):
            self.visit(f"192.0.2.{number % 250}")
            node = self.visit("198.51.100.1")
            self.say(node, bytes(KEYS.open(number)))
            self.assertFalse(node.aborted)
        self.assertEqual(len(self.host.channels), 3 * MAX_IN_LOBBY)

    def test_after_the_flood(self) -> None:
        """Everybody who was let in or turned away is forgotten."""
        legs = [self.visit(f"192.0.2.{number % 9}") for number in range(2 * MAX_IN_LOBBY)]
        for leg in legs:
            leg.lose()
        self.assertEqual(len(self.lobby), 0)
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(self.lobby._by_address, {})

    def test_log_is_throttled(self) -> None:
        """A flood leaves a few lines; the next one says how many were not written."""
        with logged() as events:
            for _ in range(1000):
                self.say(self.visit(), b"garbage")
            written = len(lines(events, "turned away"))
            self.clock.advance(60)
            self.say(self.visit(), b"garbage")
        self.assertLess(written, 50)
        self.assertIn(f"not_logged={1000 - written}", lines(events, "turned away")[-1])

    def test_other_versions_are_throttled_too(self) -> None:
        """A flood of other versions' offers leaves a few lines, each of bounded length."""
        with logged() as events:
            for _ in range(1000):
                self.lobby.mismatch([b"\n\xff" + b"x" * 250] * 100)
        self.assertLess(len(lines(events)), 50)
        self.assertTrue(all(len(line) < 1200 and "\n" not in line for line in lines(events)))
