"""Tests of who may come: sets of networks, rates, bans and offences, against plain models."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

from twisted.trial.unittest import SynchronousTestCase

from relaygate.bans import FORGIVEN_S, Bans, Offences, Penance, TooManyBans
from relaygate.networks import (
    FOUR,
    SIX,
    Network,
    NetworkSet,
    NotSpans,
    Spans,
    network_of,
    source_of,
    span_of,
    spans_of,
)
from relaygate.rates import OVER_S, Rated, Rates
from relaygate.test.properties import given, st

# Few bits differ, so that networks meet, overlap and touch.
TEXTS = st.one_of(
    st.from_regex(r"\A[0-9]{1,3}(\.[0-9]{1,3}){3}(/[0-9]{1,3})?\Z"),
    st.from_regex(r"\A(0|10|192|255|256|01)(\.(0|1|128|255)){3}(/(0|8|08|24|31|32|33))?\Z"),
    st.from_regex(r"\A[0-9a-f:.%/ ]{1,20}\Z"),
)
NETWORKS = st.one_of(
    st.builds(
        lambda low, bits: ip_network((0xC0000200 | low >> bits << bits, 32 - bits)),
        st.integers(0, 255),
        st.integers(0, 8),
    ),
    st.builds(
        lambda low, bits: ip_network(((0x20010DB8 << 96) | low >> bits << bits, 128 - bits)),
        st.integers(0, 255),
        st.integers(0, 8),
    ),
)
ADDRESSES = st.one_of(
    st.integers(0xC0000200 - 2, 0xC00002FF + 2).map(lambda number: str(ip_address(number))),
    st.integers((0x20010DB8 << 96) - 2, (0x20010DB8 << 96) + 258).map(
        lambda number: str(ip_address(number))
    ),
    st.ip_addresses().map(str),
)


def networks(*texts: str) -> list[Network]:
    """Networks of their texts."""
    return [network_of(text) for text in texts]


class NetworkSetTests(SynchronousTestCase):
    """Sets of networks."""

    @given(st.lists(NETWORKS, max_size=12), st.lists(ADDRESSES, max_size=12))
    def test_against_ipaddress(self, members: list[Network], addresses: list[str]) -> None:
        """An address is in the set if it is in one of its networks."""
        made = NetworkSet.of(members)
        for address in addresses:
            expected = any(ip_address(address) in network for network in members)
            self.assertEqual(address in made, expected, address)

    @given(st.lists(NETWORKS, max_size=12), st.randoms())
    def test_same_addresses_same_name(self, members: list[Network], random: object) -> None:
        """Order, doubles and halves make no difference to a set's name."""
        halves = [
            half
            for network in members
            for half in (network.subnets() if network.prefixlen < network.max_prefixlen else ())
        ]
        shuffled = members + halves
        random.shuffle(shuffled)  # type: ignore[attr-defined]
        self.assertEqual(NetworkSet.of(members), NetworkSet.of(shuffled))
        self.assertEqual(len(NetworkSet.of(members)), len(NetworkSet.of(shuffled)))

    def test_whole_and_nothing(self) -> None:
        """The empty set has nobody, and a set of all has everybody of its family."""
        self.assertNotIn("192.0.2.1", NetworkSet())
        every = NetworkSet.of(networks("0.0.0.0/0"))
        for address in ("0.0.0.0", "255.255.255.255", "::ffff:192.0.2.1"):
            self.assertIn(address, every)
        self.assertNotIn("2001:db8::1", every)
        self.assertIn("fe80::1%eth0", NetworkSet.of(networks("fe80::/10")))

    def test_what_is_a_network(self) -> None:
        """Bits of the host, mapped addresses, zones and names are refused."""
        self.assertEqual(str(network_of("203.0.113.9")), "203.0.113.9/32")
        for text in ("203.0.113.9/24", "::ffff:192.0.2.0/120", "fe80::1%eth0", "host", "", "1.2.3"):
            self.assertRaises(ValueError, network_of, text)

    @given(TEXTS)
    def test_the_short_way(self, text: str) -> None:
        """Lines of long lists are read as any network is, only faster."""
        try:
            expected = next(spans_of([network_of(text)]))
        except ValueError:
            self.assertRaises(ValueError, span_of, text)
        else:
            self.assertEqual(span_of(text), expected)

    @given(st.lists(NETWORKS, max_size=12), st.integers(1, 4))
    def test_pages(self, members: list[Network], size: int) -> None:
        """A set that is cut into pages is the same when they have arrived."""
        made = NetworkSet.of(members)
        four, six = Spans(FOUR), Spans(SIX)
        for spans, data, width in ((four, made.four, FOUR), (six, made.six, SIX)):
            step = size * 2 * width
            for at in range(0, len(data), step):
                spans.add(data[at : at + step])
        self.assertEqual(NetworkSet(bytes(four), bytes(six)), made)

    @given(st.lists(st.binary(min_size=8, max_size=8), max_size=6))
    def test_any_pages(self, pages: list[bytes]) -> None:
        """What is not in order is refused, so that a bisection never errs (Requirement 85)."""
        spans = Spans(FOUR)
        try:
            for page in pages:
                spans.add(page)
        except NotSpans:
            return
        ends = [pages[at // 2][at % 2 * 4 :][:4] for at in range(2 * len(pages))]
        self.assertEqual(ends, sorted(ends))

    def test_bad_pages(self) -> None:
        """Cut, turned round, overlapping: none is taken."""
        for page in (b"1234567", b"22221111", b"11112222" + b"22223333"):
            self.assertRaises(NotSpans, Spans(FOUR).add, page)

    def test_source(self) -> None:
        """IPv6 clients are told apart by their /64."""
        self.assertEqual(source_of("192.0.2.1"), "192.0.2.1")
        self.assertEqual(source_of("2001:db8:1:2:3::4"), "2001:db8:1:2::/64")
        self.assertEqual(source_of("::ffff:192.0.2.1"), "192.0.2.1")


class RateTests(SynchronousTestCase):
    """New sessions a second."""

    def passed(self, rated: Rated, source: str, count: int, now: float) -> int:
        """How many of *count* get through."""
        return sum(rated.admits(source, now) for _ in range(count))

    def test_no_rate(self) -> None:
        """Zero is no bound, and takes no memory."""
        rated = Rated(Rates())
        self.assertEqual(self.passed(rated, "a", 1000, 0.0), 1000)
        self.assertEqual(len(rated), 0)

    def test_on_average(self) -> None:
        """A burst of ten seconds' worth passes, then the rate holds, for each source by itself."""
        rated = Rated(Rates(per_address=5))
        burst = int(5 * OVER_S)
        self.assertEqual(self.passed(rated, "a", 1000, 0.0), burst)
        self.assertEqual(self.passed(rated, "b", 1000, 0.0), burst)
        self.assertEqual(self.passed(rated, "a", 1000, 1.0), 5)
        self.assertEqual(self.passed(rated, "a", 1000, 100.0), burst)

    def test_in_all(self) -> None:
        """The whole has a rate of its own, and who is over their own does not use it up."""
        rated = Rated(Rates(total=2, per_address=1))
        self.assertEqual(self.passed(rated, "a", 1000, 0.0), 10)
        self.assertEqual(sum(self.passed(rated, str(n), 1, 0.0) for n in range(100)), 10)

    def test_memory(self) -> None:
        """Sources that are back to nothing are forgotten, and there are never too many."""
        rated = Rated(Rates(per_address=1))
        for number in range(1000):
            rated.admits(str(number), number * 0.001)
        self.assertEqual(len(rated), 1000)
        for number in range(600):
            rated.admits("a", 100.0 + number)
        self.assertEqual(len(rated), 1)
        self.patch(__import__("relaygate.rates", fromlist=["x"]), "MAX_SOURCES", 50)
        for number in range(1000):
            rated.admits(str(number), 1000.0)
        self.assertLessEqual(len(rated), 51)


class BanTests(SynchronousTestCase):
    """Bans run out, and their table is bounded."""

    def test_one_and_many(self) -> None:
        """Addresses and networks of both families are banned, and let in again."""
        bans = Bans()
        for network in networks("192.0.2.1", "198.51.100.0/24", "2001:db8::/64"):
            bans.add(network, 60.0, 0.0)
        held = ("192.0.2.1", "198.51.100.77", "2001:db8::99")
        for address in held:
            self.assertTrue(bans.hold(address, 59.0), address)
        for address in ("192.0.2.2", "198.51.101.1", "2001:db8:0:1::99"):
            self.assertFalse(bans.hold(address, 59.0), address)
        self.assertTrue(bans.remove(network_of("198.51.100.0/24")))
        self.assertFalse(bans.remove(network_of("198.51.100.0/24")))
        self.assertFalse(bans.hold("198.51.100.77", 59.0))
        self.assertEqual(bans.rows(20.0), [("192.0.2.1", 40.0), ("2001:db8::/64", 40.0)])

    def test_they_run_out(self) -> None:
        """A ban ends by itself, unless it is renewed; then nothing is left of it."""
        bans = Bans()
        bans.add(network_of("192.0.2.1"), 60.0, 0.0)
        bans.add(network_of("192.0.2.1"), 60.0, 30.0)
        self.assertTrue(bans.hold("192.0.2.1", 89.9))
        self.assertFalse(bans.hold("192.0.2.1", 90.0))
        self.assertEqual((len(bans), len(bans._prefixes), len(bans._ends)), (0, 0, 0))

    def test_bounded(self) -> None:
        """A full table takes no more, until one has run out; renewing takes no memory."""
        bans = Bans(limit=2)
        bans.add(network_of("192.0.2.1"), 10.0, 0.0)
        for _ in range(1000):
            bans.add(network_of("192.0.2.2"), 100.0, 0.0)
        self.assertLess(len(bans._ends), 100)
        self.assertRaises(TooManyBans, bans.add, network_of("192.0.2.3"), 10.0, 5.0)
        bans.add(network_of("192.0.2.3"), 10.0, 10.0)
        self.assertEqual([row[0] for row in bans.rows(10.0)], ["192.0.2.2", "192.0.2.3"])


class OffenceTests(SynchronousTestCase):
    """What makes a ban (Requirement 87)."""

    def test_too_often(self) -> None:
        """The last one of so many within the time is too much, and then it begins anew."""
        offences = Offences(3, 60.0)
        self.assertEqual(
            [offences.count("a", at) for at in (0.0, 20.0, 60.0)], [False, False, True]
        )
        self.assertEqual([offences.count("a", at) for at in (61.0, 62.0)], [False, False])
        self.assertFalse(offences.count("a", 121.5))

    def test_each_by_itself(self) -> None:
        """Another source's offences do not count, and one offence can be enough."""
        offences = Offences(2, 60.0)
        self.assertEqual([offences.count(source, 0.0) for source in "abc"], [False] * 3)
        self.assertTrue(Offences(1, 60.0).count("a", 0.0))

    def test_memory(self) -> None:
        """Sources are forgotten when their time is over, and there are never too many."""
        offences = Offences(2, 60.0)
        for number in range(100):
            offences.count(str(number), 0.0)
        offences.count("a", 61.0)
        self.assertEqual(len(offences), 1)
        self.patch(__import__("relaygate.bans", fromlist=["x"]), "MAX_SUSPECTS", 50)
        for number in range(1000):
            offences.count(str(number), 62.0)
        self.assertEqual(len(offences), 50)


class PenanceTests(SynchronousTestCase):
    """How long who guesses waits (Requirement 87)."""

    def test_grows(self) -> None:
        """Three refusals cost nothing, each one behind them more, up to a bound, then nothing."""
        penance = Penance()
        waits = []
        for _ in range(7):
            penance.refused("a", 0.0)
            waits.append(penance.wait_s("a", 0.0))
        self.assertEqual(waits, [0.0, 0.0, 1.0, 2.0, 4.0, 5.0, 5.0])
        self.assertEqual(penance.wait_s("b", 0.0), 0.0)
        penance.pardon("b")
        self.assertEqual(penance.wait_s("a", FORGIVEN_S), 5.0)
        self.assertEqual(penance.wait_s("a", FORGIVEN_S + 0.1), 0.0)
        penance.refused("a", FORGIVEN_S + 0.1)
        self.assertEqual(penance.wait_s("a", FORGIVEN_S + 0.1), 0.0)

    def test_pardon(self) -> None:
        """A right password is a new beginning for all behind its address."""
        penance = Penance()
        for _ in range(5):
            penance.refused("a", 0.0)
        penance.pardon("a")
        self.assertEqual(penance.wait_s("a", 0.0), 0.0)
        penance.refused("a", 0.0)
        self.assertEqual(penance.wait_s("a", 0.0), 0.0)

    def test_memory(self) -> None:
        """Who is forgiven is forgotten, and there are never too many."""
        penance = Penance()
        for number in range(100):
            penance.refused(str(number), 0.0)
        penance.refused("a", FORGIVEN_S + 1.0)
        self.assertEqual(len(penance), 1)
        self.patch(__import__("relaygate.bans", fromlist=["x"]), "MAX_SUSPECTS", 50)
        for number in range(1000):
            penance.refused(str(number), FORGIVEN_S + 2.0)
        self.assertEqual(len(penance), 50)
