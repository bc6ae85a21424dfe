"""The limits of a relay: what could wait for ever does not, and what moves is left alone."""

from __future__ import annotations

from twisted.trial.unittest import TestCase

from relaygate.outcome import Cause, Outcome, Phase
from relaygate.pump import Pump
from relaygate.relay import HALF_CLOSED_LIMIT_S, STALL_LIMIT_S, UNREAD_LOOK_S
from relaygate.test.dataplane import BOTH_TLS, SPLICED, WAYS, Bench, every_way, held
from relaygate.test.farend import MB, Ending, payload, unchanged, until

IDLE_S = 100.0
LATE = 1.25


class LimitCase(TestCase):
    """What the limits' tests share."""

    timeout = 240

    async def struck(self, bench: Bench, words: str) -> None:
        """Check that the relay has been ended by a limit, with resets on both sides."""
        for peer in bench.peers:
            self.assertIs(await peer.ended(), Ending.RESET)
        self.assertEqual(await bench.over(), Outcome(Cause.TIMEOUT, Phase.RELAY, words))

    async def alive(self, bench: Bench) -> None:
        """Check that bytes still go from the client to the backend."""
        before = bench.backend.count
        bench.client.send(b"still here")
        await bench.backend.has(before + 10)
        self.assertIsNone(bench.outcome)

    async def rests(self, bench: Bench) -> None:
        """Wait until nothing moves towards the client."""
        await unchanged(lambda: bench.relay.bytes_out, 0.05)

    async def fill(self, bench: Bench, *, towards_client: bool) -> Pump:
        """Have one sleeping reader fill up the way to it; returns the pump that waits."""
        sender, reader = (bench.client, bench.backend)
        pump = bench.relay._pump_in
        if towards_client:
            sender, reader = reader, sender
            pump = bench.relay._pump_out
        reader.pause()
        reader.keep = False
        sender.send(payload(MB), 64)
        await held(pump)
        await unchanged(lambda: pump.moved)
        return pump


class IdleTests(LimitCase):
    """The service's own idle limit (Lesson 15, Requirement 49)."""

    @every_way
    async def test_none_by_default(self, bench: Bench) -> None:
        """Without a limit a relay may idle for weeks, and needs no timer for it (49)."""
        await self.alive(bench)
        self.assertEqual(bench.clock.getDelayedCalls(), [])

    async def test_strikes(self) -> None:
        """An idle relay is ended when its limit has passed, and not a second before."""
        for way in WAYS:
            async with Bench(way, idle_timeout_s=IDLE_S) as bench:
                bench.pass_time(IDLE_S - 1)
                self.assertIsNone(bench.outcome)
                bench.pass_time(1)
                await self.struck(bench, "idle for too long")

    async def test_never_while_bytes_move(self) -> None:
        """One byte now and then, in either direction, keeps a relay alive (Lesson 15)."""
        for side in (0, 1):
            async with Bench(SPLICED, idle_timeout_s=IDLE_S) as bench:
                sender, reader = bench.peers if side == 0 else bench.peers[::-1]
                for count in range(1, 12):
                    bench.pass_time(IDLE_S - 1)
                    sender.send(b"x")
                    await reader.has(count)
                self.assertIsNone(bench.outcome)

    async def test_counts_from_the_last_byte(self) -> None:
        """The limit never strikes early, and at most a quarter of it late."""
        for moment in range(1, int(IDLE_S), 7):
            async with Bench(SPLICED, idle_timeout_s=IDLE_S) as bench:
                bench.pass_time(moment)
                await self.alive(bench)
                bench.pass_time(IDLE_S - 1)
                await self.alive(bench)
                bench.pass_time(IDLE_S - 1)
                self.assertIsNone(bench.outcome)
                bench.pass_time(IDLE_S * (LATE - 1) + 1)
                await self.struck(bench, "idle for too long")

    async def test_held_bytes_do_not_hide_it(self) -> None:
        """A relay of sleeping legs, which notice nothing of their peers, still has its limit."""
        async with Bench(SPLICED, idle_timeout_s=IDLE_S) as bench:
            await self.fill(bench, towards_client=True)
            bench.pass_time(IDLE_S * LATE)
            self.assertEqual((await bench.over()).cause, Cause.TIMEOUT)


class HalfClosedTests(LimitCase):
    """After one end, the other direction may not wait for ever (Lesson 19)."""

    async def test_strikes(self) -> None:
        """A half-closed relay in which nothing moves is ended; the waiting side sees a reset."""
        for way in WAYS:
            for side in (0, 1):
                async with Bench(way) as bench:
                    first, second = bench.peers if side == 0 else bench.peers[::-1]
                    bench.pass_time(10)
                    first.finish()
                    await second.got(b"")
                    bench.pass_time(HALF_CLOSED_LIMIT_S - 1)
                    self.assertIsNone(bench.outcome)
                    bench.pass_time(1)
                    self.assertIs(await first.ended(), Ending.RESET)
                    self.assertEqual(
                        await bench.over(),
                        Outcome(Cause.TIMEOUT, Phase.RELAY, "half closed and idle for too long"),
                    )

    async def test_not_while_bytes_move(self) -> None:
        """A slow answer to a half-closed client may take all day (Lessons 3 and 15)."""
        for way in (SPLICED, BOTH_TLS):
            async with Bench(way) as bench:
                bench.client.finish()
                await bench.backend.got(b"")
                for count in range(1, 50):
                    bench.pass_time(HALF_CLOSED_LIMIT_S - 1)
                    bench.backend.send(b"x")
                    await bench.client.has(count)
                bench.backend.finish()
                await bench.client.got(b"x" * 49)

    async def test_shorter_idle_limit_wins(self) -> None:
        """A service whose idle limit is shorter than the half-closed one keeps its own."""
        async with Bench(SPLICED, idle_timeout_s=IDLE_S) as bench:
            bench.client.finish()
            await bench.backend.got(b"")
            bench.pass_time(IDLE_S)
            self.assertEqual((await bench.over()).detail, "idle for too long")

    async def test_longer_idle_limit_does_not(self) -> None:
        """A long idle limit does not lengthen the half-closed one."""
        async with Bench(SPLICED, idle_timeout_s=100 * HALF_CLOSED_LIMIT_S) as bench:
            bench.pass_time(HALF_CLOSED_LIMIT_S)
            bench.client.finish()
            await bench.backend.got(b"")
            bench.pass_time(HALF_CLOSED_LIMIT_S)
            self.assertEqual((await bench.over()).detail, "half closed and idle for too long")


