"""Making the deployment's own CA and its nodes' certificates, in memory and as files.

All certificates are X.509 v3 with ECDSA P-256 and SHA-256. A CA signs nodes and no other CA. A
node's certificate carries its name and one role (see `identity`) and never outlives its CA.

Every function takes the time as an aware `now`. Raises PKIError for what cannot be made, and
IdentityError for a file that is there but cannot be used.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from relaygate import identity
from relaygate.identity import Role, file_label

CA_DAYS = 3650
NODE_DAYS = 397
"""A year and a month, so that a yearly renewal has time to spare."""

MAX_DAYS = 36_500

CLOCK_SKEW = timedelta(minutes=5)
"""Certificates are valid from this long before they were made: clocks differ."""

MAX_CA_NAME_BYTES = 64
"""A common name's upper bound (RFC 5280, appendix A, ub-common-name), counted in UTF-8."""


class PKIError(Exception):
    """Something cannot be made or written. One line that says why."""


@dataclass(frozen=True)
class CertifiedKey:
    """A certificate and its private key. In memory the key is not encrypted (PKCS8)."""

    certificate_pem: bytes
    key_pem: bytes = field(repr=False)

    @property
    def certificate(self) -> x509.Certificate:
        """The certificate, decoded."""
        return x509.load_pem_x509_certificate(self.certificate_pem)


@dataclass(frozen=True)
class Renewal:
    """One renewed certificate."""

    path: Path
    name: str
    role: Role
    made: CertifiedKey
    new_ca: bool
    """Whether the certificate before was issued by another CA."""


def make_ca(name: str, now: datetime, days: int = CA_DAYS) -> CertifiedKey:
    """A new CA in memory. `name` is its common name, printable, 1 to 64 bytes of UTF-8.

    Raises PKIError for another name or a number of days beyond 1 to MAX_DAYS.
    """
    if not (name.isprintable() and 0 < len(name.encode()) <= MAX_CA_NAME_BYTES):
        raise PKIError(f"a CA's name is printable, 1 to 64 bytes long, not {name[:80]!r}")
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _common_name(name)
    builder = (
        _builder(subject, subject, key.public_key(), key.public_key())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + _days(days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(certificates=True), critical=True)
    )
    certificate = builder.sign(key, hashes.SHA256())
    return CertifiedKey(identity.certificate_to_pem(certificate), identity.key_to_pem(key))


