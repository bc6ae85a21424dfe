"""The load in front of a peer and behind it: builds the C programs, runs them, reads figures."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.ftpserver import FTPServer
from bench.peers import Kind, found
from bench.processes import BenchError, Cost, Group, cache_folder, free_ports
from bench.webserver import WebServer

Figures = dict[str, float]

_FOLDER: Final = Path(__file__).parent
# What a client may take beyond its own time, before it is ended.
_SPARE_S: Final = 60.0


def ftp_folder() -> Path:
    """The folder in which Debian's FTP servers are unpacked, which cannot be installed together."""
    return cache_folder() / "ftp"


def build(name: str) -> Path:
    """The program of NAME.c, compiled unless it was before; raises :class:`BenchError`."""
    source = _FOLDER / f"{name}.c"
    content = source.read_bytes() + (_FOLDER / "load.h").read_bytes()
    program = cache_folder() / f"{name}-{hashlib.sha256(content).hexdigest()[:12]}"
    if not program.exists():
        fresh = program.with_suffix(f".{os.getpid()}")
        argv = ["cc", "-O2", "-Wall", "-Wextra", "-o", str(fresh), str(source)]
        try:
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
        except FileNotFoundError:
            raise BenchError("there is no C compiler (Debian: gcc and libc6-dev)") from None
        if done.returncode:
            raise BenchError(f"{source.name} does not compile: {done.stderr}")
        fresh.rename(program)
    return program


@dataclass(frozen=True)
class Measured:
    """A client's figures, and what each process of the peer used meanwhile."""

    figures: Figures
    cpu_s: dict[str, float]
    load_cpu_s: float


@dataclass
class Held:
    """Idle sessions: how many were opened, and how many still answered when they were let go."""

    opened: int
    alive: int = 0


class Load:
    """The server behind the peers, and the clients that are run in front of them."""

    def __init__(self, folder: Path) -> None:
        self._client_program = (str(build("drive")),)
        [self._port] = free_ports(1)
        self._folder = folder
        self._group = Group(folder)
        server = self._group.start("load-server", [str(build("serve")), str(self._port)])
        self._group.wait(
            lambda: "ready" in server.log_file.read_text(), 5.0, "the load's server is not ready"
        )
        self._ftp: FTPServer | None = None
        self._web: WebServer | None = None

    def backend(self, kind: Kind) -> int:
        """The port of the server for peers of that *kind*; raises :class:`BenchError`."""
        if kind in ("http", "https"):
            if self._web is None:
                folder = self._folder / "web"
                folder.mkdir()
                self._web = WebServer(folder)
            return self._web.port
        if kind != "ftp":
            return self._port
        if self._ftp is None:
            self._ftp = FTPServer(found("vsftpd", ftp_folder() / "usr/sbin"), self._folder / "ftp")
        return self._ftp.port

    def stop(self) -> None:
        """End the servers."""
        self._group.stop()
        if self._ftp is not None:
            self._ftp.stop()
        if self._web is not None:
            self._web.stop()

    def run(self, peer: Group, port: int | str, what: str, *arguments: float | str) -> Measured:
        """
        Run the client *what* against *port* to its end, and account *peer* meanwhile.

        The account begins when the client's warm-up is over.  Raises :class:`BenchError` with the
        client's own words when it fails.
        """
        with self._client(self._client_program, what, port, *arguments) as client:
            return self._measured(client, peer)

    def run_tls(self, peer: Group, port: int | str, *arguments: float | str) -> Measured:
        """The same with one stream under TLS, which the peer ends."""
        program = (sys.executable, "-m", "bench.tlsdrive")
        with self._client(program, port, *arguments) as client:
            return self._measured(client, peer)

    def run_ftp(self, peer: Group, port: int | str, *arguments: float | str) -> Measured:
        """The same with an FTP client, against a peer that speaks FTP."""
        program = (sys.executable, "-m", "bench.ftpdrive")
        with self._client(program, port, *arguments) as client:
            return self._measured(client, peer)

    def run_web(self, peer: Group, port: int | str, *arguments: float | str) -> Measured:
        """The same with a client of HTTP, against a peer that speaks it."""
        program = (sys.executable, "-m", "bench.webdrive")
        with self._client(program, port, *arguments) as client:
            return self._measured(client, peer)

    def _measured(self, client: subprocess.Popen[str], peer: Group) -> Measured:
        assert client.stdout is not None
        client.stdout.readline()
        before = (peer.cost(), self._group.cost())
        words = client.stdout.readline()
        after = (peer.cost(), self._group.cost())
        cpu = {name: after[0][name].cpu_s - before[0][name].cpu_s for name in before[0]}
        mine = sum(_cpu(after[1])) - sum(_cpu(before[1]))
        return Measured(_figures(words), cpu, mine)

    @contextmanager
    def hold(self, port: int | str, count: int) -> Iterator[Held]:
        """Open *count* sessions through *port*, and keep them meanwhile."""
        with self._client(self._client_program, "hold", port, count) as client:
            assert client.stdin is not None
            assert client.stdout is not None
            held = Held(int(_figures(client.stdout.readline())["held"]))
            yield held
            client.stdin.write("\n")
            client.stdin.flush()
            held.alive = int(_figures(client.stdout.readline())["alive"])

    @contextmanager
    def _client(
        self, program: Sequence[str], *arguments: float | str
    ) -> Iterator[subprocess.Popen[str]]:
        argv = [*program, *(str(each) for each in arguments)]
        pipe = subprocess.PIPE
        root = str(_FOLDER.parent)
        client = subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=pipe, text=True, cwd=root)
        try:
            yield client
            _, errors = client.communicate(timeout=_SPARE_S)
        except (subprocess.TimeoutExpired, KeyError, ValueError):
            client.kill()
            _, errors = client.communicate()
            raise BenchError(f"{arguments[0]}: {errors.strip() or 'no answer'}") from None
        finally:
            client.kill()
            client.wait()
        if client.returncode:
            raise BenchError(f"{arguments[0]}: {errors.strip()}")


def _cpu(costs: dict[str, Cost]) -> list[float]:
    return [cost.cpu_s for cost in costs.values()]


def _figures(line: str) -> Figures:
    """The numbers of a line "end name=number ..."; raises :class:`ValueError`."""
    first, *pairs = line.split()
    if first != "end":
        raise ValueError(line)
    return {name: float(number) for name, _, number in (pair.partition("=") for pair in pairs)}
