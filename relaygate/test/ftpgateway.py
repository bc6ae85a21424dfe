"""
FTP services of a whole gateway, in front of the servers of the matrix.

Each server has a service of its own that offers clients what the server offers: nothing, AUTH TLS,
or TLS from the first byte. The TLS of either side ends on the internal node, so a cell that works
has gone through two handshakes for each connection. Servers listen in ``private``, and clients
come from ``outside``, who cannot reach them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from twisted.trial.unittest import TestCase

from relaygate.test.certificates import ServerCA
from relaygate.test.ftpmatrix import Backend, Reach, Servers
from relaygate.test.gateway import Gateway, service
from relaygate.test.netns import Network
from relaygate.test.peers import eventually, listening

FIRST_PORT: Final = 2100
PASSIVE: Final = (50_000, 50_999)


def ftp_service(
    name: str,
    port: int,
    backend_port: int,
    *,
    protocol: str = "ftp",
    host: str = "0.0.0.0",
    backend: str = Network.private_address,
    tables: str = "",
    **keys: Any,
) -> str:
    """Return an FTP service; *tables* is more text of it, *keys* are more of ``service.ftp``."""
    values = {"passive_ports": f"{PASSIVE[0]}-{PASSIVE[1]}"} | keys
    ftp = ", ".join(f'{key} = "{value}"' for key, value in values.items())
    text = service(name, protocol, port, f"{backend}:{backend_port}", host=host)
    return f"{text}ftp = {{ {ftp} }}\n{tables}"


def service_for(backend: Backend, port: int, keys: str, ca: Path) -> str:
    """Return the service in front of *backend*; *keys* is the text of its ``tls``."""
    name = str(backend).replace(" ", "-").replace(".", "")
    if backend.security == "plain":
        return ftp_service(name, port, port)
    mode = "on" if backend.security == "implicit" else "explicit"
    tables = f'tls = {keys}\nbackend_tls = {{ mode = "{mode}", ca = "{ca}" }}\n'
    protocol = "ftps" if backend.security == "implicit" else "ftp"
    return ftp_service(name, port, port, protocol=protocol, tables=tables, tls="require")


class FTPGateway(Gateway):
    """A gateway with a service for each of *wanted*, and the servers behind it."""

    def __init__(self, case: TestCase, wanted: Iterable[Backend], **more: Any) -> None:
        self._ca = ServerCA(case)
        own = self._ca.issue(self.host)
        keys = f'{{ certificate = "{own.certificate}", key = "{own.key}" }}'
        every = sorted(set(wanted))
        self.ports = {backend: FIRST_PORT + number for number, backend in enumerate(every)}
        services = [
            service_for(backend, port, keys, self._ca.file) for backend, port in self.ports.items()
        ]
        super().__init__(case, services, **more)
        self.servers = Servers(case, every, Network.private_address, FIRST_PORT, self.private)

    async def start(self) -> None:
        """Start the servers, then all nodes."""
        await self.servers.start(self._ca.issue(Network.private_address))
        await super().start()

    def directly(self) -> Callable[[Backend], Reach]:
        """Return the way to the servers for who stands beside them."""
        return self.servers.reach(self._ca.file)

    def through(self, backend: Backend) -> Reach:
        """Return the way from outside."""
        trust = None if backend.security == "plain" else self._ca.file
        return Reach(self.host, self.ports[backend], trust)

    def bound(self) -> set[int]:
        """Return the data ports that are open in the DMZ."""
        span = range(PASSIVE[0], PASSIVE[1] + 1)
        return {port for _, port in listening(self.dmz.pid) if port in span}

    async def nothing_bound(self) -> None:
        """Wait until no data port is open; raises ``AssertionError``."""
        await eventually(lambda: not self.bound(), "all data ports were given back", 30)
