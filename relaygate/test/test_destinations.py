"""Tests of the rules for where a way out may lead."""

from __future__ import annotations

import ipaddress

from twisted.trial.unittest import SynchronousTestCase

from relaygate.addresses import AddressError, HostPort
from relaygate.destinations import ABUSED_PORTS, DestinationRule, Destinations, is_special
from relaygate.test.properties import given, st

PUBLIC = "8.8.4.4"
SPECIAL = (
    *("0.0.0.0", "10.1.2.3", "100.64.0.1", "127.0.0.1", "169.254.169.254", "172.16.0.1"),
    *("192.0.2.1", "192.168.0.1", "198.18.0.1", "203.0.113.1", "224.0.0.1", "240.0.0.1"),
    *("255.255.255.255", "::", "::1", "::10.0.0.1", "::ffff:8.8.8.8", "64:ff9b::a00:1"),
    *("100::1", "2001:db8::1", "2001:0:1::1", "2002:a00:1::1", "fc00::1", "fe80::1", "ff02::1"),
)


def destinations(*texts: str) -> Destinations:
    """What *texts* permit."""
    return Destinations(DestinationRule.parse(text) for text in texts)


def leads(rules: Destinations, wanted: str, *addresses: str, own: bool = False) -> bool:
    """Whether *wanted* may be reached at *addresses*."""
    return rules.lead_to(HostPort.parse(wanted), [(address, own) for address in addresses])


class RuleTests(SynchronousTestCase):
    """How a rule is written."""

    def test_forms(self) -> None:
        """Names, names below one, networks and addresses, each with ports, as they are shown."""
        for text in (
            "sftp.partner.example:22",
            "*.partner.example:443",
            "*:443",
            "203.0.113.0/24:21",
            "203.0.113.9:1024-65535",
            "[2001:db8::/32]:990",
            "[2001:db8::1]:22",
        ):
            self.assertEqual(str(DestinationRule.parse(text)), text)

    def test_single(self) -> None:
        """Only a rule for one host and one port is one for a single destination."""
        for text in ("sftp.partner.example:22", "203.0.113.9:22", "[2001:db8::1]:22"):
            self.assertEqual(str(DestinationRule.parse(text).single), text)
        for text in ("*.partner.example:22", "*:22", "203.0.113.0/24:22", "a.example:21-22"):
            self.assertIsNone(DestinationRule.parse(text).single)

    def test_no_rules(self) -> None:
        """What could be read in two ways is none, and ports are always written."""
        for text in (
            "sftp.partner.example",
            ":22",
            "a:0",
            "a:65536",
            "a:9-1",
            "a:1-",
            "a.:22",
            "a b:22",
            "*a.example:22",
            "a.*.example:22",
            "127.1:22",
            "203.0.113.1/24:22",
            "2001:db8::1:22",
            "[203.0.113.1]:22",
            "[::ffff:10.0.0.1]:22",
            "[sftp.example]:22",
            "x" * 400 + ":22",
        ):
            self.assertRaises(AddressError, DestinationRule.parse, text)

    @given(st.text(max_size=60))
    def test_any_text(self, text: str) -> None:
        """Any text is a rule that reads as it was written, or an error."""
        try:
            rule = DestinationRule.parse(text)
        except AddressError:
            return
        self.assertEqual(DestinationRule.parse(str(rule)), rule)


class SpecialTests(SynchronousTestCase):
    """Addresses that are none of a host on the public Internet."""

    def test_special(self) -> None:
        """Requirement 66: private and the like, multicast, and what is wrapped."""
        for text in [
            "0.0.0.0",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "192.0.2.1",
            "192.168.0.1",
            "198.18.0.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::10.0.0.1",
            "::ffff:8.8.8.8",
            "64:ff9b::a00:1",
            "100::1",
            "2001:db8::1",
            "2001:0:1::1",
            "2002:a00:1::1",
            "fc00::1",
            "fe80::1",
            "ff02::1",
            "fec0::1",
            "::808:808",
            "::ffff:0:a00:1",
            "64:ff9b:1::a00:1",
            "3fff::1",
            "5f00::1",
            "4000::1",
        ]:
            self.assertTrue(is_special(ipaddress.ip_address(text)), text)

    def test_public(self) -> None:
        """Those of the public Internet, wrapped ones of IPv4 too."""
        for text in [
            "1.1.1.1",
            "8.8.8.8",
            "2606:4700::1111",
            "64:ff9b::808:808",
            "2002:808:808::1",
        ]:
            self.assertFalse(is_special(ipaddress.ip_address(text)), text)


