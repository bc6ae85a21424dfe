"""Tests of TLS that ends on the internal node, towards FTP's clients and towards backends."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL
from twisted.trial.unittest import SynchronousTestCase

from relaygate.identity import IdentityError
from relaygate.servicekeys import ServiceKey, load_authorities, load_service_key
from relaygate.servicetls import BackendTLS, SessionTLS, demand_same_peer
from relaygate.tls import PeerNotAllowed

VERSIONS = (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION)


@cache
def authority(name: str) -> trustme.CA:
    """An authority."""
    return trustme.CA(organization_name=f"authority {name}")


@cache
def issued(*names: str, by: str = "one") -> trustme.LeafCert:
    """A certificate for *names*."""
    return authority(by).issue_cert(*names)


def service_key(*names: str, by: str = "one") -> ServiceKey:
    """A service's key for *names* (ftp.example, if there are none)."""
    leaf = issued(*(names or ("ftp.example",)), by=by)
    chain = [x509.load_pem_x509_certificate(blob.bytes()) for blob in leaf.cert_chain_pems]
    return ServiceKey(tuple(chain), load_pem_private_key(leaf.private_key_pem.bytes(), None))


def roots(*names: str) -> list[x509.Certificate]:
    """Authorities' certificates."""
    return [
        x509.load_pem_x509_certificate(authority(name).cert_pem.bytes())
        for name in names or ("one",)
    ]


def client_context(version: int | None = None) -> SSL.Context:
    """A client that believes anybody."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    if version is not None:
        context.set_min_proto_version(version)
        context.set_max_proto_version(version)
    return context


def shake(client: SSL.Connection, server: SSL.Connection) -> None:
    """Do both sides of a handshake in memory, and let the client read what comes after it."""
    client.set_connect_state()
    server.set_accept_state()
    left = [client, server]
    for _ in range(20):
        for side, other in ((client, server), (server, client)):
            try:
                if side in left:
                    side.do_handshake()
                    left.remove(side)
                else:
                    side.recv(1)
            except SSL.WantReadError:
                pass
            finally:
                carry(side, other)


def carry(source: SSL.Connection, sink: SSL.Connection) -> None:
    """Carry what *source* has written to *sink*."""
    try:
        sink.bio_write(source.bio_read(1 << 20))
    except SSL.WantReadError:
        pass


def pair(
    client: SSL.Context, server: SSL.Context, session: SSL.Session | None = None
) -> tuple[SSL.Connection, SSL.Connection]:
    """A connection between two contexts, past its handshake; the client resumes *session*."""
    ends = SSL.Connection(client, None), SSL.Connection(server, None)
    if session is not None:
        ends[0].set_session(session)
    shake(*ends)
    for end in ends:
        # OpenSSL spoils the session of a connection that is freed without a goodbye.
        end.set_shutdown(SSL.SENT_SHUTDOWN | SSL.RECEIVED_SHUTDOWN)
    return ends


class ClientSideTests(SynchronousTestCase):
    """What FTP clients meet."""

    def test_versions(self) -> None:
        """TLS 1.2 and 1.3 are spoken, and nothing older (Requirement 44)."""
        for version in VERSIONS:
            client, _ = pair(client_context(version), SessionTLS(service_key()).context)
            self.assertEqual(client.get_protocol_version(), version)
        old = client_context(SSL.TLS1_1_VERSION)
        old.set_cipher_list(b"ALL:@SECLEVEL=0")
        self.assertRaises(SSL.Error, pair, old, SessionTLS(service_key()).context)

    def test_no_renegotiation(self) -> None:
        """A client that wants another handshake within TLS 1.2 does not get it (Requirement 44)."""
        client, server = pair(client_context(SSL.TLS1_2_VERSION), SessionTLS(service_key()).context)
        for end in (client, server):
            end.set_shutdown(0)
        client.renegotiate()
        for _ in range(4):
            for side, other in ((client, server), (server, client)):
                try:
                    side.do_handshake() if side is client else side.recv(1)
                except SSL.Error:
                    pass
                carry(side, other)
        self.assertEqual(server.total_renegotiations(), 0)

    def test_alpn(self) -> None:
        """Who offers ALPN must offer FTP; another protocol's client is refused (Requirement 43)."""
        for offered, chosen in ((None, b""), ([b"ftp"], b"ftp"), ([b"h2", b"ftp"], b"ftp")):
            context = client_context()
            if offered:
                context.set_alpn_protos(offered)
            client, _ = pair(context, SessionTLS(service_key()).context)
            self.assertEqual(client.get_alpn_proto_negotiated(), chosen)
        context = client_context()
        context.set_alpn_protos([b"h2", b"http/1.1"])
        error = self.assertRaises(SSL.Error, pair, context, SessionTLS(service_key()).context)
        self.assertIn("another protocol than FTP", str(error))

    def test_resumption(self) -> None:
        """A data connection resumes its control connection's session (Requirement 37)."""
        for version in VERSIONS:
            session = SessionTLS(service_key())
            context = client_context(version)
            control, at_server = pair(context, session.context)
            self.assertFalse(session.resumed(at_server))
            ticket = control.get_session()
            for _ in range(3):
                _, data = pair(context, session.context, ticket)
                self.assertTrue(session.resumed(data), version)

    def test_another_session_does_not_resume(self) -> None:
        """A ticket of one FTP session is worth nothing in another (Requirement 37)."""
        for version in VERSIONS:
            context = client_context(version)
            control, _ = pair(context, SessionTLS(service_key()).context)
            ticket = control.get_session()
            other = SessionTLS(service_key())
            _, data = pair(context, other.context, ticket)
            self.assertFalse(other.resumed(data), version)

    def test_chain(self) -> None:
        """Clients get the certificates that lead to the authority, not the service's own alone."""
        lower = authority("one").create_child_ca()
        leaf = lower.issue_cert("ftp.example")
        chain = [x509.load_pem_x509_certificate(blob.bytes()) for blob in leaf.cert_chain_pems]
        self.assertEqual(len(chain), 2)
        key = ServiceKey(tuple(chain), load_pem_private_key(leaf.private_key_pem.bytes(), None))
        backend = BackendTLS(roots(), "ftp.example")
        client, _ = pair(backend.context, SessionTLS(key).context)
        backend.demand(client, "10.0.0.1")


