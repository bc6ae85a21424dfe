"""
Listening sockets that are open for a moment, for one connection.

Twisted's port, which :class:`relaygate.legport.LegPort` is, is made for a server's life: it writes
two lines of a log, looks for a second connection behind each, and closes a turn of the reactor
after it was told to.  All of that is paid again for each file that FTP moves, so here is a port
that does none of it.  It is closed when :meth:`OncePort.close` returns.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from typing import Any

from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IDelayedCall, IProtocol, IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from relaygate.legport import BACKLOG, WaitingLeg
from relaygate.socketleg import accept
from relaygate.tuning import reset, tune

# Why accept(2) takes nobody, though somebody is there, until something else was closed.
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
# Seconds until it is tried again then.
AGAIN_S = 0.25


@implementer(IReadDescriptor)
class OncePort:
    """
    Listens on *port* (0: any) of *host*, an IP address, as soon as it is made.

    *build* is asked with the address of each one who connects, and returns the protocol of the
    connection, a leg that is not read; None resets it.  Raises :class:`CannotListenError`.
    """

    def __init__(
        self,
        reactor: Any,
        host: str,
        port: int,
        build: Callable[[str], IProtocol | None],
    ) -> None:
        self.host = host
        self._reactor = reactor
        self._build = build
        self._again: IDelayedCall | None = None
        self._socket: socket.socket | None = None
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        skt = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            skt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tune(skt)
            address: tuple[Any, ...] = (host, port)
            if family == socket.AF_INET6:
                skt.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                # A zone has to become a number.
                flags = socket.AI_NUMERICHOST
                address = socket.getaddrinfo(host, port, family, flags=flags)[0][4]
            skt.bind(address)
            skt.listen(BACKLOG)
        except OSError as error:
            skt.close()
            raise CannotListenError(host, port, error) from None
        self.port: int = skt.getsockname()[1]
        self._socket = skt
        self._family = family
        # It stays what it was: the reactor asks once more after the turn in which this is closed.
        self._number = skt.fileno()
        reactor.addReader(self)

    def close(self) -> None:
        """Listen no more.  Harmless when it does not."""
        skt, self._socket = self._socket, None
        if skt is None:
            return
        self._reactor.removeReader(self)
        if self._again is not None:
            self._again.cancel()
        skt.close()

    # -- what the reactor calls -----------------------------------------------------------------

    def fileno(self) -> int:
        """See :class:`twisted.internet.interfaces.IFileDescriptor`."""
        return self._number

    def logPrefix(self) -> str:
        """See :class:`twisted.internet.interfaces.ILoggingContext`."""
        return type(self).__name__

    def doRead(self) -> None:
        """See :class:`twisted.internet.interfaces.IReadDescriptor`: take one connection."""
        if self._socket is None:
            return
        try:
            skt, peer = accept(self._socket, self._family)
        except OSError as error:
            if error.errno in _EXHAUSTED:
                # Whoever waits goes on to wait, and the reactor does not ask for it meanwhile.
                self._reactor.removeReader(self)
                self._again = self._reactor.callLater(AGAIN_S, self._read_on)
            return
        skt.setblocking(False)
        protocol = self._build(peer[0])
        if protocol is None:
            # An end would be a file that is empty and whole; a reset is what a closed port says.
            reset(skt)
            return
        leg = WaitingLeg(skt, protocol, peer, self, 0, self._reactor)
        protocol.makeConnection(leg)

    def _read_on(self) -> None:
        self._again = None
        self._reactor.addReader(self)

    def connectionLost(self, reason: Failure) -> None:
        """See :class:`twisted.internet.interfaces.IFileDescriptor`: the reactor goes down."""
        self.close()

    def getHost(self) -> IPv4Address | IPv6Address:
        """See :class:`twisted.internet.interfaces.IListeningPort`."""
        kind = IPv6Address if ":" in self.host else IPv4Address
        return kind("TCP", self.host, self.port)
