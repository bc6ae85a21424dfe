"""Many files, big files and many sessions by FTP through a gateway, and what is left of them."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from pathlib import Path
from typing import Final

from twisted.trial.unittest import TestCase

from relaygate.test import netns
from relaygate.test.ftpgateway import FTPGateway
from relaygate.test.ftpmatrix import Backend
from relaygate.test.ftpservers import FOLDER, PASSWORD, FTPServer
from relaygate.test.gateway import SOAK
from relaygate.test.netns import require_program
from relaygate.test.programs import completed, new_folder
from relaygate.test.suites import unpacked
from relaygate.test.test_suite_pyftpdlib import PYFTPDLIB, figures

FILES: Final = 2000 if SOAK else 200
BIG_BYTES: Final = 1 << 30 if SOAK else 64 << 20
SESSIONS: Final = 200 if SOAK else 60
LIMIT_S: Final = 900 if SOAK else 120

PLAIN: Final = Backend("vsftpd")
SECURE: Final = Backend("vsftpd", "explicit", "1.3", reuse=True)


class LoadTests(TestCase):
    """In three networks, with servers that demand what partners' servers demand."""

    timeout = 3600 if SOAK else 400

    async def begin(self, *wanted: Backend) -> FTPGateway:
        """Start a gateway in front of servers."""
        netns.require()
        gateway = FTPGateway(self, wanted)
        await gateway.start()
        return gateway

    def server(self, gateway: FTPGateway, backend: Backend) -> FTPServer:
        """Return the server behind a service."""
        return gateway.servers.by_backend[backend]

    async def lftp(self, gateway: FTPGateway, backend: Backend, *script: str) -> float:
        """Run lftp outside; return the seconds that it took."""
        at = gateway.through(backend)
        settings = ["net:max-retries 1", "net:timeout 30", "cmd:fail-exit yes"]
        settings += ["ftp:ssl-allow no"] if at.ca is None else [f"ssl:ca-file {at.ca}"]
        settings += [] if at.ca is None else ["ftp:ssl-force yes", "ftp:ssl-protect-data yes"]
        user = self.server(gateway, backend).user
        lines = [*(f"set {each}" for each in settings)]
        lines += [f"open -u {user},{PASSWORD} ftp://{at.host}:{at.port}", *script, "bye"]
        began = time.monotonic()
        ended = await completed(
            self,
            ["env", "LC_ALL=C.UTF-8", require_program("lftp"), "--norc", "-c", "; ".join(lines)],
            where=gateway.outside,
            timeout=LIMIT_S,
        )
        self.assertEqual(ended.status, 0, ended.errors)
        return time.monotonic() - began

    async def test_small_files(self) -> None:
        """Thousands of small files pass both ways, several at once, each whole."""
        gateway = await self.begin(PLAIN, SECURE)
        near = new_folder(self)
        for number in range(FILES):
            (near / f"{number:04}").write_bytes(os.urandom(number % 4096))
        for backend in (PLAIN, SECURE):
            back = new_folder(self)
            up = await self.lftp(gateway, backend, f"mirror -R -P 8 {near} {FOLDER}/m")
            there = self.server(gateway, backend).files / "m"
            self.assertEqual(_sums(there), _sums(near))
            down = await self.lftp(gateway, backend, f"mirror -P 8 {FOLDER}/m {back}")
            self.assertEqual(_sums(back), _sums(near))
            sys.stdout.write(
                f"{FILES} files, {backend}: {FILES / up:.0f}/s up, {FILES / down:.0f}/s down\n"
            )
        await gateway.nothing_bound()

    async def test_big_files(self) -> None:
        """A big file passes each way, in clear and under TLS on both sides."""
        gateway = await self.begin(PLAIN, SECURE)
        near = new_folder(self) / "big"
        with near.open("wb") as file:
            for _ in range(BIG_BYTES >> 20):
                file.write(os.urandom(1 << 20))
        wanted = _sum(near)
        for backend in (PLAIN, SECURE):
            far = self.server(gateway, backend).files / "big"
            back = new_folder(self) / "big"
            up = await self.lftp(gateway, backend, f"put {near} -o {FOLDER}/big")
            self.assertEqual(_sum(far), wanted)
            down = await self.lftp(gateway, backend, f"get {FOLDER}/big -o {back}")
            self.assertEqual(_sum(back), wanted)
            far.unlink()
            back.unlink()
            mib = BIG_BYTES >> 20
            sys.stdout.write(
                f"{mib} MiB, {backend}: {mib / up:.0f} MiB/s up, {mib / down:.0f} MiB/s down\n"
            )
        await gateway.nothing_bound()

    async def test_many_sessions(self) -> None:
        """Many sessions at once log in and move a file each way; then no port is open."""
        backend = Backend("pyftpdlib")
        gateway = await self.begin(backend)
        suite = await unpacked(self, PYFTPDLIB)
        server = self.server(gateway, backend)
        rows: dict[str, dict[str, float]] = {}
        for name, where, host in (
            ("direct", gateway.private, server.address),
            ("gateway", gateway.outside, gateway.host),
        ):
            port = server.port if name == "direct" else gateway.ports[backend]
            argv = [sys.executable, "-W", "ignore", str(suite / "scripts" / "ftpbench")]
            argv += ["-u", server.user, "-p", PASSWORD, "-H", host, "-P", str(port)]
            argv += ["-b", "concurrence", "-n", str(SESSIONS), "-s", "1M", "-t", "60"]
            # It uploads to where it is; this server lets its user write there.
            server.root.chmod(0o777)
            ended = await completed(self, argv, where=where, timeout=LIMIT_S)
            self.assertEqual((ended.status, ended.errors), (0, ""), name)
            rows[name] = figures(ended.output.decode())
        for title, seconds in rows["direct"].items():
            sys.stdout.write(f"{title}: direct {seconds}, gateway {rows['gateway'].get(title)}\n")
        self.assertEqual(rows["direct"].keys(), rows["gateway"].keys())
        await gateway.nothing_bound()


class BounceTests(TestCase):
    """nmap's script for servers that connect to others on a stranger's word."""

    timeout = 200

    async def test_bounce(self) -> None:
        """It finds no way through the gateway, in front of whatever server (Requirement 24)."""
        netns.require()
        wanted = [Backend("vsftpd"), Backend("pure-ftpd"), Backend("pyftpdlib")]
        gateway = FTPGateway(self, wanted)
        await gateway.start()
        for backend in wanted:
            port = gateway.ports[backend]
            script = f"ftp-bounce.checkhost={gateway.network.dmz_inner_address}"
            user = gateway.servers.by_backend[backend].user
            script += f",ftp-bounce.username={user},ftp-bounce.password={PASSWORD}"
            argv = [require_program("nmap"), "-n", "-Pn", "-p", str(port), "--script"]
            argv += ["+ftp-bounce", "--script-args", script, gateway.host]
            ended = await completed(self, argv, where=gateway.outside, timeout=60)
            text = ended.output.decode()
            self.assertIn("open", text)
            self.assertNotIn("bounce working", text)
        await gateway.node.logged(r"refused: .*PORT .*foreign address")
        await gateway.nothing_bound()


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sums(folder: Path) -> dict[str, str]:
    return {path.name: _sum(path) for path in folder.iterdir()}
