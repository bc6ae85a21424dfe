"""Where an HTTP request wants to go: its authority and path, and the route that leads there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from relaygate.protocols.httphead import HTTPViolation, RequestHead

# No user information, no percent signs: what names a host of ours has neither.
_AUTHORITY = re.compile(rb"([A-Za-z0-9._-]{1,255}|\[[0-9A-Fa-f:.]{2,45}\])(?::([0-9]{0,5}))?")
_ABSOLUTE = re.compile(rb"(?i:(https?)://)([^/?#]*)(.*)", re.DOTALL)
_ENCODED_DOTS = re.compile(rb"%(?:2e|2f|5c)", re.IGNORECASE)
_DECODED = {b"%2e": b".", b"%2f": b"/", b"%5c": b"/"}
_MAX_PORT = 65535
_DEFAULT_PORTS = {b"http": b"80", b"https": b"443"}


# One is made for each request, and frozen ones would cost three times as much to make.
@dataclass(slots=True)
class Place:
    """
    *authority* is what the client calls us, *host* the same in small letters and without a port;
    *path* begins with a slash and holds the query, or is an asterisk.
    """

    authority: bytes
    host: bytes
    path: bytes


def place_of(head: RequestHead, scheme: bytes, reached: bytes) -> Place:
    """
    The place that *head* asks for on a service of *scheme* (RFC 9112, section 3.2).

    *reached* is the authority that the client connected to, for clients of HTTP/1.0 that name none.
    Raises :class:`HTTPViolation`.
    """
    named = head.named.get(b"host", ())
    if len(named) > 1 or (head.minor and not named):
        raise HTTPViolation(400, "sent no Host or several")
    authority = named[0] if named else reached
    host = _host(authority)
    target = head.target
    if b"#" in target:
        raise HTTPViolation(400, "sent a target with a fragment")
    if target.startswith(b"/"):
        return Place(authority, host, target)
    if target == b"*" and head.method == b"OPTIONS":
        return Place(authority, host, target)
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None:
        raise HTTPViolation(400, "sent a target that is none")
    own = absolute[2]
    if named and _canonical(own, scheme) != _canonical(authority, scheme):
        raise HTTPViolation(400, "sent a Host that is not its target's")
    path = absolute[3]
    if not path:
        path = b"*" if head.method == b"OPTIONS" else b"/"
    elif not path.startswith(b"/"):
        path = b"/" + path
    return Place(own, _host(own), path)


def _host(authority: bytes) -> bytes:
    return _parted(authority)[0].rstrip(b".")


def _canonical(authority: bytes, scheme: bytes) -> tuple[bytes, bytes]:
    host, port = _parted(authority)
    return host, port or _DEFAULT_PORTS[scheme]


def _parted(authority: bytes) -> tuple[bytes, bytes]:
    """The host, in small letters, and the port, b"" if none is named."""
    match = _AUTHORITY.fullmatch(authority)
    if match is None or int(match[2] or 0) > _MAX_PORT:
        raise HTTPViolation(400, "sent a Host that is none")
    host, port = match[1].lower(), match[2] or b""
    try:
        if host.startswith(b"["):
            ip_address(host[1:-1].decode())
        elif b"" in host.removesuffix(b".").split(b"."):
            raise ValueError
    except ValueError:
        raise HTTPViolation(400, "sent a Host that is none") from None
    return host, port


def has_dot_segments(path: bytes) -> bool:
    """Whether *path*, read by who decodes more than we do, leads elsewhere than it begins."""
    bare = path.partition(b"?")[0].replace(b"\\", b"/")
    plain = _ENCODED_DOTS.sub(lambda match: _DECODED[match[0].lower()], bare)
    # Some servers take a segment's parameters off before they look at it.
    return any(part.partition(b";")[0] in (b".", b"..") for part in plain.split(b"/"))


@dataclass(frozen=True)
class Route:
    """
    Hosts (small letters; ``*.`` in front stands for one label or more; none at all: every host) and
    the beginning of the path.
    """

    hosts: tuple[str, ...] = ()
    path: str = "/"


class Routes:
    """
    The routes of a service, in order of their numbers; what none of them fits is number None.

    A host that is named wins over a wildcard, a longer wildcard over a shorter, either over a route
    for every host; among those of one rank the longest path wins, and then the first.
    """

    def __init__(self, routes: Sequence[Route]) -> None:
        self.by_path = any(route.path != "/" for route in routes)
        self._ranked = sorted(
            (
                (_rank(host), -len(route.path), number, host.encode(), route.path.encode())
                for number, route in enumerate(routes)
                for host in (route.hosts or ("",))
            ),
        )

    def find(self, host: bytes, path: bytes) -> int | None:
        """The number of the route for *path* on *host* (in small letters)."""
        for _rank, _length, number, pattern, prefix in self._ranked:
            if _fits_host(pattern, host) and _fits_path(prefix, path):
                return number
        return None

    def names(self, host: bytes) -> bool:
        """Whether any route names *host*, or a wildcard stands for it."""
        return any(row[3] and _fits_host(row[3], host) for row in self._ranked)


def _rank(host: str) -> tuple[int, int]:
    if not host:
        return 2, 0
    return (1, -len(host)) if host.startswith("*.") else (0, 0)


def _fits_host(pattern: bytes, host: bytes) -> bool:
    if not pattern:
        return True
    if pattern.startswith(b"*."):
        return host.endswith(pattern[1:]) and len(host) > len(pattern) - 1
    return host == pattern


def _fits_path(prefix: bytes, path: bytes) -> bool:
    if prefix == b"/":
        return True
    bare = path.partition(b"?")[0]
    return bare == prefix or bare.startswith(prefix if prefix.endswith(b"/") else prefix + b"/")
