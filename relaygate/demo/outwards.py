"""What goes out through the DMZ: HTTP by SOCKS 5, and FTP by a fixed forward."""

from __future__ import annotations

import http.client
import socket
from typing import Final

from relaygate.demo.ftpclient import PlainFTP
from relaygate.demo.gateway import HOST, OUT_FTP, OUT_WEB
from relaygate.demo.keys import WEB_NAME
from relaygate.demo.processes import DemoError
from relaygate.demo.webclient import Web

# Seconds without a byte.
_IDLE_LIMIT_S: Final = 15.0


class SocksWeb(Web):
    """Moves files by HTTP to and from the partner's server at *target*, by the entry at *port*."""

    def __init__(self, port: int, target: int) -> None:
        super().__init__(port)
        self.protocol = "SOCKS 5 (HTTP)"
        self.service = OUT_WEB
        self._target = target

    def _connect(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection(WEB_NAME)
        made = socket.create_connection((HOST, self._port), _IDLE_LIMIT_S)
        try:
            # RFC 1928: no authentication, then CONNECT to an IPv4 address.
            address = socket.inet_aton(HOST) + self._target.to_bytes(2)
            made.sendall(b"\5\1\0" + b"\5\1\0\1" + address)
            answer = b""
            while len(answer) < 12 and (piece := made.recv(12 - len(answer))):
                answer += piece
            if answer[:4] != b"\5\0\5\0":
                raise DemoError(f"the entry answered {answer!r}")
        except OSError:
            made.close()
            raise
        connection.sock = made
        return connection


class ForwardedFTP(PlainFTP):
    """The partner's FTP server, as the program sees it: an address of the internal node."""

    protocol = "FTP outwards"
    service = OUT_FTP
