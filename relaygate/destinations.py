"""
Where a forward connection may go: rules for names, networks and ports.

Both nodes ask the same rules, each its own: the internal node with what its program asked for, the
DMZ node with the addresses that the name was resolved to as well, of which it dials one.  Nothing
is permitted that no rule permits.

Some destinations no wide rule permits, because nobody who writes one means them:

* **Special addresses** (loopback, link-local, private, multicast, and all others that are not of
  the public Internet, whatever they are wrapped in) and a node's own: only a rule does that names
  such addresses itself, so ``10.0.0.0/8:21`` and not ``0.0.0.0/0:21``, and no rule for a name.
* **Ports that others abuse a proxy for** (mail, telephony): only a rule for that very port does.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from relaygate.addresses import AddressError, HostPort, canonical_name

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

# Open proxies are looked for to send mail; SIP and H.323 open the firewall in front of a client
# that a web page made speak them (NAT slipstreaming).
ABUSED_PORTS = frozenset({25, 465, 587, 1719, 1720, 5060, 5061})

_PORTS = re.compile(r"([1-9][0-9]{0,4})(?:-([1-9][0-9]{0,4}))?")
_MAX_TEXT = 300

# All that is given out of IPv6 (RFC 4291, section 2.4, and IANA's registry).  Outside of it are
# site-local addresses, local NAT64 (RFC 8215), IPv4-translated ones, and what nobody has.
_GIVEN_OUT = ipaddress.IPv6Network("2000::/3")
# Addresses in which an IPv4 address travels, by where it stands in them (bits from the right).
_WRAPPED = (
    (ipaddress.IPv6Network("64:ff9b::/96"), 0),  # NAT64, RFC 6052
    (ipaddress.IPv6Network("2002::/16"), 80),  # 6to4, RFC 3056
)
_TEREDO = ipaddress.IPv6Network("2001::/32")
_DOCUMENTATION = ipaddress.IPv6Network("3fff::/20")  # RFC 9637


def is_special(address: Address) -> bool:
    """
    Whether *address* is none of a host on the public Internet.

    An IPv4 address that is wrapped into an IPv6 one counts as itself; Teredo always is special.
    """
    if not address.is_global or address.is_multicast:
        return True
    if isinstance(address, ipaddress.IPv4Address):
        return False
    for network, shift in _WRAPPED:
        if address in network:
            return is_special(ipaddress.IPv4Address(int(address) >> shift & 2**32 - 1))
    return address not in _GIVEN_OUT or address in _TEREDO or address in _DOCUMENTATION


@dataclass(frozen=True)
class DestinationRule:
    """
    One permission: hosts, and the ports *first* to *last*, both included.

    Either *network* is there, or *name*: a DNS name, one with ``*.`` in front for all below it, or
    ``*`` for every name.
    """

    name: str
    network: Network | None
    first: int
    last: int

    @classmethod
    def parse(cls, text: str) -> DestinationRule:
        """
        Read ``sftp.partner.example:22``, ``*.partner.example:443``, ``203.0.113.0/24:21``,
        ``[2001:db8::/32]:1024-65535`` or ``*:443``.

        :raises AddressError: for anything else.
        """
        host, colon, ports = text.rpartition(":")
        match = _PORTS.fullmatch(ports)
        if len(text) > _MAX_TEXT or not colon or not host or match is None:
            raise AddressError("a destination is a host and its ports, as in host.example:22")
        first, last = int(match[1]), int(match[2] or match[1])
        if not first <= last <= 65535:
            raise AddressError("its ports are from 1 to 65535, the lower one first")
        network = _network(host)
        return cls("" if network else _pattern(host), network, first, last)

    @property
    def single(self) -> HostPort | None:
        """The host and port that it permits, where it permits no other."""
        if self.first != self.last or "*" in self.name:
            return None
        if self.network is None:
            return HostPort(self.name, self.first)
        if self.network.num_addresses > 1:
            return None
        return HostPort(str(self.network.network_address), self.first)

    def covers_port(self, port: int) -> bool:
        """Whether *port* is one of its ports."""
        if port in ABUSED_PORTS and self.first != self.last:
            return False
        return self.first <= port <= self.last

    def covers_name(self, name: str) -> bool:
        """Whether it is a rule for the DNS name *name*."""
        if self.name.startswith("*."):
            return name.endswith(self.name[1:])
        return self.name in ("*", name) and bool(self.name)

    def covers_address(self, address: Address, *, own: bool) -> bool:
        """Whether it is a rule for *address*, which is one of this node's *own* or is not."""
        network = self.network
        if network is None or address.version != network.version or address not in network:
            return False
        if own and network.num_addresses > 1:
            return False
        return not is_special(address) or _is_all_special(network)

    def __str__(self) -> str:
        ports = str(self.first) if self.first == self.last else f"{self.first}-{self.last}"
        host = self.name
        if self.network is not None:
            single = self.network.num_addresses == 1
            host = str(self.network.network_address if single else self.network)
        return f"[{host}]:{ports}" if ":" in host else f"{host}:{ports}"


