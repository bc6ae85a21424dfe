r"""
A client made of Python's ``ftplib``, in all modes and with TLS session reuse.

::

    python -m relaygate.test.ftplib_client HOST PORT USER PASSWORD MODE SECURITY CA VERSION \
        ACTION NEAR FAR

CA and VERSION are "-" where there is no TLS, and VERSION is "-" where any will do. NEAR is a file
here, FAR its name there. The status is 0 if all went well; otherwise the reason is on standard
error. *abort* breaks off a download by ``ABOR`` and goes on to use the session.
"""

from __future__ import annotations

import ftplib
import os
import socket
import ssl
import sys
from pathlib import Path
from typing import Any, Final

TIMEOUT_S: Final = 20.0
_VERSIONS: Final = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class _Modes(ftplib.FTP):
    """Any of the four ways to a data connection, over IPv4 as well."""

    mode = "PASV"

    def makepasv(self) -> tuple[str, int]:
        if self.mode == "EPSV":
            assert self.sock is not None
            answer = self.sendcmd("EPSV")
            return ftplib.parse229(answer, self.sock.getpeername())  # noqa: S321 (FTP is meant)
        return super().makepasv()

    def sendport(self, host: str, port: int) -> str:
        if self.mode == "EPRT":
            return self.voidcmd(f"EPRT |1|{host}|{port}|")
        return super().sendport(host, port)


class _Plain(_Modes):
    pass


class _Explicit(ftplib.FTP_TLS, _Modes):
    """Offers the session of the control connection on every data connection, as servers want it."""

    def ntransfercmd(self, cmd: str, rest: Any = None) -> tuple[socket.socket, int | None]:
        conn, size = _Modes.ntransfercmd(self, cmd, rest)
        if self._prot_p:  # type: ignore[attr-defined]
            assert isinstance(self.sock, ssl.SSLSocket)
            conn = self.context.wrap_socket(
                conn, server_hostname=self.host, session=self.sock.session
            )
        return conn, size


class _Implicit(_Explicit):
    """Begins with TLS."""

    def connect(self, *args: Any, **kwargs: Any) -> str:
        # The greeting is read inside, so the socket has to be wrapped before.
        self.host, self.port = args[0], args[1]
        plain = socket.create_connection((self.host, self.port), TIMEOUT_S)
        self.timeout = TIMEOUT_S
        self.af = plain.family
        self.sock = self.context.wrap_socket(plain, server_hostname=self.host)
        self.file = self.sock.makefile("r", encoding=self.encoding)
        self.welcome = self.getresp()
        return self.welcome


def _connected(
    host: str, port: int, user: str, password: str, mode: str, security: str, ca: str, version: str
) -> ftplib.FTP:
    client: ftplib.FTP
    if security == "plain":
        client = _Plain(timeout=TIMEOUT_S)
    else:
        context = ssl.create_default_context(cafile=ca)
        if version in _VERSIONS:
            context.minimum_version = context.maximum_version = _VERSIONS[version]
        kind = _Implicit if security == "implicit" else _Explicit
        client = kind(context=context, timeout=TIMEOUT_S)
    assert isinstance(client, _Modes)
    client.mode = mode
    client.set_pasv(mode in ("PASV", "EPSV"))
    client.connect(host, port)
    if isinstance(client, ftplib.FTP_TLS):
        client.login(user, password, secure=security == "explicit")
        client.prot_p()
    else:
        client.login(user, password)
    return client


def _abort(client: ftplib.FTP, near: Path, far: str) -> None:
    """Break off a download, then see that the session knows what it is about."""
    client.voidcmd("TYPE I")
    data = client.transfercmd(f"RETR {far}")
    with near.open("wb") as file:
        file.write(data.recv(1 << 16))
    assert client.sock is not None
    # Urgent data have no place in TLS. Closing helps a server that is held up by data under way.
    client.sock.sendall(b"ABOR\r\n")
    data.close()
    # Some servers answer ABOR once and some twice; what is certain is the answer to a NOOP.
    client.sock.sendall(b"NOOP\r\n")
    answers = [client.getmultiline()]
    while not answers[-1].startswith("200"):
        answers.append(client.getmultiline())
    if len(answers) < 2:
        raise EOFError(f"no answer to ABOR, only {answers[0]}")
    client.retrlines("LIST", lambda line: None)


def perform(client: ftplib.FTP, action: str, near: Path, far: str) -> None:
    """Do one thing in a session; raises what ``ftplib`` and the files raise."""
    if action == "list":
        lines: list[str] = []
        client.retrlines(f"LIST {far.rpartition('/')[0]}", lines.append)
        near.write_text("\n".join(lines))
    elif action in ("upload", "append"):
        with near.open("rb") as file:
            client.storbinary(f"{'STOR' if action == 'upload' else 'APPE'} {far}", file)
    elif action == "abort":
        _abort(client, near, far)
    else:
        start = near.stat().st_size if action == "resume" else 0
        with near.open("ab") as file:
            client.retrbinary(f"RETR {far}", file.write, rest=start or None)


def main(host: str, port: str, *rest: str) -> int:
    """Run one action and return the status."""
    *login, action, near, far = rest
    try:
        client = _connected(host, int(port), *login)
        perform(client, action, Path(near), far)
        client.quit()
    except (OSError, EOFError, ftplib.Error) as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(main(*sys.argv[1:]))
