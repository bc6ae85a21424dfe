"""
Real FTP servers as backends: vsftpd, ProFTPD, pure-ftpd and pyftpdlib.

None is installed: ``ftp_servers.sh`` unpacks Debian's packages into a cache. None lets in an
account of the machine's: each knows one user and his password from a file of its own (vsftpd has no
such file without PAM: it serves its anonymous user, and has a file with the one password that it
takes). The user sees as ``/`` a folder that is made for the test, and may write in one below it,
:data:`FOLDER`: vsftpd serves nobody who could change his ``/``. The three from Debian go there as
*daemon*, who has a home everywhere, as vsftpd also wants it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Literal

from twisted.trial.unittest import TestCase

from relaygate.test.certificates import Certified
from relaygate.test.netns import missing
from relaygate.test.peers import eventually, listening
from relaygate.test.programs import Program, Where, new_folder

Security = Literal["plain", "explicit", "implicit"]
Version = Literal["1.2", "1.3"]

FOLDER: Final = "incoming"
PASSWORD: Final = "open.sesame"
_PASSWORD_HASH: Final = (
    "$6$relaygate$"
    "sLTaJOh2BAil4yIZQOpe9BcBaYz/r/UIj8h/XZOkUkFQ0gCTLx1idkSUsZERs6CEAaorTSyxPNus30HsFcuxW1"
)
_ACCOUNT: Final = "daemon"
_ACCOUNT_ID: Final = 1
_START_LIMIT_S: Final = 15.0
_OPENSSL_CONF: Final = """
openssl_conf = all
[all]
ssl_conf = ssl
[ssl]
system_default = default
[default]
MinProtocol = TLSv{version}
MaxProtocol = TLSv{version}
"""


def prefix() -> Path:
    """Return the folder that ``ftp_servers.sh`` fills."""
    if folder := os.environ.get("RELAYGATE_FTP_SERVERS"):
        return Path(folder)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "relaygate" / "ftp"


def program(name: str) -> Path:
    """Return the path of *name*, such as ``sbin/vsftpd``; raises as ``netns.missing`` does."""
    path = prefix() / "usr" / name
    if not path.exists():
        missing(f"there is no {path}: run relaygate/test/ftp_servers.sh")
    return path


@dataclass(frozen=True)
class Offer:
    """
    How a server is reached.

    With TLS, *certified* is its certificate; control and data both have to be protected, by the one
    *version* if there is one, and with *reuse* each data connection has to resume the session of
    its control connection. *passive* are the first and last port of its own data connections, and
    *public* is the address that it names for them, where that is not its own.
    """

    security: Security = "plain"
    certified: Certified | None = None
    version: Version | None = None
    reuse: bool = False
    passive: tuple[int, int] = (30000, 30999)
    public: str = ""

    def openssl_conf(self, case: TestCase) -> list[str]:
        """Return what stands before a command whose program has no setting for the version."""
        if self.version is None:
            return []
        file = new_folder(case) / "openssl.cnf"
        file.write_text(_OPENSSL_CONF.format(version=self.version))
        return ["env", f"OPENSSL_CONF={file}"]


class FTPServer(Program):
    """
    A server on *address* (IPv4) and *port*, for :attr:`user` with :data:`PASSWORD`.

    What the user sees as ``/`` is :attr:`root`; the folder in it where he may write is
    :attr:`files`. A server that cannot do what *offer* says raises ``ValueError``; see :meth:`can`.
    """

    kind: ClassVar[str]
    user: ClassVar[str] = "partner"
    securities: ClassVar[frozenset[Security]] = frozenset({"plain", "explicit", "implicit"})
    requires_reuse: ClassVar[bool] = False

    def __init__(
        self, case: TestCase, address: str, port: int, offer: Offer, *, where: Where | None = None
    ) -> None:
        if not self.can(offer):
            raise ValueError(f"{self.kind} cannot serve like {offer}")
        self.address = address
        self.port = port
        self.offer = offer
        # Everybody must be able to go there, which a folder of trial's own does not promise.
        self.root = Path(tempfile.mkdtemp(prefix="relaygate-ftp-"))
        case.addCleanup(shutil.rmtree, self.root)
        self.root.chmod(0o755)
        self.files = self.root / FOLDER
        self.files.mkdir(0o755)
        if os.geteuid() == 0:
            os.chown(self.files, _ACCOUNT_ID, _ACCOUNT_ID)
        self.own = new_folder(case)
        argv = [*offer.openssl_conf(case), *self._command()]
        super().__init__(case, self.kind, argv, where=where)
        self._configure()

    @classmethod
    def can(cls, offer: Offer) -> bool:
        """Tell whether this server is able to do what *offer* says."""
        return offer.security in cls.securities and (cls.requires_reuse or not offer.reuse)

    async def ready(self) -> None:
        """Start, and wait until connections are taken."""
        self.start()
        await eventually(
            lambda: not self.running or (self.address, self.port) in listening(self.pid),
            f"{self.kind} listens",
            _START_LIMIT_S,
        )
        if not self.running:
            raise AssertionError(f"{self.kind} has ended: {self.log()}")

    @property
    def _certified(self) -> Certified:
        assert self.offer.certified is not None, "TLS needs a certificate"
        return self.offer.certified

    def _command(self) -> Sequence[str]:
        """Return the command, before the files that it names are there."""
        raise NotImplementedError

    def _configure(self) -> None:
        """Write the files that the command names; the log file exists by now."""


class VSFTPD(FTPServer):
    """vsftpd. Its user is *anonymous*, and the only e-mail address that it takes the password."""

    kind = "vsftpd"
    user = "anonymous"
    requires_reuse = True

    def _command(self) -> Sequence[str]:
        return [str(program("sbin/vsftpd")), str(self.own / "vsftpd.conf")]

    def _configure(self) -> None:
        empty = self.own / "empty"
        empty.mkdir(0o755)
        passwords = self.own / "passwords"
        passwords.write_text(f"{PASSWORD}\n")
        low, high = self.offer.passive
        settings = {
            "listen": "YES",
            "background": "NO",
            "listen_address": self.address,
            "listen_port": str(self.port),
            "pasv_min_port": str(low),
            "pasv_max_port": str(high),
            "anonymous_enable": "YES",
            "ftp_username": _ACCOUNT,
            "anon_root": str(self.root),
            "secure_email_list_enable": "YES",
            "email_password_file": str(passwords),
            "write_enable": "YES",
            "anon_upload_enable": "YES",
            "anon_mkdir_write_enable": "YES",
            "anon_other_write_enable": "YES",
            "anon_world_readable_only": "NO",
            "anon_umask": "022",
            "async_abor_enable": "YES",
            "secure_chroot_dir": str(empty),
            "vsftpd_log_file": str(self.log_file),
            "xferlog_enable": "YES",
            "log_ftp_protocol": "YES",
            "delay_failed_login": "0",
            # These want more of the kernel than every container grants.
            "isolate": "NO",
            "isolate_network": "NO",
            "seccomp_sandbox": "NO",
        }
        if self.offer.public:
            settings["pasv_address"] = self.offer.public
        if self.offer.security != "plain":
            settings |= {
                "ssl_enable": "YES",
                "allow_anon_ssl": "YES",
                "force_anon_logins_ssl": "YES",
                "force_anon_data_ssl": "YES",
                "implicit_ssl": "YES" if self.offer.security == "implicit" else "NO",
                "require_ssl_reuse": "YES" if self.offer.reuse else "NO",
                "rsa_cert_file": str(self._certified.certificate),
                "rsa_private_key_file": str(self._certified.key),
                "ssl_ciphers": "HIGH",
            }
        text = "".join(f"{key}={value}\n" for key, value in settings.items())
        (self.own / "vsftpd.conf").write_text(text)


_PROFTPD_CONFIG: Final = """
ServerName "ProFTPD"
ServerType standalone
DefaultServer on
DefaultAddress {address}
SocketBindTight on
Port {port}
PassivePorts {low} {high}
User {account}
Group {account}
AuthOrder mod_auth_file.c
AuthUserFile {own}/passwd
AuthPAM off
RequireValidShell off
DefaultRoot ~
AllowOverwrite on
AllowStoreRestart on
AllowRetrieveRestart on
Umask 022
MaxInstances 500
UseReverseDNS off
UseIPv6 off
WtmpLog off
TransferLog none
PidFile {own}/pid
ScoreboardFile {own}/scoreboard
SystemLog {log}
DelayEngine off
ControlsEngine off
ModulePath {modules}
"""

_PROFTPD_TLS: Final = """
LoadModule mod_tls.c
TLSEngine on
TLSRequired on
TLSProtocol {protocols}
TLSOptions {options}
TLSRSACertificateFile {certificate}
TLSRSACertificateKeyFile {key}
TLSLog {log}
"""


class ProFTPD(FTPServer):
    """ProFTPD, with a password file of its own."""

    kind = "proftpd"
    requires_reuse = True

    def _command(self) -> Sequence[str]:
        return [str(program("sbin/proftpd")), "--nodaemon", "-c", str(self.own / "proftpd.conf")]

    def _configure(self) -> None:
        passwd = self.own / "passwd"
        passwd.touch(0o600)
        passwd.write_text(
            f"{self.user}:{_PASSWORD_HASH}:{_ACCOUNT_ID}:{_ACCOUNT_ID}::{self.root}:/bin/false\n"
        )
        text = _PROFTPD_CONFIG.format(
            address=self.address,
            port=self.port,
            low=self.offer.passive[0],
            high=self.offer.passive[1],
            account=_ACCOUNT,
            own=self.own,
            log=self.log_file,
            modules=program("lib/proftpd"),
        )
        if self.offer.public:
            text += f"MasqueradeAddress {self.offer.public}\n"
        if self.offer.security != "plain":
            options = [] if self.offer.reuse else ["NoSessionReuseRequired"]
            if self.offer.security == "implicit":
                options.append("UseImplicitSSL")
            versions = [self.offer.version] if self.offer.version else ["1.2", "1.3"]
            text += _PROFTPD_TLS.format(
                protocols=" ".join(f"TLSv{version}" for version in versions),
                options=" ".join(options) or "EnableDiags",
                certificate=self._certified.certificate,
                key=self._certified.key,
                log=self.log_file,
            )
        (self.own / "proftpd.conf").write_text(text)


class PureFTPd(FTPServer):
    """pure-ftpd, with a PureDB of its own. It has neither implicit TLS nor a demand for reuse."""

    kind = "pure-ftpd"
    securities = frozenset({"plain", "explicit"})

    def _command(self) -> Sequence[str]:
        low, high = self.offer.passive
        argv = [str(program("sbin/pure-ftpd")), "--bind", f"{self.address},{self.port}"]
        argv += ["--login", f"puredb:{self.own}/users.pdb", "--passiveportrange", f"{low}:{high}"]
        argv += ["--ipv4only", "--chrooteveryone", "--noanonymous", "--dontresolve"]
        argv += ["--minuid", str(_ACCOUNT_ID)]
        argv += ["--maxclientsnumber", "500", "--syslogfacility", "none", "--umask", "133:022"]
        argv += ["--altlog", f"clf:{self.own}/transfers", "--pidfile", f"{self.own}/pid"]
        if self.offer.public:
            argv += ["--forcepassiveip", self.offer.public]
        if self.offer.security != "plain":
            argv += ["--tls", "3", "--certfile", str(self._certified.both)]
        return argv

    def _configure(self) -> None:
        passwd = self.own / "passwd"
        passwd.touch(0o600)
        passwd.write_text(
            f"{self.user}:{_PASSWORD_HASH}:{_ACCOUNT_ID}:{_ACCOUNT_ID}::{self.root}/./::::::::::::\n"
        )
        argv = [str(program("bin/pure-pw")), "mkdb", str(self.own / "users.pdb"), "-f", str(passwd)]
        subprocess.run(argv, check=True, capture_output=True, timeout=10)


class PyFTPd(FTPServer):
    """pyftpdlib. It cannot demand that a session be reused."""

    kind = "pyftpdlib"

    def _command(self) -> Sequence[str]:
        low, high = self.offer.passive
        argv = [sys.executable, "-m", "relaygate.test.pyftpdlib_server"]
        argv += [f"{self.address}:{self.port}", f"{low}-{high}", str(self.root)]
        argv += [self.user, PASSWORD, self.offer.public or "-"]
        if self.offer.security != "plain":
            argv += [self.offer.security, str(self._certified.both), self.offer.version or "any"]
        return argv


SERVERS: Final[tuple[type[FTPServer], ...]] = (VSFTPD, ProFTPD, PureFTPd, PyFTPd)
