"""
The first message of a TLS connection, read as it passes by (RFC 8446, section 4.1.2).

Nothing is changed and nothing is decided here: a reader keeps what has come until the message is
complete, and says which host the client asks for (RFC 6066, section 3), which protocols it offers
to speak (RFC 7301) and which versions of TLS.  A message may come in several records, and a record
in many pieces::

    record:   type (22)  version (3, x)  length(2)  fragment
    message:  type (1)   length(3)       version(2) random(32) session<1> ciphers<2>
              compressions<1> extensions<2>, each of them: type(2) data<2>
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

MAX_HELLO: Final = 16 * 1024
"""Bytes of the message with its records.

A hybrid key share takes two kilobytes, padding and tickets a few more.
"""

_MAX_ALPN: Final = 16
_RECORD_HEADER: Final = 5
_CLIENT_HELLO: Final = 1
_SERVER_NAME, _ALPN, _SUPPORTED_VERSIONS = 0, 16, 43
# RFC 8446 section 5.1: no record without bytes, and none with more than 2^14.
_MAX_RECORD: Final = 16384
_NAME = re.compile(rb"[A-Za-z0-9_.-]{1,255}")
_VERSIONS: Final = {0x0304: "1.3", 0x0303: "1.2", 0x0302: "1.1", 0x0301: "1.0", 0x0300: "ssl3"}


class NotTLS(Exception):
    """The client sent what cannot begin TLS; the message completes the sentence "the client …"."""


@dataclass(frozen=True)
class ClientHello:
    """
    What a client says at first.

    *host* is in small letters, None if it names none; *version* is the highest that it offers, such
    as "1.3".
    """

    host: str | None
    alpn: tuple[str, ...]
    version: str


class ClientHelloReader:
    """Reads one from bytes in pieces of any size; :attr:`data` is all that came."""

    def __init__(self) -> None:
        self.hello: ClientHello | None = None
        self.data = bytearray()
        self._message = bytearray()
        self._position = 0

    @property
    def rest(self) -> bytes:
        """The bytes behind the records that hold the message."""
        return bytes(self.data[self._position :])

    def receive(self, data: bytes) -> ClientHello | None:
        """Take the next piece; returns the message when it is complete.  Raises :class:`NotTLS`."""
        self.data += data
        hello = self.hello
        while hello is None and self._take_record():
            self.hello = hello = self._look()
        return hello

    def end(self) -> None:
        """Raises :class:`NotTLS` if the message was cut short."""
        if self.hello is None:
            raise NotTLS("ended before its first message was complete")

    def _take_record(self) -> bool:
        """Whether a whole record was there."""
        start = bytes(self.data[self._position : self._position + _RECORD_HEADER])
        if not b"\x16\x03".startswith(start[:2]):
            raise NotTLS("did not begin TLS")
        if len(start) < _RECORD_HEADER:
            return False
        length = int.from_bytes(start[3:], "big")
        if not 0 < length <= _MAX_RECORD:
            raise NotTLS("sent a record of a size that there is not")
        end = self._position + _RECORD_HEADER + length
        if end > MAX_HELLO:
            raise NotTLS("began TLS with too long a message")
        if len(self.data) < end:
            return False
        self._message += self.data[self._position + _RECORD_HEADER : end]
        self._position = end
        return True

    def _look(self) -> ClientHello | None:
        message = self._message
        if message[0] != _CLIENT_HELLO:
            raise NotTLS("began TLS with another message than it must")
        if len(message) < 4:
            return None
        length = int.from_bytes(message[1:4], "big")
        if length > MAX_HELLO:
            raise NotTLS("began TLS with too long a message")
        if len(message) > length + 4:
            raise NotTLS("sent more than one message before it was answered")
        return _parse(bytes(message[4:])) if len(message) == length + 4 else None


class _Cursor:
    """Takes vectors off the front of bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    def __bool__(self) -> bool:
        return self._position < len(self._data)

    def take(self, count: int) -> bytes:
        """The next *count* bytes."""
        end = self._position + count
        if end > len(self._data):
            raise NotTLS("sent a first message that is cut short inside")
        part = self._data[self._position : end]
        self._position = end
        return part

    def number(self, size: int) -> int:
        """The next *size* bytes as a number."""
        return int.from_bytes(self.take(size), "big")

    def vector(self, size: int) -> bytes:
        """The bytes behind a length of *size* bytes."""
        return self.take(self.number(size))


def _parse(body: bytes) -> ClientHello:
    cursor = _Cursor(body)
    legacy = cursor.number(2)
    cursor.take(32)
    cursor.vector(1)
    cursor.vector(2)
    cursor.vector(1)
    extensions: dict[int, bytes] = {}
    if cursor:
        block = _Cursor(cursor.vector(2))
        while block:
            kind = block.number(2)
            if kind in extensions:
                raise NotTLS("sent an extension of TLS twice")
            extensions[kind] = block.vector(2)
    if cursor:
        raise NotTLS("sent a first message with something behind its end")
    return ClientHello(
        _host(extensions.get(_SERVER_NAME)),
        _alpn(extensions.get(_ALPN)),
        _version(extensions.get(_SUPPORTED_VERSIONS), legacy),
    )


def _host(data: bytes | None) -> str | None:
    if data is None:
        return None
    names = _Cursor(_Cursor(data).vector(2))
    while names:
        kind, name = names.number(1), names.vector(2)
        if kind == 0:
            if not _NAME.fullmatch(name):
                raise NotTLS("asks for a host that has no name")
            return name.decode("ascii").lower().rstrip(".") or None
    return None


def _alpn(data: bytes | None) -> tuple[str, ...]:
    if data is None:
        return ()
    offered = _Cursor(_Cursor(data).vector(2))
    found = []
    while offered:
        found.append(offered.vector(1).decode("ascii", "backslashreplace"))
    return tuple(found[:_MAX_ALPN])


def _version(data: bytes | None, legacy: int) -> str:
    if data is None:
        # Before 1.3 there was one field, and it held the highest (RFC 5246 section 7.4.1.2).
        return _VERSIONS.get(min(legacy, 0x0303), "unknown")
    listed = _Cursor(_Cursor(data).vector(1))
    known = []
    while listed:
        number = listed.number(2)
        if number in _VERSIONS:
            known.append(number)
    return _VERSIONS[max(known)] if known else "unknown"
