"""Tests for :mod:`relaygate.addresses`."""

from __future__ import annotations

import contextlib
import ipaddress

from twisted.trial.unittest import SynchronousTestCase

from relaygate.addresses import AddressError, HostPort, ListenRule, canonical_name
from relaygate.test.properties import example, given, st

PORTS = st.integers(1, 65535)
LABELS = st.from_regex(r"[a-zA-Z]([a-zA-Z0-9-]{0,20}[a-zA-Z0-9])?", fullmatch=True)
NAMES = st.lists(LABELS, min_size=1, max_size=5).map(".".join)
LITERALS = st.ip_addresses().filter(
    lambda address: address.version == 4 or address.ipv4_mapped is None
)
# Text that is nearly an address finds more than text from all of Unicode.
NEARLY = st.text(alphabet="0123456789abfx.:[]-% \n\0é\ud800", max_size=24)


class HostPortTests(SynchronousTestCase):
    """What is an address, and in which form it is kept."""

    def test_canonical(self) -> None:
        """Every way of writing an address becomes its one canonical form."""
        for text, host, port, again in [
            ("192.0.2.1:22", "192.0.2.1", 22, "192.0.2.1:22"),
            ("0.0.0.0:1", "0.0.0.0", 1, "0.0.0.0:1"),
            ("[::1]:22", "::1", 22, "[::1]:22"),
            ("[::]:65535", "::", 65535, "[::]:65535"),
            ("[2001:DB8:0:0:0:0:0:1]:443", "2001:db8::1", 443, "[2001:db8::1]:443"),
            ("SFTP.Example:22", "sftp.example", 22, "sftp.example:22"),
            ("node-a:7443", "node-a", 7443, "node-a:7443"),
            ("3com.example:80", "3com.example", 80, "3com.example:80"),
            (f"{'a' * 63}.example:80", f"{'a' * 63}.example", 80, f"{'a' * 63}.example:80"),
        ]:
            parsed = HostPort.parse(text)
            self.assertEqual((parsed.host, parsed.port, str(parsed)), (host, port, again))

    def test_refused(self) -> None:
        """What is no address is refused, with the reason and without repeating the text."""
        for text, reason in [
            ("", "port is missing"),
            ("192.0.2.1", "port is missing"),
            ("[::1]", "port is missing"),
            (":22", "host is missing"),
            ("::1:22", "brackets"),
            ("[::1:22", "brackets"),
            ("[::1]x:22", "brackets"),
            ("[192.0.2.1]:22", "IPv6 addresses only"),
            ("[]:22", "not an IP address"),
            ("[host]:22", "not an IP address"),
            ("[::ffff:192.0.2.1]:22", "::ffff:"),
            ("[::ffff:0.0.0.0]:22", "::ffff:"),
            ("[fe80::1%eth0]:22", "zone"),
            ("host:", "port is"),
            ("host:0", "port is"),
            ("host:022", "port is"),
            ("host:65536", "port is"),
            ("host:+22", "port is"),
            ("host:22 ", "port is"),
            ("host:22\n", "port is"),
            ("host:\u0662\u0662", "port is"),
            ("host:ssh", "port is"),
            (" host:22", "letters, digits"),
            ("ho\nst:22", "letters, digits"),
            ("ho\0st:22", "letters, digits"),
            ("my_host:22", "letters, digits"),
            ("-host:22", "letters, digits"),
            ("host-:22", "letters, digits"),
            ("a..b:22", "letters, digits"),
            ("host.:22", "letters, digits"),
            (f"{'a' * 64}:22", "letters, digits"),
            (f"{'a.' * 127}aa:22", "253"),
            ("h\u00f6st.example:22", "ASCII"),
            ("\u212aelvin.example:22", "ASCII"),
            ("x" * 10_000, "too long"),
        ]:
            error = self.assertRaises(AddressError, HostPort.parse, text)
            self.assertIn(reason, str(error), text)
            self.assertTrue(str(error).isprintable(), text)

    def test_numbers_are_no_names(self) -> None:
        """What the system resolver would read as an IPv4 address is never taken for a name."""
        for host in ["127.1", "1", "0x7f.1", "0x7f000001", "010.0.0.1", "256.1.1.1", "a.0x"]:
            self.assertRaises(AddressError, HostPort.parse, f"{host}:22")

    def test_numeric(self) -> None:
        """A listener is an IP address; a name is refused even if it is well formed."""
        self.assertEqual(HostPort.parse("[::1]:22", numeric=True), HostPort("::1", 22))
        self.assertEqual(HostPort.parse("0.0.0.0:22", numeric=True), HostPort("0.0.0.0", 22))
        self.assertRaises(AddressError, HostPort.parse, "localhost:22", numeric=True)

    def test_literal(self) -> None:
        """The host can be had as an IP address, unless it is a name."""
        self.assertEqual(HostPort.parse("[::1]:22").literal, ipaddress.IPv6Address("::1"))
        self.assertIsNone(HostPort.parse("a.example:22").literal)

    def test_name_lengths(self) -> None:
        """A name of 253 characters passes and one of 254 does not (RFC 1035 2.3.4)."""
        longest = ".".join(["a" * 63] * 3 + ["b" * 61])
        self.assertEqual(canonical_name(longest), longest)
        self.assertRaises(AddressError, canonical_name, longest + "b")

    @given(st.text() | NEARLY)
    @example("[" * 100)
    @example("[::1%\n]:1")
    def test_any_text(self, text: str) -> None:
        """Any text is an address or an AddressError, and an address is in canonical form."""
        for numeric in (False, True):
            try:
                parsed = HostPort.parse(text, numeric=numeric)
            except AddressError:
                continue
            self.assertEqual(HostPort.parse(str(parsed), numeric=numeric), parsed)
            self.assertTrue(str(parsed).isascii())
            self.assertTrue(str(parsed).isprintable())

    @given(LITERALS, PORTS)
    def test_round_trip_literal(self, address: ipaddress.IPv4Address, port: int) -> None:
        """Every IP address survives writing and reading, and is numeric."""
        endpoint = HostPort(str(address), port)
        self.assertEqual(HostPort.parse(str(endpoint), numeric=True), endpoint)
        self.assertEqual(endpoint.literal, address)

    @given(NAMES, PORTS)
    def test_round_trip_name(self, name: str, port: int) -> None:
        """Every name survives writing and reading, in lower case."""
        if name.rpartition(".")[2].lower().startswith("0x"):
            return
        parsed = HostPort.parse(f"{name}:{port}")
        self.assertEqual(parsed, HostPort(name.lower(), port))
        self.assertEqual(HostPort.parse(str(parsed)), parsed)


