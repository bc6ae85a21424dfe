"""The demo's deployment: servers inside, two internal nodes, and a DMZ node in front of them."""

from __future__ import annotations

import json
import random
import shutil
import socket
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from relaygate.demo import keys
from relaygate.demo.processes import Child, DemoError

HOST: Final = "127.0.0.1"
DMZ: Final = "dmz"
NODES: Final = ("node-a", "node-b")
# The entries of the first node.
OUT_WEB: Final = "out-web"
OUT_FTP: Final = "out-ftp"

# How many ports the DMZ node may open for FTP's data connections, and where to look for them:
# below those that the kernel gives to clients.
_PASSIVE_PORTS: Final = 64
_PASSIVE_FROM: Final = range(20_000, 32_000, _PASSIVE_PORTS)

_FTP: Final = """\
tls = {{certificate = "ftp.pem", key = "ftp.key"}}
ftp = {{passive_ports = "{passive}"}}
"""

_OPENED: Final = 'tls = {certificate = "web.pem", key = "web.key"}\n'

_START_LIMIT_S: Final = 20.0
_END_LIMIT_S: Final = 5.0

# With "-c" the interpreter is surely this one, whatever "twistd" is on PATH.
_TWISTD: Final = (sys.executable, "-c", "from twisted.scripts.twistd import run; run()")


@dataclass(frozen=True)
class Service:
    """A service that the demo publishes; *backend* names the server behind it."""

    name: str
    protocol: str
    backend: str


SERVICES: Final = (
    Service("sftp", "ssh", "sftp"),
    Service("ftp", "ftp", "ftp"),
    Service("ftps", "ftps", "ftp"),
    Service("web", "http", "web"),
    Service("web-opened", "https", "web"),
    Service("web-tls", "https", "web-tls"),
)


@dataclass(frozen=True)
class Session:
    """What the DMZ node's log has of a session that has ended."""

    id: str
    node: str


class Gateway:
    """Everything that has to run before a client can move a file, out of the folder *root*."""

    def __init__(self, reactor: Any, root: Path) -> None:
        self.servers_folder = root / "servers"
        self.clients_folder = root / "clients"
        self.files_folder = self.servers_folder / "files"
        self.ports: dict[str, int] = {}
        self.backends: dict[str, int] = {}
        self.up = False
        self._root = root
        self._servers = Child(
            reactor,
            "servers",
            [sys.executable, "-m", "relaygate.demo.servers", str(self.servers_folder)],
            self.servers_folder,
        )
        self._partner_folder = root / "partner"
        self._partner = Child(
            reactor,
            "partner",
            [sys.executable, "-m", "relaygate.demo.servers", str(self._partner_folder)],
            self._partner_folder,
        )
        self._dmz = self._node(reactor, "relaygate-dmz", DMZ)
        self._inside = [self._node(reactor, "relaygate-internal", name) for name in NODES]
        self.children = [self._dmz, *self._inside, self._servers, self._partner]

    def _node(self, reactor: Any, program: str, name: str) -> Child:
        folder = self._root / name
        config = str(folder / f"{name}.toml")
        argv = [*_TWISTD, "-n", "--pidfile=", program, "--config", config]
        return Child(reactor, name, argv, folder)

    async def start(self) -> None:
        """Make all keys, start everything, say what runs where; raises :class:`DemoError`."""
        for folder in (self.files_folder, self.clients_folder):
            folder.mkdir(parents=True)
        keys.make_identities(self._root, DMZ, NODES)
        nodes = [self._root / name for name in NODES]
        keys.make_server_certificates(self.servers_folder, self.clients_folder, nodes)
        keys.make_password(self.servers_folder, self.clients_folder)
        keys.make_ssh_keys(self.servers_folder, self.clients_folder)
        # A partner has servers of the same kinds, and shows the same files.
        shutil.copytree(
            self.servers_folder, self._partner_folder, ignore=shutil.ignore_patterns("files")
        )
        (self._partner_folder / "files").symlink_to(self.files_folder)
        names = [service.name for service in SERVICES]
        uplink, out_web, out_ftp, *listeners = free_ports(3 + len(names))
        self.ports = dict(zip(names, listeners, strict=True))

        passive = free_range()

        self._servers.start()
        self._partner.start()
        ready = await self._servers.said(r"^ready (.*)$", limit_s=_START_LIMIT_S)
        servers = json.loads(ready[1])
        ready = await self._partner.said(r"^ready (.*)$", limit_s=_START_LIMIT_S)
        partner = json.loads(ready[1])
        reached = (partner["web"], partner["ftp"])
        self._configure(DMZ, _dmz_config(uplink, listeners, passive, reached))
        self._dmz.start()
        self.backends = {service.name: servers[service.backend] for service in SERVICES}
        places = ", ".join(f"{name} {HOST}:{port}" for name, port in servers.items())
        print(f"  inside   servers: {places}")
        await self._dmz.said("waits for internal nodes", limit_s=_START_LIMIT_S)
        print(f"  dmz      DMZ node: waits for internal nodes on {HOST}:{uplink}")

        for node in self._inside:
            config = _internal_config(uplink, self.ports, self.backends, passive)
            if node is self._inside[0]:
                config += _entries((out_web, out_ftp), reached)
            self._configure(node.name, config)
            node.start()
        for node in self._inside:
            # Only now does the DMZ node give this node its share of the sessions.
            await node.said(r"services declared: .* refused=0$", limit_s=_START_LIMIT_S)
            print(f"  inside   internal node {node.name}: has dialled out and published all")
        self.up = True
        places = ", ".join(f"{name} {HOST}:{port}" for name, port in self.ports.items())
        print(f"  dmz      listeners: {places}; for FTP's data {HOST}:{passive}, while it flows")
        out = f"{OUT_WEB} {HOST}:{out_web}, {OUT_FTP} {HOST}:{out_ftp}"
        print(f"  inside   entries of {NODES[0]}: {out}; partner: {HOST}, ports {reached}")
        self.ports |= {OUT_WEB: out_web, OUT_FTP: out_ftp}
        self.backends |= dict(zip((OUT_WEB, OUT_FTP), reached, strict=True))

    def _configure(self, name: str, text: str) -> None:
        identity = f'[identity]\ncertificate = "{name}.pem"\nkey = "{name}.key"\nca = "ca.pem"\n'
        (self._root / name / f"{name}.toml").write_text(identity + text)

    async def stop(self) -> None:
        """End everything; the inside first, so that nothing dials in vain."""
        for child in (*self._inside, self._dmz, self._servers, self._partner):
            await child.stop()

    def mark(self) -> int:
        """A place in the DMZ node's log: its present end."""
        return len(self._dmz.log())

    async def session_after(self, mark: int, service: str) -> Session:
        """
        The first session of *service*, or of an entry, that has ended after *mark*.

        Raises :class:`DemoError`.
        """
        line = rf"session (\w+) end: (?:service|entry)={service} (?:client=\S+ )?node=(\S+) "
        match = await self._dmz.said(line, limit_s=_END_LIMIT_S, after=mark)
        return Session(match[1], match[2])

    def tails(self) -> Iterator[str]:
        """The last log lines of every process that has said anything, one text for each."""
        for child in self.children:
            if child.log_file.exists() and (tail := child.tail()):
                yield f"the end of {child.log_file}:\n{tail}"


