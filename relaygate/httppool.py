"""
Connections to HTTP backends: made, secured, and kept for the next request.

::

    get -----> in use -----> put: idle, read -----> get, if it is young enough
                                     |
                                     +---- a byte, an end, its age: closed

An idle connection is read all the time: what a backend says without being asked would be taken for
the answer to somebody's next request (Requirement 60), so it is closed.  A backend may close a
connection in the very moment in which a request goes out on it; what may not be repeated therefore
goes out only on one that was in use a moment ago, or on a new one.
"""

from __future__ import annotations

from collections.abc import Callable
from socket import MSG_PEEK
from typing import Any

from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from relaygate.addresses import HostPort
from relaygate.backends import CONNECT_LIMIT_S, Backend, Backends
from relaygate.dial import DialFailed, dial
from relaygate.errors import NoBackend, TooSlow
from relaygate.handshake import HandshakeFailed, shake_hands
from relaygate.legs import Leg
from relaygate.servicetls import BackendTLS
from relaygate.tls import PeerNotAllowed

FAILURES = (DialFailed, HandshakeFailed)
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
        self._idle: dict[HostPort, list[_Idle]] = {}
        self._proven_at = float("-inf")

    @property
    def proven(self) -> bool:
        """Whether a backend was reached just now."""
        return any(self._idle.values()) or (self._reactor.seconds() - self._proven_at < PROOF_S)

    async def get(self, backend: HostPort, limit_s: float, *, steady: bool) -> tuple[Leg, bool]:
        """
        A leg to *backend* that nobody reads, and whether it has served before.

        Raises :class:`DialFailed` and :class:`HandshakeFailed`.
        """
        youngest = self._reactor.seconds() - (STEADY_S if steady else IDLE_LIMIT_S)
        waiting = self._idle.get(backend, [])
        while waiting and waiting[-1].since >= youngest:
            idle = waiting.pop()
            if idle.lives:
                return idle.take(), True
            idle.close()
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
        return leg, False

    async def prove(
        self, backends: Backends, address: str, end: float, note: Callable[[HostPort, str], None]
    ) -> None:
        """
        Reach one of *backends* until *end* (the clock's time), if none was reached just now.

        It is done for a client at *address*; *note* is told of each that is not reached, and why.
        Raises a :class:`Refusal` if none is.
        """
        tried: list[Backend] = []
        while not self.proven:
            now = self._reactor.seconds()
            backend = backends.group.pick(address, now, tried)
            if backend is None:
                raise NoBackend
            # What is left is shared out, so that one that hangs leaves time for the next.
            share = (end - now) / (1 + backends.group.left([*tried, backend]))
            tried.append(backend)
            try:
                if share <= 0:
                    raise TooSlow
                target = backend.target
                leg, _ = await self.get(target, min(share, CONNECT_LIMIT_S), steady=True)
                self.put(target, leg)
            except FAILURES as error:
                note(backend.target, str(error))
                backends.failed(backend, str(error))
            else:
                backends.worked(backend, address)
            finally:
                backends.release(backend)

    def put(self, backend: HostPort, leg: Leg) -> None:
        """*leg* is free for another request."""
        waiting = self._idle.setdefault(backend, [])
        if len(waiting) >= MAX_IDLE:
            leg.loseConnection()
            return
        idle = _Idle(leg, self._reactor, lambda one: self._gone(backend, one))
        waiting.append(idle)
        idle.begin()

    def _gone(self, backend: HostPort, idle: _Idle) -> None:
        waiting = self._idle.get(backend, [])
        if idle in waiting:
            waiting.remove(idle)

    def close(self) -> None:
        """Close what is idle."""
        for waiting in self._idle.values():
            for idle in list(waiting):
                idle.close()


class _Idle(Protocol):
    """The protocol of an idle connection."""

    def __init__(self, leg: Leg, reactor: Any, gone: Callable[[_Idle], None]) -> None:
        self.leg = leg
        self.since: float = reactor.seconds()
        self._gone = gone
        self._limit: IDelayedCall = reactor.callLater(IDLE_LIMIT_S, self.close)

    def begin(self) -> None:
        """Take the leg over."""
        self.leg.protocol = self
        self.makeConnection(self.leg)
        self.leg.startReading()

    @property
    def lives(self) -> bool:
        """Whether the kernel knows of nothing that has come, an end least of all."""
        try:
            self.leg.socket.recv(1, MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def take(self) -> Leg:
        """Give the leg to somebody else, unread."""
        self._forget()
        self.leg.stopReading()
        return self.leg

    def close(self) -> None:
        """It has been idle for long enough."""
        self._forget()
        self._gone(self)
        self.leg.loseConnection()

    def _forget(self) -> None:
        if self._limit.active():
            self._limit.cancel()

    def dataReceived(self, data: bytes) -> None:
        """See :class:`twisted.internet.interfaces.IProtocol`: nobody has asked."""
        self._forget()
        self._gone(self)
        self.leg.abortConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See :class:`twisted.internet.interfaces.IProtocol`."""
        self._forget()
        self._gone(self)
