"""
The heads of HTTP/1 messages (RFC 9110, RFC 9112): found within bounds, and read in one way only.

What is behind us reads each head again.  Wherever the two readings could differ a request can be
hidden in another one, so a head passes three times: a :class:`HeadReader` finds its end and lets
nothing through in which another reader could see a line's end elsewhere; the grammar is asked of
all lines, with none of the leniency that RFC 9112 permits; and then llhttp parses it
(:mod:`relaygate.protocols.httpreader`), whose fields must be the very ones that were seen here.

Nothing of a head is quoted in what is raised here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from relaygate.protocols.httpreader import Fields, Refused, read_request, read_response

# The values of all fields of a name, by the name in small letters.
Named = dict[bytes, list[bytes]]

# A response's head is bounded too: some applications set many cookies.
MAX_RESPONSE_HEAD = 64 * 1024
MAX_RESPONSE_FIELDS = 256
# 999 petabytes: what has more digits is meant to overflow somebody's integer.
_MAX_LENGTH_DIGITS = 18
# Longer than any method that is registered; the longest is UPDATEREDIRECTREF.
_MAX_METHOD = 32

_TOKEN = rb"[-!#$%&'*+.^_`|~0-9A-Za-z]+"
# Obs-text (from 0x80 on) is what names in other alphabets come in; no control but the tabulator.
_FIELDS = re.compile(rb"(?:" + _TOKEN + rb"+:[\t -~\x80-\xff]*+\r\n)*+")
_REQUEST_LINE = re.compile(rb"(" + _TOKEN + rb") ([!-~]+) HTTP/([0-9])\.([0-9])")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: ([\t -~\x80-\xff]*))?")
_STATUS_FIRST = b"HTTP/1."
_DIGITS = re.compile(rb"[0-9]+")
# What some readers take for the end of a line, and what others end the whole string at.
_AMBIGUOUS = re.compile(rb"(?<!\r)\n|\r[^\n]|\0")
_TOKEN_FIRST = re.compile(_TOKEN[:-1])
# Empty lines before a request line: RFC 9112 section 2.2 asks for one at least to be ignored.
_MAX_EMPTY_LINES = 2


class HTTPViolation(Exception):
    """
    A peer did not speak HTTP as it must; :attr:`status` is what a client is answered.

    The text completes "the client …" or "the backend …".
    """

    def __init__(self, status: int, what: str) -> None:
        super().__init__(what)
        self.status = status


@dataclass(frozen=True)
class HeadLimits:
    """What a client's head may have: bytes in all, bytes of its target, fields."""

    bytes: int = 32 * 1024
    target: int = 8 * 1024
    fields: int = 100


# Heads are made for each message, and frozen ones would cost three times as much to make.
@dataclass(slots=True)
class RequestHead:
    """
    A request's head.

    *fields* are in their order and with their names' own case, *named* the same values by names in
    small letters; *length* is the body's in bytes,
    None where it is *chunked*; *minor* the version's second digit.
    """

    method: bytes
    target: bytes
    minor: int
    fields: Fields
    named: Named
    length: int | None
    chunked: bool

    @property
    def has_body(self) -> bool:
        """Whether any byte of body can follow."""
        return self.chunked or bool(self.length)


@dataclass(slots=True)
class ResponseHead:
    """A response's; *length* is None where the body is *chunked* or ends with the connection."""

    status: int
    reason: bytes
    minor: int
    fields: Fields
    named: Named
    length: int | None
    chunked: bool

    @property
    def until_end(self) -> bool:
        """Whether the body ends with the connection."""
        return self.length is None and not self.chunked


class HeadReader:
    """
    Finds the end of one head after another in bytes that come in pieces.

    It is for requests, within *limits*, or (None) for responses.
    """

    def __init__(self, limits: HeadLimits | None) -> None:
        self._limits = limits
        self._most = limits.bytes if limits else MAX_RESPONSE_HEAD
        self._buffer = bytearray()
        self._searched = 0
        self._empty_lines = 0

    @property
    def rest(self) -> bytes:
        """What came behind the last head, or of one that is not complete."""
        return bytes(self._buffer)

    @property
    def begun(self) -> bool:
        """Whether a part of a head is here."""
        return bool(self._buffer)

    def take_rest(self) -> bytes:
        """Take :attr:`rest` out: it belongs to a body."""
        rest = bytes(self._buffer)
        self._buffer.clear()
        self._searched = 0
        return rest

    def receive(self, data: bytes) -> bytes | None:
        """
        Take the next piece (or b"") and return the next head with its empty line, None as yet.

        Raises :class:`HTTPViolation`.
        """
        buffer = self._buffer
        buffer += data
        self._skip_empty_lines()
        end = buffer.find(b"\r\n\r\n", max(0, self._searched - 3))
        known = len(buffer) if end < 0 else end + 4
        if end < 0:
            ambiguous = _AMBIGUOUS.search(buffer, max(0, self._searched - 1), known) is not None
        else:
            head = bytes(buffer[:known])
            # What the expression looks for, in a tenth of the time.
            both = head.count(b"\r\n")
            ambiguous = not both == head.count(b"\r") == head.count(b"\n") or b"\0" in head
        if ambiguous:
            raise HTTPViolation(400, "sent a head with a bare CR or LF, or a NUL")
        self._check_start(known)
        if end < 0:
            self._searched = len(buffer)
            return None
        del buffer[:known]
        self._searched = 0
        self._empty_lines = 0
        return head

    def _skip_empty_lines(self) -> None:
        while self._limits and self._buffer.startswith(b"\r\n"):
            self._empty_lines += 1
            if self._empty_lines > _MAX_EMPTY_LINES:
                raise HTTPViolation(400, "sent nothing but empty lines")
            del self._buffer[:2]
            self._searched = 0

    def _check_start(self, known: int) -> None:
        """Find as early as may be that no head will come of it."""
        buffer, limits = self._buffer, self._limits
        if limits:
            if buffer and not _TOKEN_FIRST.match(buffer) and buffer != b"\r":
                raise HTTPViolation(400, "sent no HTTP")
            # A target, beside the longest method and the version.
            if buffer.find(b"\r\n", 0, limits.target + 64) < 0 and known > limits.target + 64:
                raise HTTPViolation(414, "sent too long a target")
        elif not _STATUS_FIRST.startswith(buffer[: len(_STATUS_FIRST)]):
            # A server of another protocol: nothing that it may still say makes it HTTP.
            raise HTTPViolation(502, "sent no HTTP")
        if known > self._most:
            raise HTTPViolation(431, f"sent a head of more than {self._most} bytes")


