"""FTP and FTPS by Python's own client, which knows nothing of Twisted."""

from __future__ import annotations

import ftplib
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from twisted.internet.threads import deferToThread

from relaygate.demo.gateway import HOST
from relaygate.demo.keys import FTP_NAME, SERVERS_CA, USER, read_password

_BLOCK: Final = 64 * 1024
# Seconds without a byte.
_IDLE_LIMIT_S: Final = 15.0


class PlainFTP:
    """
    Moves files by FTP in clear to and from *port*, with what is in *folder*.

    In passive mode, as most clients do: the address for the data connection is the gateway's word.
    """

    protocol = "FTP"
    client = "Python ftplib"
    service = "ftp"

    def __init__(self, folder: Path, port: int) -> None:
        self._folder = folder
        self._port = port

    async def put(self, source: Path, name: str) -> None:
        """Upload *source* as *name*."""
        await deferToThread(self._put, source, name)

    async def get(self, name: str, target: Path) -> None:
        """Download *name* as *target*."""
        await deferToThread(self._get, name, target)

    def _put(self, source: Path, name: str) -> None:
        with self._session() as ftp, source.open("rb") as file:
            ftp.storbinary(f"STOR {name}", file, _BLOCK)

    def _get(self, name: str, target: Path) -> None:
        with self._session() as ftp, target.open("wb") as file:
            ftp.retrbinary(f"RETR {name}", file.write, _BLOCK)

    @contextmanager
    def _session(self) -> Iterator[ftplib.FTP]:
        # Leaving it, the library says QUIT and closes.
        with self._connected() as ftp:
            ftp.login(USER, read_password(self._folder))
            if isinstance(ftp, ftplib.FTP_TLS):
                ftp.prot_p()
            yield ftp

    def _connected(self) -> ftplib.FTP:
        ftp = ftplib.FTP(timeout=_IDLE_LIMIT_S)
        ftp.connect(HOST, self._port)
        return ftp

    def _context(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self._folder / SERVERS_CA))


class ExplicitFTPS(PlainFTP):
    """The same, with TLS for commands and files from AUTH TLS on, which is said before the user."""

    protocol = "FTPS explicit"

    def _connected(self) -> ftplib.FTP:
        ftp = ftplib.FTP_TLS(context=self._context(), timeout=_IDLE_LIMIT_S)
        ftp.connect(HOST, self._port)
        # From now on: the name that certificates have to carry, on both kinds of connections.
        ftp.host = FTP_NAME
        return ftp


class ImplicitFTPS(PlainFTP):
    """The same, with TLS from the first byte on."""

    protocol = "FTPS implicit"
    service = "ftps"

    def _connected(self) -> ftplib.FTP:
        # The library has no word for this: it is given a connection on which TLS runs already.
        context = self._context()
        ftp = ftplib.FTP_TLS(context=context, timeout=_IDLE_LIMIT_S)
        plain = socket.create_connection((HOST, self._port), _IDLE_LIMIT_S)
        try:
            ftp.sock = context.wrap_socket(plain, server_hostname=FTP_NAME)
        except OSError:
            plain.close()
            raise
        ftp.host, ftp.af = FTP_NAME, plain.family
        ftp.file = ftp.sock.makefile("r", encoding=ftp.encoding)
        ftp.welcome = ftp.getresp()
        return ftp
