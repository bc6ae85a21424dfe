"""
Checks of a service's backends: in regular turns, and of those that sessions have marked.

Without a regular check a backend that works is never looked at: it is asked only after sessions
have failed there, to find out when it is back.  While no other is up that is every few seconds, as
no client may find it closed who could be served.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred, TimeoutError
from twisted.internet.interfaces import IDelayedCall, IHalfCloseableProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from relaygate.addresses import HostPort
from relaygate.backends import Backend, Backends
from relaygate.dial import DialFailed, dial
from relaygate.handshake import HandshakeFailed, shake_hands
from relaygate.legs import Leg
from relaygate.protocols.healthchecks import CheckFailed, HealthCheck
from relaygate.servicetls import BackendTLS
from relaygate.tls import PeerNotAllowed

# Seconds between two looks at a marked backend while no other of its service is up.
URGENT_S = 2.0
# A pause that ends within so many seconds is over.
AT_ONCE_S = 0.05
# Seconds for a server to end the connection after the check has said its farewell.
LEAVE_LIMIT_S = 1.0


@dataclass(frozen=True)
class Checks:
    """
    How backends are looked at.

    *make* makes a check for an address; *interval_s* is None where only marked ones are looked at;
    *tls* gives the TLS of the moment, or None for none; *header* is the PROXY header that says
    that we speak for nobody, where backends demand one (requirement 75).
    """

    make: Callable[[HostPort], HealthCheck]
    interval_s: float | None
    timeout_s: float
    tls: Callable[[], BackendTLS | None]
    header: bytes = b""


@implementer(IHalfCloseableProtocol)
class _Asking(Protocol):
    """The connection of one check."""

    def __init__(self, check: HealthCheck) -> None:
        self._check = check
        self.done: Deferred[None] = Deferred()
        self.over: Deferred[None] = Deferred()

    @property
    def leg(self) -> Leg:
        """The connection."""
        return cast(Leg, self.transport)

    def begin(self) -> None:
        """Say the check's first words."""
        if self._check.first:
            self.leg.write(self._check.first)
        if self._check.content:
            self.done.callback(None)
        self.leg.startReading()

    def dataReceived(self, data: bytes) -> None:
        """See :class:`twisted.internet.interfaces.IProtocol`."""
        if self.done.called:
            return
        try:
            if self._check.receive(data):
                self.done.callback(None)
        except CheckFailed as error:
            self.done.errback(error)

    def leave(self) -> None:
        """Take leave, in the protocol's own way."""
        if self._check.leave:
            self.leg.write(self._check.leave)
        self.leg.loseWriteConnection()

    def readConnectionLost(self) -> None:
        """See :class:`twisted.internet.interfaces.IHalfCloseableProtocol`."""
        self._ended("it closed the connection")

    def writeConnectionLost(self) -> None:
        """See :class:`twisted.internet.interfaces.IHalfCloseableProtocol`."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See :class:`twisted.internet.interfaces.IProtocol`."""
        self._ended(reason.getErrorMessage())

    def _ended(self, why: str) -> None:
        if not self.done.called:
            self.done.errback(CheckFailed(why))
        if not self.over.called:
            self.over.callback(None)


async def check(reactor: Any, address: HostPort, checks: Checks) -> None:
    """
    Look at the backend at *address*.

    Raises :class:`CheckFailed`; cancelling gives it up.
    """
    try:
        leg = await dial(reactor, address, checks.timeout_s)
    except DialFailed as error:
        raise CheckFailed(str(error)) from None
    try:
        if checks.header:
            leg.write(checks.header)
        tls = checks.tls()
        if tls is not None:
            await _secure(reactor, leg, tls, address.host)
        asking = _Asking(checks.make(address))
        leg.protocol = asking
        asking.makeConnection(leg)
        if not leg.connected:
            raise CheckFailed("the connection was lost")
        asking.begin()
        try:
            await asking.done.addTimeout(checks.timeout_s, reactor)
        except TimeoutError:
            raise CheckFailed(f"no answer in {checks.timeout_s:g} s") from None
        asking.leave()
        try:
            await asking.over.addTimeout(LEAVE_LIMIT_S, reactor)
        except TimeoutError:
            pass
    finally:
        if leg.connected:
            leg.abortConnection()


