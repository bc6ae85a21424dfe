"""The entries by which programs of the private network go out through the DMZ."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from relaygate.addresses import HostPort, service_name
from relaygate.config.dmz import DESTINATION
from relaygate.config.ftp import (
    BACKEND_TLS,
    PER_GATEWAY,
    PORTS,
    SERVICE_TLS,
    BackendTLSConfig,
    KeyFiles,
    network,
)
from relaygate.config.schema import Key, ListOf, Reader, Section, Table, Tables, Value
from relaygate.config.shared import (
    LISTENER,
    PATH,
    TARGET,
    choice,
    flag,
    integer,
    seconds,
    text_of,
)
from relaygate.destinations import DestinationRule

__all__ = [
    "FORWARDS",
    "ForwardConfig",
    "ForwardFTPConfig",
    "UserConfig",
    "check_forwards",
    "forward_from",
]

_MONTH_S = 30 * 24 * 3600
_OPEN = ("socks5", "http-connect")
# What the program and its partner encrypt by themselves: SSH, HTTPS, implicit FTPS.
_CIPHERTEXT_PORTS = frozenset({22, 443, 990})


@dataclass(frozen=True)
class UserConfig:
    """A user of an entry: the file with the password, and where that user may go instead."""

    name: str
    password_file: Path
    destinations: tuple[DestinationRule, ...] | None = None


@dataclass(frozen=True)
class ForwardFTPConfig:
    """
    FTP's own on a fixed forward.

    *public_addresses* (by gateway, "" for every other) stand in the PORT that a partner gets,
    *active_ports* are the first and the last port that the DMZ opens for it.  *tls* is the
    program's own; with ``"pass"`` nothing is opened, and *data_ports* are the partner's data ports,
    which the entry has as well.
    """

    active_ports: tuple[int, int] | None = None
    public_addresses: Mapping[str, str] = field(default_factory=dict)
    tls: Literal["off", "allow", "require", "pass"] = "off"
    data_tls: Literal["off", "allow", "require"] = "off"
    implicit: bool = False
    data_ports: tuple[int, int] | None = None
    mode: Literal["as-client", "passive", "active"] = "passive"
    telnet: bool = True

    def public_address(self, gateway: str) -> str | None:
        """What a partner is told that is reached through *gateway*; None is the DMZ's address."""
        return self.public_addresses.get(gateway) or self.public_addresses.get("")


@dataclass(frozen=True)
class ForwardConfig:
    """
    One entry.

    *listen* is an address of this node.  *target* is where a fixed one leads; *destinations* are
    where the others may lead.  *allow* has the networks that may come, none for any.  A cap of 0 is
    none.
    """

    name: str
    protocol: Literal["socks5", "http-connect", "ftp", "tcp"]
    listen: HostPort
    target: HostPort | None = None
    destinations: tuple[DestinationRule, ...] = ()
    allow: tuple[str, ...] = ()
    users: tuple[UserConfig, ...] = ()
    channel: Literal["auto", "always", "never"] = "auto"
    max_sessions: int = 1_000
    max_sessions_per_address: int = 0
    idle_timeout_s: float | None = None
    bind_ports: tuple[int, int] | None = None
    bind_addresses: Mapping[str, str] = field(default_factory=dict)
    tls: KeyFiles | None = None
    partner_tls: BackendTLSConfig = field(default_factory=BackendTLSConfig)
    ftp: ForwardFTPConfig | None = None

    @property
    def opens_ftp(self) -> bool:
        """Whether FTP's commands are read here."""
        return self.ftp is not None and self.ftp.tls != "pass"

    def tls_channel(self, port: int, *, protected: bool = False) -> bool:
        """
        Whether the channel of a connection to *port* is encrypted.

        ``auto`` spares what is ciphertext already: *protected* is what this node encrypts itself,
        and by the port it is SSH, HTTPS and implicit FTPS.
        """
        if self.channel != "auto":
            return self.channel == "always" and not protected
        if self.ftp is not None and self.ftp.tls == "pass":
            return False
        return not protected and port not in _CIPHERTEXT_PORTS

    @property
    def channel_kinds(self) -> frozenset[bool]:
        """The kinds of data channels that its sessions may need, clear (False) and TLS (True)."""
        if self.channel != "auto":
            return frozenset({self.channel == "always"})
        if self.target is None:
            return frozenset({True, False})
        if self.opens_ftp:
            return frozenset({self.partner_tls.mode == "off"})
        return frozenset({self.tls_channel(self.target.port)})

    def bind_address(self, gateway: str) -> str | None:
        """What BIND answers who goes through *gateway*; None is the DMZ's own address."""
        return self.bind_addresses.get(gateway) or self.bind_addresses.get("")