class ListenRuleTests(SynchronousTestCase):
    """What a rule permits."""

    def test_permits(self) -> None:
        """A wildcard permits its own family, a literal itself, and ports count at both ends."""
        for rule, wanted, verdict in [
            ("0.0.0.0:21-22", "0.0.0.0:21", True),
            ("0.0.0.0:21-22", "192.0.2.1:22", True),
            ("0.0.0.0:21-22", "192.0.2.1:23", False),
            ("0.0.0.0:21-22", "192.0.2.1:20", False),
            ("0.0.0.0:22", "[::]:22", False),
            ("0.0.0.0:22", "[2001:db8::1]:22", False),
            ("[::]:443", "[::]:443", True),
            ("[::]:443", "[2001:db8::1]:443", True),
            ("[::]:443", "0.0.0.0:443", False),
            ("[::]:443", "192.0.2.1:443", False),
            ("192.0.2.1:2222", "192.0.2.1:2222", True),
            ("192.0.2.1:2222", "192.0.2.2:2222", False),
            ("192.0.2.1:2222", "0.0.0.0:2222", False),
            ("[2001:db8::1]:22", "[2001:DB8:0::1]:22", True),
            ("[2001:db8::1]:22", "[::]:22", False),
            ("0.0.0.0:1-65535", "sftp.example:22", False),
        ]:
            permitted = ListenRule.parse(rule).permits(HostPort.parse(wanted))
            self.assertEqual(permitted, verdict, f"{rule} {wanted}")

    def test_unchecked_wish(self) -> None:
        """A wish that never went through parse cannot slip IPv4 under an IPv6 rule."""
        rule = ListenRule.parse("[::]:1-65535")
        for host in ["::ffff:0.0.0.0", "::ffff:192.0.2.1", "fe80::1%eth0", "localhost", ""]:
            self.assertFalse(rule.permits(HostPort(host, 22)), host)
        self.assertTrue(rule.permits(HostPort("0:0:0:0:0:0:0:0", 22)))

    def test_refused(self) -> None:
        """A rule is an IP address with a port or a rising range of ports."""
        for text in [
            "",
            "0.0.0.0",
            "0.0.0.0:",
            "0.0.0.0:0-22",
            "0.0.0.0:22-21",
            "0.0.0.0:21-",
            "0.0.0.0:-22",
            "0.0.0.0:21-22-23",
            "0.0.0.0:21 - 22",
            "0.0.0.0:21-65536",
            "*:22",
            "localhost:22",
            "10.0.0.0/8:22",
            "::443",
            "[::ffff:0.0.0.0]:22",
        ]:
            self.assertRaises(AddressError, ListenRule.parse, text)

    def test_text(self) -> None:
        """A rule is written as it is read, and one port is no range."""
        for text in ["0.0.0.0:21-22", "[::]:443", "192.0.2.1:1-65535"]:
            self.assertEqual(str(ListenRule.parse(text)), text)
        self.assertEqual(str(ListenRule.parse("[0::0]:22-22")), "[::]:22")

    @given(LITERALS, PORTS, PORTS, LITERALS, PORTS)
    def test_meaning(
        self,
        own: ipaddress.IPv4Address,
        low: int,
        high: int,
        other: ipaddress.IPv4Address,
        port: int,
    ) -> None:
        """A rule survives writing and reading, and permits exactly its address and its ports."""
        low, high = sorted((low, high))
        rule = ListenRule(str(own), low, high)
        self.assertEqual(ListenRule.parse(str(rule)), rule)
        self.assertEqual(rule.permits(HostPort(str(own), port)), low <= port <= high)
        if not own.is_unspecified and own != other:
            self.assertFalse(rule.permits(HostPort(str(other), low)))

    @given(st.text() | NEARLY)
    def test_any_text(self, text: str) -> None:
        """Any text is a rule or an AddressError."""
        with contextlib.suppress(AddressError):
            rule = ListenRule.parse(text)
            self.assertEqual(ListenRule.parse(str(rule)), rule)
