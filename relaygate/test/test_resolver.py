"""Which addresses are the machine's own, by the kernel's word."""

from __future__ import annotations

import socket
import struct

from twisted.trial.unittest import SynchronousTestCase

from relaygate.resolver import RoutingTable


class RoutesTests(SynchronousTestCase):
    """The kernel's table of routes."""

    def setUp(self) -> None:
        self.routes = RoutingTable()
        self.addCleanup(self.routes.close)

    def test_own_ones(self) -> None:
        """All of 127.0.0.0/8 is the machine's own, and documentation's addresses are not."""
        for _ in range(3):
            self.assertTrue(self.routes.is_own("127.0.0.1"))
            self.assertTrue(self.routes.is_own("127.77.0.1"))
            self.assertFalse(self.routes.is_own("203.0.113.9"))
            self.assertFalse(self.routes.is_own("2001:db8::9"))

    def test_one_socket(self) -> None:
        """All questions go by one socket, and another one when it was closed."""
        self.routes.is_own("127.0.0.1")
        first = self.routes._socket
        self.routes.is_own("127.0.0.1")
        self.assertIs(self.routes._socket, first)
        self.routes.close()
        self.assertTrue(self.routes.is_own("127.0.0.1"))

    def test_late_answers(self) -> None:
        """The answer to another question is none to this one."""
        self.assertTrue(self.routes.is_own("127.0.0.1"))
        skt = self.routes._socket
        assert skt is not None
        attribute = struct.pack("=HH", 8, 1) + socket.inet_aton("203.0.113.9")
        body = struct.pack("=8BI", socket.AF_INET, 32, 0, 0, 0, 0, 0, 0, 0) + attribute
        skt.send(struct.pack("=IHHII", 16 + len(body), 26, 1, 77, 0) + body)
        self.assertTrue(self.routes.is_own("127.0.0.1"))

    def test_no_answer(self) -> None:
        """An address of which the kernel says nothing counts as an own one, once."""
        self.routes.is_own("127.0.0.1")
        assert self.routes._socket is not None
        self.routes._socket.close()
        self.assertTrue(self.routes.is_own("203.0.113.9"))
        self.assertFalse(self.routes.is_own("203.0.113.9"))
