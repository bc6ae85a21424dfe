"""The configuration of an internal node: which DMZ nodes it dials, and what it publishes."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from relaygate.addresses import HostPort, service_name
from relaygate.config.access import ACCESS_KEYS, access_fields
from relaygate.config.admin import ADMIN, DashboardConfig, admin_from
from relaygate.config.balancing import (
    BACKEND,
    BALANCE,
    HEALTH,
    PERSISTENCE,
    HealthConfig,
    PersistenceConfig,
    Rule,
    balancing_fields,
    check_backends,
)
from relaygate.config.forward import FORWARDS, ForwardConfig, check_forwards, forward_from
from relaygate.config.ftp import (
    BACKEND_TLS,
    FTP,
    FTP_PROTOCOLS,
    SERVICE_TLS,
    BackendTLSConfig,
    FTPConfig,
    KeyFiles,
    check_ftp,
    ftp_fields,
)
from relaygate.config.http import (
    HTTP,
    HTTP_PROTOCOLS,
    HTTPConfig,
    check_http,
    check_not_http,
    http_fields,
)
from relaygate.config.schema import Key, ListOf, Reader, Section, Table, Tables, Value
from relaygate.config.shared import (
    IDENTITY,
    LISTENER,
    LOG,
    NETWORK,
    NODE_NAME,
    STATUS,
    STOP,
    TARGET,
    IdentityFiles,
    LogConfig,
    choice,
    identity_from,
    integer,
    log_from,
    seconds,
    status_from,
    text_of,
)
from relaygate.networks import NetworkSet

__all__ = [
    "INTERNAL_FILE",
    "BansConfig",
    "GatewayConfig",
    "InternalConfig",
    "ServiceConfig",
    "build_internal",
]

_MONTH_S = 30 * 24 * 3600


@dataclass(frozen=True)
class GatewayConfig:
    """A DMZ node to dial: where it is, the name in its certificate, idle channels to keep."""

    address: HostPort
    name: str
    pool: int = 8


@dataclass(frozen=True)
class ServiceConfig:
    """One published service.

    *listen* is an address of the DMZ node, *backends* are in the private network, in order
    of preference for ``failover``.  A cap of 0 is none of the service's own.
    *idle_timeout_s* ends a session in which no byte moved for that long; None never does.
    *ftp* and *http* are there for their protocols alone, *tls* where clients' TLS ends on the
    internal node.
    """

    name: str
    protocol: Literal["ssh", "tcp", "tls", "ftp", "ftps", "http", "https"]
    listen: HostPort
    backends: tuple[HostPort, ...]
    balance: Rule = "round-robin"
    node_balance: Rule = "round-robin"
    persistence: PersistenceConfig | None = None
    health: HealthConfig = field(default_factory=HealthConfig)
    channel: Literal["auto", "always", "never"] = "auto"
    max_sessions: int = 0
    max_sessions_per_address: int = 0
    max_rate: int = 0
    max_rate_per_address: int = 0
    allow: NetworkSet | None = None
    deny: NetworkSet | None = None
    proxy_protocol: Literal["none", "v1", "v2"] = "none"
    idle_timeout_s: float | None = None
    tls: KeyFiles | None = None
    backend_tls: BackendTLSConfig = field(default_factory=BackendTLSConfig)
    ftp: FTPConfig | None = None
    http: HTTPConfig | None = None

    @property
    def tls_channel(self) -> bool:
        """Whether the data channels of sessions are encrypted.

        ``auto`` encrypts what may be plaintext and spares what is ciphertext already.  Clients'
        TLS that ends on the internal node needs channels that carry it as it is.
        """
        if self.channel == "auto":
            # Where AUTH TLS is the server's own, what comes before it is clear.
            clear = self.protocol == "ftp" and self.tls is None
            return clear or self.protocol in ("tcp", "http")
        return self.channel == "always"

    def transfer_channel(self, *, protected: bool) -> bool:
        """Whether the channel of an FTP data connection is encrypted, *protected* by the client's
        own TLS or not.
        """
        return self.channel != "never" and not protected

    @property
    def mapped(self) -> tuple[int, int] | None:
        """The ports that are mapped for FTP that passes unopened: the first, and the last."""
        return self.ftp.passive_ports if self.ftp is not None and self.ftp.pass_through else None

    @property
    def mapped_tls(self) -> bool:
        """Whether the channels of their connections are encrypted, which are TLS already."""
        return self.channel == "always"

    @property
    def channel_kinds(self) -> frozenset[bool]:
        """The kinds of data channels that its sessions may need, clear (False) and TLS (True)."""
        kinds = {self.tls_channel}
        if self.mapped is not None:
            kinds.add(self.mapped_tls)
        elif self.ftp is not None:
            ways = {"off": (False,), "allow": (False, True), "require": (True,)}
            kinds |= {self.transfer_channel(protected=way) for way in ways[self.ftp.data_tls]}
        return frozenset(kinds)


@dataclass(frozen=True)
class BansConfig:
    """Who is banned without being told to: so many offences of one address within so many seconds.

    0 is no rule.  *never* is who is banned by no rule and no command.
    """

    ftp_failures: int = 0
    http_failures: int = 0
    within_s: float = 60.0
    duration_s: float = 600.0
    never: NetworkSet = field(default_factory=NetworkSet)


@dataclass(frozen=True)
class InternalConfig:
    """All that an internal node is told; gateways are never empty, nor are services and forwards
    both.
    """

    identity: IdentityFiles
    gateways: tuple[GatewayConfig, ...]
    services: tuple[ServiceConfig, ...]
    log: LogConfig = field(default_factory=LogConfig)
    admin_socket: Path | None = None
    dashboard: DashboardConfig | None = None
    forwards: tuple[ForwardConfig, ...] = ()
    bans: BansConfig = field(default_factory=BansConfig)
    drain_s: float = 30.0
    status_listen: HostPort | None = None


_BANS = Section(
    (
        Key("ftp_failures", integer(0, 100)),
        Key("http_failures", integer(0, 100)),
        Key("within", seconds(1, 86_400), field="within_s"),
        Key("duration", seconds(1, _MONTH_S), field="duration_s"),
        Key("never", ListOf(NETWORK, "networks", 4096)),
    )
)

_NAME = Value(
    "a service name (1 to 63 of a-z, 0-9, _ and -, beginning with a letter or digit)",
    lambda value: service_name(text_of(value)),
)

_GATEWAY = Table(
    (
        Key("address", TARGET, required=True),
        Key("name", NODE_NAME, required=True),
        Key("pool", integer(1, 256)),
    )
)

_PROTOCOL = choice("ssh", "tcp", "tls", *FTP_PROTOCOLS, *HTTP_PROTOCOLS)


def _check_service(reader: Reader, where: str, fields: dict[str, Any]) -> None:
    """Note what is wrong between the keys of a service."""
    check_backends(reader, where, fields)
    protocol = fields.get("protocol")
    if protocol in HTTP_PROTOCOLS:
        check_http(reader, where, fields)
        return
    check_ftp(reader, where, fields)
    if protocol is not None:
        check_not_http(reader, where, fields)


_SERVICE = Table(
    (
        Key("name", _NAME, required=True),
        Key("protocol", _PROTOCOL, required=True),
        Key("listen", LISTENER, required=True),
        Key("backends", ListOf(BACKEND, "backends", 64), required=True),
        Key("balance", BALANCE),
        Key("node_balance", BALANCE),
        Key("persistence", PERSISTENCE),
        Key("health", HEALTH),
        Key("channel", choice("auto", "always", "never")),
        Key("max_sessions", integer(0, 1_000_000)),
        Key("max_sessions_per_address", integer(0, 1_000_000)),
        *ACCESS_KEYS,
        Key("idle_timeout", seconds(1, _MONTH_S), field="idle_timeout_s"),
        Key("tls", SERVICE_TLS),
        Key("backend_tls", BACKEND_TLS),
        Key("ftp", FTP),
        Key("http", HTTP),
    ),
    _check_service,
)


def _check_mapped(reader: Reader, fields: dict[str, Any]) -> None:
    """Note ranges that are mapped, and are not one service's alone."""
    held: list[tuple[int, int, bool, str]] = []
    for row in fields.get("service", ()):
        ftp = (row or {}).get("ftp", {})
        if "passive_ports" not in ftp:
            continue
        first, last = ftp["passive_ports"]
        mapped = ftp.get("pass_through", False)
        where = f'service "{row.get("name", "")}".ftp.passive_ports'
        for other_first, other_last, other_mapped, name in held:
            if first <= other_last and other_first <= last and (mapped or other_mapped):
                reader.wrong(
                    where, f'shares ports with service "{name}", and pass_through maps each to one'
                )
        held.append((first, last, mapped, row.get("name", "")))