def _user_name(value: object) -> str:
    name = text_of(value)
    if not 0 < len(name.encode()) <= 255 or ":" in name or not name.isprintable():
        raise ValueError
    return name


_USER = Table(
    (
        Key("name", Value("a user's name, without colon", _user_name), required=True),
        Key("password_file", PATH, required=True),
        Key("destinations", ListOf(DESTINATION, "destinations", 1_024)),
    )
)

_BIND = Section(
    (
        Key("ports", PORTS, required=True),
        Key("public_address", PER_GATEWAY, field="addresses"),
    )
)

_FTP = Section(
    (
        Key("active_ports", PORTS),
        Key("public_address", PER_GATEWAY, field="public_addresses"),
        Key("tls", choice("off", "allow", "require", "pass")),
        Key("data_tls", choice("off", "allow", "require")),
        Key("implicit", flag()),
        Key("data_ports", PORTS),
        Key("mode", choice("as-client", "passive", "active")),
        Key("telnet", flag()),
    )
)

_MAX_DATA_PORTS = 1_000


def check_forwards(reader: Reader, fields: dict[str, Any]) -> None:
    """Note public addresses for gateways that are not there."""
    names = {row.get("name") for row in fields.get("gateway", ()) if row}
    for row in fields.get("forward", ()):
        tables = (("ftp", "public_addresses"), ("bind", "addresses"))
        for table, key in tables:
            for name in (row or {}).get(table, {}).get(key, {}):
                if name and name not in names:
                    reader.wrong(
                        f'forward "{row.get("name", "")}".{table}.public_address.{name}',
                        "expected the name of a [[gateway]]",
                    )


def _check(reader: Reader, where: str, fields: dict[str, Any]) -> None:
    """Note what does not go together in one entry, which reads as *fields*."""
    protocol = fields.get("protocol")
    if protocol is None:
        return
    wants, other = ("destinations", "target") if protocol in _OPEN else ("target", "destinations")
    users = fields.get("users", ())
    if wants not in fields and not (
        wants == "destinations" and users and all("destinations" in (row or {}) for row in users)
    ):
        reader.wrong(f"{where}.{wants}", f'missing, "{protocol}" needs it: nothing is allowed else')
    if other in fields:
        reader.wrong(f"{where}.{other}", f'"{protocol}" has none, it has {wants}')
    for name, only in (
        ("users", _OPEN),
        ("bind", ("socks5",)),
        ("tls", ("ftp",)),
        ("partner_tls", ("ftp",)),
        ("ftp", ("ftp",)),
    ):
        if name in fields and protocol not in only:
            words = " or ".join(f'"{word}"' for word in only)
            key = "user" if name == "users" else name
            reader.wrong(f"{where}.{key}", f'only an entry of {words} has it, not "{protocol}"')
    _check_who(reader, where, fields)
    if protocol == "ftp":
        _check_ftp(reader, where, fields)


def _check_who(reader: Reader, where: str, fields: dict[str, Any]) -> None:
    """Requirement 71: who is let in is on this machine, or listed, or has a password."""
    listen = fields.get("listen")
    if listen is None or fields.get("allow") or fields.get("users"):
        return
    if not ipaddress.ip_address(listen.host).is_loopback:
        reader.wrong(
            f"{where}.allow",
            f"missing, expected networks (or a [[forward.user]]) for an entry at {listen.host}",
        )


