"""Listening sockets whose connections are legs."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from typing import Any, cast

from twisted.internet import tcp
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger

from relaygate.legs import Leg
from relaygate.socketleg import ServerLeg, accept, accept_number, address_of
from relaygate.tuning import LINGER_ABORT, tune

# Twisted's 50 is soon full where partners' jobs all start on the hour.
BACKLOG = 1024
# Connections that are taken in one turn, before those that stand have theirs.
ACCEPTS = 16
# Those that are reset one after the other before others have their turn.
REFUSED = 64

Screen = Callable[[str], bool]

_log = Logger()


class WaitingLeg(ServerLeg):
    """A connection that was accepted, and is not read until somebody starts to."""

    def startReading(self) -> None:
        """See :class:`twisted.internet.abstract.FileDescriptor`; Twisted calls it at birth."""
        if self.connected:
            super().startReading()


class ScreenedSocket(socket.socket):
    """
    A listening socket that takes only connections from addresses that a *screen* lets in.

    All others are reset before anything is made of them, for what a flood costs is mostly that.
    A close that were none would also leave the kernel something to remember of each.
    """

    screen: Screen
    of: socket.AddressFamily

    def accept(self) -> tuple[socket.socket, Any]:
        """See :meth:`socket.socket.accept`; now and then :class:`BlockingIOError` comes although
        more wait.
        """
        for _ in range(REFUSED):
            number, peer = accept_number(self)
            try:
                welcome = self.screen(peer[0])
            except BaseException:
                os.close(number)
                raise
            if welcome:
                return socket.socket(self.of, socket.SOCK_STREAM, self.proto, number), peer
            os.close(number)
        raise BlockingIOError(errno.EAGAIN, "enough for this turn")


class LegPort(tcp.Port):
    """
    A listening socket whose connections are legs.

    With *shared* an explicit address and the wildcard may hold the same port number, and a client
    gets the explicit one (lesson 30); Linux allows it only where both sockets ask for it.
    *transport* makes the connections.  With a *screen* those from addresses that it does not let
    in are reset at once; all others have to abort by default.
    """

    def __init__(
        self,
        host: str,
        port: int,
        factory: Factory,
        reactor: object,
        *,
        shared: bool = False,
        transport: type[ServerLeg] = ServerLeg,
        screen: Screen | None = None,
    ) -> None:
        self._shared = shared
        self._screen = screen
        self._wanted = 1
        # Twisted only calls it, with what its own servers are made of.
        self.transport = transport  # type: ignore[assignment]
        super().__init__(port, factory, BACKLOG, host, reactor)

    def doRead(self) -> None:
        """
        See :class:`twisted.internet.interfaces.IReadDescriptor`.

        Twisted makes three loggers for each look at who has come.  It is asked only where nobody
        can be taken for want of descriptors, for which it keeps one back.
        """
        wanted, screened = self._wanted, self._screen is not None
        for taken in range(wanted):
            try:
                if screened:
                    skt, peer = self.socket.accept()
                else:
                    skt, peer = accept(self.socket, self.addressFamily)
            except BlockingIOError:
                self._wanted = max(1, taken)
                return
            except OSError:
                super().doRead()
                return
            try:
                self._take(skt, peer)
            except Exception:  # noqa: BLE001 - the others who come are no worse for it
                _log.failure("taking a connection")
            if not self.connected:
                return
        # So many wait that more than these may.
        self._wanted = min(ACCEPTS, wanted + 1)

    def _take(self, skt: socket.socket, peer: tuple[Any, ...]) -> None:
        if len(peer) == 4 and peer[3]:
            # Its zone belongs to it.
            flags = socket.NI_NUMERICHOST | socket.NI_NUMERICSERV
            peer = (socket.getnameinfo(peer, flags)[0], *peer[1:])
        assert self.factory is not None
        protocol = self.factory.buildProtocol(address_of(peer))
        if protocol is None:
            skt.close()
            return
        protocol.makeConnection(self.transport(skt, protocol, peer, self, 0, self.reactor))

    def createInternetSocket(self) -> socket.socket:
        """See :class:`twisted.internet.base.BasePort`."""
        skt = tune(self._screened(super().createInternetSocket()))
        if self._shared:
            skt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if self.addressFamily == socket.AF_INET6:
            # [::] is every IPv6 address, and 0.0.0.0 every IPv4 one: two rules, two listeners.
            skt.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        return skt

    def _screened(self, skt: socket.socket) -> socket.socket:
        if self._screen is None:
            return skt
        screened = ScreenedSocket(skt.family, skt.type, skt.proto, fileno=skt.detach())
        screened.setblocking(False)
        screened.screen, screened.of = self._screen, self.addressFamily
        # What it accepts has this from it, and so a bare close is a reset.
        screened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ABORT)
        return screened


class Accepted(Protocol):
    """
    The protocol of a connection that was accepted, until somebody has it.

    *taker* has its leg, not read, and gives it another protocol.
    """

    def __init__(self, taker: Callable[[Leg], None]) -> None:
        self._taker = taker

    def connectionMade(self) -> None:
        """See :class:`twisted.internet.interfaces.IProtocol`."""
        leg = cast(Leg, self.transport)
        # It may still be waiting when the node is killed, and no file is complete then.
        leg.abort_by_default()
        self._taker(leg)


class Stranger(Protocol):
    """Resets who is not expected: an end would be a whole, empty file."""

    def connectionMade(self) -> None:
        """See :class:`twisted.internet.interfaces.IProtocol`."""
        cast(Leg, self.transport).abortConnection()
