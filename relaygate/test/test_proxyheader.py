"""Tests of the PROXY header's reader and writers against HAProxy's ``proxy-protocol.txt``."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

from twisted.trial.unittest import SynchronousTestCase

from relaygate.protocols.proxyheader import (
    LOCAL,
    MAX_V1,
    MAX_V2,
    HeaderReader,
    NoProxyHeader,
    ProxyHeader,
    ProxyV1,
    ProxyV2,
    crc32c,
    header_for,
)
from relaygate.test.parsercases import ParserCases
from relaygate.test.properties import given, st

CASES: ParserCases[HeaderReader] = ParserCases(
    make=HeaderReader,
    receive=lambda reader, data: reader.receive(data),
    found=lambda reader: reader.found,
    violation=NoProxyHeader,
)

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
FOUR = IPv4Address("203.0.113.9").packed + IPv4Address("192.0.2.1").packed
SIX = IPv6Address("2001:db8::9").packed + IPv6Address("2001:db8::1").packed
PORTS = struct.pack(">HH", 40_000, 22)
PLAIN = ProxyHeader(("203.0.113.9", 40_000), ("192.0.2.1", 22))


def v2(block: bytes, command: int = 0x21, family: int = 0x11) -> bytes:
    """A header of version 2."""
    return SIGNATURE + struct.pack(">BBH", command, family, len(block)) + block


def tlv(kind: int, value: bytes) -> bytes:
    """A type, a length, a value."""
    return struct.pack(">BH", kind, len(value)) + value


def summed(before: bytes = b"", after: bytes = b"", wrong: int = 0) -> bytes:
    """A header of version 2 with a checksum between two TLVs."""
    blank = v2(FOUR + PORTS + before + tlv(3, bytes(4)) + after)
    value = struct.pack(">I", crc32c(blank) ^ wrong)
    return v2(FOUR + PORTS + before + tlv(3, value) + after)


class ProxyCase(SynchronousTestCase):
    """What tests of the reader do."""

    def reads(self, data: bytes, expected: ProxyHeader) -> None:
        """*data* is this header, however it is cut, and what follows it is left alone."""
        outcome = CASES.check(data)
        self.assertEqual((outcome.error, outcome.found), (None, expected), data)

    def refuses(self, data: bytes, words: str) -> None:
        """*data* is none, however it is cut and whatever follows."""
        outcome = CASES.check(data)
        self.assertFalse(outcome.cut_short, data)
        self.assertIn(words, outcome.error or "", data)


class VersionOneTests(ProxyCase):
    """The line of version 1 (Requirements 73 and 74)."""

    def test_addresses(self) -> None:
        """Both families are read, in any number of pieces (Requirement 73)."""
        self.reads(b"PROXY TCP4 203.0.113.9 192.0.2.1 40000 22\r\n", PLAIN)
        self.reads(
            b"PROXY TCP6 2001:DB8:0::9 2001:db8::1 0 65535\r\n",
            ProxyHeader(("2001:db8::9", 0), ("2001:db8::1", 65535)),
        )

    def test_mapped_addresses(self) -> None:
        """An IPv4 address in IPv6's clothes is the IPv4 address, so that lists see it."""
        self.reads(b"PROXY TCP6 ::ffff:203.0.113.9 ::ffff:192.0.2.1 40000 22\r\n", PLAIN)
        mapped = IPv6Address("::ffff:203.0.113.9").packed + IPv6Address("::ffff:192.0.2.1").packed
        self.reads(v2(mapped + PORTS, family=0x21), PLAIN)

    def test_unknown(self) -> None:
        """UNKNOWN says nothing, whatever stands behind it."""
        for line in (b"PROXY UNKNOWN", b"PROXY UNKNOWN ", b"PROXY UNKNOWN 1.2.3.4 \xe9 x"):
            self.reads(line + b"\r\n", ProxyHeader())

    def test_longest(self) -> None:
        """107 bytes with CR LF are allowed, and 108 are not."""
        longest = b"PROXY UNKNOWN ".ljust(MAX_V1 - 2, b"x")
        self.reads(longest + b"\r\n", ProxyHeader())
        self.refuses(longest + b"x\r\n", "too long")
        self.refuses(longest + b"xx\r\n", "too long")
        self.refuses(b"PROXY " + b"1" * 500, "too long")

    def test_strict(self) -> None:
        """Anything but single spaces, plain numbers and whole addresses is refused
        (Requirement 74).
        """
        for words in (
            b"TCP4 203.0.113.9 192.0.2.1 40000",
            b"TCP4 203.0.113.9 192.0.2.1 40000 22 ",
            b"TCP4 203.0.113.9 192.0.2.1 40000 22 23",
            b"TCP4  203.0.113.9 192.0.2.1 40000 22",
            b" TCP4 203.0.113.9 192.0.2.1 40000 22",
            b"tcp4 203.0.113.9 192.0.2.1 40000 22",
            b"UDP4 203.0.113.9 192.0.2.1 40000 22",
            b"UNKNOWNS",
            b"",
            b"TCP4 203.0.113.\xe9 192.0.2.1 40000 22",
        ):
            self.refuses(b"PROXY " + words + b"\r\n", "malformed")
        for address in (
            b"999.0.113.9", b"203.0.113", b"203.0.113.09", b"0x7f.1", b"host", b"[::1]", b""
        ):  # fmt: skip
            self.refuses(b"PROXY TCP4 " + address + b" 192.0.2.1 40000 22\r\n", "address")
        for six in (b"203.0.113.9", b"fe80::1%eth0", b"1:2:3", b":::"):
            self.refuses(b"PROXY TCP6 " + six + b" 2001:db8::1 40000 22\r\n", "address")
        for port in (b"-5", b"65536", b"022", b"+1", b"1e3", b"0x16", b"", b"\xb2"):
            data = b"PROXY TCP4 203.0.113.9 192.0.2.1 " + port + b" 22\r\n"
            self.refuses(data, "malformed")

    def test_line_ends(self) -> None:
        """The line ends with CR LF, and has no other control character."""
        line = b"PROXY TCP4 203.0.113.9 192.0.2.1 40000 22"
        for end in (b"\n", b"\r\r\n", b"\rx", b"\0\r\n", b"\t\r\n"):
            self.refuses(line + end, "control character")

    def test_no_header(self) -> None:
        """What begins otherwise is refused at the first byte that tells."""
        for data in (b"SSH-2.0-x\r\n", b"\x16\x03\x01", b"GET /", b"PROXYTCP4", b"PRI *", b"\0"):
            self.refuses(data, "begins with no PROXY header")
            self.refuses(data[:6], "begins with no PROXY header")


