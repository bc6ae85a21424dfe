"""
A leg: one TCP connection of ours to one party, clear or under TLS.

Twisted owns the socket: its reactor calls :meth:`doRead` and :meth:`doWrite`, its protocols talk to
it, its ways of losing a connection hold.  A leg adds four things to Twisted's own TCP transports:

- **Pumps.**  While a leg is part of a relay its bytes do not pass through a protocol:
  ``inbound`` is the pump that reads from it and ``outbound`` the pump that writes to it
  (:mod:`relaygate.pump`).
- **TLS straight on the socket.**  Twisted's TLS transport cannot end one direction and keep the
  other (its ``loseWriteConnection`` reaches past TLS to the socket).  TLS 1.3 can:
  ``close_notify`` ends the sender's direction only (RFC 8446 section 6.1).  So here
  ``loseWriteConnection`` sends ``close_notify``, and an end without one is a lost connection,
  never a finished stream.
- **A look at the first byte** without taking it, so that one port can serve TLS and clear channels.
- **Abort by default.**  Once :meth:`abort_by_default` was called a process that is killed resets
  the connection.  A kernel that closes it politely would tell the peer "the stream is complete".

Only protocols that own a leg, and :mod:`relaygate.relay`, end, pause or abort one.
"""

from __future__ import annotations

import fcntl
import select
import socket
import sys
import termios
from typing import TYPE_CHECKING, Protocol, cast

from OpenSSL import SSL
from twisted.internet import main, tcp
from twisted.internet.error import ConnectionLost
from twisted.internet.interfaces import IHalfCloseableProtocol, IHandshakeListener
from twisted.python.failure import Failure

from relaygate import tlsrecords
from relaygate.quiettls import QuietTLS
from relaygate.tuning import LINGER_ABORT, LINGER_NOT

if TYPE_CHECKING:
    from collections.abc import Callable

    _Base = tcp.Connection
else:
    _Base = object

# What a full one has on the wire: five bytes of header, the content's type, the tag (section 5.2).
_WIRE_RECORD = 5 + tlsrecords.TLS_RECORD + 1 + 16
_BIG_RECORD = 4096


class TLSFailed(ConnectionLost):
    """The TLS handshake did not succeed; the text says why."""

    def __str__(self) -> str:
        return str(self.args[0])


class IPump(Protocol):
    """What a leg asks of the pumps on its two sides."""

    def readable(self) -> Exception | None:
        """The source has bytes; an exception ends the source's reading."""

    def writable(self) -> Exception | None:
        """The sink has room; an exception ends the sink."""


class IFirstByte(Protocol):
    """A protocol that asked for a look at the first byte."""

    def first_byte(self, byte: bytes) -> None:
        """*byte* has come, and is still unread."""


