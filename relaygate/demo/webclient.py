"""HTTP and HTTPS by Python's own client, which knows nothing of Twisted."""

from __future__ import annotations

import http.client
import shutil
import socket
import ssl
from contextlib import closing
from pathlib import Path
from typing import Final

from twisted.internet.threads import deferToThread

from relaygate.demo.gateway import HOST
from relaygate.demo.keys import WEB_NAME
from relaygate.demo.processes import DemoError

_BLOCK: Final = 64 * 1024
# Seconds without a byte.
_IDLE_LIMIT_S: Final = 15.0


class Web:
    """
    Moves files by HTTP to and from *port*; with *ca* by HTTPS, which is *passed* on or not.

    Where it is passed on, the certificate must be that of the server inside: what is verified at
    this end was made at the other, and the gateway between them can have opened nothing.
    """

    client = "Python http.client"

    def __init__(self, port: int, ca: Path | None = None, *, passed: bool = False) -> None:
        self.protocol = "HTTPS passed on" if passed else "HTTPS" if ca else "HTTP"
        self.service = "web-tls" if passed else "web-opened" if ca else "web"
        self._port = port
        self._ca = ca

    async def put(self, source: Path, name: str) -> None:
        """Upload *source* as *name*."""
        await deferToThread(self._put, source, name)

    async def get(self, name: str, target: Path) -> None:
        """Download *name* as *target*."""
        await deferToThread(self._get, name, target)

    def _put(self, source: Path, name: str) -> None:
        headers = {"Content-Length": str(source.stat().st_size)}
        with closing(self._connect()) as connection, source.open("rb") as file:
            connection.request("PUT", f"/{name}", body=file, headers=headers)
            response = connection.getresponse()
            _expect(response, http.client.CREATED)
            response.read()
            _part(connection)

    def _get(self, name: str, target: Path) -> None:
        with closing(self._connect()) as connection, target.open("wb") as file:
            connection.request("GET", f"/{name}")
            response = connection.getresponse()
            _expect(response, http.client.OK)
            shutil.copyfileobj(response, file, _BLOCK)
            _part(connection)

    def _connect(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection(WEB_NAME, blocksize=_BLOCK)
        plain = socket.create_connection((HOST, self._port), _IDLE_LIMIT_S)
        if self._ca is None:
            connection.sock = plain
            return connection
        context = ssl.create_default_context(cafile=str(self._ca))
        try:
            connection.sock = context.wrap_socket(plain, server_hostname=WEB_NAME)
        except OSError:
            plain.close()
            raise
        return connection


def _part(connection: http.client.HTTPConnection) -> None:
    """Say goodbye as TLS wants it said: a mere close would reset what the server says last."""
    if isinstance(connection.sock, ssl.SSLSocket):
        connection.sock.unwrap()


def _expect(response: http.client.HTTPResponse, status: int) -> None:
    if response.status != status:
        raise DemoError(f"the server answered {response.status} {response.reason}")
