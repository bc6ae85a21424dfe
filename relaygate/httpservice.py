"""What an HTTP service's configuration means to its sessions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from ipaddress import ip_network
from typing import Any

from relaygate.addresses import HostPort
from relaygate.backends import Backends
from relaygate.config import HTTPConfig, ServiceConfig
from relaygate.helloopening import PassThrough
from relaygate.httppool import BackendPool
from relaygate.httpsettings import HTTPLimits, HTTPSettings
from relaygate.protocols.httpeffects import HTTPPolicy
from relaygate.protocols.httpfields import FieldPolicy
from relaygate.protocols.httphead import HeadLimits
from relaygate.protocols.httptarget import Route, Routes
from relaygate.services import Service
from relaygate.servicetls import BackendTLS
from relaygate.serving import make_backends
from relaygate.stickiness import COOKIE, StickyCookie

_DEFAULT_PORTS = {b"http": 80, b"https": 443}


def use_http(service: Service, config: ServiceConfig, http: HTTPConfig, reactor: Any) -> None:
    """Give *service* what its sessions need for HTTP."""
    targets = [make_backends(config, route.backends, reactor) for route in http.routes]
    if not _opened(config):
        service.passing = _pass_through(http, service.backends, targets)
        return
    service.http = _http_settings(
        config,
        http,
        service.backends,
        targets,
        reactor,
        lambda: service.backend_tls,
        lambda: service.sticky,
    )
    if config.persistence is not None and config.persistence.by == "cookie":
        service.cookie_ttl_s = config.persistence.ttl_s


def _opened(config: ServiceConfig) -> bool:
    """Whether the service's HTTP is read here, and not passed on unopened."""
    return config.protocol == "http" or (config.protocol == "https" and config.tls is not None)


def _pass_through(http: HTTPConfig, default: Backends, targets: Sequence[Backends]) -> PassThrough:
    """The settings of a service whose TLS is passed through."""
    return PassThrough(_routes(http), targets, default, http.strict_hosts, http.minimum_tls)


def _http_settings(
    config: ServiceConfig,
    http: HTTPConfig,
    default: Backends,
    targets: Sequence[Backends],
    reactor: Any,
    tls: Callable[[], BackendTLS | None],
    cookie: Callable[[], StickyCookie | None],
) -> HTTPSettings:
    """The settings of a service whose HTTP is read here."""
    backend_scheme = b"https" if config.backend_tls.mode == "on" else b"http"
    policy = HTTPPolicy(
        limits=HeadLimits(http.max_header_bytes, http.max_uri, http.max_headers),
        fields=FieldPolicy(
            server={"pass": None, "hide": b""}.get(http.server, http.server.encode()),
            via=http.via.encode(),
            hidden=frozenset(name.encode() for name in http.hide),
            trusted=tuple(ip_network(each) for each in http.trusted_proxies),
            underscores=http.underscores,
        ),
        max_body=http.max_body,
        max_requests=http.max_requests,
        upgrades=tuple(each.encode() for each in http.upgrades),
        strict_hosts=http.strict_hosts,
        cookie=COOKIE if config.persistence and config.persistence.by == "cookie" else b"",
    )
    return HTTPSettings(
        policy=policy,
        routes=_routes(http),
        targets=targets,
        default=default,
        limits=HTTPLimits(
            header_s=http.header_timeout_s,
            keepalive_s=http.keepalive_timeout_s,
            continue_s=http.continue_timeout_s,
            response_s=http.response_timeout_s,
            as2_response_s=http.receipt_timeout_s,
            body_rate=http.body_min_rate,
        ),
        scheme=b"https" if config.tls else b"http",
        backend_scheme=backend_scheme,
        inside=_inside(config, http, _DEFAULT_PORTS[backend_scheme]),
        pool=BackendPool(reactor, tls),
        cookie=cookie,
        log_query=http.log_query,
    )


def _routes(http: HTTPConfig) -> Routes:
    return Routes([Route(route.hosts, route.path) for route in http.routes])


def _inside(config: ServiceConfig, http: HTTPConfig, default_port: int) -> frozenset[bytes]:
    """What the backends are called inside: in redirects it becomes the name that clients use."""
    backends = [*config.backends, *(each for route in http.routes for each in route.backends)]
    names = {str(HostPort(each.host, each.port)): each.port for each in backends}
    short = {name.rpartition(":")[0] for name, port in names.items() if port == default_port}
    return frozenset(name.encode() for name in {*names, *short})
