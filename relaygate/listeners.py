"""
The DMZ node's listeners: what the uplinks wish for, made so with the smallest change.

A listener is known by its address.  Each node states its whole wish (:meth:`Listeners.declare`),
and the difference to what stands is made: a socket that is still wanted is never closed and bound
again.  Nodes that wish for the same listener with the same settings share it; one that wishes for
others is refused and told which setting differs, and has it when nobody else holds to those.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Protocol

from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.logger import Logger

from relaygate.addresses import HostPort, ListenRule
from relaygate.admission import Caps, Counted, Tally
from relaygate.balance import RULES, Group, Member, Persistence
from relaygate.mapped import Mapping
from relaygate.networks import NetworkSet
from relaygate.pool import PooledChannel
from relaygate.rates import Rated, Rates

# Those whose sessions have data connections beside the one that the client opens.
FTP_PROTOCOLS = ("ftp", "ftps")
# The same where the inside does not open it either: a range of ports is mapped (relaygate.mapped).
MAPPED_PROTOCOLS = ("ftp-mapped", "ftps-mapped")
PROTOCOLS = ("ssh", "tcp", "tls", "http", "https", *FTP_PROTOCOLS, *MAPPED_PROTOCOLS)


@dataclass(frozen=True, slots=True)
class Offer:
    """What a node wants of one listener; all that the DMZ learns of a service."""

    name: str
    protocol: str
    listen: HostPort
    tls_channel: bool
    max_sessions: int
    max_sessions_per_address: int
    balance: str = "round-robin"
    persistence: int = 0
    mapping: Mapping | None = None
    max_rate: int = 0
    max_rate_per_address: int = 0
    allow: NetworkSet | None = None
    deny: NetworkSet | None = None

    @property
    def caps(self) -> Caps:
        """The service's own caps."""
        return Caps(self.max_sessions, self.max_sessions_per_address)

    @property
    def rates(self) -> Rates:
        """The service's own rates."""
        return Rates(self.max_rate, self.max_rate_per_address)


class INode(Protocol):
    """What a listener needs of a node that offers it."""

    name: str

    async def channel(self, tls: bool, patience_s: float, address: str) -> PooledChannel:
        """A data channel for a client from *address*; raises :class:`relaygate.pool.NoChannel`."""

    def declare_again(self) -> None:
        """What it was answered to its wish does not hold any more."""


class Listener:
    """
    One listening socket, the offer that it serves, and the nodes that stand behind it.

    :attr:`group` picks the node for each session.  A node that goes and comes back is the same
    member: sessions of its that ran on are counted still.
    """

    def __init__(self, offer: Offer) -> None:
        self.offer = offer
        self.group: Group[INode] = _group(offer)
        # By name, also those that have gone; they are as many as the DMZ's file has nodes.
        self._members: dict[str, Member[INode]] = {}
        self.sessions = Counted(offer.caps)
        self.rated = Rated(offer.rates)
        self.tally = Tally()
        self.port: IListeningPort | None = None

    @property
    def nodes(self) -> list[INode]:
        """The nodes that offer it."""
        return [member.target for member in self.group.members]

    def join(self, node: INode) -> None:
        """*node* offers it, too."""
        member = self._members.setdefault(node.name, Member(node, node.name))
        member.target = node
        # Whatever it was before, it has just come.
        member.health.worked()
        self.group.members.append(member)

    def part(self, node: INode) -> None:
        """*node* offers it no longer."""
        self.group.members = [each for each in self.group.members if each.target is not node]

    def replace(self, older: INode, newer: INode) -> None:
        """*newer* stands in *older*'s place, if it has one here."""
        for member in self.group.members:
            if member.target is older:
                member.target = newer
                member.health.worked()

    def change(self, offer: Offer) -> None:
        """Serve *offer* from now on; sessions that run keep what they began with."""
        group = _group(offer)
        group.members = self.group.members
        group.take_over(self.group)
        self.offer, self.group = offer, group
        self.sessions.caps = offer.caps
        self.rated.rates = offer.rates

    def difference(self, offer: Offer) -> str | None:
        """The first setting in which *offer* differs from what is served, or None."""
        for each in fields(Offer):
            if getattr(self.offer, each.name) != getattr(offer, each.name):
                return each.name
        return None


def _group(offer: Offer) -> Group[INode]:
    return Group(offer.balance, Persistence(offer.persistence) if offer.persistence else None)


