"""
Trading partners that speak AS2: pyas2lib makes and opens their messages and receipts.

Messages are signed and encrypted, receipts are signed.  The MIC (RFC 4130 section 7.3.1) is taken
by either end of what it has, so that equal ones show that no byte of the content was altered.
"""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler
from typing import Any, Final
from unittest import mock

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

_PASSWORD: Final = "as2"
_LIMIT_S: Final = 60.0


def _library() -> Any:
    """
    Import pyas2lib.

    What it stands on (oscrypto 1.3) takes OpenSSL's version apart with an expression that knows
    one digit behind the second dot, and refuses 3.0.10 and all later ones: here it may be more.
    """
    search = re.search

    def patient(pattern: Any, string: Any, flags: int = 0) -> Any:
        if pattern == r"\b(\d\.\d\.\d[a-z]*)\b":
            pattern = r"\b(\d\.\d\.\d+[a-z]*)\b"
        return search(pattern, string, flags)

    with mock.patch("re.search", patient):
        from pyas2lib import as2  # type: ignore[import-untyped]
    return as2


_as2: Final = _library()


@dataclass
class Request:
    """A request that a party got: its target, its fields as lines, and its body."""

    target: str
    head: bytes
    body: bytes


@dataclass
class Answer:
    """What a party answers."""

    status: int
    fields: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


class Party:
    """One that trades: its keys, what it has got, and what it has sent."""

    def __init__(self, name: str) -> None:
        self.name = name
        key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.now(UTC)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .sign(key, hashes.SHA256())
        )
        self.certificate = certificate.public_bytes(serialization.Encoding.PEM)
        pem = key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(_PASSWORD.encode()),
        )
        self._own = {"key": self.certificate + pem, "password": _PASSWORD}
        self.received: list[Any] = []
        self.receipts: list[tuple[Any, tuple[str, str | None]]] = []
        self.sent: dict[str, Any] = {}
        self.news = threading.Condition()

    def organization(self, receipts_to: str | None = None) -> Any:
        """This party as pyas2lib has the one that it works for."""
        key, password = self._own["key"], self._own["password"]
        return _as2.Organization(
            as2_name=self.name,
            sign_key=key,
            sign_key_pass=password,
            decrypt_key=key,
            decrypt_key_pass=password,
            mdn_url=receipts_to,
        )

    def partner(self, mode: str) -> Any:
        """This party as another one has it; *mode* is of the receipt, SYNC or ASYNC."""
        return _as2.Partner(
            as2_name=self.name,
            verify_cert=self.certificate,
            encrypt_cert=self.certificate,
            validate_certs=False,
            sign=True,
            encrypt=True,
            enc_alg="aes_256_cbc",
            mdn_mode=mode,
            mdn_digest_alg="sha256",
        )

    def message(self, to: Party, content: bytes, receipts_to: str | None = None) -> Any:
        """A message with *content*, whose receipt comes at once, or to the URL *receipts_to*."""
        mode = "ASYNC" if receipts_to else "SYNC"
        made = _as2.Message(self.organization(receipts_to), to.partner(mode))
        made.build(content, filename="order.edi", content_type="application/edifact")
        self.sent[made.message_id] = made
        return made

    def open(self, request: Request, sender: Party) -> Any:
        """Open a message of *sender*'s; returns the receipt for it."""
        message = _as2.Message()
        status, error, receipt = message.parse(
            request.head + b"\r\n" + request.body,
            lambda _name: self.organization(),
            lambda _name: sender.partner("SYNC"),
        )
        if status != "processed":
            raise AssertionError(f"{status}: {error}")
        with self.news:
            self.received.append(message)
            self.news.notify_all()
        return receipt

    def check(self, head: bytes, body: bytes) -> tuple[str, str | None]:
        """Look at a receipt for one of our messages; returns its status and more of that."""
        receipt = _as2.Mdn()
        found: tuple[str, str | None] = receipt.parse(
            head + b"\r\n" + body, lambda number, _to: self.sent[number]
        )
        with self.news:
            self.receipts.append((receipt, found))
            self.news.notify_all()
        return found

    def wait(self, done: Callable[[], bool]) -> None:
        """Wait until *done*, which is looked at when something has come."""
        with self.news:
            if not self.news.wait_for(done, _LIMIT_S):
                raise AssertionError(f"nothing more came to {self.name}")


def serving(answer: Callable[[Request], Answer]) -> Callable[[socket.socket], None]:
    """Return what serves one connection of HTTP, asking *answer* for what to say."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            """Answer one request."""
            body = self._body()
            said = answer(Request(self.path, _lines(self.headers), body))
            self.send_response(said.status)
            for name, value in said.fields.items():
                self.send_header(name, _unfolded(value))
            self.send_header("Content-Length", str(len(said.body)))
            self.end_headers()
            self.wfile.write(said.body)

        def _body(self) -> bytes:
            """The request's body, counted or in chunks."""
            if self.headers["Content-Length"]:
                return self.rfile.read(int(self.headers["Content-Length"]))
            pieces = []
            while size := int(self.rfile.readline(), 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(pieces)

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Say nothing."""

    def serve(peer: socket.socket) -> None:
        peer.settimeout(_LIMIT_S)
        Handler(peer, peer.getpeername(), None)  # type: ignore[arg-type]

    return serve


def post(
    skt: socket.socket,
    target: str,
    host: str,
    fields: Mapping[str, str],
    body: bytes,
    tls: ssl.SSLContext | None = None,
    *,
    chunked: bool = False,
) -> tuple[int, bytes, bytes]:
    """
    Post *body* on a connection, in chunks if *chunked*.

    Returns the answer's status, its fields as lines, its body.
    """
    skt.settimeout(_LIMIT_S)
    with tls.wrap_socket(skt, server_hostname=host) if tls else skt as connected:
        client = http.client.HTTPConnection(host)
        client.sock = connected
        sent = {name: _unfolded(value) for name, value in fields.items()}
        sent = {"Host": host, "Connection": "close"} | sent
        if chunked:
            sent["Transfer-Encoding"] = "chunked"
            pieces = (body[at : at + 50_000] for at in range(0, len(body), 50_000))
            client.request("POST", target, pieces, sent, encode_chunked=True)
        else:
            client.request("POST", target, body, sent)
        answer = client.getresponse()
        return answer.status, _lines(answer.headers), answer.read()


def _lines(fields: Any) -> bytes:
    return "".join(f"{name}: {value}\r\n" for name, value in fields.items()).encode()


def _unfolded(value: str) -> str:
    return re.sub(r"\r?\n[ \t]+", " ", value)
