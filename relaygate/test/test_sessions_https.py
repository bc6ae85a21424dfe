"""Tests of HTTPS through both nodes in this process: opened, and passed through by name."""

from __future__ import annotations

import re
import socket
import ssl
from datetime import UTC, datetime
from typing import Any

from OpenSSL import SSL
from twisted.internet import ssl as tls
from twisted.protocols.tls import TLSMemoryBIOFactory

from relaygate import helloopening, pki, relay
from relaygate.addresses import HostPort
from relaygate.config import BackendTLSConfig, KeyFiles, PersistenceConfig, RouteConfig
from relaygate.identity import Role
from relaygate.stickiness import COOKIE
from relaygate.test.httppeers import OK, HTTPCase, Script, parts, read_all, read_answer
from relaygate.test.peers import in_thread
from relaygate.test.programs import new_folder
from relaygate.test.test_sessions import twisted
from relaygate.test.wire import lines, logged, until

CLOSE = b"GET / HTTP/1.1\r\nHost: files.example\r\nConnection: close\r\n\r\n"
VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)


class HTTPSCase(HTTPCase):
    """A CA, and certificates of it."""

    def pair(self, name: str) -> KeyFiles:
        """Certificate and key for *name*."""
        if not hasattr(self, "ca"):
            self.ca = pki.make_ca("service CA", datetime.now(UTC), 10)
            self.folder = new_folder(self)
        pki.create_node(self.ca, name, Role.DMZ, datetime.now(UTC), 5, self.folder)
        return KeyFiles(self.folder / f"{name}.pem", self.folder / f"{name}.key")

    def connect(
        self, name: str = "files.example", alpn: tuple[str, ...] = (), **settings: Any
    ) -> ssl.SSLSocket:
        """A client that trusts the CA, and asks for *name*."""
        context = ssl.create_default_context(cadata=self.ca.certificate_pem.decode())
        for key, value in settings.items():
            setattr(context, key, value)
        if alpn:
            context.set_alpn_protocols(list(alpn))
        plain = socket.create_connection(("127.0.0.1", self.port), 30)
        self.addCleanup(plain.close)
        client = context.wrap_socket(plain, server_hostname=name)
        self.addCleanup(client.close)
        return client

    def alert(self, name: str, **settings: Any) -> str:
        """Why the handshake fails, or "" if it does not."""
        try:
            self.connect(name, **settings)
        except ssl.SSLError as error:
            # Python has no name of its own for some alerts; OpenSSL has.
            return error.reason or str(error)
        except OSError as error:
            return type(error).__name__
        return ""

    def backend(self, *answers: Any) -> tuple[HostPort, Script]:
        """Another backend than the service's own, and where it is."""
        script = Script(*answers)
        port = twisted.listenTCP(0, script, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return HostPort("127.0.0.1", port.getHost().port), script

    def asked(self, request: bytes = CLOSE, name: str = "files.example", **more: Any) -> bytes:
        """What *request* is answered under TLS."""
        client = self.connect(name, **more)
        client.sendall(request)
        return read_all(client)


class OpenedTests(HTTPSCase):
    """HTTPS that ends on the internal node."""

    async def test_versions(self) -> None:
        """TLS 1.2 and 1.3, and HTTP/1.1 by ALPN; the backend hears that it was HTTPS."""
        script = await self.serve(protocol="https", service={"tls": self.pair("files.example")})
        for version in VERSIONS:

            def ask(version: ssl.TLSVersion = version) -> tuple[str | None, bytes]:
                client = self.connect(
                    alpn=("h2", "http/1.1"), minimum_version=version, maximum_version=version
                )
                client.sendall(CLOSE)
                return client.selected_alpn_protocol(), read_all(client)

            protocol, said = await in_thread(ask)
            self.assertEqual(protocol, "http/1.1")
            self.assertEqual(parts(said)[2], b"ok")
        self.assertEqual(script.heard.count(b"X-Forwarded-Proto: https\r\n"), 2)

    async def test_other_protocol(self) -> None:
        """
        Requirement 43: who wants another protocol is refused (ALPACA), and hears why: our reset
        does not overtake the alert.
        """
        await self.serve(protocol="https", service={"tls": self.pair("files.example")})

        for version in VERSIONS:
            with logged() as events:
                said = await in_thread(
                    self.alert,
                    "files.example",
                    alpn=("ftp",),
                    minimum_version=version,
                    maximum_version=version,
                )
                await self.ends(events)
            self.assertIn("no application protocol", said)
        self.assertIn("another protocol than HTTP/1.1", "".join(lines(events, " end: ")))
        self.assertEqual(self.script.requests, [])

    async def test_refused_and_silent(self) -> None:
        """Who does not close after our alert is not waited for, and leaves nothing behind."""
        self.patch(relay, "UNREAD_LOOK_S", 0.3)
        await self.serve(protocol="https", service={"tls": self.pair("files.example")})
        context = ssl.create_default_context()
        context.set_alpn_protocols(["ftp"])
        wire = ssl.MemoryBIO()
        client = context.wrap_bio(ssl.MemoryBIO(), wire, server_hostname="files.example")
        self.assertRaises(ssl.SSLWantReadError, client.do_handshake)
        with logged() as events, socket.create_connection(("127.0.0.1", self.port), 30) as plain:
            plain.sendall(wire.read())
            said = await in_thread(read_all, plain)
            await self.ends(events)
        # A record of type alert (RFC 8446 sections 5.1 and 6): fatal, no_application_protocol.
        self.assertEqual((said[0], said[5:7]), (21, bytes((2, 120))))

    async def test_odd_names(self) -> None:
        """
        Requirement 55: whatever a client's TLS asks for, it is answered, or told why it is not; a
        name that leads elsewhere than Host does is a 421.
        """
        keys = self.pair("files.example")
        keys = KeyFiles(keys.certificate, keys.key, (self.pair("as2.example"),))
        where, _ = self.backend(OK)
        route = RouteConfig((where,), hosts=("as2.example",))
        await self.serve(protocol="https", service={"tls": keys}, routes=(route,))

        def ask(name: bytes | None) -> int | str:
            plain = socket.create_connection(("127.0.0.1", self.port), 30)
            plain.settimeout(None)
            client = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), plain)
            if name is not None:
                client.set_tlsext_host_name(name)
            client.set_connect_state()
            try:
                client.do_handshake()
                client.sendall(CLOSE)
                said = client.recv(1 << 16)
            except SSL.Error as error:
                return str(error)
            finally:
                plain.close()
            return parts(said)[0]

        for name, status in (
            (None, 200),
            (b"files.example", 200),
            (b"FILES.Example", 200),
            (b"other.example", 200),
            (b"127.0.0.1", 200),
            (b"\xff\xfe\x80", 200),
            (b"a\r\nb", 200),
            (b"x" * 255, 200),
            (b"as2.example", 421),
            (b"AS2.EXAMPLE", 421),
        ):
            self.assertEqual(await in_thread(ask, name), status, name)

    async def test_certificates(self) -> None:
        """Each name is met with its certificate, wildcards and unknown ones too."""
        more = (self.pair("as2.example"), self.pair("web.example"))
        first = self.pair("files.example")
        shown = KeyFiles(first.certificate, first.key, more)
        await self.serve(protocol="https", service={"tls": shown})
        for name in ("files.example", "as2.example", "web.example"):
            said = await in_thread(self.asked, CLOSE, name)
            self.assertEqual(parts(said)[2], b"ok")

        def unknown() -> Any:
            client = self.connect("other.example", check_hostname=False)
            return client.getpeercert()

        certificate = await in_thread(unknown)
        self.assertIn(("DNS", "files.example"), certificate["subjectAltName"])

    async def test_routes(self) -> None:
        """Requirement 55: host and path lead to a route; a host that TLS has not asked for: 421."""
        where, as2 = self.backend(OK.replace(b"ok", b"as"))
        route = RouteConfig((where,), ("as2.example",), "/in")
        first = self.pair("files.example")
        shown = KeyFiles(first.certificate, first.key, (self.pair("as2.example"),))
        script = await self.serve(protocol="https", service={"tls": shown}, routes=(route,))
        ask = CLOSE.replace(b"files.example", b"AS2.example")
        inside = ask.replace(b"GET / ", b"GET /in/x ")
        self.assertEqual(parts(await in_thread(self.asked, inside, "as2.example"))[2], b"as")
        self.assertEqual(parts(await in_thread(self.asked, ask, "as2.example"))[2], b"ok")
        beside = ask.replace(b"GET / ", b"GET /inside ")
        self.assertEqual(parts(await in_thread(self.asked, beside, "as2.example"))[2], b"ok")
        self.assertEqual(parts(await in_thread(self.asked, inside, "files.example"))[0], 421)
        for path in (b"/in/../x", b"/in/%2e%2e/x", b"/in%2f..%2fx", b"/in/..;/x"):
            away = ask.replace(b"GET / ", b"GET " + path + b" ")
            self.assertEqual(parts(await in_thread(self.asked, away, "as2.example"))[0], 400)
        self.assertEqual((len(as2.requests), len(script.requests)), (1, 2))

    async def test_names_inside(self) -> None:
        """Requirement 88: addresses of backends become the client's own name for us."""
        await self.serve(
            lambda _: (
                b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:%d/login?to=/\r\n"
                b"Set-Cookie: a=b; Domain=inside.local; Path=/; HttpOnly\r\n"
                b"Set-Cookie: c=d; Domain=.files.example\r\n"
                b"Server: Apache/2.4 (node-7)\r\nVia: 1.1 inner-7\r\nX-Powered-By: PHP\r\n"
                b"Link: <http://files.example/next>; rel=next\r\nContent-Length: 0\r\n\r\n"
                % self.inside_port
            ),
            protocol="https",
            service={"tls": self.pair("files.example")},
        )
        said = await in_thread(self.asked)
        self.assertIn(b"\r\nLocation: https://files.example/login?to=/\r\n", said)
        self.assertIn(b"\r\nSet-Cookie: a=b; Path=/; HttpOnly\r\n", said)
        self.assertIn(b"\r\nSet-Cookie: c=d; Domain=.files.example\r\n", said)
        self.assertIn(b"\r\nServer: relaygate\r\n", said)
        self.assertIn(b"\r\nVia: 1.1 relaygate\r\n", said)
        self.assertIn(b"\r\nLink: <https://files.example/next>; rel=next\r\n", said)
        for word in (b"127.0.0.1", b"inside", b"inner", b"node-7", b"PHP"):
            self.assertNotIn(word, said)

    @property
    def inside_port(self) -> int:
        """The port of the service's own backend."""
        return int(self.script.connections[0].transport.getHost().port)  # type: ignore[union-attr]

    async def test_webdav(self) -> None:
        """WebDAV's Destination has the scheme that the backend speaks."""
        script = await self.serve(protocol="https", service={"tls": self.pair("files.example")})
        move = (
            b"MOVE /a HTTP/1.1\r\nHost: files.example\r\nDestination: https://files.example/b\r\n"
            b"If: <https://files.example/a> (<opaquelocktoken:1>)\r\nConnection: close\r\n\r\n"
        )
        await in_thread(self.asked, move)
        self.assertIn(b"\r\nDestination: http://files.example/b\r\n", script.heard)
        self.assertIn(b"\r\nIf: <http://files.example/a> (<op", script.heard)

    async def test_big_pipelined(self) -> None:
        """A large body and the next request in the same TLS records: neither loses a byte."""
        script = await self.serve(protocol="https", service={"tls": self.pair("files.example")})
        body = bytes(range(251)) * 4001
        head = b"PUT /x HTTP/1.1\r\nHost: files.example\r\nContent-Length: %d\r\n\r\n" % len(body)

        def ask() -> bytes:
            client = self.connect()
            client.sendall(head + body + head + body + CLOSE)
            return read_all(client)

        said = await in_thread(ask)
        self.assertEqual(said.count(b"200 OK"), 3)
        self.assertEqual([len(each) > len(body) for each in script.requests], [True, True, False])
        self.assertTrue(all(each.endswith(body) for each in script.requests[:2]))

    async def test_backend_tls(self) -> None:
        """A backend under TLS is verified, and its connection used again."""
        pair = self.pair("web.private.example")
        ca = self.folder / "backend-ca.pem"
        ca.write_bytes(self.ca.certificate_pem)
        options = tls.DefaultOpenSSLContextFactory(str(pair.key), str(pair.certificate))
        own = self.pair("files.example")
        script = await self.serve(
            protocol="https",
            over=lambda script: TLSMemoryBIOFactory(options, False, script),
            service={"tls": own, "backend_tls": BackendTLSConfig("on", ca, "web.private.example")},
        )
        for _ in range(2):
            said = await in_thread(self.asked)
            self.assertEqual(parts(said)[2], b"ok")
        self.assertEqual((len(script.connections), len(script.requests)), (1, 2))

    async def test_backend_not_verified(self) -> None:
        """A backend with another name in its certificate is none."""
        pair = self.pair("web.private.example")
        ca = self.folder / "backend-ca.pem"
        ca.write_bytes(self.ca.certificate_pem)
        options = tls.DefaultOpenSSLContextFactory(str(pair.key), str(pair.certificate))
        own = self.pair("files.example")
        script = await self.serve(
            protocol="https",
            over=lambda script: TLSMemoryBIOFactory(options, False, script),
            service={"tls": own, "backend_tls": BackendTLSConfig("on", ca, "other.example")},
        )
        self.assertNotEqual(await in_thread(self.alert, "files.example"), "")
        self.assertEqual(script.requests, [])

    async def test_cookie(self) -> None:
        """Requirement 88: a client keeps its backend by a cookie that cannot be made up."""
        where, other = self.backend(OK.replace(b"ok", b"b2"))
        third, _ = self.backend(OK.replace(b"ok", b"b3"))
        route = RouteConfig((where, third), path="/app")
        await self.serve(
            protocol="https",
            service={
                "tls": self.pair("files.example"),
                "persistence": PersistenceConfig("cookie", 600.0),
            },
            routes=(route,),
        )
        ask = CLOSE.replace(b"GET / ", b"GET /app ")
        first = await in_thread(self.asked, ask)
        found = re.search(rb"\r\nSet-Cookie: (relaygate=([^;]+));([^\r]*)", first)
        assert found is not None
        self.assertEqual(found[3], b" Path=/; Max-Age=600; HttpOnly; SameSite=Lax; Secure")
        self.assertNotIn(b"127.0.0.1", first)
        with_cookie = ask.replace(b"\r\n\r\n", b"\r\nCookie: a=b; " + found[1] + b"\r\n\r\n")
        for _ in range(4):
            again = await in_thread(self.asked, with_cookie)
            self.assertEqual(parts(again)[2], parts(first)[2])
            self.assertNotIn(b"Set-Cookie", again)
        self.assertNotIn(COOKIE + b"=", other.heard)
        forged = with_cookie.replace(found[2], b"A" * 44)
        self.assertIn(b"Set-Cookie: relaygate=", await in_thread(self.asked, forged))


