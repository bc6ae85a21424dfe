"""The internal node: builds its parts and joins them."""

from __future__ import annotations

import random
from typing import Any

from OpenSSL import SSL
from twisted.application.service import MultiService
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from relaygate import __version__
from relaygate.addresses import HostPort
from relaygate.admin import AdminCommands, Arguments
from relaygate.backsession import BackSession
from relaygate.changes import Changes, compare, differing
from relaygate.commands import ALPN_CHANNEL, ALPN_UPLINK
from relaygate.config import BansConfig, GatewayConfig, InternalConfig
from relaygate.draining import LAST_LOOK_S, LAST_TURNS_S, drained
from relaygate.errors import Stopping, UnknownService
from relaygate.forwards import Forwards
from relaygate.gatewaylink import GatewayLink
from relaygate.guard import Guard, Offence, Rules
from relaygate.identity import Identity
from relaygate.keeper import Keeper
from relaygate.metrics import CONTENT_TYPE, metrics
from relaygate.operatorports import OperatorPorts
from relaygate.outcome import Cause
from relaygate.pipes import PipeShelf
from relaygate.probing import Prober
from relaygate.protocols.preamble import PROBE, SessionReply, SessionStart
from relaygate.protocols.statushttp import Response
from relaygate.servicekeys import ServiceFiles
from relaygate.servicemaking import make_service
from relaygate.services import Service
from relaygate.serving import declared
from relaygate.statuspage import StatusPage, shared, truth
from relaygate.steering import Steering
from relaygate.supply import SuppliedChannel
from relaygate.tls import client_context
from relaygate.watch import Watcher

# What cannot be changed while the node runs, by its key in the file.
_FIXED = {
    "identity": "identity",
    "log": "log",
    "admin_socket": "admin.socket",
    "status_listen": "status.listen",
}
# Seconds for the uplinks to close.
STOP_LIMIT_S = 5.0
# For so many seconds clients come yet by a service's former name, who reached the DMZ under it.
FORMER_S = 5.0


