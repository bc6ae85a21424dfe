"""
TLS between the nodes: 1.3 only, both sides proven, names pinned.

The certificates are the deployment's own (``relaygate pki``); nothing here trusts the system's
authorities, and nothing can be switched off.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import NameOID
from OpenSSL import SSL
from OpenSSL.crypto import X509
from service_identity import CertificateError, VerificationError
from service_identity.pyopenssl import verify_hostname

from relaygate.identity import Identity

# The key exchange that is hoped for: a hybrid one, so that traffic which is recorded today stays
# closed to a quantum computer (draft-ietf-tls-ecdhe-mlkem).  OpenSSL 3.5 and later offer it first.
HYBRID_GROUP = "X25519MLKEM768"
# Seconds for which a session may be resumed: the peer's certificate is not looked at by OpenSSL
# again meanwhile, though its name is by us.
RESUME_LIMIT_S = 3600
# RFC 8446 section 7.5; RFC 5705 section 4 leaves this prefix to private use.
_EXPORT_ID = b"EXPERIMENTAL relaygate uplink id"
_EXPORT_SECRET = b"EXPERIMENTAL relaygate channel secret"


class PeerNotAllowed(Exception):
    """The peer's certificate is of our authority, but carries none of the names that are
    allowed.
    """


class HandshakeRefused(SSL.Error):
    """We end the handshake, and the text says why.  OpenSSL sends the fitting alert."""


# openssl-verification-options(1) and x509_vfy.h: the codes that operators meet.
_VERIFY_ERRORS = {
    9: "the peer's certificate is not yet valid (or a clock is wrong)",
    10: "the peer's certificate has expired (or a clock is wrong)",
    18: "the peer's certificate is self-signed, not of our CA",
    19: "the peer's certificate is of another CA",
    20: "the peer's certificate is of another CA",
    26: "the peer's certificate is for the other role",
}


def _context(identity: Identity) -> SSL.Context:
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_options(SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
    # An idle channel need not keep its buffers.
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    # Channels resume the session of an earlier one (RFC 8446 section 2.2), which spares both nodes
    # the signatures, and not the key exchange. Tickets die with this context, so with the identity.
    # The client keeps one session itself, since a cache of OpenSSL's would use each once only.
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_session_id(b"relaygate")
    context.set_timeout(RESUME_LIMIT_S)
    context.use_certificate(x509.load_pem_x509_certificate(identity.certificate_pem))
    context.use_privatekey(load_pem_private_key(identity.key_pem, None))  # type: ignore[arg-type]
    store = context.get_cert_store()
    assert store is not None
    for authority in x509.load_pem_x509_certificates(identity.ca_pem):
        store.add_cert(X509.from_cryptography(authority))
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, verified)
    return context


def verified(
    _connection: SSL.Connection, _certificate: object, code: int, _depth: int, ok: int
) -> bool:
    """A callback for :meth:`SSL.Context.set_verify` that says in words what is wrong."""
    if not ok:
        # OpenSSL alone would only say "certificate verify failed".
        raise HandshakeRefused(
            _VERIFY_ERRORS.get(code, f"certificate refused (OpenSSL's code {code})")
        )
    return True


def server_context(
    identity: Identity, protocols: Iterable[bytes], mismatch: Callable[[list[bytes]], None]
) -> SSL.Context:
    """
    The DMZ node's side.

    *protocols* are the ALPN names (RFC 7301) that are spoken; a client that offers none of them is
    refused with the alert ``no_application_protocol``, and *mismatch* is called with its offer.
    """
    context = _context(identity)
    spoken = list(protocols)

    def select(_connection: SSL.Connection, offered: list[bytes]) -> bytes:
        for protocol in spoken:
            if protocol in offered:
                return protocol
        mismatch(offered)
        raise HandshakeRefused("no common protocol version")

    context.set_alpn_select_callback(select)
    return context


def client_context(identity: Identity, protocol: bytes) -> SSL.Context:
    """The internal node's side; *protocol* is the one ALPN name that it offers."""
    context = _context(identity)
    context.set_alpn_protos([protocol])
    return context


def peer_name(connection: SSL.Connection, allowed: Iterable[str]) -> str:
    """
    The one of the *allowed* names (DNS names) that the peer's certificate carries (RFC 9525).

    Call it when the handshake is done.  Raises :class:`PeerNotAllowed`.
    """
    for name in allowed:
        try:
            verify_hostname(connection, name)
        except (VerificationError, CertificateError):
            continue
        return name
    certificate = connection.get_peer_certificate(as_cryptography=True)
    assert certificate is not None
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    shown = ", ".join(repr(str(name.value)) for name in names) or "nobody"
    raise PeerNotAllowed(f"its certificate is for {shown}")


def demand_gateway(connection: SSL.Connection, name: str) -> None:
    """
    Demand that the peer is the DMZ node *name*, as ``gateway.name`` has it.

    Call it when the handshake is done.  Raises :class:`PeerNotAllowed`.
    """
    try:
        peer_name(connection, [name])
    except PeerNotAllowed as error:
        raise PeerNotAllowed(f"the DMZ node is not {name!r} (gateway.name): {error}") from None


def peer_end(connection: SSL.Connection) -> datetime | None:
    """When the certificate ends that the peer has shown, in UTC; None if it has shown none."""
    certificate = connection.get_peer_certificate(as_cryptography=True)
    return None if certificate is None else certificate.not_valid_after_utc


def uplink_secrets(connection: SSL.Connection) -> tuple[bytes, bytes]:
    """
    The uplink's public id (16 bytes) and secret (32 bytes), the same at both ends.

    They are exported from the TLS session of the uplink itself (RFC 8446 section 7.5): neither was
    ever sent, and no other session yields them.
    """
    return (
        connection.export_keying_material(_EXPORT_ID, 16),
        connection.export_keying_material(_EXPORT_SECRET, 32),
    )


def key_exchange(connection: SSL.Connection) -> str:
    """The negotiated key exchange group's name, for the log."""
    return connection.get_group_name() or "unknown"
