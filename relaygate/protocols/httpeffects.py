"""The words between the pure HTTP session and who performs it: policy, effects, waits."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from relaygate.protocols.httpfields import FieldPolicy
from relaygate.protocols.httphead import HeadLimits


class Side(enum.Enum):
    """Whose connection."""

    CLIENT = "client"
    BACKEND = "backend"


class Wait(enum.Enum):
    """What a session waits for; each has a limit of its own."""

    NOTHING = "nothing"
    NEXT = "another request"
    HEAD = "a request's head"
    CONTINUE = "the backend's word on a request's head"
    BODY = "a request's body"
    RESPONSE = "a response"
    # The answer to an AS2 message is the receipt for it, made when all of it is worked through.
    LATE_RESPONSE = "a response to AS2"
    STREAM = "a response's body"


@dataclass(frozen=True)
class HTTPPolicy:
    """
    What a service's sessions hold to.

    *max_body* is in bytes and 0 none; *upgrades* are protocols (small letters) that clients may
    change to; with *strict_hosts* a host that no route names is answered 421; *cookie* is the name
    of the gateway's own cookie, b"" where there is none.
    """

    limits: HeadLimits = field(default_factory=HeadLimits)
    fields: FieldPolicy = field(default_factory=FieldPolicy)
    max_body: int = 0
    max_requests: int = 1000
    upgrades: tuple[bytes, ...] = (b"websocket",)
    strict_hosts: bool = False
    cookie: bytes = b""


# Those of each request are not frozen, which would cost three times as much to make.
@dataclass(slots=True)
class Send:
    """Write *data* to *side*."""

    side: Side
    data: bytes


@dataclass(slots=True)
class FindBackend:
    """
    Get a connection to a backend of *route* (None: the service's own backends).

    *cookie* is the value of the client's cookie of ours; *steady* asks for a connection that is
    sure to live, since what goes out on it cannot be repeated; *again* means that the one before
    failed, and another shall be found.
    """

    route: int | None
    cookie: bytes
    steady: bool
    again: bool


@dataclass(frozen=True)
class ReleaseBackend:
    """The backend's connection is free for another request; whoever's."""


@dataclass(frozen=True)
class DropBackend:
    """The backend's connection is of no more use."""


@dataclass(frozen=True)
class BackendSilent:
    """The backend took a connection and gave no answer; *costly* if that took long to find out."""

    reason: str
    costly: bool


@dataclass(frozen=True)
class MoveBody:
    """Let *count* bytes (None: all until the end) from *side* to the other pass by the session."""

    side: Side
    count: int | None


@dataclass(frozen=True)
class Tunnel:
    """The protocol was changed: from now on bytes pass both ways; these have come already."""

    from_client: bytes
    from_backend: bytes


@dataclass(slots=True)
class RequestSeen:
    """
    For the audit: one request and its end.

    *status* is 0 where the client was not answered; *unauthorised* where a backend refused what a
    client had shown of who it is.
    """

    method: bytes
    host: bytes
    path: bytes
    query: bytes
    status: int
    bytes_in: int
    bytes_out: int
    detail: str = ""
    unauthorised: bool = False


@dataclass(frozen=True)
class EndSession:
    """Close the client's connection; with *abort* so that it sees what it got is not whole."""

    cause: str
    detail: str
    abort: bool = False


Effect = (
    Send
    | FindBackend
    | BackendSilent
    | ReleaseBackend
    | DropBackend
    | MoveBody
    | Tunnel
    | RequestSeen
    | EndSession
)
