"""Ends and marks in odd places of a stream: nothing before them is lost, nor are they."""

from __future__ import annotations

import socket

from twisted.trial.unittest import TestCase

from relaygate.legs import Leg
from relaygate.outcome import Cause
from relaygate.test.dataplane import BOTH_TLS, COPIED, INNER_TLS, OUTER_TLS, SPLICED, Bench, held
from relaygate.test.farend import MB, Ending, payload, until

TLS_WAYS = (OUTER_TLS, INNER_TLS, BOTH_TLS)


class PaddedEndTests(TestCase):
    """
    A close_notify that looks like data from outside (RFC 8446 section 5.4).

    Whatever waits is taken for a big record here, which is what padding comes to.
    """

    timeout = 240

    def setUp(self) -> None:
        self.patch(Leg, "_records_waiting", lambda _: 1)

    async def test_end_behind_data(self) -> None:
        """An end that is read together with data comes behind all of it."""
        for way in TLS_WAYS:
            for size in (1, 100, 16384, 16385, 100_000, 3 * MB + 7):
                async with Bench(way) as bench:
                    for one, two in (bench.peers, bench.peers[::-1]):
                        one.send(payload(size, size))
                        one.finish()
                        await two.got(payload(size, size))
                    self.assertIs((await bench.over()).cause, Cause.DONE, f"{way} {size}")

    async def test_end_behind_a_held_load(self) -> None:
        """The same while the sink is full when the end is read."""
        for way in TLS_WAYS:
            async with Bench(way) as bench:
                bench.client.pause()
                data = payload(MB, 3) * 24
                bench.backend.send(data)
                bench.backend.finish()
                await held(bench.relay._pump_out)
                bench.client.resume()
                await bench.client.got(data)
                bench.client.finish()
                self.assertIs((await bench.over()).cause, Cause.DONE, str(way))


class UrgentTests(TestCase):
    """Urgent data (RFC 9293 section 3.8.5), as Telnet's Synch has it."""

    timeout = 240

    async def test_urgent_byte_in_a_flow(self) -> None:
        """It is a byte like others, in its place; the flow goes on behind it, and ends."""
        for way in (SPLICED, COPIED):
            for before, behind in ((4 * MB, MB), (4 * MB, 0), (10, 3), (0, 2 * MB)):
                async with Bench(way) as bench:
                    first, last = payload(before, 1), payload(behind, 2)
                    bench.client.send(first)
                    await bench.backend.has(before)
                    skt = bench.client.socket
                    self.assertEqual(skt.send(b"!", socket.MSG_OOB), 1)
                    bench.client.send(last)
                    await bench.backend.has(before + 1 + behind)
                    bench.client.finish()
                    await bench.backend.got(first + b"!" + last)

    async def test_urgent_byte_does_not_spin(self) -> None:
        """A stream that stands at the mark is not asked for more again and again."""
        async with Bench(SPLICED) as bench:
            bench.client.send(payload(4 * MB))
            await bench.backend.has(4 * MB)
            looks = 0
            load = bench.relay._pump_in.load

            def counted() -> int:
                nonlocal looks
                looks += 1
                return load()

            self.patch(bench.relay._pump_in, "load", counted)
            bench.client.socket.send(b"!", socket.MSG_OOB)
            await bench.backend.has(4 * MB + 1)
            await until(lambda: looks, "a look")
            self.assertLess(looks, 10)
            bench.client.reset()
            self.assertIs(await bench.backend.ended(), Ending.RESET)