class DestinationTests(SynchronousTestCase):
    """What rules permit together."""

    def test_default(self) -> None:
        """No rule permits nothing."""
        self.assertFalse(leads(Destinations(), f"{PUBLIC}:22", PUBLIC))
        self.assertFalse(Destinations().names(HostPort(PUBLIC, 22)))

    def test_names(self) -> None:
        """A rule for a name permits its public addresses; what was asked for counts, too."""
        rules = destinations("sftp.partner.example:22", "*.other.example:1000-2000")
        self.assertTrue(leads(rules, "sftp.partner.example:22", PUBLIC, "2606:4700::1"))
        self.assertFalse(leads(rules, "sftp.partner.example:23", PUBLIC))
        self.assertFalse(leads(rules, "sftp.partner.example:22", "10.0.0.1"))
        self.assertFalse(leads(rules, "sftp.partner.example:22", PUBLIC, "10.0.0.1"))
        self.assertFalse(leads(rules, "sftp.partner.example:22"))
        self.assertFalse(leads(rules, f"{PUBLIC}:22", PUBLIC))
        self.assertTrue(leads(rules, "a.b.other.example:1500", PUBLIC))
        for host in ("other.example", "another.example", "xother.example"):
            self.assertFalse(leads(rules, f"{host}:1500", PUBLIC), host)

    def test_networks(self) -> None:
        """A rule for addresses permits them by whatever name, and wide ones nothing special."""
        rules = destinations("0.0.0.0/0:21", "10.0.0.0/8:22", "[fc00::/7]:22", "8.0.0.0/6:80")
        self.assertTrue(leads(rules, "any.example:21", PUBLIC))
        self.assertFalse(leads(rules, "any.example:21", "10.0.0.1"))
        self.assertTrue(leads(rules, "any.example:22", "10.0.0.1", "fd00::1"))
        self.assertTrue(leads(rules, "10.0.0.1:22", "10.0.0.1"))
        self.assertFalse(leads(rules, "10.0.0.1:80", "10.0.0.1"))
        self.assertFalse(leads(rules, "any.example:21", "2606:4700::1"))

    def test_own_addresses(self) -> None:
        """One of the node's own has to be named alone."""
        rules = destinations("*:22", "10.0.0.0/8:22", f"{PUBLIC}:22", "1.0.0.0/8:22")
        self.assertTrue(leads(rules, f"{PUBLIC}:22", PUBLIC, own=True))
        for address in ("10.0.0.1", "1.1.1.1"):
            self.assertFalse(leads(rules, "any.example:22", address, own=True))
            self.assertTrue(leads(rules, f"{address}:22", address))

    def test_abused_ports(self) -> None:
        """Requirement 67: mail and telephony have to be named alone."""
        wide, narrow = destinations("*:1-65535"), destinations(*(f"*:{p}" for p in ABUSED_PORTS))
        for port in ABUSED_PORTS:
            self.assertFalse(leads(wide, f"mail.example:{port}", PUBLIC))
            self.assertTrue(leads(narrow, f"mail.example:{port}", PUBLIC))

    def test_wrapping_networks(self) -> None:
        """A network of wrapped addresses permits special ones only where all of them are."""
        for network, address, permitted in (
            ("64:ff9b::/96", "64:ff9b::a00:1", False),
            ("64:ff9b::/97", "64:ff9b::a00:1", False),
            ("64:ff9b::/48", "64:ff9b::a00:1", False),
            ("64:ff9b::a00:0/104", "64:ff9b::a00:1", True),
            ("2002::/17", "2002:a00:1::1", False),
            ("2002:a00::/24", "2002:a00:1::1", True),
            ("::/7", "::1", False),
            ("64:ff9b:1::/48", "64:ff9b:1::a00:1", True),
        ):
            rule = DestinationRule.parse(f"[{network}]:22")
            covers = rule.covers_address(ipaddress.ip_address(address), own=False)
            self.assertEqual(covers, permitted, network)

    def test_before_looking_up(self) -> None:
        """A name that no rule can permit, whatever it leads to, needs no looking up."""
        rules = destinations("*.partner.example:22", "203.0.113.0/24:21")
        for name, port, may in (
            ("a.partner.example", 22, True),
            ("a.partner.example", 21, True),
            ("a.partner.example", 0, True),
            ("other.example", 22, False),
            ("other.example", 21, True),
            ("other.example", 80, False),
        ):
            self.assertIs(rules.may_lead(name, port), may, (name, port))
        self.assertFalse(destinations().may_lead("a.example", 0))
        self.assertFalse(destinations("a.example:22").may_lead("b.example", 0))

    def test_hosts(self) -> None:
        """A host is known where any of its ports is permitted."""
        rules = destinations("ftp.partner.example:21", "10.0.0.1:22")
        self.assertTrue(rules.know_host("ftp.partner.example", [(PUBLIC, False)]))
        self.assertTrue(rules.name_host("ftp.partner.example"))
        self.assertTrue(rules.know_host("10.0.0.1", [("10.0.0.1", False)]))
        self.assertFalse(rules.know_host("10.0.0.2", [("10.0.0.2", False)]))
        self.assertFalse(rules.name_host("other.example"))

    @given(st.ip_addresses(), st.ip_addresses(), st.integers(0, 128))
    def test_wide_rules_permit_nothing_special(
        self,
        address: ipaddress.IPv4Address | ipaddress.IPv6Address,
        base: ipaddress.IPv4Address | ipaddress.IPv6Address,
        length: int,
    ) -> None:
        """What permits a special address permits none that is not."""
        length = min(length, base.max_prefixlen)
        network = ipaddress.ip_network(f"{base}/{length}", strict=False)
        rule = DestinationRule("", network, 22, 22)
        if is_special(address) and rule.covers_address(address, own=False):
            self.assertTrue(is_special(network[0]))
            self.assertTrue(is_special(network[-1]))
            self.assertTrue(is_special(network[network.num_addresses // 2]))
