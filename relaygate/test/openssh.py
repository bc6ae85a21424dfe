"""
OpenSSH for tests: the real ``sshd`` as a backend, and the real clients that partners use.

The clients know the host key in advance and accept no other. A session that works has therefore
passed through the gateway unopened, whatever address the client dialled.
"""

from __future__ import annotations

import getpass
import os
import shlex
import subprocess
from pathlib import Path
from typing import Final

from twisted.trial.unittest import TestCase

from relaygate.test.netns import require_program
from relaygate.test.programs import Program, Where, new_folder

_PRIVSEP_FOLDER: Final = Path("/run/sshd")
_HOST_KEY_ALIAS: Final = "relaygate-test"

# The limits are far above what a test opens: a refusal is then the gateway's, never the backend's.
_SSHD_CONFIG: Final = """
ListenAddress {address}
Port {port}
HostKey {host_key}
PidFile none
AuthorizedKeysFile {authorized_keys}
AuthenticationMethods publickey
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
StrictModes no
UsePAM no
UseDNS no
LogLevel VERBOSE
LoginGraceTime 60
MaxStartups 500
MaxSessions 500
Subsystem sftp internal-sftp
"""


class Keys:
    """
    The keys of one test and the commands of its clients.

    Several servers may share one object, as the members of a balanced service share a host key.
    """

    def __init__(self, case: TestCase) -> None:
        self.folder = new_folder(case)
        self.host_key = self._make("host_key")
        self.user_key = self._make("user_key")
        self.user = getpass.getuser()
        host_public = self._public(self.host_key)
        (self.folder / "known_hosts").write_text(f"{_HOST_KEY_ALIAS} {host_public}")
        self.authorized_keys = self.folder / "authorized_keys"
        self.authorized_keys.write_text(self._public(self.user_key))

    @property
    def client_options(self) -> list[str]:
        """Options that ssh, sftp and scp share; they leave the user's own files out of it."""
        settings = {
            "BatchMode": "yes",
            "ConnectTimeout": "15",
            "GlobalKnownHostsFile": os.devnull,
            "HostKeyAlias": _HOST_KEY_ALIAS,
            "IdentitiesOnly": "yes",
            "IdentityFile": str(self.user_key),
            "LogLevel": "ERROR",
            "StrictHostKeyChecking": "yes",
            "UpdateHostKeys": "no",
            "User": self.user,
            "UserKnownHostsFile": str(self.folder / "known_hosts"),
        }
        options = ["-F", "none"]
        for name, value in settings.items():
            options += ["-o", f"{name}={value}"]
        return options

    def ssh(self, host: str, port: int, command: str) -> list[str]:
        """Run *command* on the server."""
        return [require_program("ssh"), *self.client_options, "-p", str(port), host, command]

    def sftp(self, host: str, port: int, batch: Path) -> list[str]:
        """Run the sftp commands in the file *batch*; the first that fails ends it."""
        options = [*self.client_options, "-b", str(batch), "-P", str(port)]
        return [require_program("sftp"), *options, _bracketed(host)]

    def scp_to(self, host: str, port: int, source: Path, target: Path) -> list[str]:
        """Copy the file *source* to *target* on the server."""
        return [*self._scp(port), str(source), f"{_bracketed(host)}:{target}"]

    def scp_from(self, host: str, port: int, source: Path, target: Path) -> list[str]:
        """Copy the file *source* on the server to *target*."""
        return [*self._scp(port), f"{_bracketed(host)}:{source}", str(target)]

    def rsync_to(self, host: str, port: int, source: Path, target: Path) -> list[str]:
        """Copy the file or tree *source* to *target* on the server, by rsync over ssh."""
        shell = shlex.join([require_program("ssh"), *self.client_options, "-p", str(port)])
        destination = f"{_bracketed(host)}:{target}"
        return [require_program("rsync"), "-a", "-e", shell, str(source), destination]

    def _scp(self, port: int) -> list[str]:
        return [require_program("scp"), *self.client_options, "-P", str(port)]

    def _make(self, name: str) -> Path:
        path = self.folder / name
        argv = [require_program("ssh-keygen"), "-q", "-t", "ed25519", "-N", "", "-f", str(path)]
        subprocess.run(argv, check=True, capture_output=True, timeout=10)
        return path

    def _public(self, key: Path) -> str:
        return key.with_name(f"{key.name}.pub").read_text()


class SSHServer(Program):
    """A real ``sshd`` on *address* and *port*, for the current user and his test key alone."""

    def __init__(
        self,
        case: TestCase,
        keys: Keys,
        address: str,
        port: int,
        *,
        where: Where | None = None,
        name: str = "sshd",
    ) -> None:
        # sshd wants its own whole path, and as root a folder to lock itself into.
        program = str(Path(require_program("sshd")).resolve())
        if os.geteuid() == 0:
            _PRIVSEP_FOLDER.mkdir(mode=0o755, exist_ok=True)
        config = new_folder(case) / "sshd_config"
        config.write_text(
            _SSHD_CONFIG.format(
                address=_bracketed(address),
                port=port,
                host_key=keys.host_key,
                authorized_keys=keys.authorized_keys,
            )
        )
        super().__init__(case, name, [program, "-D", "-e", "-f", str(config)], where=where)

    async def ready(self) -> None:
        """Start, and wait until connections are taken."""
        self.start()
        await self.logged(r"Server listening on ")


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
