"""Who a node is: its certificate, its key and the CA it trusts, read and checked together.

The certificate names the node (one DNS name) and gives it one of two roles. The role is the
extended key usage (RFC 5280, 4.2.1.12): serverAuth for a DMZ node, clientAuth for an internal
node, never both. OpenSSL asks for the same usages in a handshake, so a key that was stolen from
the DMZ cannot dial in as an internal node.

Every check here ends in one line for the operator: the file, what is wrong, and the cure.
"""

from __future__ import annotations

import enum
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID

MAX_FILE_BYTES = 65_536
"""A PEM certificate or key has 1 to 3 KiB, and a CA file holds few: more is some other file."""

MAX_CAS = 8
"""Two are needed while one CA takes over from another; the rest is room."""

MAX_NAME_LENGTH = 63
"""Fits a common name (64 characters, RFC 5280 appendix A) and every field that carries it."""

# RFC 1123, 2.1: letters, digits and inner hyphens. Lower case only, so that equal names are
# equal strings.
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")

ExtensionT = TypeVar("ExtensionT", bound=x509.ExtensionType)


class IdentityError(Exception):
    """A certificate, key or CA cannot be used. One line: which file, what is wrong, the cure."""


class Role(enum.Enum):
    """What a node may be."""

    DMZ = "dmz"
    INTERNAL = "internal"

    @property
    def phrase(self) -> str:
        """The role with its article, for messages."""
        return "a DMZ node" if self is Role.DMZ else "an internal node"


ROLE_USAGE: Mapping[Role, x509.ObjectIdentifier] = {
    Role.DMZ: ExtendedKeyUsageOID.SERVER_AUTH,
    Role.INTERNAL: ExtendedKeyUsageOID.CLIENT_AUTH,
}


@dataclass(frozen=True)
class Identity:
    """A node's checked identity. The PEM fields are written anew from what was checked."""

    name: str
    """The one DNS name of the certificate."""
    role: Role
    not_after: datetime
    """UTC, aware: the end of the certificate or of its CA, whichever comes first."""
    certificate_pem: bytes = field(repr=False)
    """One certificate."""
    key_pem: bytes = field(repr=False)
    """The private key, PKCS8, not encrypted."""
    ca_pem: bytes = field(repr=False)
    """1 to 8 CA certificates, each a root."""


def load_identity(certificate: Path, key: Path, ca: Path, *, role: Role, now: datetime) -> Identity:
    """Read the three files and check that they make a node of this role.

    `now` is aware. Raises IdentityError on the first thing that is wrong.
    """
    certificate_label = file_label("certificate", certificate)
    key_label = file_label("key", key)
    ca_label = file_label("CA", ca)

    node = read_certificate(certificate_label, certificate)
    name = node_name(certificate_label, node)
    found = node_role(certificate_label, node)
    if found is not role:
        raise IdentityError(
            f"{certificate_label} is a certificate for {found.phrase}, this is {role.phrase}:"
            f" issue one with --role {role.value}"
        )
    check_dates(certificate_label, node, now, cure="renew it with 'relaygate pki renew'")

    private_key = parse_key(key_label, read_secret(key_label, key))
    if not key_fits(private_key, node):
        raise IdentityError(
            f"{key_label} does not belong to {certificate_label}: take the pair that was made"
            " together"
        )

    roots = read_cas(ca_label, ca)
    issuers = [root for root in roots if is_issued_by(node, root)]
    if not issuers:
        raise IdentityError(
            f"{certificate_label} was not issued by {ca_label}: take the ca.pem of the CA that"
            " issued it, or issue it again"
        )
    issuer = max(issuers, key=lambda root: root.not_valid_after_utc)
    check_dates(ca_label, issuer, now, cure="make a new CA and new certificates")

    return Identity(
        name=name,
        role=role,
        not_after=min(node.not_valid_after_utc, issuer.not_valid_after_utc),
        certificate_pem=certificate_to_pem(node),
        key_pem=key_to_pem(private_key),
        ca_pem=b"".join(certificate_to_pem(root) for root in roots),
    )


def is_node_name(text: str) -> bool:
    """Whether text may name a node: lower-case DNS labels, 63 characters in all.

    A last label of digits alone is refused: such a name reads as an IP address, and
    service-identity does not match it as a DNS name.
    """
    labels = text.split(".")
    return (
        len(text) <= MAX_NAME_LENGTH
        and all(_LABEL.fullmatch(part) for part in labels)
        and not labels[-1].isdigit()
    )


