"""
FTP's modes by fixed forwards and by SOCKS, with real clients and servers, beside a direct way.

Programs are in private, and partners' servers outside. A fixed forward's own TLS ends on the
internal node, and so does the partner's, but for one kind that passes.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any, Final

from twisted.trial.unittest import TestCase

from relaygate.test.certificates import ServerCA
from relaygate.test.ftpclient import MODES, Action, Client, Mode, Target, Work
from relaygate.test.ftpclients import LFTP, Curl, FTPLib
from relaygate.test.ftpmatrix import (
    Backend,
    Cell,
    Reach,
    Results,
    Servers,
    differences,
    resets_itself,
    run,
    run_again,
    table,
    working,
)
from relaygate.test.ftpservers import VSFTPD, Offer, Security, Version
from relaygate.test.netns import Network
from relaygate.test.peers import eventually, listening
from relaygate.test.wayoutnet import (
    ACTIVE_PORTS,
    DOMAIN,
    SOCKS_PORT,
    WayOutGateway,
    entry,
    open_entries,
)

INSIDE: Final = Network.private_address
PARTNER: Final = Network.outside_address
FIRST_PORT: Final = 2100
ACTIONS: Final[tuple[Action, ...]] = ("upload", "download", "list")
BACKENDS: Final = (
    Backend("vsftpd"),
    Backend("proftpd"),
    Backend("pure-ftpd"),
    Backend("vsftpd", "explicit", "1.3", reuse=True),
    Backend("proftpd", "explicit", "1.2"),
    Backend("pure-ftpd", "explicit", "1.3"),
    Backend("vsftpd", "implicit", "1.3"),
    Backend("proftpd", "implicit", "1.2", reuse=True),
)
PASSING: Final = (Curl(), FTPLib())
PASSIVE: Final[tuple[Mode, ...]] = ("PASV", "EPSV")
_PROXY: Final = f"{INSIDE}:{SOCKS_PORT}"


class SocksCurl(Curl):
    """curl by SOCKS: passive, and the addresses of the server's answers are believed."""

    name = "curl"

    @classmethod
    def can(cls, mode: Mode, security: Security, action: Action) -> bool:
        return mode in ("PASV", "EPSV")

    def command(self, work: Work) -> list[str]:
        program, *words = super().command(work)
        return [program, *words, "--socks5-hostname", _PROXY, "--no-ftp-skip-pasv-ip"]


class SocksFTPLib(FTPLib):
    """Python's ftplib by SOCKS: passive, and active by BIND."""

    name = "ftplib"

    def command(self, work: Work) -> list[str]:
        python, _, _, *words = super().command(work)
        return [python, "-m", "relaygate.test.socks_ftplib", INSIDE, str(SOCKS_PORT), *words]


FIXED: Final[tuple[Client, ...]] = (Curl(), FTPLib(), LFTP())
SOCKS: Final[tuple[Client, ...]] = (SocksCurl(), SocksFTPLib())


def matrix(clients: Sequence[Client]) -> list[Cell]:
    """Return the cells that *clients* have; not all actions, but all ways to a data connection."""
    made: list[Cell] = []
    for number, (client, backend, mode) in enumerate(
        (client, backend, mode) for client in clients for backend in BACKENDS for mode in MODES
    ):
        # Each way moves bytes in one direction at least, and its neighbour in the other one.
        actions = (ACTIONS[number % 3], ACTIONS[(number + 1) % 3])
        made += [
            Cell(client.name, backend, mode, action)
            for action in actions
            if client.can(mode, backend.security, action)
        ]
    return made


def fixed(name: str, port: int, backend: Backend, tls: Mapping[str, str], ca: str) -> str:
    """Return the entry at *port* in front of *backend*, whose server is at the same port."""
    ftp: dict[str, Any] = {"active_ports": "{}-{}".format(*ACTIVE_PORTS)}
    keys: dict[str, Any] = {"target": f"{PARTNER}:{port}", "ftp": ftp}
    if backend.security != "plain":
        implicit = backend.security == "implicit"
        ftp |= {"tls": "require", "implicit": implicit}
        keys["tls"] = tls
        keys["partner_tls"] = {"mode": "on" if implicit else "explicit", "ca": ca}
    return entry(name, "ftp", port, **keys)


