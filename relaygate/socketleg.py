"""
Legs on sockets of our own: accepted ones, and what dialled ones (:mod:`relaygate.dialleg`) share.

Twisted's servers and clients carry names for their log lines, and ways to end that suit every
transport.  A session has two legs on each node, so here is :class:`twisted.internet.tcp.Connection`
with what remains of both once the connection stands, and a short way out.
"""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet import abstract, main, tcp
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.error import ConnectionAborted
from twisted.internet.interfaces import IProtocol
from twisted.python.failure import Failure

from relaygate.legs import Leg
from relaygate.tuning import spread

_DONE = Failure(main.CONNECTION_DONE)
# CPython's own accept() is made of this; where it is not, that one does all of it.
DIRECT = hasattr(socket.socket, "_accept")


class _Connection(tcp.Connection):
    """
    Twisted's connection, but for what it does more than once.

    *peer* is the other end's address, as the kernel has it.
    """

    _base = tcp.Connection
    _reading = False
    _writing = False

    def __init__(
        self, skt: socket.socket, peer: tuple[Any, ...], protocol: IProtocol, reactor: Any
    ) -> None:
        super().__init__(skt, protocol, reactor)
        self._peer = peer

    def getPeer(self) -> IPv4Address | IPv6Address:
        """See :class:`twisted.internet.interfaces.ITransport`."""
        return address_of(self._peer)

    def getHost(self) -> IPv4Address | IPv6Address:
        """See :class:`twisted.internet.interfaces.ITransport`."""
        return address_of(self.socket.getsockname())

    # The reactor is asked only to forget what it may know: each way of ending stops both.

    def startReading(self) -> None:
        """See :class:`twisted.internet.abstract.FileDescriptor`."""
        self._reading = True
        super().startReading()

    def stopReading(self) -> None:
        """See :class:`twisted.internet.abstract.FileDescriptor`."""
        if self._reading:
            self._reading = False
            super().stopReading()

    def startWriting(self) -> None:
        """See :class:`twisted.internet.abstract.FileDescriptor`."""
        self._writing = True
        super().startWriting()

    def stopWriting(self) -> None:
        """See :class:`twisted.internet.abstract.FileDescriptor`."""
        if self._writing:
            self._writing = False
            super().stopWriting()

    def loseConnection(self) -> None:
        """See :class:`twisted.internet.interfaces.ITransport`."""
        if self.connected and not self.disconnecting and self._writeDisconnected:
            # As Twisted has it, without a failure made for each connection.
            self.connectionLost(_DONE)
        else:
            super().loseConnection()

    def connectionLost(self, reason: Failure) -> None:
        """See :class:`twisted.internet.tcp.Connection`; like that one it may be called twice."""
        if not hasattr(self, "socket"):
            return
        abstract.FileDescriptor.connectionLost(self, reason)
        self._closeSocket(reason.type is not ConnectionAborted)
        protocol = self.protocol
        del self.protocol, self.socket, self.fileno
        protocol.connectionLost(reason)


def address_of(name: tuple[Any, ...]) -> IPv4Address | IPv6Address:
    """The kernel's *name* of one end of a connection, as Twisted has it."""
    return IPv4Address("TCP", *name) if len(name) == 2 else IPv6Address("TCP", *name)


def accept_number(listening: socket.socket) -> tuple[int, tuple[Any, ...]]:
    """
    The descriptor of the next connection at *listening*, which is the caller's to close, and the
    peer's address as the kernel has it.  Raises as :meth:`socket.socket.accept`.
    """
    if DIRECT:
        return listening._accept()  # type: ignore[attr-defined,no-any-return]
    # By the class: a subclass may have an accept of its own, which asks here.
    skt, peer = socket.socket.accept(listening)
    return skt.detach(), peer


def accept(
    listening: socket.socket, family: socket.AddressFamily
) -> tuple[socket.socket, tuple[Any, ...]]:
    """
    As :meth:`socket.socket.accept`, which makes two members of enumerations for each connection.

    *family* is that of the *listening* socket.
    """
    number, peer = accept_number(listening)
    return socket.socket(family, socket.SOCK_STREAM, listening.proto, number), peer


class SocketLeg(Leg, _Connection):
    """A leg on a socket that is ours."""


class ServerLeg(SocketLeg):
    """A connection that was accepted; made as :class:`twisted.internet.tcp.Server` is."""

    logstr = "Leg,server"

    def __init__(
        self,
        skt: socket.socket,
        protocol: IProtocol,
        client: tuple[Any, ...],
        _port: object,
        _number: int,
        reactor: Any,
    ) -> None:
        super().__init__(skt, client, protocol, reactor)
        spread(skt)
        self.startReading()
        self.connected = True