class StallTests(LimitCase):
    """A sink that takes nothing of what waits for it has a limit too."""

    async def test_strikes(self) -> None:
        """A reader that sleeps on is reset in the end, and so is the sender, in both directions."""
        for way in WAYS:
            for towards_client in (True, False):
                async with Bench(way) as bench:
                    await self.fill(bench, towards_client=towards_client)
                    bench.pass_time(STALL_LIMIT_S - 1)
                    self.assertIsNone(bench.outcome)
                    bench.pass_time(STALL_LIMIT_S * (LATE - 1) + 1)
                    for peer in bench.peers:
                        peer.resume()
                    await self.struck(bench, "bytes waited for too long")

    async def test_not_after_it_woke(self) -> None:
        """A reader that wakes up in time gets everything, and the timer goes."""
        for way in (SPLICED, BOTH_TLS):
            async with Bench(way) as bench:
                await self.fill(bench, towards_client=True)
                bench.pass_time(STALL_LIMIT_S / 2)
                bench.client.resume()
                await bench.client.has(64 * MB)
                bench.pass_time(STALL_LIMIT_S)
                self.assertEqual(bench.clock.getDelayedCalls(), [])
                await self.alive(bench)

    async def test_long_idle_limit_does_not_delay_it(self) -> None:
        """The stall limit holds, at most a quarter late, where the idle limit is far longer."""
        async with Bench(SPLICED, idle_timeout_s=10 * STALL_LIMIT_S) as bench:
            await self.fill(bench, towards_client=True)
            bench.pass_time(STALL_LIMIT_S * LATE)
            self.assertEqual((await bench.over()).detail, "bytes waited for too long")

    async def test_a_slow_reader_is_not_a_stalled_one(self) -> None:
        """A reader that takes a little now and then goes on as long as it likes (Lesson 15)."""
        async with Bench(SPLICED) as bench:
            pump = await self.fill(bench, towards_client=True)
            for _ in range(4):
                bench.pass_time(STALL_LIMIT_S - 1)
                before = bench.client.count
                bench.client.resume()
                await bench.client.has(before + MB)
                bench.client.pause()
                await unchanged(lambda: pump.moved)
                self.assertTrue(pump.holding)
            self.assertIsNone(bench.outcome)


class UnreadTests(LimitCase):
    """A leg that is not read is told of nothing: it is asked."""

    async def broken(self, bench: Bench, cause: Cause, words: str) -> None:
        """Check that the relay ends within two looks for *cause*."""
        await self.rests(bench)
        self.assertIsNone(bench.outcome)
        bench.pass_time(2 * UNREAD_LOOK_S)
        self.assertEqual(await bench.over(), Outcome(cause, Phase.RELAY, words))

    async def test_reset_while_paused(self) -> None:
        """Requirement 82: a sender that resets while its reader sleeps is noticed in seconds."""
        for way in WAYS:
            for towards_client in (True, False):
                async with Bench(way) as bench:
                    await self.fill(bench, towards_client=towards_client)
                    (bench.backend if towards_client else bench.client).reset()
                    cause = Cause.BACKEND if towards_client else Cause.CLIENT
                    await self.broken(bench, cause, "connection reset")
                    other = bench.client if towards_client else bench.backend
                    other.resume()
                    self.assertIs(await other.ended(), Ending.RESET)

    async def test_reset_after_its_end(self) -> None:
        """So is one that ended its stream, waits for the answer and then resets (Lesson 19)."""
        for way in WAYS:
            for side in (0, 1):
                async with Bench(way) as bench:
                    first, second = bench.peers if side == 0 else bench.peers[::-1]
                    first.finish()
                    await second.got(b"")
                    first.reset()
                    cause = Cause.CLIENT if side == 0 else Cause.BACKEND
                    await self.broken(bench, cause, "closed without reading to the end")

    async def test_not_while_bytes_move(self) -> None:
        """What a sender left behind still goes to a reader that takes it, before the reset."""
        async with Bench(SPLICED) as bench:
            pump = await self.fill(bench, towards_client=True)
            bench.backend.reset()
            await self.rests(bench)
            for _ in range(3):
                bench.pass_time(UNREAD_LOOK_S - 1)
                before = pump.moved
                bench.client.resume()
                await until(lambda before=before: pump.moved > before, "more bytes")  # type: ignore[misc]
                bench.client.pause()
                if bench.outcome is not None:
                    break
            bench.client.resume()
            self.assertIs(await bench.client.ended(), Ending.RESET)
            self.assertEqual((await bench.over()).cause, Cause.BACKEND)

    async def test_only_one_timer(self) -> None:
        """Sinks that fill up again and again do not make timers."""
        async with Bench(SPLICED, idle_timeout_s=IDLE_S) as bench:
            for _ in range(3):
                await self.fill(bench, towards_client=True)
                self.assertEqual(len(bench.clock.getDelayedCalls()), 1)
                bench.client.resume()
                await until(lambda: not bench.relay._pump_out.holding, "a sink with room")
