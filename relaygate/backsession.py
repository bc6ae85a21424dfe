"""
A session inside: from the DMZ node's word that a client has come to a relay towards a backend.

The DMZ node names a service, and this file looks it up: it alone decides what is dialled, and it
dials only what stands in this node's own configuration.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from relaygate.addresses import HostPort
from relaygate.admission import Counted, Tally
from relaygate.backends import Backend, Backends
from relaygate.dataway import DataWay
from relaygate.errors import Refusal, TooMany, TurnedAway, UnknownService
from relaygate.ftprelay import FTPRelay
from relaygate.ftpsettings import FTPFacts, FTPSettings
from relaygate.gate import allows
from relaygate.guard import Offence
from relaygate.httprelay import HTTPRelay
from relaygate.legs import Leg
from relaygate.mappeddata import MappedData
from relaygate.networks import source_of
from relaygate.outcome import Cause, Outcome, Phase
from relaygate.pipes import PipeShelf
from relaygate.protocols.preamble import SessionReply, SessionStart
from relaygate.protocols.proxyheader import header_for
from relaygate.relay import Relay
from relaygate.services import Service
from relaygate.sessionlog import log_backend_failed, log_end, log_open
from relaygate.sshopening import Identified, NotIdentified, SSHOpening
from relaygate.supply import SuppliedChannel
from relaygate.websession import WebSession


class BackSession(WebSession):
    """
    One session, from its start message until its relay ends or it is refused.

    *gateway* is the name of the DMZ node that it came through, and *dataway* where the data
    connections of FTP come through it; *ended* is called once, at the end.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        channel: SuppliedChannel,
        start: SessionStart,
        gateway: str,
        dataway: DataWay,
        shelf: PipeShelf,
        ended: Callable[[BackSession], None],
    ) -> None:
        self.start = start
        self.relay: Relay | FTPRelay | HTTPRelay | None = None
        self._reactor = reactor
        self._channel = channel
        self._gateway = gateway
        self._dataway = dataway
        self._shelf = shelf
        self._ended = ended
        self._began = reactor.seconds()
        self._backend = "-"
        self._host = ""
        self._backends: Backends | None = None
        self._reached: Backend | None = None
        self._counted: Counted | None = None
        self._tally = Tally()
        self._proxy_protocol = "none"
        self._inner: Leg | None = None
        self._ordered: Outcome | None = None
        self._mapped: MappedData | None = None

    def open(self, service: Service | None, refusal: Refusal | None = None) -> None:
        """
        Reach a backend of *service* (None: there is none of that name) and relay.

        With *refusal* nothing is tried: the node takes no sessions now.
        """
        opening = Deferred.fromCoroutine(self._run(service, refusal))
        self._channel.when_lost(opening.cancel)
        opening.addErrback(self._broken)

    async def _run(self, service: Service | None, refusal: Refusal | None) -> None:
        if service is None:
            self._refuse(refusal or UnknownService())
            return
        address = source_of(self.start.client[0])
        has_room = service.sessions.has_room(address)
        service.sessions.add(address)
        self._counted = service.sessions
        self._proxy_protocol = service.proxy_protocol
        self._tally = service.tally
        if refusal is not None or not has_room:
            self._refuse(refusal or TooMany())
            return
        if not self._may_come(service):
            self._refuse(TurnedAway())
            return
        if service.http is not None:
            await self._run_http(service, service.http)
        elif service.passing is not None and service.passing.targets:
            await self._run_routed(service, service.passing)
        else:
            await self._run_reached(service)

    async def _run_reached(self, service: Service) -> None:
        """Serve a client of a service all whose backends are alike: one is reached first."""
        try:
            reached, inner = await self._reach(service.backends, self._reply_until)
        except Refusal as refused:
            self._refuse(refused)
            return
        except CancelledError:
            self._end(Outcome(Cause.CLIENT, Phase.OPEN, "the DMZ node gave up waiting"))
            return
        self._inner = inner
        self._tally.opened += 1
        self._channel.reply(SessionReply(0))
        outer, address = self._channel.leg, source_of(self.start.client[0])
        if service.ftp is not None:
            service.backends.worked(reached, address)
            self._relay_ftp(service, service.ftp, outer, inner)
            return
        identified = None
        if service.passing is not None:
            hello = await self._read_hello(service.passing, outer)
            if hello is None:
                inner.abortConnection()
            else:
                service.backends.worked(reached, address)
                self._relay_hello(service, hello, outer, inner)
            return
        if service.protocol == "ssh":
            try:
                identified = await SSHOpening(outer, inner, self._reactor).done
            except NotIdentified as error:
                if error.server_is_silent:
                    # It accepts connections and does no more.
                    service.backends.failed(reached, error.outcome.detail, costly=True)
                self._end(error.outcome)
                return
        elif service.tls is not None and not await self._secure(outer, service.tls):
            return
        service.backends.worked(reached, address)
        self._relay(service, outer, inner, identified)

    def _may_come(self, service: Service) -> bool:
        """The DMZ node has asked this already, if it is sound and of our age (lesson 21)."""
        client = self.start.client[0]
        try:
            banned = service.guard is not None and service.guard.bans(client)
            return not banned and allows(service.allow, service.deny, client)
        except ValueError:
            # What a DMZ node calls a client is no address.
            return False

    def _backend_failed(self, backend: HostPort, reason: str) -> None:
        log_backend_failed(self.log, self._fields(), backend, reason)

    async def _reach(self, backends: Backends, end: float) -> tuple[Backend, Leg]:
        """One of *backends*, until *end*, and a leg to it.  Raises a :class:`Refusal`."""
        address = self.start.client[0]
        reached, leg = await backends.reach(address, end, self._backend_failed)
        self._backends, self._reached = backends, reached
        self._backend, self._host = reached.name, reached.target.host
        if self._proxy_protocol != "none":
            # First of all, in one write, before TLS (requirement 76).
            leg.write(self._proxy_header())
        return reached, leg

    def _proxy_header(self) -> bytes:
        start = self.start
        return header_for(self._proxy_protocol, start.client, start.reached, start.session)

    def _relay(
        self, service: Service, outer: Leg, inner: Leg, identified: Identified | None
    ) -> None:
        self.relay = Relay(
            outer,
            inner,
            self._reactor,
            self._shelf,
            self._end,
            idle_timeout_s=None if service.mapped else service.idle_timeout_s,
        )
        if service.mapped is not None:
            self._map(service, service.mapped, self.relay, inner)
        if identified is None:
            log_open(self.log, **self._fields())
            self.relay.start()
            return
        log_open(
            self.log,
            **self._fields(),
            client_ident=identified.client.decode("ascii", "backslashreplace"),
            server_ident=identified.server.decode("ascii", "backslashreplace"),
        )
        self.relay.start(
            before_in=identified.rest_in,
            before_out=identified.rest_out,
            seen_in=identified.passed_in,
            seen_out=identified.passed_out,
        )

    def _map(self, service: Service, ports: tuple[int, int], control: Relay, inner: Leg) -> None:
        self._mapped = MappedData(
            self._reactor,
            self._shelf,
            self._dataway,
            self.start.session,
            control,
            inner,
            ports,
            service.mapped_tls,
            service.idle_timeout_s,
            self._fields(),
        )
        self._mapped.start()

    def _relay_ftp(self, service: Service, ftp: FTPSettings, outer: Leg, inner: Leg) -> None:
        facts = FTPFacts(
            session=self.start.session,
            client=self.start.client[0],
            reached=self.start.reached[0],
            gateway=self._gateway,
            backend=self._host,
            settings=ftp,
            key=service.key,
            backend_tls=service.backend_tls,
            idle_timeout_s=service.idle_timeout_s,
            fields=self._fields(),
        )
        self.relay = FTPRelay(
            outer, inner, facts, self._reactor, self._shelf, self._dataway, self._end
        )
        self.relay.login_refused = lambda: self._offended(service, Offence.FTP_LOGIN)
        if (guard := service.guard) is not None:
            self.relay.login_taken = lambda: guard.logged_in(self.start.client[0])
            self.relay.password_wait_s = lambda: guard.password_wait_s(self.start.client[0])
        log_open(self.log, **self._fields())
        self.relay.start()

    def _offended(self, service: Service, kind: Offence) -> None:
        guard = service.guard
        if guard is not None and guard.offended(kind, self.start.client[0]):
            self.abort(Cause.POLICY, f"banned: too many {kind.value}")

    def _refuse(self, refusal: Refusal) -> None:
        self._tally.refused += 1
        self._channel.reply(SessionReply(refusal.code))
        self._channel.leg.loseConnection()
        self._end(Outcome(refusal.cause, Phase.OPEN, refusal.meaning))

    def _end(self, outcome: Outcome) -> None:
        relay = self.relay
        outcome = self._ordered or outcome
        if self._mapped is not None:
            self._mapped.close(abort=outcome.cause in (Cause.SHUTDOWN, Cause.POLICY))
        seconds = self._reactor.seconds() - self._began
        log_end(self.log, outcome, self._fields(), relay, seconds)
        if relay is not None:
            self._tally.bytes_in += relay.bytes_in
            self._tally.bytes_out += relay.bytes_out
        if self._backends is not None and self._reached is not None:
            self._backends.release(self._reached)
        if self._counted is not None:
            self._counted.remove(source_of(self.start.client[0]))
        self._ended(self)

    def _fields(self) -> dict[str, object]:
        return {
            "session": self.start.session,
            "service": self.start.service,
            "client": str(HostPort(*self.start.client)),
            "gateway": self._gateway,
            "backend": self._backend,
        }

    def state(self) -> dict[str, Any]:
        """How the session is, for operators."""
        # FTP knows more of itself than its bytes.
        seen = getattr(self.relay, "seen", None)
        return {
            **self._fields(),
            **(seen.shown() if seen is not None else {"user": "", "direction": ""}),
            "state": "opening" if self.relay is None else "open",
            "seconds": round(self._reactor.seconds() - self._began, 1),
            "bytes_in": self.relay.bytes_in if self.relay else 0,
            "bytes_out": self.relay.bytes_out if self.relay else 0,
        }

    def abort(self, cause: Cause, detail: str) -> None:
        """End the session now, whatever it does."""
        if self.relay is not None:
            self.relay.abort(cause, detail)
        else:
            self._ordered = Outcome(cause, Phase.OPEN, detail)
            self._channel.leg.abortConnection()

    def _broken(self, failure: Failure) -> None:
        self.log.failure("session {session} failed", failure, session=self.start.session)
        self._channel.leg.abortConnection()
        if self._inner is not None:
            self._inner.abortConnection()
        self._end(Outcome(Cause.FAULT, Phase.OPEN, "internal error"))
