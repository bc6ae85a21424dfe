"""
Real processes for tests, with their logs, their memory and their end.

A :class:`Program` belongs to one test. It writes into files of that test's own folder, and is ended
by its process id when the test is over, however the test ends. Its waits poll a file or ``/proc``
with the reactor's clock, and each has a deadline.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.defer import TimeoutError as TwistedTimeoutError
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.trial.unittest import TestCase

import relaygate
from relaygate.test.netns import Network, Place

if TYPE_CHECKING:
    from twisted.internet.interfaces import IReactorProcess

Where = tuple[Network, Place]

_POLL_S: Final = 0.02
_STOP_TIMEOUT_S: Final = 30.0
_PATIENCE_S: Final = 60.0
_TAIL_CHARACTERS: Final = 4000
_MEMORY_BLOCK: Final = 1 << 20


class _Exit(ProcessProtocol):
    """Says when the process has ended, and with which status (negative: the signal)."""

    def __init__(self) -> None:
        self.status: int | None = None
        self._waiting: list[Deferred[None]] = []

    def processEnded(self, reason: Failure) -> None:
        value: Any = reason.value
        self.status = -value.signal if value.signal else value.exitCode
        for waiting in self._waiting:
            if not waiting.called:
                waiting.callback(None)

    async def ended(self, timeout: float) -> int:
        """Wait for the end; raises Twisted's ``TimeoutError`` after *timeout* seconds."""
        if self.status is None:
            waiting: Deferred[None] = Deferred()
            self._waiting.append(waiting)
            waiting.addTimeout(timeout, reactor)
            await waiting
        assert self.status is not None
        return self.status


