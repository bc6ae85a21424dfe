"""``relaygate doctor``, the first hops: the file, the keys, and the way to each DMZ node.

All of it works without a running node, and says no hello: to the DMZ node it is a connection that
does a handshake and goes, so that a node that runs keeps its uplink.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from OpenSSL import SSL

from relaygate.cli.findings import Blocked, Finding, connect, read_some, shake_hands
from relaygate.commands import ALPN_CHANNEL
from relaygate.config import GatewayConfig, InternalConfig, ServiceConfig
from relaygate.identity import Identity, IdentityError, Role, load_identity
from relaygate.servicekeys import load_service_files
from relaygate.tls import PeerNotAllowed, client_context, demand_gateway

__all__ = ["gateway_findings", "identity_of", "key_findings"]

_SOON = timedelta(days=30)
# What a DMZ node that refuses us does, it does at once.
_REFUSAL_LIMIT_S = 1.5

# Words in OpenSSL's names of alerts (RFC 8446, section 6), and what is behind them.
_ALERTS = {
    "unknown ca": (
        "the DMZ node does not know our CA",
        "give both nodes the same ca.pem: relaygate pki show ca.pem on each",
    ),
    "certificate expired": (
        "the DMZ node says that our certificate has expired",
        "renew it: relaygate pki renew; or set the clock of the DMZ node",
    ),
    "bad certificate": (
        "the DMZ node refuses our certificate",
        "compare the clocks of the two machines, and ca.pem on each",
    ),
    "certificate required": ("the DMZ node got no certificate from us", "look at [identity]"),
    "protocol": (
        "the DMZ node speaks another version",
        "install the same version of relaygate on both",
    ),
}


def identity_of(config: InternalConfig, now: datetime) -> tuple[Identity | None, Finding]:
    """The node's identity, if it can be used, and what is to be said of it."""
    files = config.identity
    try:
        identity = load_identity(
            files.certificate, files.key, files.ca, role=Role.INTERNAL, now=now
        )
    except IdentityError as error:
        return None, Finding("keys", "identity", "bad", *_halves(error))
    return identity, _ending("identity", f'node "{identity.name}"', identity.not_after, now)


def key_findings(services: tuple[ServiceConfig, ...], now: datetime) -> Iterator[Finding]:
    """The files of the services."""
    for service in services:
        own = (service.tls.certificate, service.tls.key) if service.tls else ()
        if not own and service.backend_tls.ca is None:
            continue
        what = f"service {service.name}"
        try:
            files = load_service_files(service.name, own, service.backend_tls.ca, now=now)
        except IdentityError as error:
            yield Finding("keys", what, "bad", *_halves(error))
        else:
            yield _ending(what, "certificates", files.not_after, now)


def _halves(error: IdentityError) -> tuple[str, str]:
    """What is wrong, and the cure, which is how each of these errors ends."""
    text = str(error)
    at = max(text.rfind(": "), text.rfind("; "))
    return text[:at], text[at + 2 :]


def _ending(what: str, name: str, end: datetime, now: datetime) -> Finding:
    seen = f"{name}, valid until {end:%Y-%m-%d}"
    if end - now < _SOON:
        return Finding("keys", what, "note", seen, "renew it soon: relaygate pki renew")
    return Finding("keys", what, "ok", seen)


def gateway_findings(gateway: GatewayConfig, identity: Identity | None) -> Iterator[Finding]:
    """Resolution, TCP and TLS to one DMZ node."""
    what = f"gateway {gateway.name}"
    try:
        with connect(gateway.address, f"the DMZ node {gateway.name}") as connection:
            yield Finding("tcp", what, "ok", f"{gateway.address} answers")
            if identity is None:
                yield Finding("tls", what, "skipped", "our own identity cannot be used")
                return
            # No uplink: that would take over from the one of a node that runs.
            context = client_context(identity, ALPN_CHANNEL)
            yield _secured(what, gateway, context, connection)
    except Blocked as block:
        hop = "resolve" if "no address" in block.seen else "tcp"
        yield Finding(hop, what, "bad", block.seen, block.cure)
        yield Finding("tls", what, "skipped", "there is no connection")


def _secured(
    what: str, gateway: GatewayConfig, context: SSL.Context, connection: socket.socket
) -> Finding:
    def bad(seen: str, cure: str) -> Finding:
        return Finding("tls", what, "bad", seen, cure)

    try:
        tls, seconds = shake_hands(connection, context, gateway.name)
        demand_gateway(tls, gateway.name)
        # Under TLS 1.3 a server refuses a client after the handshake: whoever is let in hears
        # nothing but tickets, and waits.
        rest = read_some(tls, _REFUSAL_LIMIT_S)
    except TimeoutError as silence:
        if str(silence):
            return bad(
                "it takes the connection, and does not speak TLS",
                "is that the uplink's port (uplink.listen), and not a firewall's?",
            )
        # Let in, and no use is made of it: the DMZ node has no reason to warn of an attack.
        tls.shutdown()
        certificate = tls.get_peer_certificate(as_cryptography=True)
        assert certificate is not None
        end = certificate.not_valid_after_utc
        seen = f"TLS in {seconds * 1000:.0f} ms, its certificate ends on {end:%Y-%m-%d}"
        if end - datetime.now(UTC) < _SOON:
            return Finding("tls", what, "note", seen, "renew it soon: relaygate pki renew")
        return Finding("tls", what, "ok", seen)
    except PeerNotAllowed as error:
        return bad(str(error), "mend gateway.name, or the address: another node answers there")
    except SSL.SysCallError:
        return bad(*_closed(b""))
    except SSL.Error as error:
        return bad(*_refusal(error))
    except OSError as error:
        return bad(*_closed(error))
    return bad(*_closed(rest))


def _closed(how: object) -> tuple[str, str]:
    seen = "the DMZ node does the handshake and hangs up" if not how else f"it hangs up: {how}"
    cure = "put this node's name into uplink.nodes of its dmz.toml, and reload it"
    return seen, f"{cure}; its log says whom it turned away"


def _refusal(error: SSL.Error) -> tuple[str, str]:
    text = str(error)
    if "our CA" in text or "another CA" in text or "self-signed" in text:
        return text, "give both nodes the same ca.pem: relaygate pki show ca.pem on each"
    if "expired" in text and "peer" in text:
        return text, "renew the DMZ node's certificate (relaygate pki renew), or set a clock"
    if "not yet valid" in text:
        return text, "set the clock of this machine or of the DMZ node (timedatectl)"
    if "other role" in text:
        return text, "the DMZ node has an internal node's certificate: issue one with --role dmz"
    for word, words in _ALERTS.items():
        if word in text:
            return words
    if "wrong version number" in text or "record layer" in text or "packet length" in text:
        return (
            "what answers there does not speak TLS",
            "is that the uplink's port (uplink.listen), and nothing between that opens TLS?",
        )
    return f"TLS fails: {text[:200]}", "look into the DMZ node's log at this moment"
