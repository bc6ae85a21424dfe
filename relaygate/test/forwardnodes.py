"""
Ways out through both nodes in this process, between programs and partners that do what a test says.

Every party has an address of loopback to itself, so that it shows who comes from where::

    PROGRAM -> INSIDE (internal node) -> GATE (DMZ node, dialling from EXIT) -> PARTNER

Loopback is special and all of it the DMZ's own, so that a policy has to name each address.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.trial.unittest import TestCase

from relaygate import parting
from relaygate.addresses import HostPort, ListenRule
from relaygate.config import DMZConfig, GatewayConfig, InternalConfig, LogConfig
from relaygate.config.forward import ForwardConfig
from relaygate.destinations import DestinationRule
from relaygate.dmz import DMZNode
from relaygate.identity import Role
from relaygate.internal import InternalNode
from relaygate.resolver import NotResolved
from relaygate.test.farend import Peer, reactor, until
from relaygate.test.ftpnodes import _NOWHERE
from relaygate.test.ftppeers import Door, Line
from relaygate.test.ports import free_port, free_span
from relaygate.test.wire import identity

INSIDE: Final = "127.0.0.1"
PARTNER: Final = "127.0.0.2"
GATE: Final = "127.0.0.3"
PROGRAM: Final = "127.0.0.4"
STRANGER: Final = "127.0.0.5"
EXIT: Final = "127.0.0.6"
SPAN: Final = free_span(EXIT)


def rules(*texts: str) -> tuple[DestinationRule, ...]:
    """Return the rules that are written so."""
    return tuple(DestinationRule.parse(text) for text in texts)


def _is_empty(dmz: DMZNode) -> bool:
    return not (len(dmz.egress) or dmz.transfers._all or dmz.egress.ports.bound)


class Partner:
    """A server of a partner's: keeps the connections that come to it, in :attr:`peers`."""

    def __init__(self, host: str = PARTNER) -> None:
        self.peers: list[Line] = []
        self.sources: list[tuple[str, int]] = []
        self._taken = 0
        self._door = Door(host, self._came)
        self.host = host
        self.port = self._door.port

    def _came(self, skt: socket.socket) -> None:
        self.sources.append(skt.getpeername())
        self.peers.append(Line(skt))

    async def peer(self) -> Line:
        """The next connection."""
        await until(lambda: len(self.peers) > self._taken, "a connection at the partner's")
        self._taken += 1
        return self.peers[self._taken - 1]

    def close(self) -> None:
        """Close everything."""
        self._door.close()
        for peer in self.peers:
            peer.close()


class ForwardCase(TestCase):
    """One DMZ node or several, an internal node with entries, and a partner."""

    timeout = 90

    async def begin(
        self,
        *entries: ForwardConfig,
        connect: Sequence[str] | None = None,
        gateways: Sequence[str] = ("dmz",),
        policy: dict[str, Any] | None = None,
        inside: dict[str, Any] | None = None,
    ) -> None:
        """Start all; *connect* is the DMZ's policy, by default the partner on every port."""
        self.patch(parting, "PARTING_LIMIT_S", 0.3)
        self.names: dict[str, list[str]] = {}
        self.asked: list[str] = []
        self.gates: dict[str, DMZNode] = {}
        links = []
        for name in gateways:
            uplink = free_port(GATE)
            dmz = DMZNode(
                DMZConfig(
                    _NOWHERE,
                    HostPort(GATE, uplink),
                    (policy or {}).get("nodes", ("node-a",)),
                    (ListenRule.parse(f"{EXIT}:{SPAN[0]}-{SPAN[1]}"),),
                    connect=rules(*(connect or (f"{PARTNER}:1-65535",))),
                    **{
                        name: value
                        for name, value in ({"connect_from": {4: EXIT}} | (policy or {})).items()
                        if name != "nodes"
                    },
                ),
                identity(name, Role.DMZ),
                reactor,
            )
            dmz.egress.resolve = self.resolve
            self.gates[name] = dmz
            links.append(GatewayConfig(HostPort(GATE, uplink), name, pool=2))
        self.node = InternalNode(
            InternalConfig(
                _NOWHERE, tuple(links), (), LogConfig(), forwards=entries, **(inside or {})
            ),
            identity("node-a", Role.INTERNAL),
            reactor,
        )
        for node in (*self.gates.values(), self.node):
            node.startService()
            self.addCleanup(self.stopped, node)
        await until(lambda: all(link.up for link in self.node.links.values()), "the uplinks")

    @property
    def dmz(self) -> DMZNode:
        """The first DMZ node."""
        return next(iter(self.gates.values()))

    async def resolve(self, name: str, _limit_s: float, _node: str) -> Sequence[str]:
        """The DMZ's resolver: :attr:`names` has the next answers, and each one once."""
        self.asked.append(name)
        if name not in self.names:
            raise NotResolved(f"there is no address of {name!r}")
        return self.names[name]

    def stopped(self, node: Any) -> Deferred[None] | None:
        """Stop *node*, if it is not stopped."""
        stopping: Deferred[None] | None = node.stopService() if node.running else None
        return stopping

    def partner(self, host: str = PARTNER) -> Partner:
        """A server of a partner's."""
        made = Partner(host)
        self.addCleanup(made.close)
        return made

    def entry(self, protocol: Any, **more: Any) -> ForwardConfig:
        """An entry's configuration, by default one that leads everywhere."""
        everywhere = rules("*:1-65535", "127.0.0.0/8:1-65535", "0.0.0.0/0:1-65535", "*:25")
        fixed = protocol in ("ftp", "tcp")
        return ForwardConfig(
            more.pop("name", protocol),
            protocol,
            HostPort(INSIDE, free_port(INSIDE)),
            **({} if fixed else {"destinations": everywhere}) | more,
        )

    def program(self, entry: ForwardConfig, source: str = PROGRAM) -> Line:
        """A program's connection to *entry*."""
        made = Line(
            socket.create_connection((entry.listen.host, entry.listen.port), 5, (source, 0))
        )
        self.addCleanup(made.close)
        return made

    async def all_over(self) -> None:
        """Wait until neither node has anything left."""
        await until(lambda: not self.node.forwards.sessions, "the sessions' end")
        for dmz in self.gates.values():
            await until(partial(_is_empty, dmz), "the end of what goes out")
            self.assertEqual(dmz.egress.counted.total, 0)
            self.assertEqual(dmz.egress.pending.total, 0)
            self.assertEqual(dmz.transfers._controls, {})
        for link in self.node.links.values():
            self.assertEqual(len(link.dataway), 0)
        for entry in self.node.forwards.entries.values():
            self.assertEqual((entry.sessions.total, entry.pending.total), (0, 0))

    async def echoes(self, near: Peer, far: Peer) -> None:
        """Show that bytes and ends pass both ways."""
        near_had, far_had = near.count, far.count
        near.send(b"there " * 10_000)
        far.send(b"back " * 10_000)
        await far.has(far_had + 60_000)
        await near.has(near_had + 50_000)
        near.finish()
        await far.ended()
        far.send(b"tail")
        far.finish()
        await near.has(near_had + 50_004)
        await near.ended()
