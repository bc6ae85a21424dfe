"""Tests of ports that are open for one connection each."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import TestCase

from relaygate.addresses import ListenRule
from relaygate.commands import NotPermitted, NotPossible
from relaygate.legs import Leg
from relaygate.passive import LISTEN_LIMIT_S, MAX_TRIES, PassivePort, PassivePorts
from relaygate.test.farend import LOOPBACK, reactor, until
from relaygate.test.ports import free_span
from relaygate.test.wire import lines, logged

STRANGER = "127.0.0.2"
# Below what the kernel gives to those who do not ask for a port.
FIRST, LAST = free_span(LOOPBACK, 20)


class MovedReactor:
    """The reactor, with time of the test's own; what is due at once, the reactor does itself."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.seconds = self.clock.seconds

    def callLater(self, delay: float, *call: Any) -> Any:
        """See :class:`twisted.internet.interfaces.IReactorTime`."""
        return (self.clock if delay else reactor).callLater(delay, *call)

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)


class PortCase(TestCase):
    """A room of ports on loopback."""

    timeout = 180

    def setUp(self) -> None:
        self.moved = MovedReactor()
        self.ports = self.room(f"{LOOPBACK}:{FIRST}-{LAST}")
        self.legs: list[Leg] = []
        self.expired = 0
        self.opened: list[PassivePort] = []
        self.addCleanup(self.close)

    def room(self, *rules: str) -> PassivePorts:
        """A room with a policy of *rules*."""
        parsed = [ListenRule.parse(rule) for rule in rules]
        return PassivePorts(self.moved, parsed, random.Random(7).sample)

    def open(
        self, span: tuple[int, int] = (FIRST, LAST), room: PassivePorts | None = None
    ) -> PassivePort:
        """Open a port of *span* for clients of loopback's first address."""
        port = (room or self.ports).open(
            LOOPBACK, span, lambda address: address == LOOPBACK, self.legs.append, self.expire
        )
        self.opened.append(port)
        return port

    def expire(self) -> None:
        """Count a port whose time was up."""
        self.expired += 1

    def connect(self, number: int, source: str = LOOPBACK) -> socket.socket:
        """Connect to a port, from *source*."""
        skt = socket.create_connection((LOOPBACK, number), 5, (source, 0))
        self.addCleanup(skt.close)
        return skt

    def is_bound(self, number: int) -> bool:
        """Whether anybody listens on port *number*."""
        with socket.socket() as skt:
            return skt.connect_ex((LOOPBACK, number)) == 0

    async def given_back(self, number: int) -> None:
        """Wait until nobody listens on port *number*."""
        await until(lambda: not self.is_bound(number), "a port given back")
        self.assertEqual(self.ports.bound, set())

    async def close(self) -> None:
        """Leave nothing open."""
        for port in self.opened:
            port.close()
        for leg in self.legs:
            leg.abortConnection()
        self.moved.clock.advance(LISTEN_LIMIT_S)
        await until(lambda: not any(leg.connected for leg in self.legs), "the legs' end")


class OpenTests(PortCase):
    """Which port is opened."""

    def test_random(self) -> None:
        """Ports are drawn, not counted: nobody can tell the next one (Requirement 21)."""
        numbers = []
        for _ in range(10):
            port = self.open()
            numbers.append(port.number)
            port.close()
        self.assertTrue(all(FIRST <= number <= LAST for number in numbers))
        self.assertGreater(len(set(numbers)), 3)
        self.assertNotEqual(numbers, sorted(numbers))

    def test_policy(self) -> None:
        """Only ports that the DMZ's own policy has on this address are opened (Lesson 10)."""
        room = self.room("192.0.2.1:1-65535", f"0.0.0.0:{LAST}-{LAST + 5}", "[::]:1-65535")
        self.assertEqual(self.open(room=room).number, LAST)
        error = self.assertRaises(NotPermitted, self.open, (FIRST, LAST - 1), room)
        self.assertIn("policy.listen permits none", str(error))
        self.assertRaises(NotPermitted, self.open, (LAST, FIRST), self.ports)

    async def test_range_used_up(self) -> None:
        """A range that is used up is an error at once, and serves again when a port is free."""
        ports = [self.open() for _ in range(FIRST, LAST + 1)]
        self.assertEqual({port.number for port in ports}, set(range(FIRST, LAST + 1)))
        error = self.assertRaises(NotPossible, self.open)
        self.assertIn(f"no port of {FIRST}-{LAST} is free", str(error))
        ports[3].close()
        await until(lambda: not self.is_bound(ports[3].number), "a port given back")
        self.assertEqual(self.open().number, ports[3].number)

    def test_ports_of_others(self) -> None:
        """A port that another program holds is passed over (Requirement 21)."""
        with socket.create_server((LOOPBACK, FIRST)):
            self.assertEqual(self.open((FIRST, FIRST + 1)).number, FIRST + 1)
            self.assertRaises(NotPossible, self.open, (FIRST, FIRST + 1))

    def test_so_many_tries(self) -> None:
        """Where everything is taken by others, the search has an end."""
        numbers = range(21_000, 21_000 + 2 * MAX_TRIES)
        with ExitStack() as taken:
            for number in numbers:
                taken.enter_context(socket.create_server((LOOPBACK, number)))
            room = self.room(f"{LOOPBACK}:{numbers[0]}-{numbers[-1]}")
            self.assertRaises(NotPossible, self.open, (21_000, 65_535), room)


