"""What ``relaygate init`` is told, and keeps in ``deployment.json``: nodes, services, entries.

Pure values.  A deployment grows: what is named again in the same way changes nothing, and what is
named again in another way is a mistake, because a running node has it already.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

from relaygate.addresses import HostPort, ListenRule, canonical_name, host_name, service_name
from relaygate.cli.units import PREFIX
from relaygate.destinations import DestinationRule

__all__ = [
    "PASSIVE_PORTS",
    "Deployment",
    "DeploymentError",
    "Entry",
    "Gateway",
    "Inside",
    "Published",
]

FORMAT = 1
PASSIVE_PORTS = "30000-30099"
LEAST_PASSIVE = 1024
FTP = ("ftp", "ftps")
# Their clients' TLS ends on the internal node.  HTTPS that is to pass unopened is "tls".
OPENED_INSIDE = (*FTP, "https")
# Entries that lead to one server.
FIXED = ("ftp", "tcp")


class DeploymentError(Exception):
    """What was asked for cannot be; one line for people."""


@dataclass(frozen=True)
class Gateway:
    """A DMZ node: its name, and where internal nodes reach it."""

    name: str
    address: str

    @classmethod
    def parse(cls, text: str, default: str) -> Gateway:
        """Read ``[NAME=]HOST:PORT``; raises DeploymentError."""
        name, equals, address = text.rpartition("=")
        try:
            return cls(canonical_name(name if equals else default), str(HostPort.parse(address)))
        except ValueError as error:
            raise DeploymentError(
                f"--gateway {text[:80]!r}: expected [NAME=]HOST:PORT, as in 192.0.2.10:7443"
                f" ({error})"
            ) from error

    @property
    def listen(self) -> str:
        """Where it listens for uplinks: a name may be the firewall's, so any address then."""
        address = HostPort.parse(self.address)
        return self.address if address.literal is not None else f"0.0.0.0:{address.port}"


@dataclass(frozen=True)
class Inside:
    """An internal node: its name, and the address that it dials from, "" if that is not known."""

    name: str
    address: str = ""

    @classmethod
    def parse(cls, text: str) -> Inside:
        """Read ``NAME[=ADDRESS]``; raises DeploymentError."""
        name, _, address = text.partition("=")
        try:
            if address and HostPort(address, 1).literal is None:
                raise ValueError("no IP address")
            return cls(canonical_name(name), address)
        except ValueError as error:
            raise DeploymentError(
                f"--node {text[:80]!r}: expected NAME or NAME=ADDRESS, as in node-a ({error})"
            ) from error


def _parts(text: str, host: str) -> tuple[str, str, str, list[str]]:
    """
    Divide ``NAME=PROTOCOL,[HOST:]PORT,PLACE[,PLACE...]``; *host* is for a port alone.

    Raises :class:`ValueError`.
    """
    name, _, rest = text.partition("=")
    protocol, *places = rest.split(",")
    if len(places) < 2:
        raise ValueError("a part is missing")
    listen = places[0] if ":" in places[0] else f"{host}:{places[0]}"
    return name, protocol, listen, places[1:]


@dataclass(frozen=True)
class Published:
    """A service, as the configuration has it."""

    name: str
    protocol: str
    listen: str
    backends: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Published:
        """Read ``NAME=PROTOCOL,[HOST:]PORT,BACKEND[,BACKEND...]``; raises DeploymentError."""
        try:
            # Partners come from anywhere.
            name, protocol, listen, backends = _parts(text, "0.0.0.0")  # noqa: S104
            return cls(
                service_name(name),
                protocol,
                str(HostPort.parse(listen, numeric=True)),
                tuple(str(HostPort.parse(each)) for each in backends),
            )
        except ValueError as error:
            raise DeploymentError(
                f"--service {text[:80]!r}: expected NAME=PROTOCOL,PORT,BACKEND, as in "
                f"sftp=ssh,22,sftp.private.example:22 ({error})"
            ) from error

    @property
    def opened(self) -> bool:
        """Whether its clients' TLS ends on the internal node, so that it has a certificate."""
        return self.protocol in OPENED_INSIDE

    @property
    def ftp(self) -> bool:
        """Whether it has data connections, and so ports for them."""
        return self.protocol in FTP