def issue(
    ca: CertifiedKey, name: str, role: Role, now: datetime, days: int = NODE_DAYS
) -> CertifiedKey:
    """A new key and certificate in memory for the node `name`, at longest to the CA's own end.

    Raises PKIError, and IdentityError where the CA has ended.
    """
    if not identity.is_node_name(name):
        raise PKIError(
            f"{name[:80]!r} is no node name: lower-case letters, digits, inner hyphens and dots,"
            " at most 63 characters, not digits alone"
        )
    issuer = ca.certificate
    identity.check_dates("the CA", issuer, now, cure="make a new one")
    ca_key = identity.parse_key("the CA's key", ca.key_pem)
    if not isinstance(ca_key, ec.EllipticCurvePrivateKey):
        raise PKIError("the CA's key is not an elliptic curve key: use a CA made by relaygate")
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        _builder(_common_name(name), issuer.subject, key.public_key(), ca_key.public_key())
        .not_valid_before(max(now - CLOCK_SKEW, issuer.not_valid_before_utc))
        .not_valid_after(min(now + _days(days), issuer.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([identity.ROLE_USAGE[role]]), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    )
    certificate = builder.sign(ca_key, hashes.SHA256())
    return CertifiedKey(identity.certificate_to_pem(certificate), identity.key_to_pem(key))


def create_ca(
    directory: Path, name: str, now: datetime, days: int, passphrase: bytes | None = None
) -> CertifiedKey:
    """Make a CA as `ca.pem` and `ca.key` in a directory, which is made if it is not there.

    The key is encrypted if there is a passphrase. Files that exist are never overwritten.
    """
    ca = make_ca(name, now, days)
    key_pem = ca.key_pem
    if passphrase is not None:
        key_pem = identity.key_to_pem(identity.parse_key("the new key", key_pem), passphrase)
    _create_all(directory, [("ca.key", key_pem, 0o600), ("ca.pem", ca.certificate_pem, 0o644)])
    return ca


def load_ca(directory: Path, passphrase: bytes | None = None) -> CertifiedKey:
    """The CA in a directory, as `create_ca` left it.

    Raises PKIError, and IdentityError where its files cannot be used.
    """
    certificate_label = file_label("CA", directory / "ca.pem")
    key_label = file_label("CA key", directory / "ca.key")
    roots = identity.read_cas(certificate_label, directory / "ca.pem")
    if len(roots) != 1:
        raise PKIError(f"{certificate_label} holds {len(roots)} CAs: one can issue")
    key = identity.parse_key(
        key_label, identity.read_secret(key_label, directory / "ca.key"), passphrase
    )
    if not identity.key_fits(key, roots[0]):
        raise PKIError(f"{key_label} does not belong to {certificate_label}")
    return CertifiedKey(identity.certificate_to_pem(roots[0]), identity.key_to_pem(key))


def create_node(
    ca: CertifiedKey, name: str, role: Role, now: datetime, days: int, out: Path
) -> CertifiedKey:
    """Issue to `NAME.pem` and `NAME.key` in a directory, and put `ca.pem` beside them.

    Files that exist are never overwritten; a `ca.pem` that has this CA in it stays as it is.
    Raises PKIError, and as `issue` does.
    """
    if name == "ca":
        raise PKIError("a node cannot be named 'ca': its files would be the CA's")
    made = issue(ca, name, role, now, days)
    files = [(f"{name}.key", made.key_pem, 0o600), (f"{name}.pem", made.certificate_pem, 0o644)]
    beside = out / "ca.pem"
    if os.path.lexists(beside):
        if ca.certificate not in identity.read_cas(file_label("CA", beside), beside):
            raise PKIError(f"{file_label('CA', beside)} is another CA: choose another directory")
    else:
        files.append(("ca.pem", ca.certificate_pem, 0o644))
    _create_all(out, files)
    return made


def renew_nodes(
    ca: CertifiedKey, certificates: Sequence[Path], now: datetime, days: int
) -> list[Renewal]:
    """Replace each `X.pem` and its `X.key` by new ones for the same name and role.

    All of them are made and on disk before the first is replaced, so that whatever is wrong
    leaves everything as it was. Owner and mode are kept, except that a key is closed to group
    and others. The key is replaced first, then the certificate: a node that reads the pair
    between the two sees that they do not fit and keeps what it has.
    """
    renewals = [_renewal(ca, path, now, days) for path in dict.fromkeys(certificates)]
    staged: list[tuple[Path, Path]] = []
    with _file_errors():
        try:
            for renewal in renewals:
                # A symbolic link stays; what it leads to is replaced.
                key_path = renewal.path.with_suffix(".key").resolve(strict=True)
                path = renewal.path.resolve(strict=True)
                _stage(staged, key_path, renewal.made.key_pem, 0o600)
                _stage(staged, path, renewal.made.certificate_pem, 0o777)
            for temporary, final in staged:
                os.replace(temporary, final)
        finally:
            for temporary, _ in staged:
                temporary.unlink(missing_ok=True)
        for directory in {final.parent for _, final in staged}:
            _sync_directory(directory)
    return renewals


def _renewal(ca: CertifiedKey, path: Path, now: datetime, days: int) -> Renewal:
    what = file_label("certificate", path)
    if path.suffix != ".pem":
        raise PKIError(f"{what} does not end in .pem: its key is looked for as .key beside it")
    old = identity.read_certificate(what, path)
    name, role = identity.node_name(what, old), identity.node_role(what, old)
    made = issue(ca, name, role, now, days)
    return Renewal(path, name, role, made, not identity.is_issued_by(old, ca.certificate))


def _common_name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _days(days: int) -> timedelta:
    if not 1 <= days <= MAX_DAYS:
        raise PKIError(f"days must be 1 to {MAX_DAYS}, not {days}")
    return timedelta(days=days)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    issuer_key: ec.EllipticCurvePublicKey,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key), critical=False
        )
    )


def _key_usage(*, certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not certificates,
        key_cert_sign=certificates,
        crl_sign=certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _create_all(directory: Path, files: Sequence[tuple[str, bytes, int]]) -> None:
    """Create files (name, content, mode) that must not exist yet: all of them, or none."""
    made: list[Path] = []
    with _file_errors():
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            for name, content, mode in files:
                path = directory / name
                descriptor = _open_new(path)
                made.append(path)
                _write(descriptor, content, mode)
        except BaseException:
            for path in made:
                path.unlink(missing_ok=True)
            raise
        _sync_directory(directory)


def _stage(staged: list[tuple[Path, Path]], final: Path, content: bytes, mask: int) -> None:
    """Write what will replace `final`, under a name beside it, with its owner and mode."""
    before = final.stat()
    temporary = final.with_name(f".{final.name}.{secrets.token_hex(8)}")
    descriptor = _open_new(temporary)
    staged.append((temporary, final))
    owner = (before.st_uid, before.st_gid)
    _write(descriptor, content, stat.S_IMODE(before.st_mode) & mask, owner)


def _open_new(path: Path) -> int:
    """Create a file that must not exist; from its first moment it is its owner's alone."""
    return os.open(os.fspath(path), os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600)


def _write(
    descriptor: int, content: bytes, mode: int, owner: tuple[int, int] | None = None
) -> None:
    """Write a new file, set its owner and mode whatever the umask, and wait for the disk."""
    with open(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        status = os.fstat(descriptor)
        if owner is not None and owner != (status.st_uid, status.st_gid):
            os.fchown(descriptor, *owner)
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(os.fspath(directory), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _file_errors() -> Iterator[None]:
    """Turn what the file system refuses into one line."""
    try:
        yield
    except FileExistsError as error:
        raise PKIError(
            f"{os.fspath(error.filename)!r} exists already; nothing is overwritten"
        ) from error
    except OSError as error:
        where = "" if error.filename is None else f"{os.fspath(error.filename)!r}: "
        raise PKIError(f"{where}{error.strerror}") from error
