"""What a service or a fixed forward says about its FTP sessions, and what is known of one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from relaygate.addresses import HostPort
from relaygate.dataway import TransferFailed
from relaygate.dial import error_words
from relaygate.protocols.ftpeffects import FTPPolicy
from relaygate.servicekeys import ServiceKey
from relaygate.servicetls import BackendTLS


@dataclass(frozen=True)
class FTPSettings:
    """
    What a service says about its FTP sessions.

    *kind* says which kind of channel carries a client's data connection, protected or not; *public*
    gives the address or name to advertise to who came through a gateway, or None for the address
    that the client reached; *resolve* turns a name into an IPv4 address.
    """

    policy: FTPPolicy
    kind: Callable[[bool], bool]
    public: Callable[[str], str | None]
    resolve: Callable[[str], Deferred[str]]
    ports: tuple[int, int]
    peers: Sequence[str]
    source_port: int
    resume: str
    lenient: bool
    telnet: bool


@dataclass(frozen=True)
class FTPFacts:
    """
    What is known of one session before its first byte.

    *backend* is the name that was dialled, which its certificate has to carry; *key* is what the
    client is shown, and *backend_tls* how the backend is spoken to, where TLS is used at all.
    *client* and *reached* are the addresses of the client and of what it reached, as the *gateway*
    has them; *fields* stand in every line of the log.

    With *turned* the client is near and the backend beyond the DMZ: *reached* is then the address
    from which the DMZ node has dialled it.
    """

    session: str
    client: str
    reached: str
    gateway: str
    backend: str
    settings: FTPSettings
    key: ServiceKey | None
    backend_tls: BackendTLS | None
    idle_timeout_s: float | None
    fields: dict[str, object]
    turned: bool = False

    @property
    def public(self) -> str | None:
        """What is advertised for the gateway, if it is not the address that the client reached."""
        return self.settings.public(self.gateway)

    def shown(self) -> Deferred[str]:
        """The IPv4 address to advertise; it fails with :class:`TransferFailed`."""
        public = self.public
        return self.settings.resolve(self.reached if public is None else public)


def public_resolver(reactor: Any) -> Callable[[str], Deferred[str]]:
    """
    What turns a ``public_address`` into an IPv4 address, by the *reactor*'s resolver.

    Its results fail with :class:`TransferFailed`.
    """

    def resolve(host: str) -> Deferred[str]:
        if HostPort(host, 0).literal is not None:
            return succeed(host)
        found: Deferred[str] = reactor.resolve(host)
        return found.addErrback(unknown, host)

    def unknown(failure: Failure, host: str) -> NoReturn:
        words = error_words(failure.value)
        raise TransferFailed(f"public_address {host} cannot be resolved: {words}") from None

    return resolve
