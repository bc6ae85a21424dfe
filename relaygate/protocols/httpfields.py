"""
The fields of HTTP heads, on their way through: what is taken out, put in and changed.

Towards a backend go the client's fields as they came, in their order and byte for byte (AS2's
signatures are over some of them), but for those that speak of one connection only and those in
which a client could say what only we can know.  Towards a client go the backend's, but for the
names that things have inside.
"""

from __future__ import annotations

import re
from collections.abc import Sequence, Set
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address

from relaygate.protocols.httphead import Named, RequestHead, ResponseHead
from relaygate.protocols.httpreader import Fields
from relaygate.protocols.httptarget import Place

# RFC 9110 section 7.6.1, and what older software has of the kind.
_HOP = frozenset(
    b"connection keep-alive proxy-connection proxy-authenticate proxy-authorization"
    b" proxy-authentication-info te transfer-encoding upgrade http2-settings".split()
)
# What Connection may not name away from who comes next (CVE-2022-31813).
_NOT_NAMED = re.compile(
    rb"host|cookie|authorization|content-.*|transfer-encoding|forwarded|x-forwarded-.*|x-real-ip|via"
    rb"|as2-.*|message-id|date|set-cookie|location|www-authenticate|cache-control|expect"
)
# What says where a client is, or another target than the request line does: ours to know.
_OURS = re.compile(
    rb"forwarded|x-forwarded-.*|x-real-ip|x-client-ip|x-cluster-client-ip|true-client-ip"
    rb"|x-original-url|x-rewrite-url|proxy|proxy-.*"
)
# How all of them begin: most names do not.
_OURS_BEGIN = (b"forwarded", b"x-", b"true-client-ip", b"proxy")
# What may not come behind a body (RFC 9110 section 6.5.1), and what we take out of heads.
_NOT_TRAILING = re.compile(
    rb"content-.*|transfer-encoding|host|cookie|set-cookie|authorization|www-authenticate|location"
    rb"|trailer|expect|range|cache-control|max-forwards|te|upgrade|connection|server|via|age|vary|date"
    rb"|" + _OURS.pattern
)
_VALUE = re.compile(rb"[\t -~\x80-\xff]*")
_AUTHORITY = re.compile(rb"[A-Za-z0-9._-]{1,255}(?::[0-9]{1,5})?")
_URL_FIELDS = frozenset((b"location", b"content-location", b"refresh", b"link"))
# Those that :func:`_inward` and :func:`_outward` look at.
_CHANGED_INWARD = frozenset((b"host", b"expect", b"cookie", b"destination", b"if", b"max-forwards"))
_CHANGED_OUTWARD = _URL_FIELDS | {b"set-cookie", b"server", b"via"}
# Answers that bind what follows on the connection to who was asked (RFC 4559, section 6).
_BINDING = re.compile(rb"(?i:ntlm|negotiate)\b")


@dataclass(frozen=True)
class FieldPolicy:
    """
    What is said of ourselves and believed of clients.

    *server* stands in the place of the backends' own (None lets it through, b"" takes it out),
    *via* is our name in Via (b"" for none), *hidden* are names (small letters) of fields that
    clients do not get, *trusted* the networks of proxies whose word about the client is believed.
    """

    server: bytes | None = b"relaygate"
    via: bytes = b"relaygate"
    hidden: Set[bytes] = field(default_factory=frozenset)
    trusted: tuple[IPv4Network | IPv6Network, ...] = ()
    underscores: bool = False

    def trusts(self, address: str) -> bool:
        """Whether *address* is such a proxy's."""
        return bool(self.trusted) and any(ip_address(address) in net for net in self.trusted)


@dataclass(frozen=True)
class Parties:
    """
    Who talks to whom: the client's address; the schemes of both sides; the authority that the
    client reached; what the backends are called inside, as authorities in small letters.
    """

    client: str
    scheme: bytes
    backend_scheme: bytes
    reached: bytes
    inside: frozenset[bytes]


def tokens(named: Named, name: bytes) -> Sequence[bytes]:
    """The members of all lists called *name* (small letters), in small letters."""
    lists = named.get(name)
    if lists is None:
        return ()
    members = [each.strip(b" \t").lower() for value in lists for each in value.split(b",")]
    return [member for member in members if member]


