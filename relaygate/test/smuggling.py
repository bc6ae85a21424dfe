"""
Requests that two parsers may read differently: of the RFC's own warnings, and of published cases.

Each hides a request for :data:`HIDDEN` in what is a body, a field or a line's end to one reader.
"""

from __future__ import annotations

from typing import Final

HIDDEN: Final = b"/hidden"
_SECOND: Final = b"GET " + HIDDEN + b" HTTP/1.1\r\nHost: a.example\r\n\r\n"


def _post(*fields: bytes, body: bytes, line: bytes = b"POST /first HTTP/1.1") -> bytes:
    return b"\r\n".join((line, b"Host: a.example", *fields)) + b"\r\n\r\n" + body


_CHUNKED: Final = b"Transfer-Encoding: chunked"
_EMPTY: Final = b"0\r\n\r\n"
_IN_CHUNK: Final = b"%x\r\n%b\r\n0\r\n\r\n" % (len(_SECOND), _SECOND)

# What is here has to end in a refusal of the whole, or of what is behind the first request.
AMBIGUOUS: Final = {
    "CL.TE": _post(b"Content-Length: %d" % (5 + len(_SECOND)), _CHUNKED, body=_EMPTY + _SECOND),
    "TE.CL": _post(_CHUNKED, b"Content-Length: 4", body=_IN_CHUNK),
    "two lengths": _post(b"Content-Length: 0", b"Content-Length: 9", body=_SECOND),
    "two equal lengths": _post(b"Content-Length: 5", b"Content-Length: 5", body=b"hello"),
    "list of lengths": _post(b"Content-Length: 0, %d" % len(_SECOND), body=_SECOND),
    "signed length": _post(b"Content-Length: +0", body=_SECOND),
    "negative length": _post(b"Content-Length: -1", body=_SECOND),
    "hexadecimal length": _post(b"Content-Length: 0x10", body=_SECOND),
    "length with a comment": _post(b"Content-Length: 0 (x)", body=_SECOND),
    "length beyond 64 bits": _post(b"Content-Length: 18446744073709551616", body=_SECOND),
    "length with a vertical tab": _post(b"Content-Length:\x0b%d" % len(_SECOND), body=_SECOND),
    "blank before colon": _post(b"Content-Length : %d" % len(_SECOND), body=_SECOND),
    "blank before TE's colon": _post(b"Transfer-Encoding : chunked", body=_EMPTY + _SECOND),
    "folded TE": _post(b"Transfer-Encoding:\r\n chunked", body=_EMPTY + _SECOND),
    "folded length": _post(b"X: y\r\n Content-Length: %d" % len(_SECOND), body=_SECOND),
    "xchunked": _post(b"Transfer-Encoding: xchunked", body=_EMPTY + _SECOND),
    "chunked with a comma": _post(b"Transfer-Encoding: chunked,", body=_EMPTY + _SECOND),
    "identity, chunked": _post(b"Transfer-Encoding: identity, chunked", body=_EMPTY + _SECOND),
    "chunked, identity": _post(b"Transfer-Encoding: chunked, identity", body=_EMPTY + _SECOND),
    "chunked twice": _post(_CHUNKED, _CHUNKED, body=_EMPTY + _SECOND),
    "chunked and cow": _post(_CHUNKED, b"Transfer-Encoding: cow", body=_EMPTY + _SECOND),
    "quoted chunked": _post(b'Transfer-Encoding: "chunked"', body=_EMPTY + _SECOND),
    "chunked behind a NUL": _post(b"Transfer-Encoding: \0chunked", body=_EMPTY + _SECOND),
    "chunked behind a form feed": _post(b"Transfer-Encoding:\x0cchunked", body=_EMPTY + _SECOND),
    "chunked in HTTP/1.0": _post(_CHUNKED, body=_EMPTY + _SECOND, line=b"POST /first HTTP/1.0"),
    "chunked behind a blank name": _post(b"Transfer-Encoding\t: chunked", body=_EMPTY + _SECOND),
    "chunked before a vertical tab": _post(
        b"Transfer-Encoding: chunked\x0b", body=_EMPTY + _SECOND
    ),
    "chunked before a hard blank": _post(b"Transfer-Encoding: chunked\xa0", body=_EMPTY + _SECOND),
    "chunked with a weight": _post(b"Transfer-Encoding: chunked;q=1", body=_EMPTY + _SECOND),
    "chunked, chunked": _post(b"Transfer-Encoding: chunked, chunked", body=_EMPTY + _SECOND),
    "chunked cut short": _post(b"Transfer-Encoding: chunk", body=_EMPTY + _SECOND),
    "gzip alone": _post(b"Transfer-Encoding: gzip", body=_SECOND),
    "empty TE": _post(b"Transfer-Encoding:", b"Content-Length: 0", body=_SECOND),
    "TE.CL over two lines": _post(
        _CHUNKED, b"X: y", b"Content-Length: 3", body=b"0\r\n\r\n" + _SECOND
    ),
    "empty length": _post(b"Content-Length:", body=_SECOND),
    "length with an underscore": _post(b"Content-Length: 1_0", body=_SECOND),
    "length with an exponent": _post(b"Content-Length: 1e1", body=_SECOND),
    "length in wide digits": _post(b"Content-Length: \xef\xbc\x90", body=_SECOND),
    "two lengths in one": _post(b"Content-Length: 0 %d" % len(_SECOND), body=_SECOND),
    "folded with a tab": _post(b"X: y\r\n\tContent-Length: %d" % len(_SECOND), body=_SECOND),
    "folded Expect": _post(
        b"Expect:\r\n 100-continue", b"Content-Length: %d" % len(_SECOND), body=_SECOND
    ),
    "chunk without a size": _post(_CHUNKED, body=b"\r\n0\r\n\r\n" + _SECOND),
    "chunk size behind a blank": _post(_CHUNKED, body=b" 0\r\n\r\n" + _SECOND),
    "chunk size before a blank": _post(_CHUNKED, body=b"0 \r\n\r\n" + _SECOND),
    "chunk extension, then LF alone": _post(_CHUNKED, body=b"2;\nxx\r\n0\r\n\r\n" + _SECOND),
    "chunk extension with a NUL": _post(_CHUNKED, body=b"1;a\0b\r\nx\r\n0\r\n\r\n" + _SECOND),
    "chunk that ends with LF": _post(_CHUNKED, body=b"1\r\nx\n0\r\n\r\n" + _SECOND),
    "chunk with a byte too many": _post(_CHUNKED, body=b"1\r\nxy\r\n0\r\n\r\n" + _SECOND),
    "last chunk that ends with LF": _post(_CHUNKED, body=b"0\r\n\n" + _SECOND),
    "trailer with a blank name": _post(_CHUNKED, body=b"0\r\nX : y\r\n\r\n" + _SECOND),
    "chunks with bare LF": _post(_CHUNKED, body=b"0\n\n" + _SECOND),
    "chunk size with 0x": _post(_CHUNKED, body=b"0x0\r\n\r\n" + _SECOND),
    "chunk size with a sign": _post(_CHUNKED, body=b"+0\r\n\r\n" + _SECOND),
    "chunk size with an underscore": _post(_CHUNKED, body=b"0_0\r\n\r\n" + _SECOND),
    "chunk extension with LF": _post(_CHUNKED, body=b"1;a\n\r\nx\r\n0\r\n\r\n" + _SECOND),
    "chunk extension with CR": _post(_CHUNKED, body=b"1;a\rb\r\nx\r\n0\r\n\r\n" + _SECOND),
    "chunk without its end": _post(_CHUNKED, body=b"1\r\nxx\r\n0\r\n\r\n" + _SECOND),
    "chunk with another end": _post(_CHUNKED, body=b"1\r\nxZZ0\r\n\r\n" + _SECOND),
    "chunk size that wraps": _post(_CHUNKED, body=b"100000000\x30" * 2 + b"\r\n\r\n" + _SECOND),
    "two hosts": _post(b"Host: b.example", body=b""),
    "host and absolute target": _post(body=b"", line=b"GET http://b.example/ HTTP/1.1"),
    "host with a path": b"GET / HTTP/1.1\r\nHost: a.example/x\r\n\r\n",
    "host with a user": b"GET / HTTP/1.1\r\nHost: a@b.example\r\n\r\n",
    "list of hosts": b"GET / HTTP/1.1\r\nHost: a.example, b.example\r\n\r\n",
    "host with percent signs": b"GET / HTTP/1.1\r\nHost: a%2eexample\r\n\r\n",
    "host of dots": b"GET / HTTP/1.1\r\nHost: ..\r\n\r\n",
    "host with a port beyond all": b"GET / HTTP/1.1\r\nHost: a.example:99999\r\n\r\n",
    "host that is no IPv6": b"GET / HTTP/1.1\r\nHost: [:::::]\r\n\r\n",
    "empty host": b"GET / HTTP/1.1\r\nHost:\r\n\r\n",
    "target with a user": b"GET http://u@a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
    "target without a host": b"GET http:///x HTTP/1.1\r\nHost: a.example\r\n\r\n",
    "target of another scheme": b"GET ftp://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
    "authority as a target": b"GET a.example:80 HTTP/1.1\r\nHost: a.example\r\n\r\n",
    "asterisk for GET": b"GET * HTTP/1.1\r\nHost: a.example\r\n\r\n",
    "blank behind the version": b"GET / HTTP/1.1 \r\nHost: a.example\r\n\r\n",
    "small version": b"GET / http/1.1\r\nHost: a.example\r\n\r\n",
    "two CRs": b"GET / HTTP/1.1\r\r\nHost: a.example\r\n\r\n",
    "blank before the method": b" GET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
    "NUL before the method": b"\0GET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
    "line of a blank": b"GET / HTTP/1.1\r\n \r\nHost: a.example\r\n\r\n",
    "PROXY line": b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n" + _SECOND,
    "no host": b"GET / HTTP/1.1\r\n\r\n",
    "bare LF": b"GET / HTTP/1.1\nHost: a.example\n\n" + _SECOND,
    "bare LF in a field": _post(b"X: y\nContent-Length: 0", body=_SECOND),
    "bare CR in a field": _post(b"X: y\rContent-Length: 0", body=_SECOND),
    "NUL in a field": _post(b"X: y\0z", body=_SECOND),
    "NUL in a name": _post(b"X\0: y", body=_SECOND),
    "control in a value": _post(b"X: \x01", body=_SECOND),
    "field without a colon": _post(b"X", body=_SECOND),
    "field without a name": _post(b": x", body=_SECOND),
    "blank first field": b"GET / HTTP/1.1\r\n Host: a.example\r\n\r\n",
    "tabs in the request line": b"GET\t/\tHTTP/1.1\r\nHost: a.example\r\n\r\n",
    "two blanks": b"GET  / HTTP/1.1\r\nHost: a.example\r\n\r\n",
    "blank in the target": b"GET /a b HTTP/1.1\r\nHost: a.example\r\n\r\n",
    "no version": b"GET /\r\n\r\n",
    "version 1.10": b"GET / HTTP/1.10\r\nHost: a.example\r\n\r\n",
    "version 2.0": b"GET / HTTP/2.0\r\nHost: a.example\r\n\r\n",
    "fragment": b"GET /#x HTTP/1.1\r\nHost: a.example\r\n\r\n",
}

