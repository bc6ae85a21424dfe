"""
PROXY headers in the DMZ: whose connection it is that a load balancer in front passes on.

The policy names the balancers.  A connection from one of them must begin with a header, whole and
right within a time, or it is reset; one from anybody else is a client's own, and what it sends is
never looked at (requirement 72: required or off, never guessed).  The header is taken out of the
kernel byte by byte as far as it goes, and nothing behind it: the client's own bytes stay there, as
those of every other client do.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import cast

from twisted.internet import main
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from relaygate.admission import Throttle
from relaygate.legs import Leg
from relaygate.networks import NetworkSet
from relaygate.protocols.proxyheader import MAX_V2, HeaderReader, NoProxyHeader, ProxyHeader

# Seconds for the whole header. The specification wants 3 at least, for one lost packet.
HEADER_LIMIT_S = 5.0
# Seconds for a balancer's own connection to end or to speak, before a backend is dialled for it.
LOOK_LIMIT_S = 0.5

Introduced = Callable[[Leg, ProxyHeader], None]


class Intake:
    """
    Takes the headers of connections from *trusted* proxies, of *most* at once.

    There is no bound for each proxy: all its clients come from its one address.
    """

    log = Logger()

    def __init__(self, clock: IReactorTime, trusted: NetworkSet, most: int) -> None:
        self.clock = clock
        self.failed = 0
        self.use(trusted, most)
        self._waiting: set[_Introduced] = set()
        self._throttle = Throttle(clock.seconds)

    def __len__(self) -> int:
        return len(self._waiting)

    def use(self, trusted: NetworkSet, most: int) -> None:
        """New connections are asked by these from now on."""
        self._trusted = trusted
        self._most = most

    def trusts(self, address: str) -> bool:
        """Whether a connection from *address* must begin with a header."""
        return bool(self._trusted) and address in self._trusted

    def protocol(self, introduced: Introduced) -> Protocol | None:
        """
        The protocol of a new connection; None if too many wait.

        *introduced* gets its leg, which is not read, and the header when that is whole.
        """
        if len(self._waiting) >= self._most:
            self.note("-", "too many wait for their PROXY header")
            return None
        return _Introduced(self, introduced)

    def enter(self, waiting: _Introduced) -> None:
        """A connection waits for its header."""
        self._waiting.add(waiting)

    def leave(self, waiting: _Introduced) -> None:
        """It does no longer."""
        self._waiting.discard(waiting)

    def note(self, proxy: str, reason: str) -> None:
        """Log that a connection brought no header."""
        self.failed += 1
        if self._throttle.passes():
            self.log.warn(
                "connection without PROXY header reset: proxy={proxy} reason={reason!r}"
                " not_logged={not_logged}",
                proxy=proxy,
                reason=reason,
                not_logged=self._throttle.take_suppressed(),
            )

    def stop(self) -> None:
        """Reset every connection that waits."""
        for waiting in list(self._waiting):
            waiting.leg.abortConnection()


class _Introduced(Protocol):
    """A proxy's connection until its header is whole."""

    def __init__(self, intake: Intake, introduced: Introduced) -> None:
        self._intake = intake
        self._introduced = introduced
        self._reader = HeaderReader()
        self._header: ProxyHeader | None = None
        self._limit: IDelayedCall | None = None

    @property
    def leg(self) -> Leg:
        """The connection."""
        return cast(Leg, self.transport)

    def connectionMade(self) -> None:
        """See :class:`twisted.internet.interfaces.IProtocol`."""
        self._intake.enter(self)
        self._limit = self._intake.clock.callLater(HEADER_LIMIT_S, self._turn_away, "too slow")
        self.leg.abort_by_default()
        self.leg.inbound = self
        self.leg.startReading()

    def readable(self) -> Exception | None:
        """See :class:`relaygate.legs.IPump`."""
        leg, reader = self.leg, self._reader
        try:
            data = leg.socket.recv(MAX_V2, socket.MSG_PEEK)
        except BlockingIOError:
            return None
        except OSError:
            return main.CONNECTION_LOST
        if not data:
            return main.CONNECTION_DONE
        if self._header is not None:
            self._introduce(self._header)
            return None
        try:
            headers = reader.receive(data)
        except NoProxyHeader as error:
            self._turn_away(str(error))
            return None
        # All that came is the header's, or all but what is left over: so nothing waits twice.
        leg.socket.recv(len(data) - (len(reader.rest) if headers else 0))
        for header in headers:
            self._header = header
            if header.source is not None:
                self._introduce(header)
            elif self._limit is not None:
                # The balancer's own: mostly a look whether the port is open, which ends here.
                self._limit.cancel()
                wait = self._intake.clock.callLater
                self._limit = wait(LOOK_LIMIT_S, self._introduce, header)
        return None

    def _introduce(self, header: ProxyHeader) -> None:
        self._let_go()
        self.leg.stopReading()
        self._introduced(self.leg, header)

    def writable(self) -> Exception | None:
        """See :class:`relaygate.legs.IPump`; nothing is written."""
        return None

    def _turn_away(self, reason: str) -> None:
        self._intake.note(self.leg.getPeer().host, reason)
        self._let_go()
        self.leg.abortConnection()

    def _let_go(self) -> None:
        self.leg.inbound = None
        self._intake.leave(self)
        if self._limit is not None and self._limit.active():
            self._limit.cancel()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """See :class:`twisted.internet.interfaces.IProtocol`."""
        waited = self._limit is not None and self._limit.active()
        self._let_go()
        # One that has said nothing is a balancer's look whether the port is open.
        if waited and self._reader.rest and self._header is None:
            self._intake.note(self.leg.getPeer().host, "it ended before it was whole")