def persists(named: Named, minor: int) -> bool:
    """Whether the sender wants to go on with the connection (RFC 9112, section 9.3)."""
    wishes = tokens(named, b"connection")
    if b"close" in wishes:
        return False
    return minor > 0 or b"keep-alive" in wishes


def binds_connection(request: Named, response: Named) -> bool:
    """Whether the connection has become one client's own (NTLM, Negotiate)."""
    found = (*request.get(b"authorization", ()), *response.get(b"www-authenticate", ()))
    return any(_BINDING.match(value) for value in found)


def _for_one_only(named: Named) -> Set[bytes]:
    """The names (small letters) of those fields that are for the next only."""
    if b"connection" not in named:
        return _HOP
    return _HOP | {each for each in tokens(named, b"connection") if not _NOT_NAMED.fullmatch(each)}


def _is_ours(low: bytes) -> bool:
    return low.startswith(_OURS_BEGIN) and _OURS.fullmatch(low) is not None


def request_bytes(
    head: RequestHead,
    place: Place,
    policy: FieldPolicy,
    parties: Parties,
    *,
    cookie: bytes = b"",
    upgrade: bytes = b"",
    expect: bool = False,
) -> bytes:
    """
    The head for the backend.

    *cookie* is the name of our own, which is none of its business; *upgrade* the protocol to change
    to; *expect* whether it shall say when it wants the body.
    """
    lines = [b"%b %b HTTP/1.1" % (head.method, place.path)]
    if b"host" not in head.named:
        lines.append(b"Host: " + place.authority)
    left_out, underscores = _for_one_only(head.named), policy.underscores
    for name, value in head.fields:
        low = name.lower()
        if low in left_out or _is_ours(low) or (b"_" in low and not underscores):
            continue
        if low in _CHANGED_INWARD:
            changed = _inward(low, value, head, place, parties, cookie)
            if changed is None:
                continue
            value = changed
        lines.append(b"%b: %b" % (name, value))
    lines += _about_client(head, place, policy, parties)
    if policy.via:
        lines.append(b"Via: 1.%d %b" % (head.minor, policy.via))
    if head.chunked:
        lines.append(b"Transfer-Encoding: chunked")
    if expect:
        lines.append(b"Expect: 100-continue")
    if upgrade:
        lines += [b"Upgrade: " + upgrade, b"Connection: Upgrade"]
    return b"\r\n".join(lines) + b"\r\n\r\n"


def _inward(
    low: bytes, value: bytes, head: RequestHead, place: Place, parties: Parties, cookie: bytes
) -> bytes | None:
    """What becomes of the *value* of the field *low* on its way in; None: nothing."""
    if low == b"host":
        return place.authority
    if low == b"expect":
        return None
    if low == b"cookie" and cookie:
        return _without_cookie(value, cookie) or None
    if low in (b"destination", b"if"):
        return _towards_backend(value, place, parties)
    if low == b"max-forwards" and head.method == b"OPTIONS" and value.isdigit():
        return b"%d" % max(0, int(value[:9]) - 1)
    return value


def _about_client(
    head: RequestHead, place: Place, policy: FieldPolicy, parties: Parties
) -> list[bytes]:
    """One line each, by us alone or behind what a trusted proxy has said."""
    client = parties.client.encode()
    node = b'"[%b]"' % client if b":" in client else client
    host = place.authority
    quoted = b'"%b"' % host if b":" in host else host
    chain, forwarded = [client], [b"for=%b;host=%b;proto=%b" % (node, quoted, parties.scheme)]
    scheme, real = parties.scheme, client
    if policy.trusts(parties.client):
        before = head.named.get(b"x-forwarded-for", [])
        chain = [*before, client]
        forwarded = [*head.named.get(b"forwarded", []), *forwarded]
        told = head.named.get(b"x-forwarded-proto", [])
        scheme = told[0] if len(told) == 1 and told[0] in (b"http", b"https") else scheme
        named = head.named.get(b"x-forwarded-host", [])
        host = named[0] if len(named) == 1 and _AUTHORITY.fullmatch(named[0]) else host
        real = before[0].partition(b",")[0].strip(b" \t") if before else client
    return [
        b"Forwarded: " + b", ".join(forwarded),
        b"X-Forwarded-For: " + b", ".join(chain),
        b"X-Forwarded-Proto: " + scheme,
        b"X-Forwarded-Host: " + host,
        b"X-Real-IP: " + real,
    ]


