"""Making CAs and node certificates: in memory, as files, and before OpenSSL."""

from __future__ import annotations

import contextlib
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL, crypto
from service_identity import VerificationError
from service_identity.pyopenssl import verify_hostname
from twisted.trial.unittest import SynchronousTestCase

from relaygate import identity, pki
from relaygate.identity import Identity, Role, load_identity
from relaygate.pki import PKIError

NOW = datetime(2026, 11, 22, 12, 0, 0, 654_321, tzinfo=UTC)
DAY = timedelta(days=1)
WHOLE = NOW.replace(microsecond=0)


class MemoryTests(SynchronousTestCase):
    """Certificates as they are made."""

    def setUp(self) -> None:
        self.ca = pki.make_ca("test CA", NOW, 100)

    def test_ca(self) -> None:
        """A CA is a P-256 root that signs nodes and lists, and no CA below it."""
        ca = self.ca.certificate
        key = ca.public_key()
        self.assertIsInstance(key, ec.EllipticCurvePublicKey)
        assert isinstance(key, ec.EllipticCurvePublicKey)
        self.assertIsInstance(key.curve, ec.SECP256R1)
        self.assertIsInstance(ca.signature_hash_algorithm, hashes.SHA256)
        self.assertEqual(ca.version, x509.Version.v3)
        self.assertEqual(ca.subject.rfc4514_string(), "CN=test CA")
        basic = ca.extensions.get_extension_for_class(x509.BasicConstraints)
        self.assertEqual((basic.critical, basic.value.ca), (True, True))
        self.assertEqual(basic.value.path_length, 0)
        usage = ca.extensions.get_extension_for_class(x509.KeyUsage)
        self.assertTrue(usage.critical and usage.value.key_cert_sign and usage.value.crl_sign)
        self.assertFalse(usage.value.digital_signature)
        self.assertTrue(identity.is_issued_by(ca, ca))

    def test_node(self) -> None:
        """A node's certificate has its name twice, one usage, and points at its CA's key."""
        for role, usage in identity.ROLE_USAGE.items():
            node = pki.issue(self.ca, "node-a", role, NOW, 10).certificate
            extensions = node.extensions
            self.assertEqual(node.subject.rfc4514_string(), "CN=node-a")
            names = extensions.get_extension_for_class(x509.SubjectAlternativeName)
            self.assertEqual(list(names.value), [x509.DNSName("node-a")])
            usages = extensions.get_extension_for_class(x509.ExtendedKeyUsage)
            self.assertEqual(list(usages.value), [usage])
            basic = extensions.get_extension_for_class(x509.BasicConstraints)
            self.assertEqual((basic.critical, basic.value.ca), (True, False))
            key_usage = extensions.get_extension_for_class(x509.KeyUsage)
            self.assertTrue(key_usage.critical and key_usage.value.digital_signature)
            self.assertFalse(key_usage.value.key_cert_sign)
            issuer = extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
            ca_key = self.ca.certificate.extensions.get_extension_for_class(
                x509.SubjectKeyIdentifier
            ).value
            self.assertEqual(issuer.key_identifier, ca_key.digest)
            self.assertTrue(identity.is_issued_by(node, self.ca.certificate))

    def test_serials_and_keys_are_fresh(self) -> None:
        """No two certificates share a serial number or a key, the same name or not."""
        made = [pki.issue(self.ca, "node-a", Role.DMZ, NOW) for _ in range(5)]
        self.assertEqual(len({each.certificate.serial_number for each in made}), 5)
        self.assertEqual(len({each.key_pem for each in made}), 5)

    def test_dates(self) -> None:
        """Validity begins five minutes early, and a node's ends with its CA's at the latest."""
        ca = self.ca.certificate
        self.assertEqual(ca.not_valid_before_utc, WHOLE - timedelta(minutes=5))
        self.assertEqual(ca.not_valid_after_utc, WHOLE + 100 * DAY)
        short = pki.issue(self.ca, "a", Role.DMZ, NOW, 10).certificate
        self.assertEqual(short.not_valid_before_utc, WHOLE - timedelta(minutes=5))
        self.assertEqual(short.not_valid_after_utc, WHOLE + 10 * DAY)
        late = pki.issue(self.ca, "a", Role.DMZ, NOW + 95 * DAY, 10).certificate
        self.assertEqual(late.not_valid_after_utc, WHOLE + 100 * DAY)

    def test_ca_out_of_its_time(self) -> None:
        """A CA that has expired, or is not valid yet, issues nothing."""
        for now, why in ((NOW + 101 * DAY, "expired"), (NOW - DAY, "not valid before")):
            error = self.assertRaises(
                identity.IdentityError, pki.issue, self.ca, "a", Role.DMZ, now
            )
            self.assertIn(why, str(error))

    def test_refused_values(self) -> None:
        """Bad names and days are refused in one printable line."""
        for name in ("", "x" * 65, "ü" * 33, "two\nlines", "\ud800"):
            error = self.assertRaises(PKIError, pki.make_ca, name, NOW)
            self.assertTrue(str(error).isprintable())
        for name in ("", "Node", "a/b", "../a", "a\n", "x" * 64, "1.2.3.4"):
            error = self.assertRaises(PKIError, pki.issue, self.ca, name, Role.DMZ, NOW)
            self.assertTrue(str(error).isprintable())
        for days in (0, -1, 36_501):
            self.assertRaises(PKIError, pki.make_ca, "x", NOW, days)
            self.assertRaises(PKIError, pki.issue, self.ca, "a", Role.DMZ, NOW, days)

    def test_no_key_in_repr(self) -> None:
        """A pair that ends up in a log does not show its key."""
        self.assertNotIn("PRIVATE", repr(self.ca))


