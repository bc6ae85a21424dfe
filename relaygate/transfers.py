"""
FTP data connections in the DMZ: those of the sessions that run there (RFC 959 section 3.2).

The internal node reads what the client and the server say, and asks for each data connection; the
DMZ knows nothing of FTP but this::

    asked for --+--> LISTENING --- the client came -------+--> MEETING --- inside ---> RUNNING
                +--> DIALLING ---- the client is reached -+   (a channel) replied    (a relay)

A node speaks only for sessions that run on it, and the one who connects, or is dialled, is that
session's client.  What is not running yet ends with its session and with its node's uplink; what
runs ends by itself.  Nobody asks for those of sessions that pass unopened: they come to a range of
ports that is bound for them (:mod:`relaygate.mapped`), and are met in the same way from there.

The inside sees how a client leaves its control connection, and knows
whether it has said QUIT, so it aborts a transfer that must not go on; the DMZ does it only where
it ends the session itself.  No end that is not orderly looks like one: it is a reset.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from relaygate.addresses import HostPort
from relaygate.commands import BadArgument, NotPermitted, NotPossible
from relaygate.dial import DialFailed, dial
from relaygate.errors import Refusal
from relaygate.legs import Leg
from relaygate.listeners import INode
from relaygate.mapped import MappedPorts, Mapping
from relaygate.outcome import Cause, Outcome, Phase
from relaygate.passive import PassivePort, PassivePorts
from relaygate.pipes import PipeShelf
from relaygate.protocols.preamble import TransferStart
from relaygate.relay import Relay
from relaygate.rendezvous import meet
from relaygate.sessionlog import Shown, log_detail

# One that runs, and one that is being prepared for the next command.
MAX_TRANSFERS = 2
# The same for a session that passes unopened; all sessions of one client share theirs.
MAX_MAPPED = 4
# Below the uplink's own deadline for an answer.
DIAL_LIMIT_S = 8.0
# Seconds from the client's data connection to the inside's reply on a channel.
MEET_LIMIT_S = 10.0
# Seconds without a byte in a transfer whose session is over: its client has but to close.
LEAVING_LIMIT_S = 60.0


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


class Transfers:
    """The transfers of all sessions; *ports* opens the passive ones."""

    def __init__(self, reactor: Any, shelf: PipeShelf, ports: PassivePorts) -> None:
        self._reactor = reactor
        self._shelf = shelf
        self.ports = ports
        self._controls: dict[str, Control] = {}
        # By session and number; some go on when their session is over.
        self._all: dict[tuple[str, int], Transfer] = {}
        self._count: dict[str, int] = {}
        self._mapped: set[Transfer] = set()
        # The nodes that sessions being opened are tried with, by what node_of is asked about.
        self._heading: dict[tuple[str, str, Mapping], dict[str, str]] = {}
        # The newest uplink of the node of a name: sessions outlive uplinks.
        self.find_node: Callable[[str], INode | None] = lambda _: None
        self.ranges = MappedPorts(reactor, ports.allowed, self._came, ports.intake)

    @property
    def running(self) -> int:
        """How many carry bytes now."""
        return sum(transfer.relay is not None for transfer in self._every)

    @property
    def prepared(self) -> int:
        """How many wait for their client or for the inside."""
        return len(self._every) - self.running

    @property
    def _every(self) -> list[Transfer]:
        return [*self._all.values(), *self._mapped]

    # -- sessions -------------------------------------------------------------------------------

    def admit(self, control: Control) -> None:
        """A session begins that may have transfers."""
        self._controls[control.session] = control
        if control.mapping is not None:
            client, reached = control.client[0], control.reached[0]
            self.ranges.begin(control.session, client, reached, control.mapping)

    def knows(self, session: str) -> bool:
        """Whether *session* runs and may have transfers."""
        return session in self._controls

    def over(self, session: str, outcome: Outcome) -> None:
        """*session* has ended, if it may have had transfers; *outcome* says how."""
        if self._controls.pop(session, None) is None:
            return
        self.ranges.over(session)
        # What the client or the inside did, the inside sees too, and knows more of.
        ended = outcome.cause in (Cause.DONE, Cause.CLIENT, Cause.INSIDE)
        for transfer in self._of(lambda each: each.session == session):
            if transfer.relay is None or not ended:
                transfer.abort(outcome.cause, "its session is over")
            elif transfer.control.mapping is None:
                transfer.relay.hurry(LEAVING_LIMIT_S)

    # -- what the internal nodes ask for --------------------------------------------------------

    def open_passive(
        self,
        node: INode,
        session: str,
        number: int,
        ports: tuple[int, int],
        peers: Sequence[str],
        tls: bool,
    ) -> int:
        """See :meth:`relaygate.uplinkends.IDMZEnd.open_passive`; *node* asks."""
        transfer = self._prepare(node, session, number, tls)
        try:
            return transfer.listen(self.ports, ports, peers)
        except Exception as error:
            transfer.abort(Cause.POLICY, str(error))
            raise

    async def dial_active(
        self, node: INode, session: str, number: int, port: int, source_port: int, tls: bool
    ) -> None:
        """See :meth:`relaygate.uplinkends.IDMZEnd.dial_active`; *node* asks."""
        await self._prepare(node, session, number, tls).dial(port, source_port)

    def close(self, node: INode, session: str, number: int) -> None:
        """*node* gives transfer *number* of *session* up."""
        transfer = self._all.get((session, number))
        if transfer is not None and transfer.node.name == node.name:
            transfer.abort(Cause.INSIDE, "given up")

    def node_lost(self, node: INode) -> None:
        """*node*'s uplink is gone: what it had asked for and is not running goes too."""
        for transfer in self._of(lambda each: each.node is node and each.relay is None):
            transfer.abort(Cause.UPLINK, "the uplink is gone")

    def stop(self, detail: str) -> None:
        """The DMZ node stops."""
        self.ranges.stop()
        for transfer in self._of(lambda each: True):
            transfer.abort(Cause.SHUTDOWN, detail)

    def _prepare(self, node: INode, session: str, number: int, tls: bool) -> Transfer:
        control = self._controls.get(session)
        if control is None or control.node != node.name or control.mapping is not None:
            raise NotPermitted("no FTP session of this id runs on this node")
        if (session, number) in self._all:
            raise NotPermitted("the session has a transfer of this number")
        if self._count.get(session, 0) >= MAX_TRANSFERS:
            raise NotPossible(f"the session has {MAX_TRANSFERS} transfers already")
        transfer = Transfer(control, number, tls, node, self._reactor, self._shelf, self._forget)
        self._all[session, number] = transfer
        self._count[session] = self._count.get(session, 0) + 1
        return transfer

    def _forget(self, transfer: Transfer) -> None:
        session = transfer.session
        del self._all[session, transfer.number]
        self._count[session] -= 1
        if not self._count[session]:
            del self._count[session]

    def _of(self, wanted: Callable[[Transfer], bool]) -> list[Transfer]:
        return [transfer for transfer in self._every if wanted(transfer)]

    # -- sessions that pass unopened ------------------------------------------------------------

    def node_of(
        self, client: str, reached: str, mapping: Mapping, tried: Container[str] = ()
    ) -> str | None:
        """
        The node that has the newest session of *client* now, or else where one is heading that is
        being opened; none of those *tried*.

        Its next session has to be there as well: data connections belong to the newest one, and a
        server takes them only from the node that it knows the session from.
        """
        sessions = self.ranges.sessions_of(client, reached, mapping)
        nodes = [self._controls[session].node for session in sessions[:1]]
        nodes += self._heading.get((client, reached, mapping), {}).values()
        return next((node for node in nodes if node not in tried), None)

    def heads_for(
        self, session: str, client: str, reached: str, mapping: Mapping, node: str | None
    ) -> None:
        """*session*, which is being opened, is tried with *node* now; None: with nobody."""
        key = (client, reached, mapping)
        own = self._heading.setdefault(key, {})
        own.pop(session, None)
        if node is not None:
            own[session] = node
        if not own:
            del self._heading[key]

    def _came(self, sessions: list[str], port: int, leg: Leg) -> None:
        """A data connection of one of *sessions* has come to *port*."""
        control = self._controls[sessions[0]]
        # What outlives its session counts on: else sessions that come and go could pile it up.
        clients = {self._controls[session].client[0] for session in sessions}
        held = sum(
            each.control.client[0] in clients and each.control.mapping == control.mapping
            for each in self._mapped
        )
        node = self.find_node(control.node)
        if node is None or control.mapping is None or held >= MAX_MAPPED * len(sessions):
            leg.abortConnection()
            return
        transfer = Transfer(
            control,
            port,
            control.mapping.tls,
            node,
            self._reactor,
            self._shelf,
            self._mapped.discard,
        )
        self._mapped.add(transfer)
        transfer.arrived(leg)
