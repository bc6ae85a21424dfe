"""Legs: sockets as they should be, a look at the first byte, and TLS straight on the socket."""

from __future__ import annotations

import select
import socket
import struct
from functools import partial
from pathlib import Path
from typing import Any, cast

from twisted.internet.error import (
    CannotListenError,
    ConnectionAborted,
    ConnectionDone,
    ConnectionLost,
)
from twisted.internet.main import CONNECTION_DONE
from twisted.internet.protocol import Factory

from relaygate.legport import BACKLOG
from relaygate.legs import (
    Leg,
)
from relaygate.test.dataplane import (
    HalfRecorder,
    LegCase,
    Recorder,
    accepted,
    dialled,
    gone,
    server_context,
)
from relaygate.test.farend import LOOPBACK, MB, Peer, payload, reactor, until
from relaygate.tuning import KEEP_COUNT, keepalive_times


class SocketTests(LegCase):
    """What the kernel is told about our sockets."""

    async def filled(self, made: list[Recorder]) -> None:
        """Wait until a listener has made a protocol."""
        await until(lambda: made, "a connection at the right listener")

    async def test_options(self) -> None:
        """Accepted and dialled legs have no delay and keepalive (Requirements 81 and 82)."""
        for make in (accepted, dialled):
            leg, peer = await make()
            self.addCleanup(peer.close)
            self.addCleanup(self.drop, leg)
            tcp, option = socket.IPPROTO_TCP, leg.socket.getsockopt
            self.assertEqual(option(tcp, socket.TCP_NODELAY), 1)
            self.assertEqual(option(socket.SOL_SOCKET, socket.SO_KEEPALIVE), 1)
            times = option(tcp, socket.TCP_KEEPIDLE), option(tcp, socket.TCP_KEEPINTVL)
            self.assertEqual(times, keepalive_times(leg.fileno()))
            self.assertEqual(option(tcp, socket.TCP_KEEPCNT), KEEP_COUNT)

    def test_keepalive_is_spread(self) -> None:
        """Sockets are asked at times of their own, and again; none too late (Requirement 82)."""
        found = [keepalive_times(number) for number in range(5, 245)]
        self.assertEqual(len(set(found)), 240)
        for idle_s, interval_s in found:
            self.assertTrue(30 < idle_s <= 60 and 15 <= interval_s <= 22, (idle_s, interval_s))

    async def test_reset_that_a_write_meets(self) -> None:
        """A reset that is found by writing is an abort: it never looks like an end (28, 78)."""
        for _ in range(10):
            leg, peer = await accepted()
            self.addCleanup(peer.close)
            recorder = Recorder()
            leg.protocol = recorder
            recorder.makeConnection(leg)
            leg.stopReading()
            peer.send(b"x" * 1000)
            peer.reset()
            look = select.poll()
            look.register(leg.socket, 0)
            await until(partial(look.poll, 0), "the reset")
            leg.write(b"y")
            leg.startReading()
            self.assertIsInstance(await recorder.gone(), ConnectionAborted)

    async def test_hang_up_that_is_nobodys(self) -> None:
        """A hang-up that was the last owner's of a leg's number ends nothing.

        The reactor says so without a read (Twisted's ``_doReadOrWrite``), and calls it an end.
        """
        for make in (HalfRecorder, Recorder):
            for tls in (False, True):
                leg, peer = await accepted(tls=tls)
                self.addCleanup(peer.close)
                self.addCleanup(self.drop, leg)
                recorder = make()
                leg.protocol = recorder
                recorder.transport = leg
                leg.startReading()
                reactor._disconnectSelectable(leg, CONNECTION_DONE, True)
                peer.send(b"more")
                await recorder.heard(b"more")
                self.assertEqual((recorder.notes, recorder.lost), ([], None))
                peer.finish()
                await until(partial(self.has_ended, recorder), "the end")

    def has_ended(self, recorder: Recorder) -> bool:
        """Whether it was told of an end."""
        return bool(recorder.notes or recorder.lost)

    async def test_reset_that_looks_like_an_end(self) -> None:
        """A reset of which poll tells without a word of bytes is no end (28, 78)."""
        for tls in (False, True):
            leg, peer = await accepted(tls=tls)
            self.addCleanup(peer.close)
            recorder = HalfRecorder()
            leg.protocol = recorder
            recorder.transport = leg
            leg.stopReading()
            peer.reset()
            look = select.poll()
            look.register(leg.socket, 0)
            await until(partial(look.poll, 0), "the reset")
            leg.startReading()
            reactor._disconnectSelectable(leg, CONNECTION_DONE, True)
            self.assertEqual(recorder.notes, [])
            self.assertIsInstance(await recorder.gone(), ConnectionLost)

    async def test_no_linger_until_asked(self) -> None:
        """Only a leg that was told to aborts by default, and an orderly close takes it back."""
        for aborts, times in ((False, 3), (True, 3)):
            for _ in range(times):
                leg, peer = await accepted()
                self.addCleanup(peer.close)
                if aborts:
                    leg.abort_by_default()
                linger = leg.socket.getsockopt(socket.SOL_SOCKET, socket.SO_LINGER, 8)
                self.assertEqual(struct.unpack("ii", linger), (int(aborts), 0))
                leg.write(payload(MB))
                leg.loseConnection()
                await peer.got(payload(MB))

    async def test_closed_before_it_returns(self) -> None:
        """A leg whose end was sent is gone when ``loseConnection`` returns: callers bear that."""
        recorder = Recorder()
        peer = Peer(await self.connect(recorder))
        recorder.leg.loseWriteConnection()
        await peer.got(b"")
        recorder.leg.loseConnection()
        self.assertIsNotNone(recorder.lost)
        peer.close()

    def test_backlog(self) -> None:
        """The kernel keeps a rush of connections for us (Requirement 84)."""
        port = self.listen(Factory())
        # linux/tcp.h: of a listening socket tcpi_sacked, at 28, is the longest queue.
        info = port.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32)
        most = int(Path("/proc/sys/net/core/somaxconn").read_text())
        self.assertGreaterEqual(BACKLOG, 1024)
        self.assertEqual(struct.unpack_from("I", info, 28)[0], min(BACKLOG, most))

    async def test_both_wildcards(self) -> None:
        """``[::]`` means IPv6 alone: one port number serves both families by two listeners."""
        six = self.listen(Factory.forProtocol(Recorder), "::")
        port = six.getHost().port
        with self.assertRaises(ConnectionRefusedError):
            socket.create_connection((LOOPBACK, port))
        try:
            four = self.listen(Factory.forProtocol(Recorder), "0.0.0.0", port)
        except CannotListenError:
            # Some connection of this machine's has that number already: another one, then.
            await self.test_both_wildcards()
            return
        self.assertEqual(four.getHost().port, port)

    async def test_explicit_address_wins(self) -> None:
        """An explicit address and the wildcard share a port, in any order (Lesson 30)."""
        for hosts in (("0.0.0.0", LOOPBACK), (LOOPBACK, "0.0.0.0")):
            made: dict[str, list[Recorder]] = {host: [] for host in hosts}
            port = 0
            for host in hosts:

                def build(mine: list[Recorder] = made[host]) -> Recorder:
                    mine.append(Recorder())
                    return mine[-1]

                listening = self.listen(
                    Factory.forProtocol(cast(Any, build)), host, port, shared=True
                )
                port = listening.getHost().port
            for address, expected in ((LOOPBACK, LOOPBACK), ("127.0.0.2", "0.0.0.0")):
                with socket.create_connection((address, port)):
                    await self.filled(made[expected])
                (recorder,) = made[expected]
                await recorder.gone()