class FileTests(SynchronousTestCase):
    """CAs and nodes as files."""

    def setUp(self) -> None:
        self.top = Path(self.mktemp()).absolute()
        self.dir = self.top / "ca"
        self.ca = pki.create_ca(self.dir, "test CA", NOW, 1000)

    def mode(self, path: Path) -> int:
        return path.stat().st_mode & 0o7777

    def snapshot(self) -> dict[str, bytes]:
        return {str(p): p.read_bytes() for p in self.top.rglob("*") if p.is_file()}

    def load(self, folder: Path, name: str, role: Role, now: datetime = NOW) -> Identity:
        return load_identity(
            folder / f"{name}.pem", folder / f"{name}.key", folder / "ca.pem", role=role, now=now
        )

    def test_modes_whatever_the_umask(self) -> None:
        """Keys are for their owner alone and certificates for all, under any umask."""
        for umask in (0o000, 0o022, 0o277):
            folder = self.top / f"umask-{umask:o}"
            folder.mkdir(mode=0o700)
            before = os.umask(umask)
            try:
                ca = pki.create_ca(folder, "other", NOW, 10)
                pki.create_node(ca, "a", Role.DMZ, NOW, 10, folder)
            finally:
                os.umask(before)
            self.assertEqual(self.mode(folder / "ca.key"), 0o600)
            self.assertEqual(self.mode(folder / "a.key"), 0o600)
            self.assertEqual(self.mode(folder / "ca.pem"), 0o644)
            self.assertEqual(self.mode(folder / "a.pem"), 0o644)

    def test_never_readable_by_others(self) -> None:
        """Every file is created closed: there is no moment in which a key could be read."""
        created: list[tuple[int, int]] = []
        real = os.open

        def spy(path: str, flags: int, mode: int = 0o777) -> int:
            if flags & os.O_CREAT:
                created.append((flags & os.O_EXCL, mode))
            return real(path, flags, mode)

        self.patch(os, "open", spy)
        pki.create_node(self.ca, "a", Role.DMZ, NOW, 10, self.top / "out")
        pki.renew_nodes(self.ca, [self.top / "out" / "a.pem"], NOW, 10)
        self.assertEqual(created, [(os.O_EXCL, 0o600)] * 5)

    def test_folder_is_made_private(self) -> None:
        """A folder that was not there is its owner's alone."""
        self.assertEqual(self.mode(self.dir), 0o700)

    def test_node_loads(self) -> None:
        """What is issued into a folder of its own loads there as it is."""
        for name, role in (("dmz", Role.DMZ), ("node-a", Role.INTERNAL)):
            out = self.top / name
            pki.create_node(pki.load_ca(self.dir), name, role, NOW, 10, out)
            self.assertEqual(
                sorted(p.name for p in out.iterdir()),
                sorted(["ca.pem", f"{name}.key", f"{name}.pem"]),
            )
            self.assertEqual(self.load(out, name, role).name, name)

    def test_nothing_is_overwritten(self) -> None:
        """Making what is there already changes no byte of it, nor leaves half of it."""
        pki.create_node(self.ca, "a", Role.DMZ, NOW, 10, self.dir)
        (self.dir / "b.pem").write_text("mine")
        before = self.snapshot()
        for name in ("a", "b", "ca"):
            self.assertRaises(PKIError, pki.create_node, self.ca, name, Role.DMZ, NOW, 10, self.dir)
        error = self.assertRaises(PKIError, pki.create_ca, self.dir, "x", NOW, 10)
        self.assertIn("exists already", str(error))
        (self.dir / "ca.key").unlink()
        self.assertRaises(PKIError, pki.create_ca, self.dir, "x", NOW, 10)
        del before[str(self.dir / "ca.key")]
        self.assertEqual(self.snapshot(), before)

    def test_failed_write_leaves_nothing(self) -> None:
        """A disk that fills up half-way leaves no file behind."""
        before = self.snapshot()

        def full(_: int) -> None:
            raise OSError(28, "No space left on device")

        self.patch(os, "fsync", full)
        error = self.assertRaises(
            PKIError, pki.create_node, self.ca, "a", Role.DMZ, NOW, 10, self.dir
        )
        self.assertIn("No space left", str(error))
        self.assertEqual(self.snapshot(), before)

    def test_out_with_another_ca(self) -> None:
        """A node's files are not put beside a CA that would not vouch for them."""
        out = self.top / "out"
        pki.create_ca(out, "other CA", NOW, 10)
        error = self.assertRaises(PKIError, pki.create_node, self.ca, "a", Role.DMZ, NOW, 10, out)
        self.assertIn("another CA", str(error))
        self.assertFalse((out / "a.key").exists())

    def test_passphrase(self) -> None:
        """A CA's key can be encrypted, and then only its passphrase opens it."""
        folder = self.top / "safe"
        made = pki.create_ca(folder, "safe CA", NOW, 10, b"correct horse")
        self.assertIn(b"BEGIN ENCRYPTED", (folder / "ca.key").read_bytes())
        self.assertEqual(pki.load_ca(folder, b"correct horse"), made)
        for folder_, passphrase, why in (
            (folder, None, "is encrypted"),
            (folder, b"wrong", "another passphrase"),
            (self.dir, b"needless", "is not encrypted"),
        ):
            error = self.assertRaises(identity.IdentityError, pki.load_ca, folder_, passphrase)
            self.assertIn(why, str(error))

    def test_unfit_ca(self) -> None:
        """A CA whose key is open to others, or is another's, does not issue."""
        key = self.dir / "ca.key"
        key.chmod(0o640)
        self.assertRaises(identity.IdentityError, pki.load_ca, self.dir)
        key.write_bytes(pki.make_ca("x", NOW).key_pem)
        key.chmod(0o600)
        self.assertRaises(PKIError, pki.load_ca, self.dir)

    def test_renew(self) -> None:
        """Renewal keeps name, role and modes, and changes the key; expired ones too."""
        pki.create_node(self.ca, "a", Role.INTERNAL, NOW, 10, self.dir)
        (self.dir / "a.pem").chmod(0o640)
        (self.dir / "a.key").chmod(0o400)
        before = self.load(self.dir, "a", Role.INTERNAL)
        later = NOW + 20 * DAY
        [renewal] = pki.renew_nodes(self.ca, [self.dir / "a.pem"], later, 10)
        after = self.load(self.dir, "a", Role.INTERNAL, later)
        self.assertEqual((after.name, after.role), (before.name, before.role))
        self.assertEqual(after.not_after, WHOLE + 30 * DAY)
        self.assertNotEqual(after.key_pem, before.key_pem)
        self.assertEqual(after.certificate_pem, renewal.made.certificate_pem)
        self.assertFalse(renewal.new_ca)
        self.assertEqual(self.mode(self.dir / "a.pem"), 0o640)
        self.assertEqual(self.mode(self.dir / "a.key"), 0o400)
        self.assertEqual(
            sorted(p.name for p in self.dir.iterdir()), ["a.key", "a.pem", "ca.key", "ca.pem"]
        )

    def test_renew_closes_an_open_key(self) -> None:
        """A key that was open to others is replaced by one that is not."""
        pki.create_node(self.ca, "a", Role.DMZ, NOW, 10, self.dir)
        (self.dir / "a.key").chmod(0o644)
        pki.renew_nodes(self.ca, [self.dir / "a.pem"], NOW, 10)
        self.assertEqual(self.mode(self.dir / "a.key"), 0o600)

    def test_renew_keeps_links_and_owner(self) -> None:
        """Links stay links, and the new files belong to whom the old ones belonged."""
        pki.create_node(self.ca, "a", Role.DMZ, NOW, 10, self.top / "real")
        for name in ("a.pem", "a.key"):
            (self.dir / name).symlink_to(self.top / "real" / name)
        owners: list[tuple[int, int]] = []

        class OtherOwner(type(self.dir)):  # type: ignore[misc]
            """A file that belongs to someone else."""

            def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
                fields = list(super().stat(follow_symlinks=follow_symlinks))
                fields[4:6] = [4711, 4712]
                return os.stat_result(fields)

        def fchown(_: int, user: int, group: int) -> None:
            owners.append((user, group))

        self.patch(os, "fchown", fchown)
        before = (self.top / "real" / "a.pem").read_bytes()
        pki.renew_nodes(self.ca, [OtherOwner(self.dir / "a.pem")], NOW, 10)
        self.assertTrue((self.dir / "a.pem").is_symlink() and (self.dir / "a.key").is_symlink())
        self.assertNotEqual((self.top / "real" / "a.pem").read_bytes(), before)
        self.assertEqual(owners, [(4711, 4712)] * 2)

    def test_renew_all_or_none(self) -> None:
        """One file that cannot be renewed keeps all others as they were."""
        pki.create_node(self.ca, "a", Role.DMZ, NOW, 10, self.dir)
        pki.create_node(self.ca, "b", Role.DMZ, NOW, 10, self.dir)
        (self.dir / "b.key").unlink()
        before = self.snapshot()
        for other in ("b.pem", "ca.pem", "ca.key", "missing.pem"):
            self.assertRaises(
                (PKIError, identity.IdentityError),
                pki.renew_nodes,
                self.ca,
                [self.dir / "a.pem", self.dir / other],
                NOW,
                10,
            )
            self.assertEqual(self.snapshot(), before, other)

    def test_renew_order(self) -> None:
        """The key goes first, both wait on disk before, so a reader sees a pair or a misfit."""
        pki.create_node(self.ca, "a", Role.DMZ, NOW, 10, self.dir)
        replaced: list[str] = []
        real = os.replace

        def spy(source: Path, target: Path) -> None:
            if not replaced:
                self.assertEqual(len(list(self.dir.glob(".a.*"))), 2)
            replaced.append(target.name)
            real(source, target)
            if target.name == "a.key":
                self.assertRaises(identity.IdentityError, self.load, self.dir, "a", Role.DMZ)

        self.patch(os, "replace", spy)
        pki.renew_nodes(self.ca, [self.dir / "a.pem"], NOW, 10)
        self.assertEqual(replaced, ["a.key", "a.pem"])
        self.assertEqual(self.load(self.dir, "a", Role.DMZ).name, "a")


