"""Ends, resets and slow readers, through both nodes, on clear channels and on encrypted ones."""

from __future__ import annotations

import os
import socket
import threading
import time
from typing import Final

from twisted.trial.unittest import TestCase

from relaygate.test.gateway import ECHO_PORT, REPEATS, TCP_PORT, Gateway, service, tcp_service
from relaygate.test.netns import Network
from relaygate.test.peers import eventually, in_thread, read_exactly, read_to_end, reset
from relaygate.test.programs import pause

CLEAR_PORT: Final = 7001
FIRST: Final = os.urandom(1 << 20)
SECOND: Final = os.urandom(3 << 20)
WAITING_BYTES: Final = 1 << 30
BLOCK: Final = os.urandom(1 << 20)
# Kernels hold some MiB on each of three hops, nodes next to nothing.
IN_KERNELS_BYTES: Final = 128 << 20
IN_A_NODE_KB: Final = 2 << 10


class Source:
    """Sends blocks from a thread, as fast as the peer takes them."""

    def __init__(self, peer: socket.socket) -> None:
        self.sent = 0
        self._peer = peer
        peer.settimeout(None)
        threading.Thread(target=self._send, daemon=True).start()

    def _send(self) -> None:
        try:
            while self.sent < WAITING_BYTES:
                self.sent += self._peer.send(BLOCK[self.sent % len(BLOCK) :])
            self._peer.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the test is over

    async def stalled(self) -> None:
        """Wait until nothing has been taken for a second."""
        seen = -1
        while seen != self.sent:
            seen = self.sent
            await pause(1.0)


class StreamTests(TestCase):
    """One direction after the other, on either kind of channel."""

    timeout = 240

    async def setUp(self) -> None:  # type: ignore[override]
        backend = f"{Network.private_address}:{ECHO_PORT}"
        services = [
            tcp_service(channel="always"),
            service("clear", "tcp", CLEAR_PORT, backend, channel="never"),
        ]
        self.gateway = Gateway(self, services)
        self.server = self.gateway.backend(None)
        await self.gateway.start()

    async def joined(self, port: int) -> tuple[socket.socket, socket.socket]:
        """Return a client and the backend's end of its session."""
        client = self.gateway.client(port)
        self.addCleanup(client.close)
        await eventually(lambda: bool(self.server.accepted), "the backend has accepted")
        peer = self.server.accepted.pop()
        self.addCleanup(peer.close)
        return client, peer

    async def test_half_close(self) -> None:
        """One side ends, and the other's long answer arrives whole, both ways (Lesson 3)."""
        for port in (TCP_PORT, CLEAR_PORT) * REPEATS:
            ends = await self.joined(port)
            for one, other in (ends, tuple(reversed(await self.joined(port)))):
                await self.end_and_answer(one, other)

    async def end_and_answer(self, one: socket.socket, other: socket.socket) -> None:
        """Let *one* send and end; then *other* answers, and ends."""
        threading.Thread(target=one.sendall, args=[FIRST], daemon=True).start()
        self.assertEqual(await in_thread(read_exactly, other, len(FIRST)), FIRST)
        one.shutdown(socket.SHUT_WR)
        self.assertEqual(await in_thread(read_to_end, other), b"")
        threading.Thread(target=self.answer, args=[other], daemon=True).start()
        self.assertEqual(await in_thread(read_to_end, one), SECOND)
        one.close()

    def answer(self, peer: socket.socket) -> None:
        """Send the answer and end."""
        peer.sendall(SECOND)
        peer.shutdown(socket.SHUT_WR)

    async def test_stopped_node_tells(self) -> None:
        """
        A node that is stopped leaves an end line for each session that it resets.

        The other node, which only sees its channel break, blames neither client nor backend.
        """
        for node, seen_by_dmz in ((self.gateway.node, "inside"), (self.gateway.dmz, "shutdown")):
            before = len(self.gateway.dmz.log())
            await self.joined(CLEAR_PORT)
            session = (await self.gateway.dmz.logged(r"session (\w+) open", after=before))[1]
            await node.stop()
            await self.gateway.dmz.logged(rf"{session} end: .*outcome={seen_by_dmz}/relay")
            own = "shutdown" if node is self.gateway.node else "client"
            await self.gateway.node.logged(rf"{session} end: .*outcome={own}/relay")
            if node is self.gateway.node:
                node.start()
                await self.gateway.up()

    async def test_end_before_the_last_byte_is_read(self) -> None:
        """A sender that closes at once loses no byte of what it has sent."""
        for port in (TCP_PORT, CLEAR_PORT) * REPEATS:
            for turned in (False, True):
                one, other = await self.joined(port)
                if turned:
                    one, other = other, one
                threading.Thread(target=self.send_and_close, args=[one], daemon=True).start()
                self.assertEqual(await in_thread(read_to_end, other), SECOND)
                other.close()
        log = self.gateway.node.log()
        self.assertEqual(log.count(" end: "), log.count("outcome=done/relay"))

    def send_and_close(self, peer: socket.socket) -> None:
        """Send all and close; the peer has sent nothing, so the close is an orderly one."""
        peer.sendall(SECOND)
        peer.close()

    async def test_reset(self) -> None:
        """A reset arrives as a reset, either way: an end would say that all has come."""
        for port in (TCP_PORT, CLEAR_PORT) * REPEATS:
            for turned in (False, True):
                one, other = await self.joined(port)
                if turned:
                    one, other = other, one
                one.sendall(b"only the beginning")
                self.assertEqual(await in_thread(read_exactly, other, 18), b"only the beginning")
                reset(one)
                self.assertRaises(ConnectionResetError, other.recv, 1)
        await eventually(
            lambda: self.gateway.dmz.log().count(" end: ") == 4 * REPEATS, "all have ended"
        )
        self.assertNotIn("done/relay", self.gateway.dmz.log())
        self.assertNotIn("done/relay", self.gateway.node.log())

    async def test_slow_reader(self) -> None:
        """A reader that stops holds its sender up, and neither node grows (Lesson 4)."""
        nodes = (self.gateway.dmz, self.gateway.node)
        for port in (TCP_PORT, CLEAR_PORT):
            for turned in (False, True):
                sender, reader = await self.joined(port)
                if turned:
                    sender, reader = reader, sender
                before = [node.rss_kb() for node in nodes]
                source = Source(sender)
                await source.stalled()
                self.assertLess(source.sent, IN_KERNELS_BYTES)
                for node, earlier in zip(nodes, before, strict=True):
                    self.assertLess(node.rss_kb() - earlier, IN_A_NODE_KB, node.name)
                # It was held up and not broken: what waits comes when it is read.
                waited = read_exactly(reader, IN_KERNELS_BYTES)
                self.assertEqual(waited, BLOCK * (IN_KERNELS_BYTES // len(BLOCK)))
                reset(reader)

    async def test_small_exchanges(self) -> None:
        """Small exchanges are not held back by Nagle's algorithm (Requirement 81)."""
        for port in (TCP_PORT, CLEAR_PORT):
            client, peer = await self.joined(port)
            for ours in (client, peer):
                ours.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            took = []
            for _ in range(100):
                began = time.monotonic()
                client.sendall(b"pi")
                client.sendall(b"ng")
                self.assertEqual(read_exactly(peer, 4), b"ping")
                peer.sendall(b"po")
                peer.sendall(b"ng")
                self.assertEqual(read_exactly(client, 4), b"pong")
                took.append(time.monotonic() - began)
            # Each would wait for an acknowledgement that is delayed by 40 ms, busy machine or not.
            self.assertLess(sorted(took)[len(took) // 4], 0.03)
