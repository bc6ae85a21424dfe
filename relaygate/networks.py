"""
Sets of networks: is this address in one of a hundred thousand?

A set is two runs of bytes, one for each family: disjoint spans (first and last address, in network
order) in ascending order, so that a look-up is one bisection.  They are what crosses the uplink,
too: whoever receives them checks the order and needs not sort.  Two sets with the same addresses
are equal, however they were written, and have the same name.
"""

from __future__ import annotations

import hashlib
import re
import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Network = IPv4Network | IPv6Network

# Of a network or any run of addresses: IP version, first and last address as numbers.
Span = tuple[int, int, int]

FOUR, SIX = 4, 16
_BYTE = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_FOUR_TEXT = re.compile(rf"{_BYTE}\.{_BYTE}\.{_BYTE}\.{_BYTE}(?:/(3[0-2]|[12]?[0-9]))?")
NAME_BYTES = 16
_UINT32 = "I" if array("I").itemsize == FOUR else "L"
# An ISP gives its customer a /64 at least, and all of it is one customer (RFC 6177).
_CUSTOMER_PREFIX = 64


class NotSpans(ValueError):
    """Bytes are no run of spans in ascending order."""


class NetworkSet:
    """The addresses of both families that are in a set: ``"192.0.2.1" in networks``."""

    __slots__ = ("__weakref__", "_first", "_last", "four", "name", "six")

    def __init__(self, four: bytes = b"", six: bytes = b"") -> None:
        """*four* and *six* are spans that :class:`Spans` found right, or made here."""
        self.four = four
        self.six = six
        # Most addresses are of IPv4: numbers are found several times as fast as slices of bytes.
        numbers = array(_UINT32, four)
        if sys.byteorder == "little":
            numbers.byteswap()
        self._first, self._last = numbers[::2], numbers[1::2]
        told = hashlib.blake2b(len(four).to_bytes(8), digest_size=NAME_BYTES)
        told.update(four)
        told.update(six)
        self.name = told.hexdigest()

    @classmethod
    def of(cls, networks: Iterable[Network]) -> NetworkSet:
        """The set of all addresses of *networks*."""
        return cls.of_spans(spans_of(networks))

    @classmethod
    def of_spans(cls, spans: Iterable[Span]) -> NetworkSet:
        """The set of all addresses of *spans*, in any order."""
        four: list[tuple[int, int]] = []
        six: list[tuple[int, int]] = []
        for version, first, last in spans:
            (four if version == 4 else six).append((first, last))
        return cls(_merged(four, FOUR), _merged(six, SIX))

    def __len__(self) -> int:
        return len(self._first) + len(self.six) // (2 * SIX)

    def __contains__(self, address: str) -> bool:
        packed = _packed(address)
        if len(packed) == FOUR:
            number = int.from_bytes(packed)
            found = bisect_right(self._first, number)
            return bool(found) and number <= self._last[found - 1]
        six, step = self.six, 2 * SIX
        count = range(len(six) // step)
        found = bisect_right(count, packed, key=lambda at: six[at * step : at * step + SIX])
        return bool(found) and packed <= six[found * step - SIX : found * step]

    def meets(self, network: Network) -> bool:
        """Whether any address of *network* is in the set."""
        first = int(network.network_address)
        last = first + (1 << network.max_prefixlen - network.prefixlen) - 1
        if network.version == 4:
            found = bisect_right(self._first, last)
            return bool(found) and first <= self._last[found - 1]
        return any(
            int.from_bytes(self.six[at : at + SIX]) <= last
            and first <= int.from_bytes(self.six[at + SIX : at + 2 * SIX])
            for at in range(0, len(self.six), 2 * SIX)
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NetworkSet) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return f"<{len(self)} networks {self.name}>"


def _merged(spans: list[tuple[int, int]], width: int) -> bytes:
    # Numbers are sorted in a fraction of the time that pairs take.
    bits = 8 * width
    packed = sorted([first << bits | last for first, last in spans])
    spans = [(both >> bits, both & (1 << bits) - 1) for both in packed]
    made: list[int] = []
    last = -2
    for first, end in spans:
        if first > last + 1:
            made += (first, end)
            last = end
        elif end > last:
            made[-1] = last = end
    return b"".join([number.to_bytes(width) for number in made])


class Spans:
    """Spans of one family as they arrive, page by page; *width* is 4 or 16 bytes."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._made = bytearray()

    def __bytes__(self) -> bytes:
        return bytes(self._made)

    def __len__(self) -> int:
        return len(self._made)

    def add(self, page: bytes) -> None:
        """*page* follows what has come.  Raises :class:`NotSpans`."""
        width = self._width
        if len(page) % (2 * width):
            raise NotSpans("a span is cut short")
        last = bytes(self._made[-width:])
        for at in range(0, len(page), 2 * width):
            first, end = page[at : at + width], page[at + width : at + 2 * width]
            if first > end or (last and first <= last):
                raise NotSpans("spans are not in ascending order")
            last = end
        self._made += page


@lru_cache(maxsize=4096)
def literal_of(address: str) -> IPv4Address | IPv6Address:
    """
    Whose *address* is, without a zone; an IPv4 address in IPv6's clothes is one.

    Raises :class:`ValueError`.
    """
    literal = ip_address(address.partition("%")[0])
    mapped = literal.ipv4_mapped if isinstance(literal, IPv6Address) else None
    return mapped or literal


@lru_cache(maxsize=4096)
def _packed(address: str) -> bytes:
    return literal_of(address).packed


@lru_cache(maxsize=4096)
def source_of(address: str) -> str:
    """
    What *address* counts as where clients are told apart: itself, or its /64 for IPv6.

    An IPv4 address in IPv6's clothes is one; what is no address at all counts as itself.
    """
    if ":" not in address:
        return address
    packed = _packed(address)
    if len(packed) == FOUR:
        return str(IPv4Address(packed))
    network = IPv6Network((packed, _CUSTOMER_PREFIX), strict=False)
    return str(network)


def network_of(text: str) -> Network:
    """
    Read ``203.0.113.0/24``, ``2001:db8::/32`` or a single address.

    Raises :class:`ValueError` for anything else, also where bits of the host are set.
    """
    if "%" in text or len(text) > 64:
        raise ValueError("not a network")
    network = ip_network(text)
    if isinstance(network, IPv6Network) and network.network_address.ipv4_mapped is not None:
        raise ValueError("an IPv4 network is written as one, without ::ffff:")
    return network


def span_of(text: str) -> Span:
    """
    What :func:`network_of` reads, as a span; of IPv4 in a tenth of its time, for long lists.

    Raises :class:`ValueError`.
    """
    match = _FOUR_TEXT.fullmatch(text)
    if match is None:
        return next(spans_of([network_of(text)]))
    one, two, three, four, bits = match.groups()
    first = int(one) << 24 | int(two) << 16 | int(three) << 8 | int(four)
    rest = (1 << 32 - int(bits)) - 1 if bits is not None else 0
    if first & rest:
        raise ValueError("bits of the host are set")
    return 4, first, first + rest


def spans_of(networks: Iterable[Network]) -> Iterator[Span]:
    """*networks* as spans."""
    for network in networks:
        first = int(network.network_address)
        last = first + (1 << network.max_prefixlen - network.prefixlen) - 1
        yield network.version, first, last
