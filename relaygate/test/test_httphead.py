"""Tests of heads of HTTP: what is found, what is refused, and that h11 reads it alike."""

from __future__ import annotations

from itertools import pairwise

import h11
from twisted.trial.unittest import SynchronousTestCase

from relaygate.protocols.httphead import (
    HeadLimits,
    HeadReader,
    HTTPViolation,
    RequestHead,
    parse_request,
    parse_response,
)
from relaygate.test.properties import given, st

LIMITS = HeadLimits()


def request(raw: bytes, limits: HeadLimits = LIMITS) -> RequestHead | int:
    """What comes of *raw*, read whole and byte by byte: a head, or the status that refuses it."""
    found = [_request([raw], limits), _request([raw[i : i + 1] for i in range(len(raw))], limits)]
    assert found[0] == found[1], found
    return found[0]


def _request(pieces: list[bytes], limits: HeadLimits) -> RequestHead | int:
    reader = HeadReader(limits)
    try:
        for piece in pieces:
            head = reader.receive(piece)
            if head is not None:
                return parse_request(head, limits)
    except HTTPViolation as error:
        return error.status
    return 0


def with_fields(*fields: bytes, line: bytes = b"POST /x HTTP/1.1") -> bytes:
    """A request with *fields* behind a Host."""
    return b"\r\n".join((line, b"Host: a.example", *fields)) + b"\r\n\r\n"


