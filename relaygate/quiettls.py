"""
TLS on a socket by hand, for a server that must not speak while its client uploads.

With TLS 1.3 a server sends session tickets right after the handshake (RFC 8446 section 4.6.1).  A
client that only uploads never reads them; when it closes, its kernel finds unread bytes, answers
with a reset, and throws away what it has not sent yet: the file's tail.  In FTP's stream mode that
loses real files, and OpenSSL's public functions give no way to send no tickets.  So what the
server has to say after its handshake is kept back here until the client has ended its stream, and
goes out in front of our own end.

Bytes move through OpenSSL's memory buffers, one record at a time: a record's header says how long
it is, so nothing that could be decrypted ever waits where the reactor does not see it.
"""

from __future__ import annotations

import socket
from typing import Any

from OpenSSL import SSL

# RFC 8446 section 5.1: type, version, length.
_HEADER = 5
_READ = 64 * 1024


class QuietTLS(SSL.Connection):
    """
    The server's side of TLS over *skt*, which is not blocking.

    It is used as a :class:`SSL.Connection` on the socket would be: the same errors say that it
    waits.  :attr:`muted` tells whether its words are kept back: from the handshake's end to the
    end of the client's stream, it can neither send nor say goodbye.

    With *lenient* a connection that ends without the end of TLS counts as ended in order, between
    two records; else that is :class:`SSL.SysCallError`, as always.
    """

    # One for all: what is read is given to OpenSSL before anybody else reads.
    _buffer = memoryview(bytearray(_READ + _HEADER))

    def __init__(self, context: SSL.Context, skt: socket.socket, *, lenient: bool = False) -> None:
        super().__init__(context, None)
        self.muted = False
        self._ended = False
        self._lenient = lenient
        self._wire = skt
        self._unsent = b""
        # Of the record that is being read: bytes of its header, and how many follow that.
        self._header = b""
        self._missing = 0
        # Whether OpenSSL may have a record that it was not asked for yet.
        self._whole = False

    def do_handshake(self) -> None:
        """See :meth:`SSL.Connection.do_handshake`."""
        while True:
            try:
                super().do_handshake()
            except SSL.WantReadError:
                self._flush()
                self._fill()
            except SSL.Error:
                # The alert that says why.
                self._try_flush()
                raise
            else:
                break
        if self.get_protocol_version() < SSL.TLS1_3_VERSION:
            # What the last step wrote ends the handshake; under TLS 1.3 it is tickets alone.
            self._flush()
        self.muted = True

    def recv_into(self, buffer: Any, nbytes: int | None = None, flags: int | None = None) -> int:
        """See :meth:`SSL.Connection.recv_into`; an end stays one, also that of a lenient one."""
        if self._ended:
            raise SSL.ZeroReturnError
        while True:
            try:
                if not self._whole:
                    self._fill()
                    continue
                count = super().recv_into(buffer, nbytes, flags)
            except SSL.WantReadError:
                # That record was none of data. Others have their turn before the next: a client
                # may send such without end.
                self._whole = False
                self._collect()
                if len(self._unsent) > _READ:
                    raise SSL.Error("a client that wants answers without end") from None
                raise
            except SSL.ZeroReturnError:
                self.muted = False
                self._ended = True
                raise
            else:
                self._whole = self.pending() > 0
                return count

    @property
    def next_record(self) -> int:
        """How many bytes the next record in the kernel has, if its header was read; else 0."""
        return self._missing

    def send(self, buf: Any, flags: int = 0) -> int:
        """See :meth:`SSL.Connection.send`; raises :class:`SSL.Error` while it is muted."""
        if self.muted:
            raise SSL.Error("bytes for a client that has not ended its upload")
        self._flush()
        count: int = super().send(buf, flags)
        self._try_flush()
        return count

    def shutdown(self) -> bool:
        """
        See :meth:`SSL.Connection.shutdown`.

        Raises :class:`SSL.WantReadError` while it is muted: to be tried again when the client has
        ended its stream.
        """
        if self.muted:
            raise SSL.WantReadError
        if not self.get_shutdown() & SSL.SENT_SHUTDOWN:
            super().shutdown()
        self._flush()
        return bool(self.get_shutdown() & SSL.RECEIVED_SHUTDOWN)

    def _fill(self) -> None:
        """Give OpenSSL the rest of a record, and the header of the next one if it is there."""
        want = self._missing + _HEADER - len(self._header)
        try:
            count = self._wire.recv_into(self._buffer, want)
        except BlockingIOError:
            raise SSL.WantReadError from None
        except OSError as error:
            raise SSL.SysCallError(error.errno, error.strerror) from None
        if not count:
            if self._lenient and self.muted and not (self._missing or self._header):
                raise SSL.ZeroReturnError
            raise SSL.SysCallError(-1, "Unexpected EOF")
        data = self._buffer[:count]
        body = min(self._missing, count)
        self._missing -= body
        self._whole = bool(body) and not self._missing
        self._header += bytes(data[body:])
        if len(self._header) == _HEADER:
            self._missing = int.from_bytes(self._header[3:])
            self._header = b""
            # An empty record is OpenSSL's to judge, before more of them pile up.
            self._whole |= not self._missing
        self.bio_write(data)

    def _flush(self) -> None:
        """Send what OpenSSL has written; raises :class:`SSL.WantWriteError`."""
        self._collect()
        while self._unsent:
            try:
                self._unsent = self._unsent[self._wire.send(self._unsent) :]
            except BlockingIOError:
                raise SSL.WantWriteError from None
            except OSError as error:
                raise SSL.SysCallError(error.errno, error.strerror) from None

    def _collect(self) -> None:
        """Take what OpenSSL has written."""
        while True:
            try:
                self._unsent += self.bio_read(_READ)
            except SSL.WantReadError:
                break

    def _try_flush(self) -> None:
        try:
            self._flush()
        except SSL.Error:
            # What is left goes with the next call, or the next one tells what broke.
            pass
