"""What breaks, breaks often here: nodes that die, wires that go dead, backends that fail."""

from __future__ import annotations

import re
import signal
import socket
import threading
from typing import Final

from twisted.trial.unittest import TestCase

from relaygate.errors import NoBackend
from relaygate.test.gateway import (
    BACK_LIMIT_S,
    ECHO_PORT,
    REPEATS,
    SSH_PORT,
    START_LIMIT_S,
    TCP_PORT,
    Gateway,
    service,
    tcp_service,
    together,
)
from relaygate.test.netns import Network
from relaygate.test.nodes import Node
from relaygate.test.peers import (
    LATE_S,
    AtOnce,
    announce,
    echo,
    eventually,
    in_thread,
    read_exactly,
    read_to_end,
    reset,
    says,
    tcp_state,
)

# Waiting costs nothing, so what waits long is done in as many networks at once as the reactor has
# threads.  What waits longest is in test_e2e_patience.
SIDE_BY_SIDE: Final = 10
# What has to be started anew each time, which takes a core for a while.
AT_A_TIME: Final = 2
DEAD_PORT: Final = 6666
HUNG_PORT: Final = 6667
PRIVATE: Final = Network.private_address
# What each session finds, without what is learnt from it for the next.
UNMARKED: Final = {"failures": 0, "when_down": "refuse"}
LISTENER: Final = {("0.0.0.0", TCP_PORT)}


async def echoing(case: TestCase) -> Gateway:
    """Return a running gateway with a TCP service and its echo server."""
    gateway = Gateway(case, [tcp_service()])
    gateway.backend(echo)
    await gateway.start()
    return gateway


async def served(case: TestCase, gateway: Gateway) -> socket.socket:
    """Return a session that works."""
    client = gateway.client()
    case.addCleanup(client.close)
    said = await in_thread(says, client, b"hello")
    # It was seen once or twice in some hundred runs of the whole suite, and not understood.
    gone = [server.gone for server in gateway.backends]
    case.assertTrue(said, f"no answer; connection in {tcp_state(client)}, servers met {gone}")
    return client


def ends_by_reset(client: socket.socket) -> bool:
    """Tell whether the connection is reset, as what was cut off must be."""
    try:
        client.recv(1)
    except ConnectionResetError:
        return True
    finally:
        client.close()
    return False


class Visitors:
    """Clients that come without a pause, one after the other."""

    def __init__(self, gateway: Gateway) -> None:
        self.failures: list[str] = []
        self._gateway = gateway
        self._served = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._come_and_go)
        self.start = self._thread.start

    def _come_and_go(self) -> None:
        while not self._stop.is_set():
            try:
                client = self._gateway.client()
                if not says(client, b"hello"):
                    self.failures.append("closed")
                client.close()
            except OSError as error:
                self.failures.append(repr(error))
            self._served += 1

    async def more(self, count: int) -> None:
        """Wait until *count* more have come."""
        wanted = self._served + count
        await eventually(lambda: self._served >= wanted, "clients come")

    async def stop(self) -> None:
        """Let no more come."""
        self._stop.set()
        await in_thread(self._thread.join)


