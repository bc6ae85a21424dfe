"""Clients keep their node and their backend while those live, whatever else dies (Lesson 13)."""

from __future__ import annotations

import re
import signal
import socket
from typing import Final

from twisted.trial.unittest import TestCase

from relaygate.test.fleet import SERVICE_PORT, Fleet
from relaygate.test.netns import Network
from relaygate.test.peers import eventually, in_thread, make_socket

CLIENTS: Final = [f"203.0.113.{100 + number}" for number in range(8)]
LIMIT_S: Final = 30.0
KEYS: Final = 'persistence = {by = "source", ttl = 300}\nbalance = "round-robin"\n'


class PersistenceTests(TestCase):
    """Three internal nodes and four backends as processes; the memory is that of one DMZ node."""

    timeout = 300

    async def begin(self) -> None:
        """Start everything, and give each client an address."""
        self.fleet = fleet = Fleet(self, ["node-a", "node-b", "node-c"], 4, keys=KEYS)
        for address in CLIENTS:
            fleet.network.run("outside", ["ip", "address", "add", f"{address}/24", "dev", "dmz"])
        await fleet.start()
        self.dmz = fleet.dmzs[0]

    def visit(self, address: str) -> str:
        """Come from *address*; the backend that greets."""
        with make_socket(self.fleet.outside) as client:
            client.settimeout(LIMIT_S)
            client.bind((address, 0))
            client.connect((Network.dmz_outer_address, SERVICE_PORT))
            with client.makefile("rb") as stream:
                greeting = stream.readline()
            client.shutdown(socket.SHUT_WR)
        self.assertTrue(greeting.startswith(b"220 "), greeting)
        return greeting[4:].decode().strip()

    async def all_visit(self) -> dict[str, tuple[str, str]]:
        """Let each client come once; the node and the backend that each has had."""
        mark = len(self.dmz.log())
        backends = {address: await in_thread(self.visit, address) for address in CLIENTS}

        def nodes() -> dict[str, str]:
            log = self.dmz.log()[mark:]
            return dict(re.findall(r" open: .*client=([0-9.]+):\d+ node=(\S+)", log))

        await eventually(lambda: len(nodes()) == len(CLIENTS), "all are in the log")
        return {address: (nodes()[address], backends[address]) for address in CLIENTS}

    def kept(
        self,
        before: dict[str, tuple[str, str]],
        after: dict[str, tuple[str, str]],
        *,
        without: str,
    ) -> None:
        """Each has what it had, but those whose node or backend was *without*."""
        for address, had in before.items():
            if without in had:
                self.assertNotIn(without, after[address], address)
            else:
                self.assertEqual(after[address], had, address)

    async def test_faults(self) -> None:
        """
        While a client's node and backend live it keeps both: when other nodes are killed, stopped
        or come back, and when other backends die. Who has moved stays where it is now.
        """
        await self.begin()
        first = await self.all_visit()
        self.assertEqual(await self.all_visit(), first)
        self.assertEqual(len({node for node, _ in first.values()}), 3)
        node = self.fleet.internals[0]
        node.kill()
        await node.ended()
        await self.dmz.logged(f"uplink lost: node={node.name} ", timeout=60)
        second = await self.all_visit()
        self.kept(first, second, without=node.name)
        mark = len(self.dmz.log())
        node.start()
        await self.dmz.logged(f"uplink open: node={node.name} ", timeout=60, after=mark)
        await self.fleet.joined(node)
        self.assertEqual(await self.all_visit(), second)
        # One that hangs costs its own clients two seconds, and nobody else his node.
        hung = self.fleet.internals[1]
        hung.kill(signal.SIGSTOP)
        third = await self.all_visit()
        hung.kill(signal.SIGCONT)
        self.kept(second, third, without=hung.name)
        backend = self.fleet.backends[0]
        backend.kill()
        await backend.ended()
        fourth = await self.all_visit()
        for address, (had_node, had) in third.items():
            if had != backend.name and had_node != hung.name:
                self.assertEqual(fourth[address], (had_node, had))
            self.assertNotEqual(fourth[address][1], backend.name)
