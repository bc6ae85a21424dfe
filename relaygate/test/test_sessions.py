"""Tests of sessions through both nodes in this process: what clients get, and what is logged."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, cast

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

from relaygate.addresses import HostPort, ListenRule
from relaygate.config import (
    DMZConfig,
    FTPConfig,
    GatewayConfig,
    IdentityFiles,
    InternalConfig,
    LogConfig,
    ServiceConfig,
)
from relaygate.dmz import DMZNode
from relaygate.errors import NoBackend, TooMany
from relaygate.identity import Role
from relaygate.internal import InternalNode
from relaygate.test.ports import free_port
from relaygate.test.wire import identity, lines, logged, until

BANNER = b"a notice\r\nSSH-2.0-server\r\n"
Channel = Literal["auto", "always", "never"]
twisted: Any = reactor
NOWHERE = IdentityFiles(Path("-"), Path("-"), Path("-"))


class End(Protocol):
    """A client, or a server's end: greets, echoes or only listens, and notes what it gets."""

    greeting = b""
    echoes = False

    def __init__(self) -> None:
        self.data = b""
        self.over: Failure | None = None

    def connectionMade(self) -> None:
        self.transport.write(self.greeting)  # type: ignore[union-attr]

    def dataReceived(self, data: bytes) -> None:
        self.data += data
        if self.echoes:
            self.transport.write(data)  # type: ignore[union-attr]

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.over = reason


class Echo(End):
    """A server that says back what it hears."""

    echoes = True


class SSHServer(Echo):
    """A server that first says who it is, after a line of its own."""

    greeting = BANNER


class FTPServer(End):
    """A server that says no more than that it is there."""

    greeting = b"220 ready\r\n"


FTP = FTPConfig((50_000, 50_009), "off", "off")


class SessionCase(TestCase):
    """A DMZ node and an internal node in one reactor, with TLS and sockets as they are."""

    timeout = 180
    admin_socket: Path | None = None
    # More of the DMZ node's and of the internal node's configuration.
    policy: Mapping[str, Any] = MappingProxyType({})
    inside: Mapping[str, Any] = MappingProxyType({})

    async def start(
        self,
        protocol: Literal["ssh", "tcp", "tls", "ftp", "ftps", "http", "https"],
        backend: type[End] | Factory | None,
        channel: Channel = "auto",
        **more: Any,
    ) -> None:
        """Start both nodes with one service, whose *backend* may be None: nobody listens there."""
        self.port, uplink, inside = free_port(), free_port(), free_port()
        if backend is not None:
            server = backend if isinstance(backend, Factory) else Factory.forProtocol(backend)
            listening = twisted.listenTCP(inside, server, interface="127.0.0.1")
            self.addCleanup(listening.stopListening)
        listen, target = HostPort("127.0.0.1", self.port), HostPort("127.0.0.1", inside)
        service = ServiceConfig("svc", protocol, listen, (target,), channel=channel, **more)
        self.dmz = DMZNode(
            DMZConfig(
                NOWHERE,
                HostPort("127.0.0.1", uplink),
                ("node-a",),
                (ListenRule.parse("127.0.0.1:1-65535"),),
                **self.policy,
            ),
            identity("dmz", Role.DMZ),
            reactor,
        )
        gateway = GatewayConfig(HostPort("127.0.0.1", uplink), "dmz", pool=1)
        self.node = InternalNode(
            InternalConfig(
                NOWHERE,
                (gateway,),
                (service,),
                LogConfig(),
                admin_socket=self.admin_socket,
                **self.inside,
            ),
            identity("node-a", Role.INTERNAL),
            reactor,
        )
        for node in (self.dmz, self.node):
            node.startService()
        self.addCleanup(self.dmz.stopService)
        self.addCleanup(self.stopped, self.node)
        await until(lambda: list(self.dmz.listeners), "the listener")

    def stopped(self, node: InternalNode) -> Deferred[None] | None:
        """Stop *node*, if it is not stopped."""
        return node.stopService() if node.running else None

    async def client(self, says: bytes = b"") -> End:
        """Connect a client to the service, and say something."""
        endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", self.port)
        client = cast(End, await endpoint.connect(Factory.forProtocol(End)))
        self.addCleanup(client.transport.abortConnection)  # type: ignore[union-attr]
        client.transport.write(says)  # type: ignore[union-attr]
        return client

    async def got(self, client: End, data: bytes) -> None:
        """Wait until *client* has got *data* and no more."""
        await until(lambda: client.data == data, f"{data!r}")

    async def over(self, client: End) -> str:
        """Wait for the end of *client*'s connection; whether it was an end or a reset."""
        await until(lambda: client.over, "the end of a client")
        return "end" if client.over and client.over.check(ConnectionDone) else "reset"

    async def ends(self, events: Any, count: int = 2) -> list[str]:
        """Wait for *count* end lines of sessions."""
        await until(lambda: len(lines(events, " end: ")) >= count, "the end lines")
        return lines(events, " end: ")


