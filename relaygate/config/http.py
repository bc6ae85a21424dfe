"""What a published HTTP service is told beside what every service is: routes, limits and names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from relaygate.addresses import AddressError, HostPort, host_name
from relaygate.config.balancing import BACKEND, check_backends
from relaygate.config.ftp import network
from relaygate.config.schema import Key, ListOf, Reader, Section, Table, Tables, Value
from relaygate.config.shared import PATH, choice, flag, integer, seconds, text_of

__all__ = [
    "HTTP",
    "HTTP_PROTOCOLS",
    "HTTPConfig",
    "RouteConfig",
    "check_http",
    "check_not_http",
    "http_fields",
]

HTTP_PROTOCOLS = ("http", "https")
_DAY_S = 24 * 3600
_TOKEN = re.compile(r"[-!#$%&'*+.^_`|~0-9A-Za-z]{1,64}")
_TEXT = re.compile(r"[ -~]{0,64}")
_PATH_PREFIX = re.compile(r"/[!-\"$->@-~]{0,255}")
# Those that only a service has that is opened.
_OPENED_ONLY = (
    "header_timeout",
    "keepalive_timeout",
    "continue_timeout",
    "response_timeout",
    "receipt_timeout",
    "body_min_rate",
    "max_header_bytes",
    "max_headers",
    "max_uri",
    "max_body",
    "max_requests",
    "server",
    "via",
    "hide",
    "upgrades",
    "trusted_proxies",
    "underscores",
    "log_query",
    "cookie_key",
)


@dataclass(frozen=True)
class RouteConfig:
    """
    What leads to other backends than the service's own: *hosts* (``*.`` may stand in front; none
    is every host) and the beginning of a *path*.
    """

    backends: tuple[HostPort, ...]
    hosts: tuple[str, ...] = ()
    path: str = "/"


@dataclass(frozen=True)
class HTTPConfig:
    """
    HTTP's own.

    *server* is "pass", "hide" or what stands there; *via* our name, "" for none.  *minimum_tls* is
    for TLS that is passed through.  *max_body* of 0 is none.
    """

    routes: tuple[RouteConfig, ...] = ()
    strict_hosts: bool = False
    minimum_tls: Literal["1.0", "1.2", "1.3"] = "1.0"
    header_timeout_s: float = 20.0
    keepalive_timeout_s: float = 60.0
    continue_timeout_s: float = 2.0
    response_timeout_s: float = 60.0
    receipt_timeout_s: float = 1800.0
    body_min_rate: int = 256
    max_header_bytes: int = 32 * 1024
    max_headers: int = 100
    max_uri: int = 8 * 1024
    max_body: int = 0
    max_requests: int = 1000
    server: str = "relaygate"
    via: str = "relaygate"
    hide: tuple[str, ...] = ("x-backend-server", "x-powered-by", "x-served-by")
    upgrades: tuple[str, ...] = ("websocket",)
    trusted_proxies: tuple[str, ...] = ()
    underscores: bool = False
    log_query: bool = False
    cookie_key: Path | None = None


def _host_pattern(value: object) -> str:
    text = text_of(value)
    star = "*." if text.startswith("*.") else ""
    try:
        return star + host_name(text.removeprefix("*."))
    except AddressError as error:
        raise ValueError(str(error)) from None


def _path_prefix(value: object) -> str:
    text = text_of(value)
    if not _PATH_PREFIX.fullmatch(text) or "/." in text:
        raise ValueError
    return text


def _word(value: object) -> str:
    text = text_of(value)
    if not _TEXT.fullmatch(text) or text != text.strip():
        raise ValueError
    return text


def _token(value: object) -> str:
    text = text_of(value)
    if not _TOKEN.fullmatch(text):
        raise ValueError
    return text.lower()


_NETWORK = Value('a network, as in "198.51.100.0/24"', network)

_ROUTE = Table(
    (
        Key(
            "hosts",
            ListOf(Value('a host, as in "a.example" or "*.a.example"', _host_pattern), "hosts", 64),
        ),
        Key("path", Value('the beginning of a path, as in "/as2"', _path_prefix)),
        Key("backends", ListOf(BACKEND, "backends", 64), required=True),
    )
)

HTTP = Section(
    (
        Key("route", Tables(_ROUTE, 256, unique=()), field="routes"),
        Key("strict_hosts", flag()),
        Key("minimum_tls", choice("1.0", "1.2", "1.3")),
        Key("header_timeout", seconds(1, _DAY_S), field="header_timeout_s"),
        Key("keepalive_timeout", seconds(1, _DAY_S), field="keepalive_timeout_s"),
        Key("continue_timeout", seconds(0, 600), field="continue_timeout_s"),
        Key("response_timeout", seconds(1, _DAY_S), field="response_timeout_s"),
        Key("receipt_timeout", seconds(1, _DAY_S), field="receipt_timeout_s"),
        Key("body_min_rate", integer(0, 1_000_000)),
        Key("max_header_bytes", integer(1024, 1024 * 1024)),
        Key("max_headers", integer(8, 1000)),
        Key("max_uri", integer(256, 64 * 1024)),
        Key("max_body", integer(0, 10**15)),
        Key("max_requests", integer(1, 1_000_000)),
        Key("server", Value('"pass", "hide" or a name', _word)),
        Key("via", Value("a name of one word, or nothing", lambda v: v and _token(v))),
        Key("hide", ListOf(Value("the name of a field", _token), "fields", 64)),
        Key("upgrades", ListOf(Value("the name of a protocol", _token), "protocols", 8)),
        Key("trusted_proxies", ListOf(_NETWORK, "networks", 64)),
        Key("underscores", flag()),
        Key("log_query", flag()),
        Key("cookie_key", PATH),
    )
)


def check_http(reader: Reader, where: str, fields: dict[str, Any]) -> None:
    """Note what does not go together in one HTTP service, which reads as *fields*."""
    protocol = fields["protocol"]
    opened = protocol == "http" or "tls" in fields
    if "ftp" in fields:
        reader.wrong(f"{where}.ftp", f'only a service of "ftp" or "ftps" has it, not "{protocol}"')
    if protocol == "http" and "tls" in fields:
        reader.wrong(f"{where}.tls", 'expected none with "http": TLS in front of HTTP is "https"')
    if protocol == "https" and opened and fields.get("channel") == "always":
        reader.wrong(
            f"{where}.channel",
            'expected "auto" or "never" with [service.tls], found "always" (a channel carries the '
            "client's own TLS, and nothing twice)",
        )
    _check_backends(reader, where, fields.get("backend_tls", {}), opened=opened)
    http = fields.get("http", {})
    _check_persistence(reader, where, fields, http, opened=opened)
    if opened and fields.get("proxy_protocol", "none") != "none":
        reader.wrong(
            f"{where}.proxy_protocol",
            'expected "none": connections to backends serve many clients (see X-Forwarded-For)',
        )
    for number, route in enumerate(http.get("routes", ()), 1):
        check_backends(reader, f"{where}.http.route[{number}]", route or {})
    if opened and "minimum_tls" in http:
        reader.wrong(f"{where}.http.minimum_tls", "only TLS that is passed through has it")
    for number, route in enumerate(http.get("routes", ()), 1):
        if not opened and route and not route.get("hosts"):
            reader.wrong(
                f"{where}.http.route[{number}].hosts",
                "missing, expected hosts: nothing else of TLS can be seen that is passed through",
            )
        if not opened and route and "path" in route:
            reader.wrong(
                f"{where}.http.route[{number}].path", "expected none without [service.tls]"
            )
    if not opened:
        _check_passed(reader, where, http)


def check_not_http(reader: Reader, where: str, fields: dict[str, Any]) -> None:
    """Note what only an HTTP service has, in another one, which reads as *fields*."""
    protocol = fields["protocol"]
    if "http" in fields:
        reader.wrong(
            f"{where}.http", f'only a service of "http" or "https" has it, not "{protocol}"'
        )
    if fields.get("persistence", {}).get("by") == "cookie":
        reader.wrong(
            f"{where}.persistence.by",
            'expected "source", found "cookie", which only HTTP has that is opened',
        )


def _check_passed(reader: Reader, where: str, http: dict[str, Any]) -> None:
    for name in _OPENED_ONLY:
        if name in http or f"{name}_s" in http:
            reader.wrong(
                f"{where}.http.{name}", 'only "http", or "https" with [service.tls], has it'
            )


def _check_persistence(
    reader: Reader, where: str, fields: dict[str, Any], http: dict[str, Any], *, opened: bool
) -> None:
    if fields.get("persistence", {}).get("by") != "cookie":
        return
    if not opened:
        reader.wrong(
            f"{where}.persistence.by",
            'expected "source", found "cookie", which only HTTP has that is opened',
        )
    elif "tls" not in fields and "cookie_key" not in http:
        reader.wrong(
            f"{where}.http.cookie_key",
            "missing, expected a path: there is no [service.tls] to derive a key from",
        )


def _check_backends(reader: Reader, where: str, tls: dict[str, Any], *, opened: bool) -> None:
    if not tls:
        return
    if not opened:
        reader.wrong(f"{where}.backend_tls", "expected none without [service.tls]")
    mode = tls.get("mode")
    if mode == "explicit":
        reader.wrong(f"{where}.backend_tls.mode", 'expected "off" or "on", found "explicit"')
    if "data" in tls:
        reader.wrong(f"{where}.backend_tls.data", "only FTP has it")
    if mode == "off":
        for name in ("ca", "name"):
            if name in tls:
                reader.wrong(f"{where}.backend_tls.mode", f'expected "on" with {name}, found "off"')
    elif mode == "on" and "ca" not in tls:
        reader.wrong(f"{where}.backend_tls.ca", "missing, expected a path")


def http_fields(fields: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return a service's *fields* with HTTP's built; paths count from *folder*."""
    if fields["protocol"] not in HTTP_PROTOCOLS:
        return fields
    http = dict(fields.get("http", {}))
    http["routes"] = tuple(RouteConfig(**route) for route in http.get("routes", ()))
    if "cookie_key" in http:
        http["cookie_key"] = folder / http["cookie_key"]
    return {**fields, "http": HTTPConfig(**http)}
