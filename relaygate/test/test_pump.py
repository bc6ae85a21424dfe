"""Pumps: what they hold, when they stop their source, and which pipes they borrow."""

from __future__ import annotations

import array
import fcntl
import gc
import os
import socket
import struct
import termios
import zlib
from types import SimpleNamespace
from typing import Any, cast

from twisted.internet import main
from twisted.trial.unittest import SynchronousTestCase, TestCase

from relaygate import pump
from relaygate.legs import Leg
from relaygate.outcome import Cause
from relaygate.pipes import BIG_BYTES, SMALL_BYTES, Pipe, PipeShelf
from relaygate.pump import SUSTAINED_BYTES, TURN_BYTES, CopyPump, Pump, SplicePump, make_pump
from relaygate.test.dataplane import (
    BOTH_TLS,
    COPIED,
    OUTER_TLS,
    SPLICED,
    WAYS,
    Bench,
    accepted,
    every_way,
    held,
)
from relaygate.test.farend import MB, Ending, payload, reactor, unchanged, until
from relaygate.tlsrecords import TLS_RECORD

# A big pipe, or the shared buffer; and under TLS one record that OpenSSL has read half.
LOAD = {True: BIG_BYTES, False: 256 * 1024 + 2 * TLS_RECORD}
WAITING = 200 * MB


def taken(leg: Leg) -> int:
    """How many bytes have been read from a leg's socket: what came less what is unread."""
    # linux/tcp.h: struct tcp_info has tcpi_bytes_received at 128.
    info = leg.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 136)
    unread = array.array("i", [0])
    fcntl.ioctl(leg.fileno(), termios.FIONREAD, unread)
    return cast(int, struct.unpack_from("Q", info, 128)[0]) - unread[0]


def resident() -> int:
    """This process's resident memory in bytes."""
    gc.collect()
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class ChoiceTests(TestCase):
    """Which pump is made for which legs."""

    async def test_kinds(self) -> None:
        """Splice where both legs are clear and the kernel can, a copy through one buffer else."""
        for way in WAYS:
            async with Bench(way) as bench:
                kind = SplicePump if way is SPLICED else CopyPump
                for made in (bench.relay._pump_in, bench.relay._pump_out):
                    self.assertIs(type(made), kind, str(way))

    async def test_this_kernel_splices(self) -> None:
        """Nothing has to be switched on: clear legs are spliced here."""
        async with Bench(SPLICED, started=False) as bench:
            self.assertIsNotNone(pump._SPLICE)
            owner = cast(Any, None)
            self.assertIsInstance(
                make_pump(bench.outer, bench.inner, owner, bench.shelf), SplicePump
            )

    def test_buffer_fits_records(self) -> None:
        """Room for less than a record would leave decrypted bytes where nobody sees them."""
        self.assertEqual(len(CopyPump._buffer) % TLS_RECORD, 0)