class Leg(_Base):
    """What every leg has, over one of Twisted's TCP transports."""

    tls: SSL.Connection | None = None
    inbound: IPump | None = None
    outbound: IPump | None = None
    _quiet: QuietTLS | None = None
    # The end of a TLS stream came behind the last load: the reactor will not tell of it again.
    end_behind = False
    # Told of a client's handshake that has failed while the connection lives, and our alert is on
    # its way: the leg is a plain one then, and still to be ended.
    when_refused: Callable[[TLSFailed], None] | None = None
    _accepting = False
    _handshaking = False
    _answering = False
    _peeking = False
    _aborts = False
    # Twisted calls shutdown(2) before close(2), which costs a call and does nothing more.
    _shouldShutdown = False

    # -- bytes, for pumps -----------------------------------------------------------------------

    def receive_into(self, buffer: memoryview) -> int:
        """
        Read up to ``len(buffer)`` bytes; 0 is the orderly end of the stream.

        Raises :class:`BlockingIOError` when none are there, another :class:`OSError` when the
        connection is broken.  Under TLS give at least :data:`TLS_RECORD` bytes of room, so that no
        decrypted byte stays behind where the reactor cannot see it.
        """
        tls = self.tls
        if tls is None:
            return self.socket.recv_into(buffer)
        if self.end_behind:
            return 0
        count = waiting = 0
        try:
            count = tlsrecords.receive_record(tls, buffer)
            while count + tlsrecords.TLS_RECORD <= len(buffer):
                waiting = waiting or self._records_waiting()
                if not waiting:
                    break
                count += tlsrecords.receive_record(tls, buffer[count:])
                waiting -= 1
        except SSL.ZeroReturnError:
            if self._quiet is not None and self._writeDisconnecting:
                # Our own end has waited for this.
                self.startWriting()
            self.end_behind = count > 0
        except (SSL.WantReadError, SSL.WantWriteError) as error:
            if isinstance(error, SSL.WantWriteError):
                # An answer, to a key update, has no room: its sender reads nothing, nor do we.
                self.stopReading()
                self._answering = True
                self.startWriting()
            if not count:
                raise BlockingIOError from None
        except SSL.Error as error:
            raise ConnectionResetError(tlsrecords.tls_error_text(error)) from None
        return count

    def _records_waiting(self) -> int:
        """
        How many records, at least, can be read without waiting: of what the kernel has, big ones.

        Many records in one load make few sends of them.  What is big is data, unless a peer pads
        what is not (RFC 8446 section 5.4): then :attr:`end_behind` remembers the end.
        """
        if self._quiet is not None:
            return int(self._quiet.next_record >= _BIG_RECORD)
        unread = fcntl.ioctl(self.socket, termios.FIONREAD, bytes(4))
        return int.from_bytes(unread, sys.byteorder) // _WIRE_RECORD

    def send_some(self, data: memoryview | bytes) -> int:
        """
        Send what the kernel takes of *data* (not empty) and say how much that was.

        Raises :class:`BlockingIOError` when it takes none, another :class:`OSError` when the
        connection is broken.
        """
        if self.tls is None:
            return self.socket.send(data)
        many = len(data) > tlsrecords.TLS_RECORD
        if many:
            # Else each record is a packet, and the receiver wakes up for each.
            self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
        sent = 0
        # Bytes would be copied for each record, all that are left of them.
        view = memoryview(data)
        try:
            # It takes no more than a record at a time, whatever it is given.
            while sent < len(view):
                sent += tlsrecords.send_record(self.tls, view[sent:])
        except (SSL.WantReadError, SSL.WantWriteError):
            if not sent:
                raise BlockingIOError from None
        except SSL.Error as error:
            raise ConnectionResetError(tlsrecords.tls_error_text(error)) from None
        finally:
            if many:
                self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
        return sent

    @property
    def unsent(self) -> int:
        """How many bytes that a protocol wrote still wait in user space."""
        return self._tempDataLen + len(self.dataBuffer) - self.offset

    @property
    def broken(self) -> bool:
        """
        Whether the kernel knows of a reset or a time-out: a leg that nobody reads hears of neither.

        A stream that has ended, in either direction or both, is not broken.
        """
        if not self.connected:
            return False
        poll = select.poll()
        poll.register(self.socket, 0)
        return any(events & select.POLLERR for _, events in poll.poll(0))

    def abort_by_default(self) -> None:
        """From now on the end of this process resets the connection; only an orderly close ends
        it.
        """
        if self._aborts:
            return
        self._aborts = True
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ABORT)

    # -- TLS ------------------------------------------------------------------------------------

    def start_tls(
        self,
        context: SSL.Context,
        *,
        server: bool,
        sni: str | None = None,
        session: SSL.Session | None = None,
        quiet: QuietTLS | None = None,
    ) -> None:
        """
        Begin the handshake; the protocol's ``handshakeCompleted`` (IHandshakeListener) says when it
        is done.  If it fails the connection is lost with :class:`TLSFailed`.

        *session* is one of this context's, to be resumed.
        """
        self._quiet = quiet
        self.tls = tls = quiet or tlsrecords.tls_on(context, self.socket)
        self._handshaking = True
        self._accepting = server
        if server:
            tls.set_accept_state()
        else:
            tls.set_connect_state()
            if sni is not None:
                tls.set_tlsext_host_name(sni.encode())
            if session is not None:
                tls.set_session(session)
            # The first word is the client's: get the reactor to call us.
            self.startWriting()

    def start_upload_tls(self, context: SSL.Context, *, lenient: bool = False) -> None:
        """
        Begin a handshake as the server of a client that will only send, see :class:`QuietTLS`.

        Nothing can be sent then before the client has ended its stream, not even our own end; a
        ``loseWriteConnection`` that comes sooner waits for it.
        """
        quiet = QuietTLS(context, self.socket, lenient=lenient)
        self.start_tls(context, server=True, quiet=quiet)

    def _handshake(self) -> Exception | None:
        assert self.tls is not None
        try:
            self.tls.do_handshake()
        except SSL.WantReadError:
            self.stopWriting()
            return None
        except SSL.WantWriteError:
            self.startWriting()
            return None
        except SSL.Error as error:
            failed = TLSFailed(tlsrecords.tls_error_text(error))
            lives = not isinstance(error, SSL.SysCallError)
            if not (lives and self._accepting and self.when_refused):
                return failed
            self._handshaking = False
            self.tls = self._quiet = None
            self.stopWriting()
            self.when_refused(failed)
            return None
        self._handshaking = False
        # The waits above have stopped the writing that a protocol may have asked for meanwhile.
        if self.unsent or self._writeDisconnecting:
            self.startWriting()
        else:
            self.stopWriting()
        cast(IHandshakeListener, self.protocol).handshakeCompleted()
        return None

    # -- what the reactor calls -----------------------------------------------------------------

    def peek_first(self) -> None:
        """Show the protocol (:class:`IFirstByte`) the first byte before anything is read."""
        self._peeking = True

    def doRead(self) -> Exception | None:  # type: ignore[override]
        """See :class:`twisted.internet.interfaces.IReadDescriptor`."""
        if self.inbound is not None:
            return self.inbound.readable()
        if self._peeking:
            return self._peek()
        if self._handshaking:
            return self._handshake()
        if self.tls is None:
            return super().doRead()
        buffer = bytearray(tlsrecords.TLS_RECORD)
        try:
            count = self.receive_into(memoryview(buffer))
        except BlockingIOError:
            return None
        except OSError as error:
            return TLSFailed(str(error))
        return self._dataReceived(bytes(buffer[:count]))

    def stopReading(self) -> None:
        """See :class:`twisted.internet.abstract.FileDescriptor`."""
        self._answering = False
        super().stopReading()

    def readConnectionLost(self, reason: Failure) -> None:
        """
        See :class:`twisted.internet.interfaces.IHalfCloseableDescriptor`.

        The reactor says so as well when poll tells of a hang-up and of no bytes, and nobody has
        read.  A reset must not pass for an end then, nor what was said of another socket that had
        this one's number until earlier in the same turn: only a read knows.
        """
        result = self._ask_for_end()
        if result is main.CONNECTION_DONE:
            super().readConnectionLost(reason)
        elif result is None:
            self.startReading()
        else:
            self.stopReading()
            self.stopWriting()
            self.connectionLost(Failure(result))

    def _ask_for_end(self) -> Exception | None:
        """What a read says, as :meth:`doRead`; bytes that are there stay there."""
        if self.tls is not None:
            # It remembers its end.
            return self.doRead()
        try:
            return None if self.socket.recv(1, socket.MSG_PEEK) else main.CONNECTION_DONE
        except BlockingIOError:
            return None
        except OSError:
            return main.CONNECTION_LOST

    def _peek(self) -> Exception | None:
        try:
            byte = self.socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return None
        except OSError:
            return main.CONNECTION_LOST
        if not byte:
            return main.CONNECTION_DONE
        self._peeking = False
        cast(IFirstByte, self.protocol).first_byte(byte)
        # If that aborted the connection, Twisted has put another method in this one's place.
        return self.doRead()

    def doWrite(self) -> Exception | None:  # type: ignore[override]
        """See :class:`twisted.internet.interfaces.IWriteDescriptor`."""
        if self._handshaking:
            return main.CONNECTION_DONE if self.disconnecting else self._handshake()
        if self._answering:
            self._answering = False
            self.startReading()
            if self._writeDisconnected:  # Our end is said once.
                self.stopWriting()
                return None
        if self.outbound is None or self.unsent:
            result: Exception | None = super().doWrite()
            if result is not None or self.outbound is None or self.unsent:
                return result
        return self.outbound.writable()

    def write(self, data: bytes) -> None:
        """
        See :class:`twisted.internet.interfaces.ITransport`.

        What the kernel takes at once needs no turn of the reactor: a session's few small messages
        mostly are.
        """
        if data and self._may_send:
            try:
                data = data[self.send_some(data) :]
            except BlockingIOError:
                pass
            except OSError:
                # The kernel tells of a reset once, and just has: the next read would say "end".
                self.abortConnection()
                return
        if data:
            super().write(data)

    def loseWriteConnection(self) -> None:
        """See :class:`twisted.internet.interfaces.IHalfCloseableDescriptor`."""
        if self._may_send:
            self._writeDisconnecting = self._writeDisconnected = True
            self._closeWriteConnection()
        else:
            super().loseWriteConnection()

    @property
    def _may_send(self) -> bool:
        """Whether nothing is in the way of sending now."""
        return bool(
            self.connected
            and not self._handshaking
            and not self.unsent
            and not self.disconnecting
            and not self._writeDisconnecting
        )

    def writeSomeData(self, data: bytes) -> int | Exception:  # type: ignore[override]
        """See :class:`twisted.internet.abstract.FileDescriptor`."""
        if not data:
            return 0
        try:
            return self.send_some(memoryview(data)[: self.SEND_LIMIT])
        except BlockingIOError:
            return 0
        except OSError:
            return main.CONNECTION_LOST

    def _closeWriteConnection(self) -> None:
        if self.tls is None:
            super()._closeWriteConnection()
        elif not tlsrecords.say_goodbye(self.tls):
            # The kernel took no byte of it just now: come back when it does.
            self._writeDisconnected = False
            if self._quiet is None or not self._quiet.muted:
                self.startWriting()
        else:
            protocol = IHalfCloseableProtocol(self.protocol, None)
            if protocol is not None:
                protocol.writeConnectionLost()

    def _postLoseConnection(self) -> Exception:
        if self.tls is not None and not self._writeDisconnected:
            tlsrecords.say_goodbye(self.tls)
        return main.CONNECTION_DONE

    def connectionLost(self, reason: Failure) -> None:
        """See :class:`twisted.internet.tcp.Connection`."""
        self.inbound = self.outbound = None
        super().connectionLost(reason)
        if self.tls is not None:
            # OpenSSL spoils the session of a connection that is freed without a goodbye.
            self.tls.set_shutdown(SSL.SENT_SHUTDOWN | SSL.RECEIVED_SHUTDOWN)
            self.tls = self._quiet = None

    def _closeSocket(self, orderly: bool) -> None:
        if orderly and self._aborts:
            try:
                self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
            except OSError:
                pass
        super()._closeSocket(orderly)
