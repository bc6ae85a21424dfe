"""
Several nodes on both sides, in namespaces: two DMZ nodes, some internal nodes, some backends, and
clients that come and go without a pause.

A second namespace ``dmz2`` stands beside ``dmz``, with wires of its own to both sides.  Backends
are processes, so that they can be killed and stopped like everything else.
"""

from __future__ import annotations

import json
import os
import re
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, cast

from twisted.trial.unittest import TestCase

from relaygate.identity import Role
from relaygate.test import netns
from relaygate.test.netns import Network, Place
from relaygate.test.nodes import Authority, Node
from relaygate.test.peers import dial, eventually, listening
from relaygate.test.programs import Program, Where

SERVICE_PORT: Final = 7000
UPLINK_PORT: Final = 7443
DMZ2: Final = cast("Place", "dmz2")
# A client gives a session up after this long; the gateway's own limit is 20 s.
CLIENT_LIMIT_S: Final = 25.0

_BACKEND: Final = """
import socket, sys, threading
name, port = sys.argv[1], int(sys.argv[2])
def serve(peer):
    with peer:
        try:
            peer.sendall(b"220 " + name.encode() + b"\\r\\n")
            while data := peer.recv(65536):
                if data == b"QUIT\\r\\n":
                    break
                peer.sendall(data)
        except OSError:
            pass
server = socket.create_server(("198.18.0.2", port), reuse_port=False)
print("ready", flush=True)
while True:
    threading.Thread(target=serve, args=[server.accept()[0]], daemon=True).start()
"""


class TwoDMZNetwork(Network):
    """The three places, and ``dmz2`` beside ``dmz``."""

    second_outer: Final = "203.0.114.1"
    second_inner: Final = "198.19.0.1"

    def __init__(self) -> None:
        super().__init__()
        self._names[DMZ2] = self._names["dmz"] + "2"

    def create(self) -> None:
        """See :class:`Network`."""
        super().create()
        end = netns._End
        self._wire(
            end("outside", "203.0.114.2", "fd52:4703::2", "02:00:00:00:03:02"),
            end(DMZ2, self.second_outer, "fd52:4703::1", "02:00:00:00:03:01"),
        )
        self._wire(
            end("private", "198.19.0.2", "fd52:4704::2", "02:00:00:00:04:02"),
            end(DMZ2, self.second_inner, "fd52:4704::1", "02:00:00:00:04:01"),
        )
        self._ip(DMZ2, "link set lo up")


class Fleet:
    """
    Two DMZ nodes, internal nodes called *names*, *backends* servers, and one service ``echo``.

    *keys* is more text for the service, *tables* for its tables; *policy* and *dmz_tables* are for
    the DMZ nodes; *stop* is ``[stop] drain``.
    """

    def __init__(
        self,
        case: TestCase,
        names: Sequence[str],
        backends: int,
        *,
        keys: str = "",
        tables: str = "",
        policy: str = "",
        dmz_tables: str = "",
        stop: int = 0,
    ) -> None:
        netns.require()
        self.case = case
        self.network = TwoDMZNetwork()
        case.addCleanup(self.network.destroy)
        self.network.create()
        self.outside: Where = (self.network, "outside")
        self.private: Where = (self.network, "private")
        self.gates = {
            "dmz": (Network.dmz_outer_address, Network.dmz_inner_address),
            "dmz2": (TwoDMZNetwork.second_outer, TwoDMZNetwork.second_inner),
        }
        self.authority = Authority(case)
        self._policy, self._dmz_tables = policy, dmz_tables
        self._stop = f"[stop]\ndrain = {stop}\n"
        self._served: dict[str, list[tuple[float, tuple[str, str, str]]]] = {}
        self.backends = [self._backend(number) for number in range(1, backends + 1)]
        self.keys, self.tables = keys, tables
        self.dmzs = [self._dmz(name, names) for name in self.gates]
        self.internals = [self.internal(name) for name in names]

    def _backend(self, number: int) -> Program:
        argv = [sys.executable, "-c", _BACKEND, f"backend-{number}", str(6000 + number)]
        return Program(self.case, f"backend-{number}", argv, where=self.private)

    def _dmz(self, name: str, nodes: Sequence[str]) -> Node:
        config = (
            f'[uplink]\nlisten = "{self.gates[name][1]}:{UPLINK_PORT}"\n'
            f"nodes = {json.dumps([*nodes, 'node-new'])}\n"
            f'[policy]\nlisten = ["0.0.0.0:1-65535"]\n'
            f"{self._policy}\n{self._dmz_tables}\n{self._stop}"
        )
        where: Where = (self.network, cast("Place", name))
        return Node(self.case, self.authority, Role.DMZ, name, config, where=where)

    def config(self, more: str = "") -> str:
        """The configuration of an internal node."""
        targets = json.dumps([f"198.18.0.2:{6001 + at}" for at in range(len(self.backends))])
        gates = "".join(
            f'[[gateway]]\naddress = "{inner}:{UPLINK_PORT}"\nname = "{name}"\npool = 4\n'
            for name, (_, inner) in self.gates.items()
        )
        return (
            f'{gates}[[service]]\nname = "echo"\nprotocol = "tcp"\n'
            f'listen = "0.0.0.0:{SERVICE_PORT}"\nbackends = {targets}\n'
            f"{self.keys}\n{more}\n{self.tables}\n{self._stop}"
        )

    def internal(self, name: str) -> Node:
        """An internal node, which still has to be started."""
        config = self.config()
        return Node(self.case, self.authority, Role.INTERNAL, name, config, where=self.private)

    async def start(self) -> None:
        """Start everything, and wait until both DMZ nodes listen for every internal node."""
        for program in (*self.backends, *self.dmzs, *self.internals):
            program.start()
        for backend in self.backends:
            await self.answers(backend)
        for node in self.internals:
            await self.joined(node)

    async def answers(self, backend: Program) -> None:
        """Wait until *backend* listens."""
        await eventually(lambda: bool(listening(backend.pid)), f"{backend.name} listens", 60.0)

    async def joined(self, node: Node) -> None:
        """Wait until *node* has declared its services to both DMZ nodes."""
        for name in self.gates:
            await node.logged(f"services declared: gateway={name} ", timeout=60)

    def served_by(self, client: str, at: float) -> tuple[str, str, str]:
        """
        Internal node, DMZ node and backend of the session that the client of that address had at
        the time *at*; ports are used again.
        """
        if not self._served:
            for node in self.internals:
                text = node.log_file.read_text(errors="replace")
                opened = r"(?m)^(\S+) .* open: .*client=(\S+) gateway=(\S+) backend=(\S+)"
                for when, name, gate, backend in re.findall(opened, text):
                    number = int(backend.rpartition(":")[2]) - 6000
                    parts = (node.name, gate, f"backend-{number}")
                    seconds = datetime.fromisoformat(when).timestamp()
                    self._served.setdefault(name, []).append((seconds, parts))
        found = [each for each in self._served.get(client, []) if each[0] <= at]
        return max(found, default=(0.0, ("?", "?", "?")))[1]


