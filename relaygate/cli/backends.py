"""``relaygate doctor``, the last hop: each backend's port, its protocol, and its certificate."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator

from OpenSSL import SSL

from relaygate.addresses import HostPort
from relaygate.cli.findings import Blocked, Finding, connect, read_some, shake_hands
from relaygate.config import ServiceConfig
from relaygate.identity import IdentityError
from relaygate.servicekeys import load_authorities
from relaygate.servicetls import BackendTLS
from relaygate.tls import PeerNotAllowed

__all__ = ["backend_findings"]

_SSH = re.compile(rb"(?:[^\r\n]{0,1024}\r?\n){0,64}?SSH-(2\.0|1\.99)-([^\r\n ]{1,200})")
_REPLY = re.compile(rb"(?:\A|\n)(\d{3}) [^\r\n]*\r?\n")
_HTTP = re.compile(rb"HTTP/1\.[01] (\d{3})")
_ASK = b"HEAD / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n"
_NOT_THAT = "another program has that port: mend backends, or the service's protocol"

Stream = socket.socket | SSL.Connection


def backend_findings(service: ServiceConfig) -> Iterator[Finding]:
    """Every backend of *service*, each to its end."""
    for backend in service.backends:
        what = f"service {service.name}, backend {backend}"
        try:
            with connect(backend, f"the backend {backend}") as connection:
                seen = _look(service, backend, connection)
        except Blocked as block:
            yield Finding("backend", what, "bad", block.seen, block.cure)
        else:
            yield Finding("backend", what, "ok", seen)


def _look(service: ServiceConfig, backend: HostPort, connection: socket.socket) -> str:
    """What speaks there, if it is what *service* needs; raises :class:`Blocked`."""
    protocol: str = service.protocol
    try:
        if protocol == "ssh":
            return _ssh(connection)
        if protocol in ("ftp", "ftps"):
            return _ftp(service, backend, connection)
        if protocol in ("http", "https") and service.backend_tls.mode != "off":
            return _http(_verified(service, backend, connection), backend) + " under TLS"
        if protocol == "http" or (protocol == "https" and service.tls is not None):
            return _http(connection, backend)
        if protocol in ("tls", "https") and service.tls is None:
            return _any_tls(connection, backend)
    except TimeoutError:
        raise Blocked(
            "it takes the connection and then says nothing", f"is it overloaded? Else {_NOT_THAT}"
        ) from None
    except OSError as error:
        raise Blocked(
            f"it hangs up ({error.strerror or error})",
            "look into its log: does it refuse this machine's address?",
        ) from None
    return "it takes connections"


def _ssh(connection: socket.socket) -> str:
    text = _until(connection, _SSH)
    match = _SSH.match(text)
    if match is None:
        raise Blocked(f"it is not SSH: {_shown(text)}", _NOT_THAT)
    return f"SSH {match[1].decode()}, {match[2].decode('ascii', 'replace')}"


def _ftp(service: ServiceConfig, backend: HostPort, connection: socket.socket) -> str:
    mode = service.backend_tls.mode
    stream: Stream = connection
    if mode == "on":
        stream = _verified(service, backend, connection)
    code, text = _reply(stream)
    if code != 220:
        raise Blocked(f"it is not ready for FTP: {_shown(text)}", _NOT_THAT)
    if mode == "explicit":
        connection.sendall(b"AUTH TLS\r\n")
        code, text = _reply(connection)
        if code != 234:
            raise Blocked(
                f"it refuses AUTH TLS: {_shown(text)}",
                "switch TLS on at the backend, or set backend_tls.mode to what it does",
            )
        _verified(service, backend, connection)
    return {"off": "FTP", "on": "FTP under TLS", "explicit": "FTP, AUTH TLS"}[mode] + (
        "" if mode == "off" else ", certificate as it should be"
    )


def _reply(stream: Stream) -> tuple[int, bytes]:
    text = _until(stream, _REPLY)
    match = _REPLY.search(text)
    if match is None:
        raise Blocked(f"it is not FTP: {_shown(text)}", _NOT_THAT)
    return int(match[1]), text


def _http(stream: Stream, backend: HostPort) -> str:
    stream.sendall(_ASK % str(backend).encode())
    text = _until(stream, _HTTP)
    match = _HTTP.match(text)
    if match is None:
        raise Blocked(f"it is not HTTP: {_shown(text)}", _NOT_THAT)
    return f"HTTP, status {match[1].decode()}"


def _verified(
    service: ServiceConfig, backend: HostPort, connection: socket.socket
) -> SSL.Connection:
    """TLS with the backend as a session would have it; raises :class:`Blocked`."""
    settings = service.backend_tls
    assert settings.ca is not None
    try:
        tls = BackendTLS(load_authorities(settings.ca), settings.name)
    except IdentityError as error:
        raise Blocked(str(error), "see the line about the service's keys") from None
    try:
        stream, _ = shake_hands(connection, tls.context, tls.sni(backend.host))
        tls.demand(stream, backend.host)
    except PeerNotAllowed as error:
        raise Blocked(str(error), "set backend_tls.name to the name in its certificate") from None
    except SSL.Error as error:
        text = str(error)
        if "record layer" in text or "version number" in text or "packet length" in text:
            raise Blocked(
                "it does not begin with TLS",
                'backend_tls.mode: "explicit" for AUTH TLS, "off" for none',
            ) from None
        raise Blocked(
            f"TLS fails: {text[:200]}",
            "backend_tls.ca must have the authority of its certificate, which must be valid now",
        ) from None
    return stream


def _any_tls(connection: socket.socket, backend: HostPort) -> str:
    """Whether it speaks TLS at all: its certificate is the clients' affair."""
    context = SSL.Context(SSL.TLS_METHOD)
    name = None if backend.literal else backend.host
    try:
        stream, _ = shake_hands(connection, context, name)
    except SSL.Error as error:
        if "alert" in str(error):
            return "TLS, which wants another name or a client's certificate"
        raise Blocked("it does not speak TLS", _NOT_THAT) from None
    return f"TLS, {stream.get_protocol_version_name()}"


def _until(stream: Stream, wanted: re.Pattern[bytes]) -> bytes:
    """What it says, until *wanted* is in it, or its end, or far too much."""
    text = b""
    while len(text) < 64 * 1024 and not wanted.search(text):
        try:
            more = read_some(stream)
        except TimeoutError:
            # Something that is not what is wanted may be said, and waited for no longer.
            if not text:
                raise
            return text
        except SSL.Error as error:
            raise OSError(str(error)) from None
        if not more:
            break
        text += more
    if not text:
        raise OSError("without a word")
    return text


def _shown(text: bytes) -> str:
    return repr(text[:60].split(b"\n")[0].rstrip().decode("ascii", "backslashreplace"))
