"""Tests of the bodies of HTTP messages."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from relaygate.protocols.httpbody import (
    BodyUntilEnd,
    ChunkedBody,
    CountedBody,
    chunk,
    last_chunk,
)
from relaygate.protocols.httphead import HTTPViolation
from relaygate.test.properties import given, st

WHOLE = b"5\r\nhello\r\nA;x=y\r\n0123456789\r\n0\r\n\r\n"


def chunked(pieces: list[bytes]) -> tuple[bytes, list[tuple[bytes, bytes]], bytes] | None:
    """Body, trailers and what is behind; None if it is refused, or not complete."""
    body, found = ChunkedBody(), bytearray()
    try:
        for piece in pieces:
            found += body.receive(piece)
    except HTTPViolation:
        return None
    return (bytes(found), body.trailers, body.rest) if body.ended else None


def every_way(data: bytes) -> tuple[bytes, list[tuple[bytes, bytes]], bytes] | None:
    """What comes of *data*, whole, byte by byte, and cut in two anywhere."""
    ways = [[data], [data[i : i + 1] for i in range(len(data))]]
    ways += [[data[:i], data[i:]] for i in range(1, len(data))]
    found = [chunked(way) for way in ways]
    assert all(each == found[0] for each in found), found
    return found[0]


class ChunkedTests(SynchronousTestCase):
    """Bodies in chunks."""

    def test_whole(self) -> None:
        """Chunks become a body, and what follows is left."""
        self.assertEqual(every_way(WHOLE), (b"hello0123456789", [], b""))
        self.assertEqual(every_way(WHOLE + b"GET"), (b"hello0123456789", [], b"GET"))
        self.assertEqual(chunked([b"", WHOLE[:4], b"", WHOLE[4:]]), chunked([WHOLE]))

    def test_trailers(self) -> None:
        """Trailers are told."""
        ended = WHOLE[:-2] + b"X-Sum: 1\r\nY:\r\n\r\n"
        self.assertEqual(
            every_way(ended), (b"hello0123456789", [(b"X-Sum", b"1"), (b"Y", b"")], b"")
        )

    def test_refused(self) -> None:
        """Requirement 53: what is not a chunk without any doubt is refused."""
        for data in (
            b"5\nhello\r\n0\r\n\r\n",
            b"5\r\nhello\n0\r\n\r\n",
            b"5\r\nhelloX\r\n0\r\n\r\n",
            b"5\r\nhello\r\n0\r\n\n",
            b"5\r\nhello0\r\n\r\n",
            b"0x5\r\nhello\r\n0\r\n\r\n",
            b"+5\r\nhello\r\n0\r\n\r\n",
            b"-5\r\nhello\r\n0\r\n\r\n",
            b"5 \r\nhello\r\n0\r\n\r\n",
            b" 5\r\nhello\r\n0\r\n\r\n",
            b"5_0\r\nhello\r\n0\r\n\r\n",
            b"\r\nhello\r\n0\r\n\r\n",
            b"g\r\nhello\r\n0\r\n\r\n",
            b"10000000000000005\r\nhello\r\n0\r\n\r\n",
            b"5;a\nb\r\nhello\r\n0\r\n\r\n",
            b"5;a\rb\r\nhello\r\n0\r\n\r\n",
            b"5;a\0b\r\nhello\r\n0\r\n\r\n",
            b"5;a\x7fb\r\nhello\r\n0\r\n\r\n",
            b"5x\r\nhello\r\n0\r\n\r\n",
            b"5\r\nhello\r\n0\r\nA: b\n\r\n",
            b"5\r\nhello\r\n0\r\nA : b\r\n\r\n",
            b"5\r\nhello\r\n0\r\nA: b\r\n c\r\n\r\n",
            b"5\r\nhello\r\n0\r\n A: b\r\n\r\n",
        ):
            self.assertIsNone(every_way(data), data)

    def test_bounds(self) -> None:
        """Requirement 53: a line between chunks has a limit, and so have trailers."""
        self.assertIsNone(chunked([b"5;" + b"x" * 300 + b"\r\nhello\r\n0\r\n\r\n"]))
        body = ChunkedBody()
        self.assertRaises(HTTPViolation, body.receive, b"5;" + b"x" * 300)
        body = ChunkedBody()
        line = b"A: " + b"x" * 100 + b"\r\n"
        self.assertRaises(HTTPViolation, body.receive, b"0\r\n" + line * 200)

    def test_mostly_extensions(self) -> None:
        """Requirement 53: one byte a chunk is allowed, extensions without end are not."""
        body = ChunkedBody()
        self.assertEqual(body.receive(b"1\r\nx\r\n" * 20_000), b"x" * 20_000)
        wordy = b"1;" + b"e" * 200 + b"\r\nx\r\n"
        self.assertEqual(body.receive(wordy * 50), b"x" * 50)
        self.assertEqual(len(body.receive(b"ffff;some=words\r\n" + b"y" * 65535 + b"\r\n")), 65535)
        self.assertRaises(HTTPViolation, body.receive, wordy * 200)

    def test_cut_short(self) -> None:
        """An end before the last chunk is a violation."""
        body = ChunkedBody()
        body.receive(b"5\r\nhel")
        self.assertRaises(HTTPViolation, body.end)

    @given(st.lists(st.binary(min_size=1, max_size=40), max_size=5), st.integers(1, 50))
    def test_written(self, parts: list[bytes], size: int) -> None:
        """What is written here is read here."""
        data = b"".join(map(chunk, parts)) + last_chunk([(b"A", b"b")])
        pieces = [data[i : i + size] for i in range(0, len(data), size)]
        self.assertEqual(chunked(pieces), (b"".join(parts), [(b"A", b"b")], b""))

    @given(st.binary(max_size=60), st.integers(1, 20))
    def test_any_bytes(self, data: bytes, size: int) -> None:
        """Any bytes raise nothing but violations, and how they were cut changes nothing."""
        pieces = [data[i : i + size] for i in range(0, len(data), size)]
        self.assertEqual(chunked(pieces), chunked([data]))


class OtherTests(SynchronousTestCase):
    """Bodies that are counted, or end with the connection."""

    def test_counted(self) -> None:
        """It ends behind its last byte."""
        body = CountedBody(5)
        self.assertEqual(body.receive(b"hel"), b"hel")
        self.assertRaises(HTTPViolation, body.end)
        self.assertEqual(body.receive(b"loGET"), b"lo")
        self.assertTrue(body.ended)
        self.assertEqual(body.rest, b"GET")
        body.end()

    def test_until_end(self) -> None:
        """It ends with the connection alone."""
        body = BodyUntilEnd()
        self.assertEqual(body.receive(b"hello"), b"hello")
        self.assertFalse(body.ended)
        body.end()
        self.assertTrue(body.ended)