class NodeTests(TestCase):
    """Nodes that are killed and come back."""

    timeout = 1200

    async def test_internal_node_killed(self) -> None:
        """A killed node's sessions are reset and its listener closes, until it is back."""

        async def kill_and_restart() -> None:
            gateway = await echoing(self)
            for _ in range(REPEATS // AT_A_TIME):
                client = await served(self, gateway)
                with noticed.timed():
                    gateway.node.kill()
                    self.assertTrue(await in_thread(ends_by_reset, client))
                    await gateway.closes(TCP_PORT, LATE_S)
                self.assertRaises(ConnectionRefusedError, gateway.client)
                await gateway.node.ended()
                gateway.node.start()
                await gateway.listens(LISTENER, START_LIMIT_S)
            await served(self, gateway)

        noticed = AtOnce()
        await together(*(kill_and_restart() for _ in range(AT_A_TIME)))
        noticed.check()

    async def test_dmz_node_killed(self) -> None:
        """When a killed DMZ node is back, the internal node brings everything back by itself."""

        async def kill_and_restart() -> None:
            gateway = await echoing(self)
            for _ in range(REPEATS // SIDE_BY_SIDE):
                client = await served(self, gateway)
                with noticed.timed():
                    gateway.dmz.kill()
                    self.assertTrue(await in_thread(ends_by_reset, client))
                await gateway.dmz.ended()
                gateway.dmz.start()
                await gateway.listens(LISTENER, START_LIMIT_S + BACK_LIMIT_S)
            await served(self, gateway)

        noticed = AtOnce()
        await together(*(kill_and_restart() for _ in range(SIDE_BY_SIDE)))
        noticed.check()

    async def test_newer_uplink_takes_over(self) -> None:
        """A second process of the same node takes over; no client is refused (Lesson 1)."""
        gateway = await echoing(self)
        visitors = Visitors(gateway)
        visitors.start()
        try:
            older = gateway.node
            for _ in range(REPEATS):
                older = await self.replace(gateway, older)
                await visitors.more(10)
        finally:
            await visitors.stop()
        self.assertEqual(visitors.failures, [])
        self.assertNotIn("listener closed", gateway.dmz.log())
        generations = re.findall(r"uplink open: .* generation=(\d+)", gateway.dmz.log())
        self.assertEqual(generations, [str(number + 1) for number in range(REPEATS + 1)])

    async def replace(self, gateway: Gateway, older: Node) -> Node:
        """Start another process of the same node, and stop the older one when it has no session."""
        mark = len(gateway.dmz.log())
        newer = gateway.internal("node-a")
        newer.start()
        await gateway.dmz.logged("uplink open: node=node-a ", after=mark, timeout=START_LIMIT_S)
        await older.logged("took over")
        await eventually(
            lambda: (log := older.log()).count(" open: service=") == log.count(" end: service="),
            "the older process has ended its sessions",
        )
        await older.stop()
        return newer

    async def test_frozen_node_is_replaced(self) -> None:
        """A process that hangs holds nothing: its successor serves as soon as it has come."""

        async def freeze_and_replace() -> None:
            gateway = await echoing(self)
            older = gateway.node
            for _ in range(REPEATS // AT_A_TIME):
                older.kill(signal.SIGSTOP)
                mark = len(gateway.dmz.log())
                newer = gateway.internal("node-a")
                newer.start()
                uplink = "uplink open: node=node-a "
                await gateway.dmz.logged(uplink, after=mark, timeout=START_LIMIT_S)
                with soon.timed():
                    await served(self, gateway)
                older.kill(signal.SIGKILL)
                older = newer
            self.assertNotIn("listener closed", gateway.dmz.log())

        soon = AtOnce()
        await together(*(freeze_and_replace() for _ in range(AT_A_TIME)))
        soon.check()

    async def test_one_of_two_nodes_killed(self) -> None:
        """Two nodes share the sessions; when one is killed, the other serves all at once."""
        names = ["node-a", "node-b"]
        gateway = Gateway(self, [tcp_service()], nodes=names)
        gateway.backend(echo)
        await gateway.start()
        for turn in range(REPEATS):
            await eventually(lambda: self.nodes_of(gateway, 4) == set(names), "both serve")
            victim = gateway.internals[turn % 2]
            victim.kill()
            self.assertEqual(self.nodes_of(gateway, 6), {names[1 - turn % 2]})
            await victim.ended()
            victim.start()
        self.assertNotIn("listener closed", gateway.dmz.log())

    def nodes_of(self, gateway: Gateway, count: int) -> set[str]:
        """Have *count* sessions, each of which must work; return the nodes that served them."""
        mark = len(gateway.dmz.log())
        for _ in range(count):
            client = gateway.client()
            self.assertTrue(says(client, b"hello"))
            client.close()
        return set(re.findall(r" open: .* node=(\S+)", gateway.dmz.log()[mark:]))


class BackendTests(TestCase):
    """Backends that refuse, hang, and die."""

    timeout = 600

    async def test_backend_refuses(self) -> None:
        """
        The client is told in its protocol's words, at once, and the next one is served.

        Where there are no words it is a reset: an end would be an empty file that is complete.
        """
        dead = f"{PRIVATE}:{DEAD_PORT}"
        services = [
            service("over-ssh", "ssh", SSH_PORT, dead, health=UNMARKED),
            service("over-tls", "tls", 8443, dead, health=UNMARKED),
            service("over-tcp", "tcp", TCP_PORT, dead, health=UNMARKED),
        ]
        gateway = Gateway(self, services)
        await gateway.start()
        words = {SSH_PORT: NoBackend.ssh, 8443: NoBackend.tls}
        self.assertIn(b"relaygate: no server available", words[SSH_PORT])
        told = AtOnce()
        for _ in range(REPEATS):
            for port, expected in words.items():
                client = gateway.client(port)
                with told.timed():
                    client.sendall(b"SSH-2.0-early\r\n")
                    self.assertEqual(await in_thread(read_to_end, client), expected)
                client.close()
            with told.timed(), self.assertRaises(ConnectionResetError):
                # The reset may be here before the connection is.
                await in_thread(read_to_end, gateway.client(TCP_PORT))
        told.check()
        gateway.backend(echo, DEAD_PORT)
        self.assertTrue(await in_thread(says, gateway.client(), b"hello"))

    async def test_backend_dies_in_a_session(self) -> None:
        """A reset becomes a reset, an end becomes an end, and both at once (Lesson 3)."""
        gateway = Gateway(self, [tcp_service()])
        server = gateway.backend(None)
        await gateway.start()
        noticed = AtOnce()
        for number in range(REPEATS):
            for orderly in (True, False):
                client = gateway.client()
                client.sendall(b"ping")
                await eventually(lambda: bool(server.accepted), "the backend has accepted")
                peer = server.accepted.pop()
                self.assertEqual(await in_thread(read_exactly, peer, 4), b"ping")
                peer.sendall(b"pong")
                self.assertEqual(await in_thread(read_exactly, client, 4), b"pong")
                with noticed.timed():
                    if orderly:
                        peer.close()
                        self.assertEqual(await in_thread(read_to_end, client), b"", number)
                        client.close()
                    else:
                        reset(peer)
                        self.assertTrue(await in_thread(ends_by_reset, client), number)
        noticed.check()

    async def test_next_backend(self) -> None:
        """A backend that refuses costs the client nothing but a moment (Lesson 7)."""
        live, dead = f"{PRIVATE}:{ECHO_PORT}", f"{PRIVATE}:{DEAD_PORT}"
        services = [
            tcp_service(dead, live, balance="failover"),
            service("turns", "tcp", TCP_PORT + 1, dead, live, f"{PRIVATE}:{HUNG_PORT}"),
        ]
        gateway = Gateway(self, services)
        gateway.backend(announce(b"live"))
        await gateway.start()
        soon = AtOnce()
        for _ in range(REPEATS):
            for port in (TCP_PORT, TCP_PORT + 1):
                with soon.timed():
                    client = gateway.client(port)
                    self.assertEqual(await in_thread(read_exactly, client, 5), b"live\n")
                client.close()
        soon.check()
