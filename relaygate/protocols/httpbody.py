"""
The bodies of HTTP/1 messages, in their three framings (RFC 9112, section 6): counted, chunked, and
ended by the connection.

A reader is given bytes and gives the body's bytes back, without their framing.  Chunks are llhttp's
to read; before it sees them a :class:`_ChunkGate` holds them to the grammar and to our bounds, and
keeps from it what nobody reads: extensions, and trailers that speak of framing.  Nothing of a body
is kept here.
"""

from __future__ import annotations

import re
from typing import Protocol

from relaygate.protocols.httphead import HTTPViolation
from relaygate.protocols.httpreader import ChunkReader, Fields, Refused

# RFC 9112 section 7.1.1 wants a limit on what nobody reads.
_MAX_CHUNK_LINE = 256
_MAX_TRAILERS = 16 * 1024
# Extensions count towards no limit of a body's, so that they could go on for ever (CVE-2023-39326):
# what a chunk's line may have, beside twice what the chunk has, and how much more all may have.
_FREE_IN_LINE = 16
_MAX_EXCESS = 16 * 1024
# 16 hexadecimal digits are 64 bits; the last hundred petabytes are not needed.
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t -~\x80-\xff]*)?")
# Behind a body they say nothing (RFC 9110 section 6.5.1); llhttp takes them for a contradiction.
_FRAMING = re.compile(rb"(?i:content-length|transfer-encoding):")


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
        self._chunks = ChunkReader()

    def receive(self, data: bytes) -> bytes:
        """See :class:`BodyReader`."""
        if self.ended:
            self.rest += data
            return b""
        count, shown = self._gate.pass_on(data)
        self.rest = data[count:]
        chunks = self._chunks
        try:
            # In one go: a call for each piece of chunks of one byte costs more than the bytes.
            chunks.receive(b"".join(shown))
        except Refused:
            raise HTTPViolation(400, "sent chunks that can be read in two ways") from None
        if chunks.ended:
            self.ended = True
            self.trailers = chunks.trailers
        if self.ended != self._gate.ended:
            raise HTTPViolation(400, "sent chunks that can be read in two ways")
        return chunks.take()

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
        self._excess = 0

    def pass_on(self, data: bytes) -> tuple[int, list[bytes | memoryview]]:
        """
        How many bytes of *data* belong to the body, and what of them is to be read.

        Raises :class:`HTTPViolation`.
        """
        position = 0
        view = memoryview(data)
        shown: list[bytes | memoryview] = []
        while position < len(data) and not self.ended:
            left = self._left
            if not left:
                position = self._read_line(data, position, shown)
                continue
            here = len(data) - position
            if left <= here:
                # The end of a chunk is CR LF, and a byte of it may come alone.
                step, due = left, b"\r\n"[-left:]
            elif left - here == 1:
                step, due = here, b"\r"
            else:
                step, due = here, b""
            if not data.startswith(due, position + step - len(due)):
                raise HTTPViolation(400, "sent a chunk that does not end where it says")
            shown.append(view[position : position + step])
            self._left -= step
            position += step
        return position, shown

    def _read_line(self, data: bytes, position: int, shown: list[bytes | memoryview]) -> int:
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
            shown.append(self._line_complete(bytes(line)))
            line.clear()
        return stop

    def _line_complete(self, line: bytes) -> bytes:
        """What of *line* is to be read."""
        if self._in_trailers:
            self.ended = line == b"\r\n"
            self._trailer_bytes += len(line)
            if line[:1] in (b" ", b"\t"):
                raise HTTPViolation(400, "sent a folded trailer")
            return b"" if _FRAMING.match(line) else line
        match = _CHUNK_LINE.fullmatch(line, 0, len(line) - 2)
        if match is None:
            raise HTTPViolation(400, "sent a chunk without a size")
        size = int(match[1], 16)
        # One byte a chunk is allowed, and some words about it; hardly anything but words is not.
        self._excess = max(0, self._excess + len(line) - _FREE_IN_LINE - 2 * size)
        if self._excess > _MAX_EXCESS:
            raise HTTPViolation(400, "sent chunks that are mostly extensions")
        if size:
            self._left = size + 2
        else:
            self._in_trailers = True
        return match[1] + b"\r\n"


def chunk(data: bytes) -> bytes:
    """*data* (not empty) as a chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def last_chunk(trailers: Fields) -> bytes:
    """The end of a chunked body."""
    return b"0\r\n" + b"".join(b"%b: %b\r\n" % field for field in trailers) + b"\r\n"
