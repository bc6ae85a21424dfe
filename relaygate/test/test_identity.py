"""Loading a node's identity: what is accepted, and one clear line for all that is not."""

from __future__ import annotations

import base64
import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID as Usage
from cryptography.x509.oid import NameOID
from twisted.trial.unittest import SynchronousTestCase

from relaygate import identity, pki
from relaygate.identity import Identity, IdentityError, Role, load_identity
from relaygate.test.properties import given, settings, st

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)
CA = pki.make_ca("test CA", NOW, 100)
NODE = pki.issue(CA, "node-a", Role.INTERNAL, NOW, 10)
GATE = pki.issue(CA, "dmz", Role.DMZ, NOW, 10)


def odd_certificate(
    names: Sequence[x509.GeneralName] | None = (x509.DNSName("node-a"),),
    usages: Sequence[x509.ObjectIdentifier] | None = (Usage.CLIENT_AUTH,),
    *,
    is_ca: bool = False,
) -> pki.CertifiedKey:
    """A certificate by CA that `pki.issue` would not make."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "odd")]))
        .issuer_name(CA.certificate.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + DAY)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
    )
    if names is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if usages is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    ca_key = identity.parse_key("key", CA.key_pem)
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    certificate = builder.sign(ca_key, hashes.SHA256())
    return pki.CertifiedKey(identity.certificate_to_pem(certificate), identity.key_to_pem(key))


class Files(SynchronousTestCase):
    """A folder with the three files of a node."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.certificate = self.folder / "node.pem"
        self.key = self.folder / "node.key"
        self.ca = self.folder / "ca.pem"
        self.put(NODE)
        self.ca.write_bytes(CA.certificate_pem)

    def put(self, pair: pki.CertifiedKey) -> None:
        self.certificate.write_bytes(pair.certificate_pem)
        self.key.write_bytes(pair.key_pem)
        self.key.chmod(0o600)

    def load(self, role: Role = Role.INTERNAL, now: datetime = NOW) -> Identity:
        return load_identity(self.certificate, self.key, self.ca, role=role, now=now)

    def assert_refused(
        self, *parts: str | Path, role: Role = Role.INTERNAL, now: datetime = NOW
    ) -> None:
        """Loading fails with one printable line that has all these parts."""
        message = str(self.assertRaises(IdentityError, self.load, role, now))
        self.assertTrue(message.isprintable(), repr(message))
        for part in parts:
            self.assertIn(str(part), message)


class AcceptedTests(Files):
    """What loads."""

    def test_internal_node(self) -> None:
        """A node's name, role and end come from its certificate."""
        loaded = self.load()
        self.assertEqual((loaded.name, loaded.role), ("node-a", Role.INTERNAL))
        self.assertEqual(loaded.not_after, NOW + 10 * DAY)
        self.assertEqual(loaded.certificate_pem, NODE.certificate_pem)
        self.assertEqual(loaded.key_pem, NODE.key_pem)
        self.assertEqual(loaded.ca_pem, CA.certificate_pem)

    def test_dmz_node(self) -> None:
        """A DMZ node's certificate loads as one."""
        self.put(GATE)
        self.assertEqual(self.load(Role.DMZ).role, Role.DMZ)

    def test_no_pem_in_repr(self) -> None:
        """An identity that ends up in a log shows neither key nor certificate."""
        shown = repr(self.load())
        self.assertIn("node-a", shown)
        self.assertNotIn("PEM", shown.upper())
        self.assertNotIn("BEGIN", shown)

    def test_symbolic_links(self) -> None:
        """Links are followed, and the mode that counts is that of the file they lead to."""
        target = self.folder / "elsewhere"
        self.key.rename(target)
        self.key.symlink_to(target)
        self.assertEqual(self.load().name, "node-a")
        target.chmod(0o640)
        self.assert_refused(self.key, "chmod 600")

    def test_owner_may_read_only(self) -> None:
        """A key of mode 400 is as good as one of mode 600."""
        self.key.chmod(0o400)
        self.assertEqual(self.load().name, "node-a")

    def test_traditional_key_with_parameters(self) -> None:
        """The older OpenSSL form of a key loads, and is handed on as PKCS8."""
        key = identity.parse_key("key", NODE.key_pem)
        old = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
        self.assertIn(b"EC PRIVATE KEY", old)
        self.key.write_bytes(old)
        self.assertEqual(self.load().key_pem, NODE.key_pem)

    def test_two_cas_while_one_takes_over(self) -> None:
        """A CA file may hold the old and the new CA; the end is the issuing CA's concern."""
        other = pki.make_ca("other CA", NOW, 2)
        self.ca.write_bytes(other.certificate_pem + CA.certificate_pem)
        loaded = self.load()
        self.assertEqual(loaded.ca_pem, other.certificate_pem + CA.certificate_pem)
        self.assertEqual(loaded.not_after, NOW + 10 * DAY)
        self.assertEqual(self.load(now=NOW + 3 * DAY).name, "node-a")

    def test_last_second(self) -> None:
        """A certificate is valid up to and with its last second (RFC 5280, 4.1.2.5)."""
        self.assertEqual(self.load(now=NOW + 10 * DAY).name, "node-a")
        self.assert_refused("expired", now=NOW + 10 * DAY + timedelta(seconds=1))


