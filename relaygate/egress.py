"""
The way out, in the DMZ: connections that internal nodes ask for, to destinations of the policy.

A node names a host and a port; all that is decided about it is decided here, in one line::

    asked for --> resolved --> policy: every address --> dialled: one of these --> RUNNING
                     |              |                          |                  (a Transfer)
                  no such name   not allowed             refused, unreachable

The name is resolved once, and what is dialled is a literal of which the policy was asked: an answer
that changes in between changes nothing.  What stands then is a session of the node's, which a
:class:`relaygate.transfer.Transfer` carries; where it is one of FTP, it may have transfers as a
published session has.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from relaygate.addresses import AddressError, HostPort, host_name
from relaygate.admission import Caps, Counted, Throttle
from relaygate.commands import BadArgument, NotPermitted, NotPossible
from relaygate.destinations import Destinations
from relaygate.dial import DialFailed, dial_first
from relaygate.errors import (
    DestinationRefused,
    DestinationUnreachable,
    NetworkUnreachable,
    NoSuchName,
    NotAllowed,
    Refusal,
    TooMany,
)
from relaygate.listeners import INode
from relaygate.outcome import Cause, Outcome, Phase
from relaygate.passive import PassivePorts
from relaygate.pipes import PipeShelf
from relaygate.resolver import Lookups, NotResolved, RoutingTable, source_towards
from relaygate.sessionlog import Moved, log_end, log_event, log_open
from relaygate.transfer import Control, Transfer
from relaygate.transfers import Transfers

# Seconds for the name and the dial together.
CONNECT_LIMIT_S = 15.0
# Connections of one node that are being made: names that nobody answers must not fill the room.
MAX_PENDING = 256
# Ports that one node has open for somebody to come: they are the ports of FTP's transfers, too.
MAX_AWAITED = 256

# A name, seconds, and the name of the node that asks.
Resolve = Callable[[str, float, str], Awaitable[Sequence[str]]]


class Egress:
    """
    All connections outwards.

    *policy* is what may be reached, *sources* the address to dial from by IP version, *caps* the
    most at once, in all and to one address, *most_of_node* those of one node.  *transfers* has the
    sessions of FTP, *ports* opens ports for what comes back.  :attr:`resolve` gives the addresses
    of a name, within seconds.
    """

    log = Logger()

    def __init__(
        self,
        reactor: Any,
        shelf: PipeShelf,
        policy: Destinations,
        sources: Mapping[int, str],
        caps: Caps,
        transfers: Transfers,
        ports: PassivePorts,
        most_of_node: int = 0,
    ) -> None:
        self.reactor = reactor
        self.shelf = shelf
        self.policy = policy
        self.sources = sources
        self.transfers = transfers
        self.ports = ports
        self.counted = Counted(caps)
        self.of_nodes = Counted(Caps(0, most_of_node))
        self.pending = Counted(Caps(0, MAX_PENDING))
        self.awaited = Counted(Caps(0, MAX_AWAITED))
        self.resolve: Resolve = Lookups(reactor).resolve
        self._routes = RoutingTable()
        self.is_own = self._routes.is_own
        self.refused = Throttle(reactor.seconds)
        self._all: dict[tuple[str, int], _Outward] = {}

    def __len__(self) -> int:
        return len(self._all)

    def use_policy(
        self, policy: Destinations, sources: Mapping[int, str], caps: Caps, most_of_node: int = 0
    ) -> None:
        """Ask these from now on; what stands already stands."""
        self.policy = policy
        self.sources = sources
        self.counted.caps = caps
        self.of_nodes.caps = Caps(0, most_of_node)

    async def connect(
        self, node: INode, *, data: bool, patience: int, **wish: Any
    ) -> dict[str, Any]:
        """See :class:`relaygate.commands.Connect`; *node* asks."""
        outward = self._enter(node, **wish)
        limit_s = min(patience / 1000, CONNECT_LIMIT_S)
        return await outward.answer(lambda: outward.dial(limit_s, data))

    async def await_peer(
        self, node: INode, *, first: int, last: int, **wish: Any
    ) -> dict[str, Any]:
        """See :class:`relaygate.commands.Await`; *node* asks."""
        outward = self._enter(node, **wish)
        return await outward.answer(lambda: outward.listen((first, last)))

    def _enter(
        self,
        node: INode,
        *,
        session: str,
        transfer: int,
        entry: str,
        host: str,
        tls: bool,
        port: int = 0,
    ) -> _Outward:
        """What both commands ask for: a connection of *node*'s, to *host*."""
        wanted = _wanted(host, port)
        if (session, transfer) in self._all or self.transfers.knows(session):
            raise NotPermitted("the session has a connection of this number")
        if not self.pending.has_room(node.name):
            raise NotPossible("too many connections of this node are being made")
        outward = _Outward(self, node, session, transfer, entry, wanted, tls)
        self._all[session, transfer] = outward
        self.pending.add(node.name)
        return outward

    def settled(self, node: INode) -> None:
        """A connection of *node*'s has been made, or not."""
        self.pending.remove(node.name)

    def forget(self, session: str, number: int) -> None:
        """A connection is over."""
        del self._all[session, number]

    def close(self, node: INode, session: str, number: int) -> None:
        """*node* gives a connection up, if there is one of that number."""
        outward = self._all.get((session, number))
        if outward is not None and outward.node.name == node.name:
            outward.abort(Cause.INSIDE, "given up")

    def node_lost(self, node: INode) -> None:
        """*node*'s uplink is gone: what it had asked for and is not running goes too."""
        for outward in list(self._all.values()):
            if outward.node is node and not outward.running:
                outward.abort(Cause.UPLINK, "the uplink is gone")

    def stop(self, detail: str) -> None:
        """The DMZ node stops."""
        for outward in list(self._all.values()):
            outward.abort(Cause.SHUTDOWN, detail)
        self._routes.close()


