"""
As much of HTTP as a health check and Prometheus need: one GET or HEAD, one answer, the end.

RFC 9112.  The request line is read, the fields are skipped, a body is none of ours.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# Far more than a check's request with a handful of fields.
MAX_REQUEST = 4096

# RFC 9112 section 3: method, target, version, with single spaces.
_LINE = re.compile(rb"(GET|HEAD) (/[!-~]{0,255}) HTTP/1\.[01]")
_REASONS = {200: "OK", 404: "Not Found", 503: "Service Unavailable"}


class BadRequest(Exception):
    """What came is not such a request."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for: a path without its query, and whether the body is wanted."""

    path: str
    with_body: bool


class RequestReader:
    """Reads one request into :attr:`found`; what follows it is left in :attr:`rest`."""

    def __init__(self) -> None:
        self.rest = b""
        self.found: Request | None = None

    def receive(self, data: bytes) -> list[Request]:
        """Raises :class:`BadRequest`."""
        # Searched from where the end may have begun, so that dripping costs nothing.
        begin = max(0, len(self.rest) - 3)
        self.rest += data
        end = self.rest.find(b"\r\n\r\n", begin, MAX_REQUEST)
        if end < 0:
            if len(self.rest) >= MAX_REQUEST:
                raise BadRequest("the request is too long")
            return []
        line = self.rest[:end].partition(b"\r\n")[0]
        match = _LINE.fullmatch(line)
        if match is None:
            raise BadRequest("neither GET nor HEAD")
        self.rest = self.rest[end + 4 :]
        path = match[2].partition(b"?")[0].decode("ascii")
        self.found = Request(path, match[1] == b"GET")
        return [self.found]

    def end(self) -> None:
        """Raises :class:`BadRequest` if the request has not come whole."""
        if self.found is None:
            raise BadRequest("the connection ended before the request was whole")


@dataclass(frozen=True, slots=True)
class Response:
    """An answer: *status* (200, 404 or 503) and a *body* of text."""

    status: int
    body: bytes
    content_type: str = "text/plain; charset=utf-8"

    def head(self) -> bytes:
        """All but the body."""
        return (
            f"HTTP/1.1 {self.status} {_REASONS[self.status]}\r\n"
            f"Content-Type: {self.content_type}\r\n"
            f"Content-Length: {len(self.body)}\r\n"
            "Cache-Control: no-store\r\n"
            "Connection: close\r\n\r\n"
        ).encode("ascii")

    def __bytes__(self) -> bytes:
        return self.head() + self.body
