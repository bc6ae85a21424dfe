"""What the DMZ node knows of its internal nodes: one object an uplink, and one book of all."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial
from typing import Any
from weakref import WeakValueDictionary

from twisted.internet.defer import Deferred, DeferredList, DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger
from zope.interface import implementer

from relaygate import commands
from relaygate.bans import Bans, TooManyBans
from relaygate.egress import Egress
from relaygate.legs import Leg
from relaygate.listeners import Listeners, Offer
from relaygate.listshelf import ListShelf
from relaygate.liveness import Liveness
from relaygate.lobby import IHost
from relaygate.networks import NetworkSet, network_of
from relaygate.offers import offers_of
from relaygate.outlook import look
from relaygate.pool import ChannelPool, PooledChannel
from relaygate.protocols.preamble import ChannelOpen, PreambleError, SerialWindow, UplinkKeys
from relaygate.selfreport import Moved, report_page
from relaygate.tls import HYBRID_GROUP, key_exchange, uplink_secrets
from relaygate.transfers import Transfers
from relaygate.uplink import Uplink, UplinkFailed
from relaygate.uplinkends import IDMZEnd

# Seconds for a node to answer that it has heard of the draining.
DRAIN_WORD_S = 2.0
# Reports that one node waits for: its operators, and whatever monitors it, ask one after the other.
MAX_REPORTS = 64


async def _nothing() -> Moved:
    return {}


@implementer(IDMZEnd)
class EnrolledNode:
    """
    One uplink of one internal node.

    It lives from the TLS handshake until the uplink is lost, or until a newer uplink of the same
    node takes over.
    """

    log = Logger()

    def __init__(
        self,
        book: NodeBook,
        name: str,
        leg: Leg,
        clock: IReactorTime,
        settled: Callable[[], object],
    ) -> None:
        self.name = name
        self.generation = 0
        self._farewell = ""
        self._book = book
        self._settled = settled
        self._clock = clock
        assert leg.tls is not None
        self.key_exchange = key_exchange(leg.tls)
        self.address = str(leg.getPeer().host)
        self.keys = UplinkKeys(*uplink_secrets(leg.tls))
        self._serials = SerialWindow()
        there = Liveness(clock, self._ping).there
        self._pools = {
            tls: ChannelPool(clock, partial(self._ask, tls), there) for tls in (False, True)
        }
        self._pages: list[dict[str, Any]] = []
        self._next_page = 0
        # The whole of the last wish, also what was refused of it.
        self.offers: Sequence[Offer] = ()
        # What the listeners have refused of them, and why.
        self._refused: dict[str, str] = {}
        self._lists = ListShelf(book.lists)
        self._reports = DeferredLock()
        self.uplink = Uplink(self, clock, book.software)
        leg.protocol = self.uplink
        self.uplink.makeConnection(leg)

    # -- IDMZEnd --------------------------------------------------------------------------------

    def hello(self, uplink: Uplink, software: str) -> int:
        """See :class:`relaygate.uplinkends.IDMZEnd`."""
        self._settled()
        self.generation = self._book.enrol(self)
        write = self.log.info if self.key_exchange == HYBRID_GROUP else self.log.warn
        write(
            "uplink open: node={node} address={address} generation={generation}"
            " software={software!r} key_exchange={key_exchange}",
            node=self.name,
            address=self.address,
            generation=self.generation,
            software=software,
            key_exchange=self.key_exchange,
        )
        return self.generation

    def declare(
        self, uplink: Uplink, page: int, last: bool, services: Sequence[dict[str, Any]]
    ) -> list[dict[str, str]]:
        """See :class:`relaygate.uplinkends.IDMZEnd`."""
        if page == 0:
            self._pages, self._next_page = [], 0
        if page != self._next_page:
            raise commands.OutOfOrder(f"page {page} came where {self._next_page} was due")
        self._pages.extend(services)
        self._next_page += 1
        if not last:
            return []
        wish, self._pages, self._next_page = self._pages, [], 0
        self._demand_current()
        offers, refused = offers_of(wish, self._lists)
        for name, reason in refused.items():
            self.log.warn(
                "listener refused: node={node} service={service} reason={reason!r}",
                node=self.name,
                service=name,
                reason=reason,
            )
        self.offers = offers
        if self._book.draining:
            refused |= {offer.name: "this DMZ node is draining" for offer in offers}
        else:
            self._refused = self._book.listeners.declare(self, offers)
            refused |= self._refused
        self._lists.keep(service.get(kind) for service in wish for kind in ("allow", "deny"))
        return [
            {"name": name, "reason": reason[:256]}
            for name, reason in list(refused.items())[: commands.SERVICES_PER_PAGE]
        ]

    def open_passive(
        self,
        uplink: Uplink,
        session: str,
        transfer: int,
        ports: tuple[int, int],
        peers: Sequence[str],
        tls: bool,
    ) -> int:
        """See :class:`relaygate.uplinkends.IDMZEnd`."""
        self._demand_current()
        return self._book.transfers.open_passive(self, session, transfer, ports, peers, tls)

    async def dial_active(
        self, uplink: Uplink, session: str, transfer: int, port: int, source_port: int, tls: bool
    ) -> None:
        """See :class:`relaygate.uplinkends.IDMZEnd`."""
        self._demand_current()
        transfers = self._book.transfers
        await transfers.dial_active(self, session, transfer, port, source_port, tls)

    def close_transfer(self, uplink: Uplink, session: str, transfer: int) -> None:
        """See :class:`relaygate.uplinkends.IDMZEnd`."""
        self._book.transfers.close(self, session, transfer)
        if self._book.egress is not None:
            self._book.egress.close(self, session, transfer)

    async def connect(self, uplink: Uplink, **wish: Any) -> dict[str, Any]:
        """See :class:`relaygate.uplinkends.IDMZEnd`."""
        return await self._egress().connect(self, **wish)

    async def await_peer(self, uplink: Uplink, **wish: Any) -> dict[str, Any]:
        """See :class:`relaygate.uplinkends.IDMZEnd`."""
        return await self._egress().await_peer(self, **wish)

    def _egress(self) -> Egress:
        self._demand_current()
        if self._book.egress is None:
            raise commands.NotPermitted("this DMZ node makes no connections outwards")
        return self._book.egress

    def put_networks(
        self, uplink: Uplink, name: str, page: int, last: bool, four: bytes, six: bytes
    ) -> bool:
        """See :class:`relaygate.uplinkends.IDMZEnd`."""
        return self._lists.put(name, page, last, four, six)

    def ban(self, uplink: Uplink, bans: Sequence[dict[str, Any]]) -> int:
        """See :class:`relaygate.uplinkends.IDMZEnd`."""
        self._demand_current()
        return self._book.ban(self.name, bans)

    async def report(self, uplink: Uplink, page: int) -> dict[str, Any]:
        """See :class:`relaygate.uplinkends.IDMZEnd`."""
        busy = self._reports.locked
        if len(self._reports.waiting) >= MAX_REPORTS:
            raise commands.OutOfOrder(f"{MAX_REPORTS} reports are asked for already")
        await self._reports.acquire()
        try:
            if busy:
                # Others have a turn before each.
                await deferLater(self._clock, 0)
            book = self._book
            mine = book.listeners.offered_by(self)
            return await report_page(page, mine, book.moved, book.figures(), draining=book.draining)
        finally:
            self._reports.release()

    async def probe(self, uplink: Uplink, **question: Any) -> dict[str, Any]:
        """See :class:`relaygate.uplinkends.IDMZEnd`."""
        self._demand_current()
        return await look(self._book.transfers.ports, self.channel, self._clock, **question)

    def _demand_current(self) -> None:
        if not self._book.is_current(self):
            raise commands.OutOfOrder("a newer uplink of this node has taken over")

    def farewell(self, uplink: Uplink, reason: str, superseded: bool) -> None:
        """See :class:`relaygate.uplinkends.IUplinkEnd`."""
        self._farewell = reason

    def uplink_lost(self, uplink: Uplink, reason: str) -> None:
        """See :class:`relaygate.uplinkends.IUplinkEnd`."""
        self._settled()
        if self.generation:
            write = self.log.info if self._farewell else self.log.warn
            write(
                "uplink lost: node={node} generation={generation} reason={reason!r}",
                node=self.name,
                generation=self.generation,
                reason=self._farewell or reason,
            )
            self._book.forget(self)
        self._let_go()

    # -- channels -------------------------------------------------------------------------------

    def admit(self, message: ChannelOpen, leg: Leg) -> None:
        """*message* has come on *leg*.  Raises :class:`PreambleError`."""
        if not self.keys.proves(message):
            raise PreambleError("the channel's proof is wrong")
        if not self._serials.take(message.serial):
            raise PreambleError("the channel's proof was used before")
        self._pools[leg.tls is not None].arrived(leg, self.keys.channel_key(message.serial))

    async def channel(self, tls: bool, patience_s: float, address: str) -> PooledChannel:
        """
        A channel of the kind *tls* for a client from *address*.

        Raises :class:`relaygate.pool.NoChannel`.
        """
        return await self._pools[tls].take(patience_s, address)

    def _ask(self, tls: bool, count: int) -> None:
        count = min(count, commands.MAX_CHANNELS_PER_ASK)
        self.uplink.tell(commands.OpenChannels, tls=tls, count=count)

    async def _ping(self) -> object:
        return await self.uplink.ask(commands.Ping)

    def check_again(self) -> None:
        """Hold what the node wishes for against the rules as they are now."""
        if not self.offers:
            # Nothing yet, perhaps, and its listeners still are those of the uplink before.
            return
        before, self._refused = self._refused, self._book.listeners.declare(self, self.offers)
        if self._refused != before:
            self.declare_again()

    def declare_again(self) -> None:
        """See :class:`relaygate.listeners.INode`."""
        self.uplink.tell(commands.DeclareAgain)

    def leave(self, reason: str) -> None:
        """This node stops: say farewell."""
        self._farewell = reason
        self.uplink.leave(reason)

    async def tell_draining(self) -> None:
        """Say that no new sessions come; whoever does not understand need not."""
        try:
            await self.uplink.ask(commands.Draining, deadline_s=DRAIN_WORD_S)
        except UplinkFailed as error:
            self.log.debug("{node}: {error}", node=self.name, error=str(error))

    def supersede(self, generation: int) -> None:
        """A newer uplink of this node, number *generation*, has come: this one ends now."""
        self._let_go()
        self.uplink.leave(f"uplink {generation} of the same node took over", superseded=True)

    def _let_go(self) -> None:
        self._book.transfers.node_lost(self)
        if self._book.egress is not None:
            self._book.egress.node_lost(self)
        for pool in self._pools.values():
            pool.close()


@implementer(IHost)
class NodeBook:
    """Every enrolled node: the newest uplink of each name, and the uplinks by the id of their
    keys.
    """

    log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        listeners: Listeners,
        software: str,
        transfers: Transfers,
        egress: Egress | None = None,
    ) -> None:
        self.listeners = listeners
        self.transfers = transfers
        self.egress = egress
        self.software = software
        self.draining = False
        # What a report says of the DMZ node as a whole: names and whole numbers.
        self.figures: Callable[[], dict[str, int]] = dict
        # What the sessions of each listener that run have moved.
        self.moved: Callable[[], Awaitable[Moved]] = _nothing
        # Who is banned, for as long as this process lives.
        self.bans = Bans()
        # Every list of networks that any node uses, by name.
        self.lists: WeakValueDictionary[str, NetworkSet] = WeakValueDictionary()
        self._clock = clock
        self._generation = 0
        self._by_name: dict[str, EnrolledNode] = {}
        self._by_id: dict[bytes, EnrolledNode] = {}
        transfers.find_node = self._by_name.get

    # -- IHost ----------------------------------------------------------------------------------

    def make_uplink(self, name: str, leg: Leg, settled: Callable[[], object]) -> None:
        """See :class:`relaygate.lobby.IHost`."""
        EnrolledNode(self, name, leg, self._clock, settled)

    def take_channel(self, message: ChannelOpen, name: str | None, leg: Leg) -> None:
        """See :class:`relaygate.lobby.IHost`."""
        node = self._by_id.get(message.uplink_id)
        if node is None or name not in (None, node.name):
            raise PreambleError("the channel belongs to no uplink that stands")
        node.admit(message, leg)

    def __len__(self) -> int:
        return len(self._by_name)

    # -- nodes ----------------------------------------------------------------------------------

    def enrol(self, node: EnrolledNode) -> int:
        """*node* has said hello: it takes over from an older uplink of its name, at once."""
        self._generation += 1
        older = self._by_name.get(node.name)
        self._by_name[node.name] = node
        self._by_id[node.keys.uplink_id] = node
        if older is not None:
            # Listeners are handed over, not closed; then the older one goes, however it is.
            self.listeners.replace(older, node)
            del self._by_id[older.keys.uplink_id]
            older.supersede(self._generation)
        return self._generation

    def is_current(self, node: EnrolledNode) -> bool:
        """Whether *node* is the newest uplink of its name."""
        return self._by_name.get(node.name) is node

    def forget(self, node: EnrolledNode) -> None:
        """*node*'s uplink is lost."""
        if self.is_current(node):
            del self._by_name[node.name]
            del self._by_id[node.keys.uplink_id]
            self.listeners.withdraw(node)

    def check_again(self, names: Collection[str]) -> None:
        """
        The DMZ's policy has changed: nodes with other *names* may not come any more, and what the
        others wish for is held against the rules as they are now.
        """
        for node in list(self._by_name.values()):
            if node.name in names and not self.draining:
                node.check_again()
            elif node.name not in names:
                node.leave("this node may not dial in any more")

    def ban(self, name: str, bans: Sequence[dict[str, Any]]) -> int:
        """Node *name* sets and lifts *bans*; how many did not fit."""
        now = self._clock.seconds()
        full = 0
        for each in bans:
            network, seconds = network_of(each["network"]), each["seconds"]
            if not seconds:
                self.bans.remove(network)
                continue
            try:
                self.bans.add(network, seconds, now, name)
            except TooManyBans:
                full += 1
        self.log.info(
            "bans set: node={node} told={told} full={full} bans={bans}",
            node=name,
            told=len(bans),
            full=full,
            bans=len(self.bans),
        )
        return full

    async def drain(self) -> None:
        """Tell every node that no new sessions come, and wait until they have heard it."""
        self.draining = True
        telling = [Deferred.fromCoroutine(node.tell_draining()) for node in self._by_name.values()]
        await DeferredList(telling, consumeErrors=True)

    def stop(self, reason: str) -> None:
        """Say farewell to every node and end its uplink."""
        for node in list(self._by_name.values()):
            node.leave(reason)
