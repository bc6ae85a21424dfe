"""
What an FTP client of the tests is: what it can do, and one action at a time with its outcome.

A client's :meth:`~Client.perform` prepares the files of both ends, runs the program, and looks at
the files again. It says how that went and never raises because a transfer failed: whether a
combination works at all is for a run without the gateway to tell.
"""

from __future__ import annotations

import itertools
import random
import re
import signal
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Literal

from twisted.trial.unittest import TestCase

from relaygate.test.ftpservers import FOLDER, PASSWORD, Security, Version
from relaygate.test.peers import eventually
from relaygate.test.programs import Program, Where, new_folder

Mode = Literal["PASV", "EPSV", "PORT", "EPRT"]
Action = Literal["upload", "download", "list", "resume", "append", "abort"]
MODES: Final[tuple[Mode, ...]] = ("PASV", "EPSV", "PORT", "EPRT")
ACTIONS: Final[tuple[Action, ...]] = ("upload", "download", "list", "resume", "append", "abort")

# Larger than what sockets on the way hold, so that an end that comes too early cuts something off.
SIZE: Final = 700_001
CONTENT: Final = random.Random(4).randbytes(SIZE)
HALF: Final = SIZE // 2

# The first half of what is continued is another one. Who moves it all again is found out by it.
CONTINUED: Final = bytes(HALF) + CONTENT[HALF:]

# What an abort breaks off: nothing but zeroes, and no blocks on the server's disk. The client's may
# be set aside at once, in full.
ENDLESS: Final = 1 << 30
_ABORT_AFTER: Final = 1 << 16
ABORT_RATE: Final = 20_000_000

_numbers = itertools.count(1)
_RUN_LIMIT_S: Final = 15.0
_QUIET: Final = 300


@dataclass(frozen=True)
class Target:
    """Where a client goes, and how; *ca* is the file of what it trusts, where there is TLS."""

    host: str
    port: int
    user: str
    mode: Mode
    security: Security = "plain"
    version: Version | None = None
    ca: Path | None = None
    password: str = PASSWORD


@dataclass(frozen=True)
class Result:
    """How an action ended: *why* are the first words of what went wrong, or nothing."""

    ok: bool
    why: str = ""


@dataclass
class Work:
    """
    One action, on the file *name* in the server's folder and the file *near* of the client.

    *home* is a folder for the client itself, and *stdin* what it is to read.
    """

    action: Action
    target: Target
    near: Path
    name: str
    home: Path
    stdin: str = ""

    @property
    def far(self) -> str:
        """The path of the file on the server, for a user who has just come."""
        return f"{FOLDER}/{self.name}"


class Client(ABC):
    """A client program, with what it is able to do."""

    name: ClassVar[str]
    modes: ClassVar[frozenset[Mode]] = frozenset(MODES)
    securities: ClassVar[frozenset[Security]] = frozenset({"plain", "explicit", "implicit"})
    actions: ClassVar[frozenset[Action]] = frozenset(ACTIONS)

    # The exit status says nothing: some clients are content as soon as they could quit.
    silent: ClassVar[bool] = False

    # An abort of its own goes on in the same session; the others are told by Ctrl-C.
    aborts_itself: ClassVar[bool] = False

    @classmethod
    def can(cls, mode: Mode, security: Security, action: Action) -> bool:
        """Tell whether the client has all of that."""
        return mode in cls.modes and security in cls.securities and action in cls.actions

    @abstractmethod
    def command(self, work: Work) -> list[str]:
        """Return the command for *work*; it may set ``stdin``."""

    async def perform(
        self,
        case: TestCase,
        target: Target,
        action: Action,
        files: Path,
        *,
        where: Where | None = None,
    ) -> Result:
        """
        Do *action*, with *files* as the folder that the server shows, and look at the outcome.

        Each call uses a file of its own there, so calls may overlap.
        """
        folder = new_folder(case)
        work = Work(action, target, folder / "near", f"far-{next(_numbers)}", folder)
        far = files / work.name
        _prepare(work, far)
        argv = ["env", f"HOME={folder}", "LC_ALL=C.UTF-8", *self.command(work)]
        stdin = None
        if work.stdin:
            stdin = folder / "stdin"
            stdin.write_text(work.stdin)
        program = Program(case, self.name, argv, where=where, stdin=stdin)
        program.start()
        try:
            if action == "abort" and not self.aborts_itself:
                why = await _break_off(program, work)
            else:
                status = await program.ended(_RUN_LIMIT_S)
                why = "" if self.silent or not status else f"status {status}"
        except AssertionError as error:
            why = str(error).splitlines()[0]
            if program.running:
                program.kill()
        finally:
            found = _look(work, far, program.log())
            far.unlink(missing_ok=True)
            work.near.unlink(missing_ok=True)
        why = ", ".join(filter(None, [why, found]))
        return Result(not why, f"{why}: {_first_words(program.log())}" if why else "")


def _prepare(work: Work, far: Path) -> None:
    """Put the files there that the action needs."""
    if work.action in ("download", "list", "resume"):
        far.write_bytes(CONTENT)
    elif work.action == "append":
        far.write_bytes(CONTINUED[:HALF])
    elif work.action == "abort":
        with far.open("wb") as file:
            file.truncate(ENDLESS)
    if far.exists():
        far.chmod(0o666)
    if work.action == "upload":
        work.near.write_bytes(CONTENT)
    elif work.action == "append":
        work.near.write_bytes(CONTENT[HALF:])
    elif work.action == "resume":
        work.near.write_bytes(CONTINUED[:HALF])


def _look(work: Work, far: Path, log: str) -> str:
    """Return what is wrong with the files, or with a listing, after the action; or nothing."""
    if work.action in ("upload", "append"):
        return _compare("there", far, CONTENT if work.action == "upload" else CONTINUED)
    if work.action in ("download", "resume"):
        return _compare("here", work.near, CONTENT if work.action == "download" else CONTINUED)
    if work.action == "list":
        listing = work.near.read_text(errors="replace") if work.near.exists() else log
        return "" if work.name in listing else "not listed"
    size = work.near.stat().st_size if work.near.exists() else 0
    return "" if 0 < size < ENDLESS else f"{size} bytes came"


def _compare(place: str, file: Path, wanted: bytes) -> str:
    data = file.read_bytes() if file.exists() else b""
    if data == wanted:
        return ""
    what = "cut short" if wanted.startswith(data) else "a wrong file"
    return f"{what} {place}, {len(data)} of {len(wanted)} bytes"


async def _break_off(program: Program, work: Work) -> str:
    """Interrupt a download under way, as Ctrl-C does; return what was wrong."""

    def under_way() -> bool:
        started = work.near.exists() and work.near.stat().st_size > _ABORT_AFTER
        return started or not program.running

    await eventually(under_way, "the download began", _RUN_LIMIT_S)
    if not program.running:
        return "ended before it was broken off"
    program.kill(signal.SIGINT)
    try:
        await program.ended(_RUN_LIMIT_S)
    except AssertionError:
        return "Ctrl-C did not end it"
    return ""


def _first_words(log: str) -> str:
    """Return the line of a client's log that tells most."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    telling = [line for line in lines if re.search(r"\b[45]\d\d\b|rror|ailed|fatal|denied", line)]
    return (telling or lines or [""])[-1][:_QUIET]
