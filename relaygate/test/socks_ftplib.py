r"""
The client made of Python's ``ftplib``, by way of a SOCKS 5 proxy, in passive and in active mode.

::

    python -m relaygate.test.socks_ftplib PROXY PORT HOST ... as for relaygate.test.ftplib_client

Active mode is that of RFC 1928: a port is opened by BIND, and what the proxy says is its address
is what the server is told.
"""

from __future__ import annotations

import ftplib
import ipaddress
import socket
import sys
from types import TracebackType
from typing import Any

import socks  # type: ignore[import-untyped]

from relaygate.test import ftplib_client
from relaygate.test.ftplib_client import TIMEOUT_S

# What a proxy is reached by, when the client's own calls go through it.
_direct = socket.create_connection


def _read(skt: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        piece = skt.recv(count - len(data))
        if not piece:
            raise OSError("the proxy has closed the connection")
        data += piece
    return data


class Bound:
    """A port that a proxy has opened for *server*; it is used as a listening socket is."""

    def __init__(self, proxy: tuple[str, int], server: str) -> None:
        self._socket = skt = _direct(proxy, TIMEOUT_S)
        skt.sendall(b"\5\1\0")
        _read(skt, 2)
        skt.sendall(b"\5\2\0\1" + ipaddress.IPv4Address(server).packed + b"\0\0")
        self.address = self._reply()

    def _reply(self) -> tuple[str, int]:
        head = _read(self._socket, 10)
        if head[1]:
            raise OSError(f"the proxy answers {head[1]}")
        return str(ipaddress.IPv4Address(head[4:8])), int.from_bytes(head[8:10])

    def accept(self) -> tuple[socket.socket, tuple[str, int]]:
        """Wait for who connects."""
        peer = self._reply()
        return self._socket, peer

    def __enter__(self) -> Bound:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._socket.close()


def main(proxy: str, port: str, *rest: str) -> int:
    """Run the client and return its status."""
    at = (proxy, int(port))

    def create_connection(address: Any, *_args: Any, **_more: Any) -> socket.socket:
        made: socket.socket = socks.create_connection(
            address, TIMEOUT_S, None, socks.SOCKS5, *at, proxy_rdns=True
        )
        return made

    def makeport(self: Any) -> Bound:
        # The control connection's peer is the proxy: the server is who was asked for.
        bound = Bound(at, self.host)
        self.sendport(*bound.address)
        return bound

    def makepasv(self: Any) -> tuple[str, int]:
        if self.mode == "EPSV":
            # FTP is meant.
            return ftplib.parse229(self.sendcmd("EPSV"), (self.host, 0))  # noqa: S321
        return ftplib.FTP.makepasv(self)  # noqa: S321

    patched: Any = ftplib_client._Modes
    patched.makeport, patched.makepasv = makeport, makepasv
    patched.trust_server_pasv_ipv4_address = True
    socket.create_connection = create_connection
    return ftplib_client.main(*rest)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
