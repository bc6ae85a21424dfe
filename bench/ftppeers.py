"""Peers that speak FTP: no relay, relaygate, and the proxy that ProFTPD becomes with mod_proxy."""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from bench.ftpserver import heard
from bench.keys import server_pem
from bench.loads import ftp_folder
from bench.peers import OWN_TLS, POOL, Peer, first_line, found, relaygate_version, start_relaygate
from bench.processes import HOST, BenchError, Group, free_ports

# Ports in a row that relaygate may open for data, looked for below those that clients get.
_PASSIVE: Final = 1_000
_PASSIVE_FROM: Final = range(10_000, 32_000, _PASSIVE)

_PROFTPD: Final = """
ServerName "bench"
ServerType standalone
DefaultAddress {host}
Port {port}
UseIPv6 off
UseReverseDNS off
User daemon
Group daemon
MaxInstances 100
ModulePath {modules}
LoadModule mod_tls.c
LoadModule mod_proxy.c
ScoreboardFile {folder}/scoreboard
PidFile {folder}/proftpd.pid
DelayEngine off
WtmpLog off
TransferLog none

TLSEngine on
TLSProtocol TLSv1.2 TLSv1.3
TLSECCertificateFile {pem}
TLSECCertificateKeyFile {pem}
TLSOptions NoSessionReuseRequired

ProxyEngine on
ProxyTables {folder}/tables
ProxyRole reverse
ProxyReverseServers ftp://{host}:{backend}
ProxyTLSEngine off
"""


def _start_relaygate(group: Group, backend: int, channel: str) -> int:
    passive = _free_range()
    return start_relaygate(
        group,
        backend,
        'protocol = "ftp"',
        f'channel = "{channel}"',
        OWN_TLS,
        f'ftp = {{passive_ports = "{passive}"}}',
        listen=passive,
    )


def _free_range() -> str:
    for first in _PASSIVE_FROM:
        with ExitStack() as stack:
            try:
                for port in range(first, first + _PASSIVE):
                    probe = stack.enter_context(socket.socket())
                    # Connections that are over, of the round before, keep no listener out.
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    probe.bind((HOST, port))
            except OSError:
                continue
            return f"{first}-{first + _PASSIVE - 1}"
    raise BenchError(f"no {_PASSIVE} ports in a row are free")


def _proftpd() -> str:
    return found("proftpd", ftp_folder() / "usr/sbin")


def _start_mod_proxy(group: Group, backend: int) -> int:
    if os.geteuid() != 0:
        raise BenchError("ProFTPD starts only as root")
    [port] = free_ports(1)
    config = group.folder / "proftpd.conf"
    config.write_text(
        _PROFTPD.format(
            host=HOST,
            port=port,
            backend=backend,
            folder=group.folder,
            modules=_modules(),
            pem=server_pem(group.folder),
        )
    )
    group.start("proftpd", [_proftpd(), "--nodaemon", "--config", str(config)])
    return port


def _modules() -> Path:
    return ftp_folder() / "usr/lib/proftpd"


def _mod_proxy_version() -> str:
    if not (_modules() / "mod_proxy.so").exists():
        raise BenchError("mod_proxy is not installed")
    return first_line([_proftpd(), "--version"])


FTP_PEERS: Final = (
    Peer(
        "direct-ftp",
        "FTP, no relay",
        lambda _group, backend: backend,
        lambda: first_line(heard(found("vsftpd", ftp_folder() / "usr/sbin"), "-v")),
        "client to server; the server, vsftpd, ends TLS itself",
        kind="ftp",
    ),
    Peer(
        "relaygate-ftp",
        "relaygate, FTP, clear channels",
        lambda group, backend: _start_relaygate(group, backend, "never"),
        relaygate_version,
        f"protocol ftp with service.tls, channel never, pool {POOL}; logs sessions and files",
        kind="ftp",
        settle_s=0.5,
    ),
    Peer(
        "relaygate-ftp-auto",
        "relaygate, FTP, its defaults",
        lambda group, backend: _start_relaygate(group, backend, "auto"),
        relaygate_version,
        f"protocol ftp with service.tls, channel auto, pool {POOL}: what clients do not protect is"
        " under TLS 1.3 between the nodes",
        encrypted=True,
        kind="ftp",
        settle_s=0.5,
    ),
    Peer(
        "mod_proxy",
        "ProFTPD mod_proxy, one hop",
        _start_mod_proxy,
        _mod_proxy_version,
        "ProxyRole reverse, one process for each session; ends the clients' TLS, none to the"
        " server; no transfer log",
        kind="ftp",
    ),
)
