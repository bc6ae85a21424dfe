"""
What a SOCKS client says: version 5 (RFC 1928, RFC 1929), and 4 with names (SOCKS 4A).

::

    version 5:   greeting (methods) -> [user and password ->] request
    version 4:   request, with a user's name and perhaps a host's name behind it

The reader does not wait for what is answered meanwhile: some clients send all of it at once.  It
chooses the method itself, since nothing but the greeting and :attr:`SocksReader.demands_user`
decides.  A name is given as it came (ASCII, no control character); whether it is one is for others
to say.
"""

from __future__ import annotations

import enum
import ipaddress
from dataclasses import dataclass

MAX_REQUEST = 4 + 1 + 255 + 2
"""The longest message that has a length of its own: a request for the longest name."""

MAX_TEXT = 255
"""Bytes of a version 4 text, which ends with a NUL; version 5 has no longer ones."""

MAX_REST = 65536
"""Bytes that may come behind a request before it is answered: one read of the holder's."""


class SocksViolation(Exception):
    """The client sent what is not SOCKS; the message completes "the client …"."""


class Version4Refused(SocksViolation):
    """It speaks version 4, which has no password, where one is demanded: it can be told so."""


class Method(enum.IntEnum):
    """How a client shows who it is (RFC 1928, section 3)."""

    NONE = 0
    PASSWORD = 2
    UNACCEPTABLE = 0xFF


class Command(enum.IntEnum):
    """What it wants (RFC 1928, section 4)."""

    CONNECT = 1
    BIND = 2
    UDP_ASSOCIATE = 3


class Reply(enum.IntEnum):
    """How it went (RFC 1928, section 6)."""

    GRANTED = 0
    FAILURE = 1
    NOT_ALLOWED = 2
    NETWORK_UNREACHABLE = 3
    HOST_UNREACHABLE = 4
    REFUSED = 5
    TTL_EXPIRED = 6
    COMMAND_UNKNOWN = 7
    ADDRESS_TYPE_UNKNOWN = 8


@dataclass(frozen=True, slots=True)
class Greeting:
    """The first message of version 5; *method* is what is chosen of what it offers."""

    method: Method

    def answer(self) -> bytes:
        """The bytes of the answer that is due."""
        return bytes((5, self.method))


@dataclass(frozen=True, slots=True)
class Credentials:
    """A user and a password (RFC 1929, section 2), as bytes."""

    user: bytes
    password: bytes

    @staticmethod
    def answer(good: bool) -> bytes:
        """The bytes of the answer; behind the bad one the connection closes."""
        return bytes((1, 0 if good else 1))


@dataclass(frozen=True, slots=True)
class Request:
    """
    What is wanted: *command* (a number), and *host* and *port* it is about.

    *host* is an IP address or what is meant as a name; *port* may be 0.
    """

    version: int
    command: int
    host: str
    port: int

    def answer(self, reply: Reply, host: str = "", port: int = 0) -> bytes:
        """The bytes of a reply, with the address that it tells."""
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            address = ipaddress.IPv4Address(0)
        if self.version == 4:
            # Where it has no room for an address, the client is to use the one it knows.
            packed = address.packed if address.version == 4 else bytes(4)
            granted = 90 if reply is Reply.GRANTED else 91
            return bytes((0, granted)) + port.to_bytes(2) + packed
        kind = 1 if address.version == 4 else 4
        return bytes((5, reply, 0, kind)) + address.packed + port.to_bytes(2)


Event = Greeting | Credentials | Request


