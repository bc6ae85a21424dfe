"""
Real FTP clients behind one small interface: what each can do, and one action at a time.

A client's :meth:`~Client.perform` prepares the files of both ends, runs the program, and looks at
the files again. It says how that went and never raises because a transfer failed: whether a
combination works at all is for a run without the gateway to tell.
"""

from __future__ import annotations

import itertools
import random
import re
import shlex
import signal
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Literal

from twisted.trial.unittest import TestCase

from relaygate.test.ftpservers import FOLDER, PASSWORD, Security, Version
from relaygate.test.netns import require_program
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

# What an abort breaks off: nothing but zeroes, and no blocks on the server's disk. The client's may
# be set aside at once, in full.
ENDLESS: Final = 1 << 30
_ABORT_AFTER: Final = 1 << 16
_ABORT_RATE: Final = 20_000_000

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
    One action on the file *name* in the servers' folder, with *near* as the file at the client's
    end. *home* is an empty folder for the client itself.
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
        far.write_bytes(CONTENT[:HALF])
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
        work.near.write_bytes(CONTENT[:HALF])


def _look(work: Work, far: Path, log: str) -> str:
    """Return what is wrong with the files, or with a listing, after the action; or nothing."""
    if work.action in ("upload", "append"):
        return _compare("there", far)
    if work.action in ("download", "resume"):
        return _compare("here", work.near)
    if work.action == "list":
        listing = work.near.read_text(errors="replace") if work.near.exists() else log
        return "" if work.name in listing else "not listed"
    size = work.near.stat().st_size if work.near.exists() else 0
    return "" if 0 < size < ENDLESS else f"{size} bytes came"


def _compare(place: str, file: Path) -> str:
    data = file.read_bytes() if file.exists() else b""
    if data == CONTENT:
        return ""
    same = "a wrong file" if not CONTENT.startswith(data) else "cut short"
    return f"{same} {place}, {len(data)} of {SIZE} bytes"


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


class Curl(Client):
    """curl, with OpenSSL. Version 7.88 does not get along with active mode under TLS."""

    name = "curl"

    @classmethod
    def can(cls, mode: Mode, security: Security, action: Action) -> bool:
        return security == "plain" or mode in ("PASV", "EPSV")

    def command(self, work: Work) -> list[str]:
        target = work.target
        scheme = "ftps" if target.security == "implicit" else "ftp"
        argv = [require_program("curl"), "--disable", "--silent", "--show-error"]
        argv += ["--connect-timeout", "10", "--user", f"{target.user}:{target.password}"]
        argv += {
            "PASV": ["--disable-epsv"],
            "EPSV": [],
            "PORT": ["--ftp-port", "-", "--disable-eprt"],
            "EPRT": ["--ftp-port", "-"],
        }[target.mode]
        if target.security != "plain":
            argv += ["--ssl-reqd", "--cacert", str(target.ca)]
        if target.version:
            argv += [f"--tlsv{target.version}", "--tls-max", target.version]
        argv += {
            "upload": ["--upload-file", str(work.near)],
            "append": ["--append", "--upload-file", str(work.near)],
            "resume": ["--continue-at", "-", "--output", str(work.near)],
            "abort": ["--limit-rate", str(_ABORT_RATE), "--output", str(work.near)],
        }.get(work.action, ["--output", str(work.near)])
        path = f"{FOLDER}/" if work.action == "list" else work.far
        return [*argv, f"{scheme}://{target.host}:{target.port}/{path}"]


class FTPLib(Client):
    """Python's ftplib, with the session of the control connection on data connections."""

    name = "ftplib"
    aborts_itself = True

    def command(self, work: Work) -> list[str]:
        target = work.target
        argv = [sys.executable, "-m", "relaygate.test.ftplib_client", target.host]
        argv += [str(target.port), target.user, target.password, target.mode, target.security]
        argv += [str(target.ca or "-"), target.version or "-"]
        return [*argv, work.action, str(work.near), work.far]


class LFTP(Client):
    """lftp, with GnuTLS. It has EPRT only for IPv6, and no append of its own but continuing."""

    name = "lftp"
    modes = frozenset({"PASV", "EPSV", "PORT"})

    def command(self, work: Work) -> list[str]:
        target = work.target
        scheme = "ftps" if target.security == "implicit" else "ftp"
        settings = {
            "net:max-retries": "1",
            "net:timeout": "10",
            "net:reconnect-interval-base": "1",
            "cmd:fail-exit": "yes",
            "cmd:interactive": "no",
            "xfer:clobber": "yes",
            "ftp:passive-mode": "no" if target.mode == "PORT" else "yes",
            "ftp:prefer-epsv": "yes" if target.mode == "EPSV" else "no",
            "ftp:ssl-force": "no" if target.security == "plain" else "yes",
            "ftp:ssl-protect-data": "yes",
            "ftp:ssl-protect-list": "yes",
        }
        if target.security == "plain":
            settings["ftp:ssl-allow"] = "no"
        else:
            settings["ssl:ca-file"] = str(target.ca)
        if target.version:
            settings["ssl:priority"] = f"NORMAL:-VERS-ALL:+VERS-TLS{target.version}"
        if work.action == "abort":
            settings["net:limit-rate"] = str(_ABORT_RATE)
        near, far = shlex.quote(str(work.near)), work.far
        if work.action == "append":
            # The same file there afterwards: it continues where the far one ends.
            work.near.write_bytes(CONTENT)
        script = {
            "upload": f"put {near} -o {far}",
            "append": f"put -c {near} -o {far}",
            "list": f"ls {FOLDER} > {near}",
            "resume": f"get -c {far} -o {near}",
        }.get(work.action, f"get {far} -o {near}")
        lines = [f"set {key} {shlex.quote(value)}" for key, value in settings.items()]
        lines.append(
            f"open -u {target.user},{target.password} {scheme}://{target.host}:{target.port}"
        )
        lines += [script, "bye"]
        return [require_program("lftp"), "--norc", "-c", "; ".join(lines)]


