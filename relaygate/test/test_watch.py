"""Tests of failover between backends: marks, checks, and what becomes of the listener."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

from twisted.internet import reactor
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from relaygate import sshopening, watch
from relaygate.addresses import HostPort
from relaygate.backends import Backends
from relaygate.balance import Group, Member
from relaygate.config.balancing import HealthConfig
from relaygate.marks import FIRST_PAUSE_S
from relaygate.protocols.healthchecks import (
    CheckFailed,
    FTPCheck,
    HealthCheck,
    HTTPCheck,
    SSHCheck,
)
from relaygate.test.ports import free_port
from relaygate.test.test_sessions import (
    BANNER,
    Echo,
    End,
    FTPServer,
    SessionCase,
    SSHServer,
)
from relaygate.test.wire import lines, logged, until
from relaygate.watch import Checks, Watcher, check

twisted: Any = reactor


class Web(End):
    """A server that answers a request."""

    status = b"200 OK"

    def dataReceived(self, data: bytes) -> None:
        super().dataReceived(data)
        if self.data.endswith(b"\r\n\r\n"):
            self.transport.write(b"HTTP/1.1 %s\r\n\r\n" % self.status)  # type: ignore[union-attr]


class Sick(Web):
    """One that is not well."""

    status = b"503 no"


class Kept(Factory):
    """A factory that keeps what it has built."""

    def __init__(self, protocol: type[End]) -> None:
        self.protocol = protocol
        self.built: list[Any] = []

    def buildProtocol(self, addr: object) -> Any:
        made = super().buildProtocol(addr)  # type: ignore[arg-type]
        self.built.append(made)
        return made


class ServerCase(TestCase):
    """Tests with servers on loopback."""

    timeout = 60

    def serve(self, protocol: type[End], port: int = 0) -> tuple[Kept, HostPort, Any]:
        """Run a server."""
        factory = Kept(protocol)
        listening = twisted.listenTCP(port, factory, interface="127.0.0.1")
        self.addCleanup(self.stop, listening)
        return factory, HostPort("127.0.0.1", listening.getHost().port), listening

    async def stop(self, listening: Any) -> None:
        """End a server."""
        if listening.connected:
            await listening.stopListening()


def checks(make: Any, interval: float | None = None, timeout: float = 10.0) -> Checks:
    """Checks that *make* makes."""
    return Checks(make, interval, timeout, lambda: None)


class CheckTests(ServerCase):
    """One look at a backend."""

    async def test_good(self) -> None:
        """Each kind finds a server of its kind well, and takes leave of it (Requirement 47)."""
        for make, server, said in (
            (lambda _: HealthCheck(), Echo, b""),
            (lambda _: SSHCheck(), SSHServer, SSHCheck.leave),
            (lambda _: FTPCheck(), FTPServer, b"QUIT\r\n"),
            (lambda _: HTTPCheck("x", "/", (200,)), Web, HTTPCheck("x", "/", (200,)).first),
        ):
            factory, address, _ = self.serve(server)
            await check(reactor, address, checks(make))
            (served,) = factory.built
            await until(partial(getattr, served, "over"), "its end")
            self.assertEqual(served.data, said)

    async def test_bad(self) -> None:
        """Nobody there, nothing said, or the wrong thing: the reason is told."""
        nowhere = HostPort("127.0.0.1", free_port())
        _, mute, _ = self.serve(Echo)
        _, sick, _ = self.serve(Sick)
        http = checks(lambda _: HTTPCheck("x", "/", (200,)))
        for address, how, reason in (
            (nowhere, checks(lambda _: HealthCheck()), "refused"),
            (mute, checks(lambda _: SSHCheck(), timeout=0.2), "no answer in 0.2 s"),
            (sick, http, "it answers 503"),
        ):
            with self.assertRaises(CheckFailed) as caught:
                await check(reactor, address, how)
            self.assertIn(reason, str(caught.exception))


class WatcherTests(ServerCase):
    """Looks that repeat."""

    def watch(self, address: HostPort, interval: float | None, *more: HostPort) -> Backends:
        """Watch the backends there."""
        group: Group[HostPort] = Group("round-robin")
        group.members = [Member(each, str(each)) for each in (address, *more)]
        backends = Backends("svc", group, reactor)
        how = checks(lambda _: SSHCheck(), interval)
        watcher = Watcher(backends, how, reactor, lambda: 0.5)
        backends.changed = watcher.look
        watcher.startService()
        self.addCleanup(watcher.stopService)
        return backends

    async def test_regular(self) -> None:
        """With an interval a backend that goes is found down, and up when it is back."""
        _, address, server = self.serve(SSHServer)
        backends = self.watch(address, 0.05)
        (member,) = backends.group.members
        with logged() as events:
            await server.stopListening()
            await until(lambda: member.health.down, "the fall")
            self.assertFalse(backends.up)
            self.serve(SSHServer, address.port)
            await until(lambda: not member.health.down, "the rise")
        self.assertEqual(len(lines(events, "backend out: service=svc")), 1)
        self.assertEqual(len(lines(events, "backend back: service=svc")), 1)

    async def test_only_what_is_marked(self) -> None:
        """
        Without an interval nobody is asked who is well; who was marked is asked until it is well
        (Requirement 47).
        """
        factory, address, _ = self.serve(SSHServer)
        other, another, _ = self.serve(SSHServer)
        backends = self.watch(address, None, another)
        member = backends.group.members[0]
        backends.failed(member, "test", costly=True)
        self.assertEqual(member.health.state, "marked")
        await until(lambda: member.health.state == "up", "its return")
        self.assertEqual((len(factory.built), len(other.built)), (1, 0))


class QuickSessionTests(SynchronousTestCase):
    """Looks and sessions at one moment."""

    def test_session_at_the_end_of_a_pause(self) -> None:
        """A session that is quicker than the look is all that the backend sees of that moment."""
        clock: Any = Clock()
        group: Group[HostPort] = Group("round-robin")
        places = [HostPort("192.0.2.1", port) for port in (22, 23)]
        group.members = [Member(each, str(each)) for each in places]
        member = group.members[0]
        backends = Backends("svc", group, clock)
        looks: list[float] = []

        async def check(*_: object) -> None:
            looks.append(clock.seconds())
            raise CheckFailed("refused")

        self.patch(watch, "check", check)
        watcher = Watcher(backends, checks(lambda _: SSHCheck(), None), clock, lambda: 0.5)
        backends.changed = watcher.look
        watcher.startService()
        self.addCleanup(watcher.stopService)

        def session() -> None:
            self.assertTrue(member.health.available(clock.seconds()))
            member.health.tried(clock.seconds())
            backends.failed(member, "refused")

        clock.callLater(FIRST_PAUSE_S, session)
        backends.failed(member, "refused", costly=True)
        clock.advance(FIRST_PAUSE_S)
        self.assertEqual(looks, [])
        clock.advance(2 * FIRST_PAUSE_S)
        self.assertEqual(looks, [3 * FIRST_PAUSE_S])


class FailoverTests(SessionCase):
    """A whole gateway whose backend goes."""

    def use(self, **more: Any) -> None:
        """Change the service."""
        (first,) = self.node._config.services
        self.node.reload(replace(self.node._config, services=(replace(first, **more),)))

    async def test_withdrawn(self) -> None:
        """
        A service whose backends are all out is withdrawn, so that its listener closes, and offered
        again when one is back (Lesson 23).
        """
        await self.start("ssh", None)
        (backend,) = self.node.published["svc"].backends.group.members
        with logged() as events:
            for _ in range(3):
                client = await self.client()
                await self.over(client)
            await until(lambda: not list(self.dmz.listeners), "the listener's end")
            self.assertEqual(self.node.offer_state("svc"), "down")
            port = backend.target.port
            server = Factory.forProtocol(SSHServer)
            listening = twisted.listenTCP(port, server, interface="127.0.0.1")
            self.addCleanup(listening.stopListening)
            await until(lambda: list(self.dmz.listeners), "the listener")
        client = await self.client()
        await self.got(client, BANNER)
        self.assertEqual(len(lines(events, "backend out: ")), 1)
        self.assertEqual(len(lines(events, "backend back: ")), 1)

    async def test_refused_in_words(self) -> None:
        """With when_down = "refuse" the listener stays, and clients are told (Requirement 46)."""
        await self.start("ssh", None, health=HealthConfig(when_down="refuse"))
        for _ in range(6):
            client = await self.client()
            await self.over(client)
            self.assertIn(b"no server available", client.data)
        self.assertEqual(len(list(self.dmz.listeners)), 1)

    async def test_passed_over(self) -> None:
        """
        With a second backend nobody notices that the first is gone, and after three failures it is
        not tried any more (Lesson 13).
        """
        await self.start("ssh", None)
        (gone,) = self.node.published["svc"].backends.group.members
        listening = twisted.listenTCP(0, Factory.forProtocol(SSHServer), interface="127.0.0.1")
        self.addCleanup(listening.stopListening)
        there = HostPort("127.0.0.1", listening.getHost().port)
        self.use(backends=(gone.target, there))
        for _ in range(12):
            client = await self.client()
            await self.got(client, BANNER)
            client.transport.abortConnection()  # type: ignore[union-attr]
        first, second = self.node.published["svc"].backends.group.members
        self.assertIs(first, gone)
        self.assertEqual(second.opened, 0)
        self.assertLessEqual(first.failed, 4)

    async def test_silent_server(self) -> None:
        """A server that accepts and says nothing is out after one session that waited in vain."""
        self.patch(sshopening, "IDENTIFICATION_LIMIT_S", 0.5)
        await self.start("ssh", End)
        (silent,) = self.node.published["svc"].backends.group.members
        listening = twisted.listenTCP(0, Factory.forProtocol(SSHServer), interface="127.0.0.1")
        self.addCleanup(listening.stopListening)
        self.use(backends=(silent.target, HostPort("127.0.0.1", listening.getHost().port)))
        clients = [await self.client(b"SSH-2.0-client\r\n") for _ in range(2)]
        await until(lambda: silent.health.marked, "the mark")
        for _ in range(4):
            client = await self.client()
            await self.got(client, BANNER)
        self.assertEqual(len(clients), 2)

    async def test_hurried_probe_of_the_only_one(self) -> None:
        """While no other is up a backend is looked at every two seconds, however long its pause."""
        await self.start("tcp", None)
        (backend,) = self.node.published["svc"].backends.group.members
        for _ in range(3):
            self.node.published["svc"].backends.failed(backend, "test")
        for _ in range(5):
            backend.health.tried(backend.health.due())
            backend.health.failed(backend.health.due())
        watcher = self.node._watchers["svc"]
        wait = watcher._wait(backend)
        assert wait is not None
        self.assertLessEqual(wait, 2.0)