class PassedTests(HTTPSCase):
    """HTTPS that is passed through."""

    async def tls_backend(self, name: str) -> HostPort:
        """A backend that speaks TLS and answers with its *name*."""
        pair = self.pair(name)
        options = tls.DefaultOpenSSLContextFactory(str(pair.key), str(pair.certificate))
        body = name.encode()
        script = Script(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
        port = twisted.listenSSL(0, script, options, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return HostPort("127.0.0.1", port.getHost().port)

    async def begin(self, **keys: Any) -> None:
        """Two names with backends of their own, and one by wildcard; the default is plain."""
        routes = (
            RouteConfig((await self.tls_backend("a.example"),), ("a.example", "also.example")),
            RouteConfig((await self.tls_backend("b.c.example"),), ("*.c.example",)),
        )
        await self.serve(protocol="https", routes=routes, **keys)

    def fetch(self, name: str) -> bytes:
        client = self.connect(name, alpn=("http/1.1",))
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        return parts(read_answer(client))[2]

    async def test_names(self) -> None:
        """Each name leads to its backend, whose own certificate the client sees."""
        await self.begin()
        with logged() as events:
            for name in ("a.example", "b.c.example"):
                self.assertEqual(await in_thread(self.fetch, name), name.encode())
        opened = "".join(lines(events, " open: "))
        self.assertIn("sni=a.example alpn=http/1.1 tls=1.3", opened)

    async def test_strict(self) -> None:
        """A name that no route has is refused with an alert of TLS."""
        await self.begin(strict_hosts=True)
        self.assertEqual(await in_thread(self.alert, "d.example"), "TLSV1_UNRECOGNIZED_NAME")

    async def test_minimum(self) -> None:
        """A client that cannot speak the least version is refused."""
        await self.begin(minimum_tls="1.3")
        reason = await in_thread(self.alert, "a.example", maximum_version=ssl.TLSVersion.TLSv1_2)
        self.assertEqual(reason, "TLSV1_ALERT_PROTOCOL_VERSION")
        self.assertEqual(await in_thread(self.fetch, "a.example"), b"a.example")

    async def test_not_tls(self) -> None:
        """Who does not speak TLS is reset, and no backend has heard a byte."""
        await self.begin()
        with logged() as events:
            self.assertEqual(await self.ask(CLOSE), b"<reset>")
            await self.ends(events)
        self.assertIn("did not begin TLS", "".join(lines(events, " end: ")))
        self.assertEqual(self.script.connections, [])

    async def test_slow(self) -> None:
        """Requirement 86: the first message has to be there in time."""
        self.patch(helloopening, "HELLO_LIMIT_S", 0.3)
        await self.begin()
        self.assertEqual(await self.ask(b"\x16\x03\x01\x02"), b"<reset>")

    async def test_backend_gone(self) -> None:
        """A backend that is down is an alert, since the client was accepted already."""
        nobody = RouteConfig((HostPort("127.0.0.1", 1),), ("a.example",))
        self.pair("a.example")
        await self.serve(protocol="https", routes=(nobody,))
        reason = await in_thread(self.alert, "a.example")
        self.assertEqual(reason, "TLSV1_ALERT_INTERNAL_ERROR")

    async def test_without_routes(self) -> None:
        """Without routes a backend is reached first; bytes pass unaltered, half-close too."""
        script = await self.serve(protocol="https")
        self.pair("a.example")

        def hello() -> bytes:
            with socket.create_connection(("127.0.0.1", self.port), 30) as client:
                incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
                shaking = ssl.create_default_context().wrap_bio(
                    incoming, outgoing, server_hostname="x.example"
                )
                try:
                    shaking.do_handshake()
                except ssl.SSLWantReadError:
                    pass
                said = outgoing.read()
                client.sendall(said)
                client.shutdown(socket.SHUT_WR)
                read_all(client)
                return said

        said = await in_thread(hello)
        await until(lambda: script.heard == said, "the client's bytes")
