"""Tests of uploads under TLS to a server that keeps quiet, by clients that never read."""

from __future__ import annotations

import contextlib
import functools
import socket
import ssl
import threading
from typing import Any

from OpenSSL import SSL
from twisted.internet.interfaces import IHandshakeListener
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from relaygate.legport import LegPort
from relaygate.legs import Leg
from relaygate.outcome import Cause, Outcome
from relaygate.pipes import PipeShelf
from relaygate.relay import Relay
from relaygate.servicetls import SessionTLS
from relaygate.test.dataplane import dialled
from relaygate.test.farend import LOOPBACK, Ending, Peer, payload, reactor, unchanged, until
from relaygate.test.test_servicetls import service_key

FILE_BYTES = 8_000_000
TIMES = 20
VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


@functools.cache
def client_context(version: ssl.TLSVersion) -> ssl.SSLContext:
    """A client's context, of one version of TLS alone."""
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    made.minimum_version = made.maximum_version = version
    return made


@functools.cache
def openssl_context(version: ssl.TLSVersion) -> SSL.Context:
    """The same, for pyOpenSSL."""
    made = SSL.Context(SSL.TLS_METHOD)
    made.set_min_proto_version(version)
    made.set_max_proto_version(version)
    return made


@implementer(IHandshakeListener)
class _Server(Protocol):
    """Shakes hands and hands the leg on."""

    def __init__(self, case: UploadCase) -> None:
        self._case = case

    def connectionMade(self) -> None:
        leg: Any = self.transport
        leg.abort_by_default()
        self._case.legs.append(leg)
        if self._case.quiet:
            leg.start_upload_tls(self._case.session.context, lenient=self._case.lenient)
        else:
            leg.start_tls(self._case.session.context, server=True)

    def handshakeCompleted(self) -> None:
        leg: Any = self.transport
        leg.stopReading()
        self._case.ready.append(leg)


class UploadCase(TestCase):
    """A client in a thread, a leg, a relay, and a backend."""

    timeout = 240
    quiet = True
    lenient = False

    def setUp(self) -> None:
        self.legs: list[Leg] = []
        self.ready: list[Leg] = []
        self.outcome: Outcome | None = None
        self.shelf = PipeShelf()
        self.session = SessionTLS(service_key())
        self.port = LegPort(LOOPBACK, 0, Factory.forProtocol(lambda: _Server(self)), reactor)
        self.port.startListening()
        self.addCleanup(self.close)

    async def close(self) -> None:
        """Leave nothing open."""
        for leg in self.legs:
            leg.abortConnection()
        await until(lambda: not any(leg.connected for leg in self.legs), "the legs' end")
        self.shelf.close()
        await self.port.stopListening()

    def dial(self, version: ssl.TLSVersion) -> ssl.SSLSocket:
        """Connect and shake hands, in a thread."""
        skt = socket.create_connection((LOOPBACK, self.port.getHost().port), 10)
        return client_context(version).wrap_socket(skt)

    def upload(self, version: ssl.TLSVersion, *, goodbye: bool) -> None:
        """Write a file and close at once, never reading a byte; in a thread."""
        if not goodbye:
            with self.dial(version) as python:
                python.sendall(payload(FILE_BYTES))
            return
        # Python's own goodbye reads what has come; this one is close_notify and no more.
        with socket.create_connection((LOOPBACK, self.port.getHost().port), 10) as skt:
            skt.setblocking(True)
            client = SSL.Connection(openssl_context(version), skt)
            client.set_connect_state()
            client.do_handshake()
            client.sendall(payload(FILE_BYTES))
            client.shutdown()

    async def relay(self) -> Peer:
        """Relay the leg that is ready to a backend."""
        await until(lambda: self.ready, "the handshake")
        inner, backend = await dialled()
        self.legs.append(inner)
        self.addCleanup(backend.close)
        self.outcome = None
        relay = Relay(self.ready.pop(), inner, reactor, self.shelf, self.done)
        relay.start()
        return backend

    def done(self, outcome: Outcome) -> None:
        """The relay's end."""
        self.outcome = outcome

    async def stored(self, version: ssl.TLSVersion, *, goodbye: bool = True) -> tuple[Ending, bool]:
        """Upload once: how the backend saw the end, and whether all bytes came before it."""
        sending = deferToThread(self.upload, version, goodbye=goodbye)
        backend = await self.relay()
        ending = await backend.ended()
        backend.finish()
        await sending
        await until(lambda: self.outcome, "the relay's end")
        return ending, bytes(backend.received) == payload(FILE_BYTES)


