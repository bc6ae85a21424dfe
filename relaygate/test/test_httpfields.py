"""Tests of where requests go, and of what becomes of fields on their way."""

from __future__ import annotations

from ipaddress import ip_network

from twisted.trial.unittest import SynchronousTestCase

from relaygate.protocols.httpfields import (
    FieldPolicy,
    Parties,
    find_cookie,
    request_bytes,
    response_bytes,
    trailers_through,
)
from relaygate.protocols.httphead import (
    HeadLimits,
    HTTPViolation,
    parse_request,
    parse_response,
)
from relaygate.protocols.httptarget import Place, Route, Routes, has_dot_segments, place_of

PARTIES = Parties("192.0.2.7", b"https", b"http", b"198.51.100.1:443", frozenset({b"10.0.0.5:80"}))


def placed(line: bytes, *fields: bytes) -> Place | int:
    """The place of a request, or the status that refuses it."""
    raw = b"\r\n".join((line, *fields)) + b"\r\n\r\n"
    try:
        return place_of(parse_request(raw, HeadLimits()), b"https", PARTIES.reached)
    except HTTPViolation as error:
        return error.status


class PlaceTests(SynchronousTestCase):
    """Requirement 55: one host, and no doubt about it."""

    def test_origin(self) -> None:
        """A path and a Host."""
        self.assertEqual(
            placed(b"GET /a?b HTTP/1.1", b"Host: Files.Example:8443"),
            Place(b"Files.Example:8443", b"files.example", b"/a?b"),
        )
        self.assertEqual(
            placed(b"GET / HTTP/1.1", b"Host: [2001:DB8::1]:1"),
            Place(b"[2001:DB8::1]:1", b"[2001:db8::1]", b"/"),
        )
        self.assertEqual(placed(b"OPTIONS * HTTP/1.1", b"Host: a"), Place(b"a", b"a", b"*"))

    def test_absolute(self) -> None:
        """A whole address wins, and has to agree with Host."""
        a = b"Host: a.example"
        self.assertEqual(
            placed(b"GET HTTP://a.example/x HTTP/1.1", a), Place(b"a.example", b"a.example", b"/x")
        )
        self.assertEqual(
            placed(b"GET https://a.example:443?q HTTP/1.1", a),
            Place(b"a.example:443", b"a.example", b"/?q"),
        )
        self.assertEqual(
            placed(b"OPTIONS https://a.example HTTP/1.1", a),
            Place(b"a.example", b"a.example", b"*"),
        )
        self.assertEqual(placed(b"GET https://b.example/ HTTP/1.1", a), 400)
        self.assertEqual(placed(b"GET https://a.example:444/ HTTP/1.1", a), 400)
        self.assertEqual(placed(b"GET https://x@a.example/ HTTP/1.1", a), 400)

    def test_old(self) -> None:
        """A client of HTTP/1.0 may name none."""
        self.assertEqual(
            placed(b"GET / HTTP/1.0"), Place(b"198.51.100.1:443", b"198.51.100.1", b"/")
        )

    def test_refused(self) -> None:
        """None, several, or what is no host; targets that are none."""
        a = b"Host: a"
        for line, *fields in (
            (b"GET / HTTP/1.1",),
            (b"GET / HTTP/1.1", a, a),
            (b"GET / HTTP/1.1", b"Host: "),
            (b"GET / HTTP/1.1", b"Host: a/b"),
            (b"GET / HTTP/1.1", b"Host: a@b"),
            (b"GET / HTTP/1.1", b"Host: a, b"),
            (b"GET / HTTP/1.1", b"Host: a:b"),
            (b"GET / HTTP/1.1", b"Host: a:123456"),
            (b"GET * HTTP/1.1", a),
            (b"GET a HTTP/1.1", a),
            (b"GET /#x HTTP/1.1", a),
            (b"GET a:80 HTTP/1.1", a),
            (b"GET ftp://a/ HTTP/1.1", a),
        ):
            self.assertEqual(placed(line, *fields), 400, (line, fields))

    def test_routes(self) -> None:
        """Names before wildcards before all; then the longest path; then the first."""
        routes = Routes(
            [
                Route(),
                Route(("*.example",)),
                Route(("*.a.example", "b.example")),
                Route(("b.example",), "/in"),
                Route((), "/in"),
                Route(("b.example",), "/in"),
            ]
        )
        for host, path, number in (
            (b"other", b"/", 0),
            (b"other", b"/in/x", 4),
            (b"x.example", b"/in", 1),
            (b"x.a.example", b"/", 2),
            (b"a.example", b"/", 1),
            (b"b.example", b"/", 2),
            (b"b.example", b"/in?x", 3),
            (b"b.example", b"/inx", 2),
            (b"example", b"/", 0),
        ):
            self.assertEqual(routes.find(host, path), number, (host, path))
        self.assertIsNone(Routes([Route(("a",))]).find(b"b", b"/"))

    def test_dots(self) -> None:
        """Segments that lead elsewhere are seen, in what others decode as well."""
        for path in (b"/a/..", b"/./a", b"/%2e%2E/a", b"/a%2f..%2fb", b"/a/..\\b", b"/..;x=y/b"):
            self.assertTrue(has_dot_segments(path), path)
        for path in (b"/a..b/c", b"/.well-known/x", b"/a?b=../c", b"/...", b"*"):
            self.assertFalse(has_dot_segments(path), path)


