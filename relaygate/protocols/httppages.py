"""What the gateway itself answers: a status and its name, nothing of what is inside."""

from __future__ import annotations

REASONS = {
    204: b"No Content",
    400: b"Bad Request",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    413: b"Content Too Large",
    414: b"URI Too Long",
    417: b"Expectation Failed",
    421: b"Misdirected Request",
    431: b"Request Header Fields Too Large",
    501: b"Not Implemented",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
    505: b"HTTP Version Not Supported",
}
_ALLOW = b"GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH"


def page(
    status: int, server: bytes | None, *, head_only: bool = False, keep: bool = False
) -> bytes:
    """A whole response; without its body for HEAD."""
    reason = REASONS[status]
    body = b"" if status == 204 else b"%d %b\n" % (status, reason)
    lines = [b"HTTP/1.1 %d %b" % (status, reason)]
    if server:
        lines.append(b"Server: " + server)
    if status in (204, 405):
        lines.append(b"Allow: " + _ALLOW)
    if status == 503:
        lines.append(b"Retry-After: 10")
    if status != 204:
        lines += [b"Content-Type: text/plain", b"Content-Length: %d" % len(body)]
    lines.append(b"Cache-Control: no-store")
    lines.append(b"Connection: keep-alive" if keep else b"Connection: close")
    return b"\r\n".join(lines) + b"\r\n\r\n" + (b"" if head_only else body)
