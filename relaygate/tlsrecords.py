"""
TLS records straight into a buffer of ours, and out of one.

pyOpenSSL's ``recv_into`` has OpenSSL write into a buffer that it makes for each record, and copies
out of that; its ``send`` prepares more than it sends.  That is a fifth of what a record costs, so
this file, and no other, reaches past it for its binding of OpenSSL.  It takes nothing on itself but
success: whatever else a call comes to, the public method repeats it and raises what is to be
raised.  Where a later pyOpenSSL has its binding elsewhere, the public methods do all of it.

OpenSSL's words for what went wrong are read here as well.
"""

from __future__ import annotations

import socket
from typing import Any

from OpenSSL import SSL

# RFC 8446 section 5.1: no record holds more plaintext.
TLS_RECORD = 16384

_lib: Any = getattr(SSL, "_lib", None)
_ffi: Any = getattr(SSL, "_ffi", None)
DIRECT = hasattr(_lib, "SSL_read") and hasattr(_lib, "SSL_write") and hasattr(_ffi, "from_buffer")


def tls_on(context: SSL.Context, skt: socket.socket) -> SSL.Connection:
    """
    TLS over *skt*, a read of which returns behind a record that holds no data.

    pyOpenSSL has OpenSSL read on then (SSL_CTX_set_mode(3), SSL_MODE_AUTO_RETRY), for as long as
    such records come.  A peer may send them without end (RFC 8446 section 4.6.3), and nobody else
    had a turn.
    """
    tls = SSL.Connection(context, skt)
    handle = _handle(tls)
    if handle is not None and hasattr(_lib, "SSL_clear_mode"):
        _lib.SSL_clear_mode(handle, _lib.SSL_MODE_AUTO_RETRY)
    return tls


def receive_record(tls: SSL.Connection, buffer: memoryview) -> int:
    """What the next record of *tls* holds, into *buffer*: as :meth:`SSL.Connection.recv_into`."""
    handle = _handle(tls)
    if handle is not None:
        count: int = _lib.SSL_read(handle, _ffi.from_buffer(buffer), min(TLS_RECORD, len(buffer)))
        if count > 0:
            return count
    return tls.recv_into(buffer, TLS_RECORD)


def send_record(tls: SSL.Connection, data: memoryview | bytes) -> int:
    """One record of *data* (not empty) on *tls*, as :meth:`SSL.Connection.send`."""
    # The public method gets no more than that either: OpenSSL would begin a second record behind
    # one that had to wait, and refuse what is tried again next with less than both.
    data = memoryview(data)[:TLS_RECORD]
    handle = _handle(tls)
    if handle is not None:
        count: int = _lib.SSL_write(handle, _ffi.from_buffer(data), len(data))
        if count > 0:
            return count
    return tls.send(data)


def say_goodbye(tls: SSL.Connection) -> bool:
    """Send the end of our stream on *tls*; False if there is no room for it yet."""
    try:
        tls.shutdown()
    except (SSL.WantReadError, SSL.WantWriteError):
        return False
    except SSL.Error:
        # The connection is broken; reading will say so.
        pass
    return True


def _handle(tls: SSL.Connection) -> Any:
    """OpenSSL's object behind *tls*; None for subclasses, which do these things their own way."""
    return getattr(tls, "_ssl", None) if DIRECT and type(tls) is SSL.Connection else None


def tls_error_text(error: SSL.Error) -> str:
    """OpenSSL's own words for *error*, short."""
    if isinstance(error, SSL.SysCallError):
        return str(error.args[-1]) if error.args else "connection lost"
    if error.args and isinstance(error.args[0], list):
        return ", ".join(str(entry[-1]) for entry in error.args[0]) or "connection lost"
    return str(error) or "connection lost"
