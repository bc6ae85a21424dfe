"""Records that hold no data, which a client may send without end: each read takes a few of them."""

from __future__ import annotations

import fcntl
import hmac
import socket
import struct
import termios
from typing import Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA384
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from OpenSSL import SSL
from twisted.internet import tcp
from twisted.internet.abstract import FileDescriptor
from twisted.internet.testing import MemoryReactor
from twisted.trial.unittest import SynchronousTestCase

from relaygate.legs import Leg
from relaygate.servicetls import SessionTLS, web_context
from relaygate.test.test_servicetls import client_context, service_key
from relaygate.tlsrecords import TLS_RECORD, receive_record

# RFC 8446 section 4.6.3: "update_not_requested", so that nothing comes back; and "requested".
KEY_UPDATE: Final = b"\x18\x00\x00\x01\x00"
KEY_UPDATE_WISHED: Final = b"\x18\x00\x00\x01\x01"
CLIENT_HELLO: Final = b"\x01\x00\x00\x00"
HANDSHAKE: Final = 22
DATA: Final = 23
TIMES: Final = 1000
# One record for the shortcut, one for the public method behind it, and one's header read ahead.
AT_ONCE: Final = 4


def _expand(secret: bytes, label: bytes, size: int) -> bytes:
    """HKDF-Expand-Label with an empty context (section 7.1)."""
    label = b"tls13 " + label
    info = struct.pack(">HB", size, len(label)) + label + b"\0"
    return HKDFExpand(SHA384(), size, info).derive(secret)


class Sender:
    """A client's records by hand, from its first behind the handshake: TLS_AES_256_GCM_SHA384."""

    def __init__(self, secret: bytes) -> None:
        self._use(secret)

    def _use(self, secret: bytes) -> None:
        self._secret = secret
        self._key = AESGCM(_expand(secret, b"key", 32))
        self._iv = int.from_bytes(_expand(secret, b"iv", 12))
        self._count = 0

    def record(self, kind: int, content: bytes) -> bytes:
        """The record of *kind* that holds *content* (section 5.2)."""
        inner = content + bytes([kind])
        header = struct.pack(">BHH", DATA, 0x0303, len(inner) + 16)
        nonce = (self._iv ^ self._count).to_bytes(12)
        self._count += 1
        return header + self._key.encrypt(nonce, inner, header)

    def key_update(self, content: bytes = KEY_UPDATE) -> bytes:
        """The record that announces the next key, which is used from now on (section 7.2)."""
        made = self.record(HANDSHAKE, content)
        self._use(_expand(self._secret, b"traffic upd", 48))
        return made


class BareLeg(Leg, tcp.Connection):
    """A leg whose reactor only notes what it is asked."""

    def __init__(self, skt: socket.socket) -> None:
        self.noted = MemoryReactor()
        FileDescriptor.__init__(self, self.noted)
        self.socket = skt

    @property
    def waits_for(self) -> tuple[bool, bool]:
        """Whether the reactor is to tell of bytes that have come, and of room for some."""
        return self in self.noted.readers, self in self.noted.writers


def shaken(
    case: SynchronousTestCase, client: SSL.Context, server: SSL.Context, *, upload: bool
) -> tuple[socket.socket, SSL.Connection, BareLeg]:
    """A client's socket, its TLS, and a leg, behind their handshake."""
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        case.addCleanup(end.close)
        end.setblocking(False)
    tls, leg = SSL.Connection(client, theirs), BareLeg(ours)
    tls.set_connect_state()
    if upload:
        leg.start_upload_tls(server)
    else:
        leg.start_tls(server, server=True)
    assert leg.tls is not None
    for _ in range(3):
        for each in (tls, leg.tls):
            try:
                each.do_handshake()
            except SSL.WantReadError:
                pass
    leg._handshaking = False
    return theirs, tls, leg


