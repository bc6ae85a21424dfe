"""
The bodies of HTTP/1 messages, in their three framings (RFC 9112, section 6): counted, chunked, and
ended by the connection.

A reader is given bytes and gives the body's bytes back, without their framing.  Chunks are h11's to
read; before it sees them a :class:`_ChunkGate` holds them to the grammar, since h11 lets control
characters and any length pass in chunk extensions.  Nothing of a body is kept here.
"""

from __future__ import annotations

import re
from typing import Protocol

import h11

from relaygate.protocols.httphead import Fields, HTTPViolation

# RFC 9112 section 7.1.1 wants a limit on what nobody reads.
_MAX_CHUNK_LINE = 256
_MAX_TRAILERS = 16 * 1024
# 16 hexadecimal digits are 64 bits; the last hundred petabytes are not needed.
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t -~\x80-\xff]*)?")

_CANNED_HEAD = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"


class BodyReader(Protocol):
    """A reader of one message's body."""

    ended: bool
    trailers: Fields
    rest: bytes

    def receive(self, data: bytes) -> bytes:
        """Take the next bytes, return those of the body; raises :class:`HTTPViolation`."""

    def end(self) -> None:
        """The connection has ended; raises :class:`HTTPViolation` if that cut the body short."""


class CountedBody:
    """A body of *length* bytes; :attr:`left` are still to come."""

    def __init__(self, length: int) -> None:
        self.left = length
        self.ended = not length
        self.trailers: Fields = []
        self.rest = b""

    def receive(self, data: bytes) -> bytes:
        """See :class:`BodyReader`."""
        own = data[: self.left]
        self.rest += data[self.left :]
        self.left -= len(own)
        self.ended = not self.left
        return own

    def moved(self) -> None:
        """All that was left has passed elsewhere."""
        self.left = 0
        self.ended = True

    def end(self) -> None:
        """See :class:`BodyReader`."""
        if not self.ended:
            raise HTTPViolation(400, "ended its stream within a body")


class BodyUntilEnd:
    """A body that the connection's end is the end of."""

    def __init__(self) -> None:
        self.ended = False
        self.trailers: Fields = []
        self.rest = b""

    def receive(self, data: bytes) -> bytes:
        """See :class:`BodyReader`."""
        return data

    def end(self) -> None:
        """See :class:`BodyReader`."""
        self.ended = True


class ChunkedBody:
    """A body in chunks; :attr:`trailers` are there when it has ended."""

    def __init__(self) -> None:
        self.ended = False
        self.trailers: Fields = []
        self.rest = b""
        self._gate = _ChunkGate()
        # Chunks look the same in both directions.
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=_MAX_TRAILERS + 64)
        self._h11.receive_data(_CANNED_HEAD)
        self._h11.next_event()

    def receive(self, data: bytes) -> bytes:
        """See :class:`BodyReader`."""
        if self.ended:
            self.rest += data
            return b""
        count = self._gate.pass_on(data)
        self.rest = data[count:]
        found: list[bytes] = []
        try:
            if count:
                # No bytes would be the end of the stream, to h11.
                self._h11.receive_data(data[:count])
            while isinstance(event := self._h11.next_event(), h11.Data):
                found.append(bytes(event.data))
        except h11.ProtocolError:
            raise HTTPViolation(400, "sent chunks that h11 refuses") from None
        if isinstance(event, h11.EndOfMessage):
            self.ended = True
            self.trailers = event.headers.raw_items()
        if self.ended != self._gate.ended:
            raise HTTPViolation(400, "sent chunks that can be read in two ways")
        return b"".join(found)

    def end(self) -> None:
        """See :class:`BodyReader`."""
        if not self.ended:
            raise HTTPViolation(400, "ended its stream within a body")


class _ChunkGate:
    """
    Lets bytes pass that are chunks without any doubt (RFC 9112, section 7.1)::

        LINE --size--> DATA --all of it--> BREAK --CRLF--> LINE
          +-- 0 ------> TRAILER --empty line--> ended

    It remembers the line that it is in, no more.
    """

    def __init__(self) -> None:
        self.ended = False
        self._line = bytearray()
        self._left = 0
        self._in_trailers = False
        self._trailer_bytes = 0

    def pass_on(self, data: bytes) -> int:
        """How many bytes of *data* belong to the body.  Raises :class:`HTTPViolation`."""
        position = 0
        while position < len(data) and not self.ended:
            if self._left > 2:
                step = min(self._left - 2, len(data) - position)
                self._left -= step
                position += step
            elif self._left:
                # The end of a chunk is CR LF, and a byte of it may come alone.
                if data[position] != b"\n\r"[self._left - 1]:
                    raise HTTPViolation(400, "sent a chunk that does not end where it says")
                self._left -= 1
                position += 1
            else:
                position = self._read_line(data, position)
        return position

    def _read_line(self, data: bytes, position: int) -> int:
        line = self._line
        end = data.find(b"\n", position)
        stop = len(data) if end < 0 else end + 1
        line += data[position:stop]
        most = _MAX_TRAILERS if self._in_trailers else _MAX_CHUNK_LINE
        if len(line) + self._trailer_bytes > most:
            raise HTTPViolation(400, "sent too long a line between chunks")
        if end >= 0:
            if line[-2:] != b"\r\n" or b"\r" in line[:-2] or b"\0" in line:
                raise HTTPViolation(400, "sent a bare CR or LF between chunks")
            self._line_complete(bytes(line[:-2]))
            line.clear()
        return stop

    def _line_complete(self, line: bytes) -> None:
        if self._in_trailers:
            self.ended = not line
            self._trailer_bytes += len(line) + 2
            if line[:1] in (b" ", b"\t"):
                raise HTTPViolation(400, "sent a folded trailer")
            return
        match = _CHUNK_LINE.fullmatch(line)
        if match is None:
            raise HTTPViolation(400, "sent a chunk without a size")
        size = int(match[1], 16)
        if size:
            self._left = size + 2
        else:
            self._in_trailers = True


def chunk(data: bytes) -> bytes:
    """*data* (not empty) as a chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def last_chunk(trailers: Fields) -> bytes:
    """The end of a chunked body."""
    return b"0\r\n" + b"".join(b"%b: %b\r\n" % field for field in trailers) + b"\r\n"