class Destinations:
    """What all of *rules* together permit."""

    def __init__(self, rules: Iterable[DestinationRule] = ()) -> None:
        self.rules = tuple(rules)
        # Partners are few, and are reached again and again; what is looked at is fixed for each.
        self._leads_to = lru_cache(maxsize=1024)(self._decide)

    def names(self, wanted: HostPort) -> bool:
        """
        Whether what was asked for is permitted as it was asked for, nothing being resolved: a name
        by a rule for names, an address by one for addresses.
        """
        address = wanted.literal
        if address is not None:
            return self._leads_to(wanted.host, wanted.port, None, False)
        return any(
            rule.covers_port(wanted.port) and rule.covers_name(wanted.host) for rule in self.rules
        )

    def lead_to(self, wanted: HostPort, addresses: Sequence[tuple[str, bool]]) -> bool:
        """
        Whether *wanted* may be reached at every one of *addresses*, which it was resolved to.

        Each is a literal, with whether it is one of this node's own.  One that is not permitted
        spoils them all: who answers a name with some good addresses and a bad one wants the bad one
        to be dialled.
        """
        name = wanted.host if wanted.literal is None else None
        return bool(addresses) and all(
            self._leads_to(literal, wanted.port, name, own) for literal, own in addresses
        )

    def may_lead(self, name: str, port: int) -> bool:
        """
        Whether *name* may be reached at *port* (0: at any), if its addresses are the right ones.

        Where it may not, nobody needs to look it up.
        """
        return any(
            (not port or rule.covers_port(port))
            and (rule.network is not None or rule.covers_name(name))
            for rule in self.rules
        )

    def know_host(self, wanted: str, addresses: Sequence[tuple[str, bool]]) -> bool:
        """Whether the host *wanted* may be reached at all of *addresses*, on whatever port."""
        ports = {rule.first for rule in self.rules}
        return any(self.lead_to(HostPort(wanted, port), addresses) for port in ports)

    def name_host(self, wanted: str) -> bool:
        """As :meth:`names`, on whatever port."""
        return any(self.names(HostPort(wanted, port)) for port in {r.first for r in self.rules})

    def _decide(self, literal: str, port: int, name: str | None, own: bool) -> bool:
        address = ipaddress.ip_address(literal)
        rules = [rule for rule in self.rules if rule.covers_port(port)]
        if any(rule.covers_address(address, own=own) for rule in rules):
            return True
        if name is None or own or is_special(address):
            return False
        return any(rule.covers_name(name) for rule in rules)


def _network(host: str) -> Network | None:
    bracketed = host.startswith("[") and host.endswith("]")
    text = host[1:-1] if bracketed else host
    try:
        network = ipaddress.ip_network(text)
    except ValueError:
        if bracketed or "/" in text or ":" in text:
            raise AddressError("not an IP network") from None
        return None
    if (network.version == 6) != bracketed:
        raise AddressError("an IPv6 address or network stands in brackets, and no other does")
    mapped = ipaddress.IPv6Network("::ffff:0:0/96")
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(mapped):
        raise AddressError("an IPv4 address is written as one, without ::ffff:")
    return network


def _pattern(host: str) -> str:
    if host == "*":
        return host
    below = host.removeprefix("*.")
    return host[: len(host) - len(below)] + canonical_name(below)


def _is_all_special(network: Network) -> bool:
    """Whether all of *network* is special in one and the same way."""
    if isinstance(network, ipaddress.IPv6Network):
        for wrapping, shift in _WRAPPED:
            if wrapping.subnet_of(network):
                return False
            if network.subnet_of(wrapping):
                inner = int(network.network_address) >> shift & 2**32 - 1
                length = min(32, network.prefixlen - wrapping.prefixlen)
                return _is_all_special(ipaddress.IPv4Network((inner, length), strict=False))
    # Special blocks are aligned as networks are: one that has both ends in special space, and is
    # no wider than the widest block there is, lies in one.
    widest = 4 if network.version == 4 else 7
    return (
        network.prefixlen >= widest
        and is_special(network.network_address)
        and is_special(network.broadcast_address)
    )