class SocksReader:
    """
    Reads one client's messages up to its request, which is :attr:`found` then.

    *demands_user* says whether it must show who it is.  What follows the request is left in
    :attr:`rest`.
    """

    def __init__(self, *, demands_user: bool) -> None:
        self.demands_user = demands_user
        self.rest = b""
        self.found: Request | None = None
        self._next = self._first

    def receive(self, data: bytes) -> list[Event]:
        """Take the next piece; raises :class:`SocksViolation`."""
        self.rest += data
        events: list[Event] = []
        while self.found is None:
            event = self._next()
            if event is None:
                break
            events.append(event)
            if isinstance(event, Request):
                self.found = event
        if len(self.rest) > MAX_REST:
            raise SocksViolation("sent more than may wait behind its request")
        return events

    def end(self) -> None:
        """Raises :class:`SocksViolation` if the request has not come whole."""
        if self.found is None:
            raise SocksViolation("ended before its request was whole")

    def _take(self, count: int) -> bytes:
        taken, self.rest = self.rest[:count], self.rest[count:]
        return taken

    # Each reads one message if it is whole, and says which one follows it.

    def _first(self) -> Event | None:
        if not self.rest:
            return None
        version = self.rest[0]
        if version == 4:
            if self.demands_user:
                raise Version4Refused("speaks SOCKS 4, which has no password")
            return self._version_4()
        if version != 5:
            raise SocksViolation(f"begins with byte {version}, which is no version of SOCKS")
        return self._greeting()

    def _greeting(self) -> Event | None:
        if len(self.rest) < 2 or len(self.rest) < 2 + self.rest[1]:
            return None
        methods = self._take(2 + self.rest[1])[2:]
        wanted = Method.PASSWORD if self.demands_user else Method.NONE
        if wanted not in methods:
            wanted = Method.UNACCEPTABLE
        if wanted is Method.UNACCEPTABLE:
            self._next = self._nothing
        else:
            self._next = self._credentials if wanted is Method.PASSWORD else self._request
        return Greeting(wanted)

    def _nothing(self) -> Event | None:
        """Nothing that comes behind a refusal is looked at."""
        self.rest = b""
        return None

    def _credentials(self) -> Event | None:
        data = self.rest
        if data and data[0] != 1:
            raise SocksViolation("sent no user where one is due")
        if len(data) < 2 or len(data) < 3 + data[1]:
            return None
        split = 2 + data[1]
        length = split + 1 + data[split]
        if len(data) < length:
            return None
        self._take(length)
        self._next = self._request
        return Credentials(data[2:split], data[split + 1 : length])

    def _request(self) -> Event | None:
        data = self.rest
        if data and data[0] != 5:
            raise SocksViolation("sent no request where one is due")
        if len(data) < 5:
            return None
        kind = data[3]
        lengths = {1: 4, 3: 1 + data[4], 4: 16}
        if kind not in lengths:
            raise SocksViolation(f"asks for an address of the unknown kind {kind}")
        length = 4 + lengths[kind] + 2
        if len(data) < length:
            return None
        self._take(length)
        raw, port = data[4 : length - 2], int.from_bytes(data[length - 2 : length])
        host = _text(raw[1:]) if kind == 3 else str(ipaddress.ip_address(raw))
        return Request(5, data[1], host, port)

    def _version_4(self) -> Event | None:
        if len(self.rest) < 8:
            return None
        command, port, address = self.rest[1], self.rest[2:4], self.rest[4:8]
        user_end = self._text_end(8)
        if user_end is None:
            return None
        # SOCKS 4A: an address that can be none, 0.0.0.x, says that a name follows.
        named = address[:3] == bytes(3) and address[3] != 0
        name_end = self._text_end(user_end + 1) if named else user_end
        if name_end is None:
            return None
        host = str(ipaddress.IPv4Address(address))
        if named:
            host = _text(self.rest[user_end + 1 : name_end])
        self._take(name_end + 1)
        return Request(4, command, host, int.from_bytes(port))

    def _text_end(self, start: int) -> int | None:
        """Where the NUL of the text that begins at *start* is, if it has come."""
        end = self.rest.find(b"\0", start, start + MAX_TEXT + 1)
        if end < 0 and len(self.rest) > start + MAX_TEXT:
            raise SocksViolation(f"sent a text of more than {MAX_TEXT} bytes")
        return None if end < 0 else end


def _text(raw: bytes) -> str:
    """A host's name (CVE-2023-38545 shows what too long a one does, NUL and others cut it)."""
    if not raw or not raw.isascii() or not raw.decode("ascii").isprintable():
        raise SocksViolation("sent a host's name that is none")
    return raw.decode("ascii")
