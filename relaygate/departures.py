"""
Who leaves while nobody reads: programs at an entry, before their destination is reached.

What a program sends meanwhile waits in the kernel, so its leg is not read, and the reactor does not
tell of its end.  The kernel knows it.  To look now and then costs nothing where destinations answer
at once, and ends a dial, or gives a port back, long before its own time is over.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from twisted.internet.interfaces import IDelayedCall, IReactorTime

from relaygate.legs import Leg

# Seconds between two looks.
LOOK_S = 0.5
# tcp_states.h: what a reset leaves, and what the other side's end does.
_CLOSE = 7
_CLOSE_WAIT = 8


def has_left(skt: socket.socket, *, by_end: bool) -> bool:
    """
    Whether who is at the other end of *skt* has gone.

    A reset says so.  An end says so with *by_end*, where nothing unread is before it: some have
    said all that they have to say, and wait for the answer.
    """
    try:
        state = skt.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]
        if state == _CLOSE_WAIT and by_end:
            return not skt.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return state == _CLOSE


class Departures:
    """Looks at legs that are not read, and calls once who has to know that one's peer has left."""

    def __init__(self, clock: IReactorTime) -> None:
        self._clock = clock
        self._watched: dict[Leg, tuple[bool, Callable[[], object]]] = {}
        self._looking: IDelayedCall | None = None

    def __len__(self) -> int:
        return len(self._watched)

    def watch(self, leg: Leg, left: Callable[[], object], *, by_end: bool) -> None:
        """Call *left* when the peer of *leg* has gone; *by_end* is as for :func:`has_left`."""
        self._watched[leg] = by_end, left
        if self._looking is None:
            self._looking = self._clock.callLater(LOOK_S, self._look)

    def forget(self, leg: Leg) -> None:
        """*leg* is read, or ended, from now on."""
        self._watched.pop(leg, None)
        if not self._watched and self._looking is not None:
            self._looking.cancel()
            self._looking = None

    def _look(self) -> None:
        self._looking = None
        for leg, (by_end, left) in list(self._watched.items()):
            # The one before may have ended this one, too.
            if leg in self._watched and (not leg.connected or has_left(leg.socket, by_end=by_end)):
                del self._watched[leg]
                left()
        if self._watched and self._looking is None:
            self._looking = self._clock.callLater(LOOK_S, self._look)
