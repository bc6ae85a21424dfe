"""Peers that are proxies: two in series, as a gateway has two nodes."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Final

from bench.keys import server_pem
from bench.nodepython import node_python
from bench.peers import Peer, first_line, found
from bench.processes import HOST, BenchError, Group, file_limit, free_ports, most_idle
from relaygate import pki
from relaygate.identity import Role

# Debian keeps the modules of its nginx here.
_NGINX_STREAM: Final = Path("/usr/lib/nginx/modules/ngx_stream_module.so")

_DAYS: Final = 30
# Sessions beside the idle ones.
_ROOM: Final = 40

_HAPROXY: Final = """
global
    maxconn {sessions}
    # Otherwise it counts on a pipe for every fourth session, and on descriptors for it.
    maxpipes 64
    {threads}
    tune.pipesize 1048576
    tune.bufsize 65536

defaults
    mode tcp
    maxconn {sessions}
    backlog 4096
    # With splice-auto it judges these streams as not worth it, and copies at three times the CPU.
    option splice-request
    option splice-response
    option tcp-smart-connect
    timeout connect 10s
    timeout client 1h
    timeout server 1h

listen bench
    bind {host}:{port} {tls}
    server next {host}:{target}
"""


_NGINX: Final = """
load_module {module};
daemon off;
master_process off;
worker_rlimit_nofile {files};
pid {folder}/{name}.pid;
error_log stderr error;

events {{
    worker_connections {files};
    multi_accept on;
}}

stream {{
    proxy_timeout 1h;
    tcp_nodelay on;

    server {{
        listen {host}:{port} backlog=4096;
        proxy_pass {host}:{target};
        proxy_buffer_size 64k;
    }}
}}
"""

_STUNNEL: Final = """
foreground = yes
pid =
debug = warning
syslog = no
socket = l:TCP_NODELAY=1
socket = r:TCP_NODELAY=1

[bench]
client = {client}
accept = {host}:{port}
connect = {host}:{target}
sslVersionMin = TLSv1.3
cert = {folder}/{name}.pem
key = {folder}/{name}.key
CAfile = {folder}/ca.pem
verifyChain = yes
"""


def _start_haproxy(
    group: Group, backend: int, threads: str = "nbthread 1", *, ends_tls: bool = False
) -> int:
    program = found("haproxy")
    tls = f"ssl crt {server_pem(group.folder)}" if ends_tls else ""
    return _two_hops(
        group,
        backend,
        lambda name, port, target: _HAPROXY.format(
            host=HOST,
            port=port,
            tls=tls if name == "inner" else "",
            target=target,
            threads=threads,
            sessions=most_idle(file_limit()) + _ROOM,
        ),
        lambda config: [program, "-db", "-f", config],
    )


def haproxy_hop(group: Group, name: str, port: int, target: int) -> None:
    """Start one HAProxy, as those of the peer are, from *port* to *target*."""
    config = group.folder / f"{name}.cfg"
    config.write_text(
        _HAPROXY.format(
            host=HOST,
            port=port,
            tls="",
            target=target,
            threads="nbthread 1",
            sessions=most_idle(file_limit()) + _ROOM,
        )
    )
    group.start(name, [found("haproxy"), "-db", "-f", str(config)])


def _two_hops(
    group: Group,
    backend: int,
    config_of: Callable[[str, int, int], str],
    argv_of: Callable[[str], list[str]],
) -> int:
    """Start the outer and the inner proxy; the port of the outer one."""
    outer, inner = free_ports(2)
    for name, port, target in (("outer", outer, inner), ("inner", inner, backend)):
        config = group.folder / f"{name}.conf"
        config.write_text(config_of(name, port, target))
        group.start(name, argv_of(str(config)))
    return outer


def _haproxy_version() -> str:
    return first_line([found("haproxy"), "-v"])


def _start_nginx(group: Group, backend: int) -> int:
    program = found("nginx")
    if not _NGINX_STREAM.exists():
        raise BenchError("nginx has no stream module here (Debian: libnginx-mod-stream)")

    def config_of(name: str, port: int, target: int) -> str:
        return _NGINX.format(
            module=_NGINX_STREAM,
            files=file_limit(),
            folder=group.folder,
            name=name,
            host=HOST,
            port=port,
            target=target,
        )

    return _two_hops(
        group,
        backend,
        config_of,
        lambda config: [program, "-p", str(group.folder), "-e", "stderr", "-c", config],
    )


def _start_stunnel(group: Group, backend: int) -> int:
    program = found("stunnel")
    now = datetime.now(UTC)
    ca = pki.make_ca("relaygate bench", now, _DAYS)
    # To TLS servers an internal node's certificate is a client's: just what the outer one is here.
    for name, role in (("outer", Role.INTERNAL), ("inner", Role.DMZ)):
        pki.create_node(ca, name, role, now, _DAYS, group.folder)

    def config_of(name: str, port: int, target: int) -> str:
        client = "yes" if name == "outer" else "no"
        return _STUNNEL.format(
            client=client, host=HOST, port=port, target=target, name=name, folder=group.folder
        )

    return _two_hops(group, backend, config_of, lambda config: [program, config])


def _start_portforward(group: Group, backend: int) -> int:
    outer, inner = free_ports(2)
    path = {"PYTHONPATH": str(Path(__file__).parents[1])}
    for name, port, target in (("outer", outer, inner), ("inner", inner, backend)):
        argv = [node_python(), "-m", "bench.portforward", str(port), str(target)]
        group.start(name, argv, path)
    return outer


PROXIES: Final = (
    Peer(
        "haproxy",
        "HAProxy, two hops",
        _start_haproxy,
        _haproxy_version,
        "two processes of one thread; splice both ways, tcp-smart-connect, tune.pipesize 1 MiB,"
        " tune.bufsize 64 KiB; no log",
    ),
    Peer(
        "haproxy-threads",
        "HAProxy, two hops, its own threads",
        lambda group, backend: _start_haproxy(group, backend, ""),
        _haproxy_version,
        "as haproxy, with as many threads as it starts by itself",
    ),
    Peer(
        "haproxy-ends-tls",
        "HAProxy, two hops, ending TLS",
        lambda group, backend: _start_haproxy(group, backend, ends_tls=True),
        _haproxy_version,
        "as haproxy, the inner one ends the clients' TLS",
        kind="tls",
    ),
    Peer(
        "nginx",
        "nginx stream, two hops",
        _start_nginx,
        lambda: first_line([found("nginx"), "-v"]),
        "two processes of one worker; proxy_buffer_size 64k; no log",
    ),
    Peer(
        "stunnel",
        "stunnel, client and server",
        _start_stunnel,
        lambda: first_line([found("stunnel"), "-version"], "stunnel "),
        "mutual TLS 1.3 between the two, verified; a thread for each session",
        encrypted=True,
    ),
    Peer(
        "portforward",
        "Twisted's portforward, two hops",
        _start_portforward,
        lambda: f"Twisted {version('twisted')}",
        "two processes of twisted.protocols.portforward",
    ),
)
