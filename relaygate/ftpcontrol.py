"""
The two control connections of an FTP session: lines in, lines out, TLS when it is asked for.

Neither side may make us keep what the other does not read: while commands wait in user space for
the backend, the client is not read; while replies wait for the client, neither side is, for some of
them are our own; and neither is a client that has sent many commands ahead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, cast
from typing import Protocol as Interface

from twisted.internet.interfaces import (
    IDelayedCall,
    IHalfCloseableProtocol,
    IHandshakeListener,
    IPushProducer,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from relaygate.legs import Leg
from relaygate.protocols.ftp import (
    BadLine,
    Command,
    CommandReader,
    FTPViolation,
    Reply,
    ReplyReader,
)

Event = Command | BadLine | Reply

# A read of 16 KiB may hold as many lines, each with an answer to be written: the best part of a
# second in which nobody else is served.
TURN_EVENTS = 64


class IReader(Interface):
    """A reader of control lines, of either side."""

    @property
    def rest(self) -> bytes:
        """What is not complete yet."""

    def receive(self, data: bytes) -> list[Event]:
        """Take the next piece; raises :class:`FTPViolation`."""

    def end(self) -> None:
        """Raises :class:`FTPViolation` if something was cut short."""


class IControlOwner(Interface):
    """Who is told what comes on a control connection."""

    def received(self, end: ControlEnd, event: Event) -> None:
        """A line, or a reply of many, is complete."""

    def violated(self, end: ControlEnd, what: str) -> None:
        """What came cannot be understood; *what* completes "the client …" or "the backend …"."""

    def secured(self, end: ControlEnd) -> None:
        """The TLS handshake is done."""

    def lost(self, end: ControlEnd, reason: str) -> None:
        """The stream has ended, in order or not; called once."""


@implementer(IPushProducer)
class _Brake:
    """Keeps *ends* from being read while a leg is full: as a producer it stands for them."""

    def __init__(self, ends: Sequence[ControlEnd]) -> None:
        self._ends = ends

    def pauseProducing(self) -> None:
        """See :class:`twisted.internet.interfaces.IPushProducer`: the leg is full."""
        for end in self._ends:
            end.hold(self)

    def resumeProducing(self) -> None:
        """See :class:`twisted.internet.interfaces.IPushProducer`."""
        for end in self._ends:
            end.release(self)

    def stopProducing(self) -> None:
        """See :class:`twisted.internet.interfaces.IProducer`: the leg is gone."""


@implementer(IHalfCloseableProtocol, IHandshakeListener)
class ControlEnd(Protocol):
    """One side's control connection on *leg*; *telnet* is a client's, None stands for a backend."""

    def __init__(self, owner: IControlOwner, leg: Leg, telnet: bool | None) -> None:
        self.leg = leg
        self.bytes = 0
        # It was broken off: nobody is there any more to read an answer.
        self.broken = False
        self._owner = owner
        self._reader: IReader = cast(
            IReader, ReplyReader() if telnet is None else CommandReader(telnet=telnet)
        )
        # What keeps it from being read now.
        self._held_by: set[object] = set()
        self._over = False
        # What was read and not yet told, and the next turn in which it will be.
        self._events: deque[Event] = deque()
        self._turn: IDelayedCall | None = None

    def begin(self, *feeding: ControlEnd) -> None:
        """Take the leg over; those *feeding* it are not read while it is full."""
        self.leg.protocol = self
        self.makeConnection(self.leg)
        self.leg.abort_by_default()
        self.leg.registerProducer(_Brake(feeding), True)
        self.leg.startReading()

    def send(self, line: Command | Reply) -> None:
        """Write a command or a reply."""
        self.leg.write(bytes(line))

    def secure(self, start: Callable[[], None]) -> None:
        """
        Begin TLS by calling *start*, behind what was written.

        Bytes that came before belong to nobody: they are a violation (Requirement 30).
        """
        if self._reader.rest or self._events:
            self._owner.violated(self, "sent bytes in clear behind the line that began TLS")
        elif self.leg.unsent:
            self._owner.violated(self, "does not read what it is told before TLS")
        else:
            start()

    def let_go(self) -> Leg:
        """Return the leg, of which nothing more is told."""
        self._close()
        return self.leg

    # -- reading --------------------------------------------------------------------------------

    def hold(self, reason: object) -> None:
        """Do not read until *reason* is released; other reasons may stand beside it."""
        self._held_by.add(reason)
        if not self._over:
            self.leg.stopReading()

    def release(self, reason: object) -> None:
        """See :meth:`hold`; harmless where it is not held."""
        if reason in self._held_by:
            self._held_by.remove(reason)
            if not (self._held_by or self._over):
                self.leg.startReading()

    def dataReceived(self, data: bytes) -> None:
        """See :class:`twisted.internet.interfaces.IProtocol`."""
        self.bytes += len(data)
        try:
            events = self._reader.receive(data)
        except FTPViolation as error:
            self._owner.violated(self, str(error))
            return
        self._events += events
        self._tell()

    def _tell(self) -> None:
        """Tell what was read, for as long as a turn may last; what is left waits for the next."""
        self._turn = None
        for _ in range(min(TURN_EVENTS, len(self._events))):
            if self._over:
                return
            self._owner.received(self, self._events.popleft())
        if self._over:
            return
        if self._events:
            reactor: Any = self.leg.reactor
            self._turn = reactor.callLater(0, self._tell)
            self.hold(self._reader)
        else:
            self.release(self._reader)

    # -- ends -----------------------------------------------------------------------------------

    def handshakeCompleted(self) -> None:
        """See :class:`twisted.internet.interfaces.IHandshakeListener`."""
        self._owner.secured(self)

    def readConnectionLost(self) -> None:
        """See :class:`twisted.internet.interfaces.IHalfCloseableProtocol`."""
        self._lost("ended in order")

    def writeConnectionLost(self) -> None:
        """See :class:`twisted.internet.interfaces.IHalfCloseableProtocol`."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See :class:`twisted.internet.interfaces.IProtocol`."""
        self.broken = True
        self._lost(reason.getErrorMessage())

    def _lost(self, reason: str) -> None:
        if not self._over:
            self._close()
            self._owner.lost(self, reason)

    def _close(self) -> None:
        self._over = True
        self._events.clear()
        if self._turn is not None:
            self._turn.cancel()
            self._turn = None
        if self.leg.connected:
            self.leg.unregisterProducer()