# What is here is good: for all readers it is one request, some with a body that looks like one.
CLEAR: Final = {
    "body that is a request": _post(b"Content-Length: %d" % len(_SECOND), body=_SECOND),
    "chunk that is a request": _post(_CHUNKED, body=_IN_CHUNK),
    "GET with a body": _post(
        b"Content-Length: %d" % len(_SECOND), body=_SECOND, line=b"GET /first HTTP/1.1"
    ),
    "underscores": _post(b"Content_Length: 9", b"Transfer_Encoding: chunked", body=b""),
    "length named away": _post(
        b"Connection: Content-Length",
        b"Content-Length: %d" % len(_SECOND),
        body=_SECOND,
    ),
    "trailers with a length": _post(_CHUNKED, body=b"0\r\nContent-Length: 9\r\n\r\n"),
    "Upgrade with a body": _post(
        b"Connection: Upgrade",
        b"Upgrade: websocket",
        b"Content-Length: %d" % len(_SECOND),
        body=_SECOND,
    ),
    "h2c": _post(
        b"Connection: Upgrade, HTTP2-Settings",
        b"Upgrade: h2c",
        b"HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
        body=b"",
        line=b"GET /first HTTP/1.1",
    ),
    "chunked behind a tab": _post(b"Transfer-Encoding:\tchunked", body=_IN_CHUNK),
    "chunked in capitals": _post(b"Transfer-Encoding: CHUNKED", body=_IN_CHUNK),
    "chunked named away": _post(b"Connection: Transfer-Encoding", _CHUNKED, body=_IN_CHUNK),
    "chunked and an Upgrade": _post(
        b"Connection: Upgrade", b"Upgrade: websocket", _CHUNKED, body=_IN_CHUNK
    ),
    "length with zeros": _post(b"Content-Length: 000%d" % len(_SECOND), body=_SECOND),
    "Expect that nobody knows": _post(
        b"Expect: y 100-continue", b"Content-Length: %d" % len(_SECOND), body=_SECOND
    ),
    "Expect twice": _post(
        b"Expect: 100-continue",
        b"Expect: 100-continue",
        b"Content-Length: %d" % len(_SECOND),
        body=_SECOND,
    ),
    "HEAD with a body": _post(
        b"Content-Length: %d" % len(_SECOND), body=_SECOND, line=b"HEAD /first HTTP/1.1"
    ),
    "Expect and no body": _post(b"Expect: 100-continue", body=b""),
}