class Listeners:
    """
    All listeners.

    *bind* opens the socket of a listener and may raise :class:`CannotListenError`; *rules* is the
    DMZ's own policy, asked at every declaration.
    """

    log = Logger()

    def __init__(
        self, bind: Callable[[Listener], IListeningPort], rules: Sequence[ListenRule]
    ) -> None:
        self._bind = bind
        self.rules = rules
        self._by_address: dict[HostPort, Listener] = {}
        # What each node would have, also where it was refused because others would have it else.
        self._wishes: dict[INode, dict[HostPort, Offer]] = {}

    def __iter__(self) -> Iterator[Listener]:
        return iter(self._by_address.values())

    def offered_by(self, node: INode) -> list[Listener]:
        """The listeners that *node* stands behind, by address."""
        mine = (listener for listener in self if node in listener.nodes)
        return sorted(mine, key=lambda listener: listener.offer.listen)

    def declare(self, node: INode, offers: Sequence[Offer]) -> dict[str, str]:
        """Make *offers* all that *node* offers; the answer has the reason for each name refused."""
        refused: dict[str, str] = {}
        wanted: dict[HostPort, Offer] = {}
        names: set[str] = set()
        for offer in offers:
            twice = "two services have this name" if offer.name in names else None
            reason = twice or self._forbidden(offer, wanted)
            if reason is None:
                wanted[offer.listen] = offer
                names.add(offer.name)
            else:
                refused[offer.name] = reason
        self._wishes[node] = wanted
        # What is given up goes first: its address may be wanted again under another offer.
        for listener in list(self._by_address.values()):
            if node in listener.nodes and listener.offer.listen not in wanted:
                self._leave(listener, node)
        for offer in wanted.values():
            reason = self._join(node, offer)
            if reason is not None:
                refused[offer.name] = reason
        for name, reason in refused.items():
            self.log.warn(
                "listener refused: node={node} service={service} reason={reason!r}",
                node=node.name,
                service=name,
                reason=reason,
            )
        return refused

    def _forbidden(self, offer: Offer, wanted: dict[HostPort, Offer]) -> str | None:
        if offer.protocol not in PROTOCOLS:
            return f"this DMZ node does not know the protocol {offer.protocol!r}"
        if offer.balance not in RULES:
            return f"this DMZ node does not know the balance {offer.balance!r}"
        if not self._permits(offer):
            mapping = offer.mapping
            more = f" with the ports {mapping.first}-{mapping.last}" if mapping else ""
            return f"the DMZ's policy.listen does not permit {offer.listen}{more}"
        if offer.listen in wanted:
            return f"{offer.listen} is asked for twice, by {wanted[offer.listen].name!r} as well"
        return None

    def _join(self, node: INode, offer: Offer) -> str | None:
        listener = self._by_address.get(offer.listen)
        if listener is None:
            return self._open(node, offer)
        differs = listener.difference(offer)
        if differs is not None:
            others = [other.name for other in listener.nodes if other is not node]
            if others:
                if node in listener.nodes:
                    self._leave(listener, node)
                return f"{differs} is not the same as that of node {others[0]!r}"
            listener.change(offer)
        if node not in listener.nodes:
            listener.join(node)
        if differs is not None:
            self._let_in(listener)
        return None

    def _let_in(self, listener: Listener) -> None:
        """Whoever wishes for *listener* as it is stands behind it; if nobody does, as one would."""
        for node, wish in self._wishes.items():
            offer = wish.get(listener.offer.listen)
            if offer is None or node in listener.nodes:
                continue
            if not listener.nodes:
                listener.change(offer)
            if listener.difference(offer) is None:
                listener.join(node)
                self._note("listener has another node", listener, node)
                node.declare_again()

    def _open(self, node: INode, offer: Offer) -> str | None:
        listener = Listener(offer)
        try:
            listener.port = self._bind(listener)
        except CannotListenError as error:
            return f"cannot listen on {offer.listen}: {error.socketError}"
        listener.join(node)
        self._by_address[offer.listen] = listener
        self._note("listener open", listener, node)
        return None

    def _permits(self, offer: Offer) -> bool:
        wanted = [offer.listen]
        if offer.mapping is not None:
            first, last = offer.mapping.first, offer.mapping.last
            wanted += [HostPort(offer.listen.host, port) for port in range(first, last + 1)]
        return all(any(rule.permits(each) for rule in self.rules) for each in wanted)

    def replace(self, older: INode, newer: INode) -> None:
        """*newer* stands in *older*'s place from now on."""
        self._wishes[newer] = self._wishes.pop(older, {})
        for listener in self._by_address.values():
            listener.replace(older, newer)

    def withdraw(self, node: INode) -> None:
        """*node* is gone: listeners that only it served, and nobody else wants, close."""
        self._wishes.pop(node, None)
        for listener in list(self._by_address.values()):
            if node in listener.nodes:
                self._leave(listener, node)

    def close(self) -> None:
        """Close all of them."""
        self._wishes.clear()
        for listener in list(self._by_address.values()):
            for node in list(listener.nodes):
                self._leave(listener, node)

    def _leave(self, listener: Listener, node: INode) -> None:
        listener.part(node)
        if not listener.nodes:
            # Sockets are handed over, as long as anybody would have them.
            self._let_in(listener)
        if not listener.nodes:
            del self._by_address[listener.offer.listen]
            if listener.port is not None:
                listener.port.stopListening()
            self._note("listener closed", listener, node)

    def _note(self, what: str, listener: Listener, node: INode) -> None:
        self.log.info(
            "{what}: listen={listen} service={service} protocol={protocol} node={node}",
            what=what,
            listen=str(listener.offer.listen),
            service=listener.offer.name,
            protocol=listener.offer.protocol,
            node=node.name,
        )
