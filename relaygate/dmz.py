"""The DMZ node: builds its parts and joins them."""

from __future__ import annotations

import secrets
import sys
from typing import Any

from OpenSSL import SSL
from twisted.application.service import Service
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger

from relaygate import __version__
from relaygate.admission import Caps
from relaygate.changes import differing
from relaygate.commands import ALPN_CHANNEL, ALPN_UPLINK
from relaygate.config import DMZConfig
from relaygate.desk import Desk
from relaygate.destinations import Destinations
from relaygate.draining import LAST_LOOK_S, LAST_TURNS_S, drained
from relaygate.egress import Egress
from relaygate.enrolled import NodeBook
from relaygate.gate import Gate, Turned
from relaygate.identity import Identity
from relaygate.intake import Intake
from relaygate.legport import LegPort, WaitingLeg
from relaygate.listeners import Listener, Listeners
from relaygate.lobby import Lobby
from relaygate.outcome import Cause
from relaygate.passive import PassivePorts
from relaygate.pipes import PipeShelf
from relaygate.rates import Rates
from relaygate.reception import Reception
from relaygate.sessionlog import ID_BYTES
from relaygate.statuspage import StatusPage, truth
from relaygate.tls import server_context
from relaygate.transfers import Transfers

# What the node has from its file for as long as it runs.
_FIXED = ("identity", "uplink_listen", "status_listen", "log")


