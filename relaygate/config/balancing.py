"""How a service's sessions are spread: its backends, ``balance`` and ``persistence``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from relaygate.addresses import HostPort
from relaygate.config.schema import Key, Reader, Section, Table
from relaygate.config.shared import TARGET, choice, flag, integer, seconds

__all__ = [
    "BACKEND",
    "BALANCE",
    "PERSISTENCE",
    "BackendConfig",
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
    """A client keeps its node and its backend for *ttl_s* seconds after its latest session."""

    by: Literal["source"]
    ttl_s: float = 300.0


BALANCE = choice("round-robin", "failover", "least-sessions", "source")

PERSISTENCE = Section(
    (
        Key("by", choice("source"), required=True),
        Key("ttl", seconds(1, _WEEK_S), field="ttl_s"),
    )
)

_BACKEND = Table(
    (
        Key("address", TARGET, required=True),
        Key("weight", integer(1, 256)),
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
    if "persistence" in fields:
        fields = {**fields, "persistence": PersistenceConfig(**fields["persistence"])}
    return fields
