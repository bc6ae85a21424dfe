"""
Peers that lead programs out: a SOCKS or HTTP proxy in the DMZ's place, and what is before it.

relaygate has an entry on its internal node, and dials from its DMZ node.  The others have no inner
half of their own; HAProxy passes bytes on in its place, so that all are two hops.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import relaygate
from bench.nodepython import node_python
from bench.peers import (
    MAX_SESSIONS,
    POOL,
    TWISTD,
    Peer,
    first_line,
    found,
    listening,
)
from bench.peers import relaygate_version as our_version
from bench.processes import HOST, Group, free_ports
from bench.proxies import haproxy_hop
from relaygate import pki
from relaygate.identity import Role

_DAYS: Final = 30

_DANTE: Final = """
logoutput: stderr
errorlog: stderr
internal: {host} port = {port}
external: {host}
socksmethod: none
clientmethod: none
user.unprivileged: nobody
client pass {{ from: 0.0.0.0/0 to: 0.0.0.0/0 }}
socks pass {{ from: 0.0.0.0/0 to: 0.0.0.0/0 protocol: tcp }}
"""

_TINYPROXY: Final = """
Port {port}
Listen {host}
Timeout 600
MaxClients 20000
LogLevel Error
LogFile "{folder}/tinyproxy.log"
Allow 127.0.0.1
"""

_SQUID: Final = """
http_port {host}:{port}
pid_filename none
cache_log stdio:/dev/stderr
access_log none
cache deny all
cache_mem 0
memory_cache_shared off
coredump_dir none
shutdown_lifetime 1 second
http_access allow all
"""


def _start_ours(group: Group, backend: int, protocol: str, channel: str) -> int:
    uplink, port = free_ports(2)
    now = datetime.now(UTC)
    ca = pki.make_ca("relaygate bench", now, _DAYS)
    for name, role in (("dmz", Role.DMZ), ("node-a", Role.INTERNAL)):
        (group.folder / name).mkdir()
        pki.create_node(ca, name, role, now, _DAYS, group.folder / name)
    texts = {
        "dmz": f"""
[uplink]
listen = "{HOST}:{uplink}"
nodes = ["node-a"]

[policy]
listen = ["{HOST}:1"]
connect = ["{HOST}:{backend}"]
max_forwards = {MAX_SESSIONS}
max_forwards_per_address = {MAX_SESSIONS}
""",
        "node-a": f"""
[[gateway]]
address = "{HOST}:{uplink}"
name = "dmz"
pool = {POOL}

[[forward]]
name = "bench"
protocol = "{protocol}"
listen = "{HOST}:{port}"
destinations = ["{HOST}:{backend}"]
max_sessions = 0
channel = "{channel}"
""",
    }
    path = {"PYTHONPATH": str(Path(relaygate.__file__).parents[1])}
    for name, program in (("dmz", "relaygate-dmz"), ("node-a", "relaygate-internal")):
        identity = f'[identity]\ncertificate = "{name}.pem"\nkey = "{name}.key"\nca = "ca.pem"\n'
        config = group.folder / name / f"{name}.toml"
        config.write_text(identity + texts[name])
        argv = [node_python(), *TWISTD, "-n", "--pidfile=", program, "--config", str(config)]
        group.start(name, argv, path)
        listening(group, uplink if name == "dmz" else port)
    return port


def _start_other(template: str, argv: Callable[[str], list[str]]) -> Callable[[Group, int], int]:
    """A starter of a proxy whose configuration *template* is, with HAProxy before it."""

    def start(group: Group, _backend: int) -> int:
        outer, inner = free_ports(2)
        haproxy_hop(group, "inside", outer, inner)
        config = group.folder / "proxy.conf"
        config.write_text(template.format(host=HOST, port=inner, folder=group.folder))
        group.start("proxy", argv(str(config)))
        listening(group, inner)
        listening(group, outer)
        return outer

    return start


def _squid_version() -> str:
    return first_line([found("squid"), "-v"], "Squid Cache")


def _tinyproxy_version() -> str:
    done = subprocess.run([found("tinyproxy"), "-v"], capture_output=True, text=True, check=False)
    return done.stdout.strip() or "tinyproxy"


OUTWARD: Final = (
    Peer(
        "relaygate-socks",
        "relaygate, SOCKS, clear channels",
        lambda group, backend: _start_ours(group, backend, "socks5", "never"),
        our_version,
        f"a socks5 entry, channel never, pool {POOL}; logs each session on both nodes",
        settle_s=0.5,
        asks="socks",
    ),
    Peer(
        "relaygate-connect",
        "relaygate, CONNECT, clear channels",
        lambda group, backend: _start_ours(group, backend, "http-connect", "never"),
        our_version,
        f"an http-connect entry, channel never, pool {POOL}",
        settle_s=0.5,
        asks="connect",
    ),
    Peer(
        "dante",
        "HAProxy, then dante (SOCKS)",
        _start_other(_DANTE, lambda config: [found("danted"), "-f", config, "-N", "1"]),
        lambda: first_line([found("danted"), "-v"]),
        "one server process and the children that it makes; no log",
        asks="socks",
    ),
    Peer(
        "tinyproxy",
        "HAProxy, then tinyproxy (CONNECT)",
        _start_other(_TINYPROXY, lambda config: [found("tinyproxy"), "-d", "-c", config]),
        _tinyproxy_version,
        "a thread for each connection; no log",
        asks="connect",
    ),
    Peer(
        "squid",
        "HAProxy, then squid (CONNECT)",
        # Its shared memory has the name of its service.
        _start_other(
            _SQUID, lambda config: [found("squid"), "-N", "-n", f"bench{os.getpid()}", "-f", config]
        ),
        _squid_version,
        "one process; no cache, no log",
        asks="connect",
    ),
)