class DMZNode(Service):
    """A DMZ node, as *config* and *identity* make it."""

    log = Logger()

    def __init__(self, config: DMZConfig, identity: Identity, reactor: Any) -> None:
        self._config = config
        self._reactor = reactor
        self._shelf = PipeShelf()
        self.desk = Desk(
            reactor,
            self._shelf,
            lambda: secrets.token_hex(ID_BYTES),
            sessions=Caps(config.max_sessions, config.max_sessions_per_address),
            pending=Caps(config.max_pending, config.max_pending_per_address),
        )
        self.listeners = Listeners(self._bind, config.listen)
        self.intake = Intake(reactor, config.trusted_proxies, config.max_pending)
        self._ports = PassivePorts(
            reactor, config.listen, secrets.SystemRandom().sample, self.intake
        )
        self.transfers = Transfers(reactor, self._shelf, self._ports)
        self.egress = Egress(
            reactor,
            self._shelf,
            Destinations(config.connect),
            config.connect_from,
            Caps(config.max_forwards, config.max_forwards_per_address),
            self.transfers,
            self._ports,
            _most_of_node(config),
        )
        software = f"relaygate {__version__}"
        self.book = NodeBook(reactor, self.listeners, software, self.transfers, self.egress)
        rates = Rates(config.max_rate, config.max_rate_per_address)
        self.gate = Gate(reactor.seconds, rates, self.book.bans)
        self.lobby = Lobby(self.book, reactor, lambda: self._context, config.nodes)
        self.book.figures = self.figures
        self.book.moved = self.desk.moved
        self._status: StatusPage | None = None
        if config.status_listen is not None:
            pages = {"/live": truth(list), "/ready": truth(self.lacking)}
            self._status = StatusPage(config.status_listen, pages, reactor)
        self._started_at = reactor.seconds()
        self._port: IListeningPort | None = None
        self._context: SSL.Context
        self.use_identity(identity)

    def lacking(self) -> list[str]:
        """What keeps this node from being ready; its names are of no use to who may ask."""
        if self.book.draining:
            return ["draining"]
        # One through which things only go out has no listeners.
        if not len(self.book) or not (list(self.listeners) or self._config.connect):
            return ["no internal node"]
        if not all(listener.nodes for listener in self.listeners):
            return ["a service has no internal node"]
        return []

    def figures(self) -> dict[str, int]:
        """What a report over the uplink says of this node as a whole."""
        return {
            "uptime_seconds": int(self._reactor.seconds() - self._started_at),
            "nodes": len(self.book),
            "listeners": sum(1 for _ in self.listeners),
            "sessions": len(self.desk),
            "pending": self.desk.pending.total,
            "outwards": len(self.egress),
            "proxy_headers_awaited": len(self.intake),
            "proxy_headers_failed": self.intake.failed,
            "transfers": self.transfers.running,
            "bans": len(self.book.bans),
            "network_lists": len(self.book.lists),
            "second_nodes_asked": self.desk.hedges.begun,
            "second_nodes_won": self.desk.hedges.won,
            **{f"turned_away_{why.name.lower()}": self.gate.turned[why] for why in Turned},
        }

    def use_identity(self, identity: Identity) -> None:
        """New connections are met with *identity* from now on."""
        protocols = [ALPN_UPLINK, ALPN_CHANNEL]
        self._context = server_context(identity, protocols, self.lobby.mismatch)
        self.identity = identity

    def privilegedStartService(self) -> None:
        """Open the uplink port, which may be a low one."""
        listen = self._config.uplink_listen
        port = LegPort(listen.host, listen.port, self.lobby, self._reactor)
        try:
            port.startListening()
        except CannotListenError as error:
            words = f"uplink.listen: cannot listen on {listen}: {error.socketError.strerror}"
            self.log.critical("{reason}", reason=words)
            sys.stderr.write(words + "\n")
            raise SystemExit(2) from None
        self._port = port
        self.log.info(
            "relaygate {version} DMZ node {node} waits for internal nodes on {listen}: {nodes}",
            version=__version__,
            node=self.identity.name,
            listen=str(listen),
            nodes=", ".join(self._config.nodes),
        )

    def reload(self, config: DMZConfig) -> list[str]:
        """
        Use *config* from now on; the answer has a line for each thing that changed.

        Sessions that run live on, and nodes that may still come keep their uplinks.
        """
        told = []
        for name in differing(self._config, config):
            restart = ", which takes a restart" if name in _FIXED else ""
            told.append(f"{name}: changed{restart}")
        self._config = config
        self.desk.use_caps(
            sessions=Caps(config.max_sessions, config.max_sessions_per_address),
            pending=Caps(config.max_pending, config.max_pending_per_address),
        )
        self.gate.use(Rates(config.max_rate, config.max_rate_per_address))
        self.intake.use(config.trusted_proxies, config.max_pending)
        self.lobby.nodes = config.nodes
        self._ports.use_rules(config.listen)
        self.egress.use_policy(
            Destinations(config.connect),
            config.connect_from,
            Caps(config.max_forwards, config.max_forwards_per_address),
            _most_of_node(config),
        )
        self.listeners.rules = config.listen
        self.transfers.ranges.check_again()
        self.book.check_again(config.nodes)
        return told

    def startService(self) -> None:
        """See :class:`twisted.application.service.IService`."""
        super().startService()
        if self._port is None:
            self.privilegedStartService()
        if self._status is not None:
            self._status.startService()

    @property
    def drain_s(self) -> float:
        """Seconds that sessions have to end when the program is told to."""
        return self._config.drain_s

    def drain(self, limit_s: float) -> Deferred[None]:
        """
        Tell the nodes, close the listeners, and let sessions end; fires when they have, after
        *limit_s* seconds at most.
        """
        running = len(self.desk) + len(self.egress)
        self.log.info("draining: {sessions} sessions run", sessions=running)

        async def work() -> None:
            await self.book.drain()
            self.listeners.close()
            await drained(lambda: not (len(self.desk) or len(self.egress)), limit_s, self._reactor)

        return Deferred.fromCoroutine(work())

    def stopService(self) -> Deferred[None] | None:
        """Close every listener, tell the nodes, end the sessions."""
        super().stopService()
        if self._status is not None:
            self._status.stopService()
        if self._port is not None:
            self._port.stopListening()
            self._port = None
        self.book.stop("the DMZ node is shutting down")
        self.listeners.close()
        self.desk.abort_all(Cause.SHUTDOWN, "the DMZ node is shutting down")
        self.intake.stop()
        self.transfers.stop("the DMZ node is shutting down")
        self.egress.stop("the DMZ node is shutting down")
        self._shelf.close()
        # What was aborted ends in a turn of the reactor, and leaves its line in the log.
        return drained(self._is_over, LAST_TURNS_S, self._reactor, look_s=LAST_LOOK_S)

    def _is_over(self) -> bool:
        """Whether nothing that has a line in the log is left."""
        transfers = self.transfers.running + self.transfers.prepared
        sessions = len(self.desk) + len(self.egress) + transfers
        return not (sessions or len(self.intake) or len(self.book))

    def _bind(self, listener: Listener) -> IListeningPort:
        listen = listener.offer.listen
        reception = Reception(listener, self.desk, self.transfers, self.gate, self.intake)
        port = LegPort(
            listen.host,
            listen.port,
            reception,
            self._reactor,
            shared=True,
            transport=WaitingLeg,
            screen=reception.lets_in,
        )
        port.startListening()
        return port


def _most_of_node(config: DMZConfig) -> int:
    """How many connections outwards one node may have: where there are others, four fifths."""
    if len(config.nodes) == 1:
        return config.max_forwards
    return max(1, config.max_forwards * 4 // 5)
