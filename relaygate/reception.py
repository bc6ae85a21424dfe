"""The reception of a listener in the DMZ: who is let in, before a session is made of it."""

from __future__ import annotations

from typing import cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger

from relaygate.desk import Desk
from relaygate.frontsession import FrontSession
from relaygate.gate import Gate, Turned
from relaygate.intake import Intake
from relaygate.legs import Leg
from relaygate.listeners import Listener
from relaygate.networks import source_of
from relaygate.protocols.proxyheader import ProxyHeader
from relaygate.transfers import Transfers


class Reception(Factory):
    """
    The factory of one listener: lets clients in whom the *gate* does not turn away, as far as the
    desk has room for them.

    Those that come through a proxy are asked for their own address first, by the *intake*.
    The port asks :meth:`lets_in` before it makes anything of a connection.
    """

    noisy = False
    log = Logger()

    def __init__(
        self,
        listener: Listener,
        desk: Desk,
        transfers: Transfers,
        gate: Gate,
        intake: Intake,
    ) -> None:
        self.listener = listener
        self.desk = desk
        self.transfers = transfers
        self._gate = gate
        self._intake = intake

    def lets_in(self, address: str) -> bool:
        """Whether a connection from *address* may be taken, of which nothing is made yet."""
        try:
            return self._intake.trusts(address) or self._admits(address)
        except Exception:  # noqa: BLE001 - the others who come are no worse for it
            self.log.failure("looking at who comes")
            return False

    def buildProtocol(self, addr: IAddress | None) -> Protocol | None:
        """See :class:`twisted.internet.interfaces.IProtocolFactory`; it was let in."""
        if self._intake.trusts(str(getattr(addr, "host", addr))):
            return self._intake.protocol(self._introduced)
        return _Arriving(self)

    def _introduced(self, leg: Leg, header: ProxyHeader) -> None:
        """A proxy has said whose connection *leg* is; its own, if the header says nothing."""
        address = header.source[0] if header.source else str(leg.getPeer().host)
        if not self._admits(address):
            leg.abortConnection()
            return
        arriving = _Arriving(self, header)
        leg.protocol = arriving
        arriving.makeConnection(leg)

    def _admits(self, address: str) -> bool:
        offer, desk, gate = self.listener.offer, self.desk, self._gate
        why = gate.refuses(address, offer.allow, offer.deny, self.listener.rated)
        if why is None:
            if desk.pending.has_room(source_of(address)):
                return True
            # So many wait already that saying no in words would be work done for a flood.
            why = Turned.TOO_MANY_WAIT
        gate.turned[why] += 1
        if desk.dropped.passes():
            self.log.warn(
                "connection dropped: service={service} client={client}"
                " reason={reason!r} not_logged={not_logged}",
                service=offer.name,
                client=address,
                reason=str(why),
                not_logged=desk.dropped.take_suppressed(),
            )
        return False


class _Arriving(Protocol):
    """A client's connection (a :class:`WaitingLeg`) until it is part of a relay."""

    def __init__(self, reception: Reception, header: ProxyHeader | None = None) -> None:
        self._reception = reception
        self._header = header

    def connectionMade(self) -> None:
        """See :class:`twisted.internet.interfaces.IProtocol`."""
        leg = cast(Leg, self.transport)
        leg.abort_by_default()
        reception = self._reception
        session = FrontSession(
            leg, reception.listener, reception.desk, reception.transfers, self._header
        )
        Deferred.fromCoroutine(session.run()).addErrback(session.broken)