class InternalNode(MultiService):
    """An internal node, as *config* and *identity* make it."""

    log = Logger()

    def __init__(self, config: InternalConfig, identity: Identity, reactor: Any) -> None:
        super().__init__()
        self._reactor = reactor
        self._shelf = PipeShelf()
        self._config = config
        self.links: dict[str, GatewayLink] = {}
        self.guard = Guard(reactor, _rules(config.bans), lambda: list(self.links.values()))
        self.published: dict[str, Service] = {}
        # Those whose listener another name has now, and until when they are found.
        self._former: dict[str, tuple[Service, float]] = {}
        self.keepers: dict[str, Keeper[ServiceFiles]] = {}
        self._watchers: dict[str, Watcher] = {}
        # No new sessions, by order: of the node, or of the services with these names.
        self.draining = False
        self.drained: set[str] = set()
        # The program ends when its sessions have: nothing takes that back.
        self.ending = False
        self._offering: IDelayedCall | None = None
        for service in config.services:
            self._publish(*make_service(service, self.guard, reactor))
        self._sessions: set[BackSession] = set()
        self._stopping = False
        self.commands = AdminCommands()
        steering = Steering(self, reactor)
        steering.register(self.commands)
        Prober(self, reactor).register(self.commands)
        if config.status_listen is not None:
            self._show_status(config.status_listen, steering)
        self.guard.register(self.commands)
        socket, board = config.admin_socket, config.dashboard
        self.operator_ports = OperatorPorts(socket, board, self.commands, self.keepers, reactor)
        self.operator_ports.setServiceParent(self)
        self._contexts: dict[bytes, SSL.Context]
        self.use_identity(identity)
        links, shelf = self.links, self._shelf
        self.forwards = Forwards(
            config.forwards, lambda: list(links.values()), shelf, reactor, lambda: self.draining
        )
        for gateway in config.gateways:
            self._link(gateway)
        self.forwards.setServiceParent(self)

    @property
    def sessions(self) -> set[BackSession]:
        """The sessions that run."""
        return self._sessions

    def _show_status(self, listen: HostPort, steering: Steering) -> None:
        async def figures() -> Response:
            status = await steering.status(Arguments({}))
            body = metrics(status, len(self.guard), self.guard.set_by_rule)
            return Response(200, body, CONTENT_TYPE)

        pages = {
            "/live": truth(list),
            "/ready": truth(self.lacking),
            "/metrics": shared(figures, self._reactor),
        }
        StatusPage(listen, pages, self._reactor).setServiceParent(self)

    def lacking(self) -> list[str]:
        """What keeps this node from being ready: each service has to lead somewhere."""
        if self.draining or self._stopping:
            return ["draining"]
        lines = []
        for name, service in self.published.items():
            offered = (link.up and name not in link.refused for link in self.links.values())
            if not any(offered):
                lines.append(f"{name}: no gateway")
            elif not service.backends.up:
                lines.append(f"{name}: no backend")
        return lines

    def _link(self, gateway: GatewayConfig) -> None:
        """Dial *gateway* from now on."""
        link = GatewayLink(
            self._reactor,
            gateway.address,
            gateway.name,
            gateway.pool,
            *self._wish(),
            lambda protocol: self._contexts[protocol],
            self._started,
            random.random,
            f"relaygate {__version__}",
        )
        link.bans = self.guard.rows
        if self.ending:
            link.yield_to_newer()
        self.links[gateway.name] = link
        link.setServiceParent(self)

    def _wish(self) -> tuple[list[dict[str, Any]], set[bool]]:
        """What is declared to every gateway, and the kinds of channels that are kept ready."""
        services = self._config.services
        kinds = {kind for service in services for kind in service.channel_kinds}
        kinds |= self.forwards.channel_kinds
        offered = [each for each in services if self.offer_state(each.name) == "offered"]
        return [declared(service) for service in offered], kinds

    def offer_state(self, name: str) -> str:
        """``offered``, ``drained``, or ``down``: whether the service *name* is declared."""
        if self.draining or name in self.drained:
            return "drained"
        service = self.published[name]
        if service.when_down == "refuse" or service.backends.up:
            return "offered"
        return "down"

    def offer_again(self) -> None:
        """What is offered may have changed: declare it, once for all that changes in one turn."""
        if self._offering is None:
            self._offering = self._reactor.callLater(0, self._offer_now)

    def _offer_now(self) -> None:
        if self._offering is not None and self._offering.active():
            self._offering.cancel()
        self._offering = None
        pools = {gateway.name: gateway.pool for gateway in self._config.gateways}
        for name, link in self.links.items():
            link.offer(*self._wish(), pools[name])

    def _publish(self, service: Service, keeper: Keeper[ServiceFiles] | None) -> None:
        """*service* is what sessions of its name find, in the place of one that is there."""
        older = self._withdraw(service.name)
        if older is not None:
            service.take_over(older)
        self.published[service.name] = service
        watcher = Watcher(service.backends, service.checks, self._reactor, random.random)

        def changed() -> None:
            watcher.look()
            self.offer_again()

        service.backends.changed = changed
        self._watchers[service.name] = watcher
        watcher.setServiceParent(self)
        if keeper is not None:
            self.keepers[service.name] = keeper
            keeper.setServiceParent(self)

    def _withdraw(self, name: str) -> Service | None:
        """No new session finds the service *name*; those that run live on."""
        watcher = self._watchers.pop(name, None)
        if watcher is not None:
            watcher.disownServiceParent()
        keeper = self.keepers.pop(name, None)
        if keeper is not None:
            keeper.disownServiceParent()
        return self.published.pop(name, None)

    def reload(self, config: InternalConfig | None = None) -> list[str]:
        """
        Read the files of the services again; with *config*, make the difference to it as well.

        The answer has a line for each thing that changed.  Raises
        :class:`relaygate.identity.IdentityError` or :class:`OpenSSL.SSL.Error`; then nothing has.
        """
        config = config or self._config
        services = compare(self._config.services, config.services)
        gateways = compare(self._config.gateways, config.gateways)
        new = (*services.added, *services.changed)
        made = [make_service(each, self.guard, self._reactor) for each in new]
        prepared = self.forwards.prepare(config.forwards)
        board = self.operator_ports.prepare(config.dashboard)
        told = services.lines("service") + gateways.lines("gateway")
        differ = differing(self._config, config)
        told += [
            f"{key}: changed in the file, which takes a restart"
            for name, key in _FIXED.items()
            if name in differ
        ]
        if "drain_s" in differ:
            told.append("stop.drain: changed")
        if config.bans != self._config.bans:
            told.append("bans: changed")
            self.guard.use(_rules(config.bans))
        self._config = config
        now = self._reactor.seconds()
        self._former = {name: each for name, each in self._former.items() if each[1] > now}
        wanted = {each.listen for each in config.services}
        for gone in services.removed:
            service = self._withdraw(gone.name)
            self.drained.discard(gone.name)
            if service is not None and gone.listen in wanted:
                self._former[gone.name] = service, now + FORMER_S
        for keeper in self.keepers.values():
            keeper.reload()
        told += self.forwards.use(prepared)
        told += self.operator_ports.use(board)
        for service, keeper_or_none in made:
            self._publish(service, keeper_or_none)
        self._use_gateways(gateways)
        return told

    def _use_gateways(self, gateways: Changes[GatewayConfig]) -> None:
        moved = [each for each in gateways.changed if "address" in gateways.keys[each.name]]
        for gateway in (*gateways.removed, *moved):
            self.links.pop(gateway.name).retire()
        for gateway in (*gateways.added, *moved):
            if not self._take_back(gateway):
                self._link(gateway)
        self._offer_now()

    def _take_back(self, gateway: GatewayConfig) -> bool:
        """
        Use the link to *gateway* that was retired and whose uplink stands, if there is one.

        A second uplink would take the place of the first in the DMZ, and with it the data
        connections of its FTP sessions.
        """
        where = gateway.name, gateway.address
        links = [each for each in self if isinstance(each, GatewayLink)]
        for link in links:
            if link.retired and link.up and (link.gateway_name, link.address) == where:
                link.retired = False
                self.links[gateway.name] = link
                return True
        return False

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
            services=", ".join(self.published) or "nothing",
        )
        super().startService()

    @property
    def drain_s(self) -> float:
        """Seconds that sessions have to end when the program is told to."""
        return self._config.drain_s

    def drain(self, limit_s: float) -> Deferred[None]:
        """Take no new sessions; fires when those that run have ended, after *limit_s* at most."""
        self.draining = self.ending = True
        for link in self.links.values():
            link.yield_to_newer()
        self.offer_again()
        running = len(self._sessions) + len(self.forwards.sessions)
        self.log.info("draining: {sessions} sessions run", sessions=running)
        return drained(
            lambda: self._is_over() and all(link.settled for link in self.links.values()),
            limit_s,
            self._reactor,
        )

    def stopService(self) -> Deferred[None]:
        """End the uplinks and the sessions."""
        self._stopping = True
        if self._offering is not None:
            self._offering.cancel()
            self._offering = None
        links: Deferred[Any] = super().stopService()
        for session in list(self._sessions):
            session.abort(Cause.SHUTDOWN, "the internal node is shutting down")
        self._shelf.close()
        for service in self.published.values():
            if service.http is not None:
                service.http.pool.close()
        # A DMZ node that does not read must not keep the program from ending.
        links.addTimeout(STOP_LIMIT_S, self._reactor, lambda _result, _seconds: None)
        # What was aborted ends in a turn of the reactor, and leaves its line in the log.
        return links.addCallback(
            lambda _: drained(self._is_over, LAST_TURNS_S, self._reactor, look_s=LAST_LOOK_S)
        )

    def _is_over(self) -> bool:
        """Whether no session runs, of either kind."""
        return not (self._sessions or self.forwards.sessions)

    def _started(self, link: GatewayLink, channel: SuppliedChannel, start: SessionStart) -> None:
        if start.service == PROBE:
            channel.reply(SessionReply(UnknownService.code))
            channel.leg.loseConnection()
            return

        def ended(session: BackSession) -> None:
            self._sessions.discard(session)
            link.release()

        session = BackSession(
            self._reactor, channel, start, link.gateway_name, link.dataway, self._shelf, ended
        )
        self._sessions.add(session)
        link.hold()
        session.open(self._find(start.service), Stopping() if self._stopping else None)

    def _find(self, name: str) -> Service | None:
        """The service that a session on its way from the DMZ calls *name*."""
        service = self.published.get(name)
        if service is None and name in self._former:
            former, until = self._former[name]
            service = former if self._reactor.seconds() < until else None
        return service


def _rules(bans: BansConfig) -> Rules:
    return Rules(
        {Offence.FTP_LOGIN: bans.ftp_failures, Offence.HTTP_UNAUTHORISED: bans.http_failures},
        bans.within_s,
        bans.duration_s,
        bans.never,
    )