async def _secure(reactor: Any, leg: Leg, tls: BackendTLS, host: str) -> None:
    try:
        await shake_hands(
            leg, lambda: leg.start_tls(tls.context, server=False, sni=tls.sni(host)), reactor
        )
        assert leg.tls is not None
        tls.demand(leg.tls, host)
    except (HandshakeFailed, PeerNotAllowed) as error:
        raise CheckFailed(f"TLS: {error}") from None


class Watcher(Service):
    """Looks at *backends* as *checks* say; *random* spreads the looks (0 up to 1)."""

    log = Logger()

    def __init__(
        self, backends: Backends, checks: Checks, reactor: Any, random: Callable[[], float]
    ) -> None:
        self._backends = backends
        self._checks = checks
        self._reactor = reactor
        self._random = random
        self._waiting: dict[Backend, IDelayedCall] = {}
        self._looking: dict[Backend, Deferred[None]] = {}

    def startService(self) -> None:
        """See :class:`twisted.application.service.IService`."""
        super().startService()
        self.look()

    def stopService(self) -> None:
        """See :class:`twisted.application.service.IService`."""
        super().stopService()
        for call in self._waiting.values():
            call.cancel()
        self._waiting.clear()
        for looking in list(self._looking.values()):
            looking.cancel()

    def look(self) -> None:
        """The state of a backend has changed, or there are others: plan the next look at each."""
        if not self.running:
            return
        for backend in self._backends.group.members:
            if backend not in self._looking:
                self._plan(backend)

    def _plan(self, backend: Backend) -> None:
        wait = self._wait(backend)
        planned = self._waiting.pop(backend, None)
        if planned is not None:
            if wait is not None:
                wait = min(wait, planned.getTime() - self._reactor.seconds())
            planned.cancel()
        if wait is not None:
            self._waiting[backend] = self._reactor.callLater(max(0.0, wait), self._due, backend)

    def _wait(self, backend: Backend) -> float | None:
        """Seconds until the next look at *backend*; None is never."""
        interval = self._checks.interval_s
        waits = []
        if interval is not None:
            # By a tenth either way, so that many do not come to look at one moment.
            waits.append(interval * (0.9 + 0.2 * self._random()))
        if backend.health.marked:
            pause = max(0.1, backend.health.due() - self._reactor.seconds())
            waits.append(min(pause, URGENT_S) if self._nobody_up else pause)
        return min(waits, default=None)

    @property
    def _nobody_up(self) -> bool:
        return not any(each.health.state == "up" for each in self._backends.group.members)

    def _due(self, backend: Backend) -> None:
        del self._waiting[backend]
        left = backend.health.due() - self._reactor.seconds()
        if self._checks.interval_s is None and left > AT_ONCE_S and not self._nobody_up:
            # A session was quicker at the end of the pause, and has begun another one.
            self._looked(backend)
        elif backend in self._backends.group.members:
            looking = Deferred.fromCoroutine(self._look_at(backend))
            if not looking.called:
                self._looking[backend] = looking
            looking.addErrback(self._broken)
            looking.addCallback(lambda _: self._looked(backend))

    def _looked(self, backend: Backend) -> None:
        self._looking.pop(backend, None)
        if self.running and backend in self._backends.group.members:
            self._plan(backend)

    def _broken(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self.log.failure("checking a backend of {name}", failure, name=self._backends.name)

    async def _look_at(self, backend: Backend) -> None:
        health = backend.health
        there = health.there
        # Its pause goes on while it is looked at, so that no session is the second check.
        health.tried(self._reactor.seconds())
        try:
            await check(self._reactor, backend.target, self._checks)
        except CheckFailed as error:
            reason, good = str(error), False
            health.failed(self._reactor.seconds()) if health.marked else None
        else:
            reason, good = "a check found it well", True
        if self._checks.interval_s is None:
            changed = good and health.worked()
        else:
            changed = health.checked(good)
        if changed or health.there is not there:
            self._backends.tell(backend, reason)