@dataclass
class Seen:
    """What clients saw; times are seconds of ``time.time``."""

    served: int = 0
    # Each: when, and what happened to it.
    refused: list[tuple[float, str]] = field(default_factory=list)
    # Long sessions that broke: when, and the client's address.
    lost: list[tuple[float, str]] = field(default_factory=list)
    slowest_s: float = 0.0
    backends: Counter[str] = field(default_factory=Counter)
    tried_again: int = 0


class Clients:
    """
    *short* clients that come, say something and go, and *long* ones that stay and talk.

    Each takes one of the DMZ nodes' addresses in turn, and the other one if that does not answer,
    as who has both from the DNS does.  *pause_s* is between two sessions of a short one.
    With *front*, an address outside, all go there.
    """

    def __init__(
        self,
        fleet: Fleet,
        *,
        short: int,
        long: int,
        pause_s: float = 0.05,
        front: tuple[str, int] | None = None,
    ) -> None:
        self.seen = Seen()
        self._fleet = fleet
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._turn = 0
        self._pause_s = pause_s
        self._ends = [(outer, SERVICE_PORT) for outer, _ in fleet.gates.values()]
        if front is not None:
            self._ends = [front]
        self._threads = [
            threading.Thread(target=work, daemon=True)
            for work in [self._come_and_go] * short + [self._stay] * long
        ]

    def start(self) -> None:
        """Let them come."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let no more come, and wait until all have gone."""
        self._over.set()
        for thread in self._threads:
            thread.join(2 * CLIENT_LIMIT_S)

    def _connect(self) -> socket.socket:
        """Connect to one of both, and hear the greeting; raises ``OSError``."""
        with self._lock:
            self._turn += 1
            turn = self._turn
        began = time.monotonic()
        trouble = ""
        for at in range(len(self._ends)):
            host, port = self._ends[(turn + at) % len(self._ends)]
            try:
                peer = dial(self._fleet.outside, host, port)
            except OSError as error:
                trouble += f"{host}: {error!r} "
                continue
            peer.settimeout(CLIENT_LIMIT_S)
            try:
                with peer.makefile("rb") as stream:
                    greeting = stream.readline()
                if greeting.startswith(b"220 "):
                    took = time.monotonic() - began
                    with self._lock:
                        self.seen.backends[greeting[4:].decode().strip()] += 1
                        self.seen.slowest_s = max(self.seen.slowest_s, took)
                        self.seen.tried_again += at > 0
                    return peer
                trouble += f"{host}: closed "
            except OSError as error:
                trouble += f"{host}: then {error!r} "
            trouble += f"({peer.getsockname()[1]}) " if peer.fileno() >= 0 else ""
            peer.close()
        raise OSError(trouble)

    def _served(self) -> socket.socket | None:
        try:
            peer = self._connect()
        except OSError as error:
            with self._lock:
                self.seen.refused.append((time.time(), str(error)))
            time.sleep(0.2)
            return None
        return peer

    def _come_and_go(self) -> None:
        while not self._over.is_set():
            peer = self._served()
            if peer is None:
                continue
            try:
                peer.sendall(b"hello")
                good = peer.recv(5) == b"hello"
            except OSError:
                good = False
            with self._lock:
                if good:
                    self.seen.served += 1
                else:
                    self.seen.lost.append((time.time(), _name(peer)))
            peer.close()
            time.sleep(self._pause_s)

    def _stay(self) -> None:
        while not self._over.is_set():
            peer = self._served()
            if peer is None:
                continue
            peer.settimeout(120.0)
            name = _name(peer)
            while not self._over.is_set():
                try:
                    peer.sendall(b"still here")
                    if peer.recv(64) != b"still here":
                        raise OSError("closed")
                except OSError:
                    with self._lock:
                        self.seen.lost.append((time.time(), name))
                    break
                time.sleep(0.2)
            peer.close()


def _name(peer: socket.socket) -> str:
    host, port = peer.getsockname()[:2]
    return f"{host}:{port}"


def note(line: str) -> None:
    """Say what happens, where somebody watches a long run."""
    if os.environ.get("RELAYGATE_TELL"):
        sys.stderr.write(f"{time.strftime('%H:%M:%S')} {line}\n")
        sys.stderr.flush()
