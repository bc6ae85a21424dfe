"""What a service's configuration becomes: all that its sessions share, with its files read."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from relaygate.admission import Caps
from relaygate.clocks import time_of_day
from relaygate.config import ServiceConfig
from relaygate.ftpservice import ftp_settings
from relaygate.guard import Guard
from relaygate.httpservice import use_http
from relaygate.keeper import Keeper
from relaygate.servicekeys import ServiceFiles, load_service_files
from relaygate.services import Service
from relaygate.serving import make_backends, make_checks


def make_service(
    config: ServiceConfig, guard: Guard, reactor: Any
) -> tuple[Service, Keeper[ServiceFiles] | None]:
    """
    A service of *config*, and what keeps its files; nothing is changed yet.

    *guard* is told of clients who do not behave.  Raises
    :class:`relaygate.identity.IdentityError` or :class:`OpenSSL.SSL.Error`.
    """
    service = _bare(config, reactor)
    service.guard = guard
    own = (config.tls.certificate, config.tls.key) if config.tls else ()
    more = config.tls.more_pairs if config.tls else ()
    others = (path for pair in more for path in pair)
    cookie_key = config.http.cookie_key if config.http else None
    wanted = (*own, *others, config.backend_tls.ca, cookie_key)
    paths = tuple(path for path in wanted if path)
    if not paths:
        return service, None

    def load(now: datetime) -> ServiceFiles:
        ca = config.backend_tls.ca
        return load_service_files(config.name, own, ca, now=now, more=more, cookie_key=cookie_key)

    files = load(datetime.fromtimestamp(time_of_day(reactor), UTC))
    service.use_files(files)
    return service, Keeper("service's TLS", files, load, service.use_files, paths, reactor)


def _bare(config: ServiceConfig, reactor: Any) -> Service:
    """The service without what is in files."""
    service = Service(
        config.name,
        config.protocol,
        make_backends(config, config.backends, reactor),
        Caps(config.max_sessions, config.max_sessions_per_address),
        config.idle_timeout_s,
        ftp_settings(config, config.ftp, reactor) if config.ftp and not config.mapped else None,
        config.backend_tls.name,
        config.mapped,
        config.mapped_tls,
    )
    service.allow, service.deny = config.allow, config.deny
    service.proxy_protocol = config.proxy_protocol
    service.when_down = config.health.when_down
    service.checks = make_checks(config, lambda: service.backend_tls)
    if config.http is not None:
        use_http(service, config, config.http, reactor)
    return service
