"""Tests of the heads that a client of an HTTP proxy sends."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.trial.unittest import SynchronousTestCase

from relaygate.protocols.proxyhead import (
    MAX_HEAD,
    ProxyReader,
    ProxyRequest,
    ProxyViolation,
    answer,
)
from relaygate.test.parsercases import ParserCases
from relaygate.test.properties import given, st


def receive(reader: ProxyReader, data: bytes) -> Sequence[ProxyRequest]:
    """Feed one piece."""
    return reader.receive(data)


CASES = ParserCases(ProxyReader, receive, lambda reader: reader.found, ProxyViolation)


class ReaderTests(SynchronousTestCase):
    """Heads, whole and in pieces."""

    def test_connect(self) -> None:
        """A tunnel has no head for anybody."""
        outcome = CASES.check(b"CONNECT [2001:db8::1]:443 HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assertEqual(outcome.found, ProxyRequest(True, "[2001:db8::1]:443", None, b""))

    def test_credentials(self) -> None:
        """Basic alone counts (RFC 7617); what is none of it is as good as nothing."""
        for value, found in (
            (b"Basic YTpiOmM=", (b"a", b"b:c")),
            (b"basic YTpiOmM=", (b"a", b"b:c")),
            (b"Basic !", None),
            (b"Basic \xff\xfe", None),
            (b"Basic YTpi\xc3\xa4", None),
            (b"Bearer YTpi", None),
        ):
            head = b"CONNECT x:1 HTTP/1.1\r\nProxy-Authorization: " + value + b"\r\n\r\n"
            outcome = CASES.check(head)
            assert isinstance(outcome.found, ProxyRequest)
            self.assertEqual(outcome.found.credentials, found)

    def test_absolute(self) -> None:
        """A URL becomes a path and a Host."""
        for url, authority, path in (
            ("http://a.example", "a.example", "/"),
            ("HTTP://a.example:81?q", "a.example:81", "/?q"),
            ("http://[2001:db8::1]/b;c?d", "[2001:db8::1]", "/b;c?d"),
        ):
            outcome = CASES.check(f"GET {url} HTTP/1.0\r\nTE: x\r\nA: b\r\n\r\n".encode())
            assert isinstance(outcome.found, ProxyRequest)
            self.assertEqual(
                outcome.found.head,
                f"GET {path} HTTP/1.0\r\nHost: {authority}\r\nA: b\r\nConnection: close"
                "\r\n\r\n".encode(),
            )
            port = "" if authority.endswith(":81") else ":80"
            self.assertEqual(outcome.found.authority, authority + port)

    def test_long_heads(self) -> None:
        """A head is bounded, wherever it is cut."""
        for data in (b"GET http://x/" + b"a" * MAX_HEAD, b"\r" * MAX_HEAD):
            reader = ProxyReader()
            with self.assertRaises(ProxyViolation) as raised:
                for at in range(0, len(data), 1000):
                    reader.receive(data[at : at + 1000])
            self.assertTrue(raised.exception.status.startswith("431"))

    @given(st.binary(max_size=60))
    def test_any_bytes(self, data: bytes) -> None:
        """Any bytes raise only violations, and no control character reaches the partner."""
        for start, end in (
            (b"", b""),
            (b"GET http://x/", b" HTTP/1.1\r\n\r\n"),
            (b"GET http://x/ HTTP/1.1\r\n", b"\r\n\r\n"),
            (b"CONNECT ", b" HTTP/1.1\r\n\r\n"),
            (b"CONNECT x:1 HTTP/1.1\r\nProxy-Authorization: Basic ", b"\r\n\r\n"),
        ):
            outcome = CASES.check(start + data + end)
            if isinstance(outcome.found, ProxyRequest) and not outcome.found.tunnel:
                head = outcome.found.head
                self.assertTrue(head.endswith(b"\r\nConnection: close\r\n\r\n"))
                lines = head[:-4].split(b"\r\n")
                for line in lines:
                    self.assertFalse(set(line) & {0, 10, 13}, head)


class AnswerTests(SynchronousTestCase):
    """What the proxy says itself."""

    def test_answer(self) -> None:
        """A line of text, whose length is told."""
        self.assertEqual(
            answer("403 Forbidden", "No.", "A: b"),
            b"HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain; charset=utf-8\r\n"
            b"Content-Length: 4\r\nConnection: close\r\nA: b\r\n\r\nNo.\n",
        )
