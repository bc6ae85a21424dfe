"""
What a client of an HTTP proxy asks: CONNECT, or a request with an absolute URL (RFC 9112, 3.2).

Only the head of the first request is read, and strictly: what two programs could read in two ways
is refused.  A CONNECT turns the connection into a tunnel.  Any other request is made into one for
the origin server: the URL becomes a path, ``Host`` is what the URL says, what is for proxies is
taken out, and ``Connection: close`` makes it the last one on its connection, so that no second
request can be meant for another server than the first.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import Final

MAX_HEAD: Final = 32 * 1024
"""Bytes of a head: four times what servers take, for long URLs and cookies."""

MAX_FIELDS: Final = 100
MAX_REST: Final = 65536
"""Bytes that may come behind a head before it is answered: one read of the holder's."""

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_START: Final = re.compile(rb"(" + _TOKEN + rb") ([!-~]+) HTTP/1\.([01])")
_FIELD: Final = re.compile(rb"(" + _TOKEN + rb"):[ \t]*((?:[^\0-\x08\n-\x1f\x7f])*?)[ \t]*")
_URL: Final = re.compile(r"(?i:http)://([^/?#@\\]+)(/[^#]*|\?[^#]*|)")
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,15})://")

# RFC 9110, section 7.6.1, and what old clients say to proxies.
_HOP_BY_HOP: Final = frozenset(
    {"connection", "keep-alive", "proxy-connection", "proxy-authorization", "te", "upgrade"}
    | {"host", "proxy-authenticate", "http2-settings"}
)
# Those that a client may not have taken out by naming them in Connection.
_KEPT: Final = frozenset({"content-length", "transfer-encoding", "authorization", "cookie"})


class ProxyViolation(Exception):
    """
    The client sent what is no request for a proxy.

    The message completes "the client …"; *status* is what it is answered.
    """

    def __init__(self, what: str, status: str = "400 Bad Request") -> None:
        super().__init__(what)
        self.status = status


@dataclass(frozen=True, slots=True)
class ProxyRequest:
    """
    One request: where to, who asks (user and password as bytes, if it says so), and *head*.

    *authority* is host and port as text, not checked beyond its form.  *head* goes to the origin
    server in the request's place; it is empty for CONNECT, which makes a *tunnel*.
    """

    tunnel: bool
    authority: str
    credentials: tuple[bytes, bytes] | None
    head: bytes


class ProxyReader:
    """Reads one head into :attr:`found`; what follows is left in :attr:`rest`."""

    def __init__(self) -> None:
        self.rest = b""
        self.found: ProxyRequest | None = None
        self._looked = 0

    def receive(self, data: bytes) -> list[ProxyRequest]:
        """Take the next piece; raises :class:`ProxyViolation`."""
        self.rest += data
        if self.found is None:
            # Some clients send an empty line behind the request before (RFC 9112, section 2.2).
            end = self.rest.find(b"\r\n\r\n", max(0, self._looked - 3), MAX_HEAD)
            self._looked = len(self.rest)
            if end < 0:
                self._demand_sound_start()
                return []
            head, self.rest = self.rest[:end], self.rest[end + 4 :]
            self.found = _request(head)
        if len(self.rest) > MAX_REST:
            raise ProxyViolation("sent more than may wait behind its request")
        return [self.found]

    def end(self) -> None:
        """Raises :class:`ProxyViolation` if the head has not come whole."""
        if self.found is None:
            raise ProxyViolation("ended before its request was whole")

    def _demand_sound_start(self) -> None:
        if len(self.rest) >= MAX_HEAD:
            raise ProxyViolation("sent too long a head", "431 Request Header Fields Too Large")


