"""Dialling: what is reached, what is not and why, and that nothing is left of a try given up."""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from functools import partial
from typing import Any, cast

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import (
    IAddress,
    IHostnameResolver,
    IHostResolution,
    IResolutionReceiver,
)
from twisted.trial.unittest import TestCase
from zope.interface import implementer

from relaygate.addresses import HostPort
from relaygate.dial import DialFailed, dial
from relaygate.dialleg import DialledLeg
from relaygate.legs import Leg
from relaygate.test.dataplane import gone, warm_up
from relaygate.test.farend import LOOPBACK, Peer, fails, open_descriptors, reactor, until


@implementer(IHostnameResolver)
class Names:
    """A resolver that knows the names that a test gives it, or never answers."""

    def __init__(self, known: dict[str, Sequence[str]], *, silent: bool = False) -> None:
        self.known = known
        self.silent = silent
        self.asked: list[str] = []

    def resolveHostName(
        self,
        resolutionReceiver: IResolutionReceiver,
        hostName: str,
        portNumber: int = 0,
        addressTypes: Sequence[type[IAddress]] | None = None,
        transportSemantics: str = "TCP",
    ) -> IHostResolution:
        self.asked.append(hostName)
        resolution = cast(IHostResolution, self)
        resolutionReceiver.resolutionBegan(resolution)
        if not self.silent:
            for host in self.known.get(hostName, ()):
                kind = IPv6Address if ":" in host else IPv4Address
                resolutionReceiver.addressResolved(kind("TCP", host, portNumber))
            resolutionReceiver.resolutionComplete()
        return resolution


class NamingReactor:
    """The real reactor with other names, and, if a test wants it, another clock."""

    def __init__(self, names: Names) -> None:
        self.nameResolver = names

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)


