"""Tests of draining: a backend, a service, a node of either kind, both programs at their end."""

from __future__ import annotations

import signal
import socket
import threading
from dataclasses import replace
from typing import Any

from twisted.internet import reactor
from twisted.internet.protocol import Factory
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase, TestCase

from relaygate.addresses import HostPort
from relaygate.declaring import DECLARE_AGAIN_S
from relaygate.draining import LAST_LOOK_S, LAST_TURNS_S, LOOK_S, drained
from relaygate.identity import Role
from relaygate.test.nodes import Authority, Node
from relaygate.test.peers import echo, eventually, in_thread, says
from relaygate.test.ports import free_port
from relaygate.test.test_sessions import Echo
from relaygate.test.test_steering import SteeringCase
from relaygate.test.wire import lines, logged, until

twisted: Any = reactor


class WaitTests(SynchronousTestCase):
    """Waiting for the last session."""

    def test_empty(self) -> None:
        """It is over when nothing runs at two looks in a row: one may have been on its way."""
        clock, running = Clock(), [1]
        done = drained(lambda: not running, 60.0, clock)
        clock.pump([LOOK_S] * 10)
        running.clear()
        clock.advance(LOOK_S)
        self.assertNoResult(done)
        running.append(1)
        clock.pump([LOOK_S] * 10)
        running.clear()
        clock.pump([LOOK_S] * 2)
        self.successResultOf(done)
        self.assertEqual(clock.getDelayedCalls(), [])

    def test_last_turns(self) -> None:
        """At the program's end what was aborted is not waited for any longer than it takes."""
        clock = Clock()
        done = drained(lambda: True, LAST_TURNS_S, clock, look_s=LAST_LOOK_S)
        clock.pump([LAST_LOOK_S] * 2)
        self.successResultOf(done)
        self.assertLess(clock.seconds(), LAST_TURNS_S / 2)

    def test_limit(self) -> None:
        """It is over when the time is, whatever runs."""
        clock = Clock()
        done = drained(lambda: False, 5.0, clock)
        clock.pump([0.5] * 9)
        self.assertNoResult(done)
        clock.pump([0.5] * 2)
        self.successResultOf(done)
        self.assertEqual(clock.getDelayedCalls(), [])


