"""``relaygate doctor``, the middle: what the running node says, and what its DMZ nodes tell it."""

from __future__ import annotations

import argparse
import ipaddress
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from relaygate.addresses import HostPort
from relaygate.cli.findings import Finding
from relaygate.cli.node import NodeError, ask, reading
from relaygate.cli.shown import lasting
from relaygate.config import ServiceConfig

__all__ = ["node_findings"]

# Certificates are valid from five minutes before they were made; more than that stops one.
_MAX_SKEW_S = 60.0

Ask = Callable[[dict[str, Any]], dict[str, Any]]


def node_findings(
    services: tuple[ServiceConfig, ...], admin_socket: Path | None
) -> Iterator[Finding]:
    """All that only a node that runs can say, by its socket."""

    def asked(request: dict[str, Any]) -> dict[str, Any]:
        return ask(argparse.Namespace(config=None, socket=admin_socket), request)

    if admin_socket is None:
        yield Finding(
            "node",
            "running node",
            "skipped",
            "the file has no [admin] socket, so a node that runs cannot be asked",
            'add [admin] socket = "/run/relaygate/internal.sock" and start it again',
        )
        return
    try:
        status = asked({"command": "status"})
    except NodeError as error:
        yield Finding(
            "node",
            "running node",
            "bad",
            str(error),
            "start it (systemctl start relaygate-internal), and ask as its user or root; if it "
            "runs, its log says why it has no socket",
        )
        return
    try:
        with reading():
            yield from _told(status, services, asked)
    except NodeError as error:
        yield Finding("node", "running node", "bad", str(error), "start it again, then ask again")


def _told(
    status: dict[str, Any], services: tuple[ServiceConfig, ...], asked: Ask
) -> Iterator[Finding]:
    """What *status* says, and what is asked for because of that."""
    seen = f'"{status["node"]}" has run for {lasting(status["uptime_seconds"])}'
    yield Finding("node", "running node", "ok", f"{seen}, {status['software']}")
    kinds = sorted({kind for service in services for kind in service.channel_kinds})
    for gateway in status["gateways"]:
        yield from _gateway(gateway, status, services, kinds, asked)
    published = {each["name"] for each in status["services"]}
    for service in services:
        if service.name not in published:
            yield Finding(
                "node",
                f"service {service.name}",
                "bad",
                "it stands in the file, and the running node does not know it",
                "relaygate reload, and look for what it says of the file",
            )


def _gateway(
    gateway: dict[str, Any],
    status: dict[str, Any],
    services: tuple[ServiceConfig, ...],
    kinds: list[bool],
    asked: Ask,
) -> Iterator[Finding]:
    name = gateway["name"]
    what = f"gateway {name}"
    if gateway["state"] == "down":
        yield Finding(
            "uplink",
            what,
            "bad",
            f"down: {gateway['last_failure'] or 'it is being dialled'}",
            "the lines about tcp and tls say where it ends; else the DMZ node's log does",
        )
        return
    report = gateway["report"]
    yield Finding("uplink", what, "ok", f"up for {lasting(gateway['up_seconds'])}")
    if report is not None:
        yield _versions(what, report["software"], status["software"])
        if report["draining"]:
            yield Finding(
                "uplink",
                what,
                "note",
                "it drains: no new sessions",
                "it was told to end (SIGTERM) and waits for its last session: start it again then",
            )
        listening = {each["service"] for each in report["listeners"]}
        for service in services:
            yield _listener(service, name, gateway["refused"], listening)
    for tls in kinds:
        yield from _channel(what, name, tls, asked, clock=tls is kinds[0])
    for service in services:
        if service.ftp is not None:
            yield from _passive(service, name, asked)


def _versions(what: str, theirs: str, ours: str) -> Finding:
    if theirs == ours:
        return Finding("versions", what, "ok", f"{ours} on both sides")
    return Finding(
        "versions",
        what,
        "note",
        f"{theirs} there, {ours} here: they work together within a major version",
        "bring both to the newer one when it suits",
    )


def _listener(
    service: ServiceConfig, gateway: str, refused: dict[str, str], listening: set[str]
) -> Finding:
    what = f"service {service.name} on {gateway}"
    if service.name in refused:
        reason = refused[service.name]
        if "polic" in reason or "permit" in reason:
            cure = f'add "{service.listen}" to policy.listen of its dmz.toml, and reload it'
        elif "use" in reason:
            cure = f"find out who has {service.listen} there (ss -ltnp), or choose another address"
        elif "Permission" in reason or "capab" in reason.lower():
            cure = "a port below 1024 needs CAP_NET_BIND_SERVICE: use the unit in etc/"
        else:
            cure = "see the DMZ node's log"
        return Finding("policy", what, "bad", f"refused: {reason}", cure)
    if service.name in listening:
        return Finding("policy", what, "ok", f"it listens on {service.listen}")
    return Finding(
        "policy",
        what,
        "bad",
        "the DMZ node has no such listener",
        "is it drained, or was the file changed since? relaygate reload",
    )