@dataclass(frozen=True)
class Entry:
    """What programs inside connect to in order to get out: a ``[[forward]]`` of the file."""

    name: str
    protocol: str
    listen: str
    destinations: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Entry:
        """Read ``NAME=PROTOCOL,[HOST:]PORT,DESTINATION[,...]``; raises DeploymentError."""
        try:
            name, protocol, listen, destinations = _parts(text, "127.0.0.1")
            if protocol in FIXED and len(destinations) > 1:
                raise ValueError(f'"{protocol}" leads to one server')
            read = HostPort.parse if protocol in FIXED else DestinationRule.parse
            return cls(
                service_name(name),
                protocol,
                str(HostPort.parse(listen, numeric=True)),
                tuple(str(read(each)) for each in destinations),
            )
        except ValueError as error:
            raise DeploymentError(
                f"--entry {text[:80]!r}: expected NAME=PROTOCOL,PORT,DESTINATION, as in "
                f"out=socks5,1080,sftp.partner.example:22 ({error})"
            ) from error

    @property
    def fixed(self) -> bool:
        """Whether it leads to one server."""
        return self.protocol in FIXED

    @property
    def open_to_others(self) -> bool:
        """Whether other machines than the node's own reach it."""
        literal = HostPort.parse(self.listen).literal
        return literal is not None and not literal.is_loopback


@dataclass(frozen=True)
class Deployment:
    """All of it.  *files* has the SHA-256 of each file as it was written, by its path."""

    gateways: tuple[Gateway, ...] = ()
    nodes: tuple[Inside, ...] = ()
    services: tuple[Published, ...] = ()
    entries: tuple[Entry, ...] = ()
    # Networks whose programs may use entries that other machines reach.
    entry_allow: tuple[str, ...] = ()
    public_address: str = ""
    passive_ports: str = PASSIVE_PORTS
    prefix: str = PREFIX
    files: tuple[tuple[str, str], ...] = ()

    @classmethod
    def load(cls, text: str) -> Deployment:
        """Read what :meth:`dump` wrote; raises DeploymentError."""
        try:
            values = json.loads(text)
            if values.pop("format") != FORMAT:
                raise ValueError("of another version")
            return cls(
                gateways=tuple(Gateway(**row) for row in values.pop("gateways")),
                nodes=tuple(Inside(**row) for row in values.pop("nodes")),
                services=tuple(
                    Published(**{**row, "backends": tuple(row["backends"])})
                    for row in values.pop("services")
                ),
                entries=tuple(
                    Entry(**{**row, "destinations": tuple(row["destinations"])})
                    for row in values.pop("entries", ())
                ),
                entry_allow=tuple(values.pop("entry_allow", ())),
                files=tuple(sorted(values.pop("files").items())),
                **values,
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DeploymentError(f"deployment.json cannot be read ({error})") from error

    def dump(self) -> str:
        """The text of ``deployment.json``."""
        values: dict[str, Any] = {"format": FORMAT, **dataclasses.asdict(self)}
        values["files"] = dict(self.files)
        return json.dumps(values, indent=2) + "\n"

    def grown(
        self,
        gateways: tuple[Gateway, ...],
        nodes: tuple[Inside, ...],
        services: tuple[Published, ...],
        entries: tuple[Entry, ...] = (),
    ) -> Deployment:
        """This one and what is new; raises DeploymentError for what is there and differs."""
        grown = dataclasses.replace(
            self,
            gateways=_merged("gateway", self.gateways, gateways),
            nodes=_merged("node", self.nodes, nodes),
            services=_merged("service", self.services, services),
            entries=_merged("entry", self.entries, entries),
        )
        names = [each.name for each in grown.gateways] + [each.name for each in grown.nodes]
        for name in names:
            if names.count(name) > 1 or name == "ca":
                raise DeploymentError(f"two nodes cannot be named {name!r}, nor one 'ca'")
        return grown

    def check(self) -> None:
        """Raise DeploymentError for what has to be there and is not."""
        for what, things in (
            ("--gateway HOST:PORT", self.gateways),
            ("--node NAME", self.nodes),
            (
                "--service NAME=PROTOCOL,PORT,BACKEND or --entry NAME=PROTOCOL,PORT,DESTINATION",
                (*self.services, *self.entries),
            ),
        ):
            if not things:
                raise DeploymentError(f"{what} is needed at least once")
        for entry in self.entries:
            if entry.open_to_others and not self.entry_allow:
                raise DeploymentError(
                    f"--entry-allow NETWORK is needed: other machines reach the entry "
                    f"{entry.name!r} at {entry.listen}, and somebody has to be let in"
                )
        try:
            if ListenRule.parse(f"0.0.0.0:{self.passive_ports}").first < LEAST_PASSIVE:
                raise ValueError(f"below {LEAST_PASSIVE}")
        except ValueError as error:
            raise DeploymentError(
                f"--passive-ports: expected FIRST-LAST, as in 30000-30099 ({error})"
            ) from error
        if self.public_address:
            try:
                host_name(self.public_address)
            except ValueError as error:
                raise DeploymentError(f"--public-address: {error}") from error


def _merged(what: str, before: tuple[Any, ...], new: tuple[Any, ...]) -> tuple[Any, ...]:
    by_name = {each.name: each for each in before}
    for each in new:
        known = by_name.setdefault(each.name, each)
        if known != each:
            raise DeploymentError(
                f"there is a {what} {each.name!r} already, with other values: "
                "change it in the configuration files, and in deployment.json"
            )
    return tuple(by_name.values())
