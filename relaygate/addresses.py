"""Network addresses as they stand in configuration files and in requests between nodes.

Everything here is pure: text in, checked and canonical values out, no resolution.  The rules
are strict on purpose.  An address that two programs read in two ways (``127.1``, an IPv4
address dressed as IPv6) is refused, because a policy that was checked with one reading must
not be acted on with the other.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from functools import lru_cache

__all__ = ["AddressError", "HostPort", "ListenRule", "canonical_name", "host_name", "service_name"]

Literal = ipaddress.IPv4Address | ipaddress.IPv6Address

# A DNS name of 253 characters, brackets, a colon and a port range are well below this.
_MAX_TEXT = 300

# RFC 1123 section 2.1: letters, digits and hyphens, no hyphen at either end, 63 at most.
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")

# The system resolver reads "127.1" and "0x7f.1" as IPv4 addresses, so no name may end so.
_NUMERIC_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*")

_SERVICE = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")

_PORT = re.compile(r"[1-9][0-9]{0,4}")


class AddressError(ValueError):
    """Text is not an address of the form that was asked for.

    The message is one short line that says what is wrong.  It never repeats the text, so it
    is safe to print and to log.
    """


@dataclass(frozen=True, order=True)
class HostPort:
    """One TCP end point.

    *host* is an IP literal without brackets or a DNS name, in canonical form; *port* is 1 to
    65535.  :meth:`parse` makes and checks one from text; the constructor takes values that
    are known to be good and checks nothing.
    """

    host: str
    port: int

    @classmethod
    def parse(cls, text: str, *, numeric: bool = False) -> HostPort:
        """Read ``192.0.2.1:22``, ``[2001:db8::1]:22`` or ``sftp.example:22``.

        *numeric* demands an IP literal, as listeners do: what a name leads to can change
        behind the back of whoever approved it.

        :raises AddressError: for anything else.
        """
        host, port = _split(text)
        return cls(_host(host, numeric=numeric), _port(port))

    @property
    def literal(self) -> Literal | None:
        """The host as an IP address, or None when it is a name."""
        found = _read(self.host)
        return None if isinstance(found, str) else found

    def __str__(self) -> str:
        return f"{_bracketed(self.host)}:{self.port}"


@dataclass(frozen=True)
class ListenRule:
    """One permission to listen: an address, and the ports *first* to *last*, both included.

    A wildcard host (``0.0.0.0`` or ``::``) stands for every address of its own family, itself
    among them.  Any other host stands for itself alone, so it does not permit the wildcard.
    """

    host: str
    first: int
    last: int

    @classmethod
    def parse(cls, text: str) -> ListenRule:
        """Read ``0.0.0.0:21-22``, ``[::]:443`` or ``192.0.2.1:2222``.

        :raises AddressError: for anything else, names included.
        """
        host, ports = _split(text)
        low, dash, high = ports.partition("-")
        first = _port(low)
        last = _port(high) if dash else first
        if last < first:
            raise AddressError("the port range ends before it begins")
        return cls(_host(host, numeric=True), first, last)

    def permits(self, wanted: HostPort) -> bool:
        """Say whether a listener on *wanted* is within this rule; a name never is."""
        address = wanted.literal
        own = _literal(self.host)
        if address is None or address.version != own.version:
            return False
        if not self.first <= wanted.port <= self.last:
            return False
        return own.is_unspecified or address == own

    def __str__(self) -> str:
        ports = str(self.first) if self.first == self.last else f"{self.first}-{self.last}"
        return f"{_bracketed(self.host)}:{ports}"


def canonical_name(text: str) -> str:
    """Return the DNS name *text* in lower case (RFC 1123 section 2.1, RFC 1035 section 2.3.4).

    :raises AddressError: if it is no such name, ends in a dot, or could be read as a number.
    """
    if not text.isascii():
        raise AddressError("a name is written in ASCII (xn--... for other scripts)")
    name = text.lower()
    if len(name) > 253:
        raise AddressError("a name has at most 253 characters")
    labels = name.split(".")
    if not all(_LABEL.fullmatch(label) for label in labels):
        raise AddressError("a name is made of letters, digits and hyphens, with single dots")
    if _NUMERIC_LABEL.fullmatch(labels[-1]):
        raise AddressError("neither a whole IPv4 address nor a name, as it ends in a number")
    return name


def host_name(text: str) -> str:
    """Return *text* as an IP literal without brackets or a DNS name, in canonical form.

    :raises AddressError: for anything else.
    """
    if len(text) > _MAX_TEXT:
        raise AddressError("too long for an address")
    try:
        return str(_literal(text))
    except AddressError:
        if ":" in text:
            raise
        return canonical_name(text)


def service_name(text: str) -> str:
    """Return the service's name *text* as it is.

    :raises AddressError: if it is none: names stand in logs and between nodes, so they are short,
        lower case and plain.
    """
    if not _SERVICE.fullmatch(text):
        raise AddressError("a service's name is 1 to 63 of a-z, 0-9, _ and -")
    return text


def _split(text: str) -> tuple[str, str]:
    """Part host and port; brackets stay on the host, so that they can be checked."""
    if len(text) > _MAX_TEXT:
        raise AddressError("too long for an address")
    host, colon, port = text.rpartition(":")
    if not colon or text.endswith("]"):
        raise AddressError("the port is missing")
    if not host:
        raise AddressError("the host is missing")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise AddressError("an IPv6 address stands in brackets, as in [::1]:22")
    return host, port


def _host(text: str, *, numeric: bool) -> str:
    if text.startswith("["):
        address = _literal(text[1:-1])
        if address.version != 6:
            raise AddressError("brackets are for IPv6 addresses only")
        return str(address)
    try:
        return str(_literal(text))
    except AddressError:
        if numeric:
            raise
        return canonical_name(text)


def _literal(text: str) -> Literal:
    found = _read(text)
    if isinstance(found, str):
        raise AddressError(found)
    return found


# A session asks for the same few again and again, and each costs as much as a message's tag.
@lru_cache(maxsize=1024)
def _read(text: str) -> Literal | str:
    """The address that *text* is, or what is wrong with it."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return "not an IP address"
    if isinstance(address, ipaddress.IPv6Address):
        # Listening on [::ffff:0.0.0.0] opens IPv4, which a rule for [::] does not permit.
        if address.ipv4_mapped is not None:
            return "an IPv4 address is written as one, without ::ffff:"
        if address.scope_id is not None:
            return "an IPv6 address with a zone (%...) cannot be used"
    return address


def _port(text: str) -> int:
    if not _PORT.fullmatch(text) or int(text) > 65535:
        raise AddressError("a port is a whole number from 1 to 65535")
    return int(text)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
