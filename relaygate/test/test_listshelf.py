"""Tests of lists of networks on their way: files, pages, bounds, and DMZ nodes of other ages."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from relaygate import commands, listshelf
from relaygate.addresses import AddressError
from relaygate.commands import BadArgument, NotPossible, OutOfOrder
from relaygate.config import ConfigError, load_internal
from relaygate.config.internal import InternalConfig
from relaygate.listpush import put_bans, put_lists, put_networks
from relaygate.listshelf import ListShelf
from relaygate.networks import NetworkSet, network_of
from relaygate.uplink import UplinkFailed

BIG = NetworkSet.of(
    [network_of(f"10.{n >> 8}.{n & 255}.0/25") for n in range(10_000)]
    + [network_of(f"2001:db8:{n:x}::/49") for n in range(2_000)]
)
SMALL = NetworkSet.of([network_of("192.0.2.0/24")])


class Far:
    """An uplink's other end: puts what it is told on a shelf, as a DMZ node does."""

    def __init__(self, shelf: ListShelf) -> None:
        self.shelf = shelf
        self.asked: list[dict[str, Any]] = []

    async def ask(self, command: object, **told: Any) -> dict[str, Any]:
        self.asked.append(told)
        if command is commands.Ban:
            return {"full": 0}
        try:
            return {"known": self.shelf.put(**told)}
        except (BadArgument, OutOfOrder, NotPossible) as error:
            raise UplinkFailed(str(error)) from None


class ShelfTests(SynchronousTestCase):
    """The DMZ's end (Requirement 85)."""

    def setUp(self) -> None:
        self.known: WeakValueDictionary[str, NetworkSet] = WeakValueDictionary()
        self.shelf = ListShelf(self.known)
        self.far: Any = Far(self.shelf)

    def put(self, networks: NetworkSet) -> None:
        """Push a list."""
        self.successResultOf(Deferred.fromCoroutine(put_networks(self.far, networks)))

    def test_pages(self) -> None:
        """A list arrives in pages that fit, and is the same."""
        self.put(BIG)
        self.assertEqual(self.shelf.find(BIG.name), BIG)
        self.assertGreater(len(self.far.asked), 2)
        for page in self.far.asked:
            for family in ("four", "six"):
                self.assertLessEqual(len(page[family]), commands.LIST_PAGE_BYTES)
        self.assertIsNone(self.shelf.find(None))
        self.assertIsNone(self.shelf.find(""))

    def test_known(self) -> None:
        """What any node has put is not sent again, and is held once, as long as it is used."""
        self.put(BIG)
        other = ListShelf(self.known)
        far: Any = Far(other)
        self.successResultOf(Deferred.fromCoroutine(put_networks(far, BIG)))
        self.assertEqual(len(far.asked), 1)
        self.assertIs(other.find(BIG.name), self.shelf.find(BIG.name))
        for shelf in (self.shelf, other):
            shelf.keep([SMALL.name, None])
            self.assertRaises(AddressError, shelf.find, BIG.name)
        self.assertEqual(len(self.known), 0)

    def test_out_of_order(self) -> None:
        """A page that is not due, or of another list, is refused; what stands stays."""
        self.put(SMALL)
        for name, page in (("a" * 32, 1), ("b" * 32, 2)):
            self.assertRaises(OutOfOrder, self.shelf.put, name, page, False, b"", b"")
        self.shelf.put("a" * 32, 0, False, bytes(8), b"")
        self.assertRaises(OutOfOrder, self.shelf.put, "b" * 32, 1, True, b"", b"")
        self.assertEqual(self.shelf.find(SMALL.name), SMALL)

    def test_wrong(self) -> None:
        """Spans out of order, and a name that its networks do not make, are refused."""
        wrong = bytes(4) + b"\xff" * 4 + bytes(8)
        self.assertRaises(BadArgument, self.shelf.put, "a" * 32, 0, True, wrong, b"")
        self.assertRaises(BadArgument, self.shelf.put, "a" * 32, 0, True, SMALL.four, b"")
        self.assertRaises(AddressError, self.shelf.find, "a" * 32)

    def test_bounded(self) -> None:
        """So many bytes and lists of one node, and not one more."""
        self.patch(listshelf, "MAX_BYTES", len(SMALL.four) + 8)
        self.put(SMALL)
        more = NetworkSet.of([network_of("198.51.100.0/26"), network_of("198.51.100.128/26")])
        self.assertRaises(NotPossible, self.shelf.put, "a" * 32, 0, False, more.four, b"")
        self.patch(listshelf, "MAX_BYTES", 10_000)
        self.patch(listshelf, "MAX_LISTS", 1)
        other = NetworkSet.of([network_of("198.51.100.0/24")])
        pushing = Deferred.fromCoroutine(put_networks(self.far, other))
        self.failureResultOf(pushing, UplinkFailed)
        self.put(SMALL)