class Program:
    """
    One process of *argv*, run for the test *case*, in a namespace if *where* says so.

    What it says on standard error goes into :attr:`log_file`; so does its standard output, unless
    *output* names a file for it. Standard input is empty, unless *stdin* names a file.
    """

    def __init__(
        self,
        case: TestCase,
        name: str,
        argv: Sequence[str],
        *,
        where: Where | None = None,
        stdin: Path | None = None,
        output: Path | None = None,
    ) -> None:
        self.name = name
        self.folder = new_folder(case)
        self.log_file = self.folder / f"{name}.log"
        self.log_file.touch()
        self._argv = list(argv)
        self._where = where
        self._stdin = stdin or Path(os.devnull)
        self._output = output or self.log_file
        self._exit: _Exit | None = None
        self._pid = 0
        self._run_starts_at = 0
        self._descendants: dict[int, str] = {}
        case.addCleanup(self.clean_up)

    @property
    def pid(self) -> int:
        """The id of the running process; raises ``AssertionError`` when there is none."""
        if not self.running:
            raise AssertionError(f"{self.name} does not run.{self._tail()}")
        return self._pid

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._exit is not None and self._exit.status is None

    def start(self) -> None:
        """Start the process; it need not be ready yet when this returns."""
        if self.running:
            raise AssertionError(f"{self.name} runs already")
        self._run_starts_at = self.log_file.stat().st_size
        argv = self._argv
        if self._where is not None:
            network, place = self._where
            argv = network.ns_argv(place, argv)
        path = [str(Path(relaygate.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, path))}
        self._exit = _Exit()
        with (
            self._stdin.open("rb") as stdin,
            self._output.open("ab") as output,
            self.log_file.open("ab") as errors,
        ):
            transport = cast("IReactorProcess", reactor).spawnProcess(
                self._exit,
                argv[0],
                argv,
                env=environment,
                path=str(self.folder),
                childFDs={0: stdin.fileno(), 1: output.fileno(), 2: errors.fileno()},
            )
        self._pid = cast("int", cast("Any", transport).pid)

    async def ended(self, timeout: float = _STOP_TIMEOUT_S) -> int:
        """
        Wait until the process ends by itself and return its status, negative for a signal.

        Raises ``AssertionError`` with the end of the log after *timeout* seconds.
        """
        assert self._exit is not None, f"{self.name} was not started"
        try:
            return await self._exit.ended(timeout)
        except TwistedTimeoutError:
            raise AssertionError(
                f"{self.name} still runs after {timeout} s.{self._tail()}"
            ) from None

    def kill(self, signum: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal, and wait for nothing."""
        self._descendants |= _descendants(self.pid)
        os.kill(self.pid, signum)

    async def stop(self) -> int:
        """
        End the process politely, then by force, and return its status.

        What it has started itself may run on until the test is over. Raises ``AssertionError`` if
        it had to be forced.
        """
        assert self._exit is not None, f"{self.name} was not started"
        if not self.running:
            return await self._exit.ended(_STOP_TIMEOUT_S)
        self.kill(signal.SIGTERM)
        self.kill(signal.SIGCONT)  # a stopped process does not hear the first one
        forced = False
        try:
            await self._exit.ended(_STOP_TIMEOUT_S)
        except TwistedTimeoutError:
            forced = True
            self.kill(signal.SIGKILL)
        status = await self._exit.ended(_STOP_TIMEOUT_S)
        if forced:
            raise AssertionError(
                f"{self.name} ignored SIGTERM for {_STOP_TIMEOUT_S:g} s.{self._tail()}"
            )
        return status

    async def restart(self) -> None:
        """Stop it if it runs, and start it again; :meth:`logged` then sees the new run only."""
        if self.running:
            await self.stop()
        self.start()

    def log(self) -> str:
        """Return what the present run has logged."""
        with self.log_file.open("rb") as file:
            file.seek(self._run_starts_at)
            return file.read().decode("utf-8", "backslashreplace")

    async def logged(
        self, pattern: str, *, timeout: float = _PATIENCE_S, after: int = 0
    ) -> re.Match[str]:
        """
        Wait until *pattern* is found in :meth:`log`, from the character *after* on.

        To wait for something new, pass ``len(program.log())`` of the moment before. The match's
        ``end()`` is such a place as well. Raises ``AssertionError`` with the end of the log after
        *timeout* seconds, or as soon as the process has ended without saying it.
        """
        expression = re.compile(pattern, re.MULTILINE)
        deadline = reactor.seconds() + timeout
        while True:
            over = not self.running or reactor.seconds() >= deadline
            if match := expression.search(self.log(), after):
                return match
            if over:
                state = "still runs" if self.running else "has ended"
                raise AssertionError(
                    f"{self.name} ({state}) never logged {pattern!r}.{self._tail()}"
                )
            await pause(_POLL_S)

    def rss_kb(self) -> int:
        """Return its resident memory in KiB."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0])

    def fds(self) -> list[str]:
        """Return what its open file descriptors lead to, in the words of ``/proc``."""
        found = []
        for entry in Path(f"/proc/{self.pid}/fd").iterdir():
            try:
                found.append(os.readlink(entry))
            except FileNotFoundError:
                # It was closed since the folder was read.
                continue
        return sorted(found)

    def memory_contains(self, needles: Sequence[bytes]) -> list[bytes]:
        """
        Return those of *needles* that stand anywhere in its readable memory.

        It is stopped meanwhile, so that nothing moves behind the search. This blocks the reactor
        for about a second for each GB; it needs root, or a process of the same user.
        """
        self.kill(signal.SIGSTOP)
        try:
            return _search_memory(self.pid, list(needles))
        finally:
            self.kill(signal.SIGCONT)

    async def clean_up(self) -> None:
        """End it and every process that it was seen to have started; the test does this itself."""
        try:
            if self.running:
                await self.stop()
        finally:
            for pid, started in self._descendants.items():
                if _started_at(pid) == started:
                    os.kill(pid, signal.SIGKILL)

    def _tail(self) -> str:
        return f"\nThe end of {self.log_file}:\n{self.log()[-_TAIL_CHARACTERS:]}"


@dataclass(frozen=True)
class Completed:
    """How a program ended: its status, its output, and its words on standard error."""

    status: int
    output: bytes
    errors: str


async def completed(
    case: TestCase,
    argv: Sequence[str],
    *,
    where: Where | None = None,
    stdin: Path | None = None,
    timeout: float = _PATIENCE_S,
) -> Completed:
    """Run *argv* to its end; raises ``AssertionError`` if that takes over *timeout* seconds."""
    output = new_folder(case) / "output"
    program = Program(case, Path(argv[0]).name, argv, where=where, stdin=stdin, output=output)
    program.start()
    status = await program.ended(timeout)
    return Completed(status, output.read_bytes(), program.log())


async def pause(seconds: float) -> None:
    """Let the reactor work for some seconds."""
    await deferLater(reactor, seconds)


def new_folder(case: TestCase) -> Path:
    """Make a folder for the test *case*, with an absolute path."""
    folder = Path(case.mktemp()).absolute()
    folder.mkdir(parents=True)
    return folder


def _stat_fields(pid: int) -> list[str]:
    """Return the fields of ``/proc/PID/stat`` after the name, the first being "state"."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def _started_at(pid: int) -> str | None:
    fields = _stat_fields(pid)
    return fields[19] if fields else None


def _descendants(pid: int) -> dict[int, str]:
    """Return the processes below *pid*, with their start times (an id may be used again)."""
    parents: dict[int, tuple[int, str]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat_fields(int(entry.name))):
            parents[int(entry.name)] = (int(fields[1]), fields[19])
    family = {pid}
    while more := {child for child, (parent, _) in parents.items() if parent in family} - family:
        family |= more
    return {member: parents[member][1] for member in family - {pid} if member in parents}


def _search_memory(pid: int, needles: list[bytes]) -> list[bytes]:
    found: set[bytes] = set()
    overlap = max(map(len, needles), default=1) - 1
    maps = Path(f"/proc/{pid}/maps").read_text()
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in maps.splitlines():
            addresses, permissions, *rest = line.split(maxsplit=5)
            # The kernel's own pages hold nothing of the process, and cannot all be read.
            if "r" not in permissions or (len(rest) == 4 and rest[3].startswith("[v")):
                continue
            start, end = (int(address, 16) for address in addresses.split("-"))
            tail = b""
            while start < end:
                memory.seek(start)
                try:
                    block = memory.read(min(_MEMORY_BLOCK, end - start))
                except OSError:
                    break  # a mapped file that has become shorter
                if not block:
                    break
                window = tail + block
                found.update(needle for needle in needles if needle in window)
                tail = window[-overlap:] if overlap else b""
                start += len(block)
    return [needle for needle in needles if needle in found]
