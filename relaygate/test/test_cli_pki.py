"""`relaygate pki`: what its actions make, print and answer as exit status."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from twisted.trial.unittest import SynchronousTestCase

from relaygate import identity, pki
from relaygate.cli import pki as command
from relaygate.identity import Role, load_identity

NOW = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
DAY = timedelta(days=1)


class CommandTests(SynchronousTestCase):
    """`relaygate pki`."""

    def setUp(self) -> None:
        self.top = Path(self.mktemp()).absolute()
        self.dir = self.top / "ca"
        self.now = NOW
        self.patch(command, "_now", lambda: self.now)

    def run_pki(self, *arguments: str | Path) -> tuple[int, str, str]:
        """Run a command: its exit status, standard output and standard error."""
        parser = argparse.ArgumentParser()
        command.add_parser(parser.add_subparsers())
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                parsed = parser.parse_args(["pki", *map(str, arguments)])
                status = parsed.func(parsed)
            except SystemExit as stop:
                assert isinstance(stop.code, int)
                status = stop.code
        return status, out.getvalue(), err.getvalue()

    def test_whole_way(self) -> None:
        """Make a CA, issue two nodes, renew one: every step says what it made and until when."""
        status, out, _ = self.run_pki("ca", "--dir", self.dir)
        self.assertEqual(status, 0)
        self.assertIn("relaygate CA 2026-11-22, valid until 2036-11-19T12:00:00Z", out)
        for name, role in (("dmz", "dmz"), ("node-a", "internal")):
            folder = self.top / name
            status, out, _ = self.run_pki(
                "issue", name, "--role", role, "--dir", self.dir, "--out", folder
            )
            self.assertEqual(status, 0)
            self.assertIn("valid until 2027-12-24T12:00:00Z", out)
            files = (folder / f"{name}.pem", folder / f"{name}.key", folder / "ca.pem")
            load_identity(*files, role=Role(role), now=NOW)
        self.now += 300 * DAY
        status, out, err = self.run_pki("renew", files[0], "--dir", self.dir, "--days", "30")
        self.assertEqual((status, err), (0, ""))
        self.assertIn("node-a, an internal node, valid until 2027-10-18", out)
        loaded = load_identity(*files, role=Role.INTERNAL, now=self.now)
        self.assertEqual(loaded.not_after, NOW + 330 * DAY)

    def test_default_folder(self) -> None:
        """Without --out a node's files stand beside the CA's."""
        self.run_pki("ca", "--dir", self.dir, "--name", "my CA", "--days", "30")
        self.assertEqual(self.run_pki("issue", "a", "--role", "dmz", "--dir", self.dir)[0], 0)
        self.assertTrue((self.dir / "a.key").exists())

    def test_nothing_twice(self) -> None:
        """Making a CA or a node again is exit status 2 and one line that names the file."""
        for arguments, file in (
            (("ca", "--dir", self.dir), "ca.key"),
            (("issue", "a", "--role", "dmz", "--dir", self.dir), "a.key"),
        ):
            self.assertEqual(self.run_pki(*arguments)[0], 0)
            status, out, err = self.run_pki(*arguments)
            self.assertEqual((status, out, err.count("\n")), (2, "", 1))
            self.assertIn(repr(str(self.dir / file)), err)

    def test_wrong_use(self) -> None:
        """Unknown roles, missing options and a missing CA are exit status 2."""
        for arguments in (
            (),
            ("issue", "a", "--dir", self.dir),
            ("issue", "a", "--role", "both", "--dir", self.dir),
            ("issue", "a", "--role", "dmz", "--dir", self.dir),
            ("ca", "--dir", self.dir, "--days", "x"),
            ("ca", "--dir", self.dir, "--days", "0"),
            ("renew", self.top / "a.pem", "--dir", self.dir),
        ):
            status, out, err = self.run_pki(*arguments)
            self.assertEqual((status, out), (2, ""), arguments)
            self.assertNotIn("Traceback", err)
            self.assertTrue(err)

    def test_passphrase_file(self) -> None:
        """A passphrase file's first line locks the CA; it must be closed and not empty."""
        secret = self.top / "secret"
        self.top.mkdir()
        secret.write_text("correct horse\nsecond line\n")
        secret.chmod(0o644)
        with_secret = ("--dir", self.dir, "--passphrase-file", secret)
        status, _, err = self.run_pki("ca", *with_secret)
        self.assertEqual(status, 2)
        self.assertIn("chmod 600", err)
        secret.chmod(0o600)
        self.assertEqual(self.run_pki("ca", *with_secret)[0], 0)
        self.assertIsInstance(
            serialization.load_pem_private_key(
                (self.dir / "ca.key").read_bytes(), b"correct horse"
            ),
            ec.EllipticCurvePrivateKey,
        )
        self.assertEqual(self.run_pki("issue", "a", "--role", "dmz", "--dir", self.dir)[0], 2)
        self.assertEqual(self.run_pki("issue", "a", "--role", "dmz", *with_secret)[0], 0)
        self.assertEqual(self.run_pki("renew", self.dir / "a.pem", *with_secret)[0], 0)
        secret.write_text("\nsecond line\n")
        self.assertEqual(self.run_pki("renew", self.dir / "a.pem", *with_secret)[0], 2)

    def test_renew_under_a_new_ca(self) -> None:
        """Renewal by another CA works, and says that every node has to know it."""
        self.run_pki("ca", "--dir", self.dir)
        self.run_pki("issue", "a", "--role", "dmz", "--dir", self.dir)
        self.run_pki("ca", "--dir", self.top / "new")
        status, _, err = self.run_pki("renew", self.dir / "a.pem", "--dir", self.top / "new")
        self.assertEqual(status, 0)
        self.assertIn("had another CA", err)

    def test_show(self) -> None:
        """Each file is said to be what it is; a key and its certificate show the same pin."""
        self.run_pki("ca", "--dir", self.dir)
        self.run_pki("issue", "a", "--role", "dmz", "--dir", self.dir)
        files = [self.dir / name for name in ("ca.pem", "a.pem", "a.key")]
        self.now += 100 * DAY + timedelta(hours=1)
        status, out, _ = self.run_pki("show", "--json", *files)
        self.assertEqual(status, 0)
        ca, node, key = json.loads(out)
        self.assertEqual(ca["kind"], "CA certificate")
        self.assertEqual(
            (node["kind"], node["name"], node["role"]), ("node certificate", "a", "dmz")
        )
        self.assertEqual((node["days_left"], node["warnings"]), (296, []))
        self.assertEqual(node["issuer"], "CN=relaygate CA 2026-11-22")
        made = x509.load_pem_x509_certificate(files[1].read_bytes())
        self.assertEqual(
            node["sha256"].replace(":", ""), made.fingerprint(hashes.SHA256()).hex().upper()
        )
        self.assertEqual(int(node["serial"], 16), made.serial_number)
        self.assertEqual(key["kind"], "private key")
        self.assertEqual(key["public_key_sha256"], node["public_key_sha256"])
        self.assertNotEqual(ca["public_key_sha256"], node["public_key_sha256"])
        status, out, _ = self.run_pki("show", *files)
        self.assertEqual(status, 0)
        self.assertIn(f"{files[1]}: node certificate\n", out)
        self.assertNotIn("PRIVATE", out)

    def test_show_what_needs_care(self) -> None:
        """Something expired, an open key, and a file that anyone may change are exit status 1."""
        self.run_pki("ca", "--dir", self.dir)
        self.run_pki("issue", "a", "--role", "dmz", "--dir", self.dir, "--days", "10")
        key, node, ca = (self.dir / name for name in ("a.key", "a.pem", "ca.pem"))
        key.chmod(0o640)
        ca.chmod(0o666)
        for path, warning in ((key, "mode 0640"), (ca, "anyone may change")):
            status, out, _ = self.run_pki("show", path)
            self.assertEqual(status, 1)
            self.assertIn(warning, out)
        self.assertEqual(self.run_pki("show", node)[0], 0)
        self.now += 11 * DAY
        status, out, _ = self.run_pki("show", node)
        self.assertEqual(status, 1)
        self.assertIn("warning: it expired at 2026-12-02T12:00:00Z", out)
        self.assertLess(json.loads(self.run_pki("show", "--json", node)[1])[0]["days_left"], 0)

    def test_show_encrypted(self) -> None:
        """An encrypted key is named as one, and no passphrase is asked for."""
        pki.create_ca(self.dir, "x", NOW, 10, b"secret")
        status, out, _ = self.run_pki("show", self.dir / "ca.key")
        self.assertEqual((status, out), (0, f"{self.dir / 'ca.key'}: encrypted private key\n"))

    def test_show_hostile_files(self) -> None:
        """What cannot be read is exit status 2, and no byte of a file moves the cursor."""
        self.top.mkdir()
        wrong = self.top / "a\n\x1b[2J\x7f.pem"
        wrong.write_bytes(b"\x1b[2J" * 100)
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name(
            [x509.NameAttribute(x509.NameOID.COMMON_NAME, "\x1b[2J\x7f\n\u202e" + "x" * 50)] * 9
        )
        builder = x509.CertificateBuilder(name, name, key.public_key(), 7, NOW - DAY, NOW + DAY)
        odd = self.top / "odd.pem"
        odd.write_bytes(identity.certificate_to_pem(builder.sign(key, hashes.SHA256())))
        for flags in ((), ("--json",)):
            status, out, err = self.run_pki("show", *flags, wrong, odd, self.top)
            self.assertEqual(status, 2)
            self.assertIn("certificate, not a node's", out)
            for character in out + err:
                self.assertTrue(character.isprintable() or character == "\n", repr(character))
        self.assertIn("is a directory", json.loads(out)[2]["error"])
        self.assertLess(max(map(len, self.run_pki("show", odd)[1].splitlines())), 2000)
