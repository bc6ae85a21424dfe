"""
The PROXY protocol's header, versions 1 and 2: whose connection it is that a proxy passes on.

It is HAProxy's ``proxy-protocol.txt`` ("the specification" below).  One header comes first on a
connection and is gone through once; a second one would be the client's own bytes (requirement 76).
What a connection must begin with is never guessed: whoever makes a reader demands a header.

Both versions are read by one reader, since their first bytes differ, and both strictly:

* Version 1 is one line of at most 107 bytes, with single spaces, plain decimal numbers, addresses
  of the family that it names, and CR LF.  ``UNKNOWN`` says nothing, whatever else its line holds.
* Version 2 is binary, and at most 2 KiB here.  ``LOCAL`` (a proxy's own probe) and the families of
  which TCP is none of (``UNSPEC``, UNIX, datagrams) say nothing either: their block is skipped by
  its length, and never taken for an address.  A checksum is checked where there is one.

An IPv4 address in IPv6's clothes (``::ffff:192.0.2.1``) is read as the IPv4 address that it is, or
a list of networks could be walked round with it.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address

# The specification, section 2.1: a line that is longer is none, its CR LF included.
MAX_V1 = 107
# Section 2.2 allows 65,551 bytes; what proxies send are addresses and a few short TLVs.
MAX_V2 = 2048
# PP2_TYPE_UNIQUE_ID holds at most so many bytes.
MAX_UNIQUE_ID = 128

Endpoint = tuple[str, int]

_V1 = b"PROXY "
_V2 = b"\r\n\r\n\0\r\nQUIT\n"
_V2_FIXED = struct.Struct(">12sBBH")
_LOCAL, _PROXY = 0x20, 0x21
_TCP4, _TCP6 = 0x11, 0x21
# Family and transport that are valid, and the bytes of their address block (section 2.2).
_BLOCKS = {0x00: 0, _TCP4: 12, 0x12: 12, _TCP6: 36, 0x22: 36, 0x31: 216, 0x32: 216}
_CRC32C, _UNIQUE_ID = 0x03, 0x05
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_PORT = re.compile(r"0|[1-9][0-9]{0,4}")
# RFC 3720 appendix B.4: Castagnoli's polynomial, its bits reversed.
_CASTAGNOLI = 0x82F63B78


class NoProxyHeader(Exception):
    """
    The peer sent what is no PROXY header, or ended before one was whole.

    The message is short, printable, and holds nothing of what was sent.
    """


@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """
    What a header said: (host, port) of the client, and of the address that it reached.

    Both are None where it said nothing: then the connection's own addresses hold.
    """

    source: Endpoint | None = None
    destination: Endpoint | None = None


class HeaderReader:
    """Reads one header into :attr:`found`; what follows it is left in :attr:`rest`."""

    def __init__(self) -> None:
        self.rest = b""
        self.found: ProxyHeader | None = None

    def receive(self, data: bytes) -> list[ProxyHeader]:
        """Raises :class:`NoProxyHeader` at the first byte that cannot belong to one."""
        self.rest += data
        if self.rest[:1] == _V1[:1]:
            length, header = self._version_1()
        else:
            length, header = self._version_2()
        if header is None:
            return []
        self.rest = self.rest[length:]
        self.found = header
        return [header]

    def end(self) -> None:
        """Raises :class:`NoProxyHeader` if the header has not come whole."""
        if self.found is None:
            raise NoProxyHeader("the connection ended before its PROXY header was whole")

    def _version_1(self) -> tuple[int, ProxyHeader | None]:
        line = self.rest[:MAX_V1]
        if not line.startswith(_V1[: len(line)]):
            raise NoProxyHeader("it begins with no PROXY header")
        end = _CONTROL.search(line)
        at = end.start() if end else len(line)
        if at >= MAX_V1 - 1:
            raise NoProxyHeader("its PROXY line is too long")
        if end is None or line[at:] == b"\r":
            return 0, None
        if line[at : at + 2] != b"\r\n":
            raise NoProxyHeader("its PROXY line has a control character")
        return at + 2, _read_line(line[:at])

    def _version_2(self) -> tuple[int, ProxyHeader | None]:
        if not self.rest.startswith(_V2[: len(self.rest)]):
            raise NoProxyHeader("it begins with no PROXY header")
        if len(self.rest) < _V2_FIXED.size:
            return 0, None
        _, command, family, length = _V2_FIXED.unpack_from(self.rest)
        whole = _V2_FIXED.size + length
        if command not in (_LOCAL, _PROXY):
            raise NoProxyHeader("its PROXY header has an unknown version or command")
        if whole > MAX_V2:
            raise NoProxyHeader("its PROXY header is too long")
        if len(self.rest) < whole:
            return 0, None
        if command == _LOCAL:
            # Section 2.2: the family is ignored, and the block skipped.
            return whole, ProxyHeader()
        return whole, _read_block(family, self.rest[:whole])


def _read_line(line: bytes) -> ProxyHeader:
    """*line* begins with ``PROXY`` and a space, and has no control character in it."""
    try:
        words = line.decode("ascii").split(" ")
    except UnicodeDecodeError:
        words = line.decode("latin-1").split(" ") if line.startswith(_V1 + b"UNKNOWN ") else []
    if words[1:2] == ["UNKNOWN"]:
        return ProxyHeader()
    if len(words) != 6 or words[1] not in ("TCP4", "TCP6"):
        raise NoProxyHeader("its PROXY line is malformed")
    version = 4 if words[1] == "TCP4" else 6
    source, destination = (_text_address(word, version) for word in words[2:4])
    source_port, destination_port = (_text_port(word) for word in words[4:])
    return ProxyHeader((source, source_port), (destination, destination_port))


def _text_address(text: str, version: int) -> str:
    try:
        address = ip_address(text)
    except ValueError:
        raise NoProxyHeader("its PROXY line has a malformed address") from None
    if address.version != version or "%" in text:
        raise NoProxyHeader("its PROXY line has an address of another kind than it says")
    return _plain(address)


def _text_port(text: str) -> int:
    if not _PORT.fullmatch(text) or int(text) > 65535:
        raise NoProxyHeader("its PROXY line has a malformed port")
    return int(text)


def _read_block(family: int, header: bytes) -> ProxyHeader:
    size = _BLOCKS.get(family)
    if size is None:
        raise NoProxyHeader("its PROXY header has an unknown family or transport")
    block = header[_V2_FIXED.size :]
    if len(block) < size:
        raise NoProxyHeader("its PROXY header is too short for its addresses")
    if family not in (_TCP4, _TCP6):
        return ProxyHeader()
    _check_tlvs(header, _V2_FIXED.size + size)
    each = 4 if family == _TCP4 else 16
    make = IPv4Address if family == _TCP4 else IPv6Address
    source, destination = make(block[:each]), make(block[each : 2 * each])
    source_port, destination_port = struct.unpack_from(">HH", block, 2 * each)
    return ProxyHeader((_plain(source), source_port), (_plain(destination), destination_port))


def _check_tlvs(header: bytes, at: int) -> None:
    """Walk over the TLVs of *header* from *at* on (section 2.2.1), and check a checksum."""
    summed = False
    while at < len(header):
        if len(header) < at + 3:
            raise NoProxyHeader("its PROXY header has a TLV that is cut short")
        kind, length = struct.unpack_from(">BH", header, at)
        at += 3
        if len(header) < at + length:
            raise NoProxyHeader("its PROXY header has a TLV that is cut short")
        if kind == _CRC32C:
            if length != 4 or summed:
                raise NoProxyHeader("its PROXY header has a malformed checksum")
            summed = True
            told = int.from_bytes(header[at : at + 4])
            if told != crc32c(header[:at] + bytes(4) + header[at + 4 :]):
                raise NoProxyHeader("its PROXY header has the wrong checksum")
        at += length


def _plain(address: IPv4Address | IPv6Address) -> str:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return str(mapped or address)


@lru_cache(maxsize=1)
def _table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (_CASTAGNOLI if value & 1 else 0)
        table.append(value)
    return tuple(table)


def crc32c(data: bytes) -> int:
    """The checksum of section 2.2.2 (RFC 3720 appendix B.4)."""
    table = _table()
    value = 0xFFFFFFFF
    for byte in data:
        value = value >> 8 ^ table[(value ^ byte) & 0xFF]
    return value ^ 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class ProxyV1:
    """The line of version 1 for a client's connection, from (host, port) to (host, port)."""

    source: Endpoint
    destination: Endpoint

    def __bytes__(self) -> bytes:
        source, destination, version = _one_family(self.source[0], self.destination[0])
        line = (
            f"PROXY TCP{version} {_told(source)} {_told(destination)}"
            f" {self.source[1]} {self.destination[1]}\r\n"
        )
        return line.encode("ascii")