class FirstByteTests(LegCase):
    """A look at the first byte."""

    class Peeking(Recorder):
        """Asks for a look."""

        def connectionMade(self) -> None:
            self.leg.peek_first()

    async def test_the_byte_stays(self) -> None:
        """The first byte is shown once, and read with the others afterwards."""
        recorder = self.Peeking()
        skt = await self.connect(recorder)
        skt.sendall(b"\x16")
        await until(lambda: recorder.peeked, "the first byte")
        await until(lambda: recorder.data, "the first byte again")
        skt.sendall(b"\x03\x01")
        await until(lambda: len(recorder.data) == 3, "what follows")
        self.assertEqual((recorder.peeked, recorder.data), (b"\x16", b"\x16\x03\x01"))

    async def test_tls_after_the_look(self) -> None:
        """A handshake that begins when its first byte was seen succeeds."""

        class Choosing(HalfRecorder):
            def connectionMade(self) -> None:
                self.leg.peek_first()

            def first_byte(self, byte: bytes) -> None:
                super().first_byte(byte)
                self.leg.start_tls(server_context(), server=True)

        recorder = Choosing()
        peer = self.tls_peer(await self.connect(recorder))
        peer.send(b"hello")
        await recorder.heard(b"hello")
        self.assertEqual((recorder.peeked, recorder.notes), (b"\x16", ["handshake"]))

    async def test_nothing_to_see(self) -> None:
        """A peer that ends or resets before it has said anything is gone, and no byte is shown."""
        for reset in (False, True):
            recorder = self.Peeking()
            peer = Peer(await self.connect(recorder))
            peer.reset() if reset else peer.close()
            self.assertIsInstance(
                await recorder.gone(), ConnectionLost if reset else ConnectionDone
            )
            self.assertEqual(recorder.peeked, b"")


class BrokenTests(LegCase):
    """What the kernel knows of a leg that nobody reads."""

    async def unread(self) -> tuple[Leg, Peer]:
        """A leg that is not read, and the other end."""

        class Sleeping(HalfRecorder):
            def connectionMade(self) -> None:
                self.leg.stopReading()

        recorder = Sleeping()
        peer = Peer(await self.connect(recorder))
        self.addCleanup(peer.close)
        return recorder.leg, peer

    async def test_reset(self) -> None:
        """A reset is known, bytes before it or not, and asking does not take it away."""
        for data in (b"", b"bytes"):
            leg, peer = await self.unread()
            self.assertFalse(leg.broken)
            peer.send(data)
            await peer.emptied()
            peer.reset()
            await until(lambda leg=leg: leg.broken, "a reset")  # type: ignore[misc]
            self.assertTrue(leg.broken)
            leg.startReading()
            await gone(leg)
            self.assertFalse(leg.broken)

    async def test_ends(self) -> None:
        """Ends are no reset, even if the kernel has closed: what came before them is still here."""
        leg, peer = await self.unread()
        leg.loseWriteConnection()
        peer.send(b"the last words")
        peer.finish()
        await peer.got(b"")
        state = socket.TCP_INFO
        # linux/tcp.h: the first byte is the state, and 7 is closed.
        await until(
            lambda: leg.socket.getsockopt(socket.IPPROTO_TCP, state, 1) == b"\x07", "both ends"
        )
        self.assertFalse(leg.broken)