class MatrixTests(TestCase):
    """
    All that works without a gateway works with it.

    Requirements 65 and 69, and 16 to 25 with the roles turned round.
    """

    timeout = 900

    async def setUp(self) -> None:  # type: ignore[override]
        self.ca = ServerCA(self)
        own = self.ca.issue(INSIDE)
        tls = {"certificate": str(own.certificate), "key": str(own.key)}
        self.ports = {backend: FIRST_PORT + n for n, backend in enumerate(sorted(BACKENDS))}
        entries = [
            fixed(f"ftp-{port}", port, backend, tls, str(self.ca.file))
            for backend, port in self.ports.items()
        ]
        self.gateway = WayOutGateway(self, [*open_entries(), *entries])
        outside = self.gateway.outside
        self.servers = Servers(self, BACKENDS, PARTNER, FIRST_PORT, outside)
        await self.servers.start(self.ca.issue(PARTNER))
        await self.gateway.start()

    def inside(self, backend: Backend) -> Reach:
        """Where a fixed forward is found."""
        trust = None if backend.security == "plain" else self.ca.file
        return Reach(INSIDE, self.ports[backend], trust)

    async def compare(
        self, title: str, direct: Results, through: Sequence[Client], reach: Any
    ) -> None:
        """Run it, print it beside what went directly, and show that nothing is lost."""
        which = matrix(through)
        private = self.gateway.private
        one = {cell: direct[cell] for cell in which}
        wanted = working(one)
        other = await run_again(self, wanted, self.servers, reach, private, clients=through)
        sys.stdout.write(f"\n{title}\n" + table(one, other))
        self.assertEqual(differences(one, other), [])
        self.assertEqual({cell.backend for cell in wanted}, set(BACKENDS))
        self.assertGreater(100 * len(wanted), 80 * len(which))
        await self.nothing_left()

    async def nothing_left(self) -> None:
        """Wait until no data port is open in the DMZ, and show whom the servers have seen."""
        span = range(ACTIVE_PORTS[0], ACTIVE_PORTS[1] + 1)
        await eventually(
            lambda: not any(port in span for _, port in listening(self.gateway.dmz.pid)),
            "all data ports were given back",
            90,
        )
        for server in self.servers.by_backend.values():
            self.assertNotIn(INSIDE, server.log())

    async def test_both_ways_out(self) -> None:
        """
        Programs that know nothing of proxies, in all modes, by a fixed forward; and programs that
        speak SOCKS, passive by CONNECT and active by BIND.
        """
        beside, outside = self.servers.reach(self.ca.file), self.gateway.outside
        which = matrix(FIXED)
        direct = await run(self, which, self.servers, beside, outside, clients=FIXED)
        # Directly, the clients that speak SOCKS are the first ones of the others.
        self.assertLess(set(matrix(SOCKS)), set(which))
        await self.compare("by a fixed forward", direct, FIXED, self.inside)
        vsftpd = self.servers.by_backend[Backend("vsftpd")].log()
        self.assertIn(Network.dmz_outer_address, vsftpd)
        await self.compare("by SOCKS", direct, SOCKS, beside)


class PassTests(TestCase):
    """FTPS that passes unopened."""

    timeout = 200

    async def test_pass(self) -> None:
        """Requirement 28: by the partner's own certificate, and ports that are the partner's."""
        ca = ServerCA(self)
        certified = ca.issue(INSIDE, PARTNER)
        ways: tuple[tuple[Security, Version], ...] = (
            ("implicit", "1.2"),
            ("explicit", "1.2"),
            ("explicit", "1.3"),
        )
        spans = [(30_000 + 100 * number, 30_009 + 100 * number) for number in range(len(ways))]
        entries = [
            entry(
                f"ftps-{number}",
                "ftp",
                FIRST_PORT + number,
                target=f"ftp.{DOMAIN}:{FIRST_PORT + number}",
                ftp={"tls": "pass", "data_ports": f"{span[0]}-{span[1]}"},
            )
            for number, span in enumerate(spans)
        ]
        gateway = WayOutGateway(self, entries, connect=[f"{PARTNER}:{FIRST_PORT}-2200"])
        await gateway.start()
        for number, (security, version) in enumerate(ways):
            offer = Offer(security, certified, version, reuse=True, passive=spans[number])
            port = FIRST_PORT + number
            server = VSFTPD(self, PARTNER, port, offer, where=gateway.outside)
            await server.ready()
            for client, mode, action in product(PASSING, PASSIVE, ACTIONS):
                target = Target(INSIDE, port, server.user, mode, security, version, ca.file)
                private = gateway.private
                result = await client.perform(self, target, action, server.files, where=private)
                backend = Backend("vsftpd", security, version, reuse=True)
                cell = Cell(client.name, backend, mode, action)
                why = f"{cell}: {result.why}"
                if resets_itself(cell, result):
                    sys.stdout.write(why + "\n")
                else:
                    self.assertTrue(result.ok, why)
            self.assertNotIn(INSIDE, server.log())
