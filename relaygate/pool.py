"""
The DMZ node's end of data channels: each one's life, and the pool of idle ones.

::

    (proven by the lobby)
            |
          IDLE ------- start() -------> STARTED ------ reply ------> taken by a relay
            |                              |
            +-- lost, or it speaks --------+-- lost, silent, or not a reply --> gone

An idle channel is read, so one that dies leaves the pool at once.  A client that finds the pool
empty waits for the next channel that arrives; the internal node is asked for as many as are waited
for.  Addresses take turns in that, so that a crowd from one keeps no client of another waiting.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, cast

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from relaygate.legs import Leg
from relaygate.liveness import DOUBT_S
from relaygate.protocols.preamble import (
    MessageReader,
    PreambleError,
    SessionReply,
    SessionStart,
    TransferStart,
    seal,
)
from relaygate.turns import Turns

# However many a node brings, no more than this are kept.
MAX_IDLE = 2048

There = Callable[[], Coroutine[Any, Any, bool]]


class ChannelLost(Exception):
    """The channel went before the internal node answered on it."""


class NoAnswer(Exception):
    """The internal node has not answered in time."""


class NoChannel(Exception):
    """The internal node has brought no channel in time, or is gone."""


class PooledChannel(Protocol):
    """
    A proven data channel, until a relay takes its leg over.

    *key* is the key of its tags, *gone* is called when it is lost while idle; *there* tells whether
    its node is, if that is in doubt.
    """

    def __init__(
        self, key: bytes, gone: Callable[[PooledChannel], None], there: There | None = None
    ) -> None:
        self._key = key
        self._there = there
        self._gone: Callable[[PooledChannel], None] | None = gone
        self._reader = MessageReader([SessionReply], key)
        self._reply: Deferred[SessionReply] | None = None

    @property
    def leg(self) -> Leg:
        """The connection."""
        return cast(Leg, self.transport)

    @property
    def rest(self) -> bytes:
        """What the backend's first bytes are, as far as they came with the reply."""
        return self._reader.rest

    async def start(
        self, message: SessionStart | TransferStart, clock: IReactorTime, patience_s: float
    ) -> SessionReply:
        """
        Start a session, or a transfer of one, and wait *patience_s* seconds for the internal
        node's answer.

        Raises :class:`ChannelLost` when the channel is lost, and :class:`NoAnswer` when there was
        none in time; both times the channel is gone.  It also goes if the waiting is cancelled.
        """
        self._gone = None
        if not self.leg.connected:
            raise ChannelLost
        reply: Deferred[SessionReply] = Deferred()
        self._reply = reply
        if self._there is not None and patience_s > DOUBT_S:
            limit = clock.callLater(DOUBT_S, self._doubt, clock, patience_s - DOUBT_S)
        else:
            limit = clock.callLater(max(0.0, patience_s), self._no_answer)
        self._limit = limit
        self.leg.write(seal(message, self._key))
        try:
            return await reply
        except CancelledError:
            # Nobody would ever end it: the inside may have taken it over by now.
            self._reply = None
            self.leg.abortConnection()
            raise
        finally:
            if self._limit.active():
                self._limit.cancel()

    def _doubt(self, clock: IReactorTime, left_s: float) -> None:
        """There is no answer yet: a node that does not even answer a ping is not waited for."""
        self._limit = clock.callLater(left_s, self._no_answer)
        assert self._there is not None
        looking = Deferred.fromCoroutine(self._there())
        looking.addCallback(lambda there: None if there else self._no_answer())

    def _no_answer(self) -> None:
        if self._reply is None:
            return
        reply, self._reply = self._reply, None
        self.leg.abortConnection()
        if reply is not None:
            reply.errback(NoAnswer())

    def dataReceived(self, data: bytes) -> None:
        """See :class:`twisted.internet.interfaces.IProtocol`."""
        try:
            if self._reply is None:
                raise PreambleError("an idle channel spoke")
            for message in self._reader.receive(data):
                reply, self._reply = self._reply, None
                assert reply is not None
                # Whoever waits takes the leg over before this returns.
                reply.callback(cast(SessionReply, message))
        except PreambleError:
            self.leg.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See :class:`twisted.internet.interfaces.IProtocol`."""
        if self._gone is not None:
            self._gone(self)
        reply, self._reply = self._reply, None
        if reply is not None and not reply.called:
            reply.errback(ChannelLost())


class ChannelPool:
    """
    The idle channels of one kind (clear or TLS) of one internal node.

    *ask* is called with the number of channels that are waited for beyond those already asked for,
    once a turn of the reactor.  *there* tells whether the node is, if that is in doubt.
    """

    def __init__(
        self, clock: IReactorTime, ask: Callable[[int], None], there: There | None = None
    ) -> None:
        self._clock = clock
        self._there = there
        self._ask = ask
        self._idle: deque[PooledChannel] = deque()
        self._waiting: Turns[Deferred[PooledChannel]] = Turns()
        self._to_ask = 0
        self._closed = False

    @property
    def idle(self) -> int:
        """How many channels are ready."""
        return len(self._idle)

    def arrived(self, leg: Leg, key: bytes) -> None:
        """A channel on *leg* has been proven; *key* is the key of its tags."""
        channel = PooledChannel(key, self._idle_lost, self._there)
        leg.protocol = channel
        channel.makeConnection(leg)
        if self._closed or len(self._idle) >= MAX_IDLE:
            leg.abortConnection()
            return
        if self._waiting:
            self._waiting.take().callback(channel)
        else:
            self._idle.append(channel)

    def _idle_lost(self, channel: PooledChannel) -> None:
        try:
            self._idle.remove(channel)
        except ValueError:
            # It was on its way to a client; start() finds it lost.
            pass

    async def take(self, patience_s: float, address: str) -> PooledChannel:
        """
        An idle channel for a client from *address*; if there is none, one that arrives within
        *patience_s* seconds.

        Raises :class:`NoChannel`.
        """
        if self._closed:
            raise NoChannel
        if self._idle:
            return self._idle.popleft()
        waiting: Deferred[PooledChannel] = Deferred(partial(self._waiting.remove, address))
        self._waiting.add(address, waiting)
        if self._to_ask == 0:
            self._clock.callLater(0, self._ask_now)
        self._to_ask += 1
        doubt = None
        if self._there is not None and patience_s > DOUBT_S:
            doubt = self._clock.callLater(DOUBT_S, self._doubt, address, waiting)
        try:
            return await waiting.addTimeout(max(0.0, patience_s), self._clock)
        except TimeoutError:
            raise NoChannel from None
        finally:
            if doubt is not None and doubt.active():
                doubt.cancel()

    def _doubt(self, address: str, waiting: Deferred[PooledChannel]) -> None:
        assert self._there is not None

        def seen(there: bool) -> None:
            if not (there or waiting.called):
                self._waiting.remove(address, waiting)
                waiting.errback(NoChannel())

        Deferred.fromCoroutine(self._there()).addCallback(seen)

    def _ask_now(self) -> None:
        count, self._to_ask = self._to_ask, 0
        if not self._closed:
            self._ask(count)

    def close(self) -> None:
        """The uplink is gone: its idle channels go too, and nobody waits for others."""
        self._closed = True
        while self._idle:
            self._idle.popleft().leg.abortConnection()
        while self._waiting:
            self._waiting.take().errback(NoChannel())
