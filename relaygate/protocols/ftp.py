"""
The lines of an FTP control connection (RFC 959, sections 4.1 and 4.2).

A client sends commands, one a line; a server sends replies, of one line or of many::

    command   verb [SP argument] CRLF
    reply     code SP text CRLF
              code "-" text CRLF  any lines...  code SP text CRLF

All is bytes: names of files come in any encoding and leave in the same one (RFC 2640, section 2).

Where two readings of a line are possible, gateway and server could come to disagree about where a
command ends or what it is called, and what the gateway has let pass would then be something else
to the server.  So a command is read narrowly:

* CRLF and a bare LF end it (as vsftpd and pure-ftpd have it), and CRLF is what is written.  A CR,
  LF or NUL anywhere else is refused; RFC 2640, section 3.1, would allow CR NUL.
* A verb is letters, then digits.  Some servers end a verb at the first byte that is no letter,
  others at a tab; what they would take for ``PORT`` must not pass as ``PORT,`` here.
* Telnet's commands (RFC 854) are taken out, with ``telnet`` switched on: interrupt and data mark
  before ABOR (RFC 959, section 4.1.3), and negotiations, which stay unanswered.  A doubled 255 is
  one byte of an argument.  A single one in front of anything but a telnet command stays: names in
  cp1251 and Latin-1 may hold it, and hardly a client doubles it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

MAX_COMMAND: Final = 8192
"""Bytes of a command without its end: two paths of PATH_MAX (4,096 on Linux) fit.

Servers have lower limits and say so themselves; this one bounds what is kept.
"""

MAX_DROPPED: Final = 4 * MAX_COMMAND
"""Bytes of a line that is too long: it is read to its end, if that comes soon."""

MAX_REPLY: Final = 1024 * 1024
"""Bytes of one reply, its line ends included.

A reply is passed on when it is whole, and STAT of a directory lists it there: 10,000 files of
100 bytes.
"""

_IAC, _WILL, _DONT, _SB, _SE, _FIRST_TELNET = 255, 251, 254, 250, 240, 240
_TELNET_BYTES = bytes(range(_FIRST_TELNET, 256))
_VERB = re.compile(rb"[A-Za-z]+[0-9]*")
_CODE = re.compile(rb"[1-5][0-9][0-9](?=[ -]|$)")


class FTPViolation(Exception):
    """
    A peer sent what no control connection can go on after.

    The message completes the sentence "the client …" or "the server …"; it is short printable
    ASCII and quotes nothing secret.
    """


@dataclass(frozen=True, slots=True)
class Command:
    """
    One command.

    ``verb`` is in capitals; ``argument`` is the bytes behind the first space, or None if there
    was no space.  Bytes that could end a line cannot stand in it: :exc:`ValueError`.
    """

    verb: str
    argument: bytes | None = None

    def __post_init__(self) -> None:
        if not _VERB.fullmatch(self.verb.encode()) or self.verb != self.verb.upper():
            raise ValueError("not the verb of a command")
        if self.argument is not None and _breaks_lines(self.argument):
            raise ValueError("a command's argument holds a line's end")

    def __bytes__(self) -> bytes:
        if self.argument is None:
            return self.verb.encode() + b"\r\n"
        return self.verb.encode() + b" " + self.argument + b"\r\n"

    @property
    def words(self) -> bytes:
        """The argument without the spaces around it; empty if there is none."""
        return (self.argument or b"").strip(b" ")


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that is no command; the client is told so with ``code`` and ``text``."""

    code: int
    text: str


TOO_LONG: Final = BadLine(500, "Command line too long.")
_NO_COMMAND: Final = BadLine(500, "Command not understood.")
_CONTROL: Final = BadLine(501, "CR, LF and NUL have no place inside a command.")


@dataclass(frozen=True, slots=True)
class Reply:
    """
    One reply: its code (100 to 599) and its lines as they came, each without its end.

    :meth:`of` makes one of our own.
    """

    code: int
    lines: tuple[bytes, ...]

    @classmethod
    def of(cls, code: int, *texts: str) -> Reply:
        """Make a reply with one line for each of *texts* (ASCII, at least one)."""
        last = f"{code} {texts[-1]}"
        if len(texts) == 1:
            return cls(code, (last.encode("ascii"),))
        inner = (f" {text}".encode("ascii") for text in texts[1:-1])
        return cls(code, (f"{code}-{texts[0]}".encode("ascii"), *inner, last.encode("ascii")))

    def __bytes__(self) -> bytes:
        return b"\r\n".join(self.lines) + b"\r\n"

    @property
    def preliminary(self) -> bool:
        """Whether another reply to the same command follows (RFC 959, section 4.2: 1yz)."""
        return self.code < 200

    @property
    def text(self) -> bytes:
        """What the first line says, without its code."""
        return self.lines[0][4:]


