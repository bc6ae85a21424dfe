"""One side's connection of an HTTP session: bytes to the session, and when it is not to be read."""

from __future__ import annotations

from typing import Protocol as Interface

from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from relaygate.legs import Leg
from relaygate.tlsrecords import TLS_RECORD


class IEndOwner(Interface):
    """Who is told what comes on a connection."""

    def received(self, end: HTTPEnd, data: bytes) -> None:
        """Bytes came."""

    def ended(self, end: HTTPEnd, *, broken: bool) -> None:
        """The stream has ended, in order or *broken*; the one may be followed by the other."""

    def crowded(self, end: HTTPEnd, *, full: bool) -> None:
        """The connection has more to send than it can, or (not *full*) no longer."""


@implementer(IHalfCloseableProtocol, IPushProducer)
class HTTPEnd(Protocol):
    """
    The protocol of *leg* while it speaks HTTP for *owner*, who may change.

    To the leg it is a producer as well, since it stands for who feeds it.
    """

    def __init__(self, owner: IEndOwner, leg: Leg) -> None:
        self.leg = leg
        self.bytes_in = 0
        self.bytes_out = 0
        self.full = False
        self.owner = owner
        # When it came to lie idle, by the clock of who keeps it.
        self.idle_since = 0.0
        # What keeps it from being read now.
        self._held_by: set[str] = set()
        # A stream that has ended would tell so again each time that it is read.
        self._ended = False
        self._over = False

    def begin(self) -> None:
        """Take the leg over, and read it."""
        self.leg.protocol = self
        self.makeConnection(self.leg)
        self.leg.abort_by_default()
        self.leg.registerProducer(self, True)
        self._look()
        self._read_if_free()

    def send(self, data: bytes) -> None:
        """Write *data*."""
        self.bytes_out += len(data)
        self.leg.write(data)

    def let_go(self) -> Leg:
        """Return the leg, of which nothing more is told."""
        self._over = True
        if self.leg.connected:
            self.leg.unregisterProducer()
        return self.leg

    @property
    def idle(self) -> bool:
        """Whether nothing is on its way on it: it may serve somebody else."""
        leg = self.leg
        lies_behind = leg.tls is not None and leg.tls.pending() > 0
        return bool(leg.connected and not leg.unsent and not leg.end_behind and not lies_behind)

    # -- reading --------------------------------------------------------------------------------

    def hold(self, reason: str) -> None:
        """Do not read until *reason* is released; other reasons may stand beside it."""
        self._held_by.add(reason)
        # A pump has flow control of its own.
        if not self._over and self.leg.inbound is None:
            self.leg.stopReading()

    def release(self, reason: str) -> None:
        """See :meth:`hold`; harmless where it is not held."""
        if reason in self._held_by:
            self._held_by.remove(reason)
            if self.leg.inbound is None:
                self._read_if_free()

    def hand_over(self, owner: IEndOwner) -> None:
        """From now on *owner* is told; nothing of what was before holds it up."""
        self.owner = owner
        self.full = False
        if self._held_by:
            self._held_by.clear()
            self._read_if_free()

    def resume(self) -> None:
        """Read again, behind a pump; what lies decrypted in OpenSSL comes first."""
        if self._over or not self.leg.connected:
            return
        self._look()
        self.leg.stopReading()
        self._read_if_free()

    def _read_if_free(self) -> None:
        if not (self._held_by or self._ended or self._over):
            self.leg.startReading()

    def _look(self) -> None:
        tls = self.leg.tls
        while tls is not None and not self._over and tls.pending():
            buffer = bytearray(TLS_RECORD)
            try:
                count = self.leg.receive_into(memoryview(buffer))
            except OSError:
                return
            if not count:
                return
            self.dataReceived(bytes(buffer[:count]))

    def dataReceived(self, data: bytes) -> None:
        """See :class:`twisted.internet.interfaces.IProtocol`."""
        if not self._over:
            self.bytes_in += len(data)
            self.owner.received(self, data)

    # -- what it can take -----------------------------------------------------------------------

    def pauseProducing(self) -> None:
        """See :class:`twisted.internet.interfaces.IPushProducer`."""
        self.owner.crowded(self, full=True)

    def resumeProducing(self) -> None:
        """See :class:`twisted.internet.interfaces.IPushProducer`."""
        self.owner.crowded(self, full=False)

    def stopProducing(self) -> None:
        """See :class:`twisted.internet.interfaces.IProducer`: the leg is gone."""

    # -- ends -----------------------------------------------------------------------------------

    def readConnectionLost(self) -> None:
        """See :class:`twisted.internet.interfaces.IHalfCloseableProtocol`."""
        self._ended = True
        if not self._over:
            self.owner.ended(self, broken=False)

    def writeConnectionLost(self) -> None:
        """See :class:`twisted.internet.interfaces.IHalfCloseableProtocol`."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See :class:`twisted.internet.interfaces.IProtocol`."""
        if not self._over:
            self._over = True
            self.owner.ended(self, broken=True)
