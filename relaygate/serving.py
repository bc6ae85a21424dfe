"""The backends of a service, and how they are watched, as its configuration has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from relaygate.addresses import HostPort
from relaygate.backends import Backends
from relaygate.balance import Group, Member, Persistence
from relaygate.config import BackendConfig, ServiceConfig
from relaygate.marks import CheckRule, Health, MarkRule
from relaygate.protocols.probes import FTPProbe, HTTPProbe, Probe, SSHProbe
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
        probe=_probe_maker(config),
        interval_s=None if health.check == "none" else health.interval_s,
        timeout_s=health.timeout_s,
        header=LOCAL[config.proxy_protocol],
        tls=tls if config.backend_tls.mode == "on" else lambda: None,
    )


def _probe_maker(config: ServiceConfig) -> Callable[[HostPort], Probe]:
    health = config.health
    # Where no check is asked for, one that went out is asked in its protocol's own words.
    own = {"ssh": "ssh", "ftp": "ftp", "ftps": "ftp"}.get(config.protocol, "connect")
    kind = own if health.check == "none" else health.check
    if kind == "http":
        return lambda backend: HTTPProbe(
            health.http_host or str(backend), health.http_path, health.http_status
        )
    return {"ssh": lambda _: SSHProbe(), "ftp": lambda _: FTPProbe()}.get(kind, lambda _: Probe())
