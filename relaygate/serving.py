"""
The backends of a service, how they are watched, and what is declared of it, as its configuration
has it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from relaygate.addresses import HostPort
from relaygate.backends import Backends
from relaygate.balance import Group, Member, Persistence
from relaygate.config import BackendConfig, ServiceConfig
from relaygate.marks import CheckRule, Health, MarkRule
from relaygate.protocols.healthchecks import FTPCheck, HealthCheck, HTTPCheck, SSHCheck
from relaygate.protocols.proxyheader import LOCAL
from relaygate.servicetls import BackendTLS
from relaygate.watch import Checks


def make_backends(config: ServiceConfig, chosen: Sequence[HostPort], reactor: Any) -> Backends:
    """The *chosen* backends, its own or a route's, of the service that *config* describes."""
    persistence = None
    if config.persistence is not None and config.persistence.by == "source":
        persistence = Persistence(config.persistence.ttl_s)
    group: Group[HostPort] = Group(config.balance, persistence)
    health = config.health
    for rank, backend in enumerate(chosen):
        own = backend if isinstance(backend, BackendConfig) else BackendConfig(*_end(backend))
        target = HostPort(*_end(backend))
        member = Member(target, str(target), own.weight, own.backup, rank)
        member.health = Health(
            MarkRule(health.failures, health.within_s), CheckRule(health.rise, health.fall)
        )
        group.members.append(member)
    return Backends(config.name, group, reactor)


def _end(backend: HostPort) -> tuple[str, int]:
    return backend.host, backend.port


def make_checks(config: ServiceConfig, tls: Callable[[], BackendTLS | None]) -> Checks:
    """How they are looked at; *tls* is how they are spoken to where they speak TLS at once."""
    health = config.health
    return Checks(
        make=_check_maker(config),
        interval_s=None if health.check == "none" else health.interval_s,
        timeout_s=health.timeout_s,
        header=LOCAL[config.proxy_protocol],
        tls=tls if config.backend_tls.mode == "on" else lambda: None,
    )


def _check_maker(config: ServiceConfig) -> Callable[[HostPort], HealthCheck]:
    health = config.health
    # Where no check is asked for, one that went out is asked in its protocol's own words.
    own = {"ssh": "ssh", "ftp": "ftp", "ftps": "ftp"}.get(config.protocol, "connect")
    kind = own if health.check == "none" else health.check
    if kind == "http":
        return lambda backend: HTTPCheck(
            health.http_host or str(backend), health.http_path, health.http_status
        )
    kinds = {"ssh": SSHCheck, "ftp": FTPCheck}
    return lambda _: kinds.get(kind, HealthCheck)()


def _node_persistence(config: ServiceConfig) -> int:
    """Seconds for which clients keep their node: what a cookie says, only the inside can read."""
    persistence = config.persistence
    return int(persistence.ttl_s) if persistence and persistence.by == "source" else 0


def declared(config: ServiceConfig) -> dict[str, Any]:
    """The record of a service that :class:`relaygate.commands.Declare` has."""
    return {
        "name": config.name,
        "protocol": config.protocol,
        "host": config.listen.host,
        "port": config.listen.port,
        "tls_channel": config.tls_channel,
        "max_sessions": config.max_sessions,
        "max_sessions_per_address": config.max_sessions_per_address,
        "balance": config.node_balance,
        "persistence": _node_persistence(config),
        "max_rate": config.max_rate,
        "max_rate_per_address": config.max_rate_per_address,
        "allow": config.allow,
        "deny": config.deny,
        **_declared_mapping(config),
    }


def _declared_mapping(config: ServiceConfig) -> dict[str, Any]:
    if config.ftp is None or config.mapped is None:
        return {}
    return {
        # A name of its own: a DMZ node that knows no mapping refuses it, and says so.
        "protocol": f"{config.protocol}-mapped",
        "map_first": config.mapped[0],
        "map_last": config.mapped[1],
        "map_peers": " ".join(config.ftp.peers),
        "map_tls": config.mapped_tls,
    }
