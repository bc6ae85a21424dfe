"""
TLS that ends on the internal node: the server of an FTP session's client, the client of a backend.

Data connections have to show that they are of the session whose control connection is open.  So
each session has a context of its own towards its client: what a session ticket or an id resumes
there can only be that session.  Towards a backend each data connection resumes the session of the
control connection, as strict servers demand: always that one, which OpenSSL must not keep in a
cache of its own, since it would use a TLS 1.3 session once only.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address
from weakref import WeakSet

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL
from OpenSSL.crypto import X509
from service_identity import CertificateError, VerificationError
from service_identity.pyopenssl import verify_hostname, verify_ip_address

from relaygate.servicekeys import ServiceKey
from relaygate.tls import HandshakeRefused, PeerNotAllowed, verified

# The name that FTP has in ALPN (RFC 7301; registered by IANA).
_ALPN_FTP = b"ftp"
_ALPN_HTTP = (b"http/1.1", b"http/1.0")


def _context() -> SSL.Context:
    context = SSL.Context(SSL.TLS_METHOD)
    # RFC 8996: nothing below.
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    return context


def _context_with(key: ServiceKey) -> SSL.Context:
    context = _context()
    own, *others = key.chain
    context.use_certificate(own)
    for certificate in others:
        context.add_extra_chain_cert(certificate)
    context.use_privatekey(key.key)  # type: ignore[arg-type]
    context.set_session_cache_mode(SSL.SESS_CACHE_SERVER)
    context.set_session_id(b"relaygate")
    return context


def service_context(key: ServiceKey) -> SSL.Context:
    """The server's side for a service that ends its clients' TLS and passes on what was in it."""
    return _context_with(key)


def web_context(key: ServiceKey, more: Sequence[ServiceKey]) -> SSL.Context:
    """
    The server's side for HTTP.

    *more* are shown to clients that ask for a name that stands in one of them and not in *key*'s.
    A client that offers ALPN without HTTP/1.1 is refused with ``no_application_protocol``.
    """
    contexts = [_web_context(each) for each in (key, *more)]
    first, *others = contexts
    if others:
        by_name = [
            (name, context)
            for each, context in zip((key, *more), contexts, strict=True)
            for name in _names(each)
        ]

        def choose(connection: SSL.Connection) -> None:
            host = (connection.get_servername() or b"").decode("latin-1").lower().rstrip(".")
            connection.set_context(_fitting(host, by_name) or first)

        first.set_tlsext_servername_callback(choose)
    return first


def _web_context(key: ServiceKey) -> SSL.Context:
    context = _context_with(key)
    # Those of TLS 1.2 that are not found fault with; TLS 1.3 has its own.
    context.set_cipher_list(b"ECDHE+AESGCM:ECDHE+CHACHA20")
    context.set_options(SSL.OP_CIPHER_SERVER_PREFERENCE)
    context.set_alpn_select_callback(_only_http)
    return context


def _names(key: ServiceKey) -> list[str]:
    try:
        names = key.chain[0].extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    return [name.lower() for name in names.value.get_values_for_type(x509.DNSName)]


def _fitting(host: str, by_name: Sequence[tuple[str, SSL.Context]]) -> SSL.Context | None:
    parent = "*." + host.partition(".")[2]
    for wanted in (host, parent):
        for name, context in by_name:
            if name == wanted:
                return context
    return None


def _only_http(_connection: SSL.Connection, offered: list[bytes]) -> bytes:
    for name in _ALPN_HTTP:
        if name in offered:
            return name
    raise HandshakeRefused("the client asks for another protocol than HTTP/1.1 (ALPN)")


class SessionTLS:
    """
    The server's side for one FTP session, its control and its data connections: :attr:`context`.

    A client that offers ALPN without FTP's name takes us for another service, or was made to: it is
    refused with the alert ``no_application_protocol``.
    """

    def __init__(self, key: ServiceKey) -> None:
        self.context = context = _context_with(key)
        context.set_alpn_select_callback(_only_ftp)
        # pyOpenSSL does not tell whether a session was resumed; but who resumes needs no
        # certificate (RFC 8446 section 2.2, RFC 5246 section 7.3).
        self._proven: WeakSet[SSL.Connection] = WeakSet()
        context.set_info_callback(self._watch)

    def _watch(self, connection: SSL.Connection, _where: int, _result: int) -> None:
        if connection.get_state_string().endswith(b"write certificate"):
            self._proven.add(connection)

    def resumed(self, connection: SSL.Connection) -> bool:
        """
        Whether *connection*, of this context and past its handshake, resumes an earlier session: it
        is of the client that made that one.
        """
        return connection not in self._proven


def _only_ftp(_connection: SSL.Connection, offered: list[bytes]) -> bytes:
    if _ALPN_FTP not in offered:
        raise HandshakeRefused("the client asks for another protocol than FTP (ALPN)")
    return _ALPN_FTP


class BackendTLS:
    """
    The client's side towards a service's backends: :attr:`context`, and the check of names.

    *authorities* are what a backend's certificate must lead to, *name* what it must carry, or None
    for the host that was dialled.
    """

    def __init__(self, authorities: Sequence[x509.Certificate], name: str | None) -> None:
        self._name = name
        self.context = context = _context()
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        store = context.get_cert_store()
        assert store is not None
        for authority in authorities:
            store.add_cert(X509.from_cryptography(authority))
        context.set_verify(SSL.VERIFY_PEER, verified)

    def sni(self, host: str) -> str | None:
        """The server name to send to the backend at *host*; an IP address is none (RFC 6066)."""
        name = self._name or host
        return None if _is_literal(name) else name

    def demand(self, connection: SSL.Connection, host: str) -> None:
        """
        Demand that *connection*'s peer is the backend at *host* (RFC 9525).

        Call it when the handshake is done.  Raises :class:`PeerNotAllowed`.
        """
        name = self._name or host
        try:
            if _is_literal(name):
                verify_ip_address(connection, name)
            else:
                verify_hostname(connection, name)
        except (VerificationError, CertificateError):
            raise PeerNotAllowed(f"the backend's certificate is not for {name!r}") from None


def demand_same_peer(control: SSL.Connection, data: SSL.Connection) -> None:
    """
    Demand that *data* leads to the server that *control* leads to.

    It is asked for by certificate, as RFC 4217 section 10 has it for want of resumption.  Raises
    :class:`PeerNotAllowed`.
    """
    if _peer(control) != _peer(data):
        raise PeerNotAllowed("the data connection's certificate is not the control connection's")


def _peer(connection: SSL.Connection) -> bytes | None:
    certificate = connection.get_peer_certificate(as_cryptography=True)
    return None if certificate is None else certificate.public_bytes(Encoding.DER)


def _is_literal(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return False
    return True
