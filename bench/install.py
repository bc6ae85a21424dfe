"""
Install the peers with the ordinary clients of public package collections, as far as those are here.

What cannot be installed is said, and is then a row of the report that says so.  Debian's packages
go where they always go; everything else is built in the benchmark's own cache folder.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from bench.ftppeers import FTP_PEERS
from bench.loads import ftp_folder
from bench.nodepython import DISTRIBUTION, node_folder, requirements
from bench.processes import BenchError, cache_folder

FRP: Final = "v0.69.0"
RATHOLE: Final = "0.5.0"
PY_FRP: Final = "0.7.0"

_FRP_MODULE: Final = "github.com/fatedier/frp"
_LIMIT_S: Final = 1_800
# program, package; cc is what the load needs.
_DEBIAN: Final = {
    "": (("cc", "gcc"), ("/usr/include/stdio.h", "libc6-dev")),
    "haproxy": (("haproxy", "haproxy"),),
    "nginx": (
        ("nginx", "nginx"),
        ("/usr/lib/nginx/modules/ngx_stream_module.so", "libnginx-mod-stream"),
    ),
    "stunnel": (("stunnel", "stunnel4"),),
    "dante": (("danted", "dante-server"), ("haproxy", "haproxy")),
    "tinyproxy": (("tinyproxy", "tinyproxy-bin"), ("haproxy", "haproxy")),
    "squid": (("squid", "squid"), ("haproxy", "haproxy")),
    "ssh": (("sshd", "openssh-server"), ("ssh", "openssh-client")),
}
_FTP_PACKAGES: Final = ("vsftpd", "proftpd-core", "proftpd-mod-crypto", "proftpd-mod-proxy")
# What the unpacked ones need and a machine without them may not have.
_FTP_LIBRARIES: Final = (
    *("libcap2", "libhiredis0.14", "libmemcached11", "libmemcachedutil2", "libpam0g"),
    *("libpcre2-posix3", "libsodium23", "libsqlite3-0", "libwrap0"),
)
_PATH: Final = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
_POLICY: Final = Path("/usr/sbin/policy-rc.d")


def install(peers: Sequence[str]) -> None:
    """Install what *peers* need and is not there yet; says what could not be."""
    steps: list[tuple[str, Callable[[], None]]] = [("Debian's packages", lambda: _debian(peers))]
    for kind, step in (("frp", _frp), ("rathole", _rathole), ("py-frp", _py_frp)):
        if any(name == kind or name.startswith(f"{kind}-") for name in peers):
            steps.append((kind, step))
    if any(name.startswith(("relaygate", "portforward")) for name in peers):
        steps.append(("the distribution's Python for nodes", _nodes))
    if any(peer.name in peers for peer in FTP_PEERS):
        steps.append(("FTP servers", _ftp))
    for name, step in steps:
        try:
            step()
        except BenchError as error:
            print(f"not installed: {name}: {error}", flush=True)


def _debian(peers: Sequence[str]) -> None:
    packages = [
        package
        for kind, pairs in _DEBIAN.items()
        if any(name.startswith(kind) for name in peers)
        for program, package in pairs
        if shutil.which(program, path=_PATH) is None and not Path(program).is_file()
    ]
    if not packages:
        return
    if os.geteuid() != 0:
        raise BenchError(f"only root may install {' '.join(packages)}")
    with _no_service_starts():
        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        _run(["apt-get", "update", "-q"], environment=quiet)
        argv = ["apt-get", "install", "-q", "-y", "--no-install-recommends", *packages]
        _run(argv, environment=quiet)


@contextmanager
def _no_service_starts() -> Iterator[None]:
    """No service starts by being installed.  A policy that is there already stays as it is."""
    try:
        policy = os.open(_POLICY, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o755)
    except FileExistsError:
        yield
        return
    try:
        os.write(policy, b"#!/bin/sh\nexit 101\n")
        os.close(policy)
        yield
    finally:
        _POLICY.unlink()


def _frp() -> None:
    folder = cache_folder() / f"frp-{FRP}"
    if (folder / "frps").exists() and (folder / "frpc").exists():
        return
    folder.mkdir(exist_ok=True)
    where = _run(["go", "mod", "download", "-json", f"{_FRP_MODULE}@{FRP}"], folder=folder)
    source = Path(json.loads(where)["Dir"])
    # "go install" refuses a module that replaces another, so a module of ours replaces the same,
    # with the same checksums.
    told = json.loads(_run(["go", "mod", "edit", "-json", str(source / "go.mod")], folder=folder))
    replaced = "".join(
        f"replace {each['Old']['Path']} => {each['New']['Path']} {each['New']['Version']}\n"
        for each in told.get("Replace") or []
    )
    (folder / "go.mod").write_text(
        f"module bench\n\ngo {told['Go']}\n\nrequire {_FRP_MODULE} {FRP}\n\n{replaced}"
    )
    (folder / "go.sum").write_bytes((source / "go.sum").read_bytes())
    # Without its dashboards, which are not part of the module.
    commands = [f"{_FRP_MODULE}/cmd/{name}" for name in ("frps", "frpc")]
    argv = ["go", "build", "-p", "1", "-tags", "noweb", "-o", str(folder), *commands]
    _run(argv, folder=folder, environment={"GOFLAGS": "-mod=mod"})


def _rathole() -> None:
    folder = cache_folder() / f"rathole-{RATHOLE}"
    if (folder / "bin" / "rathole").exists():
        return
    # Clear channels only.  Not --locked: compilers of today refuse what it was locked to.
    features = ["--no-default-features", "--features", "server,client"]
    argv = ["cargo", "install", "rathole", "--version", RATHOLE, *features]
    target = {"CARGO_TARGET_DIR": str(cache_folder() / "cargo")}
    _run([*argv, "-j1", "--root", str(folder)], environment=target)


def _py_frp() -> None:
    folder = cache_folder() / f"py-frp-{PY_FRP}"
    if (folder / "bin" / "py-frp").exists():
        return
    _run([sys.executable, "-m", "venv", str(folder)])
    pip = [str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
    _run([*pip, f"py-simple-nat-tunnel=={PY_FRP}"])


def _nodes() -> None:
    folder = node_folder()
    if (folder / "whole").exists():
        return
    asked = "import ensurepip, sys; sys.exit(sys.version_info < (3, 11))"
    _run([str(DISTRIBUTION), "-c", asked])
    _run([str(DISTRIBUTION), "-m", "venv", str(folder)])
    pip = [str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
    _run([*pip, *requirements()])
    (folder / "whole").touch()


def _ftp() -> None:
    """Unpack the FTP servers: Debian installs but one, and nobody wants it started at boot."""
    folder = ftp_folder()
    if (folder / "usr/sbin/vsftpd").exists() and (folder / "usr/lib/proftpd/mod_proxy.so").exists():
        return
    if os.geteuid() != 0:
        raise BenchError(f"only root may install {' '.join(_FTP_LIBRARIES)}")
    with _no_service_starts():
        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        _run(["apt-get", "update", "-q"], environment=quiet)
        argv = ["apt-get", "install", "-q", "-y", "--no-install-recommends", "--no-upgrade"]
        _run([*argv, *_FTP_LIBRARIES], environment=quiet)
    with tempfile.TemporaryDirectory(prefix="relaygate-bench-") as name:
        arriving = Path(name)
        # By default it would be another user, to whom this folder is closed.
        sandbox = ["-o", "APT::Sandbox::User=root"]
        _run(["apt-get", "download", "-q", *sandbox, *_FTP_PACKAGES], folder=arriving)
        for package in arriving.glob("*.deb"):
            _run(["dpkg-deb", "--extract", str(package), str(folder)])


def _run(
    argv: Sequence[str],
    *,
    folder: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run *argv* in the background's priority; its output.  Raises :class:`BenchError`."""
    print("installing:", " ".join(argv), flush=True)
    try:
        done = subprocess.run(
            ["nice", *argv],
            cwd=folder,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_LIMIT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BenchError(f"{argv[0]}: {error}") from None
    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines()
        raise BenchError(f"{argv[0]}: {' / '.join(lines[-3:])}")
    return done.stdout