class KeyUpdateTests(SynchronousTestCase):
    """A client that does nothing but change its keys holds up nobody else."""

    def _shaken(
        self, context: SSL.Context, *, upload: bool
    ) -> tuple[socket.socket, SSL.Connection, BareLeg, Sender]:
        """As :func:`shaken`, and what makes the client's records."""
        secrets: dict[bytes, bytes] = {}

        def keep(_connection: SSL.Connection, line: bytes) -> None:
            label, _, secret = line.split()
            secrets[label] = bytes.fromhex(secret.decode())

        believing = client_context(SSL.TLS1_3_VERSION)
        believing.set_keylog_callback(keep)
        skt, tls, leg = shaken(self, believing, context, upload=upload)
        self.assertEqual(tls.get_cipher_name(), "TLS_AES_256_GCM_SHA384")
        return skt, tls, leg, Sender(secrets[b"CLIENT_TRAFFIC_SECRET_0"])

    def _flooded(self, context: SSL.Context, *, upload: bool) -> None:
        skt, _, leg, sender = self._shaken(context, upload=upload)
        records = [sender.key_update() for _ in range(TIMES)]
        records.append(sender.record(DATA, b"data"))
        skt.sendall(b"".join(records))
        buffer = memoryview(bytearray(TLS_RECORD))
        count = 0
        unread = sum(map(len, records))
        while not count:
            before = unread
            try:
                count = leg.receive_into(buffer)
            except BlockingIOError:
                pass
            unread = int.from_bytes(fcntl.ioctl(leg.socket, termios.FIONREAD, bytes(4)), "little")
            self.assertLessEqual(before - unread, AT_ONCE * len(records[0]))
        self.assertEqual((bytes(buffer[:count]), unread), (b"data", 0))

    def test_on_the_socket(self) -> None:
        """On a leg whose TLS reads from its socket."""
        for context in (SessionTLS(service_key()).context, web_context(service_key(), ())):
            self._flooded(context, upload=False)

    def test_answers_that_nobody_reads(self) -> None:
        """A client that wants answers and reads none is not read until it does, and told all."""
        skt, tls, leg, sender = self._shaken(SessionTLS(service_key()).context, upload=False)
        buffer = memoryview(bytearray(TLS_RECORD))
        leg.startReading()
        sent = 0
        while leg.waits_for == (True, False):
            sent += skt.send(sender.key_update(KEY_UPDATE_WISHED))
            self.assertRaises(BlockingIOError, leg.receive_into, buffer)
        self.assertEqual(leg.waits_for, (False, True))
        skt.sendall(sender.record(DATA, b"data"))
        # The other direction goes on when there is room, and so does this one.
        client = memoryview(bytearray(TLS_RECORD))
        self.assertRaises(SSL.WantReadError, receive_record, tls, client)
        self.assertIsNone(leg.doWrite())
        self.assertEqual(leg.waits_for, (True, False))
        while True:
            try:
                count = leg.receive_into(buffer)
            except BlockingIOError:
                continue
            break
        self.assertEqual(bytes(buffer[:count]), b"data")
        self.assertEqual(leg.send_some(b"answer"), 6)
        while True:
            try:
                count = receive_record(tls, client)
            except SSL.WantReadError:
                continue
            break
        self.assertEqual(bytes(client[:count]), b"answer")

    def test_upload(self) -> None:
        """On one whose client only sends, read record by record."""
        self._flooded(SessionTLS(service_key()).context, upload=True)


def _pseudorandom(secret: bytes, seed: bytes, size: int) -> bytes:
    """What RFC 5246 section 5 makes of a secret, with SHA-384."""
    made, chain = b"", seed
    while len(made) < size:
        chain = hmac.digest(secret, chain, "sha384")
        made += hmac.digest(secret, chain + seed, "sha384")
    return made[:size]


class RenegotiationTests(SynchronousTestCase):
    """A client that asks for a handshake within TLS 1.2 is told each time that it gets none."""

    def test_answers_are_bounded(self) -> None:
        """Where these words are kept back until it has ended, there is no room for many."""
        context = client_context(SSL.TLS1_2_VERSION)
        context.set_cipher_list(b"ECDHE+AESGCM:!AES128")
        skt, tls, leg = shaken(self, context, SessionTLS(service_key()).context, upload=True)
        secret, *randoms = tls.master_key(), tls.server_random(), tls.client_random()
        seed = b"key expansion" + b"".join(each or b"" for each in randoms)
        block = _pseudorandom(secret or b"", seed, 2 * (32 + 4))
        key, salt = AESGCM(block[:32]), block[64:68]
        buffer = memoryview(bytearray(TLS_RECORD))

        def ask(number: int) -> None:
            # RFC 5288 section 3, behind the record that has ended the handshake.
            explicit = number.to_bytes(8)
            header = struct.pack(">BH", HANDSHAKE, 0x0303)
            bound = explicit + header + len(CLIENT_HELLO).to_bytes(2)
            sealed = explicit + key.encrypt(salt + explicit, CLIENT_HELLO, bound)
            skt.sendall(header + len(sealed).to_bytes(2) + sealed)
            while not leg.receive_into(buffer):
                pass

        for number in range(1, 100):
            self.assertRaises(BlockingIOError, ask, number)
        with self.assertRaisesRegex(ConnectionResetError, "without end"):
            for number in range(100, 5000):
                try:
                    ask(number)
                except BlockingIOError:
                    pass
