"""The services that an internal node publishes: what each is, as its sessions need it."""

from __future__ import annotations

from OpenSSL import SSL

from relaygate.admission import Caps, Counted, Tally
from relaygate.backends import CONNECT_LIMIT_S, Backends
from relaygate.ftpsettings import FTPSettings
from relaygate.guard import Guard
from relaygate.helloopening import PassThrough
from relaygate.httpsettings import HTTPSettings
from relaygate.networks import NetworkSet
from relaygate.protocols.healthchecks import HealthCheck
from relaygate.servicekeys import ServiceFiles, ServiceKey
from relaygate.servicetls import BackendTLS, service_context, web_context
from relaygate.stickiness import StickyCookie
from relaygate.watch import Checks


class Service:
    """
    A published service, as the sessions need it.

    :attr:`tls` is there where this node ends the clients' TLS; *ftp* for FTP's protocols alone,
    *passing* for HTTPS that is passed through.
    *backend_name* is what the backends' certificates must carry, None for each one's host.
    *mapped* are the data ports of FTP that passes unopened, *mapped_tls* the kind of channel that
    brings them.
    """

    def __init__(
        self,
        name: str,
        protocol: str,
        backends: Backends,
        caps: Caps,
        idle_timeout_s: float | None,
        ftp: FTPSettings | None = None,
        backend_name: str | None = None,
        mapped: tuple[int, int] | None = None,
        mapped_tls: bool = False,
    ) -> None:
        self.name = name
        self.protocol = protocol
        self.backends = backends
        self.sessions = Counted(caps)
        self.tally = Tally()
        self.idle_timeout_s = idle_timeout_s
        self.ftp = ftp
        self.mapped = mapped
        self.mapped_tls = mapped_tls
        self.allow: NetworkSet | None = None
        self.deny: NetworkSet | None = None
        self.proxy_protocol = "none"
        self.guard: Guard | None = None
        # What becomes of the listener when no backend is up: "close", or "refuse" in words.
        self.when_down = "close"
        self.checks = Checks(lambda _: HealthCheck(), None, CONNECT_LIMIT_S, lambda: None)
        # HTTPS that is passed through, and HTTP that is read here.
        self.passing: PassThrough | None = None
        self.http: HTTPSettings | None = None
        # Persistence by cookie.
        self.cookie_ttl_s: float | None = None
        self.sticky: StickyCookie | None = None
        self.tls: SSL.Context | None = None
        self.key: ServiceKey | None = None
        self.backend_tls: BackendTLS | None = None
        self._backend_name = backend_name

    def take_over(self, older: Service) -> None:
        """Go on counting where *older*, which had the same name, ends; its sessions live on."""
        self.backends.group.take_over(older.backends.group)
        older.sessions.caps = self.sessions.caps
        self.sessions = older.sessions
        self.tally = older.tally

    def use_files(self, files: ServiceFiles) -> None:
        """New sessions use *files*.  Raises :class:`OpenSSL.SSL.Error`."""
        backend_tls = None
        if files.authorities:
            backend_tls = BackendTLS(files.authorities, self._backend_name)
        if files.key is not None and self.protocol == "https":
            self.tls = web_context(files.key, files.more)
        elif files.key is not None:
            self.tls = service_context(files.key)
        self.key, self.backend_tls = files.key, backend_tls
        if self.cookie_ttl_s is not None and files.cookie_key is not None:
            self.sticky = StickyCookie(
                files.cookie_key, self.name, self.cookie_ttl_s, secure=self.tls is not None
            )