def _request(head: bytes) -> ProxyRequest:
    first, *lines = head.split(b"\r\n")
    start = _START.fullmatch(first)
    if start is None:
        raise ProxyViolation("sent no request line of HTTP/1")
    fields = [_field(line) for line in lines]
    if len(fields) > MAX_FIELDS:
        raise ProxyViolation("sent too many fields", "431 Request Header Fields Too Large")
    values: dict[str, list[str]] = {}
    for name, value in fields:
        values.setdefault(name.lower(), []).append(value)
    _demand_one_length(values)
    if len(values.get("host", ())) > 1:
        raise ProxyViolation("names more than one Host")
    credentials = _credentials(values.get("proxy-authorization", []))
    method, target = start[1].decode(), start[2].decode()
    if method == "CONNECT":
        if "content-length" in values or "transfer-encoding" in values:
            raise ProxyViolation("sent a CONNECT with a body")
        return ProxyRequest(True, target, credentials, b"")
    authority, path = _parted(target)
    dropped = _HOP_BY_HOP | ({*_listed(values.get("connection", []))} - _KEPT)
    kept = [(name, value) for name, value in fields if name.lower() not in dropped]
    sent = [("Host", authority), *kept, ("Connection", "close")]
    lines_out = [f"{method} {path} HTTP/1.{start[3].decode()}"]
    lines_out += [f"{name}: {value}" for name, value in sent]
    return ProxyRequest(
        False,
        authority if re.search(r":\d+$", authority) else f"{authority}:80",
        credentials,
        "\r\n".join([*lines_out, "", ""]).encode("latin-1"),
    )


def _field(line: bytes) -> tuple[str, str]:
    match = _FIELD.fullmatch(line)
    if match is None:
        raise ProxyViolation("sent a field that is none")
    return match[1].decode(), match[2].decode("latin-1")


def _parted(target: str) -> tuple[str, str]:
    """Host and port, and the path, of an absolute URL."""
    match = _URL.fullmatch(target)
    if match is None:
        scheme = _SCHEME.match(target)
        if scheme is not None and scheme[1].lower() != "http":
            raise ProxyViolation("asks for another scheme than http", "501 Not Implemented")
        raise ProxyViolation("asks for no absolute URL")
    path = match[2]
    return match[1], path if path.startswith("/") else f"/{path}"


def _demand_one_length(values: dict[str, list[str]]) -> None:
    """
    Refuse what lets two servers disagree where a body ends (RFC 9112, section 6.3).

    Requirements 50 to 52.
    """
    lengths = values.get("content-length", [])
    codings = values.get("transfer-encoding", [])
    if lengths and codings:
        raise ProxyViolation("sent both a length and a transfer coding")
    if len(lengths) > 1 or any(not re.fullmatch(r"[0-9]{1,18}", length) for length in lengths):
        raise ProxyViolation("sent a length that is none")
    if codings and [coding.lower() for coding in codings] != ["chunked"]:
        raise ProxyViolation("sent another transfer coding than chunked", "501 Not Implemented")


def _credentials(values: list[str]) -> tuple[bytes, bytes] | None:
    """User and password of Basic (RFC 7617); None for other schemes, which are not offered."""
    if len(values) != 1:
        return None
    scheme, _, coded = values[0].partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, _, password = base64.b64decode(coded.strip(), validate=True).partition(b":")
    except ValueError:
        # What is not even ASCII is a ValueError of another kind.
        return None
    return user, password


def _listed(values: list[str]) -> list[str]:
    return [word.strip().lower() for value in values for word in value.split(",")]


def answer(status: str, text: str, *fields: str) -> bytes:
    """A whole answer of the proxy's own: *status* (code and words), and a line of *text*."""
    body = f"{text}\n".encode()
    lines = [f"HTTP/1.1 {status}", "Content-Type: text/plain; charset=utf-8"]
    lines += [f"Content-Length: {len(body)}", "Connection: close", *fields, "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


ESTABLISHED: Final = b"HTTP/1.1 200 Connection established\r\n\r\n"
CHALLENGE: Final = 'Proxy-Authenticate: Basic realm="relaygate", charset="UTF-8"'
