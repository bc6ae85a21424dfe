"""
llhttp (Node.js's HTTP parser in C, by way of httptools), asked how it reads what we have read.

Whatever passes here was held to the grammar before (:mod:`relaygate.protocols.httphead`,
:mod:`relaygate.protocols.httpbody`).  llhttp is strict as it is used here, since none of its
leniencies is switched on, but it has rules of its own about what nobody asks it: it knows a list of
methods, so another one is shown to it as one that it knows; and it stops where protocols change, so
it is shown another status.
"""

from __future__ import annotations

from httptools import (
    HttpParserError,
    HttpParserUpgrade,
    HttpRequestParser,
    HttpResponseParser,
)

Fields = list[tuple[bytes, bytes]]

# Those of RFC 9110 that no rule of llhttp's is about.
_KNOWN_METHODS = frozenset((b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS"))
_CHUNKED_HEAD = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"


class Refused(Exception):
    """llhttp does not take it, or reads something else in it."""


class _Told:
    """What llhttp tells of one message; its names are httptools's."""

    __slots__ = ("body", "ended", "fields", "target")

    def __init__(self) -> None:
        self.target = b""
        self.fields: Fields = []
        self.body: list[bytes] = []
        self.ended = False

    def on_url(self, data: bytes) -> None:
        """A part of the request's target."""
        self.target += data

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of the head, or a trailer."""
        # It leaves the blanks behind a value.
        self.fields.append((name, value.rstrip(b" \t")))

    def on_body(self, data: bytes) -> None:
        """A part of the body."""
        self.body.append(data)

    def on_message_complete(self) -> None:
        """That was all of it."""
        self.ended = True


def read_request(raw: bytes, method: bytes) -> tuple[bytes, Fields]:
    """The target and the fields of a request's head, whose *method* is known.

    Raises :class:`Refused`.
    """
    told = _Told()
    parser = HttpRequestParser(told)
    known = method in _KNOWN_METHODS
    try:
        parser.feed_data(raw if known else b"POST" + raw[len(method) :])
    except HttpParserUpgrade:
        # It would leave the rest to others, and there is none.
        pass
    except HttpParserError as error:
        raise Refused from error
    if known and parser.get_method() != method:
        raise Refused
    return told.target, told.fields


def read_response(raw: bytes, status: bytes) -> tuple[bytes, Fields]:
    """The status and the fields of a response's head, whose *status* is known.

    Raises :class:`Refused`.
    """
    told = _Told()
    parser = HttpResponseParser(told)
    changes = status == b"101"
    try:
        parser.feed_data(raw.replace(b" 101", b" 200", 1) if changes else raw)
    except (HttpParserError, HttpParserUpgrade) as error:
        raise Refused from error
    return b"101" if changes else b"%d" % parser.get_status_code(), told.fields


class ChunkReader:
    """Reads one body's chunks, of either direction: they look the same."""

    def __init__(self) -> None:
        self._told = _Told()
        self._parser = HttpRequestParser(self._told)
        self._parser.feed_data(_CHUNKED_HEAD)
        self._told.fields.clear()

    @property
    def ended(self) -> bool:
        """Whether the last byte was the body's last."""
        return self._told.ended

    @property
    def trailers(self) -> Fields:
        """The fields behind the body."""
        return self._told.fields

    def receive(self, data: bytes | memoryview) -> None:
        """Take the next bytes, none of them behind the body's end; or raise :class:`Refused`."""
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade) as error:
            raise Refused from error

    def take(self) -> bytes:
        """What of the body has come since the last call."""
        data = b"".join(self._told.body)
        self._told.body.clear()
        return data
