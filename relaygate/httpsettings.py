"""What a service says about its HTTP sessions, and what is known of one client's connection."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from relaygate.backends import Backends
from relaygate.httppool import BackendPool
from relaygate.protocols.httpeffects import HTTPPolicy, Wait
from relaygate.protocols.httpfields import Parties
from relaygate.protocols.httptarget import Routes
from relaygate.stickiness import StickyCookie


@dataclass(frozen=True)
class HTTPLimits:
    """Seconds for what a session waits for, and the bytes a second that a body has to make."""

    header_s: float = 20.0
    keepalive_s: float = 60.0
    continue_s: float = 2.0
    response_s: float = 60.0
    as2_response_s: float = 1800.0
    body_rate: int = 256

    @cached_property
    def by_wait(self) -> dict[Wait, float]:
        """The limits of the waits that have a fixed one."""
        return {
            Wait.NEXT: self.keepalive_s,
            Wait.HEAD: self.header_s,
            Wait.CONTINUE: self.continue_s,
            Wait.RESPONSE: self.response_s,
            Wait.LATE_RESPONSE: self.as2_response_s,
        }


@dataclass(frozen=True)
class HTTPSettings:
    """
    What a service says about its HTTP sessions.

    *targets* are those of the *routes*, by number, *default* that of what none fits; *inside* what
    the backends are called there; *cookie* gives what makes and reads the cookies of persistence.
    """

    policy: HTTPPolicy
    routes: Routes
    targets: Sequence[Backends]
    default: Backends
    limits: HTTPLimits
    scheme: bytes
    backend_scheme: bytes
    inside: frozenset[bytes]
    pool: BackendPool
    cookie: Callable[[], StickyCookie | None]
    log_query: bool = False

    def target(self, route: int | None) -> Backends:
        """Where route number *route* leads."""
        return self.default if route is None else self.targets[route]


@dataclass(frozen=True)
class HTTPFacts:
    """
    What is known of one client's connection before its first request.

    *client* is the client's address, *reached* the authority that it connected to, and *sni* the
    host that its TLS asked for (small letters; None where it named none, or there is no TLS).
    *idle_timeout_s* is a tunnel's; *fields* stand in every line of the log.
    """

    settings: HTTPSettings
    client: str
    reached: str
    sni: bytes | None
    idle_timeout_s: float | None
    fields: dict[str, object]

    @property
    def parties(self) -> Parties:
        """Who talks to whom."""
        settings = self.settings
        return Parties(
            self.client,
            settings.scheme,
            settings.backend_scheme,
            self.reached.encode(),
            settings.inside,
        )
