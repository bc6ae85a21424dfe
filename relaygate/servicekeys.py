"""What a service shows its clients, and whom it believes behind it: PEM files, read and checked."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from relaygate.identity import (
    IdentityError,
    check_dates,
    file_label,
    is_ca,
    is_issued_by,
    key_fits,
    parse_certificates,
    parse_key,
    read_file,
    read_secret,
)

# No chain that clients accept is longer.
MAX_CHAIN = 8
# Authorities of a private network, and certificates that sign themselves.
MAX_AUTHORITIES = 64
# Of the dashboard's token.
MIN_TOKEN = 16
MIN_COOKIE_KEY = 32


@dataclass(frozen=True)
class ServiceKey:
    """A checked certificate with those that lead to its authority, and its private key."""

    chain: tuple[x509.Certificate, ...]
    # It fits the certificate, so it is the same where that is.
    key: PrivateKeyTypes = field(repr=False, compare=False)


@dataclass(frozen=True)
class ServiceFiles:
    """What the service *name* has in files: its own key, and the authorities of its backends."""

    name: str
    key: ServiceKey | None
    authorities: tuple[x509.Certificate, ...]
    # What is shown to clients that ask for other names.
    more: tuple[ServiceKey, ...] = ()
    # What cookies of persistence are made with.
    cookie_key: bytes | None = field(default=None, repr=False)

    @property
    def not_after(self) -> datetime:
        """UTC, aware: when the first of its certificates ends."""
        keys = (*((self.key,) if self.key else ()), *self.more)
        own: tuple[x509.Certificate, ...] = tuple(key.chain[0] for key in keys)
        ends = (each.not_valid_after_utc for each in (*own, *self.authorities))
        return min(ends, default=datetime.max.replace(tzinfo=UTC))


def load_service_files(
    name: str,
    own: tuple[Path, Path] | tuple[()],
    ca: Path | None,
    *,
    now: datetime,
    more: Sequence[tuple[Path, Path]] = (),
    cookie_key: Path | None = None,
) -> ServiceFiles:
    """
    Read the files of the service *name*, as far as it has them: *own* are certificate and key, and
    *more* others.  The cookies' key, if there is no file for it, comes from the service's own.

    *now* is aware.  Raises :class:`IdentityError`, which names the service.
    """
    try:
        pair = load_service_key(*own, now=now) if own else None
        others = tuple(load_service_key(*each, now=now) for each in more)
        secret = _load_cookie_key(cookie_key) if cookie_key else _derived(pair)
        return ServiceFiles(name, pair, tuple(load_authorities(ca)) if ca else (), others, secret)
    except IdentityError as error:
        raise IdentityError(f'service "{name}": {error}') from None


def _load_cookie_key(path: Path) -> bytes:
    label = file_label("cookie key", path)
    secret = read_secret(label, path)
    if len(secret) < MIN_COOKIE_KEY:
        raise IdentityError(f"{label} has fewer than {MIN_COOKIE_KEY} bytes")
    return secret


def _derived(pair: ServiceKey | None) -> bytes | None:
    """A secret that all nodes have that show the same certificate, and nobody else."""
    if pair is None:
        return None
    own = pair.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return hmac.digest(own, b"relaygate cookie key 1", "sha256")


def load_service_key(certificate: Path, key: Path, *, now: datetime) -> ServiceKey:
    """
    Read a service's certificate chain, its own first, and its key.

    *now* is aware.  Raises :class:`IdentityError` on the first thing that is wrong.
    """
    label, key_label = file_label("certificate", certificate), file_label("key", key)
    chain = parse_certificates(label, read_file(label, certificate)[0])
    if len(chain) > MAX_CHAIN:
        raise IdentityError(f"{label} holds {len(chain)} certificates: at most {MAX_CHAIN} may be")
    if is_ca(label, chain[0]):
        raise IdentityError(f"{label} begins with a CA's certificate: put the service's own first")
    for lower, upper in pairwise(chain):
        if not is_issued_by(lower, upper):
            raise IdentityError(
                f"{label} is no chain: put behind each certificate the one that it was issued by"
            )
    check_dates(label, chain[0], now, cure="renew it")
    private = parse_key(key_label, read_secret(key_label, key))
    if not key_fits(private, chain[0]):
        raise IdentityError(
            f"{key_label} does not belong to {label}: take the pair that was made together"
        )
    return ServiceKey(tuple(chain), private)


def load_authorities(ca: Path) -> Sequence[x509.Certificate]:
    """
    Read the certificates that backends' own must lead to.

    Servers of a private network often sign their certificates themselves: such a one may stand
    here as well.  Raises :class:`IdentityError`.
    """
    label = file_label("CA", ca)
    found = parse_certificates(label, read_file(label, ca)[0])
    if len(found) > MAX_AUTHORITIES:
        raise IdentityError(
            f"{label} holds {len(found)} certificates: keep the backends' authorities alone in it,"
            f" at most {MAX_AUTHORITIES}"
        )
    return found


def load_token(path: Path) -> bytes:
    """
    Read the dashboard's token from a file that is its owner's alone.

    Raises :class:`IdentityError`.
    """
    label = file_label("token", path)
    token = read_secret(label, path).strip()
    if len(token) < MIN_TOKEN or not token.isalnum():
        raise IdentityError(
            f"{label} is no token: put {MIN_TOKEN} letters and digits or more into it, as"
            " 'openssl rand -hex 32' makes them"
        )
    return token