class NcFTP(Client):
    """The batch programs of ncftp. There is no TLS in them."""

    name = "ncftp"
    modes = frozenset({"PASV", "PORT"})
    securities = frozenset({"plain"})

    def command(self, work: Work) -> list[str]:
        target = work.target
        login = [
            "-u",
            target.user,
            "-p",
            target.password,
            "-P",
            str(target.port),
            "-t",
            "10",
            "-r",
            "1",
        ]
        login.append("-F" if target.mode == "PASV" else "-E")
        if work.action == "list":
            return [require_program("ncftpls"), *login, "-l", f"ftp://{target.host}/{FOLDER}/"]
        # What is called "near" here has the far name in the folder that the program uses.
        folder = work.home / "files"
        folder.mkdir()
        if work.near.exists():
            work.near = work.near.rename(folder / work.name)
        else:
            work.near = folder / work.name
        if work.action in ("upload", "append"):
            way = ["-A"] if work.action == "append" else []
            argv = [require_program("ncftpput"), *login, "-V", *way, target.host, FOLDER]
            return [*argv, str(work.near)]
        way = ["-z"] if work.action == "resume" else ["-Z"]
        return [require_program("ncftpget"), *login, "-V", *way, target.host, str(folder), work.far]


class Wget(Client):
    """GNU wget, with GnuTLS. It does not upload."""

    name = "wget"
    modes = frozenset({"PASV", "PORT"})
    actions = frozenset({"download", "list", "resume", "abort"})

    def command(self, work: Work) -> list[str]:
        target = work.target
        scheme = "ftp" if target.security == "plain" else "ftps"
        argv = [require_program("wget"), "--no-config", "--no-verbose", "--tries=1"]
        argv += ["--timeout=10", f"--user={target.user}", f"--password={target.password}"]
        argv += ["--no-passive-ftp"] if target.mode == "PORT" else []
        argv += ["--ftps-implicit"] if target.security == "implicit" else []
        argv += [f"--ca-certificate={target.ca}"] if target.ca else []
        if target.version:
            argv.append(f"--secure-protocol=TLSv{target.version.replace('.', '_')}")
        argv += ["--continue"] if work.action == "resume" else []
        argv += [f"--limit-rate={_ABORT_RATE}"] if work.action == "abort" else []
        path = f"{FOLDER}/" if work.action == "list" else work.far
        url = f"{scheme}://{target.host}:{target.port}/{path}"
        return [*argv, f"--output-document={work.near}", url]


class TNFTP(Client):
    """tnftp, the classic interactive client. There is no TLS in it for FTP."""

    name = "tnftp"
    securities = frozenset({"plain"})
    silent = True

    def command(self, work: Work) -> list[str]:
        target = work.target
        lines = [
            f"open {target.host} {target.port}",
            f"user {target.user} {target.password}",
            "binary",
        ]
        if target.mode in ("PASV", "PORT"):
            lines.append("epsv4 off")
        near, far = work.near, work.far
        if work.action == "abort":
            lines.append(f"rate get {_ABORT_RATE}")
        lines += {
            "upload": [f"put {near} {far}"],
            "append": [f"append {near} {far}"],
            "list": [f"dir {FOLDER} {near}"],
            "resume": [f"restart {HALF}", f"get {far} {near}"],
        }.get(work.action, [f"get {far} {near}"])
        work.stdin = "\n".join([*lines, "quit", ""])
        way = "-p" if target.mode in ("PASV", "EPSV") else "-A"
        return [require_program("tnftp"), "-n", "-i", "-v", way]


class Rclone(Client):
    """rclone, with Go's TLS. It is always passive."""

    name = "rclone"
    modes = frozenset({"PASV", "EPSV"})
    actions = frozenset({"upload", "download", "list", "abort"})

    def command(self, work: Work) -> list[str]:
        target = work.target
        options = {
            "host": target.host,
            "port": str(target.port),
            "user": target.user,
            "tls": str(target.security == "implicit").lower(),
            "explicit_tls": str(target.security == "explicit").lower(),
            "disable_epsv": str(target.mode == "PASV").lower(),
        }
        remote = ":ftp," + ",".join(f"{key}={value}" for key, value in options.items()) + ":"
        rclone = require_program("rclone")
        # It takes no password in clear. Its words for the certificate to trust are Go's.
        argv = ["sh", "-c", 'pass=$1; shift; RCLONE_FTP_PASS=$("$1" obscure "$pass") exec "$@"']
        argv += ["rclone", target.password, rclone, "--config", "/dev/null", "--retries", "1"]
        argv += ["--low-level-retries", "1", "--contimeout", "10s", "--timeout", "10s"]
        if target.ca:
            argv = ["env", f"SSL_CERT_FILE={target.ca}", *argv]
        if work.action == "abort":
            argv += ["--bwlimit", f"{_ABORT_RATE}B"]
        if work.action == "list":
            return [*argv, "lsf", remote + FOLDER]
        if work.action == "upload":
            return [*argv, "copyto", str(work.near), remote + work.far]
        return [*argv, "copyto", remote + work.far, str(work.near)]


CLIENTS: Final[tuple[Client, ...]] = (
    Curl(),
    FTPLib(),
    LFTP(),
    NcFTP(),
    Wget(),
    TNFTP(),
    Rclone(),
)


def able(names: Sequence[str] = ()) -> tuple[Client, ...]:
    """Return the clients of these *names*, or all."""
    return tuple(client for client in CLIENTS if not names or client.name in names)