def _without_cookie(value: bytes, name: bytes) -> bytes:
    kept = [part for part in value.split(b";") if part.strip(b" \t").partition(b"=")[0] != name]
    return b";".join(kept).strip(b" \t") if len(kept) < value.count(b";") + 1 else value


def find_cookie(named: Named, name: bytes) -> bytes:
    """The value of the first cookie called *name*, or b""."""
    for value in named.get(b"cookie", ()):
        for part in value.split(b";"):
            key, _, found = part.strip(b" \t").partition(b"=")
            if key == name:
                return found
    return b""


def _towards_backend(value: bytes, place: Place, parties: Parties) -> bytes:
    """
    *value* with addresses of ours as the backend knows them.

    WebDAV names resources of the same server by their whole address (RFC 4918, sections 10.3 and
    10.4), and a backend compares it with how it was called itself.
    """
    if parties.scheme == parties.backend_scheme:
        return value
    ours = re.compile(rb"(?i:%b)://(?=%b(?:[/>]|$))" % (parties.scheme, re.escape(place.authority)))
    return ours.sub(parties.backend_scheme + b"://", value)


def response_bytes(
    head: ResponseHead,
    place: Place,
    policy: FieldPolicy,
    parties: Parties,
    *,
    connection: bytes = b"",
    upgrade: bytes = b"",
    chunked: bool = False,
    cookie: bytes = b"",
) -> bytes:
    """
    The head for the client.

    *connection* is what Connection says, if anything; *cookie* a whole Set-Cookie value of ours.
    """
    lines = [b"HTTP/1.1 %d %b" % (head.status, head.reason)]
    no_length = head.status < 200 or head.status == 204
    left_out, hidden = _for_one_only(head.named), policy.hidden
    for name, value in head.fields:
        low = name.lower()
        if low in left_out or low in hidden or (no_length and low == b"content-length"):
            continue
        if low in _CHANGED_OUTWARD:
            value = _outward(low, value, place, policy, parties)
            if low == b"via" or (low == b"server" and not value):
                continue
        lines.append(b"%b: %b" % (name, value))
    if head.status >= 200:
        if cookie:
            lines.append(b"Set-Cookie: " + cookie)
        if policy.via:
            lines.append(b"Via: 1.%d %b" % (head.minor, policy.via))
    if chunked:
        lines.append(b"Transfer-Encoding: chunked")
    if upgrade:
        lines.append(b"Upgrade: " + upgrade)
    if connection:
        lines.append(b"Connection: " + connection)
    return b"\r\n".join(lines) + b"\r\n\r\n"


def _outward(
    low: bytes, value: bytes, place: Place, policy: FieldPolicy, parties: Parties
) -> bytes:
    """What becomes of the *value* of the field *low* on its way out."""
    if low in _URL_FIELDS:
        return _outward_urls(value, place, parties)
    if low == b"set-cookie":
        return _outward_cookie(value, place)
    if low == b"server" and policy.server is not None:
        return policy.server
    return value


def _outward_urls(value: bytes, place: Place, parties: Parties) -> bytes:
    """Turns addresses of backends into ours, and ours with a backend's scheme into the client's."""
    public = b"%b://%b" % (parties.scheme, place.authority)

    def one(match: re.Match[bytes]) -> bytes:
        name = match[1].lower()
        ours = name in parties.inside or name == place.authority.lower()
        return public if ours else match[0]

    return re.sub(rb"(?i:https?)://([^/?#\s\"'<>;,]+)", one, value)


def _outward_cookie(value: bytes, place: Place) -> bytes:
    """Without a Domain that is not of the client's host: it is of no use, and a name inside."""
    parts = value.split(b";")
    kept = parts[:1]
    for part in parts[1:]:
        key, _, domain = part.strip(b" \t").partition(b"=")
        if key.strip(b" \t").lower() == b"domain":
            wanted = domain.strip(b' \t"').lower().lstrip(b".")
            if place.host != wanted and not place.host.endswith(b"." + wanted):
                continue
        kept.append(part)
    return b";".join(kept)


def trailers_through(trailers: Fields, policy: FieldPolicy) -> Fields:
    """Those *trailers* that may come behind a body."""
    return [
        (name, value)
        for name, value in trailers
        if not _NOT_TRAILING.fullmatch(name.lower())
        and name.lower() not in policy.hidden
        and (policy.underscores or b"_" not in name)
        and _VALUE.fullmatch(value)
    ]
