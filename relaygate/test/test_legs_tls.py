"""TLS straight on a leg's socket: handshakes, ends of one direction, and goodbyes."""

from __future__ import annotations

import gc
import os
import socket
from datetime import UTC, datetime
from functools import partial
from typing import Any, cast

from OpenSSL import SSL
from twisted.internet.error import ConnectionDone, ConnectionLost

from relaygate import tls
from relaygate.identity import Identity, Role
from relaygate.legs import (
    TLSFailed,
)
from relaygate.pki import issue, make_ca
from relaygate.test.dataplane import (
    HalfRecorder,
    LegCase,
    TLSRecorder,
    client_context,
    dialled,
    identities,
    tls_peer,
)
from relaygate.test.farend import MB, Ending, Peer, payload, reactor, unchanged, until


class HandshakeTests(LegCase):
    """Before TLS stands."""

    async def test_other_ca(self) -> None:
        """A peer of another CA: the connection is lost, and the reason says so in words."""
        now = datetime.now(UTC)
        ca = make_ca("another", now)
        made = issue(ca, "internal.test", Role.INTERNAL, now)
        stranger = Identity(
            name="internal.test",
            role=Role.INTERNAL,
            not_after=now,
            certificate_pem=made.certificate_pem,
            key_pem=made.key_pem,
            # It trusts the right one, so that it is our side that finds fault.
            ca_pem=identities()[Role.DMZ].ca_pem,
        )
        recorder = TLSRecorder()
        skt = await self.connect(recorder)
        connection = SSL.Connection(tls.client_context(stranger, b"dataplane-test"), skt)
        connection.set_connect_state()
        peer = Peer(skt, connection)
        self.addCleanup(peer.close)
        error = await recorder.gone()
        self.assertIsInstance(error, TLSFailed)
        self.assertIn("the peer's certificate is of another CA", str(error))
        self.assertEqual(recorder.notes, [])

    async def test_not_tls(self) -> None:
        """Bytes that are no TLS: the reason has OpenSSL's words, not a Python list."""
        recorder = TLSRecorder()
        skt = await self.connect(recorder)
        skt.sendall(b"GET / HTTP/1.1\r\n\r\n")
        error = await recorder.gone()
        self.assertIsInstance(error, TLSFailed)
        self.assertRegex(str(error), r"http request|wrong version number|packet length")
        self.assertNotIn("[", str(error).split(":", 1)[-1])

    async def test_vanished_at_every_step(self) -> None:
        """A peer that goes after any number of bytes of its first message leaves nothing."""
        connection = SSL.Connection(client_context())
        connection.set_connect_state()
        self.assertRaises(SSL.WantReadError, connection.do_handshake)
        hello = connection.bio_read(65536)
        for size in (*range(12), len(hello) // 2, len(hello) - 1, len(hello)):
            for reset in (False, True):
                recorder = TLSRecorder()
                peer = Peer(await self.connect(recorder))
                peer.send(hello[:size])
                await peer.emptied()
                peer.reset() if reset else peer.cut()
                self.assertIsInstance(await recorder.gone(), TLSFailed, f"after {size}")
                peer.close()

    async def test_write_before(self) -> None:
        """What is written before the handshake goes out behind it, from either side."""
        recorder = TLSRecorder()
        skt = await self.connect(recorder)
        recorder.leg.write(b"early from the server")
        peer = self.tls_peer(skt)
        await peer.has(21)
        self.assertEqual(bytes(peer.received), b"early from the server")

        leg, server = await dialled()
        self.addCleanup(self.drop, leg)
        client = TLSRecorder()
        client.transport = leg
        leg.protocol = client
        leg.start_tls(client_context(), server=False, sni="dmz.test")
        leg.write(b"early from the client")
        leg.startReading()
        reactor.removeReader(server)
        server = tls_peer(server.socket, server=True)
        self.addCleanup(server.close)
        await server.has(21)
        self.assertEqual(bytes(server.received), b"early from the client")

    async def test_end_before(self) -> None:
        """An end that is asked for before the handshake is sent behind it (Requirement 78)."""
        for words in (b"", b"words"):
            recorder = HalfRecorder()
            skt = await self.connect(recorder)
            recorder.leg.write(words)
            recorder.leg.loseWriteConnection()
            peer = self.tls_peer(skt)
            await peer.got(words)
            peer.send(b"answer")
            await recorder.heard(b"answer")

    async def test_close_before(self) -> None:
        """A leg that is closed in the middle of a handshake is gone at once (Requirement 79)."""
        for words in (b"", b"words"):
            recorder = TLSRecorder()
            await self.connect(recorder)
            recorder.leg.write(words)
            recorder.leg.loseConnection()
            self.assertIsInstance(await recorder.gone(), ConnectionDone)
            self.assertEqual(recorder.notes, [])


class TLSTests(LegCase):
    """A protocol under TLS."""

    async def _joined(self, recorder: TLSRecorder) -> Peer:
        peer = self.tls_peer(await self.connect(recorder))
        await until(lambda: recorder.notes == ["handshake"], "a handshake")
        return peer

    async def _rests(self, recorder: TLSRecorder) -> None:
        await unchanged(lambda: recorder.leg.unsent)

    async def test_bytes(self) -> None:
        """A protocol gets and sends any number of bytes, whole."""
        recorder = HalfRecorder()
        peer = await self._joined(recorder)
        peer.send(payload(MB, 1))
        await recorder.heard(payload(MB, 1))
        recorder.leg.write(payload(5 * MB))
        recorder.leg.loseWriteConnection()
        await peer.got(payload(5 * MB))

    async def test_ends_one_by_one(self) -> None:
        """Either side ends first, and the other goes on (RFC 8446 section 6.1, Requirement 78)."""
        recorder = HalfRecorder()
        peer = await self._joined(recorder)
        peer.finish()
        await until(lambda: "end" in recorder.notes, "the peer's end")
        recorder.leg.write(b"more")
        recorder.leg.loseWriteConnection()
        await peer.got(b"more")

        recorder = HalfRecorder()
        peer = await self._joined(recorder)
        recorder.leg.loseWriteConnection()
        await peer.got(b"")
        self.assertEqual(recorder.notes, ["handshake", "end sent"])
        peer.send(b"more")
        await recorder.heard(b"more")

    async def test_end_and_cut(self) -> None:
        """``close_notify`` is done, a missing one is lost, for a protocol of whole ends too."""
        recorder = TLSRecorder()
        (await self._joined(recorder)).finish()
        self.assertIsInstance(await recorder.gone(), ConnectionDone)
        for kind in (TLSRecorder, HalfRecorder):
            recorder = kind()
            peer = await self._joined(recorder)
            peer.cut()
            self.assertIsInstance(await recorder.gone(), ConnectionLost)
            self.assertEqual(recorder.notes, ["handshake"])

    async def test_goodbye_behind_many_bytes(self) -> None:
        """A goodbye comes behind all bytes that waited for a sleeping reader."""
        for half in (True, False):
            recorder = HalfRecorder()
            peer = await self._joined(recorder)
            peer.pause()
            peer.keep = False
            recorder.leg.write(payload(MB) * 64)
            if half:
                recorder.leg.loseWriteConnection()
            else:
                recorder.leg.loseConnection()
            await self._rests(recorder)
            self.assertTrue(recorder.leg.connected)
            peer.resume()
            self.assertIs(await peer.ended(), Ending.END)
            self.assertEqual(peer.count, 64 * MB)

    async def test_goodbye_without_room(self) -> None:
        """A goodbye that the kernel does not take is tried again, and the other direction lives."""

        class Full:
            """A TLS connection for whose goodbye there is no room at first."""

            def __init__(self, connection: SSL.Connection) -> None:
                self.connection = connection
                self.tries = 0

            def __getattr__(self, name: str) -> Any:
                return getattr(self.connection, name)

            def shutdown(self) -> bool:
                self.tries += 1
                if self.tries < 4:
                    raise SSL.WantWriteError
                return self.connection.shutdown()

        recorder = HalfRecorder()
        peer = await self._joined(recorder)
        assert recorder.leg.tls is not None
        full = Full(recorder.leg.tls)
        recorder.leg.tls = cast(Any, full)
        recorder.leg.write(b"last words")
        recorder.leg.loseWriteConnection()
        await peer.got(b"last words")
        self.assertEqual((full.tries, recorder.notes), (4, ["handshake", "end sent"]))
        peer.send(b"heard")
        await recorder.heard(b"heard")

    async def test_silent_peer_does_not_hold_up_a_close(self) -> None:
        """A peer that answers no goodbye and reads nothing cannot keep a leg (Requirement 79)."""
        recorder = HalfRecorder()
        peer = await self._joined(recorder)
        peer.pause()
        recorder.leg.write(b"bye")
        recorder.leg.loseConnection()
        self.assertIsInstance(await recorder.gone(), ConnectionDone)
        peer.resume()
        await peer.got(b"bye")

    async def test_abort_while_bytes_wait(self) -> None:
        """An abort does not wait for a peer that does not read, and says no goodbye."""
        recorder = HalfRecorder()
        peer = await self._joined(recorder)
        peer.pause()
        recorder.leg.write(payload(MB) * 64)
        await self._rests(recorder)
        recorder.leg.abortConnection()
        self.assertIsInstance(await recorder.gone(), Exception)
        peer.keep = False
        peer.resume()
        self.assertIs(await peer.ended(), Ending.RESET)


class OldObjectTests(LegCase):
    """What is left of TLS when its connection has gone."""

    async def test_no_goodbye_to_another(self) -> None:
        """A leg's old TLS object says nothing on the socket that has its number now (Lesson 17)."""
        for ends in ("abortConnection", "loseConnection"):
            recorder = TLSRecorder()
            peer = self.tls_peer(await self.connect(recorder))
            await until(partial(recorder.notes.count, "handshake"), "the handshake")
            leg, number = recorder.leg, recorder.leg.fileno()
            old = leg.tls
            assert old is not None
            getattr(leg, ends)()
            await recorder.gone()
            self.assertIsNone(leg.tls)
            peer.close()
            near, far = socket.socketpair()
            if far.fileno() == number:
                near, far = far, near
            for each in (near, far):
                self.addCleanup(each.close)
            if near.fileno() != number:
                os.dup2(near.fileno(), number)
                self.addCleanup(socket.socket(fileno=number).close)
            old.shutdown()
            del old
            gc.collect()
            far.setblocking(False)
            self.assertRaises(BlockingIOError, far.recv, 1)
