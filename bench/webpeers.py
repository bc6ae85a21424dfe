"""Peers that speak HTTP: no relay, relaygate, and HAProxy and nginx as two hops each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from bench.keys import server_pem
from bench.peers import (
    OWN_TLS,
    POOL,
    Kind,
    Peer,
    first_line,
    found,
    relaygate_version,
    start_relaygate,
)
from bench.processes import HOST, Group, free_ports

_HAPROXY: Final = """
global
    maxconn 4000
    nbthread 1
    tune.bufsize 65536

defaults
    mode http
    maxconn 4000
    backlog 4096
    option splice-auto
    option forwardfor
    timeout connect 10s
    timeout client 1h
    timeout server 1h
    http-reuse always

listen bench
    bind {host}:{port} {tls}
    server next {host}:{target}
"""

_NGINX: Final = """
daemon off;
master_process off;
user root;
pid {folder}/{name}.pid;
error_log stderr error;
events {{ worker_connections 8000; }}
http {{
    access_log off;
    client_max_body_size 0;
    client_body_temp_path {folder}/{name}-body;
    proxy_temp_path {folder}/{name}-proxy;
    fastcgi_temp_path {folder}/{name}-fastcgi;
    uwsgi_temp_path {folder}/{name}-uwsgi;
    scgi_temp_path {folder}/{name}-scgi;
    tcp_nodelay on;
    keepalive_requests 1000000;
    upstream next {{ server {host}:{target}; keepalive 64; }}
    server {{
        listen {host}:{port} {tls} backlog=4096;
        {keys}
        location / {{
            proxy_pass http://next;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header X-Forwarded-For $remote_addr;
            proxy_request_buffering off;
            proxy_buffering on;
            proxy_max_temp_file_size 0;
            proxy_buffer_size 64k;
            proxy_buffers 8 64k;
        }}
    }}
}}
"""


def _two_hops(
    group: Group,
    backend: int,
    text: Callable[[str, int, int], str],
    argv: Callable[[str], list[str]],
) -> int:
    outer, inner = free_ports(2)
    for name, port, target in (("outer", outer, inner), ("inner", inner, backend)):
        config = group.folder / f"{name}.conf"
        config.write_text(text(name, port, target))
        group.start(name, argv(str(config)))
    return outer


def _start_haproxy(group: Group, backend: int, *, tls: bool) -> int:
    """With *tls* the outer one ends it, which has to read HTTP as the inner one does."""
    program = found("haproxy")
    keys = f"ssl crt {server_pem(group.folder)}" if tls else ""
    return _two_hops(
        group,
        backend,
        lambda name, port, target: _HAPROXY.format(
            host=HOST, port=port, target=target, tls=keys if name == "outer" else ""
        ),
        lambda config: [program, "-db", "-f", config],
    )


def _start_nginx(group: Group, backend: int, *, tls: bool) -> int:
    program = found("nginx")
    pem = server_pem(group.folder)
    keys = f"ssl_certificate {pem}; ssl_certificate_key {pem};"
    return _two_hops(
        group,
        backend,
        lambda name, port, target: _NGINX.format(
            folder=group.folder,
            name=name,
            host=HOST,
            port=port,
            target=target,
            tls="ssl" if tls and name == "outer" else "",
            keys=keys if tls and name == "outer" else "",
        ),
        lambda config: [program, "-p", str(group.folder), "-c", config],
    )


def _relaygate(group: Group, backend: int, *, tls: bool) -> int:
    settings = ('protocol = "https"', OWN_TLS) if tls else ('protocol = "http"',)
    return start_relaygate(
        group, backend, *settings, 'channel = "never"', "http = {max_requests = 1000000}"
    )


def _peers(kind: Kind) -> tuple[Peer, ...]:
    tls = kind == "https"
    words = "HTTPS" if tls else "HTTP"
    ends = "ends the clients' TLS" if tls else "in clear"
    return (
        Peer(
            f"relaygate-{kind}",
            f"relaygate, {words}",
            lambda group, backend: _relaygate(group, backend, tls=tls),
            relaygate_version,
            f"protocol {kind}, channel never, pool {POOL}; the internal node reads requests,"
            f" {ends}; logs sessions and requests",
            kind=kind,
            settle_s=0.5,
        ),
        Peer(
            f"haproxy-{kind}",
            f"HAProxy, {words}",
            lambda group, backend: _start_haproxy(group, backend, tls=tls),
            lambda: first_line([found("haproxy"), "-v"]),
            f"two in mode http, one thread each, reuse always; the outer one {ends}; no log",
            kind=kind,
        ),
        Peer(
            f"nginx-{kind}",
            f"nginx, {words}",
            lambda group, backend: _start_nginx(group, backend, tls=tls),
            lambda: first_line([found("nginx"), "-v"], "nginx version"),
            f"two with proxy_pass, one process each, 64 kept connections; the outer {ends}; no log",
            kind=kind,
        ),
    )


WEB_PEERS: Final = (
    Peer(
        "direct-http",
        "HTTP, no relay",
        lambda _group, backend: backend,
        lambda: first_line([found("nginx"), "-v"], "nginx version"),
        "client to server: nginx, its files in memory",
        kind="http",
    ),
    *_peers("http"),
    *_peers("https"),
)