class AcceptTests(PortCase):
    """Who is let in, and what becomes of the port."""

    async def test_one(self) -> None:
        """The connection that was expected is handed over unread, and the port is given back."""
        number = self.open().number
        client = self.connect(number)
        client.sendall(b"first")
        await until(lambda: self.legs, "the accepted leg")
        await self.given_back(number)
        (leg,) = self.legs
        self.assertEqual(leg.getPeer().port, client.getsockname()[1])
        self.assertEqual(leg.socket.recv(10), b"first")

    async def test_only_one(self) -> None:
        """Of several that connect at once one is taken; the others are closed (Requirement 21)."""
        number = self.open().number
        clients = [self.connect(number) for _ in range(5)]
        await until(lambda: self.legs, "the accepted leg")
        await self.given_back(number)
        self.assertEqual(len(self.legs), 1)
        taken = self.legs[0].getPeer().port
        for client in clients:
            if client.getsockname()[1] != taken:
                try:
                    self.assertEqual(client.recv(1), b"")
                except ConnectionResetError:
                    pass

    async def test_stranger(self) -> None:
        """Who is not expected is reset and logged; the port stays (Requirement 22)."""
        number = self.open().number
        with logged() as events:
            stranger = self.connect(number, STRANGER)
            stranger.setblocking(False)
            await until(lambda: lines(events, "stranger closed"), "the line")
        self.assertIn(f"address={STRANGER} port={number}", lines(events, "stranger closed")[0])
        self.assertEqual(self.legs, [])
        stranger.setblocking(True)
        self.assertRaises(ConnectionResetError, stranger.recv, 1)
        self.connect(number)
        await until(lambda: self.legs, "the accepted leg")

    async def test_strangers_in_front(self) -> None:
        """However many strangers come first, the client is let in behind them (Requirement 22)."""
        number = self.open().number
        for _ in range(100):
            self.connect(number, STRANGER)
        client = self.connect(number)
        await until(lambda: self.legs, "the accepted leg")
        self.assertEqual(self.legs[0].getPeer().port, client.getsockname()[1])
        await self.given_back(number)

    async def test_strangers_do_not_fill_the_log(self) -> None:
        """Many strangers leave few lines, which say how many they stand for."""
        number = self.open().number
        with logged() as events:
            for _ in range(30):
                self.connect(number, STRANGER)
            self.connect(number)
            await until(lambda: self.legs, "the accepted leg")
        self.assertEqual(len(lines(events, "stranger closed")), 20)

    async def test_time_limit(self) -> None:
        """A port that nobody comes to is given back after a minute (Requirement 21)."""
        number = self.open().number
        self.moved.clock.advance(LISTEN_LIMIT_S - 0.1)
        self.assertEqual(self.expired, 0)
        self.moved.clock.advance(0.1)
        self.assertEqual(self.expired, 1)
        await self.given_back(number)
        self.assertEqual(self.moved.clock.getDelayedCalls(), [])

    async def test_closed(self) -> None:
        """A port that is closed is given back, at once and for good."""
        port = self.open()
        port.close()
        port.close()
        await self.given_back(port.number)
        self.assertEqual(self.moved.clock.getDelayedCalls(), [])
        self.assertEqual(self.expired, 0)