class DrainTests(SteeringCase):
    """Orders by ``relaygate drain`` and ``relaygate resume``."""

    async def running(self) -> Any:
        """A session that works."""
        client = await self.client(b"1")
        await self.got(client, b"1")
        return client

    async def goes_on(self, client: Any) -> None:
        """The session still works."""
        had = client.data
        client.transport.write(b"x")
        await self.got(client, had + b"x")

    async def test_service(self) -> None:
        """A drained service is offered no longer, and its sessions go on; resumed, it is back."""
        await self.begin()
        client = await self.running()
        status, out, err = await self.call("drain", "service", "svc")
        self.assertEqual((status, out, err), (0, "1 session runs\n", ""))
        await until(lambda: not list(self.dmz.listeners), "the listener's end")
        await self.goes_on(client)
        found = await self.ask("status")
        self.assertEqual(found["services"][0]["state"], "drained")
        await self.call("resume", "service", "svc")
        await until(lambda: list(self.dmz.listeners), "the listener")
        await self.goes_on(await self.running())

    async def test_node(self) -> None:
        """A drained node offers nothing, stays where it is, and serves what it has."""
        await self.begin()
        client = await self.running()
        await self.call("drain", "node")
        await until(lambda: not list(self.dmz.listeners), "the listener's end")
        await self.goes_on(client)
        self.assertEqual((await self.ask("status"))["state"], "draining")
        self.node.reload(replace(self.node._config))
        self.assertEqual(list(self.dmz.listeners), [])
        await self.call("resume", "node")
        await until(lambda: list(self.dmz.listeners), "the listener")

    async def test_resumed_while_it_stops(self) -> None:
        """A program that is told to end takes no session that it would have to cut off."""
        await self.begin()
        client = await self.running()
        done = self.node.drain(60.0)
        status, out, err = await self.call("resume", "node")
        self.assertEqual((status, out), (1, ""))
        self.assertIn("this node stops", err)
        await self.call("resume", "service", "svc")
        self.node.reload(replace(self.node._config))
        await until(lambda: not list(self.dmz.listeners), "the listener's end")
        await self.goes_on(client)
        client.transport.loseConnection()
        await done
        self.assertEqual(list(self.dmz.listeners), [])

    async def test_replaced_while_it_stops(self) -> None:
        """
        A program that is told to end does not take the uplink back from the newer one that is in
        its place: it would have it declare nothing.
        """
        await self.begin()
        client = await self.running()
        link = self.node.links["dmz"]
        done = self.node.drain(60.0)
        (enrolled,) = self.dmz.book._by_name.values()
        enrolled.supersede(2)
        await until(lambda: not link.up, "the uplink's end")
        self.assertFalse(link._dialler.running)
        await self.goes_on(client)
        client.transport.loseConnection()
        await done

    async def test_backend(self) -> None:
        """A drained backend gets no new session; with the last one the service is withdrawn."""
        await self.begin()
        client = await self.running()
        (first,) = self.node._config.services
        listening = twisted.listenTCP(0, Factory.forProtocol(Echo), interface="127.0.0.1")
        self.addCleanup(listening.stopListening)
        other = HostPort("127.0.0.1", listening.getHost().port)
        both = replace(first, backends=(*first.backends, other))
        self.node.reload(replace(self.node._config, services=(both,)))
        old, new = self.node.published["svc"].backends.group.members
        await self.call("drain", "backend", old.name)
        for _ in range(4):
            await self.running()
        self.assertEqual((old.opened, new.opened), (1, 4))
        await self.goes_on(client)
        await self.call("drain", "backend", new.name, "--service", "svc")
        await until(lambda: not list(self.dmz.listeners), "the listener's end")
        await self.call("resume", "backend", old.name)
        await until(lambda: list(self.dmz.listeners), "the listener")
        # A reload forgets no order.
        self.node.reload(replace(self.node._config, services=(replace(both, max_sessions=99),)))
        self.assertEqual((old.drained, new.drained), (False, True))

    async def test_what_is_not_there(self) -> None:
        """Orders for what is not there are refused in words."""
        await self.begin()
        for order, words in (
            (("service", "other"), "there is no service 'other'"),
            (("backend", "a.example:1"), "there is no backend 'a.example:1'"),
            (("service",), "name: expected"),
        ):
            status, out, err = await self.call("drain", *order)
            self.assertEqual((status, out), (1, ""))
            self.assertIn(words, err)

    async def test_dmz_tells_first(self) -> None:
        """
        A DMZ node that drains tells its nodes, closes its listeners, and takes no other wish;
        sessions go on until they end (Lesson 9).
        """
        await self.begin()
        client = await self.running()
        link = self.node.links["dmz"]
        with logged() as events:
            done = self.dmz.drain(60.0)
            await until(lambda: not list(self.dmz.listeners), "the listener's end")
        self.assertTrue(link.draining)
        said = lines(events)
        told = next(at for at, line in enumerate(said) if "takes no new sessions" in line)
        closed = next(at for at, line in enumerate(said) if "listener closed" in line)
        self.assertLess(told, closed)
        self.assertEqual((await self.ask("status"))["gateways"][0]["state"], "draining")
        (first,) = self.node._config.services
        self.node.reload(replace(self.node._config, services=(replace(first, max_sessions=9),)))
        await until(lambda: link.refused, "the refusal")
        self.assertIn("draining", link.refused["svc"])
        await self.goes_on(client)
        self.assertFalse(done.called)
        client.transport.loseConnection()
        await done