class DialCase(TestCase):
    """What the tests of dialling share."""

    timeout = 180

    def listener(self, host: str = LOOPBACK, backlog: int = 5) -> tuple[socket.socket, HostPort]:
        """A listening socket, until the test is over."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        skt = socket.create_server((host, 0), family=family, backlog=backlog)
        self.addCleanup(skt.close)
        return skt, HostPort(host, skt.getsockname()[1])

    def deaf(self, host: str = LOOPBACK) -> HostPort:
        """An address whose kernel drops every call, since the queue of its listener is full."""
        listener, address = self.listener(host, backlog=0)
        first = socket.create_connection(listener.getsockname()[:2], timeout=5)
        self.addCleanup(first.close)
        return address

    def closed(self) -> HostPort:
        """An address that nobody listens on."""
        listener, address = self.listener()
        listener.close()
        return address

    async def drop(self, leg: Leg) -> None:
        """Make an end of a leg."""
        leg.abortConnection()
        await gone(leg)


class ReachedTests(DialCase):
    """What is reached."""

    async def _talks(self, leg: Leg, listener: socket.socket) -> None:
        self.assertIsInstance(leg, Leg)
        skt, _ = listener.accept()
        peer = Peer(skt)
        try:
            leg.write(b"hello")
            await peer.has(5)
        finally:
            peer.close()
            await self.drop(leg)

    async def test_literals(self) -> None:
        """IPv4 and IPv6 literals are dialled without asking anybody."""
        for host in (LOOPBACK, "::1"):
            names = Names({})
            listener, address = self.listener(host)
            await self._talks(await dial(NamingReactor(names), address, 5), listener)
            self.assertEqual(names.asked, [])

    async def test_names(self) -> None:
        """A name is asked for, and its addresses are tried until one answers."""
        listener, address = self.listener()
        for addresses in ([LOOPBACK], ["::1", LOOPBACK], [LOOPBACK, "::1"]):
            names = Names({"sftp.example": addresses})
            leg = await dial(NamingReactor(names), HostPort("sftp.example", address.port), 5)
            await self._talks(leg, listener)
            self.assertEqual(names.asked, ["sftp.example"])

    async def test_not_yet_reading(self) -> None:
        """What a backend says at once stays in the kernel until the leg is taken (83)."""
        listener, address = self.listener()
        leg = await dial(reactor, address, 5)
        self.addCleanup(self.drop, leg)
        skt, _ = listener.accept()
        peer = Peer(skt)
        self.addCleanup(peer.close)
        peer.send(b"220 ready\r\n")
        await peer.emptied()
        self.assertNotIn(leg, reactor.getReaders())
        buffer = bytearray(20)
        self.assertEqual(leg.receive_into(memoryview(buffer)), 11)
        self.assertEqual(bytes(buffer[:11]), b"220 ready\r\n")


class NotReachedTests(DialCase):
    """What is not reached, and the few words that say why."""

    async def _fails(self, names: Names, address: HostPort, timeout_s: float) -> str:
        await warm_up()
        before = open_descriptors()
        words = str(await fails(dial(NamingReactor(names), address, timeout_s), DialFailed))
        self.assertNotRegex(words, r"\d+\.\d+\.\d+|::|" + re.escape(address.host))
        self.assertEqual(open_descriptors(), before)
        return words

    async def test_refused(self) -> None:
        """A port that nobody listens on refuses, by address and by name."""
        names = Names({"sftp.example": [LOOPBACK]})
        for host in (LOOPBACK, "sftp.example"):
            words = await self._fails(names, HostPort(host, self.closed().port), 5)
            self.assertEqual(words, "Connection refused")

    async def test_timed_out(self) -> None:
        """A backend that does not answer is given up in time, by address and by name."""
        names = Names({"sftp.example": [LOOPBACK]})
        port = self.deaf().port
        for host in (LOOPBACK, "sftp.example"):
            began = reactor.seconds()
            words = await self._fails(names, HostPort(host, port), 0.2)
            self.assertEqual(words, "timed out")
            self.assertLess(reactor.seconds() - began, 3)

    async def test_timed_out_on_ipv6(self) -> None:
        """The same for an IPv6 literal."""
        self.assertEqual(await self._fails(Names({}), self.deaf("::1"), 0.2), "timed out")

    async def test_resolver_is_slow(self) -> None:
        """The time counts for the name too: a resolver that never answers holds up nobody."""
        names = Names({}, silent=True)
        words = await self._fails(names, HostPort("sftp.example", 22), 0.2)
        self.assertEqual(words, "timed out")

    async def test_name_not_found(self) -> None:
        """A name that nobody knows."""
        words = await self._fails(Names({}), HostPort("sftp.example", 22), 5)
        self.assertEqual(words, "name not found")

    async def test_no_route(self) -> None:
        """A kernel that will not even try says so in its own words."""
        words = await self._fails(Names({}), HostPort("255.255.255.255", 22), 5)
        self.assertIn(words, ("Network is unreachable", "Permission denied", "Invalid argument"))


class CancelTests(DialCase):
    """Giving up."""

    def same(self, before: dict[str, str]) -> bool:
        """Whether the descriptors are those of *before*."""
        return open_descriptors() == before

    async def test_cancel(self) -> None:
        """A try that is given up says so, by address and by name, and leaves no descriptor."""
        port = self.deaf().port
        names = Names({"sftp.example": [LOOPBACK]})
        await warm_up()
        for host in (LOOPBACK, "sftp.example"):
            before = open_descriptors()
            trying = Deferred.fromCoroutine(dial(NamingReactor(names), HostPort(host, port), 30))
            trying.cancel()
            await fails(trying, CancelledError)
            await until(partial(self.same, before), "nothing is left")

    async def test_its_number_is_nobodys_in_this_turn(self) -> None:
        """The reactor may still have a word for a try that is given up: no new socket hears it."""
        trying = Deferred.fromCoroutine(dial(reactor, self.deaf(), 60))
        (leg,) = [each for each in reactor.getWriters() if isinstance(each, DialledLeg)]
        number = leg.fileno()
        trying.cancel()
        await fails(trying, CancelledError)
        with socket.socket() as new:
            self.assertNotEqual(new.fileno(), number)
        await until(lambda: leg.fileno() == -1, "its socket is closed")

    async def test_cancel_while_the_name_is_asked_for(self) -> None:
        """The same while the resolver is silent."""
        names = Names({}, silent=True)
        trying = Deferred.fromCoroutine(
            dial(NamingReactor(names), HostPort("sftp.example", 22), 30)
        )
        self.assertEqual(names.asked, ["sftp.example"])
        trying.cancel()
        await fails(trying, CancelledError)
