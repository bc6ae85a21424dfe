"""
The two ways of an FTP data connection: through the DMZ node, or straight over the own network.

A session has one for each of its sides.  A published service's client comes through the DMZ, and
its backend is near; a program that goes out is near, and its partner comes through the DMZ.  A
connection is found by listening or by dialling, and either way belongs to the party whose control
connection it is: nobody else is let in, and nobody else is dialled.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.protocol import Protocol as StreamProtocol

from relaygate.addresses import HostPort
from relaygate.dataway import DataWay, TransferFailed
from relaygate.dial import dial
from relaygate.legs import Leg
from relaygate.onceport import OncePort

DIAL_LIMIT_S = 15.0
# Seconds that a port of ours waits for its connection.
LISTEN_LIMIT_S = 60.0


class Arrival(Protocol):
    """
    A data connection that will come: :attr:`arrived` fires once with its leg, which is not read, or
    with :class:`relaygate.dataway.TransferFailed`.
    """

    arrived: Deferred[Leg]

    def withdraw(self) -> None:
        """It is not wanted any more.  Harmless when it has come."""


@dataclass(frozen=True)
class Opened:
    """A port that is open, which the other side reaches at *host*."""

    host: str
    port: int
    arrival: Arrival


class Way(Protocol):
    """
    How the data connections of one side come about.

    ``protected``: what it carries is TLS between us and that side.  Both raise
    :class:`relaygate.dataway.TransferFailed` or :class:`relaygate.dial.DialFailed`.
    """

    async def listen(self, protected: bool) -> Opened:
        """Open a port for that side."""

    async def dial(self, port: int, protected: bool) -> Arrival:
        """Dial *port* of that side; it is reached when this returns."""


@dataclass(frozen=True)
class ThroughGateway:
    """
    The way of who is beyond the DMZ node that *dataway* belongs to.

    *kind* says which kind of channel carries a connection, protected or not; *shown* gives the
    address that is told.
    """

    dataway: DataWay
    session: str
    kind: Callable[[bool], bool]
    shown: Callable[[], Deferred[str]]
    ports: tuple[int, int]
    peers: Sequence[str]
    source_port: int

    async def listen(self, protected: bool) -> Opened:
        """See :class:`Way`."""
        host = await self.shown()
        kind = self.kind(protected)
        transfer = await self.dataway.offer_passive(self.session, self.ports, self.peers, kind)
        return Opened(host, transfer.port, transfer)

    async def dial(self, port: int, protected: bool) -> Arrival:
        """See :class:`Way`."""
        kind = self.kind(protected)
        return await self.dataway.dial_active(self.session, port, self.source_port, kind)


@dataclass(frozen=True)
class Direct:
    """The way of who is at the other end of *control*, a leg of ours."""

    reactor: Any
    control: Leg

    async def listen(self, protected: bool) -> Opened:
        """See :class:`Way`."""
        host, peer = self.control.getHost().host, self.control.getPeer().host
        awaited = _Awaiting(self.reactor, peer)
        return Opened(host, awaited.open(host), awaited)

    async def dial(self, port: int, protected: bool) -> Arrival:
        """See :class:`Way`."""
        # Where the control connection goes, whatever the other side says (Requirement 17).
        address = HostPort(self.control.getPeer().host, port)
        return _Dialled(await dial(self.reactor, address, DIAL_LIMIT_S))


class _Dialled:
    """A connection that stands already."""

    def __init__(self, leg: Leg) -> None:
        self.arrived: Deferred[Leg] = succeed(leg)

    def withdraw(self) -> None:
        """It has come."""


class _Awaiting:
    """Lets one connection in, from *peer* alone."""

    def __init__(self, reactor: Any, peer: str) -> None:
        self.arrived: Deferred[Leg] = Deferred()
        self._reactor = reactor
        self._peer = peer
        self._port: OncePort | None = None
        self._limit: IDelayedCall | None = None

    def open(self, host: str) -> int:
        """Listen at *host*, and return the port."""
        try:
            self._port = port = OncePort(self._reactor, host, 0, self._came)
        except CannotListenError as error:
            raise TransferFailed(str(error)) from None
        self._limit = self._reactor.callLater(LISTEN_LIMIT_S, self._expire)
        return port.port

    def _came(self, address: str) -> StreamProtocol | None:
        if address != self._peer:
            return None
        self.withdraw()
        return _Came(self.arrived)

    def withdraw(self) -> None:
        """See :class:`Arrival`."""
        if self._port is None or self._limit is None:
            return
        if self._limit.active():
            self._limit.cancel()
        port, self._port = self._port, None
        port.close()

    def _expire(self) -> None:
        self.withdraw()
        self.arrived.errback(TransferFailed("nobody has come"))


class _Came(StreamProtocol):
    """The protocol of a data connection until it is part of a relay."""

    def __init__(self, arrived: Deferred[Leg]) -> None:
        self._arrived = arrived

    def connectionMade(self) -> None:
        """See :class:`twisted.internet.interfaces.IProtocol`."""
        self._arrived.callback(cast(Leg, self.transport))