class RefusedFileTests(Files):
    """Files that cannot be read as what they should be."""

    def test_missing(self) -> None:
        """Each of the three files is named when it is not there."""
        for path in (self.certificate, self.key, self.ca):
            moved = path.with_suffix(".away")
            path.rename(moved)
            self.assert_refused(path, "does not exist")
            moved.rename(path)

    def test_not_a_file(self) -> None:
        """A directory and a FIFO are refused at once; a FIFO does not hold up the start."""
        for path in (self.certificate, self.key, self.ca):
            content = path.read_bytes()
            path.unlink()
            path.mkdir()
            self.assert_refused(path, "is a directory")
            path.rmdir()
            os.mkfifo(path, 0o600)
            self.assert_refused(path, "not a regular file")
            path.unlink()
            path.write_bytes(content)
            path.chmod(0o600)

    def test_unreadable(self) -> None:
        """What the system refuses to open is one line with the system's reason."""
        self.certificate.unlink()
        self.certificate.symlink_to(self.certificate)
        self.assert_refused(self.certificate, "cannot be read")

    def test_permission_denied(self) -> None:
        """A file of another user is one line that says who needs it."""

        def denied(*_: object) -> int:
            raise PermissionError(13, "Permission denied")

        self.patch(os, "open", denied)
        self.assert_refused(self.certificate, "Permission denied", "user who runs this")

    def test_nul_in_path(self) -> None:
        """A path that no file can have is refused like any other."""
        self.certificate = Path("node\0.pem")
        self.assert_refused("node\\x00.pem", "NUL")

    def test_too_large(self) -> None:
        """No more than 64 KiB of a file is read."""
        for path in (self.certificate, self.key, self.ca):
            content = path.read_bytes()
            path.write_bytes(content + b"\n" * identity.MAX_FILE_BYTES)
            self.assert_refused(path, "larger than 64 KiB")
            path.write_bytes(content)

    def test_not_pem(self) -> None:
        """Empty files and other files are told from damaged PEM."""
        for path, kind in (
            (self.certificate, "no PEM certificate"),
            (self.key, "no PEM private key"),
            (self.ca, "no PEM certificate"),
        ):
            content = path.read_bytes()
            for wrong in (b"", b"\x00\x01\x02", b"hello"):
                path.write_bytes(wrong)
                self.assert_refused(path, kind)
            path.write_bytes(content[: len(content) // 2])
            self.assert_refused(path, "is damaged")
            path.write_bytes(content)

    def test_control_characters_in_path(self) -> None:
        """A path with a line feed and an escape sequence cannot forge a line (Requirement 90)."""
        self.certificate = self.folder / "node\n\x1b[31m\u202e.pem"
        self.assert_refused("node\\n\\x1b[31m\\u202e.pem")


class RefusedKeyTests(Files):
    """Keys that must not be used."""

    def test_open_to_others(self) -> None:
        """Any permission for group or others is refused, and the message has the cure."""
        for bit in (0o040, 0o020, 0o010, 0o004, 0o002, 0o001):
            self.key.chmod(0o600 | bit)
            self.assert_refused(f"chmod 600 {str(self.key)!r}", f"mode {0o600 | bit:04o}")

    def test_encrypted(self) -> None:
        """An encrypted key is refused: a node starts with nobody there to type."""
        key = identity.parse_key("key", NODE.key_pem)
        self.key.write_bytes(identity.key_to_pem(key, b"secret"))
        self.assert_refused(self.key, "is encrypted")

    def test_of_another_certificate(self) -> None:
        """A key that is not the certificate's names both files."""
        self.key.write_bytes(GATE.key_pem)
        self.assert_refused(self.key, self.certificate, "does not belong")

    def test_in_a_public_file(self) -> None:
        """A private key in the certificate's or the CA's file is refused."""
        for path in (self.certificate, self.ca):
            content = path.read_bytes()
            path.write_bytes(content + CA.key_pem)
            self.assert_refused(path, "holds a private key")
            path.write_bytes(content)


class RefusedCertificateTests(Files):
    """Certificates that name nobody, or the wrong one."""

    def test_dates(self) -> None:
        """Expired and not yet valid are told apart, with the moment."""
        self.assert_refused(
            self.certificate,
            "expired at 2026-12-02T12:00:00Z",
            "relaygate pki renew",
            now=NOW + 11 * DAY,
        )
        self.assert_refused(
            self.certificate, "not valid before", "clock", now=NOW - timedelta(minutes=6)
        )

    def test_other_role(self) -> None:
        """A node refuses a certificate of the other role, both ways."""
        self.assert_refused(
            self.certificate, "for an internal node, this is a DMZ node", role=Role.DMZ
        )
        self.put(GATE)
        self.assert_refused(self.certificate, "for a DMZ node, this is an internal node")

    def test_no_single_role(self) -> None:
        """Both usages, none, any, or none stated is no role."""
        for usages in (
            (Usage.CLIENT_AUTH, Usage.SERVER_AUTH),
            (Usage.CLIENT_AUTH, Usage.CODE_SIGNING),
            (Usage.ANY_EXTENDED_KEY_USAGE,),
            None,
        ):
            self.put(odd_certificate(usages=usages))
            self.assert_refused(self.certificate, "has no role")

    def test_names(self) -> None:
        """A certificate names one node by one DNS name and nothing else."""
        mail = x509.RFC822Name("a@example.com")
        for names in (
            None,
            (x509.DNSName("node-a"), x509.DNSName("node-b")),
            (x509.DNSName("node-a"), mail),
            (mail,),
        ):
            self.put(odd_certificate(names))
            self.assert_refused(self.certificate, "must have one alternative name")

    def test_bad_names(self) -> None:
        """A name that no configuration can hold is refused, control bytes escaped."""
        for name in ("Node-a", "*.example", "node\n[31m", "a" * 64, "10.0.0.1"):
            self.put(odd_certificate((x509.DNSName(name),)))
            self.assert_refused(self.certificate, repr(name))

    def test_ca_as_node(self) -> None:
        """A CA's certificate, and a node's that could issue, are no node's."""
        for pair in (CA, odd_certificate(is_ca=True)):
            self.put(pair)
            self.assert_refused(self.certificate, "is a CA's")

    def test_several(self) -> None:
        """A certificate file holds the node's certificate alone."""
        self.certificate.write_bytes(NODE.certificate_pem + CA.certificate_pem)
        self.assert_refused(self.certificate, "holds 2 certificates")


class RefusedCATests(Files):
    """CAs that do not vouch for the certificate."""

    def test_other_ca(self) -> None:
        """Another CA is refused, even one that has the same name."""
        for name in ("test CA", "other CA"):
            self.ca.write_bytes(pki.make_ca(name, NOW, 100).certificate_pem)
            self.assert_refused(self.certificate, self.ca, "was not issued by")

    def test_expired(self) -> None:
        """A CA ends with all that it issued, whatever the certificate says."""
        ca = pki.make_ca("test CA", NOW - 3 * DAY, 2)
        key = identity.parse_key("key", ca.key_pem)
        longer = pki.CertifiedKey(_with_dates(ca, 9 * DAY), identity.key_to_pem(key))
        self.put(pki.issue(longer, "node-a", Role.INTERNAL, NOW, 5))
        self.ca.write_bytes(ca.certificate_pem)
        self.assert_refused(self.ca, "expired at 2026-11-21T12:00:00Z")

    def test_node_certificate_as_ca(self) -> None:
        """A certificate without basicConstraints CA vouches for nobody."""
        self.ca.write_bytes(GATE.certificate_pem)
        self.assert_refused(self.ca, "not a CA's")

    def test_intermediate(self) -> None:
        """A CA that another CA signed is refused: there is one root and no chain."""
        self.ca.write_bytes(odd_certificate(is_ca=True).certificate_pem)
        self.assert_refused(self.ca, "another CA signed")

    def test_too_many(self) -> None:
        """A system's bundle of CAs is not a deployment's own CA."""
        self.ca.write_bytes(CA.certificate_pem * (identity.MAX_CAS + 1))
        self.assert_refused(self.ca, "holds 9 certificates")


def _with_dates(ca: pki.CertifiedKey, later: timedelta) -> bytes:
    """The same CA, valid for longer."""
    old = ca.certificate
    key = identity.parse_key("key", ca.key_pem)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    builder = (
        x509.CertificateBuilder()
        .subject_name(old.subject)
        .issuer_name(old.subject)
        .public_key(old.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(old.not_valid_before_utc)
        .not_valid_after(old.not_valid_after_utc + later)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    )
    return identity.certificate_to_pem(builder.sign(key, hashes.SHA256()))


class NameTests(SynchronousTestCase):
    """What a node may be called."""

    def test_good(self) -> None:
        """Single labels and dotted names up to 63 characters are names."""
        for name in ("a", "node-a", "dmz1.example", "1a", "7.example", "a" * 63, "xn--bcher-kva"):
            self.assertTrue(identity.is_node_name(name), name)

    def test_bad(self) -> None:
        """Anything that is no lower-case DNS name, or reads as an address, is none."""
        for name in (
            *("", ".", "a.", ".a", "a..b", "-a", "a-", "A", "ä", "a b", "a_b", "*", "a\n"),
            *("a" * 64, "42", "10.0.0.1", "a.1", "::1", "a/b", "..", "\u0661"),
        ):
            self.assertFalse(identity.is_node_name(name), name)


class PropertyTests(SynchronousTestCase):
    """Whatever stands in a file, only IdentityError comes out."""

    @settings(deadline=None)
    @given(st.binary(max_size=400))
    def test_any_bytes(self, data: bytes) -> None:
        """Any bytes inside PEM armour load or raise IdentityError, nothing else."""
        body = base64.encodebytes(data)
        for parse, kind in (
            (identity.parse_certificates, b"CERTIFICATE"),
            (identity.parse_key, b"PRIVATE KEY"),
            (identity.parse_key, b"EC PRIVATE KEY"),
        ):
            for text in (
                data,
                b"-----BEGIN %b-----\n%b-----END %b-----\n" % (kind, body, kind),
                b"-----BEGIN %b-----\n%b-----END %b-----\n" % (kind, data, kind),
            ):
                self.assertRaises(IdentityError, parse, "file 'x'", text)

    @settings(max_examples=400, deadline=None)
    @given(st.data())
    def test_damaged_certificate(self, data: st.DataObject) -> None:
        """A certificate with bytes changed gives a name and role, or raises IdentityError."""
        der = bytearray(NODE.certificate.public_bytes(serialization.Encoding.DER))
        changes = st.dictionaries(st.integers(0, len(der) - 1), st.integers(0, 255), min_size=1)
        for place, value in data.draw(changes).items():
            der[place] = value
        pem = b"-----BEGIN CERTIFICATE-----\n%b-----END CERTIFICATE-----\n"
        try:
            [changed] = identity.parse_certificates("x", pem % base64.encodebytes(bytes(der)))
            identity.node_role("x", changed)
            self.assertTrue(identity.is_node_name(identity.node_name("x", changed)))
            identity.check_dates("x", changed, NOW, cure="y")
            if changed != NODE.certificate:
                self.assertFalse(identity.is_issued_by(changed, CA.certificate))
        except IdentityError as error:
            self.assertTrue(str(error).isprintable())
