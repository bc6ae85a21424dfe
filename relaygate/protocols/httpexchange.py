"""One request and its response, as far as they have come."""

from __future__ import annotations

from relaygate.protocols.httpbody import BodyReader, BodyUntilEnd, ChunkedBody, CountedBody
from relaygate.protocols.httpeffects import HTTPPolicy, RequestSeen, Wait
from relaygate.protocols.httpfields import persists, tokens
from relaygate.protocols.httphead import HTTPViolation, RequestHead, ResponseHead
from relaygate.protocols.httptarget import Place, Routes, has_dot_segments

# RFC 9110 section 9.2.1, and those of WebDAV (RFC 4918, 3253, 5323) that only read.
_SAFE = frozenset((b"GET", b"HEAD", b"OPTIONS", b"PROPFIND", b"REPORT", b"SEARCH"))
# TRACE would show a client what we add for the backend.
_REFUSED = b"TRACE"
_AS2 = (b"as2-to", b"as2-from")
# The most interim responses that one request may have: a progress report a second, for minutes.
MAX_INTERIM = 256


class Exchange:
    """A request of *head* for *place* on route number *route*; *count* came before it."""

    def __init__(
        self, head: RequestHead, place: Place, route: int | None, policy: HTTPPolicy, count: int
    ) -> None:
        self.head = head
        self.place = place
        self.route = route
        self.body: BodyReader = ChunkedBody() if head.chunked else CountedBody(head.length or 0)
        self.request_done = not head.has_body
        self.upgrade = _upgrade(head, policy)
        self.expects = b"100-continue" in tokens(head.named, b"expect")
        # Whether the client waits with its body for a word.
        self.expecting = self.expects and head.has_body and head.minor > 0
        self.persistent = persists(head.named, head.minor) and count + 1 < policy.max_requests
        self.as2 = any(name in head.named for name in _AS2)
        self.ready = False
        # Whether its body passes by the session.
        self.moving_in = False
        self.attempts = 0
        self.interim = 0
        self.set_cookie = b""
        self.response: ResponseHead | None = None
        self.answer: BodyReader | None = None
        self.answer_chunked = False
        self.keep = False
        self.bytes_in = 0
        self.bytes_out = 0

    @property
    def repeatable(self) -> bool:
        """Whether it may be asked of another backend although one may have heard it."""
        return (
            self.head.method in _SAFE
            and not self.head.has_body
            and not self.upgrade
            and self.response is None
            and not self.interim
        )

    @property
    def waits_for(self) -> Wait:
        """Whose turn it is."""
        if not self.ready:
            return Wait.NOTHING
        if self.expecting:
            return Wait.CONTINUE
        if not self.request_done:
            return Wait.BODY
        if self.response is not None:
            return Wait.STREAM
        return Wait.LATE_RESPONSE if self.as2 else Wait.RESPONSE

    def begin_answer(self, head: ResponseHead) -> None:
        """The final response begins with *head*."""
        self.response = head
        if head.chunked:
            self.answer = ChunkedBody()
        elif head.length is not None:
            self.answer = CountedBody(head.length)
        else:
            self.answer = BodyUntilEnd()
        self.answer_chunked = head.chunked and self.head.minor > 0
        # A client of HTTP/1.0 knows no chunks: for it the body ends with the connection.
        counted = self.answer_chunked or head.length is not None
        self.keep = self.persistent and self.request_done and counted and not self.upgrade

    def seen(self, status: int, detail: str = "") -> RequestSeen:
        """What the audit is told."""
        path, _, query = self.place.path.partition(b"?")
        return RequestSeen(
            self.head.method,
            self.place.host,
            path,
            query,
            status,
            self.bytes_in,
            self.bytes_out,
            detail,
            status == 401 and b"authorization" in self.head.named,
        )


def _upgrade(head: RequestHead, policy: HTTPPolicy) -> bytes:
    """The protocol to change to, if we let it through (RFC 9110, section 7.8)."""
    if head.has_body or not head.minor or b"upgrade" not in tokens(head.named, b"connection"):
        return b""
    wanted = tokens(head.named, b"upgrade")
    return next((each for each in policy.upgrades if each in wanted), b"")


def route_for(
    head: RequestHead, place: Place, routes: Routes, policy: HTTPPolicy, sni: bytes | None
) -> int | None:
    """
    The number of the route that a request takes, None for the service's own backends.

    *sni* is the host that the client's TLS asked for.  Raises :class:`HTTPViolation`.
    """
    if head.method == _REFUSED:
        raise HTTPViolation(405, "sent TRACE, which is not for a gateway")
    wishes = tokens(head.named, b"expect")
    if wishes and list(wishes) != [b"100-continue"]:
        raise HTTPViolation(417, "expects what nobody knows")
    if policy.max_body and (head.length or 0) > policy.max_body:
        raise HTTPViolation(413, f"wants to send more than {policy.max_body} bytes")
    if routes.by_path and has_dot_segments(place.path):
        raise HTTPViolation(400, "sent a path with dot segments")
    if policy.strict_hosts and not routes.names(place.host):
        raise HTTPViolation(421, "asks for a host that is none of ours")
    route = routes.find(place.host, place.path)
    if sni and sni != place.host and routes.find(sni, place.path) != route:
        raise HTTPViolation(421, "asks for another host than its TLS did")
    return route
