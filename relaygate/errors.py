"""
Why a session is refused: one table.

Each refusal is a class.  Its docstring is what an operator reads; ``code`` is what the nodes say to
each other on a data channel; ``cause`` is the word that the session's last log line carries;
``ssh``, ``tls`` and ``ftp`` are the bytes that the client gets, in its own protocol, before the
connection closes. None of them names an address, a backend or a node.
"""

from __future__ import annotations

from typing import ClassVar

from relaygate.outcome import Cause


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

    def words(self, protocol: str) -> bytes:
        """What a client of *protocol* (a service's) is told; empty where it has no words for it."""
        words = getattr(self, protocol)
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


REFUSALS: dict[int, type[Refusal]] = {
    refusal.code: refusal
    for refusal in (NoNode, UnknownService, NoBackend, TooSlow, TooMany, Stopping, NoTransfer)
}


def refusal_for(code: int) -> Refusal:
    """The refusal that *code* (1 to 255) stands for; a plain :class:`Refusal` for one of a newer
    node.
    """
    return REFUSALS.get(code, Refusal)()
