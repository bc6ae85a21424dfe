"""Tests of the SOCKS parser."""

from __future__ import annotations

from collections.abc import Sequence

from twisted.trial.unittest import SynchronousTestCase

from relaygate.protocols.socks import (
    MAX_TEXT,
    Credentials,
    Event,
    Greeting,
    Method,
    Reply,
    Request,
    SocksReader,
    SocksViolation,
    Version4Refused,
)
from relaygate.test.parsercases import ParserCases
from relaygate.test.properties import given, st


def receive(reader: SocksReader, data: bytes) -> Sequence[Event]:
    """Feed one piece."""
    return reader.receive(data)


def cases(*, demands_user: bool = False) -> ParserCases[SocksReader]:
    """The cases of a reader."""
    return ParserCases(
        lambda: SocksReader(demands_user=demands_user),
        receive,
        lambda reader: reader.found,
        SocksViolation,
    )


HELLO = b"\5\1\0"
NAME = b"sftp.partner.example"
TO_NAME = b"\5\1\0\3" + bytes((len(NAME),)) + NAME + b"\0\x16"


class ReaderTests(SynchronousTestCase):
    """Messages, whole and in pieces."""

    def test_version_5(self) -> None:
        """Requirement 64: names, IPv4 and IPv6, in any segmentation."""
        for words, host in (
            (TO_NAME, NAME.decode()),
            (b"\5\1\0\1\xcb\0\x71\2\0\x16", "203.0.113.2"),
            (b"\5\1\0\4" + b"\x20\1\x0d\xb8" + bytes(11) + b"\1\0\x16", "2001:db8::1"),
        ):
            outcome = cases().check(HELLO + words)
            self.assertEqual(outcome.events, (Greeting(Method.NONE), Request(5, 1, host, 22)))

    def test_users(self) -> None:
        """RFC 1929: a user and a password, of any bytes."""
        login = b"\1\4a\0:b\5\xff\0 cd"
        outcome = cases(demands_user=True).check(b"\5\2\0\2" + login + TO_NAME)
        self.assertEqual(outcome.events[0], Greeting(Method.PASSWORD))
        self.assertEqual(outcome.events[1], Credentials(b"a\0:b", b"\xff\0 cd"))
        self.assertEqual(outcome.events[2], Request(5, 1, NAME.decode(), 22))

    def test_no_method(self) -> None:
        """What follows an offer that will not do is not looked at."""
        reader = SocksReader(demands_user=True)
        events = reader.receive(HELLO + TO_NAME)
        self.assertEqual(events, [Greeting(Method.UNACCEPTABLE)])
        self.assertEqual(Greeting(Method.UNACCEPTABLE).answer(), b"\5\xff")
        self.assertEqual(reader.receive(TO_NAME), [])
        self.assertRaises(SocksViolation, reader.end)

    def test_version_4(self) -> None:
        """SOCKS 4, and 4A with a name."""
        outcome = cases().check(b"\4\1\0\x16\xcb\0\x71\2me\0")
        self.assertEqual(outcome.found, Request(4, 1, "203.0.113.2", 22))
        outcome = cases().check(b"\4\2\0\x16\0\0\0\1\0" + NAME + b"\0")
        self.assertEqual(outcome.found, Request(4, 2, NAME.decode(), 22))
        self.assertRaises(Version4Refused, SocksReader(demands_user=True).receive, b"\4")

    def test_violations(self) -> None:
        """Requirement 64: what is none is refused, at the first byte that shows it."""
        for data in (
            b"G",
            b"\6",
            HELLO + b"\4",
            HELLO + b"\5\1\0\2\0",
            HELLO + b"\5\1\0\3\0\0\x16",
            HELLO + b"\5\1\0\3\3a\0b\0\x16",
            HELLO + b"\5\1\0\3\2\xc3\xa4\0\x16",
            b"\4\1\0\x16\xcb\0\x71\2" + b"u" * (MAX_TEXT + 2),
            b"\4\1\0\x16\0\0\0\1\0" + b"n" * (MAX_TEXT + 2),
            b"\4\1\0\x16\0\0\0\1\0\0",
        ):
            outcome = cases().check(data)
            self.assertIsNotNone(outcome.error, data)
            self.assertFalse(outcome.cut_short, data)

    def test_cut_short(self) -> None:
        """An end before the request is a violation, as often as it is asked."""
        for length in range(len(HELLO + TO_NAME)):
            self.assertTrue(cases().check((HELLO + TO_NAME)[:length]).cut_short, length)

    @given(st.booleans(), st.binary(max_size=80))
    def test_any_bytes(self, demands_user: bool, data: bytes) -> None:
        """Any bytes raise only violations, however they are cut."""
        for start in (b"", b"\5\2\0\2", b"\4\1"):
            cases(demands_user=demands_user).check(start + data)


class AnswerTests(SynchronousTestCase):
    """What is answered."""

    def test_version_5(self) -> None:
        """Code and address, of either family."""
        request = Request(5, 1, "x", 1)
        self.assertEqual(
            request.answer(Reply.GRANTED, "203.0.113.1", 258), b"\5\0\0\1\xcb\0\x71\1\1\2"
        )
        self.assertEqual(request.answer(Reply.NOT_ALLOWED), b"\5\2\0\1\0\0\0\0\0\0")
        self.assertEqual(len(request.answer(Reply.GRANTED, "2001:db8::1", 1)), 22)

    def test_version_4(self) -> None:
        """90 or 91."""
        request = Request(4, 1, "x", 1)
        self.assertEqual(
            request.answer(Reply.GRANTED, "203.0.113.1", 258), b"\0\x5a\1\2\xcb\0\x71\1"
        )
        self.assertEqual(request.answer(Reply.REFUSED), b"\0\x5b\0\0\0\0\0\0")
        self.assertEqual(request.answer(Reply.GRANTED, "::1", 1), b"\0\x5a\0\1\0\0\0\0")

    def test_credentials(self) -> None:
        """RFC 1929, section 2."""
        self.assertEqual(Credentials.answer(True), b"\1\0")
        self.assertEqual(Credentials.answer(False), b"\1\1")
