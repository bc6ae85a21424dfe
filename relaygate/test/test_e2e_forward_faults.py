"""Nodes that are killed while programs are at each step of their way out."""

from __future__ import annotations

import socket
from typing import Final

from twisted.trial.unittest import TestCase

from relaygate.test.netns import Network
from relaygate.test.nodes import Node
from relaygate.test.peers import (
    Server,
    dial,
    echo,
    eventually,
    in_thread,
    listening,
    read_exactly,
    says,
)
from relaygate.test.test_forward_socks import HELLO, request
from relaygate.test.wayoutnet import SOCKS_PORT, WayOutGateway, entry, open_entries

INSIDE: Final = Network.private_address
PARTNER: Final = Network.outside_address
ECHO_PORT: Final = 7000
FTP_PORT: Final = 2100
# Nobody has this address: to find that out takes the kernel some seconds.
NOBODY: Final = "203.0.113.77"
BIND_PORTS: Final = range(53_000, 54_000)


def rest_of(peer: socket.socket) -> tuple[bytes, bool]:
    """What still comes on *peer*, and whether a reset ends it."""
    data = b""
    try:
        while piece := peer.recv(1 << 16):
            data += piece
    except ConnectionResetError:
        return data, True
    finally:
        peer.close()
    return data, False


def greet(peer: socket.socket) -> None:
    """What an FTP server says that never hears a command."""
    peer.sendall(b"220 ready\r\n")
    peer.recv(100)


class KilledTests(TestCase):
    """Whatever a program waits for or does, it hears of the end, and no file looks whole."""

    timeout = 240

    async def setUp(self) -> None:  # type: ignore[override]
        ftp = entry("ftp", "ftp", FTP_PORT, target=f"{PARTNER}:{FTP_PORT}")
        self.gateway = WayOutGateway(self, [*open_entries(), ftp])
        await self.gateway.start()
        self.echoes = Server(self, self.gateway.outside, PARTNER, ECHO_PORT, echo)
        self.partner = Server(self, self.gateway.outside, PARTNER, FTP_PORT, greet)

    def program(self, words: bytes, port: int = SOCKS_PORT) -> socket.socket:
        """A program that has said *words*."""
        peer = dial(self.gateway.private, INSIDE, port)
        self.addCleanup(peer.close)
        peer.sendall(words)
        return peer

    async def all_steps(self) -> None:
        """Bring a program to each step."""
        self.dialling = self.program(HELLO + request(NOBODY, 22))
        self.binding = self.program(HELLO + request(PARTNER, 0, 2))
        self.running = self.program(HELLO + request(PARTNER, ECHO_PORT))
        self.ftp = self.program(b"", FTP_PORT)
        self.silent = self.program(b"\5")
        self.assertEqual((await in_thread(read_exactly, self.binding, 12))[2:4], b"\5\0")
        self.assertEqual((await in_thread(read_exactly, self.running, 12))[2:4], b"\5\0")
        self.assertTrue(await in_thread(says, self.running, b"hello"))
        self.assertEqual(await in_thread(read_exactly, self.ftp, 3), b"220")

    async def again(self, node: Node) -> None:
        """Start *node* again, and show that programs get out."""
        await node.ended()
        before = self.gateway.node.log().count("uplink open: ")
        node.start()
        if node is self.gateway.node:
            await self.gateway.up()
        else:
            await eventually(
                lambda: self.gateway.node.log().count("uplink open: ") > before, "the uplink", 60
            )
        program = self.program(HELLO + request(PARTNER, ECHO_PORT))
        self.assertEqual((await in_thread(read_exactly, program, 12))[2:4], b"\5\0")
        self.assertTrue(await in_thread(says, program, b"hello"))
        program.close()

    async def test_both(self) -> None:
        """Requirement 28: either node is killed, and programs are told, each in its words."""
        await self.all_steps()
        partners_end = self.echoes.accepted[-1]
        self.gateway.dmz.kill()
        for program in (self.dialling, self.binding):
            said, _ = await in_thread(rest_of, program)
            self.assertEqual(said[-10:-8], b"\5\1", said)
        self.assertEqual(await in_thread(rest_of, self.running), (b"", True))
        said, _ = await in_thread(rest_of, self.ftp)
        self.assertRegex(said, rb"421 [^\r\n]*\r\n\Z")
        await eventually(lambda: partners_end.fileno() < 0, "the partner's end of it")
        # Who has not said what it wants may still do so, and is told.
        self.silent.sendall(b"\1\0" + request(PARTNER, ECHO_PORT))
        said, _ = await in_thread(rest_of, self.silent)
        self.assertEqual(said[:4], b"\5\0\5\1")
        await self.again(self.gateway.dmz)
        # With an internal node nothing stays in the DMZ.
        await self.all_steps()
        partners_end = self.echoes.accepted[-1]
        self.gateway.node.kill()
        for program in (self.dialling, self.binding, self.running, self.ftp, self.silent):
            _, was_reset = await in_thread(rest_of, program)
            self.assertTrue(was_reset)
        await eventually(lambda: partners_end.fileno() < 0, "the partner's end of it")
        await eventually(
            lambda: not any(port in BIND_PORTS for _, port in listening(self.gateway.dmz.pid)),
            "the port of BIND closed",
        )
        await self.again(self.gateway.node)
