"""A TLS handshake on a leg, as something to wait for."""

from __future__ import annotations

from collections.abc import Callable

from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.interfaces import IHandshakeListener, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from relaygate.legs import Leg, TLSFailed
from relaygate.parting import part

# Seconds for a handshake of a client's or a backend's.
HANDSHAKE_LIMIT_S = 20.0


class HandshakeFailed(Exception):
    """
    A TLS handshake did not succeed, and the leg is gone; the text says why.

    *late* is whether it was silence that it failed by, and not an answer.
    """

    def __init__(self, words: str, *, late: bool = False) -> None:
        super().__init__(words)
        self.late = late


@implementer(IHandshakeListener)
class _Shaking(Protocol):
    """The protocol of a leg during its handshake."""

    def __init__(self, leg: Leg, clock: IReactorTime) -> None:
        self.done: Deferred[None] = Deferred()
        self._leg = leg
        self._clock = clock

    def handshakeCompleted(self) -> None:
        """See :class:`twisted.internet.interfaces.IHandshakeListener`."""
        self.done.callback(None)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See :class:`twisted.internet.interfaces.IProtocol`."""
        self._failed(reason.getErrorMessage())

    def refused(self, error: TLSFailed) -> None:
        """
        The client was told why by an alert: our end follows it, and no reset may overtake it, on
        its way through the DMZ node either.
        """
        part(self._leg, b"", self._clock, lambda: self._failed(str(error)))

    def _failed(self, why: str) -> None:
        if not self.done.called:
            self.done.errback(HandshakeFailed(why))


async def shake_hands(leg: Leg, start: Callable[[], None], clock: IReactorTime) -> None:
    """
    Secure *leg*, which nobody reads, by a handshake that *start* begins.

    When it is done nobody reads the leg again.  Raises :class:`HandshakeFailed` when the leg is
    gone, which a client that we refuse has two seconds for; cancelling aborts the leg.
    """
    shaking = _Shaking(leg, clock)
    leg.protocol = shaking
    shaking.makeConnection(leg)
    if not leg.connected:
        raise HandshakeFailed("the connection was lost")
    leg.when_refused = shaking.refused
    start()
    leg.startReading()
    try:
        await shaking.done.addTimeout(HANDSHAKE_LIMIT_S, clock)
    except TimeoutError:
        leg.abortConnection()
        words = f"it took longer than {HANDSHAKE_LIMIT_S:g} s"
        raise HandshakeFailed(words, late=True) from None
    except CancelledError:
        leg.abortConnection()
        raise
    finally:
        leg.when_refused = None
    leg.stopReading()
