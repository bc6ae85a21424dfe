"""
Closing a connection so that what was sent on it arrives, however slow its reader is.

An end of ours goes out first.  What the peer still sends is read and forgotten: unread bytes would
turn the close into a reset, and a reset throws away what its kernel has not yet handed on.  The
connection is closed when the peer ends too, or some time after all that was sent is out of our
hands.
"""

from __future__ import annotations

import fcntl
import struct
import termios
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IDelayedCall, IHalfCloseableProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from relaygate.legs import Leg

LOOK_S = 1.0
# Seconds that a peer has to close when it has all.
LINGER_LIMIT_S = 5.0
# Seconds in which it has to take something of what is still to go out.
STALL_LIMIT_S = 60.0


def queued(leg: Leg) -> int:
    """How many bytes were written to *leg* that the other side's kernel has not got yet."""
    answer = fcntl.ioctl(leg.fileno(), termios.TIOCOUTQ, b"\0\0\0\0")
    count: int = struct.unpack("i", answer)[0]
    return count + leg.unsent


@implementer(IHalfCloseableProtocol)
class _Lingering(Protocol):
    """The protocol of *leg* until it is gone."""

    def __init__(self, leg: Leg, clock: Any, gone: Callable[[], None]) -> None:
        self._leg = leg
        self._clock = clock
        self._gone = gone
        self._queued = 0
        self._left_s = STALL_LIMIT_S
        self._call: IDelayedCall | None = None

    def begin(self) -> None:
        """Take the leg over, and end our stream."""
        leg = self._leg
        leg.protocol = self
        self.makeConnection(leg)
        leg.loseWriteConnection()
        if leg.connected:
            leg.startReading()
            self._queued = queued(leg)
            self._left_s = STALL_LIMIT_S if self._queued else LINGER_LIMIT_S
            self._call = self._clock.callLater(LOOK_S, self._look)

    def _look(self) -> None:
        self._call = None
        now = queued(self._leg)
        if now < self._queued:
            self._left_s = STALL_LIMIT_S if now else LINGER_LIMIT_S
        self._queued = now
        self._left_s -= LOOK_S
        if self._left_s > 0:
            self._call = self._clock.callLater(LOOK_S, self._look)
        elif now:
            self._leg.abortConnection()
        else:
            self._leg.loseConnection()

    def readConnectionLost(self) -> None:
        """See :class:`twisted.internet.interfaces.IHalfCloseableProtocol`."""
        self._leg.loseConnection()

    def writeConnectionLost(self) -> None:
        """See :class:`twisted.internet.interfaces.IHalfCloseableProtocol`."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See :class:`twisted.internet.interfaces.IProtocol`."""
        if self._call is not None:
            self._call.cancel()
            self._call = None
        self._gone()


def linger(leg: Leg, clock: Any, gone: Callable[[], None]) -> None:
    """End *leg* in order; *gone* is called when it is gone."""
    if leg.connected:
        _Lingering(leg, clock, gone).begin()
    else:
        gone()
