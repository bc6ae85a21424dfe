"""What a published FTP service is told beside what every service is: addresses, ports and TLS."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from relaygate.addresses import host_name
from relaygate.config.schema import Key, ListOf, Reader, Section, Table, Tables, Value
from relaygate.config.shared import PATH, choice, flag, integer, text_of

__all__ = [
    "BACKEND_TLS",
    "FTP",
    "FTP_PROTOCOLS",
    "PER_GATEWAY",
    "PORTS",
    "SERVICE_TLS",
    "BackendTLSConfig",
    "FTPConfig",
    "KeyFiles",
    "check_ftp",
    "ftp_fields",
    "network",
]

FTP_PROTOCOLS = ("ftp", "ftps")
Wish = Literal["off", "allow", "require"]
# As many as one message to a DMZ node has room for.
_MAX_PEERS = 16
# As many as a DMZ node binds in one turn.
MAX_MAPPED = 1000
# As many as a service's declaration has room for.
MAX_MAPPED_PEERS = 4


@dataclass(frozen=True)
class KeyFiles:
    """
    The PEM files that clients of a service are met with: certificate chain, and key.

    *more* are for clients that ask for other names.
    """

    certificate: Path
    key: Path
    more: tuple[KeyFiles, ...] = ()

    @property
    def more_pairs(self) -> tuple[tuple[Path, Path], ...]:
        """Certificate and key of each of *more*."""
        return tuple((pair.certificate, pair.key) for pair in self.more)


@dataclass(frozen=True)
class BackendTLSConfig:
    """TLS towards the backends.

    *ca* are the authorities that their certificates must be of; *name* the name that these must
    carry, or None for each backend's own host as it is configured.  With *data* the data
    connections are protected too.
    """

    mode: Literal["off", "on", "explicit"] = "off"
    ca: Path | None = None
    name: str | None = None
    data: bool = True


@dataclass(frozen=True)
class FTPConfig:
    """FTP's own.

    *passive_ports* are the first and the last one.  *public_addresses* (an IPv4 address or a
    name, by the name of the gateway, "" for every other) stand in answers to PASV, instead of the
    address that the client reached.  Members of the networks *peers* may open data connections
    beside the client itself.  With *pass_through* nothing is opened, TLS goes from the client to
    the server, and each of *passive_ports* leads to the server's port of the same number.
    """

    passive_ports: tuple[int, int]
    tls: Wish
    data_tls: Wish
    public_addresses: Mapping[str, str] = field(default_factory=dict)
    peers: tuple[str, ...] = ()
    active_source_port: int = 0
    session_reuse: Literal["prefer", "require"] = "prefer"
    truncated: Literal["refuse", "accept"] = "refuse"
    telnet: bool = True
    backend_mode: Literal["passive", "active"] = "passive"
    pass_through: bool = False

    def public_address(self, gateway: str) -> str | None:
        """What to advertise to who came through *gateway*; None is the address it reached."""
        return self.public_addresses.get(gateway) or self.public_addresses.get("")


_SPAN = re.compile(r"([1-9][0-9]{3,4})-([1-9][0-9]{3,4})")


def _ports(value: object) -> tuple[int, int]:
    match = _SPAN.fullmatch(text_of(value))
    if match is None:
        raise ValueError
    first, last = int(match[1]), int(match[2])
    if not 1024 <= first <= last <= 65535:
        raise ValueError("it begins at 1024 at least, and ends at 65535 at most")
    return first, last


def network(value: object) -> str:
    """Return the IP network that *value* is, in its one form; raises ValueError."""
    text = text_of(value)
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        # Python's words repeat the text.
        raise ValueError from None


def _public(value: object) -> str:
    host = host_name(text_of(value))
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host
    if address.version != 4:
        raise ValueError("the answer to PASV has room for an IPv4 address alone")
    if address.is_unspecified or address.is_multicast:
        raise ValueError("no client can connect there")
    return host


PORTS = Value('a range of ports from 1024 on, as in "30000-30999"', _ports)

_PUBLIC = Value('an IPv4 address or a name, as in "203.0.113.7"', _public)


@dataclass(frozen=True)
class _PerGateway:
    """One address for all gateways, or a table with one for each, by the gateway's name."""

    item: Value

    def read(self, reader: Reader, where: str, value: object) -> Any:
        """Return a dict by gateway; "" stands for all."""
        if not isinstance(value, Mapping):
            meaning = self.item.read(reader, where, value)
            return None if meaning is None else {"": meaning}
        found = {
            name: self.item.read(reader, f"{where}.{name}", raw) for name, raw in value.items()
        }
        return {name: address for name, address in found.items() if address is not None}

    def missing(self, reader: Reader, where: str, *, required: bool) -> Any:
        """Leave it to the default."""


PER_GATEWAY = _PerGateway(_PUBLIC)

_PAIR = (Key("certificate", PATH, required=True), Key("key", PATH, required=True))
SERVICE_TLS = Section((*_PAIR, Key("more", Tables(Table(_PAIR), 64, unique=()))))

BACKEND_TLS = Section(
    (
        Key("mode", choice("off", "on", "explicit"), required=True),
        Key("ca", PATH),
        Key("name", Value("a DNS name or an IP address", lambda v: host_name(text_of(v)))),
        Key("data", flag()),
    )
)

FTP = Section(
    (
        Key(
            "passive_ports",
            PORTS,
            required=True,
        ),
        Key("public_address", PER_GATEWAY, field="public_addresses"),
        Key(
            "peers",
            ListOf(Value('a network, as in "198.51.100.0/24"', network), "networks", _MAX_PEERS),
        ),
        Key("active_source_port", integer(0, 65535)),
        Key("tls", choice("off", "allow", "require")),
        Key("data_tls", choice("off", "allow", "require")),
        Key("session_reuse", choice("prefer", "require")),
        Key("truncated", choice("refuse", "accept")),
        Key("telnet", flag()),
        Key("backend_mode", choice("passive", "active")),
        Key("pass_through", flag()),
    )
)