def _channel(what: str, name: str, tls: bool, asked: Ask, *, clock: bool) -> Iterator[Finding]:
    """A message on a data channel and back; with *clock* also what its answer says of the time."""
    kind = "tls" if tls else "clear"
    try:
        answer = asked({"command": "probe", "gateway": name, "channel": kind})
    except NodeError as error:
        yield Finding(
            "channel",
            what,
            "note" if "unknown command" in str(error) else "bad",
            str(error),
            "an older DMZ node cannot be asked; else see its log",
        )
        return
    ahead = answer["clock_ahead_seconds"]
    if clock and abs(ahead) > _MAX_SKEW_S:
        yield Finding(
            "clock",
            what,
            "bad",
            f"its clock is {abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} ours",
            "set both by NTP (timedatectl): certificates end too early or begin too late",
        )
    elif clock:
        yield Finding("clock", what, "ok", f"{abs(ahead):.1f} s apart")
    if answer["channel_seconds"] is None:
        yield Finding(
            "channel",
            what,
            "bad",
            f"no data channel ({kind}) came within 3 s, though the uplink stands",
            "a firewall between may let in TLS alone (clear channels begin with RLGC), or few "
            "connections at once; the node's log says why its dials fail",
        )
        return
    yield Finding(
        "channel",
        what,
        "ok",
        f"there and back on a {kind} data channel in {answer['channel_seconds'] * 1000:.1f} ms",
    )


def _passive(service: ServiceConfig, gateway: str, asked: Ask) -> Iterator[Finding]:
    """The passive ports as the DMZ node sees them, and the address that clients are told."""
    assert service.ftp is not None
    what = f"service {service.name} on {gateway}"
    first, last = service.ftp.passive_ports
    request = {"command": "probe", "gateway": gateway, "channel": "clear"}
    host = service.listen.host
    try:
        answer = asked({**request, "host": host, "first": first, "last": last})
    except NodeError:
        return  # the line about the channel says it
    wanted = last - first + 1
    if not answer["permitted"]:
        yield Finding(
            "passive",
            what,
            "bad",
            f"its policy permits none of the ports {first}-{last} on {host}",
            f'add "{_with_ports(host, first, last)}" to policy.listen of its dmz.toml',
        )
    elif not answer["free"]:
        yield Finding(
            "passive",
            what,
            "bad",
            f"none of the ports {first}-{last} is free there",
            "choose another range (service.ftp.passive_ports), or end who has them (ss -ltnp)",
        )
    elif answer["permitted"] < wanted or answer["free"] < answer["looked"]:
        yield Finding(
            "passive",
            what,
            "note",
            f"of {wanted} ports {answer['permitted']} are permitted, and of {answer['looked']} "
            f"tried {answer['free']} are free",
            "data connections that run take ports; else permit the whole range",
        )
    else:
        yield Finding("passive", what, "ok", f"ports {first}-{last} can be opened")
    if answer.get("lent"):
        yield Finding(
            "passive",
            what,
            "note",
            f"{answer['lent']} of the ports {first}-{last} the system there lends to connections "
            "that go out, so they are taken now and then",
            f'on the DMZ node: sysctl net.ipv4.ip_local_reserved_ports="{first}-{last}", beside '
            "what it has already; or a range below net.ipv4.ip_local_port_range",
        )
    public = service.ftp.public_address(gateway)
    if public is not None:
        yield _public(what, public, request, asked)


def _public(what: str, public: str, request: dict[str, Any], asked: Ask) -> Finding:
    what = f"{what}, public_address"
    if HostPort(public, 1).literal is None:
        return Finding("passive", what, "note", f"{public} is looked up when a client asks", "")
    address = ipaddress.ip_address(public)
    try:
        own = asked({**request, "host": public, "first": 1, "last": 1})["own"]
    except NodeError:
        own = False
    if own:
        return Finding("passive", what, "ok", f"{public} is an address of the DMZ node")
    if not address.is_global:
        return Finding(
            "passive",
            what,
            "bad",
            f"{public} is not an address of the DMZ node, and none of the Internet",
            "set it to the address that partners dial (outside of any address translation)",
        )
    return Finding(
        "passive",
        what,
        "note",
        f"{public} is not an address of the DMZ node itself",
        "right if the firewall before it translates; else partners cannot open data connections",
    )


def _with_ports(host: str, first: int, last: int) -> str:
    return f"[{host}]:{first}-{last}" if ":" in host else f"{host}:{first}-{last}"