def _check_gateways(reader: Reader, where: str, fields: dict[str, Any]) -> None:
    """Note public addresses for gateways that are not there."""
    check_forwards(reader, fields)
    _check_mapped(reader, fields)
    names = {row.get("name") for row in fields.get("gateway", ()) if row}
    for row in fields.get("service", ()):
        for name in (row or {}).get("ftp", {}).get("public_addresses", {}):
            if name and name not in names:
                reader.wrong(
                    f'service "{row.get("name", "")}".ftp.public_address.{name}',
                    "expected the name of a [[gateway]]",
                )


# A wildcard and an explicit address may share a port: the explicit one wins.  Only the very
# same listener twice has no answer to which service a client gets.
INTERNAL_FILE = Table(
    (
        Key("identity", IDENTITY),
        Key("gateway", Tables(_GATEWAY, 64, unique=("address", "name")), required=True),
        Key("service", Tables(_SERVICE, 1_024, unique=("name", "listen"))),
        Key("forward", FORWARDS),
        Key("log", LOG),
        Key("admin", ADMIN),
        Key("bans", _BANS),
        Key("stop", STOP),
        Key("status", STATUS),
    ),
    _check_gateways,
)


def _bans_from(fields: dict[str, Any]) -> BansConfig:
    built = dict(fields)
    if "never" in built:
        built["never"] = NetworkSet.of(built["never"])
    return BansConfig(**built)