class _Outward:
    """One connection outwards, from the wish for it until it is over."""

    def __init__(
        self,
        egress: Egress,
        node: INode,
        session: str,
        number: int,
        entry: str,
        wanted: HostPort,
        tls: bool,
    ) -> None:
        self.node = node
        self._egress = egress
        self._session = session
        self._number = number
        self._entry = entry
        self._wanted = wanted
        self._tls = tls
        self._began = egress.reactor.seconds()
        self._address = ""
        self._counted = ""
        self._awaits = False
        self._transfer: Transfer | None = None
        self._work: Deferred[tuple[str, int]] | None = None
        self._over = False

    @property
    def running(self) -> bool:
        """Whether bytes move."""
        return self._transfer is not None and self._transfer.relay is not None

    async def answer(self, make: Callable[[], Any]) -> dict[str, Any]:
        """What the node is answered when *make*'s work, an address and a port, is done."""
        refusal: Refusal | None = None
        host, port = "", 0
        detail = ""
        try:
            self._work = Deferred.fromCoroutine(make())
            host, port = await self._work
        except CancelledError:
            raise NotPossible("it was closed") from None
        except _Refused as error:
            refusal, detail = error.refusal, str(error)
        except (NotPermitted, NotPossible) as error:
            refusal, detail = NotAllowed(), str(error)
            if isinstance(error, NotPossible):
                refusal = TooMany()
        finally:
            self._work = None
            self._egress.settled(self.node)
            # Whatever happened, of what does not stand nothing stays.
            if not host:
                self._finish(refusal, detail)
        code = refusal.code if refusal else 0
        return {"code": code, "detail": detail[:256], "own_host": host, "own_port": port}

    # -- making it ------------------------------------------------------------------------------

    async def dial(self, limit_s: float, data: bool) -> tuple[str, int]:
        """Reach the destination; the answer is the address and port of our own end."""
        egress = self._egress
        end = egress.reactor.seconds() + limit_s
        addresses = await self._addresses(limit_s)
        if not egress.policy.lead_to(self._wanted, addresses):
            raise _Refused(NotAllowed(), _forbidden(self._wanted, addresses))
        try:
            leg = await dial_first(
                egress.reactor,
                [address for address, _ in addresses],
                self._wanted.port,
                max(0.1, end - egress.reactor.seconds()),
                egress.sources,
            )
        except DialFailed as error:
            raise _Refused(_dial_refusal(error.number), str(error)) from None
        peer, own = leg.getPeer(), leg.getHost()
        try:
            self._take_place(peer.host)
        except _Refused:
            leg.abortConnection()
            raise
        control = Control(
            self._session, self.node.name, (peer.host, peer.port), (own.host, own.port)
        )
        self._transfer = self._carrier(control)
        if data:
            egress.transfers.admit(control)
        self._transfer.carry(leg)
        return own.host, own.port

    async def listen(self, ports: tuple[int, int]) -> tuple[str, int]:
        """Open a port for the destination; the answer is its address and number."""
        egress = self._egress
        addresses = await self._addresses(CONNECT_LIMIT_S)
        if not egress.policy.know_host(self._wanted.host, addresses):
            raise _Refused(NotAllowed(), _forbidden(self._wanted, addresses))
        first = addresses[0][0]
        host = egress.sources.get(6 if ":" in first else 4) or source_towards(first)
        if host is None:
            raise _Refused(NetworkUnreachable(), "no way leads there")
        if not egress.awaited.has_room(self.node.name):
            raise _Refused(TooMany(), "too many ports of this node are open")
        self._take_place(first)
        egress.awaited.add(self.node.name)
        self._awaits = True
        control = Control(self._session, self.node.name, (first, 0), (host, 0))
        self._transfer = transfer = self._carrier(control)
        transfer.tells_peer = True
        port = transfer.listen(egress.ports, ports, [address for address, _ in addresses[1:]])
        return host, port

    async def _addresses(self, limit_s: float) -> list[tuple[str, bool]]:
        """What the destination is resolved to, each with whether it is our own."""
        if self._wanted.literal is not None:
            found: Sequence[str] = [self._wanted.host]
        elif not self._egress.policy.may_lead(self._wanted.host, self._wanted.port):
            # A node that is not what it was must not ask the world through our resolver, nor keep
            # it from those who may: a question is a message, too.
            raise _Refused(NotAllowed(), _forbidden(self._wanted, ()))
        else:
            try:
                found = await self._egress.resolve(self._wanted.host, limit_s, self.node.name)
            except NotResolved as error:
                raise _Refused(NoSuchName(), str(error)) from None
        # An address that a resolver dresses up is none that may be dialled.
        try:
            literals = [host_name(address) for address in found]
        except AddressError as error:
            raise _Refused(NotAllowed(), f"its name leads to what is no address: {error}") from None
        return [(address, self._egress.is_own(address)) for address in literals]

    def _take_place(self, address: str) -> None:
        counted, of_nodes = self._egress.counted, self._egress.of_nodes
        if not counted.has_room(address):
            raise _Refused(TooMany(), "too many connections outwards")
        if not of_nodes.has_room(self.node.name):
            raise _Refused(TooMany(), "too many connections outwards of this node")
        counted.add(address)
        of_nodes.add(self.node.name)
        self._counted = self._address = address

    def _carrier(self, control: Control) -> Transfer:
        egress = self._egress
        return Transfer(
            control,
            self._number,
            self._tls,
            self.node,
            egress.reactor,
            egress.shelf,
            self._carried,
            began=self._opened,
        )

    # -- and its end ----------------------------------------------------------------------------

    def abort(self, cause: Cause, detail: str) -> None:
        """End it now, whatever it does."""
        if self._transfer is not None:
            self._transfer.abort(cause, detail)
        elif self._work is not None:
            self._work.cancel()

    def _opened(self) -> None:
        self._awaits_no_more()
        log_open(self._egress.log, **self._fields())

    def _carried(self, transfer: Transfer) -> None:
        outcome = transfer.outcome
        assert outcome is not None
        # To the carrier the one outside is the client, whoever dialled.
        if outcome.cause is Cause.CLIENT:
            outcome = Outcome(Cause.BACKEND, outcome.phase, outcome.detail)
        self._egress.transfers.over(self._session, outcome)
        relay = transfer.relay
        self._leave(outcome, relay.bytes_out if relay else 0, relay.bytes_in if relay else 0)

    def _finish(self, refusal: Refusal | None, detail: str) -> None:
        if self._transfer is not None:
            self._transfer.abort(Cause.POLICY, detail)
            return
        cause = refusal.cause if refusal else Cause.INSIDE
        if isinstance(refusal, NotAllowed):
            fields = self._fields()
            log_event(self._egress.log, "refused", usual=False, **fields, reason=detail)
        self._leave(Outcome(cause, Phase.OPEN, detail or "given up"), 0, 0)

    def _leave(self, outcome: Outcome, bytes_in: int, bytes_out: int) -> None:
        if self._over:
            return
        self._over = True
        egress = self._egress
        self._awaits_no_more()
        if self._counted:
            egress.counted.remove(self._counted)
            egress.of_nodes.remove(self.node.name)
        egress.forget(self._session, self._number)
        seconds = egress.reactor.seconds() - self._began
        log_end(egress.log, outcome, self._fields(), Moved(bytes_in, bytes_out), seconds)

    def _awaits_no_more(self) -> None:
        if self._awaits:
            self._awaits = False
            self._egress.awaited.remove(self.node.name)

    def _fields(self) -> dict[str, object]:
        return {
            "session": self._session,
            "entry": self._entry,
            "node": self.node.name,
            "destination": str(self._wanted),
            "address": self._address or "-",
        }


class _Refused(Exception):
    """It cannot be; the text is for the node and the log."""

    def __init__(self, refusal: Refusal, detail: str) -> None:
        super().__init__(detail)
        self.refusal = refusal


def _wanted(host: str, port: int) -> HostPort:
    try:
        return HostPort(host_name(host), port)
    except AddressError as error:
        raise BadArgument(f"the host is {error}") from None


def _forbidden(wanted: HostPort, addresses: Sequence[tuple[str, bool]]) -> str:
    where = ", ".join(address for address, _ in addresses)
    where = f" at {where}" if where and not wanted.literal else ""
    return f"the DMZ's policy.connect does not permit {wanted}{where}"


def _dial_refusal(number: int) -> Refusal:
    if number == errno.ECONNREFUSED:
        return DestinationRefused()
    if number in (errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
        return NetworkUnreachable()
    return DestinationUnreachable()
