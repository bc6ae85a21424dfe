"""A client is here: find a data channel of one node for it, and have the node's answer."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.interfaces import IReactorTime

from relaygate.errors import NoNode, TooSlow, refusal_for
from relaygate.listeners import INode
from relaygate.pool import ChannelLost, NoAnswer, NoChannel, PooledChannel
from relaygate.protocols.preamble import SessionStart, TransferStart

# A pooled channel may have died unseen; another of the same node is tried this often.
CHANNELS_PER_NODE = 3


async def meet(
    node: INode,
    tls: bool,
    address: str,
    message: Callable[[float], SessionStart | TransferStart],
    clock: IReactorTime,
    end: float,
) -> PooledChannel:
    """
    A channel of *node*, of the kind *tls*, on which it has taken a client from *address*.

    *message* makes what is said on it, from the seconds that are left; *end* is the time, by
    *clock*, when it must have been answered.  Raises a :class:`relaygate.errors.Refusal`.
    """

    def left() -> float:
        seconds = end - clock.seconds()
        if seconds <= 0:
            raise TooSlow
        return seconds

    for _ in range(CHANNELS_PER_NODE):
        try:
            channel = await node.channel(tls, left(), address)
            patience_s = left()
            reply = await channel.start(message(patience_s), clock, patience_s)
        except NoChannel:
            raise NoNode from None
        except NoAnswer:
            raise TooSlow from None
        except ChannelLost:
            continue
        if reply.code:
            channel.leg.loseConnection()
            raise refusal_for(reply.code)
        return channel
    raise NoNode