def towards_backend(
    *fields: bytes,
    client: str = "192.0.2.7",
    policy: FieldPolicy | None = None,
    cookie: bytes = b"",
) -> list[bytes]:
    """The lines that a backend gets of a POST with *fields*."""
    raw = b"\r\n".join((b"POST /x HTTP/1.1", b"Host: a", *fields)) + b"\r\n\r\n"
    head = parse_request(raw, HeadLimits())
    place = place_of(head, b"https", PARTIES.reached)
    parties = Parties(client, b"https", b"http", PARTIES.reached, PARTIES.inside)
    said = request_bytes(head, place, policy or FieldPolicy(), parties, cookie=cookie)
    return said.removesuffix(b"\r\n\r\n").split(b"\r\n")


OURS = [
    b"Forwarded: for=192.0.2.7;host=a;proto=https",
    b"X-Forwarded-For: 192.0.2.7",
    b"X-Forwarded-Proto: https",
    b"X-Forwarded-Host: a",
    b"X-Real-IP: 192.0.2.7",
    b"Via: 1.1 relaygate",
]


class InwardTests(SynchronousTestCase):
    """Fields on their way to a backend."""

    def test_untouched(self) -> None:
        """Requirement 62: order, spelling and values are the client's own."""
        fields = [
            b'AS2-From: "My Company"',
            b"mEssage-ID: <x@y>",
            b'Content-Type: application/pkcs7-mime; smime-type="enveloped-data";  name=a',
            b"AS2-To: b",
            b"Content-Length: 5",
        ]
        self.assertEqual(
            towards_backend(*fields), [b"POST /x HTTP/1.1", b"Host: a", *fields, *OURS]
        )

    def test_hop_by_hop(self) -> None:
        """Requirement 56: what is for us alone goes no further, nor what Connection names."""
        said = towards_backend(
            b"Connection: close, X-Mine",
            b"X-Mine: 1",
            b"Keep-Alive: 5",
            b"Proxy-Authorization: x",
            b"Proxy-Connection: x",
            b"Proxy: http://evil",
            b"TE: trailers",
            b"Upgrade: x",
            b"HTTP2-Settings: x",
            b"X-Kept: 1",
        )
        self.assertEqual(said, [b"POST /x HTTP/1.1", b"Host: a", b"X-Kept: 1", *OURS])

    def test_named_away(self) -> None:
        """Requirement 56: nobody names Host, Cookie, Authorization or our own words away."""
        said = towards_backend(
            b"Connection: Host, Cookie, Authorization, Content-Length, X-Forwarded-For, AS2-To",
            b"Cookie: a=b",
            b"Authorization: c",
            b"Content-Length: 1",
            b"AS2-To: x",
        )
        kept = [b"Cookie: a=b", b"Authorization: c", b"Content-Length: 1", b"AS2-To: x"]
        self.assertEqual(said, [b"POST /x HTTP/1.1", b"Host: a", *kept, *OURS])

    def test_lies(self) -> None:
        """Requirement 57: what a stranger says about itself is thrown away."""
        lies = [
            b"X-Forwarded-For: 1.1.1.1",
            b"x-forwarded-proto: http",
            b"X-Forwarded-Anything: x",
            b"Forwarded: for=1.1.1.1",
            b"X-Real-IP: 1.1.1.1",
            b"X_Forwarded_For: 1.1.1.1",
            b"X-Original-URL: /admin",
            b"True-Client-IP: 1.1.1.1",
        ]
        self.assertEqual(towards_backend(*lies), [b"POST /x HTTP/1.1", b"Host: a", *OURS])

    def test_trusted(self) -> None:
        """Requirement 57: the word of a proxy that is trusted is continued, one line each."""
        policy = FieldPolicy(trusted=(ip_network("192.0.2.0/24"),))
        said = towards_backend(
            b"X-Forwarded-For: 203.0.113.9, 203.0.113.1",
            b"Forwarded: for=203.0.113.9",
            b"X-Forwarded-Proto: http",
            policy=policy,
        )
        self.assertIn(b"X-Forwarded-For: 203.0.113.9, 203.0.113.1, 192.0.2.7", said)
        self.assertIn(b"Forwarded: for=203.0.113.9, for=192.0.2.7;host=a;proto=https", said)
        self.assertIn(b"X-Forwarded-Proto: http", said)
        self.assertIn(b"X-Real-IP: 203.0.113.9", said)

    def test_ipv6(self) -> None:
        """An IPv6 address is quoted where the grammar wants it (RFC 7239, section 6)."""
        said = towards_backend(client="2001:db8::7")
        self.assertIn(b'Forwarded: for="[2001:db8::7]";host=a;proto=https', said)
        self.assertIn(b"X-Forwarded-For: 2001:db8::7", said)

    def test_own_cookie(self) -> None:
        """Requirement 88: our own cookie stays with us, the others as they are."""
        said = towards_backend(b"Cookie: a=b; relaygate=xyz; c=d", cookie=b"relaygate")
        self.assertIn(b"Cookie: a=b; c=d", said)
        said = towards_backend(b"Cookie: relaygate=xyz", cookie=b"relaygate")
        self.assertFalse([line for line in said if line.startswith(b"Cookie")])
        self.assertEqual(find_cookie({b"cookie": [b"a=b; relaygate=xyz"]}, b"relaygate"), b"xyz")


