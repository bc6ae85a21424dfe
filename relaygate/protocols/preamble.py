"""
What the two nodes say on a data channel before it carries a session.

A data channel is one TCP connection from an internal node to the DMZ node.  Three messages turn it
into a session, and then its bytes belong to the session alone::

    internal node                                     DMZ node
      open   "RLGC" version uplink serial proof  ---->          (admitted: now idle, in the pool)
             <----  start  session, service, client, reached, patience  (a client has come)
      reply  code  ---->                                        (backend reached, or not)
      ======================  bytes of the session  ======================

An FTP data connection takes a channel of its own.  It belongs to a session that runs already, so
the message in the start's place only says to which, and which of its transfers it is.

Both ends know one secret for each uplink: it is exported from the uplink's own TLS session
(RFC 8446 section 7.5), so it was never sent and dies with the uplink.  The *proof* in ``open`` is a
keyed hash over a serial number that the DMZ node takes once only; ``start`` and ``reply`` carry a
tag under a key of that serial.  So nobody who sits between the nodes can open a channel, replay
one, or speak for either node on one, even where the channel itself is not encrypted.

All of this is pure: bytes in, values out.  Integers are big-endian, texts UTF-8 behind a length
byte.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Iterable
from dataclasses import dataclass

MAGIC = b"RLGC\x01"
UPLINK_ID_BYTES = 16
PROOF_BYTES = 32
TAG_BYTES = 16
# A start's three numbers and its four texts, each as long as its length byte allows.
MAX_PAYLOAD = 8 + 4 * 256

_OPEN = struct.Struct(f">{len(MAGIC)}s{UPLINK_ID_BYTES}sQ{PROOF_BYTES}s")
_HEADER = struct.Struct(">cH")

OPEN_BYTES = _OPEN.size


class PreambleError(Exception):
    """A peer sent what is no preamble, or one without the right proof."""


# No service has this name.
PROBE = "."


@dataclass(frozen=True, slots=True)
class ChannelOpen:
    """
    The first message on a data channel.

    ``uplink_id`` names the uplink (16 bytes), ``serial`` the channel on it, ``proof`` is 32 bytes.
    """

    uplink_id: bytes
    serial: int
    proof: bytes

    def __bytes__(self) -> bytes:
        return _OPEN.pack(MAGIC, self.uplink_id, self.serial, self.proof)


@dataclass(frozen=True, slots=True)
class SessionStart:
    """
    A client has come; or, if the service is :data:`PROBE`, nobody has, and an answer is all that
    is wanted: a node that does not know it answers as for any service that it does not know.

    ``session`` is the id that both nodes log, ``service`` the service's name, ``client`` and
    ``reached`` are (host, port) of the client and of the address that it reached, ``patience_ms``
    is how many milliseconds the DMZ node will go on waiting for the reply.
    """

    session: str
    service: str
    client: tuple[str, int]
    reached: tuple[str, int]
    patience_ms: int

    def __bytes__(self) -> bytes:
        return b"".join(
            (
                struct.pack(">IHH", self.patience_ms, self.client[1], self.reached[1]),
                _pack_text(self.session),
                _pack_text(self.service),
                _pack_text(self.client[0]),
                _pack_text(self.reached[0]),
            )
        )

    @classmethod
    def parse(cls, payload: bytes) -> SessionStart:
        """Raises :class:`PreambleError`."""
        try:
            patience_ms, client_port, reached_port = struct.unpack_from(">IHH", payload)
        except struct.error:
            raise PreambleError("a start is cut short") from None
        texts = _unpack_texts(payload[8:], 4)
        session, service, client, reached = texts
        return cls(session, service, (client, client_port), (reached, reached_port), patience_ms)


@dataclass(frozen=True, slots=True)
class SessionReply:
    """The answer to a start: ``code`` 0 means that the backend is reached, others say why not."""

    code: int

    def __bytes__(self) -> bytes:
        return bytes((self.code,))

    @classmethod
    def parse(cls, payload: bytes) -> SessionReply:
        """Raises :class:`PreambleError`."""
        if len(payload) != 1:
            raise PreambleError("a reply is one byte")
        return cls(payload[0])


def _keyed_hash(key: bytes, data: bytes, size: int) -> bytes:
    # RFC 7693 section 2.9.  As strong as HMAC, and there are four of them in each session.
    return hashlib.blake2b(data, key=key, digest_size=size).digest()


@dataclass(frozen=True, slots=True)
class TransferStart:
    """
    The data connection of a transfer that the internal node has asked for stands (RFC 959 3.2).

    ``session`` is the id of the session whose control connection it belongs to, ``transfer`` the
    number (0 to 2**32 - 1) that the internal node gave it when it asked.  ``peer`` is (host, port)
    of who has connected, where the internal node has asked for somebody to come.
    """

    session: str
    transfer: int
    peer: tuple[str, int] | None = None

    def __bytes__(self) -> bytes:
        data = self.transfer.to_bytes(4) + _pack_text(self.session)
        if self.peer is not None:
            data += _pack_text(self.peer[0]) + self.peer[1].to_bytes(2)
        return data

    @classmethod
    def parse(cls, payload: bytes) -> TransferStart:
        """Raises :class:`PreambleError`."""
        number, texts = int.from_bytes(payload[:4]), payload[4:]
        own = 1 + texts[0] if texts else 0
        if len(texts) <= own:
            (session,) = _unpack_texts(texts, 1)
            return cls(session, number)
        session, host = _unpack_texts(texts[:-2], 2)
        return cls(session, number, (host, int.from_bytes(texts[-2:])))


Message = SessionStart | TransferStart | SessionReply

_KINDS: dict[type[Message], bytes] = {SessionStart: b"S", TransferStart: b"T", SessionReply: b"R"}


def _pack_text(text: str) -> bytes:
    data = text.encode()
    return bytes((len(data),)) + data


def _unpack_texts(data: bytes, count: int) -> list[str]:
    texts: list[str] = []
    for _ in range(count):
        if not data or len(data) < 1 + data[0]:
            raise PreambleError("a start is cut short")
        try:
            texts.append(data[1 : 1 + data[0]].decode())
        except UnicodeDecodeError:
            raise PreambleError("a text is not UTF-8") from None
        data = data[1 + data[0] :]
    if data:
        raise PreambleError("bytes stand behind a start's last text")
    return texts


class UplinkKeys:
    """
    What the two ends of one uplink know, and nobody else.

    ``uplink_id`` (16 bytes) is said in clear, ``secret`` (32 bytes) never.
    """

    def __init__(self, uplink_id: bytes, secret: bytes) -> None:
        self.uplink_id = uplink_id
        self._secret = secret

    def open(self, serial: int) -> ChannelOpen:
        """The first message of channel *serial*."""
        return ChannelOpen(self.uplink_id, serial, self._proof(serial))

    def proves(self, message: ChannelOpen) -> bool:
        """Whether *message* was made by the other end of this uplink."""
        return message.uplink_id == self.uplink_id and hmac.compare_digest(
            message.proof, self._proof(message.serial)
        )

    def channel_key(self, serial: int) -> bytes:
        """The key (32 bytes) of the tags on channel *serial*."""
        return _keyed_hash(self._secret, b"tags" + serial.to_bytes(8), PROOF_BYTES)

    def _proof(self, serial: int) -> bytes:
        return _keyed_hash(self._secret, b"open" + serial.to_bytes(8), PROOF_BYTES)


class SerialWindow:
    """
    Takes each serial number once, in memory that does not grow.

    Channels that are dialled together arrive in any order, so a window of numbers behind the
    highest is kept as bits; what is older than the window counts as used (as RFC 4303 section
    3.4.3 does).
    """

    # Far more channels than an internal node has under way at once.
    WIDTH = 4096

    def __init__(self) -> None:
        self._highest = -1
        self._seen = 0

    def take(self, serial: int) -> bool:
        """Whether *serial* is used here for the first time."""
        ahead = serial - self._highest
        if ahead > 0:
            shifted = self._seen << ahead if ahead < self.WIDTH else 0
            self._seen = (shifted | 1) & ((1 << self.WIDTH) - 1)
            self._highest = serial
            return True
        # Shifting first would make a number as long as the serial is old.
        if -ahead >= self.WIDTH or self._seen & 1 << -ahead:
            return False
        self._seen |= 1 << -ahead
        return True


class OpenReader:
    """Reads one :class:`ChannelOpen` into :attr:`found`; what follows is left in :attr:`rest`."""

    def __init__(self) -> None:
        self.rest = b""
        self.found: ChannelOpen | None = None

    def receive(self, data: bytes) -> list[ChannelOpen]:
        """Raises :class:`PreambleError` at the first byte that cannot be one."""
        self.rest += data
        if not self.rest.startswith(MAGIC[: len(self.rest)]):
            raise PreambleError("not a data channel")
        if len(self.rest) < OPEN_BYTES:
            return []
        _, uplink_id, serial, proof = _OPEN.unpack_from(self.rest)
        self.rest = self.rest[OPEN_BYTES:]
        self.found = ChannelOpen(uplink_id, serial, proof)
        return [self.found]

    def end(self) -> None:
        """Raises :class:`PreambleError` if the message has not come whole."""
        if self.found is None:
            raise PreambleError("the connection ended before the channel was opened")


def seal(message: Message, key: bytes) -> bytes:
    """The bytes of *message* on the channel whose key is *key*."""
    payload = bytes(message)
    body = _HEADER.pack(_KINDS[type(message)], len(payload)) + payload
    return body + _keyed_hash(key, body, TAG_BYTES)


class MessageReader:
    """
    Reads one tagged message, of a kind that this end may expect, into :attr:`found`.

    What follows it is left in :attr:`rest`.  *expected* are the classes that the message may be
    of, *key* is the channel's key.
    """

    def __init__(self, expected: Iterable[type[Message]], key: bytes) -> None:
        self._expected = {_KINDS[kind]: kind for kind in expected}
        self._key = key
        self.rest = b""
        self.found: Message | None = None

    def receive(self, data: bytes) -> list[Message]:
        """Raises :class:`PreambleError` for another kind, a wrong tag, or too long a message."""
        self.rest += data
        if not self.rest:
            return []
        kind = self._expected.get(self.rest[:1])
        if kind is None:
            raise PreambleError("another message than the one that is due")
        if len(self.rest) < _HEADER.size:
            return []
        (_, length) = _HEADER.unpack_from(self.rest)
        if length > MAX_PAYLOAD:
            raise PreambleError("a message is too long")
        body_end = _HEADER.size + length
        if len(self.rest) < body_end + TAG_BYTES:
            return []
        body = self.rest[:body_end]
        tag = self.rest[body_end : body_end + TAG_BYTES]
        if not hmac.compare_digest(tag, _keyed_hash(self._key, body, TAG_BYTES)):
            raise PreambleError("a message has the wrong tag")
        self.rest = self.rest[body_end + TAG_BYTES :]
        self.found = kind.parse(body[_HEADER.size :])
        return [self.found]

    def end(self) -> None:
        """Raises :class:`PreambleError` if the message has not come whole."""
        if self.found is None:
            raise PreambleError("the connection ended before a message was whole")
