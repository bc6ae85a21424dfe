"""Tests of TLS records in buffers of ours: by OpenSSL's own calls, and without them."""

from __future__ import annotations

import contextlib
import random
import socket
from types import SimpleNamespace
from typing import Any

from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from relaygate import tlsrecords
from relaygate.servicetls import SessionTLS
from relaygate.test.test_servicetls import service_key
from relaygate.tlsrecords import TLS_RECORD, receive_record, send_record


class RecordTests(SynchronousTestCase):
    """A client and a server on a pair of sockets that never wait."""

    def setUp(self) -> None:
        ours, theirs = socket.socketpair()
        for skt in (ours, theirs):
            skt.setblocking(False)
            self.addCleanup(skt.close)
        self.server = SSL.Connection(SessionTLS(service_key()).context, ours)
        self.server.set_accept_state()
        self.client = SSL.Connection(SSL.Context(SSL.TLS_METHOD), theirs)
        self.client.set_connect_state()
        for _ in range(3):
            for one in (self.client, self.server):
                with contextlib.suppress(SSL.WantReadError):
                    one.do_handshake()

    def _pass_on(self) -> None:
        data = bytes(range(256)) * 80
        self.assertEqual(send_record(self.client, data), TLS_RECORD)
        self.assertEqual(send_record(self.client, memoryview(data)[TLS_RECORD:]), 4096)
        buffer = bytearray(2 * TLS_RECORD)
        count = receive_record(self.server, memoryview(buffer))
        count += receive_record(self.server, memoryview(buffer)[count:])
        self.assertEqual(buffer[:count], data)

    def test_whole(self) -> None:
        """What is sent arrives, a record at a time, and a small buffer takes what it can."""
        self._pass_on()
        send_record(self.client, b"abc")
        small = bytearray(2)
        self.assertEqual(receive_record(self.server, memoryview(small)), 2)
        self.assertEqual(small, b"ab")
        self.assertEqual(receive_record(self.server, memoryview(small)), 1)

    def test_direct(self) -> None:
        """This pyOpenSSL has its binding where it is looked for: else each record costs more."""
        self.assertTrue(tlsrecords.DIRECT)
        self.patch(SSL.Connection, "recv_into", None)
        self.patch(SSL.Connection, "send", None)
        self._pass_on()

    def test_without(self) -> None:
        """With a pyOpenSSL that has it elsewhere, all is the same."""
        self.patch(tlsrecords, "DIRECT", False)
        self._pass_on()

    def test_not_now(self) -> None:
        """Where nothing has come, or no more goes, pyOpenSSL's errors say so, and it goes on."""
        buffer = memoryview(bytearray(TLS_RECORD))
        self.assertRaises(SSL.WantReadError, receive_record, self.server, buffer)
        data, sent, received = bytes(100_000), 0, 0
        with contextlib.suppress(SSL.WantWriteError):
            while sent < 100_000_000:
                sent += send_record(self.client, data)
        self.assertLess(sent, 100_000_000)
        while received < sent:
            received += receive_record(self.server, buffer)
        # OpenSSL holds the record that did not go, and wants to be given the same again.
        self.assertEqual(send_record(self.client, data), TLS_RECORD)

    def test_room_between(self) -> None:
        """A receiver that makes room between OpenSSL's own call and the public one gets it all."""
        data = memoryview(random.Random(1).randbytes(4_000_000))
        buffer = memoryview(bytearray(TLS_RECORD))
        received = bytearray()
        full: list[int] = []
        real = tlsrecords._lib

        def write(*arguments: Any) -> int:
            count: int = real.SSL_write(*arguments)
            if count <= 0:
                full.append(sent)
                received.extend(buffer[: receive_record(self.server, buffer)])
            return count

        self.patch(tlsrecords, "_lib", SimpleNamespace(SSL_write=write, SSL_read=real.SSL_read))
        sent = 0
        while sent < len(data):
            with contextlib.suppress(SSL.WantWriteError):
                sent += send_record(self.client, data[sent:])
        self.assertGreater(len(full), 5)
        while len(received) < sent:
            received.extend(buffer[: receive_record(self.server, buffer)])
        self.assertEqual(received, data)

    def test_ends(self) -> None:
        """An end is told as one, again and again; a connection that is cut is none."""
        buffer = memoryview(bytearray(TLS_RECORD))
        send_record(self.server, b"last")
        self.server.shutdown()
        self.assertEqual(receive_record(self.client, buffer), 4)
        for _ in range(2):
            self.assertRaises(SSL.ZeroReturnError, receive_record, self.client, buffer)
        self.client.sock_shutdown(socket.SHUT_WR)
        self.assertRaises(SSL.SysCallError, receive_record, self.server, buffer)