class OutwardTests(SynchronousTestCase):
    """Fields on their way to a client."""

    PLACE = Place(b"files.example", b"files.example", b"/")

    def towards_client(self, *fields: bytes, policy: FieldPolicy | None = None) -> list[bytes]:
        raw = b"\r\n".join((b"HTTP/1.1 200 OK", *fields)) + b"\r\n\r\n"
        head = parse_response(raw, b"GET")
        said = response_bytes(head, self.PLACE, policy or FieldPolicy(via=b""), PARTIES)
        return said.removesuffix(b"\r\n\r\n").split(b"\r\n")[1:]

    def test_untouched(self) -> None:
        """Requirement 62: an MDN's fields come as they were sent."""
        fields = [
            b'content-type: multipart/report; boundary="x  y"',
            b"AS2-Version: 1.2",
            b"Content-Length: 7",
            b'WWW-Authenticate: Basic realm="x"',
        ]
        self.assertEqual(self.towards_client(*fields), fields)

    def test_addresses(self) -> None:
        """Requirement 88: a backend's address becomes ours; anybody else's stays."""
        for inside, outside in (
            (b"http://10.0.0.5:80/x", b"https://files.example/x"),
            (b"http://10.0.0.5:80", b"https://files.example"),
            (b"http://files.example/x", b"https://files.example/x"),
            (b"/x", b"/x"),
            (b"http://10.0.0.50:80/x", b"http://10.0.0.50:80/x"),
            (b"https://other.example/", b"https://other.example/"),
        ):
            self.assertEqual(self.towards_client(b"Location: " + inside), [b"Location: " + outside])

    def test_server(self) -> None:
        """Server stands as configured."""
        for server, shown in ((b"x", [b"Server: x"]), (b"", []), (None, [b"Server: nginx"])):
            policy = FieldPolicy(server=server, via=b"")
            self.assertEqual(self.towards_client(b"Server: nginx", policy=policy), shown)

    def test_hidden(self) -> None:
        """What is to be hidden is."""
        policy = FieldPolicy(via=b"", hidden={b"x-node"})
        self.assertEqual(self.towards_client(b"X-Node: 7", b"A: b", policy=policy), [b"A: b"])

    def test_trailers(self) -> None:
        """Requirement 53: no trailer says what only a head may."""
        trailers = [
            (b"Content-Length", b"5"),
            (b"transfer-encoding", b"chunked"),
            (b"Host", b"x"),
            (b"X-Forwarded-For", b"x"),
            (b"Set-Cookie", b"x"),
            (b"X_Y", b"x"),
            (b"X-Bad", b"a\x07"),
            (b"X-Sum", b"1"),
        ]
        self.assertEqual(trailers_through(trailers, FieldPolicy()), [(b"X-Sum", b"1")])