class VersionTwoTests(ProxyCase):
    """The block of version 2 (Requirements 73 and 75)."""

    def test_addresses(self) -> None:
        """Both families are read, in any number of pieces (Requirement 73)."""
        self.reads(v2(FOUR + PORTS), PLAIN)
        self.reads(
            v2(SIX + PORTS, family=0x21),
            ProxyHeader(("2001:db8::9", 40_000), ("2001:db8::1", 22)),
        )

    def test_local(self) -> None:
        """LOCAL says nothing: its block is skipped by its length, whatever family it names
        (Requirement 75).
        """
        for family in (0x00, 0x11, 0x21, 0xFF):
            for block in (b"", FOUR + PORTS, b"x" * 300):
                self.reads(v2(block, 0x20, family), ProxyHeader())

    def test_unspec_is_no_address(self) -> None:
        """A block of a family that is none of TCP's is skipped, never read (Requirement 75)."""
        for family, block in ((0x00, FOUR + PORTS), (0x12, FOUR + PORTS), (0x22, SIX + PORTS)):
            self.reads(v2(block, family=family), ProxyHeader())
        self.reads(v2(b"/run/x".ljust(216, b"\0"), family=0x31), ProxyHeader())
        self.reads(v2(b"", family=0x00), ProxyHeader())

    def test_tlvs(self) -> None:
        """TLVs are walked over, and one that is cut short is refused."""
        self.reads(v2(FOUR + PORTS + tlv(5, b"id") + tlv(4, b"") + tlv(0xE0, b"x" * 90)), PLAIN)
        for bad in (b"\x05", b"\x05\0", b"\x05\0\x03ab", tlv(4, b"") + b"\x04\xff\xff"):
            self.refuses(v2(FOUR + PORTS + bad), "cut short")

    def test_checksum(self) -> None:
        """A checksum is checked, wherever it stands, and there is one at most
        (Requirement 75).
        """
        # RFC 3720 appendix B.4.
        self.assertEqual(crc32c(bytes(32)), 0x8A9136AA)
        self.assertEqual(crc32c(bytes(range(32))), 0x46DD794E)
        for before, after in ((b"", b""), (tlv(5, b"id"), b""), (b"", tlv(4, bytes(9)))):
            self.reads(summed(before, after), PLAIN)
            self.refuses(summed(before, after, wrong=1), "wrong checksum")
        self.refuses(v2(FOUR + PORTS + tlv(3, b"abc")), "malformed checksum")
        whole = summed()
        self.refuses(v2(whole[16:] + whole[-7:]), "checksum")

    def test_bounds(self) -> None:
        """2 KiB are read and no more, and what is too long is refused by its length alone."""
        filler = tlv(4, bytes(MAX_V2 - 16 - 12 - 3))
        self.assertEqual(len(v2(FOUR + PORTS + filler)), MAX_V2)
        reader = HeaderReader()
        self.assertEqual(reader.receive(v2(FOUR + PORTS + filler)), [PLAIN])
        self.refuses(SIGNATURE + struct.pack(">BBH", 0x21, 0x11, MAX_V2 - 15), "too long")

    def test_strict(self) -> None:
        """Other versions, commands, families and short blocks are refused."""
        for command in (0x22, 0x2F, 0x11, 0x31, 0x00):
            self.refuses(v2(FOUR + PORTS, command), "version or command")
        for family in (0x01, 0x10, 0x13, 0x41, 0xFF):
            self.refuses(v2(FOUR + PORTS, family=family), "family or transport")
        for family, block in ((0x11, FOUR + PORTS), (0x21, SIX + PORTS), (0x31, b"x" * 216)):
            self.refuses(v2(block[:-1], family=family), "too short")

    def test_one_header(self) -> None:
        """A second header is payload (Requirement 76)."""
        for header in (v2(FOUR + PORTS), b"PROXY TCP4 203.0.113.9 192.0.2.1 40000 22\r\n"):
            reader = HeaderReader()
            self.assertEqual(reader.receive(header + header), [PLAIN])
            self.assertEqual(reader.rest, header)