class RequestTests(SynchronousTestCase):
    """Requests' heads."""

    def test_plain(self) -> None:
        """A head is what it says, with names and values as they came."""
        head = request(with_fields(b'AS2-From: "My  Co" ', b"x-eMpty:", b"N: \xc3\xa9\t1"))
        assert isinstance(head, RequestHead)
        self.assertEqual((head.method, head.target, head.minor), (b"POST", b"/x", 1))
        self.assertEqual(
            head.fields,
            [
                (b"Host", b"a.example"),
                (b"AS2-From", b'"My  Co"'),
                (b"x-eMpty", b""),
                (b"N", b"\xc3\xa9\t1"),
            ],
        )
        self.assertEqual((head.length, head.chunked), (0, False))

    def test_empty_lines(self) -> None:
        """One or two empty lines in front are forgotten, more are not (RFC 9112, section 2.2)."""
        good = with_fields()
        self.assertIsInstance(request(b"\r\n\r\n" + good), RequestHead)
        self.assertEqual(request(b"\r\n\r\n\r\n" + good), 400)

    def test_rest(self) -> None:
        """What stands behind a head is left."""
        reader = HeadReader(LIMITS)
        self.assertEqual(reader.receive(with_fields() + b"body\n"), with_fields())
        self.assertEqual(reader.take_rest(), b"body\n")
        self.assertFalse(reader.begun)

    def test_both_lengths(self) -> None:
        """Requirement 50: Content-Length beside Transfer-Encoding is refused, in any order."""
        fields = [b"Content-Length: 5", b"Transfer-Encoding: chunked"]
        self.assertEqual(request(with_fields(*fields)), 400)
        self.assertEqual(request(with_fields(*reversed(fields))), 400)

    def test_codings(self) -> None:
        """Requirement 51: one chunked coding, over all lines, and none in HTTP/1.0."""
        good = request(with_fields(b"Transfer-Encoding:  Chunked "))
        assert isinstance(good, RequestHead)
        self.assertTrue(good.chunked)
        for value, status in (
            (b"gzip, chunked", 501),
            (b"chunked, gzip", 400),
            (b"chunked,", 400),
            (b", chunked", 400),
            (b"chunked, chunked", 400),
            (b"chunked;q=1", 400),
            (b"xchunked", 400),
            (b"identity", 400),
            (b'"chunked"', 400),
            (b"chunked\t,", 400),
            (b"", 400),
        ):
            self.assertEqual(request(with_fields(b"Transfer-Encoding: " + value)), status, value)
        twice = with_fields(b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked")
        self.assertEqual(request(twice), 400)
        split = with_fields(b"Transfer-Encoding: gzip", b"Transfer-Encoding: chunked")
        self.assertEqual(request(split), 501)
        old = with_fields(b"Transfer-Encoding: chunked", line=b"POST / HTTP/1.0")
        self.assertEqual(request(old), 400)

    def test_lengths(self) -> None:
        """Requirement 52: one length, of digits."""
        good = request(with_fields(b"Content-Length: 0012"))
        assert isinstance(good, RequestHead)
        self.assertEqual(good.length, 12)
        for value in (
            b"5, 5",
            b"5,",
            b"+5",
            b"-1",
            b"0x5",
            b"5 5",
            b"1_0",
            b"5.0",
            b"",
            b"\xb2",
            b"9" * 19,
            b"5;",
        ):
            self.assertEqual(request(with_fields(b"Content-Length: " + value)), 400, value)
        self.assertEqual(request(with_fields(b"Content-Length: 5", b"content-length: 5")), 400)

    def test_fields(self) -> None:
        """Requirement 54: no blank before the colon, no folding, no control, names of tokens."""
        for field in (
            b"Content-Length : 5",
            b"A : b",
            b"A\t: b",
            b" A: b",
            b"A: b\r\n c",
            b"A: b\r\n\tc",
            b"A: b\0c",
            b"A: b\x07c",
            b"A: b\x7fc",
            b"A: b\x1bc",
            b"A: b\x0bc",
            b"A: b\x0cc",
            b": b",
            b"A b: c",
            b"A",
            b"A(b): c",
            b"\xc3\xa9: c",
            b"A: b\nc: d",
            b"A: b\rc: d",
            b"A: b\r\r\nc: d",
        ):
            self.assertEqual(request(with_fields(field)), 400, field)

    def test_first_line_folded(self) -> None:
        """A folded line right behind the request line is refused as well."""
        self.assertEqual(request(b"GET / HTTP/1.1\r\n Host: a\r\n\r\n"), 400)

    def test_bare_lf(self) -> None:
        """Lines that end with LF alone are refused as soon as one is seen."""
        self.assertEqual(request(b"GET / HTTP/1.1\nHost: a\n\n"), 400)
        self.assertEqual(_request([b"GET / HTTP/1.1\n"], LIMITS), 400)

    def test_request_lines(self) -> None:
        """A request line has three parts, one blank between them, and a version that there is."""
        for line, status in (
            (b"GET  / HTTP/1.1", 400),
            (b"GET / HTTP/1.1 ", 400),
            (b"GET /a b HTTP/1.1", 400),
            (b"GET /\xc3\xa9 HTTP/1.1", 400),
            (b"GET\t/ HTTP/1.1", 400),
            (b"GET /", 400),
            (b"GET / HTTP/1.10", 400),
            (b"GET / http/1.1", 400),
            (b"GET / HTTP/2.0", 505),
            (b"PRI * HTTP/2.0", 505),
            (b"GET / HTTP/1.2", 505),
            (b"GET / HTTP/0.9", 505),
            (b"G" * 33 + b" / HTTP/1.1", 400),
            (b"G(T / HTTP/1.1", 400),
        ):
            self.assertEqual(request(with_fields(line=line)), status, line)

    def test_not_http(self) -> None:
        """Who speaks another protocol is refused at the first byte."""
        self.assertEqual(_request([b"\x16\x03\x01\x02\x00\x01"], LIMITS), 400)
        self.assertEqual(_request([b"\x80"], LIMITS), 400)

    def test_limits(self) -> None:
        """Requirement 54: limits end in 414 and 431, before the head is complete."""
        limits = HeadLimits(bytes=2000, target=300, fields=5)
        long_target = b"GET /" + b"x" * 400
        self.assertEqual(_request([long_target], limits), 414)
        self.assertEqual(request(with_fields(line=long_target + b" HTTP/1.1"), limits), 414)
        self.assertEqual(
            request(with_fields(line=b"GET /" + b"x" * 310 + b" HTTP/1.1"), limits), 414
        )
        begun = with_fields(b"A: " + b"x" * 2000)[:-4]
        self.assertEqual(_request([begun], limits), 431)
        self.assertEqual(request(with_fields(*[b"A: b"] * 5), limits), 431)
        self.assertIsInstance(request(with_fields(*[b"A: b"] * 4), limits), RequestHead)

    @given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=4))
    def test_any_bytes(self, data: bytes, cuts: list[int]) -> None:
        """Any bytes raise nothing but violations, and how they were cut changes nothing."""
        points = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
        pieces = [data[a:b] for a, b in pairwise(points)]
        for tail in (b"", b"\r\n\r\n"):
            self.assertEqual(_request([*pieces, tail], LIMITS), _request([data, tail], LIMITS))

    @given(
        st.lists(
            st.tuples(
                st.from_regex(rb"[!#-'*+.^_`|~0-9A-Za-z-]{1,8}", fullmatch=True),
                st.from_regex(rb"[\t -~\x80-\xff]{0,12}", fullmatch=True),
            ),
            max_size=6,
        )
    )
    def test_fields_survive(self, fields: list[tuple[bytes, bytes]]) -> None:
        """What is taken for a field by us is the same for a third parser, byte for byte."""
        ours = (b"host", b"content-length", b"transfer-encoding", b"connection", b"upgrade")
        sent = [(name, value) for name, value in fields if name.lower() not in ours]
        raw = with_fields(*(b"%b:%b" % field for field in sent))
        head = _request([raw], LIMITS)
        assert isinstance(head, RequestHead)
        self.assertEqual(head.fields[1:], [(name, value.strip(b" \t")) for name, value in sent])
        other = h11.Connection(h11.SERVER)
        other.receive_data(raw)
        event = other.next_event()
        assert isinstance(event, h11.Request)
        self.assertEqual(head.fields, event.headers.raw_items())

    def test_methods(self) -> None:
        """A method that llhttp has never heard of is one (RFC 3253), and keeps its target."""
        for method in (b"VERSION-CONTROL", b"x", b"SOURCE", b"DESCRIBE", b"LINK", b"GET"):
            head = _request([with_fields(line=method + b" /a HTTP/1.1")], LIMITS)
            assert isinstance(head, RequestHead)
            self.assertEqual((head.method, head.target), (method, b"/a"))
        self.assertEqual(_request([with_fields(line=b"CONNECT a:443 HTTP/1.1")], LIMITS), 405)


