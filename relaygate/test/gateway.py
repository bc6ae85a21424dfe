"""
A whole gateway for end-to-end tests, in the three places of a test's network.

The DMZ node stands in ``dmz``, internal nodes and backends in ``private``, clients ``outside``.
Every test that has a gateway also shows, when it is over, that nothing tried to open a connection
into the private network.
"""

from __future__ import annotations

import json
import os
import re
import socket
from collections.abc import Coroutine, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred, FirstError, gatherResults
from twisted.trial.unittest import TestCase

from relaygate.identity import Role
from relaygate.test import netns
from relaygate.test.netns import Network
from relaygate.test.nodes import Authority, Node
from relaygate.test.openssh import Keys, SSHServer
from relaygate.test.peers import PATIENCE_S, Handler, Server, dial, eventually, listening
from relaygate.test.programs import Where

UPLINK_PORT: Final = 7443
SSH_PORT: Final = 2222
SSHD_PORT: Final = 2022
TCP_PORT: Final = 7000
ECHO_PORT: Final = 6000

# How often a fault is repeated, and how long what takes long is: the soak wants more of both.
SOAK: Final = os.environ.get("RELAYGATE_SOAK", "0") not in ("", "0")
REPEATS: Final = 50 if SOAK else 10

# Seconds in which a node starts, and in which an uplink comes back when it can (the longest pause
# between two tries is 15 s, and a try that fell into a cut repeats its SYN for some seconds).
START_LIMIT_S: Final = 60.0
BACK_LIMIT_S: Final = 60.0


def service(
    name: str, protocol: str, port: int, *backends: str, host: str = "0.0.0.0", **keys: Any
) -> str:
    """Return a ``[[service]]`` table; *keys* are its further keys."""
    values: dict[str, Any] = {"name": name, "protocol": protocol, "listen": f"{host}:{port}"}
    values |= {"backends": list(backends)} | keys
    lines = (f"{key} = {_toml(value)}" for key, value in values.items())
    return "[[service]]\n" + "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_toml(each)}" for key, each in value.items()) + " }"
    return json.dumps(value)


def ssh_service(**keys: Any) -> str:
    """Return the service of an ``sshd`` in private."""
    return service("sftp", "ssh", SSH_PORT, f"{Network.private_address}:{SSHD_PORT}", **keys)


def tcp_service(*backends: str, **keys: Any) -> str:
    """Return a ``tcp`` service, by default of an echo server in private."""
    targets = backends or (f"{Network.private_address}:{ECHO_PORT}",)
    return service("echo", "tcp", TCP_PORT, *targets, **keys)


async def together(*works: Coroutine[Any, Any, None]) -> None:
    """Run several works at once, and raise what the first that failed has raised."""
    under_way = [Deferred.fromCoroutine(work) for work in works]
    try:
        await gatherResults(under_way, consumeErrors=True)
    except FirstError as first:
        for work in under_way:
            work.cancel()
        first.subFailure.raiseException()


class Gateway:
    """
    A DMZ node that *nodes* may join, and *services* for internal nodes to offer.

    *policy* is more text for the DMZ node's ``[policy]``; *log* the text of both ``[log]`` tables.
    """

    host: Final = Network.dmz_outer_address

    def __init__(
        self,
        case: TestCase,
        services: Sequence[str],
        *,
        nodes: Sequence[str] = ("node-a",),
        listen: Sequence[str] = ("0.0.0.0:1-65535",),
        policy: str = "",
        pool: int = 8,
        log: str = "",
        uplink: str = f"{Network.dmz_inner_address}:{UPLINK_PORT}",
    ) -> None:
        netns.require()
        self._case = case
        self._services = services
        self._log = f"[log]\n{log}\n"
        self._pool = pool
        self._uplink = uplink
        self.network = Network()
        case.addCleanup(self.network.destroy)
        self.network.create()
        self.inbound_expected = 0
        self.backends: list[Server] = []
        case.addCleanup(self._check_inbound)
        self.outside: Where = (self.network, "outside")
        self.private: Where = (self.network, "private")
        self.authority = Authority(case)
        config = (
            f"[uplink]\n"
            f'listen = "{Network.dmz_inner_address}:{UPLINK_PORT}"\n'
            f"nodes = {json.dumps(list(nodes))}\n"
            f"[policy]\nlisten = {json.dumps(list(listen))}\n{policy}\n{self._log}"
        )
        where: Where = (self.network, "dmz")
        self.dmz = Node(case, self.authority, Role.DMZ, "dmz", config, where=where)
        self.internals = [self.internal(name) for name in nodes]

    def _check_inbound(self) -> None:
        attempts = self.network.inbound_attempts()
        self._case.assertEqual(attempts, self.inbound_expected, "attempts to come in")

    @property
    def node(self) -> Node:
        """The first internal node."""
        return self.internals[0]

    def internal(self, name: str, services: Sequence[str] | None = None) -> Node:
        """Make an internal node, which still has to be started."""
        config = (
            f'[[gateway]]\naddress = "{self._uplink}"\nname = "dmz"\npool = {self._pool}\n'
            + "".join(self._services if services is None else services)
            + self._log
        )
        return Node(self._case, self.authority, Role.INTERNAL, name, config, where=self.private)

    async def start(self) -> None:
        """Start all nodes, and wait until every service has its listener."""
        self.dmz.start()
        for node in self.internals:
            node.start()
        await self.up()

    async def up(self, within_s: float = START_LIMIT_S) -> None:
        """Wait until every node has its uplink and every service its listener."""
        for node in self.internals:
            await node.logged("uplink open: ", timeout=within_s)
        wanted = {
            (address[1], int(address[2]))
            for text in self._services
            if (address := re.search(r'^listen = "(.*):(\d+)"$', text, re.MULTILINE))
        }
        await self.listens(wanted, within_s)

    async def listens(self, addresses: set[tuple[str, int]], within_s: float = PATIENCE_S) -> float:
        """Wait until the DMZ node listens on all *addresses*; return the seconds it took."""
        return await eventually(
            lambda: addresses <= listening(self.dmz.pid), f"listeners {addresses}", within_s
        )

    async def closes(self, port: int, within_s: float) -> float:
        """Wait until nothing listens on *port* in the DMZ; return the seconds it took."""
        return await eventually(
            lambda: all(port != open_port for _, open_port in listening(self.dmz.pid)),
            f"the listener on port {port} closed",
            within_s,
        )

    def client(self, port: int = TCP_PORT) -> socket.socket:
        """Connect from outside to a listener; raises ``OSError``."""
        return dial(self.outside, self.host, port)

    def backend(
        self, handler: Handler | None, port: int = ECHO_PORT, address: str = Network.private_address
    ) -> Server:
        """Run a plain TCP server in private."""
        made = Server(self._case, self.private, address, port, handler)
        self.backends.append(made)
        return made

    async def sshd(self, keys: Keys, port: int = SSHD_PORT) -> SSHServer:
        """Run an ``sshd`` in private."""
        server = SSHServer(self._case, keys, Network.private_address, port, where=self.private)
        await server.ready()
        return server
