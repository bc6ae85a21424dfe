"""
The first words of an SSH session, watched on the internal node.

Both sides' identification lines (RFC 4253 section 4.2) pass through a parser and on to the other
side, verbatim and at once; then the parsers are gone and the relay has the legs.  It is done here
and not in the DMZ for three reasons: the check is then out of a taken-over DMZ's reach, nothing in
the DMZ parses what the Internet sends, and the DMZ's relay moves the session's bytes by ``splice``
from the first one on.
"""

from __future__ import annotations

from dataclasses import dataclass

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from relaygate.legs import Leg
from relaygate.outcome import Cause, Outcome, Phase
from relaygate.protocols.sshident import IdentificationReader, NotSSH

# Seconds for both identifications together.  It is absolute: dripping bytes do not prolong it.
IDENTIFICATION_LIMIT_S = 30.0


class NotIdentified(Exception):
    """
    One side did not identify itself; both legs are gone.  *outcome* says which and why, and
    *server_is_silent* whether it was the server, whatever the client did.
    """

    def __init__(self, outcome: Outcome, server_is_silent: bool) -> None:
        super().__init__(str(outcome))
        self.outcome = outcome
        self.server_is_silent = server_is_silent


@dataclass(frozen=True, slots=True)
class Identified:
    """What was read of each side: its identification, how much was passed on, and what was not."""

    client: bytes
    server: bytes
    passed_in: int
    passed_out: int
    rest_in: bytes
    rest_out: bytes


@implementer(IHalfCloseableProtocol)
class _Side(Protocol):
    """The protocol of one leg until both sides have identified themselves."""

    def __init__(self, opening: SSHOpening, cause: Cause, name: str, own: Leg, other: Leg) -> None:
        self.reader = IdentificationReader(preface=cause is Cause.BACKEND)
        self.passed = 0
        self.cause = cause
        self.name = name
        self._opening = opening
        self._own = own
        self._other = other

    def dataReceived(self, data: bytes) -> None:
        """See :class:`twisted.internet.interfaces.IProtocol`."""
        try:
            passed = self.reader.receive(data)
        except NotSSH as error:
            self._opening.fail(self.cause, f"the {self.name} {error}")
            return
        if passed:
            self.passed += len(passed)
            self._other.write(passed)
        if self.reader.identification is not None:
            # The rest waits in the kernel until the relay reads it.
            self._own.stopReading()
            self._opening.identified()

    def readConnectionLost(self) -> None:
        """See :class:`twisted.internet.interfaces.IHalfCloseableProtocol`."""
        try:
            self.reader.end()
        except NotSSH as error:
            self._opening.fail(self.cause, f"the {self.name} {error}")

    def writeConnectionLost(self) -> None:
        """See :class:`twisted.internet.interfaces.IHalfCloseableProtocol`."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See :class:`twisted.internet.interfaces.IProtocol`."""
        self._opening.fail(self.cause, f"the {self.name} closed before both were identified")


class SSHOpening:
    """
    Watches *outer* (the client's leg) and *inner* (the server's) until both are identified.

    :attr:`done` fires with :class:`Identified`, or fails with :class:`NotIdentified`.
    """

    def __init__(self, outer: Leg, inner: Leg, clock: IReactorTime) -> None:
        self.done: Deferred[Identified] = Deferred()
        self._outer = outer
        self._inner = inner
        self._client = _Side(self, Cause.CLIENT, "client", outer, inner)
        self._server = _Side(self, Cause.BACKEND, "server", inner, outer)
        self._limit = clock.callLater(IDENTIFICATION_LIMIT_S, self._too_slow)
        for leg, side in ((outer, self._client), (inner, self._server)):
            leg.protocol = side
            side.makeConnection(leg)
            leg.abort_by_default()
            leg.startReading()

    def identified(self) -> None:
        """One side is identified; perhaps both are now."""
        client, server = self._client.reader, self._server.reader
        if client.identification is None or server.identification is None:
            return
        self._limit.cancel()
        self.done.callback(
            Identified(
                client.identification,
                server.identification,
                self._client.passed,
                self._server.passed,
                client.rest,
                server.rest,
            )
        )

    def _too_slow(self) -> None:
        missing = self._client if self._client.reader.identification is None else self._server
        self.fail(
            Cause.TIMEOUT,
            f"the {missing.name} has not identified itself in {IDENTIFICATION_LIMIT_S:g} s",
        )

    def fail(self, cause: Cause, detail: str) -> None:
        """It is not SSH, or it is over: both legs end."""
        if self.done.called:
            return
        if self._limit.active():
            self._limit.cancel()
        self._outer.abortConnection()
        self._inner.abortConnection()
        # A server speaks first: that it has not is nothing that a client could have brought about.
        silent = cause is not Cause.CLIENT and self._server.reader.identification is None
        self.done.errback(NotIdentified(Outcome(cause, Phase.OPEN, detail), silent))
