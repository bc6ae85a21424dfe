"""
Connections to HTTP backends: made, secured, and kept for the next request.

::

    get -----> in use -----> put: idle, read -----> take, if it is young enough
                                     |
                                     +---- a byte, an end, its age: closed

A connection keeps its protocol, which only gets another owner, and is read while it is idle: what a
backend says without being asked would be taken for the answer to somebody's next request
(Requirement 60), so it is closed.  A backend may close a connection in the very moment in which a
request goes out on it; what may not be repeated therefore goes out only on one that was in use a
moment ago, or on a new one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from socket import MSG_PEEK
from typing import Any

from twisted.internet.interfaces import IDelayedCall

from relaygate.addresses import HostPort
from relaygate.backends import Backends
from relaygate.dial import dial
from relaygate.handshake import HandshakeFailed, shake_hands
from relaygate.httpend import HTTPEnd
from relaygate.legs import Leg
from relaygate.servicetls import BackendTLS
from relaygate.tls import PeerNotAllowed

# Apache closes after 5 s, and few servers sooner.
IDLE_LIMIT_S = 4.0
# A connection that was in use so lately is sure to live.
STEADY_S = 1.0
# For each backend.
MAX_IDLE = 64
# How long the proof lasts that a backend can be reached.
PROOF_S = 5.0


class BackendPool:
    """
    The connections of one service to its backends, under TLS if *tls* returns something.

    What *tls* returns is asked for with each new connection.
    """

    def __init__(self, reactor: Any, tls: Callable[[], BackendTLS | None]) -> None:
        self._reactor = reactor
        self._tls = tls
        # The youngest last.
        self._idle: dict[HostPort, list[HTTPEnd]] = {}
        self._proven_at = float("-inf")
        # One call for all, at the time when the first could be too old.
        self._limit: IDelayedCall | None = None

    @property
    def proven(self) -> bool:
        """Whether a backend was reached just now."""
        return any(self._idle.values()) or (self._reactor.seconds() - self._proven_at < PROOF_S)

    def take(self, backend: HostPort, *, steady: bool) -> HTTPEnd | None:
        """An idle connection to *backend*, for whom to own it now; None if there is none."""
        waiting = self._idle.get(backend)
        if not waiting:
            return None
        youngest = self._reactor.seconds() - (STEADY_S if steady else IDLE_LIMIT_S)
        while waiting and waiting[-1].idle_since >= youngest:
            end = waiting.pop()
            if _lives(end.leg):
                return end
            end.let_go().loseConnection()
        return None

    async def get(self, backend: HostPort, limit_s: float) -> Leg:
        """
        A new leg to *backend* that nobody reads.

        Raises :class:`DialFailed` and :class:`HandshakeFailed`.
        """
        leg = await dial(self._reactor, backend, limit_s)
        tls = self._tls()
        if tls is not None:
            await shake_hands(
                leg,
                lambda: leg.start_tls(tls.context, server=False, sni=tls.sni(backend.host)),
                self._reactor,
            )
            connection = leg.tls
            if connection is None:
                raise HandshakeFailed("the connection was lost")
            try:
                tls.demand(connection, backend.host)
            except PeerNotAllowed as error:
                leg.abortConnection()
                raise HandshakeFailed(str(error)) from None
        self._proven_at = self._reactor.seconds()
        return leg

    async def prove(
        self, backends: Backends, address: str, end: float, note: Callable[[HostPort, str], None]
    ) -> None:
        """
        Reach one of *backends* until *end* (the clock's time), if none was reached just now.

        It is done for a client at *address*; *note* is told of each that is not reached, and why.
        Raises a :class:`Refusal` if none is.
        """
        if self.proven:
            return
        backend, leg = await backends.reach(address, end, note, connect=self.get)
        idle = HTTPEnd(self, leg)
        self.put(backend.target, idle)
        idle.begin()
        backends.worked(backend, address)
        backends.release(backend)

    def put(self, backend: HostPort, end: HTTPEnd) -> None:
        """*end* is free for another request."""
        waiting = self._idle.setdefault(backend, [])
        if len(waiting) >= MAX_IDLE:
            end.let_go().loseConnection()
            return
        now = self._reactor.seconds()
        end.idle_since = self._proven_at = now
        end.hand_over(self)
        waiting.append(end)
        if self._limit is None:
            self._limit = self._reactor.callLater(IDLE_LIMIT_S, self._look)

    def _look(self) -> None:
        """Close those that have been idle for long enough."""
        self._limit = None
        now, oldest = self._reactor.seconds(), math.inf
        for waiting in self._idle.values():
            while waiting and now - waiting[0].idle_since >= IDLE_LIMIT_S:
                waiting.pop(0).let_go().loseConnection()
            if waiting:
                oldest = min(oldest, waiting[0].idle_since)
        if oldest < math.inf:
            self._limit = self._reactor.callLater(oldest + IDLE_LIMIT_S - now, self._look)

    def close(self) -> None:
        """Close what is idle."""
        if self._limit is not None:
            self._limit.cancel()
            self._limit = None
        for waiting in self._idle.values():
            while waiting:
                waiting.pop().let_go().loseConnection()

    # -- what comes on idle connections ---------------------------------------------------------

    def received(self, end: HTTPEnd, data: bytes) -> None:
        """See :class:`relaygate.httpend.IEndOwner`: nobody has asked."""
        self._drop(end)

    def ended(self, end: HTTPEnd, *, broken: bool) -> None:
        """See :class:`relaygate.httpend.IEndOwner`."""
        self._drop(end)

    def crowded(self, end: HTTPEnd, *, full: bool) -> None:
        """See :class:`relaygate.httpend.IEndOwner`: nothing is sent to it."""

    def _drop(self, end: HTTPEnd) -> None:
        for waiting in self._idle.values():
            if end in waiting:
                waiting.remove(end)
        end.let_go().abortConnection()


def _lives(leg: Leg) -> bool:
    """Whether the kernel knows of nothing that has come, an end least of all."""
    try:
        leg.socket.recv(1, MSG_PEEK)
    except BlockingIOError:
        return True
    except OSError:
        pass
    return False
