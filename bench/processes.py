"""The benchmark's processes: their start, their end, and what they cost while they run."""

from __future__ import annotations

import os
import random
import resource
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

HOST: Final = "127.0.0.1"

_STOP_LIMIT_S: Final = 5.0
_POLL_S: Final = 0.02
# Below them begin the ports of /proc/sys/net/ipv4/ip_local_port_range, as it is by default.
_SERVERS: Final = (15_000, 32_000)
_TAIL_LINES: Final = 8
# For sessions beside the idle ones, and whatever else a process has open.
_SPARE_FILES: Final = 240
_TICKS: Final = os.sysconf("SC_CLK_TCK")


class BenchError(Exception):
    """A peer cannot be measured. One line that says why."""


@dataclass(frozen=True)
class Cost:
    """What processes have used since they began: CPU seconds; and hold now: resident bytes."""

    cpu_s: float
    rss: int


class Process:
    """One process of *argv*, which says everything into ``NAME.log`` in *folder*."""

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        folder: Path,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.log_file = folder / f"{name}.log"
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
                env={**os.environ, **(environment or {})},
            )

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def check(self) -> None:
        """Raise :class:`BenchError` with its last words if it has ended."""
        if (status := self._process.poll()) is not None:
            raise BenchError(f"{self.name} has ended with status {status}: {self.tail()}")

    def tail(self) -> str:
        """The last lines that it said, in one."""
        lines = self.log_file.read_text("utf-8", "replace").splitlines()
        return " / ".join(lines[-_TAIL_LINES:]) or "it said nothing"

    def stop(self) -> None:
        """End it and all that it has started, by force where it does not listen."""
        family = _family(self.pid)
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._process.poll() is None:
                self._process.send_signal(number)
            try:
                self._process.wait(_STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                continue
        for pid, began in family.items():
            if _began(pid) == began:
                os.kill(pid, signal.SIGKILL)


class Group:
    """The processes of one peer, in the order in which bytes from outside meet them."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.members: list[Process] = []
        self._stack = ExitStack()

    def start(
        self, name: str, argv: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> Process:
        """Start a process and answer for its end."""
        process = Process(name, argv, self.folder, environment)
        self._stack.callback(process.stop)
        self.members.append(process)
        return process

    def stop(self) -> None:
        """End all, the last started first."""
        self._stack.close()

    def cost(self) -> dict[str, Cost]:
        """What each member and its children have used, by the member's name."""
        return {member.name: _cost(member.pid) for member in self.members}

    def wait(self, ready: Callable[[], bool], limit_s: float, what: str) -> None:
        """Wait until *ready*; raises :class:`BenchError` when one has ended, or after *limit_s*."""
        end = time.monotonic() + limit_s
        while not ready():
            for member in self.members:
                member.check()
            if time.monotonic() > end:
                words = "; ".join(f"{member.name}: {member.tail()}" for member in self.members)
                raise BenchError(f"{what} in {limit_s:g} s: {words}")
            time.sleep(_POLL_S)


def free_ports(count: int) -> list[int]:
    """
    *count* TCP ports of the loopback address that nobody uses now.

    Raises :class:`BenchError` if there are not so many below those that the kernel gives to
    clients: after a measure of new sessions most of these belong to connections that are over.
    """
    found: list[int] = []
    with ExitStack() as stack:
        for port in random.sample(range(*_SERVERS), len(range(*_SERVERS))):
            try:
                stack.enter_context(socket.create_server((HOST, port)))
            except OSError:
                continue
            found.append(port)
            if len(found) == count:
                return found
    raise BenchError(f"no {count} ports are free")


def unverified() -> ssl.SSLContext:
    """A client's context for certificates that were made for the moment."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def echoes(port: int, *, tls: bool = False) -> bool:
    """Whether a byte sent to *port* comes back, as the load's server sends it."""
    try:
        with socket.create_connection((HOST, port), timeout=1) as plain:
            client = unverified().wrap_socket(plain) if tls else plain
            client.sendall(b"e")
            return client.recv(1) == b"e"
    except OSError:
        return False


def echoes_http(port: int, *, tls: bool = False) -> bool:
    """Whether a server of HTTP is reached through *port*."""
    try:
        with socket.create_connection((HOST, port), 2) as plain:
            peer = unverified().wrap_socket(plain) if tls else plain
            peer.sendall(b"GET /small HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")
            return peer.recv(15) == b"HTTP/1.1 200 OK"
    except OSError:
        return False


def greets(port: int, beginning: bytes) -> bool:
    """Whether who connects hears a line with that *beginning*, without a word of his own."""
    try:
        with socket.create_connection((HOST, port), timeout=1) as client:
            return client.recv(len(beginning), socket.MSG_WAITALL) == beginning
    except OSError:
        return False


def cache_folder() -> Path:
    """The folder for what is built or fetched: never in the checkout, kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(base) / "relaygate" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def file_limit() -> int:
    """How many descriptors this process and its children may hold."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def raise_file_limit(wanted: int) -> None:
    """Let this process and its children hold *wanted* descriptors, or as many as they may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, max(wanted, hard)))
    except (OSError, ValueError):
        # Only CAP_SYS_RESOURCE may raise the hard limit: what there is has to do.
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def most_idle(limit: int) -> int:
    """How many sessions a process with *limit* descriptors can hold that needs two for each."""
    return (limit - _SPARE_FILES) // 2


def _stat(pid: int) -> list[str]:
    """The fields of ``/proc/PID/stat`` after the name, from "state" on (proc(5)); none: gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _began(pid: int) -> str | None:
    fields = _stat(pid)
    return fields[19] if fields else None


def _family(pid: int) -> dict[int, str]:
    """*pid* and the processes below it, with their start times (an id may be used again)."""
    parents: dict[int, tuple[int, str]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            parents[int(entry.name)] = (int(fields[1]), fields[19])
    family = {pid}
    while more := {child for child, (parent, _) in parents.items() if parent in family} - family:
        family |= more
    return {member: parents[member][1] for member in family if member in parents}


def _cost(pid: int) -> Cost:
    cpu_ticks, rss = 0, 0
    for member in _family(pid):
        if fields := _stat(member):
            # The children that have ended are counted by their parent.
            cpu_ticks += sum(int(fields[place]) for place in (11, 12, 13, 14))
            rss += int(fields[21]) * resource.getpagesize()
    return Cost(cpu_ticks / _TICKS, rss)
