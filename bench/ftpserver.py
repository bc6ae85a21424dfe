"""
The FTP server behind the peers that speak FTP: vsftpd, which sends files from the kernel.

Its anonymous user has a folder in memory, so that no disk is measured.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Final

from bench.keys import server_pem
from bench.processes import HOST, BenchError, Group, free_ports, greets

BIG_FILE: Final = "big"
BIG_BYTES: Final = 256 << 20
SMALL_FILE: Final = "small"
SMALL_BYTES: Final = 4096
# Where the user may write; it is not the root of all he sees, which vsftpd would not have.
FOLDER: Final = "incoming"

_ACCOUNT: Final = "daemon"
_MEMORY: Final = Path("/dev/shm")  # noqa: S108 - the folder below it has a name of its own
_BLOCK: Final = 1 << 20
# The big file, once more, and what small files need.
_ROOM: Final = 3
_START_LIMIT_S: Final = 10.0
_CONFIG: Final = """\
listen=YES
background=NO
listen_address={host}
listen_port={port}
# Among the ports that clients have, too: none of these is in a range that a relay listens on.
pasv_min_port=40000
pasv_max_port=59999
anonymous_enable=YES
ftp_username={account}
no_anon_password=NO
anon_root={root}
write_enable=YES
anon_upload_enable=YES
anon_other_write_enable=YES
anon_world_readable_only=NO
anon_umask=022
secure_chroot_dir={empty}
xferlog_enable=NO
isolate=NO
isolate_network=NO
seccomp_sandbox=NO
max_per_ip=0
ssl_enable=YES
allow_anon_ssl=YES
require_ssl_reuse=NO
ssl_ciphers=HIGH
rsa_cert_file={pem}
rsa_private_key_file={pem}
"""


class FTPServer:
    """The server of *program*, which works in *folder*, on a *port* of its own choice."""

    def __init__(self, program: str, folder: Path) -> None:
        if os.geteuid() != 0:
            raise BenchError("vsftpd starts only as root")
        [self.port] = free_ports(1)
        self._group = Group(folder)
        base = _MEMORY if _has_room(_MEMORY) else None
        self._files = tempfile.TemporaryDirectory(prefix="relaygate-bench-", dir=base)
        try:
            self._start(program, folder, Path(self._files.name))
        except BaseException:
            self.stop()
            raise

    def _start(self, program: str, folder: Path, root: Path) -> None:
        _fill(root)
        (folder / "empty").mkdir(exist_ok=True)
        config = folder / "vsftpd.conf"
        config.write_text(
            _CONFIG.format(
                host=HOST,
                port=self.port,
                account=_ACCOUNT,
                root=root,
                empty=folder / "empty",
                pem=server_pem(folder),
            )
        )
        self._group.start("vsftpd", heard(program, str(config)))
        self._group.wait(lambda: greets(self.port, b"220"), _START_LIMIT_S, "vsftpd does not greet")

    def stop(self) -> None:
        """End it and remove its files."""
        self._group.stop()
        self._files.cleanup()


def heard(*argv: str) -> list[str]:
    """A command of vsftpd's that is heard: all that it has to say it says to its *input*."""
    return ["/bin/sh", "-c", 'exec "$0" "$@" 0>&1', *argv]


def _fill(root: Path) -> None:
    # Its user comes in here, and writes only below.
    root.chmod(0o755)
    files = root / FOLDER
    files.mkdir()
    files.chmod(0o777)
    (files / SMALL_FILE).write_bytes(os.urandom(SMALL_BYTES))
    block = os.urandom(_BLOCK)
    with (files / BIG_FILE).open("wb") as file:
        for _ in range(0, BIG_BYTES, _BLOCK):
            file.write(block)


def _has_room(folder: Path) -> bool:
    try:
        there = os.statvfs(folder)
    except OSError:
        return False
    return os.access(folder, os.W_OK) and there.f_bavail * there.f_frsize > _ROOM * BIG_BYTES
