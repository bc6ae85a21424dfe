"""
Health checks: the few bytes by which a server is asked whether it is well, and what its answer
means.

A check is gentle on the server that it asks (requirement 47): it says who it is where the protocol
has words for that, and takes its leave as a client would, so that no server takes it for a port
scan or counts it as an attack.
"""

from __future__ import annotations

import re
from collections.abc import Collection

# More than any greeting has; a server that says more has not been asked for it.
MAX_ANSWER = 16 * 1024
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])(?: [^\r\n]*)?\r?\n")
# RFC 4253 section 11.1: SSH_MSG_DISCONNECT, by application (11), in a packet of section 6.
_DISCONNECT = b"\x01" + (11).to_bytes(4) + (5).to_bytes(4) + b"check" + (0).to_bytes(4)
_PADDING = 8 - (5 + len(_DISCONNECT)) % 8 + 8
_SSH_LEAVE = (
    b"SSH-2.0-relaygate_check\r\n"
    + (1 + len(_DISCONNECT) + _PADDING).to_bytes(4)
    + bytes([_PADDING])
    + _DISCONNECT
    + bytes(_PADDING)
)


class CheckFailed(Exception):
    """The server is not well, or not there; the text says why."""


class HealthCheck:
    """
    The check ``connect``: to be reached is enough.

    *first* is sent at the beginning and *leave* at the end.  :meth:`receive` says whether the
    server is well, as soon as that is known.
    """

    first = b""
    leave = b""

    def __init__(self) -> None:
        self._answer = bytearray()

    @property
    def content(self) -> bool:
        """Whether nothing needs to be heard."""
        return True

    def receive(self, data: bytes) -> bool:
        """*data* has come; whether the server is well, for all that is known so far.  Raises
        :class:`CheckFailed`.
        """
        return True


class _Listening(HealthCheck):
    """A check that waits for an answer."""

    @property
    def content(self) -> bool:
        """See :class:`HealthCheck`."""
        return False

    def receive(self, data: bytes) -> bool:
        """See :class:`HealthCheck`."""
        self._answer += data
        if self._judge(bytes(self._answer)):
            return True
        if len(self._answer) > MAX_ANSWER:
            raise CheckFailed("it says too much")
        return False

    def _judge(self, answer: bytes) -> bool:
        """Whether *answer* is whole and good; raises :class:`CheckFailed` if it is not good."""
        raise NotImplementedError


class SSHCheck(_Listening):
    """Waits for the identification string (RFC 4253 section 4.2), and says why it leaves."""

    leave = _SSH_LEAVE

    def _judge(self, answer: bytes) -> bool:
        lines = answer.split(b"\n")[:-1]
        for line in lines:
            if line.startswith(b"SSH-"):
                if line.startswith((b"SSH-2.0-", b"SSH-1.99-")):
                    return True
                raise CheckFailed("it speaks another version of SSH")
        return False


class FTPCheck(_Listening):
    """Waits for the greeting (RFC 959 section 5.4), and quits."""

    leave = b"QUIT\r\n"

    def _judge(self, answer: bytes) -> bool:
        for line in answer.split(b"\n")[:-1]:
            # The last line of a reply; 120 says that the greeting will come.
            if re.match(rb"[1-5][0-9][0-9] ", line):
                if line.startswith(b"2"):
                    return True
                if not line.startswith(b"1"):
                    raise CheckFailed(f"it greets with {line[:3].decode()}")
        return False


class HTTPCheck(_Listening):
    """Asks for *path* of *host*, and expects one of *statuses* (RFC 9112)."""

    def __init__(self, host: str, path: str, statuses: Collection[int]) -> None:
        super().__init__()
        self._statuses = statuses
        self.first = (
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\n"
            "User-Agent: relaygate-check\r\nAccept: */*\r\nConnection: close\r\n\r\n"
        ).encode("ascii")

    def _judge(self, answer: bytes) -> bool:
        if b"\n" not in answer:
            return False
        found = _STATUS_LINE.match(answer)
        if found is None:
            raise CheckFailed("it does not speak HTTP")
        status = int(found[1])
        if status not in self._statuses:
            raise CheckFailed(f"it answers {status}")
        return True