class CommandReader:
    """
    Reads a client's commands.

    :param telnet: whether telnet's commands are taken out of what comes.
    """

    def __init__(self, *, telnet: bool = True) -> None:
        self._telnet = _Telnet() if telnet else None
        self._line = bytearray()
        self._searched = 0
        self._was_too_long = False
        self._dropped = 0  # bytes of a line that is too long and has not ended

    @property
    def rest(self) -> bytes:
        """The bytes of a line that has not ended; empty where a command has just ended."""
        inside = self._telnet is not None and self._telnet.inside
        return bytes(self._line) + (b"\xff" if inside else b"")

    def receive(self, data: bytes) -> list[Command | BadLine]:
        """
        Take the next piece and return what is complete now.

        The first line over the limit is reported as soon as it is over it, and its rest dropped.

        :raises FTPViolation: at a second such line, or if the first one goes on and on.
        """
        self._line += data if self._telnet is None else self._telnet.receive(data)
        events: list[Command | BadLine] = []
        while (end := self._line.find(b"\n", self._searched)) >= 0:
            line = bytes(self._line[:end])
            del self._line[: end + 1]
            self._searched = 0
            if self._dropped:
                self._drop(len(line))
            elif len(line) - line.endswith(b"\r") > MAX_COMMAND:
                events.append(self._too_long())
                self._drop(len(line))
            else:
                events.append(self._command(line.removesuffix(b"\r")))
            self._dropped = 0
        # One more may be the CR of an end that is still to come.
        if not self._dropped and len(self._line) > MAX_COMMAND + 1:
            events.append(self._too_long())
            self._drop(len(self._line))
            self._line.clear()
        elif self._dropped:
            self._drop(len(self._line))
            self._line.clear()
        self._searched = len(self._line)
        return events

    def end(self) -> None:
        """Raises :exc:`FTPViolation` if a command was cut short."""
        if self.rest or self._dropped:
            raise FTPViolation("ended inside a command")

    def _command(self, line: bytes) -> Command | BadLine:
        if _breaks_lines(line):
            return _CONTROL
        if self._telnet is not None:
            # Who sends telnet's bytes as urgent data may leave an IAC of a pair behind.
            line = line.lstrip(_TELNET_BYTES)
        verb, space, argument = line.partition(b" ")
        if _VERB.fullmatch(verb) is None:
            return _NO_COMMAND
        return Command(verb.decode().upper(), argument if space else None)

    def _too_long(self) -> BadLine:
        if self._was_too_long:
            raise FTPViolation(f"sent a second line of more than {MAX_COMMAND} bytes")
        self._was_too_long = True
        return TOO_LONG

    def _drop(self, count: int) -> None:
        self._dropped += count
        if self._dropped > MAX_DROPPED:
            raise FTPViolation(f"sent a line of more than {MAX_DROPPED} bytes")


class ReplyReader:
    """Reads a server's replies."""

    def __init__(self) -> None:
        self._partial = bytearray()
        self._searched = 0
        self._lines: list[bytes] = []
        self._size = 0
        self._closing = b""

    @property
    def rest(self) -> bytes:
        """The bytes of a reply that is not complete; empty where one has just ended."""
        return b"".join(line + b"\n" for line in self._lines) + bytes(self._partial)

    def receive(self, data: bytes) -> list[Reply]:
        """
        Take the next piece and return the replies that are complete now.

        A reply of many lines ends with its own code and a space, whatever digits other lines of
        it begin with.

        :raises FTPViolation: if a reply does not begin with a code, or is too long.
        """
        self._partial += data
        replies: list[Reply] = []
        while (end := self._partial.find(b"\n", self._searched)) >= 0:
            line = bytes(self._partial[:end])
            del self._partial[: end + 1]
            self._searched = 0
            self._grow(len(line) + 1)
            replies.extend(self._take(line.removesuffix(b"\r")))
        self._searched = len(self._partial)
        if self._size + len(self._partial) > MAX_REPLY:
            self._grow(len(self._partial))
        return replies

    def end(self) -> None:
        """Raises :exc:`FTPViolation` if a reply was cut short."""
        if self._lines or self._partial:
            raise FTPViolation("ended inside a reply")

    def _grow(self, count: int) -> None:
        self._size += count
        if self._size > MAX_REPLY:
            raise FTPViolation(f"sent a reply of more than {MAX_REPLY} bytes")

    def _take(self, line: bytes) -> list[Reply]:
        if not self._lines:
            if _CODE.match(line) is None:
                raise FTPViolation("sent a line without a reply's code")
            self._closing = line[:3] + b" "
            finished = line[3:4] != b"-"
        else:
            finished = line.startswith(self._closing)
        self._lines.append(line)
        if not finished:
            return []
        reply = Reply(int(self._closing), tuple(self._lines))
        self._lines = []
        self._size = 0
        return [reply]


class _Telnet:
    """Takes telnet's commands out of a stream of bytes (RFC 854; RFC 1123, section 4.1.2.10)."""

    def __init__(self) -> None:
        self._state = self._text
        self._subnegotiation = 0

    @property
    def inside(self) -> bool:
        """Whether a telnet command has begun and not ended."""
        return self._state != self._text

    def receive(self, data: bytes) -> bytes:
        """Return what is not telnet's of the next piece."""
        if not self.inside and _IAC not in data:
            return data
        out = bytearray()
        for byte in data:
            self._state(byte, out)
        return bytes(out)

    def _text(self, byte: int, out: bytearray) -> None:
        if byte == _IAC:
            self._state = self._command
        else:
            out.append(byte)

    def _command(self, byte: int, out: bytearray) -> None:
        self._state = self._text
        if byte == _IAC:
            out.append(_IAC)
        elif byte < _FIRST_TELNET:
            out += bytes((_IAC, byte))
        elif _WILL <= byte <= _DONT:
            self._state = self._option
        elif byte == _SB:
            self._subnegotiation = 0
            self._state = self._option_text

    def _option(self, byte: int, out: bytearray) -> None:
        self._state = self._text

    def _option_text(self, byte: int, out: bytearray) -> None:
        self._subnegotiation += 1
        if self._subnegotiation > MAX_COMMAND:
            raise FTPViolation("sent a telnet negotiation without an end")
        if byte == _IAC:
            self._state = self._option_command

    def _option_command(self, byte: int, out: bytearray) -> None:
        self._state = self._text if byte == _SE else self._option_text


def _breaks_lines(argument: bytes) -> bool:
    return b"\r" in argument or b"\n" in argument or b"\0" in argument
