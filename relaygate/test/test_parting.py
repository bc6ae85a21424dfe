"""Words of parting arrive, whatever the client has said and whatever it does."""

from __future__ import annotations

from typing import Any, cast

from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from relaygate import parting
from relaygate.errors import REFUSALS
from relaygate.legs import Leg
from relaygate.parting import PARTING_LIMIT_S, part
from relaygate.test.dataplane import accepted, gone
from relaygate.test.farend import MB, Peer, open_descriptors, payload, unchanged, until

WORDS = b"relaygate: no server available, try again later\r\n"
REPEATS = 20


class PartingTests(TestCase):
    """Saying no (Requirements 46 and 83)."""

    timeout = 180

    def setUp(self) -> None:
        self.clock = Clock()
        self.gone = 0

    def count(self) -> None:
        """Be told that the leg is gone."""
        self.gone += 1

    async def connect(self) -> tuple[Leg, Peer]:
        """A client and its leg, until the test is over."""
        leg, peer = await accepted()
        self.addCleanup(peer.close)
        self.addCleanup(leg.abortConnection)
        return leg, peer

    def part(self, leg: Leg, words: bytes = WORDS) -> None:
        """Send the client away."""
        part(leg, words, cast(Any, self.clock), self.count)

    async def test_unread_bytes(self) -> None:
        """Words arrive whole although the client sent what nobody read: 20 times of 20 (46)."""
        for _ in range(REPEATS):
            leg, peer = await self.connect()
            peer.send(payload(100_000))
            await peer.emptied()
            self.part(leg)
            await peer.got(WORDS)
            peer.finish()
            await gone(leg)
        self.assertEqual(self.gone, REPEATS)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    async def test_client_talks_on(self) -> None:
        """A client that talks all the while still gets the words and the end."""
        leg, peer = await self.connect()
        peer.send(payload(MB), 20)
        self.part(leg)
        await peer.got(WORDS)
        await peer.emptied()
        self.assertTrue(leg.connected)

    async def test_every_refusal(self) -> None:
        """Each refusal's words arrive as they are, in each protocol (Requirements 46 and 83)."""
        for refusal in REFUSALS.values():
            for protocol in ("ssh", "tls", "tcp"):
                words = refusal().words(protocol)
                leg, peer = await self.connect()
                peer.send(b"SSH-2.0-early\r\n")
                await peer.emptied()
                self.part(leg, words)
                await peer.got(words)
                peer.finish()
                await gone(leg)

    async def test_client_ended_before(self) -> None:
        """A client that has ended its stream already hears the words, and the leg goes at once."""
        leg, peer = await self.connect()
        peer.send(b"SSH-2.0-x\r\n")
        peer.finish()
        await peer.emptied()
        self.part(leg)
        await peer.got(WORDS)
        await until(lambda: self.gone, "the leg gone")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    async def test_limit(self) -> None:
        """A client that neither reads nor ends is dropped after two seconds, and not before."""
        leg, peer = await self.connect()
        peer.pause()
        self.part(leg)
        self.clock.advance(PARTING_LIMIT_S - 0.1)
        await unchanged(lambda: self.gone, 0.05)
        self.assertTrue(leg.connected)
        self.clock.advance(0.1)
        await until(lambda: self.gone, "the leg gone")
        self.assertEqual(self.gone, 1)
        # The words and their end were there before: they are not taken back.
        peer.resume()
        await peer.got(WORDS)

    async def test_limit_for_a_client_that_talks(self) -> None:
        """Talking does not lengthen the two seconds (Requirement 86)."""
        leg, peer = await self.connect()
        self.part(leg)
        for _turn in range(20):
            peer.send(b"still here")
            await peer.emptied()
            self.clock.advance(PARTING_LIMIT_S / 20)
        await until(lambda: self.gone, "the leg gone")

    async def test_bytes(self) -> None:
        """Nor is a client listened to that sends without end."""
        self.patch(parting, "PARTING_LIMIT_BYTES", 3 * MB)
        leg, peer = await self.connect()
        self.part(leg)
        peer.send(payload(MB), 20)
        await until(lambda: self.gone, "the leg gone")
        self.assertEqual(self.clock.getDelayedCalls(), [])

    async def test_reset(self) -> None:
        """A client that resets instead of listening is gone, and the timer with it."""
        before: dict[str, str] = {}
        for turn in range(REPEATS):
            leg, peer = await self.connect()
            self.part(leg)
            peer.reset()
            await gone(leg)
            self.assertEqual(self.gone, turn + 1)
            before = before or open_descriptors()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertEqual(open_descriptors(), before)

    async def test_gone_before(self) -> None:
        """For a leg that is gone already nothing is said, and its owner is told at once."""
        leg, _ = await self.connect()
        leg.abortConnection()
        await gone(leg)
        self.part(leg)
        self.assertEqual(self.gone, 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    async def test_under_tls(self) -> None:
        """Under TLS the words have a goodbye behind them."""
        leg, peer = await accepted(tls=True)
        self.addCleanup(peer.close)
        peer.send(payload(100_000))
        await peer.emptied()
        self.part(leg)
        await peer.got(WORDS)
        peer.finish()
        await until(lambda: self.gone, "the leg gone")
