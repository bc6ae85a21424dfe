"""
Reloads and cut uplinks, one after the other, while clients come and go: nobody is refused, and
nothing is left behind (Lesson 1, Lesson 14).

RELAYGATE_CHURN says how many of each; the suite has a few.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
from typing import Final

from twisted.trial.unittest import TestCase

from relaygate.identity import Role
from relaygate.test.fleet import note
from relaygate.test.nodes import Authority, Node
from relaygate.test.peers import echo, eventually, in_thread, says
from relaygate.test.ports import free_port

TIMES: Final = int(os.environ.get("RELAYGATE_CHURN", "12"))
# A node that has lost its uplink waits up to 15 s before it dials again. Here it comes back at
# once, so that it loses many in little time.
AT_ONCE: Final = (
    "from relaygate.backoff import FullJitter;FullJitter.__init__.__kwdefaults__['longest_s'] = 0.3"
)
# What a node may grow by over all of them, in KiB; the first few fill caches.
ROOM_KB: Final = 6_000


class Cutter:
    """
    A relay between an internal node and a DMZ node that can cut the uplink, and it alone.

    It knows the uplink by the ALPN name in its ClientHello (RFC 7301).
    """

    def __init__(self, case: TestCase, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._server = socket.create_server(("127.0.0.1", 0))
        case.addCleanup(self._server.close)
        self.port = self._server.getsockname()[1]
        self._uplinks: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                peer, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=[peer], daemon=True).start()

    def _serve(self, peer: socket.socket) -> None:
        with peer:
            try:
                first = peer.recv(65536)
                onward = socket.create_connection(self._target)
            except OSError:
                return
            with onward:
                if b"\x0brelaygate/1" in first:
                    self._uplinks.append(peer)
                onward.sendall(first)
                back = threading.Thread(target=self._carry, args=[onward, peer], daemon=True)
                back.start()
                self._carry(peer, onward)
                back.join()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            for each in (source, sink):
                try:
                    each.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass  # it is gone already

    def cut(self) -> None:
        """Cut the uplink."""
        while self._uplinks:
            try:
                self._uplinks.pop().shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it is gone already


class ChurnTests(TestCase):
    """A DMZ node and two internal nodes on loopback; one of the two has all the trouble."""

    timeout = 7200

    async def begin(self) -> None:
        """Start everything, and the clients."""
        self.uplink, self.port = free_port(), free_port()
        authority = Authority(self)
        server = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.addCleanup(server.close)
        threading.Thread(target=self.serve, args=[server], daemon=True).start()
        self.backend = server.getsockname()[1]
        config = (
            f'[uplink]\nlisten = "127.0.0.1:{self.uplink}"\nnodes = ["node-a", "node-b"]\n'
            f'[policy]\nlisten = ["127.0.0.1:1-65535"]\n'
        )
        self.dmz = Node(self, authority, Role.DMZ, "dmz", config)
        self.cutter = Cutter(self, self.uplink)
        self.node = Node(self, authority, Role.INTERNAL, "node-a", self.config(self.cutter.port))
        self.other = Node(self, authority, Role.INTERNAL, "node-b", self.config(self.uplink))
        self.node.begin_with(AT_ONCE)
        for node in (self.dmz, self.node, self.other):
            node.start()
        for node in (self.node, self.other):
            await node.logged("services declared", timeout=60)
        self.failures: list[str] = []
        self.served = 0
        self.over = threading.Event()
        self.clients = [threading.Thread(target=self.come_and_go, daemon=True) for _ in range(3)]
        for client in self.clients:
            client.start()

    def config(self, uplink: int, more: str = "") -> str:
        """An internal node's configuration."""
        return (
            f'[[gateway]]\naddress = "127.0.0.1:{uplink}"\nname = "dmz"\npool = 4\n'
            f'[[service]]\nname = "echo"\nprotocol = "tcp"\nlisten = "127.0.0.1:{self.port}"\n'
            f'backends = ["127.0.0.1:{self.backend}"]\n{more}'
        )

    def serve(self, server: socket.socket) -> None:
        """Echo to everybody."""

        def one(peer: socket.socket) -> None:
            with peer:
                try:
                    echo(peer)
                except OSError:
                    pass  # the client counts it

        while True:
            try:
                peer, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=one, args=[peer], daemon=True).start()

    def come_and_go(self) -> None:
        """Be a client, again and again."""
        while not self.over.is_set():
            try:
                with socket.create_connection(("127.0.0.1", self.port), 60) as client:
                    if says(client, b"hello"):
                        self.served += 1
                    else:
                        self.failures.append("closed")
            except OSError as error:
                self.failures.append(repr(error))
            self.over.wait(0.03)

    async def more(self, count: int) -> None:
        """Wait until *count* more clients were served."""
        wanted = self.served + count
        await eventually(lambda: self.served >= wanted, "clients come", 120.0)

    async def end(self) -> None:
        """Let no more come."""
        self.over.set()
        for client in self.clients:
            await in_thread(client.join)
        note(f"served={self.served} failures={self.failures[:5]}")
        for node in (self.dmz, self.node, self.other):
            self.assertNotIn("Traceback", node.log(), node.name)

    def memory(self) -> list[int]:
        """Resident memory and open descriptors of the three nodes."""
        nodes = (self.dmz, self.node, self.other)
        return [node.rss_kb() for node in nodes] + [_descriptors(node) for node in nodes]

    async def test_reloads(self) -> None:
        """Reloads that change something, and those that do not, refuse nobody."""
        await self.begin()
        before: list[int] = []
        for turn in range(TIMES):
            if turn == min(10, TIMES // 2):
                before = self.memory()
            at = len(self.node.log())
            extra = (
                f'[[service]]\nname = "extra"\nprotocol = "ssh"\nbackends = ["127.0.0.1:9"]\n'
                f'listen = "127.0.0.2:{self.port}"\n'
            )
            more = f"idle_timeout = {60 + turn}\n" + (extra if turn % 2 else "")
            self.node.configure(self.config(self.cutter.port, more))
            self.node.kill(signal.SIGHUP)
            await self.node.logged("configuration read again: [12] changes", timeout=60, after=at)
            await self.more(3)
        after = self.memory()
        note(f"reloads: memory and descriptors {before} -> {after}")
        await self.end()
        self.assertEqual(self.failures, [])
        for grown, was in zip(after[:3], before[:3], strict=True):
            self.assertLess(grown, was + ROOM_KB)

    async def test_uplink_cuts(self) -> None:
        """An uplink that is cut again and again costs no client and no session."""
        await self.begin()
        sessions = [socket.create_connection(("127.0.0.1", self.port), 60) for _ in range(2)]
        before: list[int] = []
        for turn in range(TIMES):
            if turn == min(10, TIMES // 2):
                before = self.memory()
            at = len(self.node.log())
            self.cutter.cut()
            await self.node.logged("uplink lost", timeout=60, after=at)
            await self.node.logged("services declared", timeout=120, after=at)
            await self.more(2)
            for session in sessions:
                self.assertTrue(await in_thread(says, session, b"still here"))
        for session in sessions:
            session.close()
        after = self.memory()
        note(f"cuts: memory and descriptors {before} -> {after}")
        await self.end()
        self.assertEqual(self.failures, [])
        for grown, was in zip(after[:3], before[:3], strict=True):
            self.assertLess(grown, was + ROOM_KB)


def _descriptors(node: Node) -> int:
    return len(os.listdir(f"/proc/{node.pid}/fd"))
