"""What both kinds of configuration file have: kinds of values, ``[identity]`` and ``[log]``."""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from relaygate.addresses import AddressError, HostPort, canonical_name
from relaygate.config.schema import Key, Section, Table, Value
from relaygate.networks import network_of

__all__ = [
    "IDENTITY",
    "LISTENER",
    "LOG",
    "NETWORK",
    "NODE_NAME",
    "PATH",
    "STATUS",
    "STOP",
    "TARGET",
    "IdentityFiles",
    "LogConfig",
    "choice",
    "flag",
    "identity_from",
    "integer",
    "log_from",
    "seconds",
    "status_from",
    "text_of",
]


@dataclass(frozen=True)
class IdentityFiles:
    """Where the node's PEM files are: its certificate, its private key, and the CA."""

    certificate: Path
    key: Path
    ca: Path


@dataclass(frozen=True)
class LogConfig:
    """How the node logs; no *file* means standard output."""

    format: Literal["text", "json"] = "text"
    file: Path | None = None
    level: Literal["debug", "info", "warn", "error"] = "info"


def text_of(value: object) -> str:
    """Return *value* if it is a string; raises ValueError if not."""
    if not isinstance(value, str):
        raise ValueError
    return value


def choice(*words: str) -> Value:
    """One of *words*, exactly."""

    def convert(value: object) -> str:
        if value not in words or not isinstance(value, str):
            raise ValueError
        return value

    return Value("one of " + ", ".join(f'"{word}"' for word in words), convert)


def integer(low: int, high: int) -> Value:
    """A whole number from *low* to *high*; true and false are none."""

    def convert(value: object) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError
        return value

    return Value(f"a whole number from {low} to {high}", convert)


def flag() -> Value:
    """True or false."""

    def convert(value: object) -> bool:
        if not isinstance(value, bool):
            raise ValueError
        return value

    return Value("true or false", convert)


def seconds(low: int, high: int) -> Value:
    """A duration in seconds, read as a float."""

    def convert(value: object) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ValueError
        if not low <= value <= high or math.isnan(value):
            raise ValueError
        return float(value)

    return Value(f"a number of seconds from {low} to {high}", convert)


def _listener(value: object) -> HostPort:
    return HostPort.parse(text_of(value), numeric=True)


def _target(value: object) -> HostPort:
    target = HostPort.parse(text_of(value))
    address = target.literal
    # Linux takes a connection to 0.0.0.0 as one to itself, which nobody means.
    if address is not None and (address.is_unspecified or address.is_multicast):
        raise AddressError("no host can be dialled there")
    if address == ipaddress.IPv4Address("255.255.255.255"):
        raise AddressError("no host can be dialled there")
    return target


def _node_name(value: object) -> str:
    name = text_of(value)
    # A certificate's common name holds 64 characters, and one label of a DNS name 63.
    if len(name) > 63:
        raise ValueError(f"it has {len(name)} characters")
    if canonical_name(name) != name:
        raise ValueError("it has capital letters")
    return name


def _path(value: object) -> Path:
    path = text_of(value)
    if not path or "\0" in path:
        raise ValueError
    return Path(path)


LISTENER = Value('an IP address and port to listen on, as in "192.0.2.1:22"', _listener)
TARGET = Value('an address to dial, as in "host.example:22" or "192.0.2.1:22"', _target)
NODE_NAME = Value("a node name (lower-case DNS name of at most 63 characters)", _node_name)
PATH = Value("a path", _path)
NETWORK = Value(
    'a network or an address, as in "203.0.113.0/24" or "2001:db8::1"',
    lambda value: network_of(text_of(value)),
)

IDENTITY = Table(
    (
        Key("certificate", PATH, required=True),
        Key("key", PATH, required=True),
        Key("ca", PATH, required=True),
    )
)

LOG = Table(
    (
        Key("format", choice("text", "json")),
        Key("file", PATH),
        Key("level", choice("debug", "info", "warn", "error")),
    )
)

STOP = Section((Key("drain", seconds(0, 86_400), field="drain_s"),))


STATUS = Section((Key("listen", LISTENER, required=True),))


def status_from(fields: dict[str, Any]) -> HostPort | None:
    """Return where the status page is, of the tables that were read; None for nowhere."""
    return fields["status"]["listen"] if "status" in fields else None


def identity_from(fields: dict[str, Any], folder: Path) -> IdentityFiles:
    """Build what :data:`IDENTITY` read; paths count from *folder*."""
    return IdentityFiles(**{name: folder / path for name, path in fields.items()})


def log_from(fields: dict[str, Any], folder: Path) -> LogConfig:
    """Build what :data:`LOG` read; the path counts from *folder*."""
    file = fields.pop("file", None)
    return LogConfig(file=None if file is None else folder / file, **fields)