def free_ports(count: int) -> list[int]:
    """*count* TCP ports of the loopback address that nobody uses now; raises `DemoError`."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        try:
            for each in sockets:
                each.bind((HOST, 0))
        except OSError as error:
            raise DemoError(f"no free port on {HOST}: {error}") from error
        return [each.getsockname()[1] for each in sockets]


def free_range() -> str:
    """A range of TCP ports of the loopback address, none of which is used now; or `DemoError`."""
    for first in random.sample(_PASSIVE_FROM, len(_PASSIVE_FROM)):
        with ExitStack() as stack:
            try:
                for port in range(first, first + _PASSIVE_PORTS):
                    stack.enter_context(socket.socket()).bind((HOST, port))
            except OSError:
                continue
            return f"{first}-{first + _PASSIVE_PORTS - 1}"
    raise DemoError(f"no {_PASSIVE_PORTS} free ports in a row on {HOST}")


def _dmz_config(uplink: int, listeners: list[int], passive: str, reached: Iterable[int]) -> str:
    rules = ", ".join(f'"{HOST}:{ports}"' for ports in (*listeners, passive))
    nodes = ", ".join(f'"{name}"' for name in NODES)
    connect = ", ".join(f'"{HOST}:{port}"' for port in reached)
    return f"""
[uplink]
listen = "{HOST}:{uplink}"
nodes = [{nodes}]

[policy]
listen = [{rules}]
connect = [{connect}]
"""


def _entries(ports: tuple[int, int], reached: tuple[int, int]) -> str:
    return f"""
[[forward]]
name = "{OUT_WEB}"
protocol = "socks5"
listen = "{HOST}:{ports[0]}"
destinations = ["{HOST}:{reached[0]}"]

[[forward]]
name = "{OUT_FTP}"
protocol = "ftp"
listen = "{HOST}:{ports[1]}"
target = "{HOST}:{reached[1]}"
"""


def _internal_config(
    uplink: int, ports: dict[str, int], backends: dict[str, int], passive: str
) -> str:
    gateway = f'\n[[gateway]]\naddress = "{HOST}:{uplink}"\nname = "{DMZ}"\n'
    services = [
        f'\n[[service]]\nname = "{service.name}"\nprotocol = "{service.protocol}"\n'
        f'listen = "{HOST}:{ports[service.name]}"\n'
        f'backends = ["{HOST}:{backends[service.name]}"]\n'
        + (_FTP.format(passive=passive) if service.backend == "ftp" else "")
        + (_OPENED if service.name == "web-opened" else "")
        for service in SERVICES
    ]
    return gateway + "".join(services)
