"""
One data connection in the DMZ, from the wish for it until it is over.

::

    asked for --+--> LISTENING --- the client came -------+--> MEETING --- inside ---> RUNNING
                +--> DIALLING ---- the client is reached -+   (a channel) replied    (a relay)

No end that is not orderly looks like one: it is a reset.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from relaygate.addresses import HostPort
from relaygate.commands import BadArgument, NotPossible
from relaygate.dial import DialFailed, dial
from relaygate.errors import NoTransfer, Refusal
from relaygate.legs import Leg
from relaygate.listeners import INode
from relaygate.mapped import Mapping
from relaygate.outcome import Cause, Outcome, Phase
from relaygate.passive import PassivePort, PassivePorts
from relaygate.pipes import PipeShelf
from relaygate.protocols.preamble import TransferStart
from relaygate.relay import Relay
from relaygate.rendezvous import meet
from relaygate.sessionlog import Shown, log_detail

# Below the uplink's own deadline for an answer.
DIAL_LIMIT_S = 8.0
# Seconds from the client's data connection to the inside's reply on a channel.
MEET_LIMIT_S = 10.0


@dataclass(frozen=True, slots=True)
class Control:
    """
    A session that may have transfers, as (host, port) of its client and of what that reached.

    ``session`` is its id, ``node`` the name of the internal node that it runs on.  With a
    ``mapping`` its data connections are not asked for.
    """

    session: str
    node: str
    client: tuple[str, int]
    reached: tuple[str, int]
    mapping: Mapping | None = None


class Transfer:
    """
    One data connection, from the wish for it until it is over.

    *number* is the inside's own, *tls* the kind of channel, *node* who asked; *over* is called
    once, at the end, when :attr:`outcome` is there, and *began* when bytes begin to move.  With
    :attr:`tells_peer` the inside is told who has come.
    """

    log = Logger()

    def __init__(
        self,
        control: Control,
        number: int,
        tls: bool,
        node: INode,
        reactor: Any,
        shelf: PipeShelf,
        over: Callable[[Transfer], None],
        began: Callable[[], None] = lambda: None,
    ) -> None:
        self.control = control
        self.outcome: Outcome | None = None
        self.tells_peer = False
        # Asked for another session, where the inside knows of none: see belong_to.
        self.hand_on: Callable[[Transfer], bool] = lambda _: False
        self.number = number
        self.node = node
        self.relay: Relay | None = None
        self._tls = tls
        self._reactor = reactor
        self._shelf = shelf
        self._over: Callable[[Transfer], None] | None = over
        self._began = began
        self._port: PassivePort | None = None
        self._work: Deferred[Any] | None = None
        self._leg: Leg | None = None
        self._way = ""

    def listen(self, room: PassivePorts, ports: tuple[int, int], peers: Sequence[str]) -> int:
        """Open a port of *ports* for the client, or *peers* (networks); the answer is the port."""
        try:
            networks = [ip_network(peer) for peer in peers]
        except ValueError:
            raise BadArgument("a peer is not a network") from None

        def expects(address: str) -> bool:
            if address == self.control.client[0]:
                return True
            return bool(networks) and any(ip_address(address) in each for each in networks)

        self._way = "passive"
        self._port = room.open(
            self.control.reached[0],
            ports,
            expects,
            self.arrived,
            lambda: self.abort(Cause.TIMEOUT, "nobody connected"),
        )
        self._note("listens", port=self._port.number)
        return self._port.number

    async def dial(self, port: int, source_port: int) -> None:
        """Reach *port* of the client, from *source_port* (0: any).  Raises NotPossible."""
        self._way = "active"
        client = HostPort(self.control.client[0], port)
        source = (self.control.reached[0], source_port)
        self._work = Deferred.fromCoroutine(dial(self._reactor, client, DIAL_LIMIT_S, source))
        try:
            leg = await self._work
        except CancelledError:
            raise NotPossible("the transfer was closed") from None
        except DialFailed as error:
            self._work = None
            self.abort(Cause.CLIENT, str(error))
            raise NotPossible(f"the client was not reached: {error}") from None
        self.arrived(leg)

    def carry(self, leg: Leg) -> None:
        """Carry *leg*, which was dialled for it and is not read."""
        self._way = "outwards"
        self.arrived(leg)

    def arrived(self, leg: Leg) -> None:
        """The client's connection is here."""
        self._leg = leg
        self._work = Deferred.fromCoroutine(self._meet(leg))
        self._work.addErrback(self._broken)

    def belong_to(self, control: Control, node: INode) -> None:
        """It is one of another session, which *node* has: the client's connection is met anew."""
        assert self._leg is not None
        self.control, self.node = control, node
        self.arrived(self._leg)

    async def _meet(self, leg: Leg) -> None:
        came = None
        if self.tells_peer:
            peer = leg.getPeer()
            came = (peer.host, peer.port)
        start = TransferStart(self.control.session, self.number, came)
        try:
            channel = await meet(
                self.node,
                self._tls,
                self.control.client[0],
                lambda _: start,
                self._reactor,
                self._reactor.seconds() + MEET_LIMIT_S,
            )
        except Refusal as refusal:
            # This very work; there is nothing to cancel.
            self._work = None
            if not (isinstance(refusal, NoTransfer) and self.hand_on(self)):
                self.abort(refusal.cause, refusal.meaning)
            return
        self._note("runs")
        self._began()
        self.relay = Relay(
            leg, channel.leg, self._reactor, self._shelf, self._finish, beyond=Cause.INSIDE
        )
        self.relay.start(before_out=channel.rest)

    def abort(self, cause: Cause, detail: str) -> None:
        """End it now, whatever it does; a connection that stands is reset."""
        if self.relay is not None:
            self.relay.abort(cause, detail)
        else:
            self._finish(Outcome(cause, Phase.OPEN, detail))

    def _finish(self, outcome: Outcome) -> None:
        over, self._over = self._over, None
        if over is None:
            return
        self.outcome = outcome
        # First, since what is cancelled below may ask whether it is there.
        over(self)
        if self._port is not None:
            self._port.close()
        if self.relay is None:
            if self._work is not None:
                self._work.cancel()
            if self._leg is not None:
                self._leg.abortConnection()
        self._note(
            "is over",
            outcome=str(outcome),
            bytes_in=self.relay.bytes_in if self.relay else 0,
            bytes_out=self.relay.bytes_out if self.relay else 0,
        )

    def _broken(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self.log.failure("transfer of session {session} failed", failure, session=self.session)
            self.abort(Cause.FAULT, "internal error")

    @property
    def session(self) -> str:
        """The id of the session that it belongs to."""
        return self.control.session

    def _note(self, what: str, **fields: object) -> None:
        if self._way == "outwards":
            # A session of its own, which has lines of its own.
            return
        # At debug level: the inside's log has a line for each transfer, which knows what it was.
        log_detail(
            self.log,
            "transfer {session}/{transfer} {what}: way={way} {shown}",
            session=self.session,
            transfer=self.number,
            what=what,
            way=self._way,
            shown=Shown(fields),
            **fields,
        )
