"""
Why a session is refused: one table.

Each refusal is a class.  Its docstring is what an operator reads; ``code`` is what the nodes say to
each other on a data channel; ``cause`` is the word that the session's last log line carries;
``ssh``, ``tls``, ``ftp`` and ``http`` are the bytes that the client gets, in its own protocol,
before the connection closes; ``socks`` and ``proxy`` are the reply code (RFC 1928 section 6) and
the HTTP status that a program gets from an entry. None of them names an address, a backend or a
node.
"""

from __future__ import annotations

from typing import ClassVar

from relaygate.outcome import Cause
from relaygate.protocols.httppages import page


class Refusal(Exception):
    """The session cannot be served."""

    code: ClassVar[int] = 255
    cause: ClassVar[Cause] = Cause.FAULT
    # RFC 4253 section 4.2: lines before the identification string, which do not begin with "SSH-",
    # are there for wrappers like this one.
    ssh: ClassVar[bytes] = b"relaygate: no server available, try again later\r\n"
    # RFC 8446 section 6: a fatal alert, internal_error (80), in a record of its own.
    tls: ClassVar[bytes] = b"\x15\x03\x03\x00\x02\x02\x50"
    # Implicit FTPS begins as any TLS does.
    ftps: ClassVar[bytes] = tls
    # RFC 959 section 5.4: a server that takes no session says 421 in the place of its greeting.
    ftp: ClassVar[bytes] = b"421 No server available, try again later.\r\n"
    tcp: ClassVar[bytes] = b""
    socks: ClassVar[int] = 1
    proxy: ClassVar[str] = "503 Service Unavailable"
    # More about this very case, for the log.
    detail = ""
    # RFC 9110 section 15.6.4; in front of TLS it is TLS that has to say it.
    http: ClassVar[bytes] = page(503, b"")
    https: ClassVar[bytes] = tls

    def words(self, protocol: str) -> bytes:
        """What a client of *protocol* (a service's) is told; empty where it has no words for it."""
        words = getattr(self, protocol.removesuffix("-mapped"))
        assert isinstance(words, bytes)
        return words

    @property
    def meaning(self) -> str:
        """The first line of the class's docstring, for the log."""
        return (self.__doc__ or "").strip().splitlines()[0]


class NoNode(Refusal):
    """No internal node that offers the service could be reached."""

    code = 1
    cause = Cause.UPLINK


class UnknownService(Refusal):
    """The internal node does not know the service: its configuration has changed."""

    code = 2
    cause = Cause.POLICY


class NoBackend(Refusal):
    """No backend of the service accepted a connection; the internal node's log names them."""

    code = 3
    cause = Cause.BACKEND


class TooSlow(Refusal):
    """No backend accepted a connection before the session's deadline."""

    code = 4
    cause = Cause.TIMEOUT


class TooMany(Refusal):
    """A cap on sessions is reached: the service's or the node's."""

    code = 5
    cause = Cause.POLICY
    ssh = b"relaygate: too many connections, try again later\r\n"
    ftp = b"421 Too many connections, try again later.\r\n"


class Stopping(Refusal):
    """The node is shutting down and takes no new sessions."""

    code = 6
    cause = Cause.SHUTDOWN


class NoTransfer(Refusal):
    """The session waits for no such data connection, or no longer: it was given up."""

    code = 7
    cause = Cause.CLIENT


class NotAllowed(Refusal):
    """The destination is not one of those that are allowed."""

    code = 8
    cause = Cause.POLICY
    ftp = b"421 Refused by the gateway's policy.\r\n"
    socks = 2
    proxy = "403 Forbidden"


class NoSuchName(Refusal):
    """The DMZ node found no address for the destination's name."""

    code = 9
    cause = Cause.BACKEND
    socks = 4
    proxy = "502 Bad Gateway"


class DestinationRefused(Refusal):
    """The destination refused the connection."""

    code = 10
    cause = Cause.BACKEND
    socks = 5
    proxy = "502 Bad Gateway"


class DestinationUnreachable(Refusal):
    """The destination's host is not reached: no way leads there, or it says nothing."""

    code = 11
    cause = Cause.BACKEND
    socks = 4
    proxy = "504 Gateway Timeout"


class NetworkUnreachable(Refusal):
    """The DMZ node has no way to the destination's network."""

    code = 12
    cause = Cause.BACKEND
    socks = 3
    proxy = "502 Bad Gateway"


class NoGateway(Refusal):
    """No DMZ node that takes connections outwards could be asked."""

    code = 13
    cause = Cause.UPLINK


class NobodyCame(Refusal):
    """Nobody connected to the port that was opened for it in time."""

    code = 14
    cause = Cause.TIMEOUT
    socks = 6
    proxy = "504 Gateway Timeout"


class NotGranted(Refusal):
    """The program has not shown who it is: its user or password is wrong, or missing."""

    code = 15
    cause = Cause.POLICY
    socks = 2
    proxy = "407 Proxy Authentication Required"


class TurnedAway(Refusal):
    """The service's lists do not allow the client's address, or it is banned."""

    code = 16
    cause = Cause.POLICY


REFUSALS: dict[int, type[Refusal]] = {
    refusal.code: refusal
    for refusal in (
        *(NoNode, UnknownService, NoBackend, TooSlow, TooMany, Stopping, NoTransfer),
        *(NotAllowed, NoSuchName, DestinationRefused, DestinationUnreachable, NetworkUnreachable),
        *(NoGateway, NobodyCame, NotGranted, TurnedAway),
    )
}


def refusal_for(code: int) -> Refusal:
    """The refusal that *code* (1 to 255) stands for; a plain :class:`Refusal` for one of a newer
    node.
    """
    return REFUSALS.get(code, Refusal)()
