"""The identification lines that open an SSH connection, watched as they pass by.

Each side of an SSH connection first sends one line (RFC 4253, section 4.2)::

    SSH-protoversion-softwareversion SP comments CR LF

A server may send other lines before it; a client may not.  The line without its end is hashed
into the key exchange (RFC 4253, section 8), so not one byte of it may be changed or reordered.
A reader here therefore alters nothing: it says how many of the bytes that came may be passed
on, notes what the peer calls itself, and raises as soon as the peer cannot be speaking SSH.

Where the RFC and the installed base disagree, this is how it is read:

* The end may be LF alone.  Section 5 asks servers that still speak to old clients to send it so.
* ``1.99`` is as good as ``2.0`` (section 5.1).  Any other version is refused: SSH 1 is broken.
* The software version may hold minus signs and may be empty.  The RFC allows neither, common
  products send at least the former, and the two ends judge each other anyway.
* Bytes of 128 and more are let through.  The RFC binds only the two versions to US-ASCII and
  says nothing of the comment, and a relay gains nothing by knowing where the comment begins.
* Control characters are refused, NUL (which the RFC forbids) among them, and a CR counts as one
  unless LF follows: two implementations could disagree about where such a line ends.
"""

from __future__ import annotations

from typing import Final

MAX_IDENTIFICATION: Final = 255
"""Bytes of an identification line, its end included.  RFC 4253, section 4.2."""

MAX_PREFACE_LINES: Final = 64
"""Other lines before a server's identification.  A legal notice fits on one screen or two."""

MAX_PREFACE: Final = 16 * 1024
"""Bytes of all those lines together: 64 lines of 256.

OpenSSH's client would read 8 MiB.  There is no limit for a single line: nothing of it is kept,
so that only the sum costs anything.
"""

_START: Final = b"SSH-"
_VERSIONS: Final = (b"SSH-2.0-", b"SSH-1.99-")
_NUL, _LF, _CR, _SPACE, _DELETE = 0, 10, 13, 32, 127


class NotSSH(Exception):
    """The peer sent what cannot begin an SSH connection, or ended before it had begun one.

    The message completes the sentence "the client …" or "the server …".  It is at most 120
    characters long, is printable ASCII, and quotes at most nine bytes of what the peer sent.
    """


class IdentificationReader:
    """Reads one side's identification from bytes in pieces of any size.

    It keeps no more than one identification line, looks at every byte once, and gives the same
    result however the bytes were cut.  After it has raised `NotSSH` it is spent.

    :param preface: whether other lines may come before the identification: true for what a
        server sends, false for what a client sends.
    """

    def __init__(self, *, preface: bool) -> None:
        self.identification: bytes | None = None
        """The line without its end, as it enters the key exchange; None until it is complete."""
        self.rest: bytes = b""
        """What followed the line's end in the same piece; the caller passes it on."""
        self._preface = preface
        self._line = bytearray()
        self._other_line = False
        self._other_lines = 0
        self._other_bytes = 0

    def receive(self, data: bytes) -> bytes:
        """Take the next piece and return the bytes that may be passed on now.

        Lines are not held back until they end.  The one exception is a client's first four
        bytes, which wait until they are known to be ``SSH-``: a server never sees the beginning
        of another protocol.  Once the identification is complete, the bytes after it stay in
        `rest`, and the bytes of any further piece are returned as they are.

        :raises NotSSH: at the first byte that does not belong; nothing of this piece is to be
            passed on.
        """
        if self.identification is not None:
            return data
        held = b"" if self._may_pass() else bytes(self._line)
        end = len(data)
        for position, byte in enumerate(data, 1):
            if self._take(byte):
                line = bytes(self._line)
                self.identification = line[:-2] if line.endswith(b"\r\n") else line[:-1]
                end = position
                break
        self.rest = data[end:]
        return held + data[:end] if self._may_pass() else b""

    def end(self) -> None:
        """Say that the peer will send no more.

        :raises NotSSH: if its identification is not complete.
        """
        if self.identification is None:
            received = self._other_bytes + len(self._line)
            raise NotSSH(f"ended after {received} bytes, before its SSH identification was whole")

    def _may_pass(self) -> bool:
        return self._preface or len(self._line) >= len(_START)

    def _take(self, byte: int) -> bool:
        """Take one byte and say whether it was the last of the identification line."""
        if byte == _NUL:
            raise NotSSH("sent a NUL byte before its SSH identification was whole")
        if self._other_line:
            self._take_other(byte)
            return False
        self._line.append(byte)
        line = bytes(self._line[:10])  # one byte more than the longest version
        if len(line) <= len(_START):
            if not _START.startswith(line):
                self._begin_other(byte)
        elif not line.startswith(_VERSIONS):
            if not any(version.startswith(line) for version in _VERSIONS):
                raise NotSSH(f"sent {line!r}, which is neither SSH 2.0 nor 1.99")
        elif line not in _VERSIONS:
            return self._take_text(byte)
        return False

    def _take_text(self, byte: int) -> bool:
        """Take a byte of what comes after the version: text, or the line's end."""
        if byte == _LF:
            return True
        if len(self._line) == MAX_IDENTIFICATION:
            raise NotSSH(f"sent an SSH identification of more than {MAX_IDENTIFICATION} bytes")
        if self._line[-2] == _CR or (byte < _SPACE and byte != _CR) or byte == _DELETE:
            raise NotSSH("sent a control character in its SSH identification")
        return False

    def _begin_other(self, byte: int) -> None:
        """Treat the line that has just begun as one of those before the identification."""
        if not self._preface:
            raise NotSSH(f"sent {bytes(self._line)!r} where its SSH identification must begin")
        self._other_lines += 1
        if self._other_lines > MAX_PREFACE_LINES:
            raise NotSSH(f"sent more than {MAX_PREFACE_LINES} lines before its SSH identification")
        self._other_line = True
        self._other_bytes += len(self._line) - 1
        self._line.clear()
        self._take_other(byte)

    def _take_other(self, byte: int) -> None:
        self._other_bytes += 1
        if self._other_bytes > MAX_PREFACE:
            raise NotSSH(f"sent more than {MAX_PREFACE} bytes before its SSH identification")
        self._other_line = byte != _LF