class BackpressureTests(TestCase):
    """A reader that stops stops its sender (Lesson 4, Requirement 80)."""

    timeout = 240

    async def _stop_the_reader(self, bench: Bench, *, towards_client: bool) -> None:
        sender, reader = bench.peers[::-1] if towards_client else bench.peers
        source = bench.inner if towards_client else bench.outer
        moving = bench.relay._pump_out if towards_client else bench.relay._pump_in
        chunk = payload(MB)
        reader.keep = False
        sender.send(chunk)
        await reader.has(MB)

        already_taken = taken(source) - moving.moved
        before = resident()
        reader.pause()
        sender.send(chunk, WAITING // MB - 1)
        await held(moving)
        await unchanged(lambda: sender.sent)
        self.assertLess(sender.sent, WAITING)
        self.assertNotIn(source, reactor.getReaders())
        overhead = 0 if source.tls is None else moving.moved // 500
        self.assertLessEqual(
            taken(source) - moving.moved - already_taken, LOAD[bench.way.splice] + overhead
        )
        self.assertLess(resident() - before, 4_000_000, str(bench.way))

        reader.resume()
        await until(lambda: reader.count == WAITING, "all of it")
        crc = 0
        for _ in range(WAITING // MB):
            crc = zlib.crc32(chunk, crc)
        self.assertEqual(reader.crc, crc)
        self.assertFalse(moving.holding)
        self.assertIn(source, reactor.getReaders())
        # The other direction was never in the way of it.
        reader.send(b"thanks")
        await sender.has(6)

    @every_way
    async def test_client_sleeps(self, bench: Bench) -> None:
        """While 200 MB wait for a client, one load is held, 4 MB are not used up; all arrives."""
        await self._stop_the_reader(bench, towards_client=True)

    @every_way
    async def test_backend_sleeps(self, bench: Bench) -> None:
        """The same towards a backend that does not read."""
        await self._stop_the_reader(bench, towards_client=False)

    @every_way
    async def test_one_way_only(self, bench: Bench) -> None:
        """A client that does not read can still send."""
        bench.client.pause()
        bench.backend.send(payload(MB), 64)
        await held(bench.relay._pump_out)
        bench.client.send(payload(5 * MB))
        await bench.backend.has(5 * MB)

    @every_way
    async def test_start_and_stop(self, bench: Bench) -> None:
        """A reader that stops and goes on many times gets everything, once and in order."""
        data = payload(20 * MB)
        bench.backend.send(data)
        bench.backend.finish()
        while not bench.client.ending:
            bench.client.resume()
            await bench.client.has_more()
            bench.client.pause()
            await unchanged(lambda: bench.relay.bytes_out, 0.01)
        await bench.client.got(data)

    @every_way
    async def test_readable_while_a_load_is_held(self, bench: Bench) -> None:
        """The reactor's late word that there is more costs no byte of a load that is held."""
        data = payload(40 * MB)
        bench.backend.pause()
        bench.client.send(data)
        await held(bench.relay._pump_in)
        for _ in range(3):
            self.assertIsNone(bench.outer.doRead())
        bench.client.finish()
        bench.backend.resume()
        await bench.backend.got(data)

    async def test_held_load_is_nobody_elses(self) -> None:
        """What one session holds stays whole while others move bytes through the same buffer."""
        for way in (COPIED, OUTER_TLS, BOTH_TLS):
            async with Bench(way) as sleeping:
                data = payload(MB, 1) * 64
                sleeping.client.pause()
                sleeping.backend.send(data)
                sleeping.backend.finish()
                await held(sleeping.relay._pump_out)
                async with Bench(way) as busy:
                    busy.backend.send(payload(5 * MB, 2))
                    busy.backend.finish()
                    await busy.client.got(payload(5 * MB, 2))
                sleeping.client.resume()
                await sleeping.client.got(data)


class RecordingShelf(PipeShelf):
    """A shelf that notes what is asked of it."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[bool] = []

    def lend(self, *, big: bool) -> Pipe:
        self.asked.append(big)
        return super().lend(big=big)


class PipesTests(TestCase):
    """Pipes are borrowed for as long as bytes are in them."""

    async def test_idle_sessions_hold_none(self) -> None:
        """Between bytes a session has no pipe: a few pipes serve thousands."""
        async with Bench(SPLICED) as bench:
            self.assertEqual(bench.shelf.lent, 0)
            for size in (1, 70_000, 3 * MB):
                before = bench.backend.count
                bench.client.send(payload(size))
                await bench.backend.has(before + size)
                self.assertEqual(bench.shelf.lent, 0)

    async def test_a_held_load_keeps_one(self) -> None:
        """A pump with a full sink has one pipe until the sink has taken the bytes."""
        async with Bench(SPLICED) as bench:
            bench.client.pause()
            bench.backend.send(payload(MB), 64)
            await held(bench.relay._pump_out)
            self.assertEqual(bench.shelf.lent, 1)
            bench.client.resume()
            await bench.client.has(64 * MB)
            await until(lambda: bench.shelf.lent == 0, "the pipe back on the shelf")

    async def test_big_ones_for_big_flows(self) -> None:
        """A flow asks for small pipes in its first MiB and for big ones after it; a few bytes for
        none.
        """
        async with Bench(SPLICED, started=False) as bench:
            bench.shelf = shelf = RecordingShelf()
            bench.relay.start()
            bench.client.send(payload(SUSTAINED_BYTES))
            await bench.backend.has(SUSTAINED_BYTES)
            self.assertEqual(set(shelf.asked), {False})
            bench.client.send(payload(MB))
            await bench.backend.has(SUSTAINED_BYTES + MB)
            self.assertTrue(shelf.asked[-1])
            del shelf.asked[:]
            bench.backend.send(b"small")
            await bench.client.has(5)
            self.assertEqual(shelf.asked, [])

    async def test_tiny_pipes_do(self) -> None:
        """Where the kernel grants pipes of one page, bytes are slower and still whole."""

        class TinyShelf(PipeShelf):
            def lend(self, *, big: bool) -> Pipe:
                pipe = super().lend(big=False)
                fcntl.fcntl(pipe.writer, fcntl.F_SETPIPE_SZ, 4096)
                return Pipe(pipe.reader, pipe.writer, 4096)

        async with Bench(SPLICED, started=False) as bench:
            bench.shelf = TinyShelf()
            bench.relay.start()
            bench.client.send(payload(5 * MB))
            bench.client.finish()
            await bench.backend.got(payload(5 * MB))

    async def test_bytes_in_an_aborted_pipe(self) -> None:
        """A session that ends with a load in its pipe leaves none of it to the next session."""
        async with Bench(SPLICED) as bench:
            bench.client.pause()
            bench.backend.send(payload(MB), 64)
            await held(bench.relay._pump_out)
            bench.relay.abort(Cause.SHUTDOWN, "enough")
            self.assertEqual(bench.shelf.lent, 0)
            await bench.over()
            self.assertEqual(bench.shelf._big, [])
            for pipe in bench.shelf._small:
                with self.assertRaises(BlockingIOError):
                    os.read(pipe.reader, 1)


class Owner:
    """Notes what a pump says."""

    def __init__(self) -> None:
        self.broken: list[Leg] = []
        self.held = 0

    def sink_broken(self, sink: Leg) -> None:
        self.broken.append(sink)

    def load_held(self) -> None:
        self.held += 1


class Endless(Pump):
    """A source that always has more, and a sink that takes it all."""

    def load(self) -> int:
        self.waiting = SMALL_BYTES
        return self.waiting

    def unload(self) -> bool:
        self.moved += self.waiting
        return True

    def drop(self) -> None:
        self.waiting = 0


class TurnTests(SynchronousTestCase):
    """One pump does not keep the reactor from the others (Requirement 80)."""

    def test_a_turn_has_an_end(self) -> None:
        """However much its source has, a pump gives way after its share."""
        source = cast(Any, SimpleNamespace(end_behind=False))
        endless = Endless(source, cast(Any, object()), Owner())
        for turn in (1, 2, 3):
            self.assertIsNone(endless.readable())
            self.assertEqual(endless.moved, turn * TURN_BYTES)


class SaysTests(TestCase):
    """What a pump says to its legs and to its owner."""

    async def _pump(self, bench: Bench) -> tuple[Pump, Owner]:
        owner = Owner()
        kind = make_pump if bench.way.splice else lambda one, two, of, _: CopyPump(one, two, of)
        made = kind(bench.outer, bench.inner, owner, bench.shelf)
        # The test plays the reactor; so the legs do not know of the pump.
        return made, owner

    async def test_ends(self) -> None:
        """No bytes are nothing, an end is an end, and a broken source is a lost connection."""
        for way in WAYS:
            async with Bench(way, started=False) as bench:
                made, owner = await self._pump(bench)
                self.assertIsNone(made.readable())
                bench.client.finish()
                await bench.client.emptied()
                self.assertIs(made.readable(), main.CONNECTION_DONE, str(way))
                self.assertEqual((owner.broken, owner.held, made.moved), ([], 0, 0))
            async with Bench(way, started=False) as bench:
                made, owner = await self._pump(bench)
                self.assertIsNone(made.readable())
                bench.client.reset()
                self.assertIs(made.readable(), main.CONNECTION_LOST, str(way))
                self.assertEqual((owner.broken, owner.held), ([], 0))

    async def test_broken_sink(self) -> None:
        """A sink that takes no more is the owner's matter, and nothing is lent any more."""
        for way in WAYS:
            async with Bench(way, started=False) as bench:
                made, owner = await self._pump(bench)
                bench.backend.reset()
                bench.client.send(b"x")
                await bench.client.emptied()
                self.assertIsNone(made.readable())
                self.assertEqual(owner.broken, [bench.inner])
                made.drop()
                self.assertEqual(bench.shelf.lent, 0)

    async def test_written_before(self) -> None:
        """Until what a protocol wrote has gone out the source is not read at all."""
        leg, peer = await accepted()
        other, other_peer = await accepted()
        self.addCleanup(peer.close)
        self.addCleanup(other_peer.close)
        try:
            owner = Owner()
            other_peer.keep = False
            other.write(payload(MB) * 64)
            peer.send(b"!")
            made = CopyPump(leg, other, owner)
            made.start()
            self.assertEqual(owner.held, 1)
            self.assertNotIn(leg, reactor.getReaders())
            await other_peer.has(64 * MB + 1)
            self.assertEqual(made.moved, 1)
            made.stop()
        finally:
            leg.abortConnection()
            other.abortConnection()
            await until(lambda: not (leg.connected or other.connected), "both legs gone")
        self.assertIs(await peer.ended(), Ending.RESET)