class EndTests(TestCase):
    """Both programs, and SIGTERM."""

    timeout = 240

    def setUp(self) -> None:
        self.authority = Authority(self)
        self.uplink, self.port = free_port(), free_port()
        server = socket.create_server(("127.0.0.1", 0))
        self.addCleanup(server.close)
        threading.Thread(target=self.serve, args=[server], daemon=True).start()
        self.backend = server.getsockname()[1]

    def serve(self, server: socket.socket) -> None:
        """Echo to everybody."""
        while True:
            try:
                peer, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=self.echo, args=[peer], daemon=True).start()

    def echo(self, peer: socket.socket) -> None:
        """Echo to one."""
        with peer:
            try:
                echo(peer)
            except OSError:
                pass  # the test has seen it

    def dmz(self, drain: int) -> Node:
        """A DMZ node for node-a and node-b."""
        config = (
            f'[uplink]\nlisten = "127.0.0.1:{self.uplink}"\nnodes = ["node-a", "node-b"]\n'
            f'[policy]\nlisten = ["127.0.0.1:1-65535"]\n[stop]\ndrain = {drain}\n'
        )
        return Node(self, self.authority, Role.DMZ, "dmz", config)

    def internal(self, name: str, drain: int, more: str = "") -> Node:
        """An internal node; *more* is of its service."""
        config = (
            f'[[gateway]]\naddress = "127.0.0.1:{self.uplink}"\nname = "dmz"\n'
            f'[[service]]\nname = "echo"\nprotocol = "tcp"\nlisten = "127.0.0.1:{self.port}"\n'
            f'backends = ["127.0.0.1:{self.backend}"]\n{more}[stop]\ndrain = {drain}\n'
        )
        return Node(self, self.authority, Role.INTERNAL, name, config)

    async def begin(self, *nodes: Node) -> None:
        """Start them, the DMZ node first, and wait for the service."""
        for node in nodes:
            node.start()
        for node in nodes[1:]:
            await node.logged("services declared", timeout=60)

    def connect(self) -> socket.socket:
        """Connect to the service."""
        client = socket.create_connection(("127.0.0.1", self.port), 60)
        self.addCleanup(client.close)
        return client

    def is_closed(self) -> bool:
        """Whether nobody listens for the service."""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) != 0

    async def test_drains_and_is_hurried(self) -> None:
        """
        SIGTERM closes the listener at once and lets sessions go on; a second one ends them, on both
        kinds of node (Lesson 9).
        """
        for drain_dmz in (True, False):
            dmz, node = self.dmz(100), self.internal("node-a", 100)
            await self.begin(dmz, node)
            client = self.connect()
            self.assertTrue(await in_thread(says, client, b"one"))
            ending = dmz if drain_dmz else node
            ending.kill(signal.SIGTERM)
            await ending.logged("draining: 1 sessions run", timeout=60)
            await eventually(self.is_closed, "the listener closed", 60.0)
            self.assertTrue(await in_thread(says, client, b"two"))
            ending.kill(signal.SIGTERM)
            await ending.logged("told to stop again", timeout=60)
            await ending.ended(60)
            self.assertRaises(ConnectionResetError, client.recv, 1)
            for other in (dmz, node):
                if other is not ending:
                    other.kill(signal.SIGTERM)
                    await other.ended(60)
            self.assertNotIn("Traceback", dmz.log() + node.log())

    async def test_ends_with_the_last_session(self) -> None:
        """A node that drains ends as soon as its last session has, and that one is whole."""
        dmz, node = self.dmz(0), self.internal("node-a", 100)
        await self.begin(dmz, node)
        client = self.connect()
        self.assertTrue(await in_thread(says, client, b"one"))
        node.kill(signal.SIGTERM)
        await node.logged("draining: 1 sessions run", timeout=60)
        self.assertTrue(await in_thread(says, client, b"two"))
        client.shutdown(socket.SHUT_WR)
        self.assertEqual(client.recv(1), b"")
        await node.ended(60)
        self.assertIn("outcome=done/relay", node.log())

    async def upgraded(self, *, name: str, more: str = "") -> None:
        """
        Replace node-a while clients come without a pause: a new process called *name* beside it,
        then SIGTERM for the old one.  With *more* the service has other settings than before.
        """
        dmz, old = self.dmz(0), self.internal("node-a", 60)
        await self.begin(dmz, old)
        failures: list[str] = []
        served: list[int] = []
        over = threading.Event()

        def come_and_go() -> None:
            while not over.is_set():
                try:
                    with socket.create_connection(("127.0.0.1", self.port), 60) as client:
                        if says(client, b"hello"):
                            served.append(1)
                        else:
                            failures.append("closed")
                except OSError as error:
                    failures.append(repr(error))

        long_one = self.connect()
        self.assertTrue(await in_thread(says, long_one, b"one"))
        threads = [threading.Thread(target=come_and_go, daemon=True) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            await eventually(lambda: len(served) > 20, "clients come", 60.0)
            new = self.internal(name, 60, more)
            new.start()
            await new.logged("services declared", timeout=60)
            self.assertIn(f"refused={int(bool(more))}", new.log())
            old.kill(signal.SIGTERM)
            await old.logged("draining: ", timeout=60)
            # It is told that it has what it was refused, and does not find out half a minute later.
            await new.logged("services declared: .*refused=0", timeout=DECLARE_AGAIN_S / 2)
            count = len(served)
            await eventually(lambda: len(served) > count + 20, "clients come", 60.0)
            self.assertTrue(await in_thread(says, long_one, b"two"))
            long_one.close()
            await old.ended(60)
            count = len(served)
            await eventually(lambda: len(served) > count + 20, "clients come", 60.0)
        finally:
            over.set()
            for thread in threads:
                await in_thread(thread.join)
        self.assertEqual(failures, [])

    async def test_upgrade_beside(self) -> None:
        """
        A node that is started beside another takes over without a refused client and without a
        lost session (Lesson 14).
        """
        await self.upgraded(name="node-b")

    async def test_upgrade_with_other_settings(self) -> None:
        """So does one whose settings the older one's keep from the listener until it drains."""
        await self.upgraded(name="node-b", more="max_sessions = 900\n")

    async def test_upgrade_under_the_same_name(self) -> None:
        """So does a newer process of the very same node, which takes the uplink over (Lesson 1)."""
        await self.upgraded(name="node-a")
