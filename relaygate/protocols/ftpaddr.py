"""
Where FTP's data connections go: the addresses in commands and replies.

==========  =====================================  ==============================
message     form                                   standard
==========  =====================================  ==============================
``PORT``    ``h1,h2,h3,h4,p1,p2``                  RFC 959, section 4.1.2
``227``     the same six numbers in any text       RFC 1123, section 4.1.2.6
``EPRT``    ``|1|192.0.2.1|2048|``                 RFC 2428, section 2
``EPSV``    nothing, ``1``, ``2`` or ``ALL``       RFC 2428, sections 3 and 4
``229``     ``(|||2048|)`` in any text             RFC 2428, section 3
==========  =====================================  ==============================

What a client sends is read narrowly, for it decides whom the gateway dials: its own address and
an unprivileged port, and nothing else (RFC 2577, section 3).  What a server sends is read widely,
for products differ; only the port of it is ever used.
"""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from typing import ClassVar, Final

from relaygate.protocols.ftp import Reply

IPV4: Final = 1
IPV6: Final = 2
"""The numbers of the protocols (RFC 2428, section 2; IANA's address family numbers)."""

LOWEST_PORT: Final = 1024
"""Ports below belong to services: nobody waits for data there (RFC 2577, section 3)."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_SIX: Final = re.compile(r"(?<![0-9])" + r" ?, ?".join([r"([0-9]{1,9})"] * 6))
_PORT_FORM: Final = re.compile(rb",".join([rb"([0-9]{1,3})"] * 6))
# Any printable delimiter, three times before the port and once behind it; family and host stay
# empty by the RFC, and are passed over where a server fills them in.
_EXTENDED: Final = re.compile(r"\(([!-~])([^()]{0,80}?)\1([^()]{0,80}?)\1([0-9]{1,5})\1\)")
_NUMBER: Final = re.compile(rb"[0-9]{1,5}")


class FTPAddressError(Exception):
    """
    An address of a data connection cannot be taken.

    ``code`` is the reply that a client gets for it, the message is the reply's text.
    """

    code: ClassVar[int] = 501


class BadSyntax(FTPAddressError):
    """It is no address of the form that is due."""


class WrongFamily(FTPAddressError):
    """It is of a protocol that this control connection does not use (RFC 2428, section 2)."""

    code = 522


class Forbidden(FTPAddressError):
    """It is an address, but not one that may be dialled: bounce attacks begin so (RFC 2577)."""


def parse_port(argument: bytes, client: str) -> int:
    """
    Read PORT's argument and return the port.

    *client* is the address of the control connection's peer, which it has to name.

    :raises FTPAddressError: otherwise.
    """
    peer = _address(client)
    if peer.version != 4:
        raise WrongFamily("Network protocol not supported, use EPRT.")
    match = _PORT_FORM.fullmatch(argument.strip(b" "))
    numbers = [int(number) for number in match.groups()] if match else []
    if not numbers or max(numbers) > 255:
        raise BadSyntax("Invalid PORT format.")
    host = ipaddress.IPv4Address(bytes(numbers[:4]))
    return _permitted(host, numbers[4] * 256 + numbers[5], peer)


def parse_eprt(argument: bytes, client: str) -> int:
    """
    Read EPRT's argument and return the port, as :func:`parse_port` does.

    :raises FTPAddressError: if it cannot be taken.
    """
    peer = _address(client)
    text = argument.strip(b" ")
    delimiter = text[:1]
    parts = text.split(delimiter) if delimiter and 33 <= delimiter[0] <= 126 else []
    if len(parts) != 5 or parts[0] or parts[4]:
        raise BadSyntax("Invalid EPRT format.")
    _, family, host, port, _ = parts
    if not _NUMBER.fullmatch(family) or not _NUMBER.fullmatch(port) or int(port) > 65535:
        raise BadSyntax("Invalid EPRT format.")
    _demand_family(int(family), peer)
    try:
        address = ipaddress.ip_address(host.decode("ascii"))
    except ValueError:
        raise BadSyntax("Invalid EPRT format.") from None
    if address.version != peer.version:
        raise BadSyntax("Invalid EPRT format.")
    return _permitted(address, int(port), peer)


def parse_epsv(argument: bytes, client: str) -> bool:
    """
    Read EPSV's argument and return whether it is ``ALL``, which forbids the other commands.

    *client* is the address of the control connection's peer; another protocol than its cannot
    be asked for.

    :raises FTPAddressError: for anything else.
    """
    text = argument.strip(b" ")
    if text.upper() == b"ALL":
        return True
    if text:
        if not _NUMBER.fullmatch(text):
            raise BadSyntax("Invalid EPSV format.")
        _demand_family(int(text), _address(client))
    return False


def passive_port(reply: Reply) -> int:
    """
    Read the port (1 to 65535) that a server waits at, out of its 227 or 229.

    The reply's code decides how it is read, whatever the command was.  The address in a 227 is
    never returned: whoever holds the server could send the gateway anywhere with it.

    :raises FTPAddressError: if there is none.
    """
    for line in reply.lines:
        text = line.removeprefix(b"%d" % reply.code).decode("latin-1")
        if reply.code == 227 and (match := _SIX.search(text)):
            numbers = [int(number) for number in match.groups()]
            port = numbers[4] * 256 + numbers[5]
            if max(numbers) <= 255 and port:
                return port
            break
        if reply.code == 229 and (match := _EXTENDED.search(text)):
            port = int(match[4])
            if 0 < port <= 65535:
                return port
            break
    raise BadSyntax("no port in the reply to a passive command")


def passive_reply(host: str, port: int) -> Reply:
    """Make a 227 that leads to *host*, an IPv4 address, on one line (Requirement 4 says why)."""
    return Reply.of(227, f"Entering Passive Mode ({_six(host, port)}).")


def extended_passive_reply(port: int) -> Reply:
    """Make a 229, which leads to the address that the client has reached."""
    return Reply.of(229, f"Entering Extended Passive Mode (|||{port}|).")


def port_argument(host: str, port: int) -> bytes:
    """Make the argument of a PORT that names *host*, an IPv4 address."""
    return _six(host, port).encode()


def eprt_argument(host: str, port: int) -> bytes:
    """Make the argument of an EPRT that names *host*, an address of either protocol."""
    address = _address(host)
    return f"|{IPV4 if address.version == 4 else IPV6}|{address}|{port}|".encode()


def is_ipv4(host: str) -> bool:
    """Whether *host*, an address, is an IPv4 one, perhaps dressed as IPv6."""
    return _address(host).version == 4


def _six(host: str, port: int) -> str:
    address = _address(host)
    if address.version != 4:
        raise ValueError("six numbers cannot name an IPv6 address")
    return ",".join(str(number) for number in (*address.packed, *divmod(port, 256)))


@lru_cache(maxsize=1024)
def _address(host: str) -> Address:
    # A zone names an interface of ours, which no peer can know.
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _demand_family(family: int, peer: Address) -> None:
    own = IPV4 if peer.version == 4 else IPV6
    if family != own:
        raise WrongFamily(f"Network protocol not supported, use ({own}).")


def _permitted(host: Address, port: int, peer: Address) -> int:
    if host != peer:
        raise Forbidden("Refused: that is a foreign address.")
    if port < LOWEST_PORT:
        raise Forbidden("Refused: that is a privileged port.")
    return port