def _service(row: dict[str, Any], folder: Path) -> ServiceConfig:
    return ServiceConfig(**http_fields(balancing_fields(ftp_fields(row, folder)), folder))


def build_internal(file: Path, values: dict[str, Any]) -> InternalConfig:
    """Make the configuration from the tables of *file*; raises ConfigError."""
    reader = Reader(file)
    fields = INTERNAL_FILE.read(reader, "", values)
    if not {"service", "forward"} & values.keys():
        reader.wrong("service", "missing, expected at least one [[service]] or [[forward]]")
    reader.finish()
    services = [
        access_fields(reader, f'service "{row["name"]}"', row, file.parent)
        for row in fields.get("service", ())
    ]
    reader.finish()
    admin_socket, dashboard = admin_from(fields.get("admin"), file.parent)
    return InternalConfig(
        identity=identity_from(fields["identity"], file.parent),
        gateways=tuple(GatewayConfig(**row) for row in fields["gateway"]),
        services=tuple(_service(row, file.parent) for row in services),
        forwards=tuple(forward_from(row, file.parent) for row in fields.get("forward", ())),
        log=log_from(fields["log"], file.parent),
        status_listen=status_from(fields),
        bans=_bans_from(fields.get("bans", {})),
        admin_socket=admin_socket,
        dashboard=dashboard,
        **fields.get("stop", {}),
    )