def check_ftp(reader: Reader, where: str, fields: dict[str, Any]) -> None:
    """Note what does not go together in one service, which reads as *fields*."""
    protocol = fields.get("protocol")
    if protocol is None:
        return
    if protocol != "https" and "more" in fields.get("tls", ()):
        reader.wrong(f"{where}.tls.more", f'only a service of "https" has it, not "{protocol}"')
    if protocol not in FTP_PROTOCOLS:
        for name in ("tls", "backend_tls", "ftp"):
            if name in fields and (name, protocol) != ("tls", "tls"):
                words = (*FTP_PROTOCOLS, "tls") if name == "tls" else FTP_PROTOCOLS
                only = " or ".join(f'"{word}"' for word in words)
                reader.wrong(
                    f"{where}.{name}", f'only a service of {only} has it, not "{protocol}"'
                )
        return
    if "ftp" not in fields:
        reader.wrong(
            f"{where}.ftp", f'missing, expected a table with passive_ports for "{protocol}"'
        )
    if fields.get("ftp", {}).get("pass_through"):
        _check_passing(reader, where, fields)
        return
    _check_clients(reader, where, protocol, fields)
    _check_backends(reader, where, fields.get("backend_tls", {"mode": "off"}))


def _check_passing(reader: Reader, where: str, fields: dict[str, Any]) -> None:
    for name in ("tls", "backend_tls"):
        if name in fields:
            reader.wrong(f"{where}.{name}", "nothing ends TLS where ftp.pass_through is true")
    for name in fields["ftp"].keys() - {"passive_ports", "peers", "pass_through"}:
        shown = "public_address" if name == "public_addresses" else name
        reader.wrong(f"{where}.ftp.{shown}", "the server's own affair with pass_through")
    first, last = fields["ftp"].get("passive_ports", (1, 1))
    if last - first >= MAX_MAPPED:
        reader.wrong(
            f"{where}.ftp.passive_ports",
            f"expected {MAX_MAPPED} ports at most with pass_through, found {last - first + 1}",
        )
    peers = fields["ftp"].get("peers", ())
    if len(peers) > MAX_MAPPED_PEERS:
        reader.wrong(
            f"{where}.ftp.peers",
            f"expected {MAX_MAPPED_PEERS} networks at most with pass_through, found {len(peers)}",
        )
    # A data connection says nothing of the session that it belongs to, but whose client it is.
    if len(fields.get("backends", ())) > 1 and fields.get("balance") not in ("failover", "source"):
        reader.wrong(
            f"{where}.balance",
            'expected "failover" or "source" for more than one backend with pass_through',
        )


def _check_clients(reader: Reader, where: str, protocol: str, fields: dict[str, Any]) -> None:
    ftp = fields.get("ftp", {})
    if "tls" not in fields:
        if protocol == "ftps":
            reader.wrong(
                f"{where}.tls", 'missing, expected certificate and key: "ftps" begins with TLS'
            )
        for name in ("tls", "data_tls"):
            found = ftp.get(name, "off")
            if found != "off":
                reader.wrong(
                    f"{where}.ftp.{name}", f'expected "off" without [service.tls], found "{found}"'
                )
        return
    tls = ftp.get("tls", _default_tls(protocol, secure=True))
    if protocol == "ftps" and tls != "require":
        reader.wrong(f"{where}.ftp.tls", f'expected "require" for "ftps", found "{tls}"')
    elif tls == "off":
        reader.wrong(
            f"{where}.ftp.tls", 'expected "allow" or "require" with [service.tls], found "off"'
        )
    if fields.get("channel") == "always":
        reader.wrong(
            f"{where}.channel",
            'expected "auto" or "never" with [service.tls], found "always" (a channel carries the '
            "client's own TLS, and nothing twice)",
        )


def _check_backends(reader: Reader, where: str, backend: dict[str, Any]) -> None:
    mode = backend.get("mode")
    if mode == "off":
        for name in ("ca", "name", "data"):
            if name in backend:
                reader.wrong(
                    f"{where}.backend_tls.mode",
                    f'expected "on" or "explicit" with {name}, found "off"',
                )
    elif mode is not None and "ca" not in backend:
        reader.wrong(f"{where}.backend_tls.ca", "missing, expected a path")


def _default_tls(protocol: str, *, secure: bool) -> Wish:
    if protocol == "ftps":
        return "require"
    return "allow" if secure else "off"


def _files(pair: dict[str, Path], folder: Path) -> KeyFiles:
    return KeyFiles(folder / pair["certificate"], folder / pair["key"])


def ftp_fields(fields: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return a service's *fields* with their sections built; paths count from *folder*."""
    built = dict(fields)
    if "tls" in fields:
        tls = dict(fields["tls"])
        more = tuple(_files(pair, folder) for pair in tls.pop("more", ()))
        built["tls"] = replace(_files(tls, folder), more=more)
    if "backend_tls" in fields:
        backend = dict(fields["backend_tls"])
        if "ca" in backend:
            backend["ca"] = folder / backend["ca"]
        built["backend_tls"] = BackendTLSConfig(**backend)
    if "ftp" in fields:
        ftp = dict(fields["ftp"])
        tls = ftp.setdefault("tls", _default_tls(fields["protocol"], secure="tls" in fields))
        ftp.setdefault("data_tls", tls)
        built["ftp"] = FTPConfig(**ftp)
    return built
