"""
Which internal node serves a client: the search of one session in the DMZ, over all that offer it.

The nodes are asked one after the other, and a moment later beside the one that has not answered
(:mod:`relaygate.hedging`), so that a node that was stopped or cut off costs a client that moment
and not a deadline.  The client's bytes wait in the kernel until one channel is chosen, so it has
one session, however many nodes were asked; a channel that is not chosen is reset, and the inside
gives up there what it had begun.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from relaygate.balance import Group, Member
from relaygate.errors import NoNode, Refusal, Stopping, TooMany, TooSlow, TurnedAway
from relaygate.hedging import HedgeBudget, Race
from relaygate.listeners import INode, Listener
from relaygate.pool import PooledChannel
from relaygate.protocols.preamble import SessionStart
from relaygate.rendezvous import meet

# Seconds from a client's connection to a backend's, over all nodes and backends that are tried.
OPEN_LIMIT_S = 20.0
# Seconds for which one node is asked alone: more than a sound one takes, though a backend of its
# be slow, and less than people notice as trouble.
ALONE_S = 2.0


@dataclass(eq=False, slots=True)
class _Asked:
    """A node that is asked: as the group knows it, by the uplink of that moment, until when."""

    group: Group[INode]
    member: Member[INode]
    node: INode
    end: float


class NodeSearch(Race[_Asked, PooledChannel]):
    """
    Finds a node for a client from *address*, and its channel.

    *start* makes the message from the seconds that are left; *began* is when the client came.
    *prefer* gives the name of the node that comes first if it is up, from the names of those that
    were tried, and *heading* hears the name of each that is asked.
    """

    log = Logger()

    def __init__(
        self,
        listener: Listener,
        address: str,
        start: Callable[[float], SessionStart],
        clock: IReactorTime,
        budget: HedgeBudget,
        began: float,
        prefer: Callable[[set[str]], str | None] | None = None,
        heading: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__(clock, budget, ALONE_S, (Refusal,))
        # The node that has the session, or the last one that was asked; "" before.
        self.name = ""
        self._listener = listener
        self._address = address
        self._start = start
        self._prefer = prefer
        self._heading = heading
        self._end_at = began + OPEN_LIMIT_S
        self._tried: list[Member[INode]] = []
        self._uplinks: list[INode] = []
        # Those for whose members this session is counted.
        self._held: list[_Asked] = []
        self._released = False

    async def find(self) -> PooledChannel:
        """The channel of the node that has taken the client.  Raises a :class:`Refusal`."""
        channel = await self.run()
        if channel is None:
            raise NoNode
        return channel

    def release(self) -> None:
        """The session is over, or found nobody: it is none of any node's."""
        self._released = True
        while self._held:
            self._drop(self._held[-1])

    # -- Race -----------------------------------------------------------------------------------

    def _left(self) -> Group[INode]:
        """The group as it is now, and :attr:`_tried` with it."""
        # A newer uplink may have come meanwhile, in the place of one that was tried.
        self._tried = [each for each in self._tried if each.target in self._uplinks]
        return self._listener.group

    def choose(self) -> _Asked | None:
        """See :class:`Race`."""
        now = self._clock.seconds()
        group = self._left()
        # What is left is shared out, so that one node that hangs leaves time for the next.
        patience_s = max(0.0, self._end_at - now) / max(1, group.left(self._tried))
        prefer = None
        if self._prefer is not None:
            prefer = self._prefer({each.name for each in self._tried})
        member = group.pick(self._address, now, self._tried, prefer)
        if member is None:
            return None
        self._tried.append(member)
        self._uplinks.append(member.target)
        self.name = member.target.name
        asked = _Asked(group, member, member.target, now + patience_s)
        self._held.append(asked)
        if self._heading is not None:
            self._heading(self.name)
        return asked

    def more(self) -> bool:
        """See :class:`Race`."""
        return self._left().others_up(self._tried, self._clock.seconds())

    async def ask(self, whom: _Asked) -> PooledChannel:
        """See :class:`Race`."""
        tls, clock = self._listener.offer.tls_channel, self._clock
        try:
            channel = await meet(whom.node, tls, self._address, self._start, clock, whom.end)
        except Refusal as error:
            self._failed_there(whom, error)
            raise
        except BaseException:
            self._drop(whom)
            raise
        if self._answers:
            self._drop(whom)
        elif not self._released:
            self.name = whom.node.name
            whom.group.worked(whom.member, self._address, clock.seconds())
        return channel

    def overtaken(self, whom: _Asked) -> None:
        """See :class:`Race`."""
        self._failed_there(whom, TooSlow())

    def discard(self, answer: PooledChannel) -> None:
        """See :class:`Race`."""
        answer.leg.abortConnection()

    # -------------------------------------------------------------------------------------------

    def _drop(self, whom: _Asked) -> bool:
        """The session is none of that node's; whether it was."""
        if whom not in self._held:
            return False
        self._held.remove(whom)
        whom.group.release(whom.member)
        return True

    def _failed_there(self, whom: _Asked, error: Refusal) -> None:
        if not self._drop(whom) or isinstance(error, TooMany | TurnedAway):
            # The session is over; or the node's caps are reached, or it does not want this client,
            # which is no fault of its.
            return
        costly = isinstance(error, TooSlow | Stopping)
        if whom.group.failed(whom.member, self._clock.seconds(), costly=costly):
            self.log.warn(
                "node passed over for a while: node={node} service={service} reason={reason!r}",
                node=whom.member.name,
                service=self._listener.offer.name,
                reason=error.meaning,
            )