class BackendSideTests(SynchronousTestCase):
    """How backends are met."""

    def test_authority(self) -> None:
        """A backend of another authority is refused in words (Requirement 44)."""
        backend = BackendTLS(roots(), None)
        error = self.assertRaises(
            SSL.Error, pair, backend.context, SessionTLS(service_key("x.example", by="two")).context
        )
        self.assertIn("of another CA", str(error))
        both = BackendTLS(roots("one", "two"), None)
        pair(both.context, SessionTLS(service_key("x.example", by="two")).context)

    def test_names(self) -> None:
        """The certificate must carry the name that is set, or else the host that was dialled."""
        server = SessionTLS(service_key("ftp.example", "10.0.0.7")).context
        for name, host, fits, sni in (
            (None, "ftp.example", True, "ftp.example"),
            (None, "10.0.0.7", True, None),
            (None, "10.0.0.8", False, None),
            (None, "other.example", False, "other.example"),
            ("ftp.example", "10.0.0.8", True, "ftp.example"),
            ("other.example", "ftp.example", False, "other.example"),
        ):
            backend = BackendTLS(roots(), name)
            client, _ = pair(backend.context, server)
            self.assertEqual(backend.sni(host), sni)
            if fits:
                backend.demand(client, host)
            else:
                self.assertRaises(PeerNotAllowed, backend.demand, client, host)

    def test_sessions_are_ours_to_keep(self) -> None:
        """The control's session is resumed again and again, under TLS 1.3 too (Requirement 35)."""
        for version in VERSIONS:
            session = SessionTLS(service_key())
            session.context.set_max_proto_version(version)
            backend = BackendTLS(roots(), None)
            control, _ = pair(backend.context, session.context)
            kept = control.get_session()
            for _ in range(5):
                data, server = pair(backend.context, session.context, kept)
                self.assertTrue(session.resumed(server), version)
                demand_same_peer(control, data)

    def test_another_server(self) -> None:
        """A data connection that leads to another server is refused (Requirement 36)."""
        backend = BackendTLS(roots(), None)
        control, _ = pair(backend.context, SessionTLS(service_key("a.example")).context)
        data, _ = pair(backend.context, SessionTLS(service_key("b.example")).context)
        self.assertRaises(PeerNotAllowed, demand_same_peer, control, data)


class FileTests(SynchronousTestCase):
    """Certificates and keys as they lie on the disk."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir(parents=True)

    def file(self, name: str, *blobs: bytes, mode: int = 0o600) -> Path:
        """Write a file."""
        path = self.folder / name
        path.touch(mode=mode)
        path.chmod(mode)
        path.write_bytes(b"".join(blobs))
        return path

    def load(self, chain: Path, key: Path) -> ServiceKey:
        """Load both."""
        return load_service_key(chain, key, now=datetime.now(UTC))

    def test_good(self) -> None:
        """A certificate, with or without those behind it, and its key are read."""
        leaf = issued("ftp.example")
        own = leaf.cert_chain_pems[0].bytes()
        key = self.file("k", leaf.private_key_pem.bytes())
        self.assertEqual(len(self.load(self.file("c", own), key).chain), 1)
        both = self.file("d", own, authority("one").cert_pem.bytes())
        self.assertEqual(len(self.load(both, key).chain), 2)
        self.assertEqual(
            list(load_authorities(self.file("a", authority("one").cert_pem.bytes()))), roots()
        )

    def test_mistakes(self) -> None:
        """Each mistake is told with the file and the cure."""
        leaf, other = issued("ftp.example"), issued("other.example")
        own, root = leaf.cert_chain_pems[0].bytes(), authority("one").cert_pem.bytes()
        cert = self.file("c", own)
        key = self.file("k", leaf.private_key_pem.bytes())
        for chain, private, words in (
            (cert, self.file("o", other.private_key_pem.bytes()), "does not belong to"),
            (cert, self.file("p", leaf.private_key_pem.bytes(), mode=0o640), "chmod 600"),
            (self.file("r", root, own), key, "begins with a CA's certificate"),
            (self.file("n", own, other.cert_chain_pems[0].bytes()), key, "is no chain"),
            (self.file("m", own, *[root] * 8), key, "at most 8"),
            (self.folder / "absent", key, "does not exist"),
            (self.file("e"), key, "no PEM certificate"),
        ):
            error = self.assertRaises(IdentityError, self.load, chain, private)
            self.assertIn(words, str(error))
        early = datetime(1990, 1, 1, tzinfo=UTC)
        error = self.assertRaises(IdentityError, load_service_key, cert, key, now=early)
        self.assertIn("not valid before", str(error))
        self.assertRaises(IdentityError, load_authorities, self.file("many", *[root] * 65))
