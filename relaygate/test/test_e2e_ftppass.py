"""FTPS that passes unopened, between real clients and servers that see nothing of the gateway."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import product
from typing import Any, Final

from twisted.trial.unittest import TestCase

from relaygate.test import netns
from relaygate.test.certificates import ServerCA
from relaygate.test.ftpclient import ACTIONS, Mode
from relaygate.test.ftpgateway import FIRST_PORT, ftp_service
from relaygate.test.ftpmatrix import Backend, Cell, Reach, Servers, resets_itself, run, run_again
from relaygate.test.ftpservers import VSFTPD, Offer
from relaygate.test.gateway import Gateway
from relaygate.test.netns import Network
from relaygate.test.peers import dial, eventually, in_thread, listening

SPAN: Final = 40
BACKENDS: Final = (
    Backend("vsftpd", "explicit", "1.3", reuse=True),
    Backend("vsftpd", "implicit", "1.2", reuse=True),
    Backend("proftpd", "explicit", "1.3", reuse=True),
    Backend("pure-ftpd", "explicit", "1.3"),
    Backend("pyftpdlib", "implicit", "1.3"),
)


def span(number: int) -> tuple[int, int]:
    """Return the ports that lead to server *number*."""
    return 51_000 + number * 100, 51_000 + number * 100 + SPAN - 1


class PassingServers(Servers):
    """Servers that know from where they are reached."""

    def offer(self, backend: Backend, made: Offer) -> Offer:
        passive = span(self.port_of(backend) - FIRST_PORT)
        return replace(
            super().offer(backend, made), passive=passive, public=Network.dmz_outer_address
        )


class PassingGateway(Gateway):
    """A gateway that has no certificate of any service."""

    def __init__(self, case: TestCase, wanted: Iterable[Backend], **more: Any) -> None:
        self.ports = {each: FIRST_PORT + at for at, each in enumerate(sorted(wanted))}
        services = []
        for each, port in self.ports.items():
            low, high = span(port - FIRST_PORT)
            protocol = "ftps" if each.security == "implicit" else "ftp"
            text = ftp_service(f"s{port}", port, port, protocol=protocol, passive_ports="RANGE")
            passing = f'"{low}-{high}", pass_through = true'
            services.append(text.replace('"RANGE"', passing))
        super().__init__(case, services, **more)
        self.ca = ServerCA(case)
        self.servers = PassingServers(
            case, self.ports, Network.private_address, FIRST_PORT, self.private
        )

    async def start(self) -> None:
        """Start the servers, whose certificate is for the gateway's address, then all nodes."""
        await self.servers.start(self.ca.issue(self.host))
        await super().start()

    def through(self, backend: Backend) -> Reach:
        """Return the way from outside."""
        return Reach(self.host, self.ports[backend], self.ca.file)

    def mapped(self) -> set[int]:
        """Return the mapped ports that are open in the DMZ."""
        return {port for _, port in listening(self.dmz.pid) if 51_000 <= port < 52_000}


class PassingTests(TestCase):
    """The servers' own TLS, all the way, and ports that are open only meanwhile."""

    timeout = 300

    async def gateway(self, *wanted: Backend, **more: Any) -> PassingGateway:
        """Start a gateway and the servers behind it."""
        netns.require()
        gateway = PassingGateway(self, wanted, **more)
        await gateway.start()
        return gateway

    async def test_real_programs(self) -> None:
        """Clients move files by the servers' certificate, with session reuse where demanded."""
        gateway = await self.gateway(*BACKENDS)
        self.assertEqual(gateway.mapped(), set())
        ways: tuple[tuple[str, Mode], ...] = (
            ("curl", "PASV"),
            ("curl", "EPSV"),
            ("ftplib", "EPSV"),
            ("lftp", "PASV"),
        )
        which = [
            Cell(client, backend, mode, action)
            for backend, (client, mode), action in product(BACKENDS, ways, ACTIONS)
        ]
        found = await run_again(self, which, gateway.servers, gateway.through, gateway.outside)
        for cell, how in found.items():
            self.assertTrue(how.ok or resets_itself(cell, how), f"{cell}: {how.why}")
        await eventually(lambda: not gateway.mapped(), "all ranges closed", 30)
        self.assertIn(" data: ", gateway.node.log())

    async def test_only_its_clients(self) -> None:
        """The range is open while a session runs, and a stranger's connection leads nowhere."""
        gateway = await self.gateway(BACKENDS[0])
        low, high = span(0)
        client = gateway.client(FIRST_PORT)
        self.addCleanup(client.close)
        greeting = await in_thread(client.recv, 100)
        self.assertTrue(greeting.startswith(b"220 "))
        self.assertEqual(gateway.mapped(), set(range(low, high + 1)))

        def stranger() -> socket.socket:
            # On the DMZ's own machine, as if from another address.
            return dial((gateway.network, "dmz"), gateway.host, low)

        self.assertTrue(await in_thread(_reset, stranger))
        await gateway.dmz.logged("stranger closed on a passive port")
        # Of the client itself: the server has nothing there, so this is no listing.
        self.assertTrue(await in_thread(_reset, lambda: gateway.client(low + 1)))
        client.close()
        await eventually(lambda: not gateway.mapped(), "the range closed", 30)

    async def test_two_nodes(self) -> None:
        """All sessions of one client stay with one node, or servers would refuse their data."""
        gateway = await self.gateway(BACKENDS[2], nodes=("node-a", "node-b"))
        which = [Cell("curl", BACKENDS[2], "PASV", "download")] * 8
        before = [node.log().count(" open: ") for node in gateway.internals]
        clients = []
        for _ in range(4):
            # One after the other: those that come in one moment find none that runs.
            clients.append(client := gateway.client(FIRST_PORT))
            self.addCleanup(client.close)
            await in_thread(client.recv, 100)
        for cell in which:
            found = await run(self, [cell], gateway.servers, gateway.through, gateway.outside)
            self.assertEqual([how.why for how in found.values() if not how.ok], [])
        # Both nodes have one address here, so that the server could not tell them apart.
        opened = [
            node.log().count(" open: ") - count
            for node, count in zip(gateway.internals, before, strict=True)
        ]
        self.assertEqual(sorted(opened), [0, len(clients) + len(which)])

    async def test_the_gateway_holds_nothing(self) -> None:
        """No key of the server's and no password is in the memory of either node (spec: trust)."""
        gateway = await self.gateway(BACKENDS[0])
        cell = Cell("curl", BACKENDS[0], "EPSV", "download")
        found = await run(self, [cell], gateway.servers, gateway.through, gateway.outside)
        self.assertEqual([how.why for how in found.values()], [""])
        server = gateway.servers.by_backend[BACKENDS[0]]
        self.assertIsInstance(server, VSFTPD)
        for node in (gateway.dmz, gateway.node):
            self.assertEqual(node.memory_contains([b"open.sesame"]), [], node.name)


def _reset(connect: Callable[[], socket.socket]) -> bool:
    """Whether the connection is reset before a byte, which may be as soon as it is made."""
    try:
        with connect() as peer:
            peer.recv(1)
    except ConnectionResetError:
        return True
    return False
