"""
The opening of TLS that is passed through: the client's first message, read and then sent on.

It is read here, on the internal node, for the same reason for which SSH's identification is:
nothing in the DMZ has to understand what the Internet sends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from relaygate.backends import Backends
from relaygate.legs import Leg
from relaygate.outcome import Cause, Outcome, Phase
from relaygate.protocols.clienthello import ClientHello, ClientHelloReader, NotTLS
from relaygate.protocols.httptarget import Routes

# Seconds for the whole message.  It is absolute: dripping bytes do not prolong it.
HELLO_LIMIT_S = 10.0
# RFC 8446 section 6.2: fatal alerts in a record of their own.
ALERT_PROTOCOL_VERSION = b"\x15\x03\x03\x00\x02\x02\x46"
ALERT_UNRECOGNIZED_NAME = b"\x15\x03\x03\x00\x02\x02\x70"
VERSIONS = ("unknown", "ssl3", "1.0", "1.1", "1.2", "1.3")


@dataclass(frozen=True)
class PassThrough:
    """
    What a service says about TLS that is passed through.

    *targets* are those of the *routes*, by number, and *default* what none fits.  With
    *strict_hosts* a client that asks for a host that no route names is refused, and so is one that
    cannot speak *minimum*, such as "1.2".
    """

    routes: Routes
    targets: Sequence[Backends]
    default: Backends
    strict_hosts: bool
    minimum: str

    def refusal(self, hello: ClientHello) -> tuple[str, bytes] | None:
        """Why *hello* is not served, and the alert that says so; None if it is."""
        if VERSIONS.index(hello.version) < VERSIONS.index(self.minimum):
            return f"the client speaks no TLS from {self.minimum} on", ALERT_PROTOCOL_VERSION
        if self.strict_hosts and not self.routes.names((hello.host or "").encode()):
            return "the client asks for a host that is none of ours", ALERT_UNRECOGNIZED_NAME
        return None

    def target(self, hello: ClientHello) -> Backends:
        """Where *hello* leads."""
        number = self.routes.find((hello.host or "").encode(), b"/")
        return self.default if number is None else self.targets[number]


class NoClientHello(Exception):
    """The client did not begin TLS; *outcome* says why.  Its leg is still there."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(str(outcome))
        self.outcome = outcome


@implementer(IHalfCloseableProtocol)
class HelloOpening(Protocol):
    """
    Reads the first message on *leg*.

    :attr:`done` fires with it, and then nobody reads the leg, or fails with :class:`NoClientHello`.
    :attr:`data` are the bytes that came, for the backend.
    """

    def __init__(self, leg: Leg, clock: IReactorTime) -> None:
        self.done: Deferred[ClientHello] = Deferred()
        self._leg = leg
        self._reader = ClientHelloReader()
        self._limit = clock.callLater(HELLO_LIMIT_S, self._too_slow)
        leg.protocol = self
        self.makeConnection(leg)
        leg.abort_by_default()
        leg.startReading()

    @property
    def data(self) -> bytes:
        """All that has come."""
        return bytes(self._reader.data)

    def dataReceived(self, data: bytes) -> None:
        """See :class:`twisted.internet.interfaces.IProtocol`."""
        if self.done.called:
            return
        try:
            hello = self._reader.receive(data)
        except NotTLS as error:
            self._fail(Cause.CLIENT, f"the client {error}")
            return
        if hello is not None:
            self._leg.stopReading()
            self._limit.cancel()
            self.done.callback(hello)

    def readConnectionLost(self) -> None:
        """See :class:`twisted.internet.interfaces.IHalfCloseableProtocol`."""
        self._fail(Cause.CLIENT, "the client ended before its first message was complete")

    def writeConnectionLost(self) -> None:
        """See :class:`twisted.internet.interfaces.IHalfCloseableProtocol`."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See :class:`twisted.internet.interfaces.IProtocol`."""
        self._fail(Cause.CLIENT, "the client closed before its first message was complete")

    def _too_slow(self) -> None:
        self._fail(Cause.TIMEOUT, f"the client has not begun TLS in {HELLO_LIMIT_S:g} s")

    def _fail(self, cause: Cause, detail: str) -> None:
        if self.done.called:
            return
        if self._limit.active():
            self._limit.cancel()
        self.done.errback(NoClientHello(Outcome(cause, Phase.OPEN, detail)))