class ResponseTests(SynchronousTestCase):
    """Responses' heads."""

    def read(self, raw: bytes, method: bytes = b"GET") -> tuple[int, int | None, bool] | str:
        """Status, length and whether it is chunked; or why it is refused."""
        reader = HeadReader(None)
        try:
            found = reader.receive(raw)
            assert found is not None
            head = parse_response(found, method)
        except HTTPViolation as error:
            return str(error)
        return head.status, head.length, head.chunked

    def test_framing(self) -> None:
        """Requirement 60: how a body is framed, and that some have none (RFC 9112, 6.3)."""
        ok = b"HTTP/1.1 200 OK\r\n"
        chunked = b"Transfer-Encoding: chunked\r\n\r\n"
        length = b"Content-Length: 7\r\n\r\n"
        self.assertEqual(self.read(ok + b"\r\n"), (200, None, False))
        self.assertEqual(self.read(ok + length), (200, 7, False))
        self.assertEqual(self.read(ok + chunked), (200, None, True))
        self.assertEqual(self.read(ok + length, b"HEAD"), (200, 0, False))
        self.assertEqual(self.read(b"HTTP/1.1 304 Not Modified\r\n" + length), (304, 0, False))
        self.assertEqual(self.read(b"HTTP/1.1 204 No Content\r\n" + chunked), (204, 0, False))
        self.assertEqual(self.read(b"HTTP/1.1 103 Early Hints\r\n" + length), (103, 0, False))
        self.assertEqual(self.read(b"HTTP/1.1 101 Switch\r\nUpgrade: x\r\n\r\n"), (101, 0, False))

    def test_reason(self) -> None:
        """A reason may be missing, with its blank or without."""
        self.assertEqual(self.read(b"HTTP/1.1 200\r\n\r\n"), (200, None, False))
        self.assertEqual(self.read(b"HTTP/1.0 200 \r\n\r\n"), (200, None, False))

    def test_refused(self) -> None:
        """Requirement 60: what another could read differently is not passed on."""
        for raw in (
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\n",
            b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
            b"HTTP/1.1 200 OK\nA: b\r\n\r\n",
            b"HTTP/1.1 2000 OK\r\n\r\n",
            b"HTTP/1.1 099 OK\r\n\r\n",
            b"HTTP/2 200 OK\r\n\r\n",
            b"ICY 200 OK\r\n\r\n",
        ):
            self.assertIsInstance(self.read(raw), str, raw)

    @given(st.binary(max_size=100))
    def test_any_bytes(self, data: bytes) -> None:
        """Any bytes raise nothing but violations, and always with 502."""
        reader = HeadReader(None)
        try:
            head = reader.receive(b"HTTP/1.1 200 OK\r\n" + data + b"\r\n\r\n")
            assert head is not None
            parse_response(head, b"GET")
        except HTTPViolation as error:
            self.assertIn(error.status, (400, 431, 502))