@dataclass(frozen=True, slots=True)
class ProxyV2:
    """The same in version 2, with *unique_id* (at most 128 bytes) in a TLV."""

    source: Endpoint
    destination: Endpoint
    unique_id: bytes = b""

    def __bytes__(self) -> bytes:
        source, destination, version = _one_family(self.source[0], self.destination[0])
        block = source.packed + destination.packed
        block += struct.pack(">HH", self.source[1], self.destination[1])
        if self.unique_id:
            name = self.unique_id[:MAX_UNIQUE_ID]
            block += struct.pack(">BH", _UNIQUE_ID, len(name)) + name
        family = _TCP4 if version == 4 else _TCP6
        return _V2_FIXED.pack(_V2, _PROXY, family, len(block)) + block


# What a probe of ours begins with: it speaks for nobody (requirement 75).
LOCAL = {"v1": b"PROXY UNKNOWN\r\n", "v2": _V2_FIXED.pack(_V2, _LOCAL, 0, 0), "none": b""}


def header_for(version: str, source: Endpoint, destination: Endpoint, unique_id: str) -> bytes:
    """
    The header of *version* (``none``, ``v1`` or ``v2``) for one session.

    Hosts are IP addresses as text; a session whose hosts are none gets a header that says nothing.
    """
    try:
        if version == "v1":
            return bytes(ProxyV1(source, destination))
        if version == "v2":
            return bytes(ProxyV2(source, destination, unique_id.encode()))
    except ValueError:
        pass
    return LOCAL[version]


def _one_family(
    source: str, destination: str
) -> tuple[IPv4Address | IPv6Address, IPv4Address | IPv6Address, int]:
    """Both as addresses of one version; raises ValueError for what is no address."""
    one, other = ip_address(source.partition("%")[0]), ip_address(destination.partition("%")[0])
    if one.version == other.version:
        return one, other, one.version
    return _as_6(one), _as_6(other), 6


def _as_6(address: IPv4Address | IPv6Address) -> IPv6Address:
    if isinstance(address, IPv6Address):
        return address
    return IPv6Address(bytes(10) + b"\xff\xff" + address.packed)


def _told(address: IPv4Address | IPv6Address) -> str:
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return f"::ffff:{mapped}" if mapped else str(address)
