"""
The internal node's link to one DMZ node: an uplink that comes back, and the channels that go with
it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from typing import Any, cast

from OpenSSL import SSL
from twisted.application.internet import ClientService
from twisted.application.service import MultiService
from twisted.internet.defer import Deferred, TimeoutError
from twisted.internet.interfaces import (
    IHandshakeListener,
)
from twisted.internet.protocol import Factory
from twisted.logger import Logger
from twisted.protocols import amp
from twisted.python.failure import Failure
from zope.interface import implementer

from relaygate import commands
from relaygate.addresses import HostPort
from relaygate.backoff import FullJitter
from relaygate.dataway import DataWay
from relaygate.declaring import Declaration
from relaygate.dial import Noting, leg_endpoint
from relaygate.legs import Leg
from relaygate.listpush import MINOR as LISTS_SINCE_MINOR
from relaygate.listpush import put_bans
from relaygate.protocols.preamble import SessionStart, TransferStart, UplinkKeys
from relaygate.report import fetch_report
from relaygate.supply import ChannelSupply, Start, SuppliedChannel
from relaygate.tls import PeerNotAllowed, demand_gateway, key_exchange, peer_end, uplink_secrets
from relaygate.uplink import Unanswered, Uplink, UplinkFailed
from relaygate.uplinkends import IInternalEnd

CONNECT_LIMIT_S = 10.0
# Seconds for the TLS handshake and the hello.
HELLO_LIMIT_S = 10.0
# Another process with this node's name has taken over; it may be a mistake, and it may end.
SUPERSEDED_WAIT_S = 60.0
# A failure that goes on is told again after this many seconds.
NOTE_AGAIN_S = 600.0


@implementer(IHandshakeListener)
class DialledUplink(Uplink):
    """An uplink that begins with our side of the TLS handshake."""

    def __init__(self, link: GatewayLink, context: SSL.Context) -> None:
        super().__init__(link, link.reactor, link.software)
        self._link = link
        self._context = context
        self._gateway_name = link.gateway_name
        self.secured: Deferred[Leg] = Deferred()

    @property
    def leg(self) -> Leg:
        """The connection."""
        return cast(Leg, self.transport)

    def connectionMade(self) -> None:
        """See :class:`twisted.internet.interfaces.IProtocol`."""
        super().connectionMade()
        self.leg.startReading()
        self.leg.start_tls(self._context, server=False, sni=self._gateway_name)
        Deferred.fromCoroutine(self._link.greet(self)).addErrback(self._link.broken, self)

    def handshakeCompleted(self) -> None:
        """See :class:`twisted.internet.interfaces.IHandshakeListener`."""
        tls = self.leg.tls
        assert tls is not None
        try:
            demand_gateway(tls, self._gateway_name)
        except PeerNotAllowed as error:
            self.end(str(error))
            return
        self.secured.callback(self.leg)

    def connectionLost(self, reason: Failure | None = None) -> None:
        """See :class:`twisted.internet.interfaces.IProtocol`."""
        assert reason is not None
        if not self.secured.called:
            why = self._reason or reason.getErrorMessage()
            self.secured.errback(UplinkFailed(why))
        super().connectionLost(reason)


@implementer(IInternalEnd)
class GatewayLink(MultiService):
    """
    Keeps one uplink to the DMZ node *name* at *address*, and declares *services* over it.

    *services* are records as :class:`relaygate.commands.Declare` has them; *context* gives the TLS
    context of the moment; *started* takes a channel over on which the DMZ node has started a
    session.  :attr:`dataway` brings the data connections of FTP sessions that came this way;
    *kinds* are the kinds of channels (clear: False, TLS: True) that are kept ready.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        address: HostPort,
        name: str,
        pool: int,
        services: Sequence[dict[str, Any]],
        kinds: Collection[bool],
        context: Callable[[bytes], SSL.Context],
        started: Callable[[GatewayLink, SuppliedChannel, SessionStart], None],
        random: Callable[[], float],
        software: str,
    ) -> None:
        super().__init__()
        self.reactor = reactor
        self.address = address
        self.gateway_name = name
        self.software = software
        self._pool = pool
        self._declaration = Declaration(name, services, reactor)
        # The bans that hold: networks, and seconds that are left.
        self.bans: Callable[[], Sequence[tuple[str, float]]] = list
        self._kinds = kinds
        self.dataway = DataWay(reactor)
        self._context = context
        self._started = started
        self._random = random
        self._backoff = FullJitter(random)
        self._stood_since = 0.0
        self.not_after: datetime | None = None
        self._uplink: Uplink | None = None
        self._supply: ChannelSupply | None = None
        self._minor = 0
        self.generation = 0
        self._last_failure = ""
        self._noted_at = 0.0
        self._farewell = ""
        self._superseded = False
        # A newer uplink of this node's name has the place, since the last one of ours.
        self._displaced = False
        self._yields = False
        # The sessions that go through this link and run: see hold().
        self.sessions = 0
        self.retired = False
        # The DMZ node has said that it takes no new sessions.
        self.draining = False
        self._dialler = ClientService(
            Noting(leg_endpoint(reactor, address, CONNECT_LIMIT_S), self._note_failure),
            _UplinkFactory(lambda: DialledUplink(self, context(commands.ALPN_UPLINK))),
            retryPolicy=lambda failures: self._next_wait(),
            clock=reactor,
            # No prepareConnection: a connection that is lost while it prepares has no place in the
            # service's states, and each would leave a traceback.
        )
        self._dialler.setServiceParent(self)

    @property
    def up(self) -> bool:
        """Whether the uplink stands and the DMZ node has greeted."""
        return self._uplink is not None

    @property
    def settled(self) -> bool:
        """Whether the DMZ node has what is wished for, or is not there to have it."""
        return self._uplink is None or not self._declaration.under_way

    @property
    def refused(self) -> dict[str, str]:
        """The services that the DMZ node has refused, and why."""
        return self._declaration.refused

    def state(self) -> dict[str, Any]:
        """How the link is, for operators."""
        supply = self._supply
        since = self._stood_since if self.up else self.reactor.seconds()
        return {
            "name": self.gateway_name,
            "address": str(self.address),
            "state": ("draining" if self.draining else "up") if self.up else "down",
            "up_seconds": round(self.reactor.seconds() - since, 1),
            "generation": self.generation,
            "last_failure": self._last_failure,
            "idle_channels": {
                kind: supply.idle(tls) if supply is not None else 0
                for kind, tls in (("clear", False), ("tls", True))
            },
            "refused": self.refused,
        }

    async def report(self) -> dict[str, Any] | None:
        """What the DMZ node says of itself; None if there is no uplink, or it does not say."""
        try:
            return None if self._uplink is None else await fetch_report(self._uplink)
        except UplinkFailed as error:
            self.log.debug("{gateway}: {error}", gateway=self.gateway_name, error=str(error))
            return None

    async def put_bans(self, bans: Sequence[tuple[str, float]]) -> bool:
        """
        Set *bans* (networks, and the seconds that are left) in the DMZ; whether it took them all.

        Raises :class:`relaygate.uplink.UplinkFailed`.
        """
        if self._uplink is None or self._minor < LISTS_SINCE_MINOR:
            return False
        return not (bans and await put_bans(self._uplink, bans))

    async def ask(self, command: type[amp.Command], **arguments: Any) -> dict[str, Any]:
        """Ask the DMZ node; raises :class:`UplinkFailed`, also if there is no uplink."""
        if self._uplink is None:
            raise UplinkFailed(f"there is no uplink to {self.gateway_name}")
        return await self._uplink.ask(command, **arguments)

    def offer(self, services: Sequence[dict[str, Any]], kinds: Collection[bool], pool: int) -> None:
        """Offer *services* from now on, with *pool* channels of *kinds*; as the constructor has
        them.
        """
        declared = services != self._declaration.services
        self._declaration.services = services
        self._kinds, self._pool = kinds, pool
        uplink = self._uplink
        if uplink is None or self._supply is None:
            return
        self._supply.keep(kinds, pool)
        if declared:
            self._declaration.state_again(uplink)

    def retire(self) -> None:
        """
        Offer nothing any more, and end when the last session has; until then those of FTP may open
        data connections.

        An uplink that is lost is not dialled again: it would take the place of one that another
        link of this node may have to the same DMZ node by then.
        """
        self.retired = True
        self.offer([], set(), 1)
        if not self.sessions:
            self.disownServiceParent()
        elif not self.up:
            self._dialler.stopService()

    def yield_to_newer(self) -> None:
        """
        The program ends when its sessions have: where a newer one of this node's name has taken
        over, or will, its uplink is not taken back.  One that is only lost is dialled again.
        """
        self._yields = True
        if self._displaced:
            self._dialler.stopService()

    def hold(self) -> None:
        """A session goes through here: a link that is retired lasts as long as one does."""
        self.sessions += 1

    def release(self) -> None:
        """A session is over."""
        self.sessions -= 1
        if self.retired and not self.sessions and self.parent is not None:
            self.disownServiceParent()

    @property
    def leads_out(self) -> bool:
        """Whether connections outwards can be asked for there now."""
        return self.up and not self.draining and self._minor >= commands.MINOR_FORWARD

    def _next_wait(self) -> float:
        wait = self._backoff.next_wait()
        if self._superseded:
            self._superseded = False
            wait += SUPERSEDED_WAIT_S
        return wait

    # -- up -------------------------------------------------------------------------------------

    async def greet(self, uplink: DialledUplink) -> None:
        """Secure *uplink*, say hello, declare; one that does not come so far is ended."""
        try:
            leg = await uplink.secured.addTimeout(HELLO_LIMIT_S, self.reactor)
            answer = await uplink.ask(
                commands.Hello,
                major=commands.MAJOR,
                minor=commands.MINOR,
                software=self.software,
                deadline_s=HELLO_LIMIT_S,
            )
        except (UplinkFailed, TimeoutError) as error:
            silent = isinstance(error, TimeoutError)
            reason = f"no TLS handshake in {HELLO_LIMIT_S:g} s" if silent else str(error)
            if isinstance(error, Unanswered) and "alert" not in reason:
                # A node that is not wanted is told nothing, so this is the likely cause.
                reason = "it closed the uplink unanswered: is this node in its uplink.nodes?"
            self._note_failure(reason)
            uplink.end(reason)
            return
        assert leg.tls is not None
        self._last_failure = ""
        self._stood_since = self.reactor.seconds()
        self.not_after = peer_end(leg.tls)
        self._uplink = uplink
        self.draining = self._displaced = False
        self.generation = answer["generation"]
        self._minor = answer["minor"]
        self._declaration.up(uplink, self._minor)
        self.log.info(
            "uplink open: gateway={gateway} address={address} generation={generation}"
            " software={software!r} key_exchange={key_exchange}",
            gateway=self.gateway_name,
            address=str(self.address),
            generation=answer["generation"],
            software=answer["software"],
            key_exchange=key_exchange(leg.tls),
        )
        self._supply = ChannelSupply(
            self.reactor,
            self.address,
            self.gateway_name,
            UplinkKeys(*uplink_secrets(leg.tls)),
            lambda: self._context(commands.ALPN_CHANNEL),
            self._pool,
            self._channel_started,
            self._random,
        )
        uplink.start_pings()
        self._supply.keep(self._kinds)
        self.dataway.up(uplink)
        try:
            await self.put_bans(self.bans())
            await self._declaration.state(uplink)
        except UplinkFailed as error:
            uplink.end(str(error))

    def _channel_started(self, channel: SuppliedChannel, start: Start) -> None:
        if isinstance(start, TransferStart):
            self.dataway.take(channel, start)
        else:
            self._started(self, channel, start)

    def broken(self, failure: Failure, uplink: DialledUplink) -> None:
        """:meth:`greet` has failed in a way that nobody thought of: it is tried again."""
        self.log.failure("greeting {gateway} failed", failure, gateway=self.gateway_name)
        uplink.end("internal error")

    def _note_failure(self, reason: str) -> None:
        # A DMZ node that is down for an hour is a few lines, not hundreds.
        now = self.reactor.seconds()
        if reason != self._last_failure or now - self._noted_at >= NOTE_AGAIN_S:
            self._last_failure = reason
            self._noted_at = now
            self.log.warn(
                "no uplink to {gateway} at {address}: {reason}",
                gateway=self.gateway_name,
                address=str(self.address),
                reason=reason,
            )

    # -- IInternalEnd ---------------------------------------------------------------------------

    def open_channels(self, uplink: Uplink, tls: bool, count: int) -> None:
        """See :class:`relaygate.uplinkends.IInternalEnd`."""
        if self._supply is not None and uplink is self._uplink:
            self._supply.demand(tls, count)

    def gateway_draining(self, uplink: Uplink) -> None:
        """See :class:`relaygate.uplinkends.IInternalEnd`."""
        self.draining = True
        self.log.info("{gateway} takes no new sessions any more", gateway=self.gateway_name)

    def declare_again(self, uplink: Uplink) -> None:
        """See :class:`relaygate.uplinkends.IInternalEnd`."""
        self._declaration.soon()

    def farewell(self, uplink: Uplink, reason: str, superseded: bool) -> None:
        """See :class:`relaygate.uplinkends.IUplinkEnd`."""
        self._superseded = self._displaced = superseded
        self._farewell = reason
        self.log.info(
            "{gateway} says farewell: {reason!r}", gateway=self.gateway_name, reason=reason
        )
        if self._supply is not None and uplink is self._uplink:
            # Its idle channels end now, which is nothing to warn of.
            self._supply.close()

    def uplink_lost(self, uplink: Uplink, reason: str) -> None:
        """See :class:`relaygate.uplinkends.IUplinkEnd`."""
        if uplink is not self._uplink:
            return
        self._uplink = None
        self.dataway.down()
        self._backoff.stood(self.reactor.seconds() - self._stood_since)
        if self._supply is not None:
            self._supply.close()
            self._supply = None
        self._declaration.down()
        write = self.log.info if self._farewell else self.log.warn
        write(
            "uplink lost: gateway={gateway} reason={reason!r}",
            gateway=self.gateway_name,
            reason=self._farewell or reason,
        )
        self._farewell = ""
        if self.retired or (self._yields and self._displaced):
            self._dialler.stopService()

    def stopService(self) -> Any:
        """Say farewell, and end the uplink at once."""
        if self._uplink is not None:
            self._farewell = "the internal node is shutting down"
            self._uplink.leave(self._farewell)
        return super().stopService()


class _UplinkFactory(Factory):
    noisy = False

    def __init__(self, make: Callable[[], DialledUplink]) -> None:
        self._make = make

    def buildProtocol(self, addr: object) -> DialledUplink:
        """See :class:`twisted.internet.interfaces.IProtocolFactory`."""
        return self._make()