class PushTests(SynchronousTestCase):
    """The inside's end."""

    def test_older_gateway(self) -> None:
        """A DMZ node that knows no lists is told of none (Lesson 31)."""
        far: Any = Far(ListShelf({}))
        services: list[dict[str, Any]] = [{"name": "a", "deny": SMALL}, {"name": "b"}]
        work = Deferred.fromCoroutine(put_lists(far, services, 1))
        self.assertEqual(self.successResultOf(work), [{"name": "a"}, {"name": "b"}])
        self.assertEqual(far.asked, [])

    def test_once_each(self) -> None:
        """Many services with one list push it once, and name it."""
        far: Any = Far(ListShelf({}))
        services = [{"name": name, "deny": SMALL, "allow": None} for name in "abc"]
        named = self.successResultOf(Deferred.fromCoroutine(put_lists(far, services, 2)))
        self.assertEqual(named, [{"name": name, "deny": SMALL.name} for name in "abc"])
        self.assertEqual(len(far.asked), 1)

    def test_bans(self) -> None:
        """Bans go in pages, and what is left of a second counts as a whole one."""
        far: Any = Far(ListShelf({}))
        bans = [(f"192.0.2.{n % 250}", 0.25) for n in range(commands.BANS_PER_PAGE + 1)]
        self.assertEqual(self.successResultOf(Deferred.fromCoroutine(put_bans(far, bans))), 0)
        self.assertEqual([len(each["bans"]) for each in far.asked], [500, 1])
        self.assertEqual(far.asked[1]["bans"][0]["seconds"], 1)


CONFIG = """
[identity]
certificate = "c"
key = "k"
ca = "a"
[[gateway]]
address = "192.0.2.1:7443"
name = "dmz"
[[service]]
name = "sftp"
protocol = "ssh"
listen = "0.0.0.0:22"
backends = ["192.0.2.9:22"]
"""


class FileTests(SynchronousTestCase):
    """Lists in the configuration and in files beside it."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()

    def load(self, keys: str, listed: bytes = b"") -> InternalConfig:
        """The configuration of a service with *keys*; ``list.txt`` holds *listed*."""
        (self.folder / "list.txt").write_bytes(listed)
        file = self.folder / "internal.toml"
        file.write_text(CONFIG + keys)
        return load_internal(file)

    def mistakes(self, keys: str, listed: bytes = b"") -> list[str]:
        """What is wrong with it."""
        with self.assertRaises(ConfigError) as caught:
            self.load(keys, listed)
        return [f"{each.key}: {each.message}" for each in caught.exception.problems]

    def test_both(self) -> None:
        """A list and its file are one set; comments and empty lines are left out."""
        listed = b"# partners\n198.51.100.0/24  # one\r\n\n2001:db8::/32\n"
        keys = 'allow = ["192.0.2.1"]\nallow_file = "list.txt"\n'
        (service,) = self.load(keys, listed).services
        expected = ("192.0.2.1", "198.51.100.0/24", "2001:db8::/32")
        self.assertEqual(service.allow, NetworkSet.of([network_of(each) for each in expected]))
        self.assertIsNone(service.deny)

    def test_mistakes(self) -> None:
        """Each line that is no network is told by its number; an empty list is a mistake."""
        found = self.mistakes('deny_file = "list.txt"\n', b"10.0.0.0/8\n10.0.0.1/8\nhost\n\xff\n")
        where = 'service "sftp".deny_file: expected a network or an address'
        expected = [f"{where} in line {number} of the file" for number in (2, 3, 4)]
        self.assertEqual(found, expected)
        (empty,) = self.mistakes('allow_file = "list.txt"\n', b"# nobody\n")
        self.assertIn("at least one network", empty)
        (missing,) = self.mistakes('allow_file = "nowhere.txt"\n')
        self.assertIn("No such file", missing)
        self.assertEqual(len(self.mistakes('deny_file = "list.txt"\n', b"x\n" * 1000)), 10)
        (bad,) = self.mistakes('deny = ["192.0.2.1/24"]\n')
        self.assertIn("deny[1]: expected a network or an address", bad)

    def test_any_order(self) -> None:
        """What a reload compares is the same however the file is sorted."""
        one = self.load('deny_file = "list.txt"\n', b"192.0.2.0/25\n192.0.2.128/25\n")
        other = self.load('deny_file = "list.txt"\n', b"192.0.2.0/24\n")
        self.assertEqual(one.services, other.services)