def _check_ftp(reader: Reader, where: str, fields: dict[str, Any]) -> None:
    ftp = fields.get("ftp", {})
    tls = ftp.get("tls")
    mode = fields.get("partner_tls", {}).get("mode", "off")
    if mode != "off" and "ca" not in fields["partner_tls"]:
        reader.wrong(f"{where}.partner_tls.ca", "missing, expected a path")
    if tls == "pass":
        for name in ("tls", "partner_tls"):
            if name in fields:
                reader.wrong(f"{where}.{name}", 'nothing is opened with ftp.tls = "pass"')
        ports = ftp.get("data_ports")
        if ports is None:
            reader.wrong(f"{where}.ftp.data_ports", 'missing, needed by ftp.tls = "pass"')
        elif ports[1] - ports[0] >= _MAX_DATA_PORTS:
            reader.wrong(f"{where}.ftp.data_ports", f"expected at most {_MAX_DATA_PORTS} ports")
        return
    if "data_ports" in ftp:
        reader.wrong(f"{where}.ftp.data_ports", 'only with ftp.tls = "pass"')
    if (tls or "off") != "off" and "tls" not in fields:
        reader.wrong(f"{where}.tls", "missing, expected certificate and key for ftp.tls")
    if ftp.get("implicit") and "tls" not in fields:
        reader.wrong(f"{where}.tls", "missing, expected certificate and key for ftp.implicit")
    if ftp.get("mode") in ("as-client", "active") and "active_ports" not in ftp:
        reader.wrong(f"{where}.ftp.active_ports", f'missing, needed by mode = "{ftp["mode"]}"')


_FORWARD = Table(
    (
        Key(
            "name",
            Value("an entry's name, as a service's", lambda value: service_name(text_of(value))),
            required=True,
        ),
        Key("protocol", choice(*_OPEN, "ftp", "tcp"), required=True),
        Key("listen", LISTENER, required=True),
        Key("target", TARGET),
        Key("destinations", ListOf(DESTINATION, "destinations", 1_024)),
        Key("allow", ListOf(Value('a network, as in "192.0.2.0/24"', network), "networks", 256)),
        Key("user", Tables(_USER, 1_000, unique=("name",)), field="users"),
        Key("channel", choice("auto", "always", "never")),
        Key("max_sessions", integer(0, 1_000_000)),
        Key("max_sessions_per_address", integer(0, 1_000_000)),
        Key("idle_timeout", seconds(1, _MONTH_S), field="idle_timeout_s"),
        Key("bind", _BIND),
        Key("tls", SERVICE_TLS),
        Key("partner_tls", BACKEND_TLS),
        Key("ftp", _FTP),
    ),
    _check,
)

FORWARDS = Tables(_FORWARD, 1_024, unique=("name", "listen"))


def forward_from(row: dict[str, Any], folder: Path) -> ForwardConfig:
    """Build one entry of what :data:`FORWARDS` read; paths count from *folder*."""
    built = dict(row)
    if "tls" in row:
        built["tls"] = KeyFiles(**{name: folder / path for name, path in row["tls"].items()})
    if "partner_tls" in row:
        partner = dict(row["partner_tls"])
        if "ca" in partner:
            partner["ca"] = folder / partner["ca"]
        built["partner_tls"] = BackendTLSConfig(**partner)
    if "bind" in row:
        bind = built.pop("bind")
        built["bind_ports"] = bind["ports"]
        built["bind_addresses"] = bind.get("addresses", {})
    built["users"] = tuple(
        UserConfig(**(user | {"password_file": folder / user["password_file"]}))
        for user in row.get("users", ())
    )
    if row["protocol"] == "ftp":
        ftp = dict(row.get("ftp", {}))
        if ftp.get("implicit"):
            ftp.setdefault("tls", "require")
        ftp.setdefault("tls", "allow" if "tls" in row else "off")
        ftp.setdefault("data_tls", "off" if ftp["tls"] == "pass" else ftp["tls"])
        ftp.setdefault("mode", "as-client" if "active_ports" in ftp else "passive")
        built["ftp"] = ForwardFTPConfig(**ftp)
    return ForwardConfig(**built)
