"""The configuration of a DMZ node: who may enrol, and what they may ask for.  No service."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from relaygate.addresses import HostPort, ListenRule
from relaygate.config.schema import Key, ListOf, Reader, Table, Value
from relaygate.config.shared import (
    IDENTITY,
    LISTENER,
    LOG,
    NETWORK,
    NODE_NAME,
    STATUS,
    STOP,
    IdentityFiles,
    LogConfig,
    identity_from,
    integer,
    log_from,
    status_from,
    text_of,
)
from relaygate.destinations import DestinationRule
from relaygate.networks import NetworkSet

__all__ = ["DMZ_FILE", "DMZConfig", "build_dmz"]


@dataclass(frozen=True)
class DMZConfig:
    """All that a DMZ node is told by its own file.

    *nodes* are the certificate names that may dial in, *listen* what they may ask to be
    opened.  Sessions are client connections from accept to end; pending are those of
    them whose backend is not reached yet, or that are being refused.  Rates are new sessions a
    second, 0 for no bound.  "Per address" counts by the client's IPv4 address or /64 of IPv6.
    Connections from *trusted_proxies* begin with a PROXY header.

    *connect* is where connections outwards may go, *connect_from* the address that they leave
    from, by IP version; *max_forwards* caps them, and for each address that they go to.
    """

    identity: IdentityFiles
    uplink_listen: HostPort
    nodes: tuple[str, ...]
    listen: tuple[ListenRule, ...] = ()
    max_sessions: int = 10_000
    max_sessions_per_address: int = 1_000
    max_pending: int = 1_024
    max_pending_per_address: int = 256
    connect: tuple[DestinationRule, ...] = ()
    connect_from: Mapping[int, str] = field(default_factory=dict)
    max_forwards: int = 10_000
    max_forwards_per_address: int = 1_000
    max_rate: int = 0
    max_rate_per_address: int = 1_000
    trusted_proxies: NetworkSet = field(default_factory=NetworkSet)
    log: LogConfig = field(default_factory=LogConfig)
    drain_s: float = 30.0
    status_listen: HostPort | None = None


_RULE = Value(
    'an IP address and port or ports, as in "0.0.0.0:21-22" or "[::]:443"',
    lambda value: ListenRule.parse(text_of(value)),
)

DESTINATION = Value(
    'a host and its ports, as in "sftp.partner.example:22" or "203.0.113.0/24:21"',
    lambda value: DestinationRule.parse(text_of(value)),
)


def _source(value: object) -> str:
    text = text_of(value)
    try:
        address = ip_address(text)
    except ValueError:
        # Python's words repeat the text.
        raise ValueError from None
    if address.is_unspecified or address.is_multicast:
        raise ValueError("nothing can leave from there")
    return str(address)


_SOURCE = Value("an IP address of this machine", _source)


def _check_policy(reader: Reader, where: str, fields: dict[str, Any]) -> None:
    # A node through which things only go out listens for nobody.
    if not (fields.get("listen") or fields.get("connect") or reader.noted(f"{where}.listen")):
        _RULES.missing(reader, f"{where}.listen", required=True)
    sources: dict[int, str] = {}
    for source in fields.get("connect_from", ()):
        if sources.setdefault(ip_address(source).version, source) != source:
            reader.wrong(f"{where}.connect_from", "expected one address of each IP version")
    if sources:
        fields["connect_from"] = sources


# One line for each node and rule is read by people; hundreds of them are a mistake.
_UPLINK = Table(
    (
        Key("listen", LISTENER, required=True, field="uplink_listen"),
        Key("nodes", ListOf(NODE_NAME, "names", 256), required=True),
    )
)

_RULES = ListOf(_RULE, "listen rules", 256)
_POLICY = Table(
    (
        Key("listen", _RULES),
        Key("max_sessions", integer(1, 1_000_000)),
        Key("max_sessions_per_address", integer(1, 1_000_000)),
        Key("max_pending", integer(1, 65_536)),
        Key("max_pending_per_address", integer(1, 65_536)),
        Key("connect", ListOf(DESTINATION, "destinations", 1_024)),
        Key("connect_from", ListOf(_SOURCE, "addresses", 2)),
        Key("max_forwards", integer(1, 1_000_000)),
        Key("max_forwards_per_address", integer(1, 1_000_000)),
        Key("max_rate", integer(0, 1_000_000)),
        Key("max_rate_per_address", integer(0, 1_000_000)),
        Key("trusted_proxies", ListOf(NETWORK, "networks", 256)),
    ),
    _check_policy,
)

DMZ_FILE = Table(
    (
        Key("identity", IDENTITY),
        Key("uplink", _UPLINK),
        Key("policy", _POLICY),
        Key("status", STATUS),
        Key("log", LOG),
        Key("stop", STOP),
    )
)


def build_dmz(file: Path, values: dict[str, Any]) -> DMZConfig:
    """Make the configuration from the tables of *file*; raises ConfigError."""
    reader = Reader(file)
    fields = DMZ_FILE.read(reader, "", values)
    reader.finish()
    return DMZConfig(
        identity=identity_from(fields["identity"], file.parent),
        log=log_from(fields["log"], file.parent),
        status_listen=status_from(fields),
        **fields["uplink"],
        **_policy(fields["policy"]),
        **fields.get("stop", {}),
    )


def _policy(fields: dict[str, Any]) -> dict[str, Any]:
    if "trusted_proxies" in fields:
        fields["trusted_proxies"] = NetworkSet.of(fields["trusted_proxies"])
    return fields
