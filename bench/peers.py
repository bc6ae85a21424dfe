"""What a peer is, and the first of them: no relay at all, and relaygate."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal

import relaygate
from bench.nodepython import node_python
from bench.processes import HOST, BenchError, Group, echoes, echoes_http, free_ports, greets
from relaygate import pki
from relaygate.identity import Role

READY_LIMIT_S: Final = 20.0
# Far above what is held, so that no cap of a peer's own is what is measured.
MAX_SESSIONS: Final = 20_000
# Idle connections that those keep which have a pool.
POOL: Final = 32

_DAYS: Final = 30
TWISTD: Final = ("-c", "from twisted.scripts.twistd import run; run()")

# The DMZ node's certificate serves where TLS ends: clients of the benchmark look at none.
OWN_TLS: Final = 'tls = {certificate = "../dmz/dmz.pem", key = "../dmz/dmz.key"}'

Start = Callable[[Group, int], int]
# It passes bytes on, or does so having ended the clients' TLS, or it understands FTP or HTTP.
Kind = Literal["bytes", "tls", "ftp", "http", "https"]


@dataclass(frozen=True)
class Peer:
    """
    A relay to be measured.

    *start* begins its processes in a group, in front of the backend's port, and returns the port
    for clients; *version* says which one it is.  Both raise :class:`BenchError` when it is not
    installed.  *note* says how it is set up.  With *asks* it is a proxy, which clients ask for the
    backend.
    """

    name: str
    title: str
    start: Start
    version: Callable[[], str]
    note: str
    encrypted: bool = False
    # Which measures are for it.
    kind: Kind = "bytes"
    # A pool takes a moment to fill.
    settle_s: float = 0.2
    asks: Literal["", "socks", "connect"] = ""

    def up(self, folder: Path, backend: int) -> Running:
        """Start it and wait until a byte has gone there and back through it."""
        group = Group(folder)
        try:
            port = self.start(group, backend)
            if self.asks:
                listening(group, port)
            else:
                group.wait(lambda: self._serves(port), READY_LIMIT_S, "no byte came through")
        except BaseException:
            group.stop()
            raise
        return Running(group, f"{port}/{self.asks}/{backend}" if self.asks else port)

    def _serves(self, port: int) -> bool:
        if self.kind in ("http", "https"):
            return echoes_http(port, tls=self.kind == "https")
        return greets(port, b"220") if self.kind == "ftp" else echoes(port, tls=self.kind == "tls")


@dataclass(frozen=True)
class Running:
    """A peer that is up: its processes, and the port for clients, as these take it."""

    group: Group
    port: int | str


def found(program: str, *folders: Path) -> str:
    """The path of *program*, looked for in *folders* first; raises :class:`BenchError`."""
    places = [str(folder) for folder in folders]
    for path in (":".join(places), None, "/usr/sbin:/sbin"):
        if path != "" and (place := shutil.which(program, path=path)):
            return place
    raise BenchError(f"{program} is not installed")


def first_line(argv: Sequence[str], beginning: str = "") -> str:
    """The first line with that *beginning* that a program says, on either output."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    for line in (done.stdout + done.stderr).splitlines():
        if line.startswith(beginning) and line.strip():
            return line.strip()
    return "unknown"


def listening(group: Group, port: int) -> None:
    """Wait until somebody listens on *port* of the loopback address."""
    # Local address, remote address and state (LISTEN), as proc(5) has them.
    needle = f":{port:04X} 00000000:0000 0A"
    group.wait(lambda: needle in Path("/proc/net/tcp").read_text(), READY_LIMIT_S, "nobody listens")


def _no_relay(_group: Group, backend: int) -> int:
    return backend


def start_relaygate(
    group: Group, backend: int, *settings: str, listen: str = "", inside: str = ""
) -> int:
    """
    Start both nodes, and return the port for clients.

    *settings* are lines of the service's, *listen* ports beside its own, *inside* a table of the
    internal node's.
    """
    uplink, port = free_ports(2)
    now = datetime.now(UTC)
    ca = pki.make_ca("relaygate bench", now, _DAYS)
    service = "\n".join(settings)
    rules = ", ".join(f'"{HOST}:{ports}"' for ports in (str(port), listen) if ports)
    for name, role in (("dmz", Role.DMZ), ("node-a", Role.INTERNAL)):
        (group.folder / name).mkdir()
        pki.create_node(ca, name, role, now, _DAYS, group.folder / name)
    texts = {
        "dmz": f"""
[uplink]
listen = "{HOST}:{uplink}"
nodes = ["node-a"]

[policy]
listen = [{rules}]
max_sessions = {MAX_SESSIONS}
max_sessions_per_address = {MAX_SESSIONS}
max_rate_per_address = 0
""",
        "node-a": f"""
[[gateway]]
address = "{HOST}:{uplink}"
name = "dmz"
pool = {POOL}

[[service]]
name = "bench"
listen = "{HOST}:{port}"
backends = ["{HOST}:{backend}"]
{service}
{inside}
""",
    }
    path = {"PYTHONPATH": str(Path(relaygate.__file__).parents[1])}
    for name, program in (("dmz", "relaygate-dmz"), ("node-a", "relaygate-internal")):
        identity = f'[identity]\ncertificate = "{name}.pem"\nkey = "{name}.key"\nca = "ca.pem"\n'
        config = group.folder / name / f"{name}.toml"
        config.write_text(identity + texts[name])
        argv = [node_python(), *TWISTD, "-n", "--pidfile=", program, "--config", str(config)]
        group.start(name, argv, path)
        if name == "dmz":
            # An internal node that dials too early waits before it dials again.
            listening(group, uplink)
    return port


def relaygate_version() -> str:
    """Which relaygate this is."""
    return f"relaygate {relaygate.__version__}"


PEERS: Final = (
    Peer("direct", "no relay", _no_relay, lambda: "the kernel's loopback", "client to server"),
    Peer(
        "relaygate",
        "relaygate, clear channels",
        lambda group, backend: start_relaygate(
            group, backend, 'protocol = "tcp"', 'channel = "never"'
        ),
        relaygate_version,
        f"protocol tcp, channel never, pool {POOL}; logs each session, as it always does",
        settle_s=0.5,
    ),
    Peer(
        "relaygate-tls",
        "relaygate, TLS channels",
        lambda group, backend: start_relaygate(
            group, backend, 'protocol = "tcp"', 'channel = "always"'
        ),
        relaygate_version,
        f"protocol tcp, channel always (TLS 1.3 between the nodes), pool {POOL}",
        encrypted=True,
        settle_s=0.5,
    ),
    Peer(
        "relaygate-ends-tls",
        "relaygate, ending TLS inside",
        lambda group, backend: start_relaygate(group, backend, 'protocol = "tls"', OWN_TLS),
        relaygate_version,
        f"protocol tls with service.tls: the internal node ends the clients' TLS, pool {POOL}",
        kind="tls",
        settle_s=0.5,
    ),
)