class WholeTests(UploadCase):
    """Nothing of an upload is lost."""

    async def test_whole(self) -> None:
        """Uploads of 8 MB are whole, twenty of twenty, with each version (Requirement 38)."""
        for version in VERSIONS:
            for number in range(TIMES):
                result = await self.stored(version)
                self.assertEqual(result, (Ending.END, True), f"{version!r} {number}")
                assert self.outcome is not None
                self.assertIs(self.outcome.cause, Cause.DONE, self.outcome)

    async def test_truncated(self) -> None:
        """An upload without the end of TLS is an abort, never a file (Requirement 40)."""
        for version in VERSIONS:
            ending, _ = await self.stored(version, goodbye=False)
            self.assertIs(ending, Ending.RESET)

    async def test_empty(self) -> None:
        """An empty file is one, and ends in order (Requirement 29)."""

        def upload(version: ssl.TLSVersion) -> bytes:
            skt = self.dial(version)
            skt.unwrap()
            return skt.recv(1)

        for version in VERSIONS:
            sending = deferToThread(upload, version)
            backend = await self.relay()
            await backend.got(b"")
            backend.finish()
            await sending


class LenientTests(UploadCase):
    """For clients that never say goodbye."""

    lenient = True

    async def test_whole(self) -> None:
        """What ends without the end of TLS is taken, and is whole, where that is switched on."""
        for version in VERSIONS:
            for number in range(TIMES):
                result = await self.stored(version, goodbye=False)
                self.assertEqual(result, (Ending.END, True), f"{version!r} {number}")

    async def test_reset_is_no_end(self) -> None:
        """A reset is an abort all the same."""

        def upload() -> None:
            skt = self.dial(ssl.TLSVersion.TLSv1_3)
            skt.sendall(b"half a file")
            skt.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            skt.close()

        sending = deferToThread(upload)
        backend = await self.relay()
        await backend.is_reset()
        await sending


class ControlTests(UploadCase):
    """The same without the cure, which shows what the others test."""

    quiet = False

    async def test_tickets_cost_the_tail(self) -> None:
        """A server that sends its tickets loses the tail of an upload under TLS 1.3."""
        results = [await self.stored(ssl.TLSVersion.TLSv1_3) for _ in range(TIMES)]
        self.assertIn((Ending.RESET, False), results)


