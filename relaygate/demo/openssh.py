"""The OpenSSH clients of this machine, where there are any."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from relaygate.demo.gateway import HOST
from relaygate.demo.keys import USER
from relaygate.demo.processes import run_client

# What the demo's ssh_config calls the gateway.
ALIAS: Final = "gateway"

# From this version on scp can speak SFTP; the older protocol needs a shell behind the gateway.
_SCP_OVER_SFTP: Final = (8, 7)

_CONFIG: Final = """\
Host {alias}
    HostName {host}
    Port {port}
    User {user}
    IdentityFile "{folder}/user_key"
    IdentitiesOnly yes
    UserKnownHostsFile "{folder}/known_hosts"
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
    UpdateHostKeys no
    BatchMode yes
    LogLevel ERROR
"""


def is_here() -> bool:
    """Whether this machine has the clients."""
    return all(shutil.which(program) for program in ("ssh", "sftp"))


def write_config(folder: Path, port: int) -> Path:
    """Write an ``ssh_config`` and its ``known_hosts`` into *folder*, where the keys are."""
    public = (folder / "host_key.pub").read_text()
    (folder / "known_hosts").write_text(f"[{HOST}]:{port} {public}")
    config = folder / "ssh_config"
    config.write_text(_CONFIG.format(alias=ALIAS, host=HOST, port=port, user=USER, folder=folder))
    return config


def scp_speaks_sftp() -> bool:
    """Whether this machine's scp does."""
    if not shutil.which("scp"):
        return False
    words = subprocess.run(
        [_path("ssh"), "-V"], capture_output=True, text=True, timeout=10, check=False
    )
    version = re.search(r"OpenSSH_(\d+)\.(\d+)", words.stderr)
    return version is not None and (int(version[1]), int(version[2])) >= _SCP_OVER_SFTP


class SFTP:
    """Moves files by ``sftp``, as *config* says."""

    protocol = "SFTP"
    client = "OpenSSH sftp"
    service = "sftp"

    def __init__(self, reactor: Any, config: Path) -> None:
        self._reactor = reactor
        self._config = config

    async def put(self, source: Path, name: str) -> None:
        """Upload *source* as *name*."""
        await self._run(f'put "{source}" "{name}"')

    async def get(self, name: str, target: Path) -> None:
        """Download *name* as *target*."""
        await self._run(f'get "{name}" "{target}"')

    async def _run(self, command: str) -> None:
        batch = self._config.with_name("sftp.batch")
        batch.write_text(f"{command}\n")
        argv = [_path("sftp"), "-q", "-b", str(batch), "-F", str(self._config), ALIAS]
        await run_client(self._reactor, "sftp", argv, batch.parent)


class SCP:
    """Moves files by ``scp``, which speaks SFTP as it does by itself since OpenSSH 9.0."""

    protocol = "SCP"
    client = "OpenSSH scp"
    service = "sftp"

    def __init__(self, reactor: Any, config: Path) -> None:
        self._reactor = reactor
        self._config = config

    async def put(self, source: Path, name: str) -> None:
        """Upload *source* as *name*."""
        await self._run([str(source), f"{ALIAS}:{name}"])

    async def get(self, name: str, target: Path) -> None:
        """Download *name* as *target*."""
        await self._run([f"{ALIAS}:{name}", str(target)])

    async def _run(self, files: Sequence[str]) -> None:
        argv = [_path("scp"), "-s", "-q", "-F", str(self._config), *files]
        await run_client(self._reactor, "scp", argv, self._config.parent)


def _path(program: str) -> str:
    return shutil.which(program) or program
