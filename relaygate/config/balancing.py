"""How a service's sessions are spread: its backends, ``balance`` and ``persistence``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from relaygate.addresses import HostPort
from relaygate.balance import MAX_WEIGHT
from relaygate.config.schema import Key, ListOf, Reader, Section, Table, Value
from relaygate.config.shared import TARGET, choice, flag, integer, seconds, text_of

__all__ = [
    "BACKEND",
    "BALANCE",
    "HEALTH",
    "PERSISTENCE",
    "BackendConfig",
    "HealthConfig",
    "PersistenceConfig",
    "Rule",
    "balancing_fields",
    "check_backends",
]

Rule = Literal["round-robin", "failover", "least-sessions", "source"]

_WEEK_S = 7 * 24 * 3600


@dataclass(frozen=True, order=True)
class BackendConfig(HostPort):
    """A backend with settings of its own; one without is a plain :class:`HostPort`."""

    weight: int = 1
    backup: bool = False


@dataclass(frozen=True)
class PersistenceConfig:
    """
    A client keeps its node and its backend for *ttl_s* seconds after its latest session, or *by*
    "cookie" its backend.
    """

    by: Literal["source", "cookie"]
    ttl_s: float = 300.0


@dataclass(frozen=True)
class HealthConfig:
    """
    How backends are watched.

    *failures* sessions that fail within *within_s* seconds take a backend out for a while.  With a
    *check* it is looked at every *interval_s* seconds, and is down after *fall* bad looks in a row
    and up after *rise* good ones.  *when_down* says what becomes of the listener when no backend
    is up.
    """

    check: Literal["none", "connect", "ssh", "ftp", "http"] = "none"
    interval_s: float = 10.0
    timeout_s: float = 5.0
    rise: int = 2
    fall: int = 3
    http_path: str = "/"
    http_host: str | None = None
    http_status: tuple[int, ...] = (200,)
    failures: int = 3
    within_s: float = 30.0
    when_down: Literal["close", "refuse"] = "close"


def _visible(value: object) -> str:
    text = text_of(value)
    if not 0 < len(text) <= 1024 or not all("!" <= char <= "~" for char in text):
        raise ValueError
    return text


def _path(value: object) -> str:
    text = _visible(value)
    if not text.startswith("/"):
        raise ValueError
    return text


HEALTH = Section(
    (
        Key("check", choice("none", "connect", "ssh", "ftp", "http")),
        Key("interval", seconds(1, 3600), field="interval_s"),
        Key("timeout", seconds(1, 60), field="timeout_s"),
        Key("rise", integer(1, 100)),
        Key("fall", integer(1, 100)),
        Key("http_path", Value('a path of visible ASCII characters, as in "/health"', _path)),
        Key("http_host", Value("a host name, as it stands in the field Host", _visible)),
        Key("http_status", ListOf(integer(100, 599), "status codes", 32)),
        Key("failures", integer(0, 100)),
        Key("within", seconds(1, 3600), field="within_s"),
        Key("when_down", choice("close", "refuse")),
    )
)

BALANCE = choice("round-robin", "failover", "least-sessions", "source")

PERSISTENCE = Section(
    (
        Key("by", choice("source", "cookie"), required=True),
        Key("ttl", seconds(1, _WEEK_S), field="ttl_s"),
    )
)

_BACKEND = Table(
    (
        Key("address", TARGET, required=True),
        Key("weight", integer(1, MAX_WEIGHT)),
        Key("backup", flag()),
    )
)


class _Backend:
    """A backend: an address, or a table of it and its settings."""

    def read(self, reader: Reader, where: str, value: object) -> Any:
        """Return a :class:`HostPort` or a :class:`BackendConfig`."""
        if not isinstance(value, Mapping):
            return TARGET.read(reader, where, value)
        fields = _BACKEND.read(reader, where, value)
        address = fields.pop("address", None)
        return address and BackendConfig(address.host, address.port, **fields)

    def missing(self, reader: Reader, where: str, *, required: bool) -> Any:
        """An item of a list is never missing."""


BACKEND = _Backend()


def check_backends(reader: Reader, where: str, fields: dict[str, Any]) -> None:
    """Note a backend that is there twice, with settings and without, and backups of nothing."""
    backends = fields.get("backends") or ()
    seen: set[tuple[str, int]] = set()
    for backend in backends:
        if (backend.host, backend.port) in seen:
            reader.wrong(
                f"{where}.backends", f"expected each of the backends once, found {backend} again"
            )
        seen.add((backend.host, backend.port))
    if backends and all(getattr(backend, "backup", False) for backend in backends):
        reader.wrong(f"{where}.backends", "expected one that is not a backup, found none")


def balancing_fields(fields: dict[str, Any]) -> dict[str, Any]:
    """
    Return a service's *fields* with its persistence built.

    Nodes are balanced as backends are, but that ``failover`` is about the backends alone.
    """
    rule = fields.get("balance", "round-robin")
    fields = {"node_balance": "round-robin" if rule == "failover" else rule, **fields}
    if "health" in fields:
        fields["health"] = HealthConfig(**fields["health"])
    if "persistence" in fields:
        fields = {**fields, "persistence": PersistenceConfig(**fields["persistence"])}
    return fields
