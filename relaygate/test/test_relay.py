"""Relays that move bytes: whole, both ways, with ends and counters of their own."""

from __future__ import annotations

from twisted.trial.unittest import TestCase

from relaygate.outcome import Cause, Outcome, Phase
from relaygate.test.dataplane import SPLICED, WAYS, Bench, every_way
from relaygate.test.farend import MB, Ending, payload, until

DONE = Outcome(Cause.DONE, Phase.RELAY)
REPEATS = 20


class WholeTests(TestCase):
    """What goes in comes out, and nothing else does."""

    timeout = 240

    @every_way
    async def test_both_ways_at_once(self, bench: Bench) -> None:
        """5 MB cross each other, and the ends follow the last bytes (Requirements 45 and 77)."""
        request, answer = payload(5 * MB + 1, 1), payload(5 * MB - 1, 2)
        for peer, data in ((bench.client, request), (bench.backend, answer)):
            peer.send(data)
            peer.finish()
        await bench.backend.got(request)
        await bench.client.got(answer)
        self.assertEqual(await bench.over(), DONE)
        self.assertEqual((bench.relay.bytes_in, bench.relay.bytes_out), (5 * MB + 1, 5 * MB - 1))

    async def test_odd_sizes(self) -> None:
        """Sizes round the edges of records, pipes and buffers arrive whole, in both directions."""
        edges = (16_384, 65_536, 262_144, 1_048_576)
        sizes = [0, 1, 2, *(edge + more for edge in edges for more in (-1, 0, 1))]
        for way in WAYS:
            for size in sizes:
                async with Bench(way) as bench:
                    bench.client.send(payload(size))
                    bench.client.finish()
                    await bench.backend.got(payload(size))
                    bench.backend.send(payload(size, 1))
                    bench.backend.finish()
                    await bench.client.got(payload(size, 1))
                    self.assertEqual(await bench.over(), DONE)

    @every_way
    async def test_single_bytes(self, bench: Bench) -> None:
        """A conversation byte by byte goes through at once: nothing waits for more (45)."""
        for byte in payload(200):
            for sender, reader in (bench.peers, bench.peers[::-1]):
                before = reader.count
                sender.send(bytes([byte]))
                await reader.has(before + 1)
        for peer in bench.peers:
            self.assertEqual(bytes(peer.received), payload(200))

    @every_way
    async def test_either_side_speaks_first(self, bench: Bench) -> None:
        """A backend that greets is heard before the client has said anything (Requirement 45)."""
        bench.backend.send(b"220 ready\r\n")
        await bench.client.has(11)
        self.assertEqual(bench.relay.bytes_in, 0)

    async def test_sent_before_the_relay(self) -> None:
        """What peers send, and even end, before there is a relay is passed on (Requirement 83)."""
        for way in WAYS:
            async with Bench(way, started=False) as bench:
                bench.client.send(b"early")
                bench.client.finish()
                bench.backend.send(b"too")
                await bench.client.emptied()
                await bench.backend.emptied()
                bench.relay.start()
                await bench.backend.got(b"early")
                bench.backend.finish()
                await bench.client.got(b"too")

    async def test_bytes_read_before(self) -> None:
        """Bytes that others have read from a leg go first, in front of any size that follows."""
        for way in WAYS:
            for size in (1, 3 * MB):
                async with Bench(way, started=False) as bench:
                    bench.client.send(payload(MB, 1))
                    bench.backend.send(payload(MB, 2))
                    bench.client.finish()
                    bench.backend.finish()
                    bench.relay.start(before_in=payload(size, 3), before_out=payload(size, 4))
                    await bench.backend.got(payload(size, 3) + payload(MB, 1))
                    await bench.client.got(payload(size, 4) + payload(MB, 2))
                    self.assertEqual(await bench.over(), DONE)


