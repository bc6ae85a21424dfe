"""
The FTP clients that partners use, each with its own words for what a test wants done.

curl, lftp, wget and rclone have TLS, by three libraries; ncftp and tnftp have none. Python's ftplib
is run by a program of ours. What a program is not able to do stands in its class.
"""

from __future__ import annotations

import shlex
import sys
from typing import Final

from relaygate.test.ftpclient import ABORT_RATE, CONTENT, HALF, Action, Client, Mode, Work
from relaygate.test.ftpservers import FOLDER, Security
from relaygate.test.netns import require_program


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
            "abort": ["--limit-rate", str(ABORT_RATE), "--output", str(work.near)],
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
            settings["net:limit-rate"] = str(ABORT_RATE)
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
        argv += [f"--limit-rate={ABORT_RATE}"] if work.action == "abort" else []
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
            lines.append(f"rate get {ABORT_RATE}")
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
            argv += ["--bwlimit", f"{ABORT_RATE}B"]
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
