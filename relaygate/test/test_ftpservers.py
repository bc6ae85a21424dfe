"""What the FTP servers of the tests promise, by clients with nothing between them."""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from twisted.trial.unittest import TestCase

from relaygate.test import netns
from relaygate.test.certificates import ServerCA
from relaygate.test.ftpclient import Action, Mode, Target, Work
from relaygate.test.ftpclients import Curl, FTPLib
from relaygate.test.ftpservers import (
    PASSWORD,
    SERVERS,
    FTPServer,
    Offer,
    PureFTPd,
    Security,
    Version,
)
from relaygate.test.gateway import together
from relaygate.test.netns import Network
from relaygate.test.peers import dial, in_thread
from relaygate.test.programs import Where

FIRST_PORT: Final = 2100
VERSIONS: Final[tuple[Version, ...]] = ("1.2", "1.3")


class Forgetful(Curl):
    """A client that never resumes a TLS session."""

    def command(self, work: Work) -> list[str]:
        return [*super().command(work), "--no-sessionid"]


class ServerTests(TestCase):
    """All servers in a place of their own, each with its own port."""

    timeout = 240

    def setUp(self) -> None:
        netns.require()
        self.network = Network()
        self.addCleanup(self.network.destroy)
        self.network.create()
        self.address = self.network.private_address
        self.where: Where = (self.network, "private")
        self.ca = ServerCA(self)
        self.certified = self.ca.issue(self.address)
        self.next_port = FIRST_PORT

    async def serve(self, kind: type[FTPServer], offer: Offer) -> FTPServer:
        """Start a server; a certificate is added to what it offers."""
        if offer.security != "plain":
            offer = replace(offer, certified=self.certified)
        server = kind(self, self.address, self.next_port, offer, where=self.where)
        self.next_port += 1
        await server.ready()
        return server

    def target(self, server: FTPServer, mode: Mode = "PASV", **changes: object) -> Target:
        """Return how a client gets to *server*, with some things otherwise."""
        offer = server.offer
        ca: Path | None = None if offer.security == "plain" else self.ca.file
        target = Target(
            self.address, server.port, server.user, mode, offer.security, offer.version, ca
        )
        return replace(target, **changes)  # type: ignore[arg-type]

    async def outcome(self, server: FTPServer, target: Target, action: Action = "download") -> str:
        """Return why an ftplib client failed, or nothing."""
        result = await FTPLib().perform(self, target, action, server.files, where=self.where)
        return result.why

    async def of_each(self, work: Callable[[type[FTPServer]], Coroutine[Any, Any, None]]) -> None:
        """Do *work* with all kinds of servers at once: most of it is waiting for refusals."""
        await together(*(work(kind) for kind in SERVERS))

    async def test_wrong_password_is_refused(self) -> None:
        """Every server lets its user in by his password and by no other."""

        async def tried(kind: type[FTPServer]) -> None:
            server = await self.serve(kind, Offer())
            target = self.target(server)
            self.assertEqual(await self.outcome(server, target), "", kind)
            refused = await self.outcome(server, replace(target, password="guess"))
            self.assertRegex(refused, r"\b530\b", kind)

        await self.of_each(tried)

    async def test_account_of_the_machine_is_refused(self) -> None:
        """No server looks at the machine's own accounts."""

        async def tried(kind: type[FTPServer]) -> None:
            server = await self.serve(kind, Offer())
            refused = await self.outcome(server, self.target(server, user="root"))
            self.assertRegex(refused, r"\b530\b", kind)

        await self.of_each(tried)

    async def test_session_in_clear_is_refused_where_tls_is_offered(self) -> None:
        """With explicit TLS no server takes a password in clear."""

        async def tried(kind: type[FTPServer]) -> None:
            server = await self.serve(kind, Offer("explicit"))
            target = self.target(server)
            self.assertEqual(await self.outcome(server, target), "", kind)
            clear = replace(target, security="plain", ca=None)
            self.assertRegex(await self.outcome(server, clear), r"\b(421|530|550)\b", kind)

        await self.of_each(tried)

    async def test_only_the_offered_version_is_spoken(self) -> None:
        """A server of one TLS version refuses a client of the other."""

        async def tried(kind: type[FTPServer]) -> None:
            for version, other in (VERSIONS, VERSIONS[::-1]):
                server = await self.serve(kind, Offer("explicit", version=version))
                target = self.target(server)
                self.assertEqual(await self.outcome(server, target), "", (kind, version))
                refused = await self.outcome(server, replace(target, version=other))
                self.assertRegex(refused, "SSL|ECONNRESET|Connection reset", (kind, version))

        await self.of_each(tried)

    async def test_implicit_tls(self) -> None:
        """All but pure-ftpd begin with TLS, and do not answer in clear."""
        security: Security = "implicit"
        for kind in SERVERS:
            if kind is PureFTPd:
                self.assertFalse(kind.can(Offer(security)))
                self.assertRaises(ValueError, kind, self, self.address, 1, Offer(security))
                continue
            server = await self.serve(kind, Offer(security))
            self.assertEqual(await self.outcome(server, self.target(server)), "", kind)

    async def test_reuse_is_required(self) -> None:
        """Where it is demanded, data connections without the control session are refused (0.1)."""

        async def tried(kind: type[FTPServer]) -> None:
            if not kind.requires_reuse:
                return
            for version in VERSIONS:
                for reuse in (False, True):
                    server = await self.serve(kind, Offer("explicit", None, version, reuse))
                    target = self.target(server)
                    self.assertEqual(await self.outcome(server, target), "", (kind, version))
                    forgetful = await Forgetful().perform(
                        self, target, "download", server.files, where=self.where
                    )
                    self.assertEqual(forgetful.ok, not reuse, (kind, version, forgetful.why))

        await self.of_each(tried)

    async def test_passive_ports_are_of_the_range(self) -> None:
        """Each server offers ports of the range that it was given."""
        low, high = 30000, 30007

        async def tried(kind: type[FTPServer]) -> None:
            server = await self.serve(kind, Offer(passive=(low, high)))
            for _ in range(4):
                port = await in_thread(self.offered_port, server)
                self.assertTrue(low <= port <= high, (kind, port))

        await self.of_each(tried)

    def offered_port(self, server: FTPServer) -> int:
        """Log in by hand, and return the port that EPSV offers; raises ``AssertionError``."""
        with dial(self.where, self.address, server.port) as control:
            answers = control.makefile("rb")
            for command in (b"", b"USER " + server.user.encode(), b"PASS " + PASSWORD.encode()):
                if command:
                    control.sendall(command + b"\r\n")
                while not re.match(rb"\d\d\d ", answers.readline()):
                    pass
            control.sendall(b"EPSV\r\n")
            found = re.match(rb"229 .*\(\|\|\|(\d+)\|\)", answers.readline())
            assert found, server.kind
            return int(found[1])
