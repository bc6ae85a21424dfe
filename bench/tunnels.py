"""Peers that are tunnels: as in relaygate, the inner one dials out to the outer one."""

from __future__ import annotations

import getpass
import re
import subprocess
from pathlib import Path
from typing import Final

from bench.install import FRP, PY_FRP, RATHOLE
from bench.peers import POOL, READY_LIMIT_S, Peer, first_line, found, listening
from bench.processes import HOST, BenchError, Group, cache_folder, echoes, free_ports

_FRPS: Final = """
bindAddr = "{host}"
bindPort = {control}
auth.token = "bench"
transport.tcpMux = {mux}
transport.maxPoolCount = {pool}
"""

_FRPC: Final = """
serverAddr = "{host}"
serverPort = {control}
auth.token = "bench"
transport.tcpMux = {mux}
transport.poolCount = {pool}
transport.tls.enable = {tls}

[[proxies]]
name = "bench"
type = "tcp"
localIP = "{host}"
localPort = {backend}
remotePort = {port}
"""

_RATHOLE_SERVER: Final = """
[server]
bind_addr = "{host}:{control}"
default_token = "bench"

[server.services.bench]
bind_addr = "{host}:{port}"
"""

_RATHOLE_CLIENT: Final = """
[client]
remote_addr = "{host}:{control}"
default_token = "bench"

[client.services.bench]
local_addr = "{host}:{backend}"
"""

_PY_FRPS: Final = """
bindAddr = "{host}"
bindPort = {control}
auth.token = "bench"
"""

_PY_FRPC: Final = """
serverAddr = "{host}"
serverPort = {control}
serverFingerprint = "{fingerprint}"
auth.token = "bench"

[[proxies]]
name = "bench"
type = "tcp"
localIP = "{host}"
localPort = {backend}
remotePort = {port}
"""

_SSHD: Final = """
Port {control}
ListenAddress {host}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/user_key.pub
PidFile none
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
AllowTcpForwarding yes
"""


def _pair(
    group: Group,
    backend: int,
    outer: tuple[str, list[str]],
    inner: tuple[str, list[str]],
    **values: object,
) -> int:
    """Start both halves of a tunnel, each of a template and a command; the port for clients."""
    control, port = free_ports(2)
    values |= {"host": HOST, "control": control, "port": port, "backend": backend}
    for name, (template, argv) in (("outer", outer), ("inner", inner)):
        config = group.folder / f"{name}.toml"
        config.write_text(template.format(**values))
        group.start(name, [*argv, str(config)])
        if name == "outer":
            listening(group, control)
    return port


def _start_frp(group: Group, backend: int, *, mux: bool, pool: int, tls: bool) -> int:
    folder = cache_folder() / f"frp-{FRP}"
    words = {True: "true", False: "false"}
    return _pair(
        group,
        backend,
        (_FRPS, [found("frps", folder), "-c"]),
        (_FRPC, [found("frpc", folder), "-c"]),
        mux=words[mux],
        tls=words[tls],
        pool=pool,
    )


def _frp_version() -> str:
    return f"frp {first_line([found('frps', cache_folder() / f'frp-{FRP}'), '--version'])}"


def _rathole() -> str:
    return found("rathole", cache_folder() / f"rathole-{RATHOLE}" / "bin")


def _start_rathole(group: Group, backend: int) -> int:
    program = _rathole()
    return _pair(
        group,
        backend,
        (_RATHOLE_SERVER, [program, "--server"]),
        (_RATHOLE_CLIENT, [program, "--client"]),
    )


def _py_frp() -> str:
    return found("py-frp", cache_folder() / f"py-frp-{PY_FRP}" / "bin")


def _start_py_frp(group: Group, backend: int) -> int:
    control, port = free_ports(2)
    outer, inner = group.folder / "outer.toml", group.folder / "inner.toml"
    outer.write_text(_PY_FRPS.format(host=HOST, control=control))
    # Neither looks for newer versions of itself nor for more rights.
    argv = [_py_frp(), "server", "--no-auto-restart", "--no-auto-elevate", "-c", str(outer)]
    log = group.start("outer", argv, {"PYTHONUNBUFFERED": "1"}).log_file
    listening(group, control)
    told = re.search(r"tls_fingerprint (\S+)", log.read_text())
    if told is None:
        raise BenchError("py-frp has not told its fingerprint")
    inner.write_text(
        _PY_FRPC.format(host=HOST, control=control, port=port, backend=backend, fingerprint=told[1])
    )
    group.start("inner", [_py_frp(), "client", "--no-auto-restart", "-c", str(inner)])
    return port


def _py_frp_version() -> str:
    _py_frp()
    return f"py-simple-nat-tunnel {PY_FRP}"


def _start_ssh(group: Group, backend: int) -> int:
    control, port = free_ports(2)
    folder = group.folder
    for name in ("host_key", "user_key"):
        argv = [found("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(argv, check=True)
    config = folder / "sshd_config"
    config.write_text(_SSHD.format(control=control, host=HOST, folder=folder))
    # It will not start without this folder of its own, which Debian's service makes.
    try:
        Path("/run/sshd").mkdir(exist_ok=True)
    except OSError as error:
        raise BenchError(f"sshd needs /run/sshd: {error}") from None
    # sshd starts itself anew for each connection, so it wants its whole path.
    group.start("outer", [found("sshd"), "-D", "-e", "-f", str(config)])
    listening(group, control)
    options = {
        "StrictHostKeyChecking": "no",
        "UserKnownHostsFile": "/dev/null",
        "IdentitiesOnly": "yes",
        "ExitOnForwardFailure": "yes",
        "BatchMode": "yes",
        "LogLevel": "ERROR",
    }
    argv = [found("ssh"), "-F", "none", "-N", "-i", str(folder / "user_key"), "-p", str(control)]
    for name, value in options.items():
        argv += ["-o", f"{name}={value}"]
    forward = f"{HOST}:{port}:{HOST}:{backend}"
    group.start("inner", [*argv, "-R", forward, f"{getpass.getuser()}@{HOST}"])
    group.wait(lambda: echoes(port), READY_LIMIT_S, "the forward is not there")
    return port


def _ssh_version() -> str:
    found("sshd")
    return first_line([found("ssh"), "-V"])


TUNNELS: Final = (
    Peer(
        "ssh",
        "ssh -R",
        _start_ssh,
        _ssh_version,
        "one connection with its own ciphers, every session a channel in it",
        encrypted=True,
    ),
    Peer(
        "frp",
        "frp, its defaults",
        lambda group, backend: _start_frp(group, backend, mux=True, pool=1, tls=True),
        _frp_version,
        "tcpMux and TLS on, poolCount 1",
        encrypted=True,
        settle_s=0.5,
    ),
    Peer(
        "frp-plain",
        "frp, no mux, no TLS, pool",
        lambda group, backend: _start_frp(group, backend, mux=False, pool=POOL, tls=False),
        _frp_version,
        f"tcpMux off, TLS off, poolCount {POOL}",
        settle_s=0.5,
    ),
    Peer(
        "rathole",
        "rathole",
        _start_rathole,
        lambda: f"rathole {RATHOLE} ({first_line([_rathole(), '--version'])})",
        "TCP transport, its defaults, which keep a pool of 8",
        settle_s=0.5,
    ),
    Peer(
        "py-frp",
        "py-simple-nat-tunnel",
        _start_py_frp,
        _py_frp_version,
        "its defaults (it encrypts by itself)",
        encrypted=True,
        settle_s=0.5,
    ),
)
