"""
The vocabulary of an FTP session: what it may do, and what it asks for.

:class:`~relaygate.protocols.ftpalg.FTPSession` returns *effects*; whoever holds the sockets
performs them in their order and reports what came of them.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from relaygate.protocols.ftp import Command, Reply


class Side(enum.Enum):
    """One of the two peers."""

    CLIENT = "client"
    BACKEND = "backend"


class Use(enum.Enum):
    """Whether something is refused, left to the client, or demanded of it."""

    OFF = "off"
    ALLOW = "allow"
    REQUIRE = "require"


class TLSMode(enum.Enum):
    """How the backend's control connection is protected: not, by AUTH TLS, or from the start."""

    OFF = "off"
    EXPLICIT = "explicit"
    IMPLICIT = "on"


class Direction(enum.Enum):
    """Which way the bytes of a transfer go; ``UNKNOWN`` for a command that we do not know."""

    UPLOAD = "upload"
    DOWNLOAD = "download"
    UNKNOWN = "unknown"


class DataEnd(enum.Enum):
    """
    How a transfer's bytes ended.

    ``WHOLE``: every direction that carried bytes ended in order, TLS with its close_notify, and
    the last byte was passed on.  The others say which peer broke off; the other leg was aborted.
    """

    WHOLE = "whole"
    CLIENT_BROKE = "client"
    BACKEND_BROKE = "backend"


class End(enum.Enum):
    """Who or what ended a session; the values are those of :class:`relaygate.outcome.Cause`."""

    DONE = "done"
    CLIENT = "client"
    BACKEND = "backend"
    TIMEOUT = "timeout"
    SHUTDOWN = "shutdown"


class Wait(enum.Enum):
    """
    What a session waits for, so that the right clock runs.

    Each stands for a limit in seconds that its holder knows; when it has run out, the session is
    told by ``timed_out()``.  The clock starts anew with each input.
    """

    OPENING = "opening"
    """The backend's greeting and the TLS handshakes before it."""
    COMMAND = "command"
    """The client's next command: the idle limit, 5 minutes or more (RFC 1123, 4.1.3.2)."""
    SECURING = "securing"
    """The client's TLS handshake."""
    PREPARING = "preparing"
    """An address for a transfer, or a dial: these have limits of their own, so none runs here."""
    REPLY = "reply"
    """The backend's reply: some commands take minutes."""
    DATA = "data"
    """The end of a transfer, whose relay has clocks of its own: none runs here."""
    QUIT = "quit"
    """The end of a transfer behind which a QUIT waits: a second."""
    ABORT = "abort"
    """What the backend says to ABOR: some seconds, then the transfer is broken off."""
    PROBE = "probe"
    """The answer to a question of ours that every server has at once: half a minute."""
    DRAIN = "drain"
    """The end of a transfer that the backend calls failed: some seconds."""


@dataclass(frozen=True, slots=True)
class FTPPolicy:
    """
    What a service allows.

    ``control`` and ``data`` are the client's TLS; ``implicit`` means that it begins with the
    connection.  ``backend`` is the backend's, and ``backend_data`` whether its transfers are
    protected too, where its control connection is.  With ``backend_active`` the backend dials
    its transfers, else it waits for them; with ``backend_as_client`` it does what the client asks
    for with each.  With ``hides_host`` HOST is not passed on: it names whom the client has reached,
    which is nobody that the backend should hear of.
    """

    control: Use = Use.OFF
    data: Use = Use.OFF
    implicit: bool = False
    backend: TLSMode = TLSMode.OFF
    backend_data: bool = True
    backend_active: bool = False
    backend_as_client: bool = False
    hides_host: bool = False


@dataclass(frozen=True, slots=True)
class SendReply:
    """Write a reply to the client."""

    reply: Reply


@dataclass(frozen=True, slots=True)
class SendCommand:
    """Write a command to the backend."""

    command: Command


@dataclass(frozen=True, slots=True)
class StartTLS:
    """
    Start TLS on a control leg, behind what was written: as server of the client, as client of
    the backend.  Then ``client_secured()`` or ``backend_secured()``, or the side is lost.

    Whoever performs it first looks at the reader's ``rest`` and at what else was read of that
    leg: if there is a byte, it was sent in clear by someone who wants it to be taken for a
    protected one, and ``client_violated()`` or ``backend_violated()`` is the answer.
    """

    side: Side


@dataclass(frozen=True, slots=True)
class OpenPassive:
    """
    Open a port for the client, then ``passive_opened()`` or ``data_failed()``.

    ``protected``: what it will carry is TLS between us and the client.
    """

    transfer: int
    protected: bool


@dataclass(frozen=True, slots=True)
class DialActive:
    """Dial the client's *port* from outside, then ``active_dialled()`` or ``data_failed()``."""

    transfer: int
    port: int
    protected: bool


@dataclass(frozen=True, slots=True)
class DialBackendData:
    """
    Dial *port* at the host to which the backend's control connection goes, and nowhere else; then
    ``backend_data_ready()`` or ``data_failed()``.
    """

    transfer: int
    port: int


@dataclass(frozen=True, slots=True)
class ListenBackendData:
    """
    Open a port for the backend alone, then ``backend_listening()`` or ``data_failed()``.

    It is opened at the address from which the backend's control connection goes.
    """

    transfer: int


@dataclass(frozen=True, slots=True)
class StartData:
    """
    Join the two data connections of a transfer as soon as both are there, then ``data_ended()``,
    or ``data_failed()`` if they do not come to stand.

    Protected legs do their handshake now (RFC 4217, section 7): the client is the TLS client on
    its side, we are on the backend's, whoever dialled.
    """

    transfer: int
    direction: Direction
    client_protected: bool
    backend_protected: bool


@dataclass(frozen=True, slots=True)
class CloseData:
    """
    Give back all that a transfer holds, perhaps nothing: connections, listeners, dials under way.

    ``abort`` tells a break from an end.  What is still reported about this transfer is not heard.
    """

    transfer: int
    abort: bool


@dataclass(frozen=True, slots=True)
class LoginSeen:
    """For the audit: the backend has decided about a login (``code`` is its reply's)."""

    user: bytes
    ok: bool
    code: int


@dataclass(frozen=True, slots=True)
class TransferSeen:
    """For the audit: a transfer has ended, and ``code`` is what the client was told."""

    transfer: int
    verb: str
    path: bytes
    direction: Direction
    passive: bool
    client_protected: bool
    backend_protected: bool
    code: int


@dataclass(frozen=True, slots=True)
class BounceRefused:
    """
    For the audit: PORT or EPRT named an address or a port that is never dialled.

    ``why`` is what the client was told.
    """

    command: Command
    why: str


@dataclass(frozen=True, slots=True)
class EndSession:
    """
    The last effect: close both control legs behind what was written.

    All that is still open of transfers is aborted.  ``detail`` is a clause for the log.
    """

    end: End
    detail: str


Effect = (
    SendReply
    | SendCommand
    | StartTLS
    | OpenPassive
    | DialActive
    | DialBackendData
    | ListenBackendData
    | StartData
    | CloseData
    | LoginSeen
    | TransferSeen
    | BounceRefused
    | EndSession
)