def file_label(kind: str, path: Path) -> str:
    """A file's name for messages, with control characters escaped."""
    return f"{kind} {os.fspath(path)!r}"


def read_file(label: str, path: Path) -> tuple[bytes, int]:
    """A small regular file's content and its permission bits. Raises IdentityError.

    The bits are those of the file that was read, not of whatever bears the name a moment later.
    """
    try:
        # Non-blocking: a FIFO in the place of a file must not hold up the start for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        try:
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                kind = "a directory" if stat.S_ISDIR(mode) else "not a regular file"
                raise IdentityError(f"{label} is {kind}: name a PEM file")
            with open(descriptor, "rb", closefd=False) as file:
                data = file.read(MAX_FILE_BYTES + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError as error:
        raise IdentityError(
            f"{label} does not exist: check the path, or make the file with 'relaygate pki'"
        ) from error
    except PermissionError as error:
        raise IdentityError(
            f"{label} cannot be read: {error.strerror}; give it to the user who runs this"
        ) from error
    except OSError as error:
        raise IdentityError(f"{label} cannot be read: {error.strerror}; check the path") from error
    except ValueError as error:
        raise IdentityError(f"{label} cannot be read: the path holds a NUL byte") from error
    if len(data) > MAX_FILE_BYTES:
        raise IdentityError(f"{label} is larger than 64 KiB: name a PEM file")
    return data, stat.S_IMODE(mode)


def read_secret(label: str, path: Path) -> bytes:
    """The content of a file that nobody but its owner may touch. Raises IdentityError."""
    data, mode = read_file(label, path)
    if mode & 0o077:
        raise IdentityError(
            f"{label} is open to group or others (mode {mode:04o}): run"
            f" chmod 600 {os.fspath(path)!r}"
        )
    return data


def read_certificate(label: str, path: Path) -> x509.Certificate:
    """The one certificate in a file. Raises IdentityError."""
    certificates = parse_certificates(label, read_file(label, path)[0])
    if len(certificates) != 1:
        raise IdentityError(
            f"{label} holds {len(certificates)} certificates: keep the node's alone in it"
        )
    return certificates[0]


def read_cas(label: str, path: Path) -> list[x509.Certificate]:
    """The 1 to 8 CA certificates in a file, each checked to be a root. Raises IdentityError."""
    roots = parse_certificates(label, read_file(label, path)[0])
    if len(roots) > MAX_CAS:
        raise IdentityError(
            f"{label} holds {len(roots)} certificates, at most {MAX_CAS} may be: keep the"
            " deployment's own CA alone in it"
        )
    for root in roots:
        if not is_ca(label, root):
            raise IdentityError(
                f"{label} holds a certificate that is not a CA's (no basicConstraints CA):"
                " take the ca.pem that 'relaygate pki ca' made"
            )
        # OpenSSL ends a chain at a root alone; anything less would fail in each handshake.
        if not is_issued_by(root, root):
            raise IdentityError(
                f"{label} holds a CA that another CA signed: name the root that signs itself"
            )
    return roots


def parse_certificates(label: str, data: bytes) -> list[x509.Certificate]:
    """The certificates of a PEM file, at least one. Raises IdentityError."""
    # A certificate file is public and travels: a key in it has gone too far already.
    if b"PRIVATE KEY-----" in data:
        raise IdentityError(f"{label} holds a private key: keep keys in files of their own")
    if b"-----BEGIN CERTIFICATE-----" not in data:
        raise IdentityError(f"{label} holds no PEM certificate: name a PEM file")
    with _decoding(label):
        certificates = x509.load_pem_x509_certificates(data)
        for certificate in certificates:
            # These are decoded when first asked for: have them fail here.
            certificate.public_key()
            _ = certificate.extensions, certificate.subject, certificate.issuer
            _ = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        return certificates


def parse_key(label: str, data: bytes, passphrase: bytes | None = None) -> PrivateKeyTypes:
    """The private key of a PEM file. Raises IdentityError."""
    if b"PRIVATE KEY-----" not in data:
        raise IdentityError(f"{label} holds no PEM private key: name the key file")
    try:
        return serialization.load_pem_private_key(data, passphrase)
    except TypeError as error:
        if passphrase is None:
            raise IdentityError(
                f"{label} is encrypted: a CA's key needs its --passphrase-file, a node's is kept"
                " unencrypted with mode 600"
            ) from error
        raise IdentityError(f"{label} is not encrypted: leave the passphrase file out") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        wrong = "is damaged" if passphrase is None else "is damaged or has another passphrase"
        raise IdentityError(f"{label} {wrong}: put the right file there") from error


def is_ca(label: str, certificate: x509.Certificate) -> bool:
    """Whether a certificate says that it is a CA's (RFC 5280, 4.2.1.9). Raises IdentityError."""
    constraints = _extension(label, certificate, x509.BasicConstraints)
    return constraints is not None and constraints.ca


def node_name(label: str, certificate: x509.Certificate) -> str:
    """The node that a certificate names (RFC 5280, 4.2.1.6). Raises IdentityError."""
    if is_ca(label, certificate):
        raise IdentityError(f"{label} is a CA's: name the node's certificate")
    names = list(_extension(label, certificate, x509.SubjectAlternativeName) or ())
    dns = [name.value for name in names if isinstance(name, x509.DNSName)]
    if len(names) != 1 or len(dns) != 1:
        raise IdentityError(
            f"{label} must have one alternative name, a DNS name, but has {len(names)} with"
            f" {len(dns)} DNS names: issue it with 'relaygate pki issue'"
        )
    if not is_node_name(dns[0]):
        raise IdentityError(
            f"{label} has the name {dns[0][:80]!r}: a node's name is a lower-case DNS name of at"
            f" most {MAX_NAME_LENGTH} characters"
        )
    return dns[0]


def node_role(label: str, certificate: x509.Certificate) -> Role:
    """The role that a certificate gives. Raises IdentityError."""
    usages = list(_extension(label, certificate, x509.ExtendedKeyUsage) or ())
    for role, usage in ROLE_USAGE.items():
        if usages == [usage]:
            return role
    raise IdentityError(
        f"{label} has no role: its extended key usage must be serverAuth alone (DMZ node) or"
        " clientAuth alone (internal node)"
    )


def check_dates(label: str, certificate: x509.Certificate, now: datetime, *, cure: str) -> None:
    """Raise IdentityError unless the certificate is valid now (RFC 5280, 4.1.2.5)."""
    if now < certificate.not_valid_before_utc:
        raise IdentityError(
            f"{label} is not valid before {certificate.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ}:"
            " check this machine's clock"
        )
    if now > certificate.not_valid_after_utc:
        raise IdentityError(
            f"{label} expired at {certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}: {cure}"
        )


def is_issued_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether issuer's name stands in the certificate and its key made the signature."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def key_fits(key: PrivateKeyTypes, certificate: x509.Certificate) -> bool:
    """Whether the private key is that of the certificate's public key."""
    return public_key_der(key.public_key()) == public_key_der(certificate.public_key())


def public_key_der(key: PublicKeyTypes) -> bytes:
    """A public key as SubjectPublicKeyInfo (RFC 5280, 4.1.2.7)."""
    return key.public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def certificate_to_pem(certificate: x509.Certificate) -> bytes:
    """One PEM block."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def key_to_pem(key: PrivateKeyTypes, passphrase: bytes | None = None) -> bytes:
    """A private key as one PKCS8 PEM block, encrypted if there is a passphrase."""
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase is not None:
        encryption = serialization.BestAvailableEncryption(passphrase)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption
    )


def _extension(
    label: str, certificate: x509.Certificate, kind: type[ExtensionT]
) -> ExtensionT | None:
    with _decoding(label):
        try:
            return certificate.extensions.get_extension_for_class(kind).value
        except x509.ExtensionNotFound:
            return None


@contextmanager
def _decoding(label: str) -> Iterator[None]:
    """Turn whatever a broken certificate makes `cryptography` raise into an IdentityError."""
    try:
        yield
    except (
        ValueError,
        TypeError,
        UnsupportedAlgorithm,
        x509.DuplicateExtension,
        x509.InvalidVersion,
        x509.UnsupportedGeneralNameType,
    ) as error:
        raise IdentityError(f"{label} is damaged: put the right file there") from error
