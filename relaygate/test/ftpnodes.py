"""
An FTP service through both nodes in this process, between peers that do what a test says.

Every party has an address of loopback to itself, so that it shows whose address is told to whom::

    CLIENT, STRANGER -> GATE (DMZ node) <- INSIDE (internal node) -> BACKEND

The nodes and sockets are real.
"""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any, Final, Literal

from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from relaygate import parting
from relaygate.addresses import HostPort, ListenRule
from relaygate.config import (
    BackendTLSConfig,
    DMZConfig,
    FTPConfig,
    GatewayConfig,
    IdentityFiles,
    InternalConfig,
    KeyFiles,
    LogConfig,
    ServiceConfig,
)
from relaygate.dmz import DMZNode
from relaygate.identity import Role
from relaygate.internal import InternalNode
from relaygate.test.farend import Ending, Peer, reactor, until
from relaygate.test.ftppeers import Backend, BackendLine, Line
from relaygate.test.ports import free_port, free_span
from relaygate.test.programs import new_folder
from relaygate.test.test_servicetls import authority, client_context, service_key
from relaygate.test.wire import identity

INSIDE: Final = "127.0.0.1"
BACKEND: Final = "127.0.0.2"
GATE: Final = "127.0.0.3"
CLIENT: Final = "127.0.0.4"
STRANGER: Final = "127.0.0.5"
_NOWHERE: Final = IdentityFiles(Path("-"), Path("-"), Path("-"))


SPAN: Final = free_span(GATE)


