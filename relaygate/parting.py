"""Saying no, so that it is heard."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from twisted.internet.interfaces import (
    IDelayedCall,
    IHalfCloseableProtocol,
    IHandshakeListener,
    IReactorTime,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from relaygate.legs import Leg

# Seconds that a client has to read our words and close.
PARTING_LIMIT_S = 2.0
# How much of what it sends meanwhile is taken: more than kernels and networks have on the way.
PARTING_LIMIT_BYTES = 64 * 1024 * 1024


@implementer(IHalfCloseableProtocol, IHandshakeListener)
class _Parting(Protocol):
    """Reads and forgets what the client sends, until it ends or time is up."""

    def __init__(self, limit: IDelayedCall, gone: Callable[[], None]) -> None:
        self._limit = limit
        self._gone = gone
        self._taken = 0

    def dataReceived(self, data: bytes) -> None:
        """See :class:`twisted.internet.interfaces.IProtocol`."""
        self._taken += len(data)
        if self._taken > PARTING_LIMIT_BYTES:
            cast(Leg, self.transport).abortConnection()

    def readConnectionLost(self) -> None:
        """See :class:`twisted.internet.interfaces.IHalfCloseableProtocol`."""
        cast(Leg, self.transport).loseConnection()

    def writeConnectionLost(self) -> None:
        """See :class:`twisted.internet.interfaces.IHalfCloseableProtocol`."""

    def handshakeCompleted(self) -> None:
        """See :class:`twisted.internet.interfaces.IHandshakeListener`: it comes too late."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See :class:`twisted.internet.interfaces.IProtocol`."""
        if self._limit.active():
            self._limit.cancel()
        self._gone()


def part(leg: Leg, words: bytes, clock: IReactorTime, gone: Callable[[], None]) -> None:
    """
    Send *words* on *leg*, end our direction, and close when the client has, or after a short while.

    Closing at once would turn into a reset where the client has sent something that nobody read,
    and a reset throws away what it has not read yet: our words.  *gone* is called when the leg is.
    """
    if not leg.connected:
        gone()
        return
    parting = _Parting(clock.callLater(PARTING_LIMIT_S, leg.abortConnection), gone)
    leg.protocol = parting
    parting.makeConnection(leg)
    if words:
        leg.write(words)
    leg.loseWriteConnection()
    leg.startReading()
