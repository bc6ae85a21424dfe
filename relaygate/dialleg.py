"""
Legs that are dialled: to a literal address, from the first packet on, and for Twisted's endpoints.

Twisted makes a client out of a connector, a factory, a resolver and three turns of its reactor.
With an address that needs no resolver all of that is one ``connect(2)`` and one wait for the socket
to become writable, and a session inside dials twice.
"""

from __future__ import annotations

import errno
import os
import socket
from typing import Any

from twisted.internet import tcp
from twisted.internet.defer import Deferred
from twisted.internet.error import TimeoutError, getConnectError
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure

from relaygate.legs import Leg
from relaygate.socketleg import SocketLeg
from relaygate.tuning import tune


class Unread(Protocol):
    """A connection that is just made; all that comes waits in the kernel."""


class DialledLeg(SocketLeg):
    """
    A connection that is being made to *host* (an IP literal of *version* 4 or 6) and *port*.

    :attr:`reached` fires once, with this leg, which is not read until somebody starts to; it fails
    with what Twisted's clients fail with, after *timeout_s* seconds at the latest.  Cancelling it
    gives the try up.  *source* is an address of this machine's to dial from, and a port or 0.

    Raises :class:`OSError` where the kernel has no socket for it.
    """

    logstr = "Leg,client"

    def __init__(
        self,
        reactor: Any,
        version: int,
        host: str,
        port: int,
        timeout_s: float,
        source: tuple[str, int] | None = None,
    ) -> None:
        family = socket.AF_INET if version == 4 else socket.AF_INET6
        skt = tune(socket.socket(family, socket.SOCK_STREAM))
        peer = (host, port) if version == 4 else (host, port, 0, 0)
        super().__init__(skt, peer, Unread(), reactor)
        self.reached: Deferred[DialledLeg] = Deferred(lambda _: self._cancelled())
        self._limit = reactor.callLater(timeout_s, self._fail, TimeoutError())
        try:
            if source is not None:
                # A fixed source port serves one connection after the other, and is not free at
                # once.
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                self.socket.bind(source)
            number = self.socket.connect_ex(peer)
        except OSError as error:
            number = error.errno or errno.EIO
        if number in (0, errno.EINPROGRESS):
            self.startWriting()
        else:
            self._fail(getConnectError((number, os.strerror(number))))

    def doWrite(self) -> Exception | None:  # type: ignore[override]
        """See :class:`twisted.internet.interfaces.IWriteDescriptor`."""
        if self.connected:
            return super().doWrite()
        self._settle()
        return None

    def connectionLost(self, reason: Failure) -> None:
        """See :class:`twisted.internet.tcp.Connection`."""
        if self.connected:
            super().connectionLost(reason)
        elif not self.disconnected:
            # The reactor has only seen that the connection is dead: the kernel knows why.
            self._settle()

    def _settle(self) -> None:
        number = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if number:
            self._fail(getConnectError((number, os.strerror(number))))
            return
        self.stopWriting()
        self._limit.cancel()
        reached = self.reached
        # A session may be long, and keeps nothing that it needs no more.
        del self._limit, self.reached
        self.connected = True
        self.protocol.makeConnection(self)
        # A process that is killed from here on must not look like one that had nothing to say.
        self.abort_by_default()
        reached.callback(self)

    def _cancelled(self) -> None:
        self._stop()
        # The reactor may have a word for the number left in this turn.  Nobody else shall hear it:
        # a socket that has just begun to connect would be taken for connected.
        reactor: Any = self.reactor
        reactor.callLater(0, self.socket.close)

    def _stop(self) -> None:
        self.disconnected = True
        self.stopWriting()
        if self._limit.active():
            self._limit.cancel()

    def _fail(self, error: Exception) -> None:
        self._stop()
        self.socket.close()
        self.reached.errback(error)


class ClientLeg(Leg, tcp.Client):
    """What Twisted's endpoints dial; it is not read until somebody starts to."""

    def createInternetSocket(self) -> socket.socket:
        """See :class:`twisted.internet.tcp.BaseClient`."""
        return tune(super().createInternetSocket())

    def startReading(self) -> None:
        """
        See :class:`twisted.internet.abstract.FileDescriptor`.

        Twisted asks for it while it connects, too; being writable tells as much.
        """
        if self.connected:
            super().startReading()

    def failIfNotConnected(self, err: Exception) -> None:
        """See :class:`twisted.internet.tcp.BaseClient`."""
        if not self.connected and hasattr(self, "socket"):
            # The reactor may only have seen that the connection is dead: the kernel knows why.
            number = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if number:
                err = getConnectError((number, os.strerror(number)))
        super().failIfNotConnected(err)

    def _connectDone(self) -> None:
        # As Twisted has it, without the first look at what came.
        self.protocol = self.connector.buildProtocol(self.getPeer())
        self.connected = 1
        self.logstr = "Leg,client"
        self.protocol.makeConnection(self)
