"""
What the demo's parties must have before anything runs: certificates and SSH keys, all throwaway.

There are two CAs, as in real life. The deployment's own vouches for the nodes alone. The other
vouches for the HTTPS server inside, which clients verify straight through the gateway.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.conch.ssh.keys import Key

from relaygate import pki
from relaygate.identity import Role

WEB_NAME: Final = "files.demo.example"
USER: Final = "demo"
# Nodes warn of certificates that end within weeks.
_DAYS: Final = 90


def make_identities(root: Path, dmz: str, nodes: tuple[str, ...]) -> None:
    """Make a CA, and a folder below *root* for each node with its certificate, key and the CA."""
    now = datetime.now(UTC)
    ca = pki.make_ca("relaygate demo", now, _DAYS)
    pki.create_node(ca, dmz, Role.DMZ, now, _DAYS, root / dmz)
    for name in nodes:
        pki.create_node(ca, name, Role.INTERNAL, now, _DAYS, root / name)


def make_web_certificate(servers: Path, clients: Path) -> None:
    """Make ``web.pem`` for the HTTPS server (key and certificate), ``web-ca.pem`` for clients."""
    now = datetime.now(UTC)
    ca = pki.make_ca("relaygate demo servers", now, _DAYS)
    # To TLS clients a DMZ node's certificate is a server's, with a DNS name: just what is needed.
    made = pki.issue(ca, WEB_NAME, Role.DMZ, now, _DAYS)
    _write(servers / "web.pem", made.key_pem + made.certificate_pem, 0o600)
    _write(clients / "web-ca.pem", ca.certificate_pem, 0o644)


def make_ssh_keys(servers: Path, clients: Path) -> None:
    """Make a host key and a user key; each side gets its own private and the other's public."""
    for name, own, other in (("host", servers, clients), ("user", clients, servers)):
        key = Key(Ed25519PrivateKey.generate())
        public = key.public().toString("OPENSSH")
        _write(own / f"{name}_key", key.toString("OPENSSH", subtype="v1"), 0o600)
        _write(own / f"{name}_key.pub", public + b"\n", 0o644)
        _write(other / f"{name}_key.pub", public + b"\n", 0o644)


def _write(path: Path, content: bytes, mode: int) -> None:
    path.touch(mode)
    path.write_bytes(content)