def key_files(case: TestCase, *names: str) -> KeyFiles:
    """A service's certificate (for *names*) and key, in files."""
    folder = new_folder(case)
    key = service_key(*names)
    files = KeyFiles(folder / "service.pem", folder / "service.key")
    files.certificate.write_bytes(b"".join(each.public_bytes(Encoding.PEM) for each in key.chain))
    files.key.write_bytes(key.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    files.key.chmod(0o600)
    return files


class FTPCase(TestCase):
    """A DMZ node and an internal node in one reactor, a backend, and clients."""

    timeout = 180

    async def begin(
        self,
        tls: Literal["off", "allow", "require"] = "off",
        *,
        protocol: Literal["ftp", "ftps"] = "ftp",
        backend_tls: Literal["off", "explicit", "on"] = "off",
        max_sessions: int = 0,
        idle_timeout_s: float | None = None,
        clock: Any = reactor,
        **ftp: Any,
    ) -> None:
        """
        Start all; *ftp* is more of :class:`relaygate.config.FTPConfig`, and *clock* the nodes'
        reactor.
        """
        self.patch(parting, "PARTING_LIMIT_S", 0.3)
        self.backend = Backend(BACKEND, implicit=backend_tls == "on")
        self.addCleanup(self.backend.close)
        self.port, uplink = free_port(GATE), free_port(GATE)
        self.keys = None if tls == "off" else key_files(self)
        service = ServiceConfig(
            "svc",
            protocol,
            HostPort(GATE, self.port),
            (HostPort(BACKEND, self.backend.port),),
            max_sessions=max_sessions,
            idle_timeout_s=idle_timeout_s,
            tls=self.keys,
            backend_tls=self._backend_tls(backend_tls),
            ftp=FTPConfig(SPAN, **{"tls": tls, "data_tls": tls, **ftp}),
        )
        rules = (ListenRule.parse(f"{GATE}:1-65535"),)
        self.dmz = DMZNode(
            DMZConfig(_NOWHERE, HostPort(GATE, uplink), ("node-a",), rules),
            identity("dmz", Role.DMZ),
            clock,
        )
        gateway = GatewayConfig(HostPort(GATE, uplink), "dmz", pool=2)
        self.node = InternalNode(
            InternalConfig(_NOWHERE, (gateway,), (service,), LogConfig()),
            identity("node-a", Role.INTERNAL),
            clock,
        )
        for node in (self.dmz, self.node):
            node.startService()
            self.addCleanup(self.stopped, node)
        await until(lambda: list(self.dmz.listeners), "the listener")

    def _backend_tls(self, mode: Literal["off", "explicit", "on"]) -> BackendTLSConfig:
        if mode == "off":
            return BackendTLSConfig()
        self.backend.secured_data = True
        ca = new_folder(self) / "backend.pem"
        ca.write_bytes(authority("one").cert_pem.bytes())
        return BackendTLSConfig(mode, ca, "ftp.inside")

    def stopped(self, node: InternalNode | DMZNode) -> Deferred[None] | None:
        """Stop *node*, if it is not stopped."""
        return node.stopService() if node.running else None

    # -- the client -----------------------------------------------------------------------------

    def client(self, source: str = CLIENT) -> Line:
        """A client's control connection."""
        skt = socket.create_connection((GATE, self.port), 5, (source, 0))
        client = Line(skt)
        self.addCleanup(client.close)
        return client

    async def logged_in(self, *, tls: bool | int = False) -> tuple[Line, BackendLine]:
        """
        A client that has logged in, and its session's end at the backend.

        *tls* is whether it protects its session, or by which version.
        """
        client = self.client()
        await client.reply(220)
        if tls:
            await client.ask(b"AUTH TLS", 234)
            await client.secure(client_context(None if tls is True else tls))
            await client.ask(b"PBSZ 0", 200)
            await client.ask(b"PROT P", 200)
        await client.ask(b"USER mina", 331)
        await client.ask(b"PASS sesame", 230)
        return client, self.backend.controls[-1]

    async def passive(self, client: Line, verb: bytes = b"EPSV") -> int:
        """Ask for a data port."""
        self.backend.forget()
        reply = await client.ask(verb, 229 if verb == b"EPSV" else 227)
        if verb == b"EPSV":
            return int(reply.split(b"|")[3])
        numbers = [int(each) for each in re.findall(rb"\d+", reply[4:])]
        self.assertEqual(".".join(map(str, numbers[:4])), GATE)
        return numbers[4] * 256 + numbers[5]

    def connect(
        self,
        port: int,
        *,
        source: str = CLIENT,
        window: int = 0,
    ) -> Line:
        """The client's data connection, with so small a receive buffer (bytes) if it has one."""
        skt = socket.socket()
        if window:
            skt.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        skt.settimeout(5)
        skt.bind((source, 0))
        skt.connect((GATE, port))
        peer = Line(skt)
        self.addCleanup(peer.close)
        return peer

    async def transfer(self, client: Line, command: bytes, *, window: int = 0) -> tuple[Line, Line]:
        """
        Begin a transfer: the client's data connection and the backend's.

        Where the client's session is under TLS, so is its data, in a session that is resumed.
        """
        data = self.connect(await self.passive(client), window=window)
        await client.ask(command, 150)
        if client.context is not None:
            client.secure_data(data)
        return data, await self.backend.data()

    # -- what is left ---------------------------------------------------------------------------

    @property
    def bound(self) -> set[tuple[str, int]]:
        """The data ports that are open at the gate."""
        return self.dmz.transfers.ports.bound

    @property
    def running(self) -> list[Any]:
        """The FTP sessions, as they are performed on the internal node."""
        return [session.relay for session in self.node._sessions if session.relay is not None]

    async def nothing_left(self) -> None:
        """Wait until neither node holds anything of a transfer."""
        transfers = self.dmz.transfers
        (link, *_) = [service for service in self.node if hasattr(service, "dataway")]
        await until(
            lambda: (
                not (
                    transfers._all
                    or transfers._mapped
                    or self.bound
                    or len(link.dataway)
                    or any(getattr(relay, "_transfers", ()) for relay in self.running)
                )
            ),
            "the end of all transfers",
        )
        self.assertEqual(transfers._count, {})

    async def all_over(self) -> None:
        """Wait until no session is left, on either node."""
        await until(lambda: not (len(self.dmz.desk) or self.node._sessions), "the sessions' end")
        await self.nothing_left()
        self.assertEqual(self.dmz.transfers._controls, {})

    async def is_over(self, peer: Peer) -> None:
        """Wait for the end of a peer's stream, in order."""
        self.assertIs(await peer.ended(), Ending.END)
        peer.close()