class SessionTests(SessionCase):
    """What becomes of a client, by the protocol of the service."""

    async def test_bytes_and_lines(self) -> None:
        """Bytes pass both ways over clear and TLS channels, and both nodes log one id."""
        channels: tuple[Channel, ...] = ("never", "always")
        for channel in channels:
            with logged() as events:
                await self.start("tcp", Echo, channel)
                client = await self.client(b"hello")
                await self.got(client, b"hello")
                client.transport.loseConnection()  # type: ignore[union-attr]
                ended = await self.ends(events)
            opened = lines(events, " open: service=svc ")
            self.assertEqual(len(opened), 2)
            ids = {re.findall("session ([0-9a-f]{16}) ", line)[0] for line in opened + ended}
            self.assertEqual(len(ids), 1)
            for line in ended:
                self.assertIn("bytes_in=5 bytes_out=5 ", line)
                self.assertIn("outcome=done/relay", line)
            self.assertEqual(sum("backend=" in line for line in ended), 1)

    async def test_ssh_opens_verbatim(self) -> None:
        """Identifications pass as they are, lines before the server's too (Requirement 45)."""
        with logged() as events:
            await self.start("ssh", SSHServer)
            client = await self.client(b"SSH-2.0-client\r\nfirst")
            await until(lambda: client.data == BANNER + b"SSH-2.0-client\r\nfirst")
        (line,) = lines(events, "client_ident=")
        self.assertIn("client_ident=SSH-2.0-client server_ident=SSH-2.0-server", line)

    async def test_not_ssh(self) -> None:
        """A client that is none is reset, and the inside says why (Requirement 45)."""
        with logged() as events:
            await self.start("ssh", SSHServer)
            client = await self.client(b"GET / HTTP/1.0\r\n")
            self.assertEqual(await self.over(client), "reset")
            ended = " ".join(await self.ends(events))
        self.assertIn("outcome=client/open", ended)
        self.assertIn("b'G' where its SSH identification must begin", ended)
        self.assertIn("outcome=inside/relay", ended)

    async def test_no_backend(self) -> None:
        """An SSH client reads why, a TCP client is reset (Requirement 46)."""
        for protocol, words, end in (("ssh", NoBackend.ssh, "end"), ("tcp", b"", "reset")):
            with logged() as events:
                await self.start(protocol, None)  # type: ignore[arg-type]
                client = await self.client()
                self.assertEqual(await self.over(client), end)
                self.assertEqual(client.data, words)
                ended = await self.ends(events)
            self.assertTrue(all("outcome=backend/open" in line for line in ended), ended)

    async def test_ftp_without_a_backend(self) -> None:
        """An FTP client for whom nobody is there reads 421 and an end (Requirement 7)."""
        await self.start("ftp", None, ftp=FTP)
        client = await self.client()
        self.assertEqual(await self.over(client), "end")
        self.assertEqual(client.data, NoBackend.ftp)
        self.assertEqual(self.dmz.transfers._controls, {})

    async def test_ftp_sessions_may_have_transfers(self) -> None:
        """While an FTP session runs, its node can ask for its data connections, and nobody else."""
        with logged() as events:
            await self.start("ftp", FTPServer, ftp=FTP)
            client = await self.client()
            await self.got(client, FTPServer.greeting)
            (control,) = self.dmz.transfers._controls.values()
            self.assertEqual(control.node, "node-a")
            self.assertEqual(control.client[0], "127.0.0.1")
            self.assertEqual(control.reached, ("127.0.0.1", self.port))
            (line, *_) = lines(events, " open: service=svc ")
            self.assertIn(f"session {control.session} ", line)
            client.transport.abortConnection()  # type: ignore[union-attr]
            await self.ends(events)
        self.assertEqual(self.dmz.transfers._controls, {})

    async def test_too_many(self) -> None:
        """Beyond a service's cap a client is told so; the one before is not disturbed."""
        await self.start("ssh", SSHServer, max_sessions=1)
        first = await self.client(b"SSH-2.0-first\r\n")
        await until(lambda: first.data.endswith(b"SSH-2.0-first\r\n"))
        second = await self.client()
        self.assertEqual(await self.over(second), "end")
        self.assertEqual(second.data, TooMany.ssh)
        self.assertIsNone(first.over)

    async def test_stopped_node(self) -> None:
        """A node that stops ends its sessions with resets, and says that it did."""
        with logged() as events:
            await self.start("tcp", Echo)
            client = await self.client(b"x")
            await until(lambda: client.data)
            stopping: Deferred[None] = self.node.stopService()
            self.assertEqual(await self.over(client), "reset")
            await stopping
            ended = " ".join(await self.ends(events))
        self.assertIn("outcome=shutdown/relay", ended)
        self.assertIn("outcome=inside/relay", ended)