class HandshakeTests(SynchronousTestCase):
    """OpenSSL, which has the last word, accepts these certificates in their roles alone."""

    def setUp(self) -> None:
        self.now = datetime.now(UTC)
        self.ca = pki.make_ca("test CA", self.now)
        self.gate = pki.issue(self.ca, "dmz", Role.DMZ, self.now)
        self.node = pki.issue(self.ca, "node-a", Role.INTERNAL, self.now)

    def context(self, method: int, pair: pki.CertifiedKey, *cas: pki.CertifiedKey) -> SSL.Context:
        context = SSL.Context(method)
        context.set_min_proto_version(SSL.TLS1_3_VERSION)
        key = identity.parse_key("key", pair.key_pem)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        context.use_certificate(pair.certificate)
        context.use_privatekey(key)
        store = context.get_cert_store()
        assert store is not None
        store.set_flags(crypto.X509StoreFlags.X509_STRICT)
        for ca in cas or (self.ca,):
            store.add_cert(crypto.X509.from_cryptography(ca.certificate))
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT)
        return context

    def shake(self, server: SSL.Context, client: SSL.Context) -> SSL.Connection:
        """Do a whole handshake in memory. Returns the client's end; raises SSL.Error."""
        ends = [SSL.Connection(server, None), SSL.Connection(client, None)]
        ends[0].set_accept_state()
        ends[1].set_connect_state()
        waiting = list(ends)
        # Two turns are enough for TLS 1.3; more would be a handshake that goes in circles.
        for _ in range(10):
            for mine, other in (ends, ends[::-1]):
                with contextlib.suppress(SSL.WantReadError):
                    if mine in waiting:
                        mine.do_handshake()
                        waiting.remove(mine)
                with contextlib.suppress(SSL.WantReadError):
                    other.bio_write(mine.bio_read(65_536))
        self.assertEqual(waiting, [])
        return ends[1]

    def test_right_roles(self) -> None:
        """Gate as server and node as client agree on TLS 1.3, each knowing the other's name."""
        client = self.shake(
            self.context(SSL.TLS_SERVER_METHOD, self.gate),
            self.context(SSL.TLS_CLIENT_METHOD, self.node),
        )
        self.assertEqual(client.get_protocol_version_name(), "TLSv1.3")
        verify_hostname(client, "dmz")
        self.assertRaises(VerificationError, verify_hostname, client, "dmz2")

    def test_stolen_from_the_dmz(self) -> None:
        """A DMZ node's key cannot enrol as an internal node: it is no client (Lesson 22)."""
        other = pki.issue(self.ca, "node-a", Role.DMZ, self.now)
        error = self.assertRaises(
            SSL.Error,
            self.shake,
            self.context(SSL.TLS_SERVER_METHOD, self.gate),
            self.context(SSL.TLS_CLIENT_METHOD, other),
        )
        self.assertIn("certificate verify failed", str(error))

    def test_node_as_gate(self) -> None:
        """An internal node's key cannot pose as a DMZ node: it is no server."""
        other = pki.issue(self.ca, "dmz", Role.INTERNAL, self.now)
        error = self.assertRaises(
            SSL.Error,
            self.shake,
            self.context(SSL.TLS_SERVER_METHOD, other),
            self.context(SSL.TLS_CLIENT_METHOD, self.node),
        )
        self.assertIn("certificate verify failed", str(error))

    def test_other_ca(self) -> None:
        """A CA of the same name with another key vouches for nobody."""
        forged = pki.issue(pki.make_ca("test CA", self.now), "node-a", Role.INTERNAL, self.now)
        self.assertRaises(
            SSL.Error,
            self.shake,
            self.context(SSL.TLS_SERVER_METHOD, self.gate),
            self.context(SSL.TLS_CLIENT_METHOD, forged),
        )

    def test_ca_takes_over(self) -> None:
        """While both ends trust the old and the new CA, either may have been renewed first."""
        new_ca = pki.make_ca("test CA", self.now)
        both = (self.ca, new_ca)
        new_gate = pki.issue(new_ca, "dmz", Role.DMZ, self.now)
        new_node = pki.issue(new_ca, "node-a", Role.INTERNAL, self.now)
        for gate in (self.gate, new_gate):
            for node in (self.node, new_node):
                client = self.shake(
                    self.context(SSL.TLS_SERVER_METHOD, gate, *both),
                    self.context(SSL.TLS_CLIENT_METHOD, node, *both),
                )
                verify_hostname(client, "dmz")