class QuietTests(UploadCase):
    """What is kept back, and until when."""

    async def test_nothing_is_sent_before_the_end(self) -> None:
        """From the handshake to the end of the upload not one byte goes to the client."""
        stop = threading.Event()
        raw: list[socket.socket] = []

        def upload() -> bytes:
            skt = self.dial(ssl.TLSVersion.TLSv1_3)
            raw.append(skt)
            skt.sendall(b"first")
            stop.wait(20)
            skt.unwrap()
            return b""

        sending = deferToThread(upload)
        backend = await self.relay()
        await backend.has(5)
        # The backend has nothing to say, and says so: it must not reach the client yet.
        backend.finish()
        await unchanged(lambda: backend.count)
        with socket.socket(fileno=socket.dup(raw[0].fileno())) as skt:
            skt.setblocking(False)
            self.assertRaises(BlockingIOError, skt.recv, 1, socket.MSG_PEEK)
        self.assertFalse(self.outcome)
        stop.set()
        await sending
        self.assertIs(await backend.ended(), Ending.END)
        await until(lambda: self.outcome, "the relay's end")
        assert self.outcome is not None
        self.assertIs(self.outcome.cause, Cause.DONE)

    async def test_waiting_for_the_end_is_idle(self) -> None:
        """An end of ours that waits for the client's does not keep the reactor busy."""
        sending = deferToThread(self.dial, ssl.TLSVersion.TLSv1_3)
        backend = await self.relay()
        client = await sending
        self.addCleanup(client.close)
        backend.finish()
        await until(lambda: self.legs[0]._writeDisconnecting, "our end")
        turns = 0
        real = self.legs[0].doWrite

        def counted() -> Any:
            nonlocal turns
            turns += 1
            return real()

        self.patch(self.legs[0], "doWrite", counted)
        await unchanged(lambda: 0)
        self.assertEqual(turns, 0)

    async def test_bytes_for_an_uploading_client(self) -> None:
        """A backend that sends data towards an upload ends it: nothing is piled up."""
        sending = deferToThread(self.dial, ssl.TLSVersion.TLSv1_3)
        backend = await self.relay()
        client = await sending
        self.addCleanup(client.close)
        backend.send(b"unexpected")
        await backend.is_reset()
        assert self.outcome is not None
        self.assertIs(self.outcome.cause, Cause.CLIENT)

    async def test_resumes_the_control_connection(self) -> None:
        """An upload resumes the session of a connection that did speak (Requirement 37)."""
        kept: list[SSL.Session] = []

        def connect(version: ssl.TLSVersion) -> None:
            with socket.create_connection((LOOPBACK, self.port.getHost().port), 10) as skt:
                skt.setblocking(True)
                client = SSL.Connection(openssl_context(version), skt)
                client.set_connect_state()
                if kept:
                    client.set_session(kept[0])
                client.do_handshake()
                if not kept:
                    client.recv(1)
                    session = client.get_session()
                    assert session is not None
                    kept.append(session)
                client.shutdown()

        for version in VERSIONS:
            kept.clear()
            for resumed in (False, True, True, True):
                self.quiet = resumed
                connecting = deferToThread(connect, version)
                await until(lambda: self.ready, "the handshake")
                leg = self.ready.pop()
                assert leg.tls is not None
                self.assertIs(self.session.resumed(leg.tls), resumed, version)
                if not resumed:
                    leg.write(b"x")
                await connecting
                leg.abortConnection()

    async def test_byte_by_byte(self) -> None:
        """Records that come in any pieces are put together."""

        def upload() -> None:
            with socket.create_connection((LOOPBACK, self.port.getHost().port), 10) as skt:
                skt.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                tls, outgoing = self.shake(skt)
                tls.write(b"hello")
                tls.write(payload(3_000))
                with contextlib.suppress(ssl.SSLWantReadError):
                    tls.unwrap()
                for byte in outgoing.read():
                    skt.send(bytes((byte,)))
                skt.recv(16_384)

        sending = deferToThread(upload)
        backend = await self.relay()
        await backend.got(b"hello" + payload(3_000))
        backend.finish()
        await sending

    def shake(self, skt: socket.socket) -> tuple[ssl.SSLObject, ssl.MemoryBIO]:
        """Shake hands on *skt*, byte by byte; the BIO takes what is written then."""
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = client_context(ssl.TLSVersion.TLSv1_3).wrap_bio(incoming, outgoing)
        shaking = True
        while shaking:
            try:
                tls.do_handshake()
                shaking = False
            except ssl.SSLWantReadError:
                pass
            for byte in outgoing.read():
                skt.send(bytes((byte,)))
            if shaking:
                incoming.write(skt.recv(16_384))
        return tls, outgoing

    async def test_empty_records(self) -> None:
        """Records without a byte are no way to fill our memory: they end the connection."""

        def flood() -> None:
            with (
                socket.create_connection((LOOPBACK, self.port.getHost().port), 10) as skt,
                contextlib.suppress(OSError),
            ):
                self.shake(skt)
                while True:
                    skt.sendall(b"\x17\x03\x03\x00\x00" * 1000)

        sending = deferToThread(flood)
        backend = await self.relay()
        await backend.is_reset()
        await sending

    async def test_not_tls(self) -> None:
        """Bytes that are no TLS end the connection."""
        peer = Peer(socket.create_connection((LOOPBACK, self.port.getHost().port)))
        self.addCleanup(peer.close)
        peer.send(b"220 this is not TLS at all\r\n")
        await until(lambda: peer.ending, "the end")
        self.assertEqual(self.ready, [])
