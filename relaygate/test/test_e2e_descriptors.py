"""Nodes that have no file descriptor left: who is served stays served, and it passes."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
from pathlib import Path
from typing import Final

from twisted.trial.unittest import TestCase

from relaygate.test.gateway import TCP_PORT, Gateway, tcp_service
from relaygate.test.nodes import Node
from relaygate.test.peers import echo, eventually, in_thread, says
from relaygate.test.programs import pause

SPARE: Final = 60
CROWD: Final = 200
QUIET_S: Final = 2.0
# Of one core's time; a loop that never waits uses all that it can get.
BUSY: Final = 0.25


def cpu_seconds(node: Node) -> float:
    """The processor time that a node has used so far."""
    fields = Path(f"/proc/{node.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class DescriptorTests(TestCase):
    """The limit is reached by clients who stay (Requirement 84)."""

    timeout = 240

    async def exhausted(self, which: str) -> None:
        """Use up the descriptors of one node, and give them back."""
        gateway = Gateway(self, [tcp_service(channel="never")])
        gateway.backend(echo)
        await gateway.start()
        node = gateway.dmz if which == "dmz" else gateway.node
        running = gateway.client()
        self.addCleanup(running.close)
        self.assertTrue(await in_thread(says, running, b"hello"))
        limit = len(node.fds()) + SPARE
        resource.prlimit(node.pid, resource.RLIMIT_NOFILE, (limit, limit))

        def come() -> list[socket.socket]:
            crowd = []
            for _ in range(CROWD):
                with contextlib.suppress(OSError):
                    crowd.append(gateway.client())
                    crowd[-1].sendall(b"x")
            return crowd

        crowd = await in_thread(come)
        await eventually(lambda: len(node.fds()) > limit - 8, "they are used up")
        self.assertTrue(await in_thread(says, running, bytes(range(256)) * 1000))
        used = cpu_seconds(node)
        await pause(QUIET_S)
        self.assertLess(cpu_seconds(node) - used, BUSY * QUIET_S)
        self.assertTrue(await in_thread(says, running, b"still here"))
        for client in crowd:
            client.close()

        def served() -> bool:
            try:
                client = gateway.client(TCP_PORT)
                client.settimeout(5)
                with client:
                    return says(client, b"again")
            except OSError:
                return False

        await eventually(served, "others are served again")
        self.assertTrue(await in_thread(says, running, b"still here"))
        self.assertNotIn("uplink lost", gateway.dmz.log())
        self.assertNotIn("session failed", node.log())

    async def test_dmz_node(self) -> None:
        """The DMZ node accepts nobody for a while, and does nothing worse."""
        await self.exhausted("dmz")

    async def test_internal_node(self) -> None:
        """The internal node reaches no backend for a while, and does nothing worse."""
        await self.exhausted("internal")
