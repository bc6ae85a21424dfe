"""
FTP data connections in the DMZ: those of the sessions that run there (RFC 959 section 3.2).

The internal node reads what the client and the server say, and asks for each data connection; all
that the DMZ knows of FTP is how one comes about (:mod:`relaygate.transfer`), and whose it is.

A node speaks only for sessions that run on it, and the one who connects, or is dialled, is that
session's client.  What is not running yet ends with its session and with its node's uplink; what
runs ends by itself.  Nobody asks for those of sessions that pass unopened: they come to a range of
ports that is bound for them (:mod:`relaygate.mapped`), and are met in the same way from there.

The inside sees how a client leaves its control connection, and knows
whether it has said QUIT, so it aborts a transfer that must not go on; the DMZ does it only where
it ends the session itself.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from functools import partial
from typing import Any

from relaygate.commands import NotPermitted, NotPossible
from relaygate.legs import Leg
from relaygate.listeners import INode
from relaygate.mapped import MappedPorts, Mapping
from relaygate.outcome import Cause, Outcome
from relaygate.passive import PassivePorts
from relaygate.pipes import PipeShelf
from relaygate.transfer import Control, Transfer

# One that runs, and one that is being prepared for the next command.
MAX_TRANSFERS = 2
# The same for a session that passes unopened; all sessions of one client share theirs.
MAX_MAPPED = 4
# Seconds without a byte in a transfer whose session is over: its client has but to close.
LEAVING_LIMIT_S = 60.0


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
            if transfer.relay is None and ended and self._others(transfer):
                # Perhaps it is one of theirs: nobody knows but the server that is about to be met.
                continue
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
        transfer.hand_on = partial(self._hand_on, {control.session})
        self._mapped.add(transfer)
        transfer.arrived(leg)

    def _others(self, transfer: Transfer) -> list[str]:
        """The ids of the sessions of its client that it may belong to as well, newest first."""
        control = transfer.control
        if control.mapping is None:
            return []
        client, reached = control.client[0], control.reached[0]
        return self.ranges.sessions_of(client, reached, control.mapping)

    def _hand_on(self, tried: set[str], transfer: Transfer) -> bool:
        """Try another session than those *tried*; whether there is one."""
        for session in self._others(transfer):
            control = self._controls[session]
            node = self.find_node(control.node)
            if session not in tried and node is not None:
                tried.add(session)
                transfer.belong_to(control, node)
                return True
        return False