class WriterTests(ProxyCase):
    """What we write is what we read, and what the specification shows."""

    def test_verbatim(self) -> None:
        """Both versions, byte for byte; the session's id is version 2's unique id
        (Requirement 76).
        """
        source, destination = ("203.0.113.9", 40_000), ("192.0.2.1", 22)
        line = b"PROXY TCP4 203.0.113.9 192.0.2.1 40000 22\r\n"
        self.assertEqual(header_for("v1", source, destination, "id"), line)
        block = FOUR + PORTS + tlv(5, b"0123456789abcdef")
        header = header_for("v2", source, destination, "0123456789abcdef")
        self.assertEqual(header, v2(block))
        self.assertEqual(header_for("none", source, destination, "id"), b"")

    def test_probes_speak_for_nobody(self) -> None:
        """A probe's header is LOCAL, or UNKNOWN where there is none (Requirement 75)."""
        self.reads(LOCAL["v1"], ProxyHeader())
        self.reads(LOCAL["v2"], ProxyHeader())
        self.assertEqual(LOCAL["v2"][12:], b"\x20\0\0\0")

    def test_no_address(self) -> None:
        """Where a host is no address the header says nothing, and does not fail."""
        for version in ("v1", "v2"):
            header = header_for(version, ("name.example", 1), ("192.0.2.1", 2), "id")
            self.assertEqual(header, LOCAL[version])

    @given(st.ip_addresses(), st.ip_addresses(), *[st.integers(0, 65535)] * 2)
    def test_round_trip(
        self,
        source: IPv4Address | IPv6Address,
        destination: IPv4Address | IPv6Address,
        source_port: int,
        destination_port: int,
    ) -> None:
        """Whatever the two addresses are, both versions carry them."""
        ends = (str(source), source_port), (str(destination), destination_port)
        for data in (bytes(ProxyV1(*ends)), bytes(ProxyV2(*ends, b"x" * 200))):
            (header,) = HeaderReader().receive(data)
            for told, (host, port) in zip((header.source, header.destination), ends, strict=True):
                assert told is not None
                expected = ip_address(host)
                mapped = getattr(expected, "ipv4_mapped", None)
                self.assertEqual(told, (str(mapped or expected), port))


NEARLY = st.lists(
    st.sampled_from(
        [SIGNATURE, b"\x21\x11\0\x0c", b"\x20\0\0\0", b"PROXY ", b"TCP4 ", b"TCP6 ", b"UNKNOWN"]
    )
    | st.sampled_from([b"1.2.3.4 ", b"::1 ", b"22 ", b"22", b"\r\n", FOUR, PORTS, b"\x03\0\x04"])
    | st.binary(max_size=4),
    max_size=12,
).map(b"".join)


class AnyBytesTests(ProxyCase):
    """Whatever comes."""

    @given(st.binary(max_size=300) | NEARLY)
    def test_any_bytes(self, data: bytes) -> None:
        """Any bytes are a header, or refused, or too few; the same however they are cut."""
        CASES.check(data)

    @given(NEARLY)
    def test_bounded(self, data: bytes) -> None:
        """What waits to be whole is never more than a header's length."""
        reader = HeaderReader()
        try:
            for at in range(len(data)):
                if reader.found is not None:
                    break
                reader.receive(data[at : at + 1])
        except NoProxyHeader:
            pass
        self.assertLessEqual(len(reader.rest), MAX_V2)