class HalfCloseTests(TestCase):
    """Each direction ends on its own (Lesson 3, Requirements 77 and 78)."""

    timeout = 240

    async def _answer_after_the_end(self, bench: Bench, *, client_first: bool) -> None:
        first, second = bench.peers if client_first else bench.peers[::-1]
        first.send(b"question")
        first.finish()
        await second.got(b"question")
        self.assertIsNone(first.ending)
        second.send(payload(5 * MB))
        second.finish()
        await first.got(payload(5 * MB))
        self.assertEqual(await bench.over(), DONE)

    async def test_big_answer_after_the_end(self) -> None:
        """5 MB that are sent after the other side's end arrive whole, 20 times of 20 each way."""
        for way in WAYS:
            for client_first in (True, False):
                for _ in range(REPEATS):
                    async with Bench(way) as bench:
                        await self._answer_after_the_end(bench, client_first=client_first)

    async def test_tail_while_the_other_talks(self) -> None:
        """
        A sender that ends, and closes once it was heard, while the other side still talks loses
        no byte: 0 tails of 25 are lost (Lesson 3, Requirement 77).
        """
        for way in WAYS:
            for _ in range(25):
                async with Bench(way) as bench:
                    bench.client.send(b"still talking", 1000)
                    bench.backend.send(payload(5 * MB))
                    bench.backend.finish()
                    await bench.client.got(payload(5 * MB))
                    bench.client.finish()
                    self.assertIs(await bench.backend.ended(), Ending.END)
                    self.assertEqual(bench.backend.count, 13_000)
                    self.assertEqual(await bench.over(), DONE)

    @every_way
    async def test_end_travels_at_once(self, bench: Bench) -> None:
        """An end passes through while the other direction is silent, and stays open."""
        bench.backend.finish()
        await bench.client.got(b"")
        bench.client.send(b"and yet it talks")
        await bench.backend.has(16)
        self.assertIsNone(bench.outcome)
        bench.client.finish()
        await bench.backend.got(b"and yet it talks")
        self.assertEqual(await bench.over(), DONE)

    @every_way
    async def test_end_behind_a_full_sink(self, bench: Bench) -> None:
        """An end that comes while the reader sleeps waits for the bytes in front of it."""
        bench.client.pause()
        bench.backend.send(payload(MB), 64)
        bench.backend.finish()
        await until_held(bench)
        bench.client.keep = False
        bench.client.resume()
        self.assertIs(await bench.client.ended(), Ending.END)
        self.assertEqual(bench.client.count, 64 * MB)

    @every_way
    async def test_ends_cross(self, bench: Bench) -> None:
        """Both sides end at the same moment, with nothing said: an empty session is whole (29)."""
        bench.client.finish()
        bench.backend.finish()
        await bench.client.got(b"")
        await bench.backend.got(b"")
        self.assertEqual(await bench.over(), DONE)


async def until_held(bench: Bench) -> None:
    """Wait until the pump towards the client has a full sink."""
    await until(lambda: bench.relay._pump_out.holding, "a full sink")


class CounterTests(TestCase):
    """Counters live while bytes move (Lesson 11)."""

    @every_way
    async def test_live(self, bench: Bench) -> None:
        """What has arrived is counted while the session runs, each direction by itself."""
        for turn in range(1, 4):
            bench.client.send(b"x" * 1000)
            bench.backend.send(b"y" * 70_000)
            await bench.backend.has(turn * 1000)
            await bench.client.has(turn * 70_000)
            self.assertEqual(bench.relay.bytes_in, turn * 1000)
            self.assertEqual(bench.relay.bytes_out, turn * 70_000)

    async def test_bytes_before_are_counted(self) -> None:
        """Bytes that were read or passed on before the relay began count as the session's."""
        async with Bench(SPLICED, started=False) as bench:
            bench.relay.start(before_in=b"four", before_out=b"sixsix", seen_in=100, seen_out=200)
            await bench.backend.has(4)
            await bench.client.has(6)
            self.assertEqual((bench.relay.bytes_in, bench.relay.bytes_out), (104, 206))