def parse_request(raw: bytes, limits: HeadLimits) -> RequestHead:
    """Read the head *raw*, as :class:`HeadReader` gives it.  Raises :class:`HTTPViolation`."""
    end = raw.index(b"\r\n")
    match = _REQUEST_LINE.fullmatch(raw, 0, end)
    if match is None or len(match[1]) > _MAX_METHOD:
        raise HTTPViolation(400, "sent no request line")
    if match[3] != b"1" or match[4] not in b"01":
        raise HTTPViolation(505, "speaks another version of HTTP")
    method, target = match[1], match[2]
    if method == b"CONNECT":
        # Its target is of a kind of its own, which is nowhere to lead here.
        raise HTTPViolation(405, "sent CONNECT, which is not for a gateway")
    if len(target) > limits.target:
        raise HTTPViolation(414, "sent too long a target")
    if raw.count(b"\r\n") - 2 > limits.fields:
        raise HTTPViolation(431, f"sent more than {limits.fields} fields")
    fields, named = _fields(raw, end + 2)
    minor = int(match[4])
    length, chunked = _framing(named, minor)
    try:
        agreed = read_request(raw, method) == (target, fields)
    except Refused:
        agreed = False
    if not agreed:
        raise HTTPViolation(400, "sent a head that can be read in two ways")
    length = 0 if length is None else length
    return RequestHead(method, target, minor, fields, named, length, chunked)


def parse_response(raw: bytes, method: bytes) -> ResponseHead:
    """
    Read the head *raw* of the response to a request of *method*.

    Raises :class:`HTTPViolation`, always with 502.
    """
    try:
        return _response(raw, method)
    except HTTPViolation as error:
        raise HTTPViolation(502, str(error)) from None


def _response(raw: bytes, method: bytes) -> ResponseHead:
    end = raw.index(b"\r\n")
    match = _STATUS_LINE.fullmatch(raw, 0, end)
    if match is None:
        raise HTTPViolation(502, "sent no status line")
    if raw.count(b"\r\n") - 2 > MAX_RESPONSE_FIELDS:
        raise HTTPViolation(502, f"sent more than {MAX_RESPONSE_FIELDS} fields")
    fields, named = _fields(raw, end + 2)
    minor, status = int(match[1]), int(match[2])
    length, chunked = _framing(named, minor)
    try:
        agreed = read_response(raw, match[2]) == (match[2], fields)
    except Refused:
        agreed = False
    if not agreed:
        raise HTTPViolation(502, "sent a head that can be read in two ways")
    # RFC 9112 section 6.3: these have no body, whatever their fields say.
    if status < 200 or status in (204, 304) or method == b"HEAD":
        length, chunked = 0, False
    return ResponseHead(status, match[3] or b"", minor, fields, named, length, chunked)


def _fields(raw: bytes, start: int) -> tuple[Fields, Named]:
    """The fields of a head, whose first line ends before *start*."""
    end = len(raw) - 2
    if _FIELDS.fullmatch(raw, start, end) is None:
        raise HTTPViolation(400, "sent a field that is none")
    fields: Fields = []
    named: Named = {}
    for line in raw[start:end].split(b"\r\n")[:-1]:
        name, _, value = line.partition(b":")
        value = value.strip(b" \t")
        fields.append((name, value))
        named.setdefault(name.lower(), []).append(value)
    return fields, named


def _framing(named: Named, minor: int) -> tuple[int | None, bool]:
    """The body's length, if it is said, and whether it is chunked (RFC 9112, section 6)."""
    lengths, codings = named.get(b"content-length"), named.get(b"transfer-encoding")
    if codings:
        if lengths:
            raise HTTPViolation(400, "sent Content-Length beside Transfer-Encoding")
        if minor == 0:
            raise HTTPViolation(400, "sent Transfer-Encoding in HTTP/1.0")
        listed = [each.strip(b" \t").lower() for value in codings for each in value.split(b",")]
        if listed != [b"chunked"]:
            known = listed[-1] == b"chunked" and b"" not in listed and listed.count(b"chunked") == 1
            raise HTTPViolation(501 if known else 400, "sent a Transfer-Encoding beside chunked")
        return None, True
    if not lengths:
        return None, False
    if len(lengths) > 1 or not _DIGITS.fullmatch(lengths[0]):
        raise HTTPViolation(400, "sent a Content-Length that is not one number")
    if len(lengths[0]) > _MAX_LENGTH_DIGITS:
        raise HTTPViolation(400, "sent a Content-Length beyond all bounds")
    return int(lengths[0]), False
