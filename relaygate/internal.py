"""The internal node: builds its parts and joins them."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from typing import Any

from OpenSSL import SSL
from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import deferLater
from twisted.logger import Logger

from relaygate import __version__
from relaygate.addresses import HostPort
from relaygate.admin import AdminCommands, AdminPort
from relaygate.admission import Caps
from relaygate.backsession import BackSession, Service
from relaygate.balance import BALANCES
from relaygate.commands import ALPN_CHANNEL, ALPN_UPLINK
from relaygate.config import FTPConfig, InternalConfig, ServiceConfig
from relaygate.errors import Stopping
from relaygate.ftprelay import FTPSettings
from relaygate.gatewaylink import GatewayLink
from relaygate.identity import Identity
from relaygate.keeper import Keeper
from relaygate.outcome import Cause
from relaygate.pipes import PipeShelf
from relaygate.protocols.ftpeffects import BackendTLS, FTPPolicy, Use
from relaygate.protocols.preamble import SessionStart
from relaygate.servicekeys import ServiceFiles, load_service_files
from relaygate.steering import Steering
from relaygate.supply import SuppliedChannel
from relaygate.tls import client_context

# Seconds for the uplinks to close, and for what was aborted to end.
STOP_LIMIT_S = 5.0
LAST_TURNS_S = 0.1


class InternalNode(MultiService):
    """An internal node, as *config* and *identity* make it."""

    log = Logger()

    def __init__(self, config: InternalConfig, identity: Identity, reactor: Any) -> None:
        super().__init__()
        self._reactor = reactor
        self._shelf = PipeShelf()
        self.published = {each.name: _service(each, reactor) for each in config.services}
        self._keepers: list[Keeper[ServiceFiles]] = []
        for service in config.services:
            self._keep_files(service)
        self._sessions: set[BackSession] = set()
        self._stopping = False
        self.commands = AdminCommands()
        Steering(self, reactor).register(self.commands)
        if config.admin_socket is not None:
            AdminPort(config.admin_socket, self.commands, reactor).setServiceParent(self)
        self._contexts: dict[bytes, SSL.Context]
        self.use_identity(identity)
        declared = [_declared(service) for service in config.services]
        kinds = {kind for service in config.services for kind in service.channel_kinds}
        self.links: dict[str, GatewayLink] = {}
        for gateway in config.gateways:
            link = GatewayLink(
                reactor,
                gateway.address,
                gateway.name,
                gateway.pool,
                declared,
                kinds,
                lambda protocol: self._contexts[protocol],
                self._started,
                random.random,
                f"relaygate {__version__}",
            )
            link.setServiceParent(self)
            self.links[gateway.name] = link

    @property
    def sessions(self) -> set[BackSession]:
        """The sessions that run."""
        return self._sessions

    def _keep_files(self, service: ServiceConfig) -> None:
        """Read the files of *service*, now and whenever they change."""
        own = (service.tls.certificate, service.tls.key) if service.tls else ()
        paths = tuple(path for path in (*own, service.backend_tls.ca) if path)
        if not paths:
            return

        def load(now: datetime) -> ServiceFiles:
            return load_service_files(service.name, own, service.backend_tls.ca, now=now)

        files = load(datetime.fromtimestamp(self._reactor.seconds(), UTC))
        use = self.published[service.name].use_files
        use(files)
        keeper = Keeper("service's TLS", files, load, use, paths, self._reactor)
        keeper.setServiceParent(self)
        self._keepers.append(keeper)

    def reload(self) -> None:
        """Read the files of the services again."""
        for keeper in self._keepers:
            keeper.reload()

    def use_identity(self, identity: Identity) -> None:
        """New connections are dialled with *identity* from now on."""
        self._contexts = {
            protocol: client_context(identity, protocol) for protocol in (ALPN_UPLINK, ALPN_CHANNEL)
        }
        self.identity = identity

    def startService(self) -> None:
        """See :class:`twisted.application.service.IService`."""
        self.log.info(
            "relaygate {version} internal node {node} publishes {services}",
            version=__version__,
            node=self.identity.name,
            services=", ".join(self.published),
        )
        super().startService()

    def stopService(self) -> Deferred[None]:
        """End the uplinks and the sessions."""
        self._stopping = True
        links: Deferred[Any] = super().stopService()
        for session in list(self._sessions):
            session.abort(Cause.SHUTDOWN, "the internal node is shutting down")
        self._shelf.close()
        # A DMZ node that does not read must not keep the program from ending.
        links.addTimeout(STOP_LIMIT_S, self._reactor, lambda _result, _seconds: None)
        # What was aborted ends in a turn of the reactor, and leaves its line in the log.
        return links.addCallback(lambda _: deferLater(self._reactor, LAST_TURNS_S))

    def _started(self, link: GatewayLink, channel: SuppliedChannel, start: SessionStart) -> None:
        session = BackSession(
            self._reactor,
            channel,
            start,
            link.gateway_name,
            link.dataway,
            self._shelf,
            self._sessions.discard,
        )
        self._sessions.add(session)
        session.open(self.published.get(start.service), Stopping() if self._stopping else None)


def _service(config: ServiceConfig, reactor: Any) -> Service:
    return Service(
        config.name,
        config.protocol,
        config.backends,
        BALANCES[config.balance](),
        Caps(config.max_sessions, config.max_sessions_per_address),
        config.idle_timeout_s,
        _ftp(config, config.ftp, reactor) if config.ftp else None,
        config.backend_tls.name,
    )


def _ftp(service: ServiceConfig, ftp: FTPConfig, reactor: Any) -> FTPSettings:
    def resolve(host: str) -> Deferred[str]:
        if HostPort(host, 0).literal is not None:
            return succeed(host)
        found: Deferred[str] = reactor.resolve(host)
        return found

    return FTPSettings(
        policy=FTPPolicy(
            control=Use(ftp.tls),
            data=Use(ftp.data_tls),
            implicit=service.protocol == "ftps",
            backend=BackendTLS(service.backend_tls.mode),
            backend_data=service.backend_tls.data,
            backend_active=ftp.backend_mode == "active",
        ),
        kind=lambda protected: service.transfer_channel(protected=protected),
        public=ftp.public_address,
        resolve=resolve,
        ports=ftp.passive_ports,
        peers=ftp.peers,
        source_port=ftp.active_source_port,
        resume=ftp.session_reuse,
        lenient=ftp.truncated == "accept",
        telnet=ftp.telnet,
    )


def _declared(config: ServiceConfig) -> dict[str, Any]:
    return {
        "name": config.name,
        "protocol": config.protocol,
        "host": config.listen.host,
        "port": config.listen.port,
        "tls_channel": config.tls_channel,
        "max_sessions": config.max_sessions,
        "max_sessions_per_address": config.max_sessions_per_address,
    }
