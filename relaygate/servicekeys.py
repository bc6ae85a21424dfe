"""What a service shows its clients, and whom it believes behind it: PEM files, read and checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

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

    @property
    def not_after(self) -> datetime:
        """UTC, aware: when the first of its certificates ends."""
        own = self.key.chain[:1] if self.key else ()
        return min(each.not_valid_after_utc for each in (*own, *self.authorities))


def load_service_files(
    name: str, own: tuple[Path, Path] | tuple[()], ca: Path | None, *, now: datetime
) -> ServiceFiles:
    """
    Read the files of the service *name*, as far as it has them: *own* are certificate and key.

    *now* is aware.  Raises :class:`IdentityError`, which names the service.
    """
    try:
        pair = load_service_key(*own, now=now) if own else None
        return ServiceFiles(name, pair, tuple(load_authorities(ca)) if ca else ())
    except IdentityError as error:
        raise IdentityError(f'service "{name}": {error}') from None


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
